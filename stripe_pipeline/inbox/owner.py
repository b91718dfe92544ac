"""The owner of the inbox: of two warehouses that share one, each would mark notifications as applied that the other
never read.

This module claims the inbox and refuses it to another warehouse. `inbox` makes the owner's changes.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from typing import Any

import sqlalchemy as sa

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.identity import Identity
from stripe_pipeline.inbox.database import Database
from stripe_pipeline.inbox.notification import LARGEST, Claim
from stripe_pipeline.inbox.tables import LOCKED_OWNERS, NOTIFICATIONS, OWNERS, REOPENED, ownership

_LAKE = "the lake with files in "


def check_owner(folder: DataFolder, url: str) -> None:
    """For a data folder without a warehouse: raise `WarehouseError` if the inbox at `url` belongs to a warehouse, of
    which this folder would become a second copy."""
    with closing(Database(folder, url)) as database, database.reading() as connection:
        owner = connection.execute(sa.select(OWNERS).where(OWNERS.c.warehouse != "")).first()
        if owner:
            in_lake = owner.folder.startswith(_LAKE)
            raise WarehouseError(
                f"The inbox at {database.address} belongs to the warehouse in {owner.folder}, and"
                f" {folder.root} on this host holds no warehouse",
                "Set STRIPE_PIPELINE_WAREHOUSE and STRIPE_PIPELINE_WAREHOUSE_DATA here as on the other hosts. For a"
                " second warehouse, name another database in STRIPE_PIPELINE_INBOX"
                if in_lake
                else "Run the command where that warehouse is, or set STRIPE_PIPELINE_DAGSTER_URL to the address of"
                " Dagster's web server: `sync`, `backfill`, `prove` and `prune` then run there. For a second warehouse,"
                " name another database in STRIPE_PIPELINE_INBOX; if that warehouse is gone, run `stripe-pipeline"
                " webhooks adopt` here",
            )


class Owner:
    """The warehouse that an inbox serves.

    `folder` is the data folder of the claiming warehouse; `in_folder` says whether the inbox lies there.
    """

    def __init__(self, database: Database, folder: DataFolder, *, in_folder: bool) -> None:
        self._database = database
        self._folder = folder
        if folder.lake:
            self._place = f"{_LAKE}{folder.lake.data}"
        else:
            # Hosts may have folders of the same name.
            self._place = f"{folder.root}" if database.is_sqlite else f"{folder.root} on host {platform.node()}"
        self._in_folder = in_folder
        self._claimed_by: str | None = None

    def claim(self, identity: Callable[[], Identity], modes: Collection[bool], *, take_over: bool = False) -> Claim:
        """See `Inbox.claim`."""
        with self._database.reading() as connection:
            before = connection.execute(sa.select(OWNERS)).all()
        warehouse = identity()
        known = max((row.revision for row in before), default=0)
        ours = {row.livemode for row in before if row.warehouse == warehouse.id}
        if len(ours) == len(before) and ours >= set(modes) and known <= warehouse.revision:
            self._claimed_by = warehouse.id
            return Claim(warehouse)
        reopened = None
        with self._database.writing() as connection:
            self._database.lock(connection)
            rows = connection.execute(LOCKED_OWNERS).all()
            other = next((row for row in rows if row.warehouse not in ("", warehouse.id)), None)
            # Another process of this warehouse may have noticed and fixed the same meanwhile.
            behind = known > warehouse.revision and any(row.revision == known for row in rows)
            if (other or behind) and not (take_over or self._in_folder):
                raise self._belongs_to(other or rows[0], warehouse)
            if other or behind:
                newer = sa.func.coalesce(NOTIFICATIONS.c.applied_revision, LARGEST) > warehouse.revision
                lacking = sa.true() if other else newer
                reopened = connection.execute(REOPENED.where(lacking)).rowcount
            complete = {} if other else {row.livemode: row.complete for row in rows}
            connection.execute(sa.delete(OWNERS))
            claimed = [
                ownership(
                    livemode,
                    warehouse.id,
                    self._place,
                    warehouse.revision,
                    complete=complete.get(livemode, livemode not in warehouse.followed),
                )
                for livemode in sorted(set(modes) | complete.keys())
            ]
            connection.execute(sa.insert(OWNERS), claimed)
        self._claimed_by = warehouse.id
        return Claim(warehouse, reopened)

    def is_complete(self, warehouse: Identity, livemode: bool | None = None) -> bool:
        """See `Inbox.is_complete`."""
        query = sa.select(OWNERS)
        with self._database.reading() as connection:
            rows = connection.execute(query if livemode is None else query.where(OWNERS.c.livemode == livemode)).all()
        return bool(rows) and all(row.complete and row.warehouse == warehouse.id for row in rows)

    def completed(self, livemode: bool) -> None:
        """See `Inbox.completed`."""
        with self.changing() as connection:
            connection.execute(sa.update(OWNERS).where(OWNERS.c.livemode == livemode).values(complete=True))

    @contextmanager
    def changing(self) -> Iterator[sa.Connection]:
        """A transaction that only the inbox's owner may begin: another warehouse may have taken over since."""
        with self._database.writing() as connection:
            self._database.begin_writing(connection)
            if self._claimed_by is not None:
                owners = connection.execute(LOCKED_OWNERS).all()
                if other := next((row for row in owners if row.warehouse not in ("", self._claimed_by)), None):
                    raise WarehouseError(
                        f"The inbox at {self._database.address} was taken over by the warehouse in"
                        f" {other.folder} while this run was under way",
                        "Name another database in STRIPE_PIPELINE_INBOX for this data folder, or take the inbox back"
                        " with `stripe-pipeline webhooks adopt`",
                    )
            yield connection

    def _belongs_to(self, owner: Any, warehouse: Identity) -> WarehouseError:
        """The error for using the inbox of another warehouse."""
        return WarehouseError(
            f"The inbox at {self._database.address} belongs to the warehouse in {owner.folder}"
            if owner.warehouse != warehouse.id
            else f"The inbox at {self._database.address} holds applied notifications whose rows the warehouse"
            f" in {self._folder.root} lacks: this warehouse is a copy, or was restored from one",
            "Name another database in STRIPE_PIPELINE_INBOX for this data folder; or, if no other data folder uses this"
            " inbox any longer, run `stripe-pipeline webhooks adopt`",
        )
