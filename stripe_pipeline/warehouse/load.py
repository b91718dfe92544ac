"""Loading: batches, their coverage and the cursors are written in one transaction.

This module holds the steps of one load. The SQL that merges a batch into its tables belongs to `merge`, the `pipeline`
tables to `bookkeeping`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import duckdb

from stripe_pipeline.batch import Batch, Changes, Loaded, Mode
from stripe_pipeline.days import utc_day
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.objects import ObjectType
from stripe_pipeline.settings.model import OnDelete, Settings
from stripe_pipeline.stripe_api.clock import Reading
from stripe_pipeline.warehouse.bookkeeping import (
    move_cursors,
    name_rows,
    record_coverage,
    says_more,
    set_clock,
    stage_days,
)
from stripe_pipeline.warehouse.erasure import Erasure, any_erased, load_order, own_key
from stripe_pipeline.warehouse.file_state import CURSORS, LINEAGE, META, STATES
from stripe_pipeline.warehouse.merge import (
    apply_tombstones,
    insert_new_days,
    merge_batch,
    missing_ids,
    nothing_stored,
    remember_gone,
    row_counts,
    stage,
    touched_rows,
)
from stripe_pipeline.warehouse.pruning import expire, young_enough
from stripe_pipeline.warehouse.schema import settings_changed
from stripe_pipeline.warehouse.sql import stored_types
from stripe_pipeline.warehouse.store import Store

Cursors = Mapping[tuple[Mode, str], float]
Naming = Callable[[duckdb.DuckDBPyConnection, int], None]
NO_CURSORS: Cursors = MappingProxyType({})


class Loader:
    """Writes batches into the private file; the only code that writes rows."""

    def __init__(self, file: Store, settings: Settings, hash_key: bytes | None) -> None:
        self.file = file
        self.folder = file.folder
        self._settings = settings
        self._hash_key = hash_key

    def load(
        self,
        batches: Sequence[Batch],
        *,
        cursors: Cursors | Callable[[], Cursors] = NO_CURSORS,
        clock: Reading | None = None,
        name: Naming | None = None,
    ) -> Loaded:
        """Writes the batches, with their coverage and cursors, in one transaction.

        A row is replaced by one requested at the same time or later on Stripe's clock, never by an older one.
        `cursors`: seconds on Stripe's clock by mode and name; a function looks at the stored rows first, within a
        session, and is left out if more objects must be read (`Loaded.is_complete`). `clock`: the estimate of that
        clock; read times are capped at its latest possible value. `name` is called in the transaction with the new
        revision, unless more objects must be read. Raises `WarehouseError`; then nothing was written.
        """
        if clock:
            for batch in batches:
                batch.limit(clock.latest)
        if not batches and callable(cursors):
            cursors = cursors()
        failure = "Loading into {} failed"
        with self.file.open(failure) as connection:
            # While lists are read, one DuckDB thread suffices: two take twice the CPU for little gain. Updates probe
            # large tables, where all threads help.
            lists = any(batch.days for batch in batches)
            connection.execute("SET threads = 1" if lists else "RESET threads")
            with self.file.explained(failure, "Nothing of this load was stored"):
                loaded = self.file.transact(
                    connection, lambda connection: self._write(connection, batches, cursors, clock, name)
                )
            self.file.loaded(connection)
        return loaded

    def _write(
        self,
        connection: duckdb.DuckDBPyConnection,
        batches: Sequence[Batch],
        cursors: Cursors | Callable[[], Cursors],
        clock: Reading | None,
        name: Naming | None,
    ) -> Loaded:
        loaded = Loaded()
        applied = dict(self.file.look_up(connection, STATES, unwritten=True))
        if applied.get("layout") != self.file.layout.fingerprint:
            raise settings_changed()
        if applied.get(LINEAGE) != self.file.lineage:
            raise WarehouseError(
                f"The warehouse {self.file.place} was damaged and restored while this run was under way;"
                " nothing of this load was stored",
                "Run again",
            )
        erasure = self.erasure(connection) if batches else None
        if erasure:
            batches = sorted(batches, key=lambda batch: load_order(batch.object_type))
        for batch in batches:
            self._load_batch(connection, batch, loaded, erasure)
            if not batch.mode.account:
                name_rows(connection, batch.mode)
        if erasure:
            erasure.finish()
        if callable(cursors):
            cursors = cursors() if loaded.is_complete else NO_CURSORS
        # The true position of a later cursor is unknown: the stored cursor stays, and the period is read again.
        latest = clock.latest if clock else math.inf
        moving = {which: at for which, at in cursors.items() if at <= latest}
        unwritten = not batches
        [(_, revision, _)] = self.file.look_up(connection, META, unwritten=unwritten)
        if moving:
            move_cursors(connection, moving, self.file.look_up(connection, CURSORS, unwritten=unwritten))
        if clock and clock.bounds and says_more(clock.bounds, self.file.clock):
            set_clock(connection, *clock.bounds)
            self.file.clock = clock.bounds
        connection.execute("UPDATE pipeline.meta SET revision = revision + 1")
        loaded.revision = revision + 1
        if name and loaded.is_complete:
            name(connection, loaded.revision)
        return loaded

    def _load_batch(
        self, connection: duckdb.DuckDBPyConnection, batch: Batch, loaded: Loaded, erasure: Erasure | None
    ) -> None:
        parent = batch.object_type
        for object_type in batch.tables:
            loaded.changes.setdefault(object_type.name, Changes())
        loaded.refused.setdefault(parent.name, set())
        bounds, in_lake = touched_rows(batch), self.folder.lake is not None
        retention = {object_type.name: self._retention(object_type) for object_type in batch.tables}
        if batch.days:
            stage_days(connection, batch.days)
        of_days = f"{bounds} AND {utc_day('created')} IN (FROM temp.listed SELECT day)"
        if batch.days and nothing_stored(connection, batch, of_days):
            insert_new_days(connection, batch, of_days, loaded, retention, erasure)
        else:
            stage(connection, parent, batch, erasure)
            if retention[parent.name] and parent.name in batch.files:
                expired = expire(connection, parent, retention[parent.name], bounds, batch.mode)
                if not batch.days:  # else the days' coverage refuses rows requested earlier
                    remember_gone(connection, batch, expired)
            if batch.days and not batch.skip_missing_check:
                missing = missing_ids(connection, parent, batch, bounds, retention[parent.name] or "true")
                if missing:
                    loaded.missing.append((batch, missing))
                    connection.execute("DELETE FROM temp.listed WHERE day IN (SELECT unnest(?))", [list(missing)])
            if parent.name in batch.files:  # else many statements would have no effect
                merge_batch(connection, batch, bounds, loaded, retention, erasure, in_lake=in_lake)
        if batch.tombstones:
            apply_tombstones(connection, batch, loaded, remove=self._settings.on_delete_of(parent) is OnDelete.REMOVE)
        for object_type in batch.tables:
            table_changes = loaded.changes[object_type.name]
            touched = table_changes.days | {listed.day for listed in batch.days}
            if touched:
                counts = row_counts(connection, object_type, touched, in_lake=in_lake)
                table_changes.rows.update({day: counts[day, True] + counts[day, False] for day in touched})
                if batch.days:
                    if object_type.dated_apart:
                        # A day covers the children of the parents created on the day, whenever these were created.
                        counts = Counter(
                            {(day.day, batch.mode.livemode): day.objects.get(object_type.name, 0) for day in batch.days}
                        )
                    record_coverage(connection, object_type, batch, counts)
        for table in ("listed", "incoming", "known", "accepted", "accepted_children", "parents"):
            connection.execute(f"DROP TABLE IF EXISTS temp.{table}")

    def _retention(self, object_type: ObjectType) -> str:
        """The condition for rows young enough to be kept; empty if all are."""
        cutoff = self._settings.cutoff(object_type)
        return young_enough(object_type, cutoff) if cutoff else ""

    def erasure(self, connection: duckdb.DuckDBPyConnection, *, even_none: bool = False) -> Erasure | None:
        """The erasure that keeps erased customers out; None if nobody was erased, unless `even_none`."""
        if not even_none and not any_erased(connection):
            return None
        erasure = Erasure(
            connection,
            stored_types(connection, self._settings.types),
            hash_key=self._hash_key,
            own_key=lambda: own_key(self.folder),
        )
        erasure.begin()
        return erasure
