"""Locks in the inbox's Postgres database that processes of any host hold while they work.

A lock belongs to a connection, so Postgres releases it when the process ends or its host is gone. This module holds
and examines locks; `run_locks` and `presence` say what they are for. SQLite has no such locks: there one host works.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.inbox.database import Database
from stripe_pipeline.inbox.tables import HOLDERS

_BEAT = 5.0  # seconds between two signs of life
_GONE = 15.0  # seconds without a sign of life after which a holder without its lock is gone
# The server notices after half a minute that a host is gone, whatever its own configuration; and an idle holder keeps
# its connection.
KEPT_CONNECTION = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "idle_session_timeout": "0",
}
"""Parameters of Postgres for a connection that holds a lock."""
NOW = sa.extract("epoch", sa.func.clock_timestamp())
_LOCK = sa.func.hashtextextended(sa.literal("stripe_pipeline ") + HOLDERS.c.id, 0)


class Kind(StrEnum):
    """What a lock is held for."""

    RUN = "run"
    SETTINGS = "settings"


@dataclass(frozen=True)
class Held:
    """A lock that another process holds."""

    host: str
    detail: str


class Holders:
    """The locks in this database, which must be Postgres. Every method raises `WarehouseError` if it fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def holding(
        self,
        kind: Kind,
        holder: str,
        detail: str = "",
        *,
        admit: Callable[[sa.Connection, list[Held]], None] = lambda *_: None,
    ) -> Iterator[None]:
        """Hold the lock `holder`, an id that no other process uses.

        `admit` is called in a transaction, with the locks of this kind that others hold, and may refuse by raising: no
        other lock of the database is taken meanwhile. If the connection breaks, the lock is taken again.
        """
        with self._database.errors():
            held = self._take(holder)
        try:
            with self._database.writing() as connection:
                self._database.lock(connection)
                admit(connection, self._others(connection, kind))
                row = {"id": holder, "kind": kind.value, "host": platform.node(), "detail": detail, "seen_at": NOW}
                insert = self._database.insert(HOLDERS).values(row)
                connection.execute(insert.on_conflict_do_update(index_elements=[HOLDERS.c.id], set_=row))
        except BaseException:
            held.close()
            raise
        ended = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(holder, held, ended), name=f"hold {kind}", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            ended.set()
            keeper.join()

    def abandoned(self, kind: Kind) -> Iterator[str]:
        """The ids of locks whose holders are gone. Each is held while the caller deals with it, then forgotten."""
        with self._database.reading() as connection:
            gone = sa.select(HOLDERS.c.id).where(HOLDERS.c.kind == kind.value, HOLDERS.c.seen_at < NOW - _GONE)
            ids = connection.execute(gone).scalars().all()
        for holder in ids:
            with self._database.writing() as connection:
                free = sa.select(sa.func.pg_try_advisory_xact_lock(_LOCK))
                if connection.execute(free.where(HOLDERS.c.id == holder)).scalar():
                    yield holder
                    connection.execute(sa.delete(HOLDERS).where(HOLDERS.c.id == holder))

    def exist(self, holder: str) -> bool:
        """Whether the lock of this id is held, or was not yet forgotten."""
        with self._database.reading() as connection:
            return connection.execute(sa.select(HOLDERS.c.id).where(HOLDERS.c.id == holder)).first() is not None

    def working(self) -> list[str]:
        """The hosts on which a pipeline is open or a run active."""
        with self._database.writing() as connection:
            held = [self._others(connection, kind) for kind in Kind]
        return sorted({other.host for others in held for other in others})

    def _others(self, connection: sa.Connection, kind: Kind) -> list[Held]:
        """The locks of this kind that are held, at most for the rest of the transaction after their holder's end."""
        rows = connection.execute(
            sa.select(HOLDERS, sa.func.pg_try_advisory_xact_lock_shared(_LOCK).label("free")).where(
                HOLDERS.c.kind == kind.value
            )
        ).all()
        if kind is Kind.SETTINGS and (ended := [row.id for row in rows if row.free]):
            connection.execute(sa.delete(HOLDERS).where(HOLDERS.c.id.in_(ended)))
        return [Held(row.host, row.detail) for row in rows if not row.free]

    def _take(self, holder: str) -> sa.Connection:
        """A connection of its own that holds the lock."""
        connection = self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            connection.detach()
            for name, value in KEPT_CONNECTION.items():
                # A server may lack the parameter.
                connection.execute(
                    sa.select(sa.func.set_config(name, value, False)).where(
                        sa.func.current_setting(name, True).is_not(None)
                    )
                )
            key = sa.func.hashtextextended(f"stripe_pipeline {holder}", 0)
            connection.execute(sa.select(sa.func.pg_advisory_lock(key)))
        except BaseException:
            connection.close()
            raise
        return connection

    def _keep(self, holder: str, connection: sa.Connection, ended: threading.Event) -> None:
        """Give signs of life until the end, then release the lock."""
        lost = False
        while not ended.wait(_BEAT):
            with suppress(sa.exc.SQLAlchemyError, WarehouseError):
                if lost:
                    connection = self._take(holder)
                    lost = False
                connection.execute(sa.update(HOLDERS).where(HOLDERS.c.id == holder).values(seen_at=NOW))
                continue
            lost = True
            with suppress(sa.exc.SQLAlchemyError):
                connection.close()
        with suppress(sa.exc.SQLAlchemyError):  # else the row is found without its lock
            connection.execute(sa.delete(HOLDERS).where(HOLDERS.c.id == holder))
        with suppress(sa.exc.SQLAlchemyError):
            connection.close()
