"""Where processes keep the state of Stripe's rate limits that they share: in the inbox's database if that is Postgres,
so that all hosts share it, else in the data folder.

This module locks, reads and writes the state, and has the clock that its times are on. What the state means belongs to
`stripe_api.rate_limits`.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.inbox.database import Database, is_postgres
from stripe_pipeline.inbox.tables import RATES
from stripe_pipeline.storage_errors import reason, remedy

_LARGEST = 1_000_000  # bytes; a bucket makes 200
_STUCK = "10s"
"""After so long Postgres ends the transaction of a host that stopped in the middle of one."""


class State:
    """The stored state, locked until the block ends: what `text` holds then is stored, if it was set."""

    def __init__(self, text: bytes) -> None:
        self.read = text
        """As it was stored."""
        self.text = text


class SharedRates(Protocol):
    """The state of one mode's limits."""

    @property
    def at_once(self) -> int:
        """How many requests one exchange may plan: those that wait anyway."""

    def clock(self) -> float:
        """Seconds on the clock of the stored times, which all processes share."""

    def exchange(self) -> AbstractContextManager[State]:
        """The state, locked, to read and write; raises `WarehouseError`."""

    def read(self) -> bytes:
        """The state, only to read; empty if there is none. Raises `WarehouseError` if the database fails."""

    def close(self) -> None:
        """Close the connections."""


class FileRates:
    """The state in a file, for the processes of one host."""

    at_once = 1  # an exchange takes 20 microseconds

    def __init__(self, path: Path) -> None:
        self._path = path
        self.clock = time.monotonic

    @contextmanager
    def exchange(self) -> Iterator[State]:
        # The file's own lock, released on close: `filelock` takes as long as all the rest.
        # Overwritten without truncation, for which file systems wait for the disk.
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise WarehouseError(
                f"{self._path}, where all processes note their requests, cannot be used ({reason(error)})",
                remedy(error, self._path),
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            state = State(os.read(file, _LARGEST))
            yield state
            with suppress(OSError):  # a full disk is reported where rows are lost
                os.pwrite(file, state.text.ljust(len(state.read)), 0)
        finally:
            os.close(file)

    def read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError:
            return b""

    def close(self) -> None:
        """Nothing stays open."""


class PostgresRates:
    """The state in a row of the inbox's database, for the processes of all hosts."""

    at_once = 4
    """At 20 requests a second the last of them is due after 150 milliseconds: an urgent request waits no longer."""

    def __init__(self, database: Database, *, livemode: bool) -> None:
        self._database = database
        self._livemode = livemode
        # Until the first exchange tells the database's time.
        self._ahead = time.time() - time.monotonic()
        empty = database.insert(RATES).values(livemode=livemode, state=b"").on_conflict_do_nothing()
        with database.writing() as connection:
            connection.execute(empty)
        self._row = sa.select(
            RATES.c.state,
            sa.extract("epoch", sa.func.clock_timestamp()).cast(sa.Double),
            # The state may be lost with the server, and a host that stops must not keep it locked.
            sa.func.set_config("synchronous_commit", "off", True),
            sa.func.set_config("idle_in_transaction_session_timeout", _STUCK, True),
        ).where(RATES.c.livemode == livemode)
        self._locked = self._row.with_for_update()
        self._store = sa.update(RATES).where(RATES.c.livemode == livemode)

    def clock(self) -> float:
        return time.monotonic() + self._ahead

    @contextmanager
    def exchange(self) -> Iterator[State]:
        with self._database.writing() as connection:
            row = connection.execute(self._locked).one()
            self._ahead = row[1] - time.monotonic()
            state = State(bytes(row[0]))
            yield state
            if state.text != state.read:
                connection.execute(self._store, {"state": state.text})

    def read(self) -> bytes:
        with self._database.reading() as connection:
            return bytes(connection.execute(self._row).one()[0])

    def close(self) -> None:
        self._database.close()


def shared_rates(folder: DataFolder, url: str | None, *, livemode: bool) -> SharedRates:
    """The state for the processes that use this data folder, with the inbox at `url` as in `Inbox`.

    Raises `SettingsError` and `WarehouseError` as `Inbox` does.
    """
    if url and is_postgres(url):
        return PostgresRates(Database(folder, url), livemode=livemode)
    return FileRates(folder.rates(livemode=livemode))
