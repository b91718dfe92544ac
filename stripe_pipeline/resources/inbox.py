"""The inbox: pokes that say which object to read again, kept until it was.

Every source of news puts its pokes here; payloads are never kept. Which requests a poke costs belongs to `sync`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.resources.warehouse import Mode

_BUSY_TIMEOUT = 60  # seconds to wait for another process's write, which takes milliseconds
_CHUNK = 500  # rows a statement, well below SQLite's limit of variables


@dataclass(frozen=True)
class Poke:
    """News that an object was made, changed or deleted; not what it now looks like."""

    event_id: str
    mode: Mode
    object: str
    """Stripe's `data.object.object`, for example `charge`."""
    object_id: str
    object_created: int | None
    """Unix seconds, where the event told."""
    event_created: int


_METADATA = sa.MetaData()
_POKES = sa.Table(
    "pokes",
    _METADATA,
    sa.Column("event_id", sa.String, primary_key=True),
    sa.Column("account", sa.String, nullable=False),
    sa.Column("livemode", sa.Boolean, nullable=False),
    sa.Column("object", sa.String, nullable=False),
    sa.Column("object_id", sa.String, nullable=False),
    sa.Column("object_created", sa.BigInteger),
    sa.Column("event_created", sa.BigInteger, nullable=False),
    sa.Column("received_at", sa.Float, nullable=False),
    sa.Column("applied_at", sa.Float, index=True),
)


class Inbox:
    """The table of pokes, in SQLite in the data folder or in the database that `url` names."""

    def __init__(self, folder: DataFolder, url: str | None = None) -> None:
        if url:
            self._engine = sa.create_engine(url)
        else:
            self._engine = sa.create_engine(
                f"sqlite:///{folder.inbox}", connect_args={"timeout": _BUSY_TIMEOUT}, poolclass=sa.pool.NullPool
            )
        try:
            with self._engine.connect() as connection:
                if connection.dialect.name == "sqlite":
                    # Readers and the one writer do not block each other.
                    connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            with self._engine.begin() as connection:
                # `create_all` looks first and creates then: of several processes that begin at once all but one fail.
                connection.execute(sa.schema.CreateTable(_POKES, if_not_exists=True))
                for index in _POKES.indexes:
                    connection.execute(sa.schema.CreateIndex(index, if_not_exists=True))
        except sa.exc.DBAPIError as error:
            raise WarehouseError(
                f"The inbox {folder.inbox} cannot be used ({error.orig})",
                "If the file is damaged, move it away: the next tick finds the last 30 days' news again",
            ) from error

    def add(self, pokes: Sequence[Poke]) -> int:
        """Store pokes durably; an event that is known already is not stored again. Returns how many were new."""
        insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        rows = [
            {
                "event_id": poke.event_id,
                "account": poke.mode.account,
                "livemode": poke.mode.livemode,
                "object": poke.object,
                "object_id": poke.object_id,
                "object_created": poke.object_created,
                "event_created": poke.event_created,
                "received_at": time.time(),
            }
            for poke in {poke.event_id: poke for poke in pokes}.values()
        ]
        new = 0
        with self._engine.begin() as connection:
            for start in range(0, len(rows), _CHUNK):
                statement = insert(_POKES).values(rows[start : start + _CHUNK]).on_conflict_do_nothing()
                new += connection.execute(statement).rowcount
        return new

    def waiting(self, mode: Mode) -> list[Poke]:
        """Pokes of `mode` that were not applied yet, oldest event first."""
        query = (
            sa.select(_POKES)
            .where(_POKES.c.applied_at.is_(None), _POKES.c.account == mode.account, _POKES.c.livemode == mode.livemode)
            .order_by(_POKES.c.event_created, _POKES.c.event_id)
        )
        with self._engine.connect() as connection:
            return [
                Poke(row.event_id, mode, row.object, row.object_id, row.object_created, row.event_created)
                for row in connection.execute(query)
            ]

    def applied(self, pokes: Sequence[Poke]) -> None:
        """Note that the objects these pokes name were read again and stored."""
        now = time.time()
        with self._engine.begin() as connection:
            for start in range(0, len(pokes), _CHUNK):
                ids = [poke.event_id for poke in pokes[start : start + _CHUNK]]
                connection.execute(sa.update(_POKES).where(_POKES.c.event_id.in_(ids)).values(applied_at=now))

    def forget(self, *, applied_before: float) -> None:
        """Remove applied pokes older than `applied_before` (Unix seconds)."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(_POKES).where(_POKES.c.applied_at < applied_before))

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()
