"""Naming the version that readers see: before the file is copied, or in a lake, which needs no copy.

The row itself belongs to `published`, copies to `publisher`.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from stripe_pipeline.batch import Loaded
from stripe_pipeline.inbox.notification import Entry
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.warehouse.bookkeeping import show_failing
from stripe_pipeline.warehouse.load import Naming
from stripe_pipeline.warehouse.published import name_version
from stripe_pipeline.warehouse.store import Store

PREPARING = "{} could not be prepared for publishing"


class Versions:
    """The name of the current version, in `pipeline.published`."""

    def __init__(self, file: Store, settings: Settings) -> None:
        self.file = file
        self._settings = settings
        self._has_loaded = False
        """Whether this process has loaded since it named a version."""
        self._named: int | None = None
        """The commit (`Store.commits`) that named the version that it stored."""

    def name(
        self,
        connection: duckdb.DuckDBPyConnection,
        failing: Sequence[Entry] | None,
        seen: int | None,
        *,
        inbox_is_empty: bool = False,
    ) -> int | None:
        """Names the version that readers see from now on; returns its revision. None if nothing was ever loaded, or
        nothing since the revision that they have `seen`.

        `failing`: as for `Warehouse.publish`; `inbox_is_empty`: as for `name_version`.
        """
        if failing is not None:
            show_failing(connection, failing)
        [(revision,)] = connection.execute("SELECT revision FROM pipeline.meta").fetchall()
        if revision in (0, seen):
            return None
        self.file.layout.complete(connection)
        name_version(connection, revision, self._settings, inbox_is_empty=inbox_is_empty)
        return int(revision)

    def naming(self) -> Naming | None:
        """What names the version in the transaction of a load; None if publishing has more to do, by what is stored.

        Within a session of a lake: a transaction of its own for the name would read the tables again."""
        if not self.file.layout.is_complete:
            return None
        if self.file.may_hold_rows("pipeline.inbox") and self.file.ask("FROM pipeline.inbox LIMIT 1"):
            return None
        return lambda connection, revision: name_version(connection, revision, self._settings, inbox_is_empty=True)

    def note(self, loaded: Loaded, naming: Naming | None) -> None:
        """Notes a load, and whether it has named the version."""
        self._has_loaded = True
        self._named = self.file.commits if naming and loaded.is_complete else None

    def name_in_lake(self, failing: Sequence[Entry] | None) -> None:
        """Names the version of a lake, unless the last load did, or nothing was loaded since. Raises
        `WarehouseError`."""
        if self._named == self.file.commits and not failing:
            return
        with self.file.open(PREPARING) as connection:
            inbox_is_empty = not failing and not self.file.may_hold_rows("pipeline.inbox")
            shown = None if inbox_is_empty else failing

            def name(connection: duckdb.DuckDBPyConnection) -> None:
                last = "SELECT version FROM pipeline.published"
                seen = [] if self._has_loaded else [of for (of,) in connection.execute(last).fetchall()]
                self.name(connection, shown, max(seen, default=None), inbox_is_empty=inbox_is_empty)

            self.file.transact(connection, name)
        self._has_loaded = False
