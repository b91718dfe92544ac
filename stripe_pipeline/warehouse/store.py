"""Where the warehouse's tables are: what a store offers to the rest of the warehouse, and what all stores share.

`private_file` keeps the tables in a DuckDB file, `ducklake` in a lake. All other modules run the same SQL on both. The
layout belongs to `schema`, writing rows to `load`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import duckdb

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.warehouse.merge import first_line
from stripe_pipeline.warehouse.schema import Layout
from stripe_pipeline.warehouse.sql import start_duckdb

T = TypeVar("T")

LOCK_TIMEOUT = 600
"""Seconds; loads hold the lock for seconds at most, so a longer wait means a hung process."""
_TRIES = 4
"""How often a transaction is tried that another process may come before."""


class Store(ABC):
    """The tables, opened only for loads and reads, by one process at a time; safe to share between threads."""

    def __init__(self, folder: DataFolder, layout: Layout, *, read_only: bool) -> None:
        """`read_only`: the tables are only read: they are neither migrated to the layout nor created."""
        self.folder = folder
        self.layout = layout
        self.read_only = read_only
        self.lineage: str | None = None
        """Lineage of the tables that this process reads and writes; a restore changes the lineage."""
        self.clock: tuple[float, float] | None = None
        """The bounds of Stripe's clock that this process has read or stored last; see `State.clock`."""
        self.commits = 0
        """How many transactions of this process have written."""
        self.unsettled = False
        """Whether a load was committed and not settled yet."""
        self._in_transaction = False
        """Whether the reads that follow belong to a transaction."""
        self._writing = False
        """Whether that transaction has written."""
        self._prepared = False
        """Whether the tables are known to follow the settings."""
        self.waited = 0.0
        """Seconds that this process has waited for its turn to use the tables."""
        self._thread_lock = threading.Lock()
        self._duckdb: duckdb.DuckDBPyConnection | None = None
        self._session: tuple[int, duckdb.DuckDBPyConnection] | None = None
        """The thread that keeps the store open, and its connection."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the tables are, as messages name it, without a password."""

    @abstractmethod
    def exists(self) -> bool:
        """Whether there is a warehouse."""

    @abstractmethod
    def locked(self, *, look: bool = False) -> AbstractContextManager[None]:
        """Keeps other threads and processes away from the tables; `look`: they are only read."""

    @abstractmethod
    def attached(
        self, failure: str = "{} cannot be read", *, look: bool = False
    ) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """Yields the connection to the tables, migrated to the settings unless they are only to be read; the caller
        holds the lock."""

    @abstractmethod
    def settle(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Makes committed loads last as they are, and cheap to read. Raises `duckdb.Error`."""

    @abstractmethod
    def examine(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Looks for damage, as long as there may be a copy to restore from. Raises `duckdb.Error`."""

    @abstractmethod
    def compact(self, connection: duckdb.DuckDBPyConnection, *, if_due: bool = False) -> None:
        """Rewrites what holds the tables, so that no erased data is left in it and free space is returned; `if_due`: as
        far as that is worthwhile today. Raises `duckdb.Error`."""

    def starting_options(self) -> dict[str, str]:
        """The options of DuckDB with which the store starts it."""
        return {}

    def begin_reading(self, connection: duckdb.DuckDBPyConnection) -> None:  # noqa: B027 - most stores need nothing
        """Makes the reads that follow a transaction, where each read would otherwise take one of its own."""

    def look_up(
        self, connection: duckdb.DuckDBPyConnection, sql: str, *, unwritten: bool = False
    ) -> list[tuple[Any, ...]]:
        """The rows that a SELECT on tables returns; some stores run it once for each state of the tables.

        `unwritten`: in `transact`, the work has not written yet.
        """
        return connection.execute(sql).fetchall()

    def may_be_tried_again(self, error: duckdb.Error) -> bool:
        """Whether a transaction that failed with this error may succeed now, because another process came before."""
        return False

    def may_hold_later(self, columns: Mapping[str, str], moment: float) -> bool:
        """Whether one of these columns, by table, may hold a time after the moment (Unix seconds): a quick look."""
        return True

    def may_hold_rows(self, table: str) -> bool:
        """Whether the table of this qualified name may hold a row: a quick look."""
        return True

    def reason(self, error: BaseException) -> str:
        """The message of DuckDB or the system, without values of rows."""
        return first_line(error)

    @abstractmethod
    def remedy(self, error: Exception) -> str:
        """What to do about an error of DuckDB or the system."""

    def close(self) -> None:
        """Releases the memory; the store may be used again."""
        with self._thread_lock:
            self.end_duckdb()

    @contextmanager
    def open(self, failure: str = "{} cannot be read") -> Iterator[duckdb.DuckDBPyConnection]:
        """Yields the only connection to the tables, with the schema in place; detaches them and releases the lock on
        exit.

        `failure` is the text of a `WarehouseError` about the place (`{}`) if DuckDB fails.
        """
        if (connection := self._kept_open()) is not None:
            with self.explained(failure):
                self.begin_reading(connection)
                yield connection
            return
        with self.locked(), self.attached(failure) as connection:
            self.begin_reading(connection)
            yield connection

    @contextmanager
    def reading(self, failure: str = "{} cannot be read") -> Iterator[duckdb.DuckDBPyConnection]:
        """As `open`, for reads of one state of the tables: some stores need no lock for them."""
        with self.open(failure) as connection:
            yield connection

    def _kept_open(self) -> duckdb.DuckDBPyConnection | None:
        """The connection of a session of this thread; None outside of one."""
        return self._session[1] if self._session and self._session[0] == threading.get_ident() else None

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Counts the time until the lock is taken, or given up."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.waited += time.monotonic() - began

    def write(self, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """Opens the tables for `work`, which writes to them; see `transact`."""
        with self.open("{} cannot be written") as connection:
            return self.transact(connection, work)

    def transact(
        self,
        connection: duckdb.DuckDBPyConnection,
        work: Callable[[duckdb.DuckDBPyConnection], T],
        *,
        keep: bool = True,
    ) -> T:
        """What `work` returns, which runs in one transaction, undone unless its changes are to be kept. If another
        process writes first, `work` is done again with what that process has stored."""
        tries_left = _TRIES
        while True:
            if not self._in_transaction:
                connection.execute("BEGIN")
            self._in_transaction = self._writing = True
            try:
                result = work(connection)
                connection.execute("COMMIT" if keep else "ROLLBACK")
            except BaseException as error:
                with contextlib.suppress(duckdb.Error):
                    connection.execute("ROLLBACK")  # unless committing has failed, which has done so
                tries_left -= 1
                if not (tries_left and isinstance(error, duckdb.Error) and self.may_be_tried_again(error)):
                    raise
            else:
                self.commits += keep
                return result
            finally:
                self._in_transaction = self._writing = False

    @contextmanager
    def session(self, *, only_reads: bool = False) -> Iterator[None]:
        """Keeps the store open between several reads and loads of this thread, which would each open it otherwise.

        Every other process waits meanwhile, so a session must neither call Stripe nor publish. With `only_reads`, they
        wait only if the store needs that.
        """
        with self.reading() if only_reads else self.open() as connection:
            outer, self._session = self._session, (threading.get_ident(), connection)
            try:
                yield
            finally:
                self._session = outer
            if self.unsettled and not outer:
                self._settle_loads(connection)

    def loaded(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Settles the load that was just committed: now, or when the session ends."""
        self.unsettled = True
        if self._session is None:
            self._settle_loads(connection)

    def _settle_loads(self, connection: duckdb.DuckDBPyConnection) -> None:
        with self.explained("{} could not be written to the end", "The loaded data is in its write-ahead log"):
            self.settle(connection)
        self.unsettled = False

    @contextmanager
    def explained(self, failure: str, consequence: str = "") -> Iterator[None]:
        """Turns DuckDB's errors into a `WarehouseError`: the failure, with the place for its `{}`, the reason, the
        consequence and the remedy."""
        try:
            yield
        except (duckdb.Error, OSError) as error:
            message = f"{failure.format(self.place)}: {self.reason(error)}"
            raise WarehouseError(f"{message}. {consequence}" if consequence else message, self.remedy(error)) from None

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows that a SELECT on the tables returns."""
        with self.reading() as connection:
            return connection.execute(sql).fetchall()

    def end_duckdb(self) -> None:
        """Ends DuckDB, and with it everything that is attached."""
        if self._duckdb is not None:
            self._duckdb.close()
            self._duckdb = None
            self._in_transaction = False

    def duckdb_of_ours(self) -> duckdb.DuckDBPyConnection:
        """The process's DuckDB, started if needed."""
        if self._duckdb is None:
            self._duckdb = start_duckdb(self.folder.spill, self.starting_options())
        return self._duckdb
