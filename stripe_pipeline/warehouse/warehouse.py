"""The warehouse: the interface through which other modules load and query data.

The private file belongs to `private_file`, the only code that writes rows to `load`, the `pipeline` tables to `state`,
`keys` and `bookkeeping`, publishing the file for analysts to `publisher`, deciding what to read to `sync`.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from datetime import date
from pathlib import Path
from typing import Any

import duckdb

from stripe_pipeline.batch import Batch, Loaded
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.inbox.notification import Entry
from stripe_pipeline.objects import CUSTOMERS
from stripe_pipeline.run_locks import abandoned
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.stripe_api.clock import Reading
from stripe_pipeline.warehouse.bookkeeping import rows_left
from stripe_pipeline.warehouse.bucket import Bucket
from stripe_pipeline.warehouse.ducklake import DuckLake
from stripe_pipeline.warehouse.erasure import Erased
from stripe_pipeline.warehouse.file_state import DAILY, get_state, request_compaction
from stripe_pipeline.warehouse.keys import Keys
from stripe_pipeline.warehouse.load import NO_CURSORS, Cursors, Loader
from stripe_pipeline.warehouse.private_file import PrivateFile
from stripe_pipeline.warehouse.proofs import Proofs
from stripe_pipeline.warehouse.pruning import Pruned, prune
from stripe_pipeline.warehouse.publisher import Pace, Publisher
from stripe_pipeline.warehouse.queries import RowQueries
from stripe_pipeline.warehouse.recovery import remove
from stripe_pipeline.warehouse.schema import Layout
from stripe_pipeline.warehouse.sql import stored_types
from stripe_pipeline.warehouse.state import State
from stripe_pipeline.warehouse.store import Store
from stripe_pipeline.warehouse.versions import PREPARING, Versions

logger = logging.getLogger(__name__)
_DEFAULTS = Settings()
_COPIES = 2  # times that a large file is copied without the lock, in the hope that nobody writes meanwhile
_KEEP_DAMAGED = 30 * DAY  # seconds that a damaged file is kept


class Warehouse:
    """The private file and the published one; safe to share between threads."""

    def __init__(
        self,
        folder: DataFolder,
        settings: Settings = _DEFAULTS,
        hash_key: bytes | None = None,
        *,
        read_only: bool = False,
        current_settings: Callable[[], Settings] | None = None,
        pace: Pace | None = None,
    ) -> None:
        """The file is migrated to `settings` when it is first opened, unless it is `read_only`: then a missing file
        counts as an empty one, and no file is created.

        `hash_key` is needed if the settings hash fields. `current_settings` reads the settings again, because they may
        change during a run: if they then differ from `settings`, opening the file fails. `pace`: as for `Publisher`.
        """
        self.folder = folder
        self.publisher = Publisher(folder, settings.published.readable_by, pace)
        layout = Layout(settings, hash_key, current_settings, in_lake=folder.lake is not None)
        self.file: Store = (
            DuckLake(folder, folder.lake, layout, read_only=read_only)
            if folder.lake
            else PrivateFile(folder, layout, read_only=read_only)
        )
        self.state = State(self.file, settings)
        self.keys = Keys(self.file)
        self.rows = RowQueries(self.file, settings)
        self.proofs = Proofs(self.file)
        self.bucket = Bucket(folder, folder.bucket) if folder.bucket else None
        self.unsent: WarehouseError | None = None
        """Why the bucket does not have the version that was last published."""
        self._erased = 0
        self._settings = settings
        self._loader = Loader(self.file, settings, hash_key)
        self._versions = Versions(self.file, settings)

    def close(self) -> None:
        """Releases the memory; the warehouse may be used again."""
        self.file.close()

    def session(self, *, only_reads: bool = False) -> AbstractContextManager[None]:
        """Keeps the file open between several reads and loads; see `Store.session`."""
        return self.file.session(only_reads=only_reads)

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows that a SELECT on the private file returns."""
        return self.file.ask(sql)

    def load(
        self,
        batches: Sequence[Batch],
        *,
        cursors: Cursors | Callable[[], Cursors] = NO_CURSORS,
        clock: Reading | None = None,
    ) -> Loaded:
        """Writes the batches, with their coverage and cursors, in one transaction; see `Loader.load`."""
        # With a function for the cursors, this is the last load of a sync.
        naming = self._versions.naming() if self.folder.lake and callable(cursors) else None
        loaded = self._loader.load(batches, cursors=cursors, clock=clock, name=naming)
        self._versions.note(loaded, naming)
        return loaded

    def publish(
        self, *, force: bool = True, failing: Sequence[Entry] | None = None, send_within: float | None = None
    ) -> bool:
        """Publishes committed changes that are not published yet; returns False if publishing has to wait.

        `failing` is the new content of `pipeline.inbox`; without it, the table stays as it is. Without `force`,
        publishes only when due (`Publisher.due`), and only in the folder to share. A failure to send the file to the
        bucket is logged and is in `unsent`; `send_within`: as for `Bucket.send`.
        """
        if not self._publish_here(force, failing):
            return False
        if self.bucket and force and self.folder.published.exists():
            try:
                self.bucket.send(self.folder.published.resolve(), remove_before=self._erased, within=send_within)
                self.unsent = None
            except WarehouseError as error:
                self.unsent = error
                logger.warning("%s", error)
        return True

    def _publish_here(self, force: bool, failing: Sequence[Entry] | None) -> bool:
        if not force and not self.publisher.due():
            return False
        if self.folder.lake:  # whose readers need no copy
            self._versions.name_in_lake(failing)
            return True
        with self.publisher.turn(wait=force) as is_ours:
            if not is_ours:
                return False
            with self.file.locked():
                version = self._ready_to_publish(failing)
                copied = version is not None and self.publisher.copy()
            if version is None:
                return True
            for tries_left in range(0 if copied else _COPIES, 0, -1):
                self.publisher.copy_ahead()
                with self.file.locked():
                    if self.publisher.is_copied():
                        break
                    version = self._ready_to_publish(None) or version
                    if tries_left > 1:
                        self.publisher.note_state()
                    else:
                        self.publisher.complete()
            self.publisher.publish(version, remove_before=self._erased)
        return True

    def _ready_to_publish(self, failing: Sequence[Entry] | None) -> int | None:
        """Completes the private file, which is locked; returns its revision. None if nothing was ever loaded, or
        nothing since the last publish."""
        with self.file.attached(PREPARING) as connection:
            self._erased = int(get_state(connection, "erased") or 0)
            seen = self.publisher.published_revision()
            revision = self.file.transact(connection, lambda connection: self._versions.name(connection, failing, seen))
            if revision is not None:
                self.file.settle(connection)
        # Detached, so that no write-ahead log is left beside the file: the file alone is the whole database.
        return revision

    def prune(self, *, dry_run: bool = False) -> dict[str, Pruned]:
        """Removes rows older than their retention, or with `dry_run` only counts them, by table name.

        Freed space is used for new rows; the file is compacted if compacting at least halves it, or if deleted data
        must not remain in it. Raises `WarehouseError`, which says what was done.
        """
        if not dry_run and _is_old(self.folder.damaged):
            remove(self.folder.damaged)
        failure = "{} cannot be read" if dry_run else "Pruning {} failed"
        with self.file.locked(look=dry_run), self.file.attached(failure, look=dry_run) as connection:
            if not dry_run:
                self.file.examine(connection)
            with self.file.explained("Pruning {} failed", "Nothing was removed"):
                if dry_run:
                    self.file.layout.ensure(connection, self.file.place, commit=False)
                    pruned = prune(connection, self._settings)
                    connection.execute("ROLLBACK")
                else:
                    pruned = self.file.transact(connection, self._prune)
            if not dry_run:
                with self.file.explained("Rows that were too old were removed, but {} could not be made smaller"):
                    self.file.settle(connection)
                    self.file.compact(connection, if_due=True)
        return pruned

    def _prune(self, connection: duckdb.DuckDBPyConnection) -> dict[str, Pruned]:
        pruned = prune(connection, self._settings)
        removed = sum(of_table.rows for of_table in pruned.values())
        if removed:
            connection.execute("UPDATE pipeline.meta SET revision = revision + 1")
            if removed >= rows_left(connection):
                request_compaction(connection, DAILY)  # in this transaction: the run may end early
        return pruned

    def make_views(self, names: Collection[str]) -> None:
        """Recreates all views, and reads those in `names`, for example `live.charges`. Raises `WarehouseError`."""
        failing = "The views in {} could not be made"
        with self.file.open(failing) as connection, self.file.explained(failing, "They are as they were"):
            self.file.transact(connection, lambda connection: self.file.layout.make_views(connection, names))

    def erase(self, customers: Sequence[str], *, dry_run: bool = False) -> dict[str, Erased]:
        """Removes these customers (their ids) and their data in other rows from the private file and every published
        version, and keeps them out from now on; returns the rows concerned, by id.

        With `dry_run`, the rows are only counted. Raises `WarehouseError`, which says what was done.
        """
        with self.file.open("Erasing from {} failed") as connection:
            with self.file.explained("Erasing from {} failed", "Nothing was erased"):
                erased = self.file.transact(
                    connection, lambda connection: self._erase(connection, customers, dry_run), keep=not dry_run
                )
                if dry_run:
                    return erased
            with self.file.explained(
                "The customers were erased from the tables, but {} could not be rewritten",
                "Until it is rewritten, the files still hold the erased data",
            ):
                self.file.settle(connection)
                self.file.compact(connection)
        remove(self.folder.damaged)
        for lock in abandoned(self.folder.spool):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        self.publish()
        if self.unsent:
            raise WarehouseError(
                f"The customers were erased on this machine, but earlier versions in the bucket still hold them:"
                f" {self.unsent.what}",
                f"{self.unsent.remedy}, and removes them",
            )
        return erased

    def _erase(
        self, connection: duckdb.DuckDBPyConnection, customers: Sequence[str], dry_run: bool
    ) -> dict[str, Erased]:
        erasure = self._loader.erasure(connection, even_none=True)
        assert erasure
        erased = {customer: erasure.add(customer) for customer in customers}
        if not dry_run:
            erasure.apply()
            connection.execute("UPDATE pipeline.meta SET revision = revision + 1")
        return erased

    def keep_out_no_longer(self, customer: str) -> list[date] | None:
        """Lets an erased customer (an id) return with the next list or event. Returns the UTC days of `created` that
        hold erased objects and that a backfill reads with these settings, in ascending order; None if this customer
        was not erased."""

        def forget(connection: duckdb.DuckDBPyConnection) -> dict[str, set[date]] | None:
            erasure = self._loader.erasure(connection, even_none=True)
            assert erasure
            return erasure.forget(customer)

        days = self.file.write(forget)
        if days is None:
            return None
        first = {object_type.name: self._settings.first_listed(object_type) for object_type in self._settings.enabled}
        return sorted(
            {day for table, of_table in days.items() if table in first for day in of_table if day >= first[table]}
        )

    def unidentified_references(self) -> list[str]:
        """Columns that name customers and that the settings leave out, for example `charges.customer`: these
        columns cannot identify customers' rows."""
        with self.file.reading() as connection:
            stored = stored_types(connection, self._settings.types)
        return [
            f"{name}.{reference.column}"
            for name, object_type in stored.items()
            for reference in object_type.references
            if reference.target == CUSTOMERS.name and reference.column not in object_type.column_names
        ]


def _is_old(path: Path) -> bool:
    """Whether the file exists and is older than the period for which a damaged file is kept."""
    return path.exists() and time.time() - path.stat().st_mtime > _KEEP_DAMAGED
