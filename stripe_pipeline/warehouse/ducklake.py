"""The store in a lake: Parquet files in a folder or in S3, and a catalog in Postgres, which several hosts share.

This module opens the lake and cleans it up. Its address belongs to `lake`, its lock and statistics to `lake_catalog`,
its layout to `schema`, and what is specific to DuckDB's extensions to `extensions`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import duckdb

from stripe_pipeline.data_folder import CATALOG, DataFolder
from stripe_pipeline.lake import DATA_VARIABLE, Lake
from stripe_pipeline.warehouse.compaction import discard_working_files
from stripe_pipeline.warehouse.extensions import load_extensions, starting_options
from stripe_pipeline.warehouse.file_state import AT_ONCE, COMMENTS, META, NOW, STATES, get_state, set_state
from stripe_pipeline.warehouse.lake_catalog import LakeCatalog
from stripe_pipeline.warehouse.merge import first_line
from stripe_pipeline.warehouse.s3 import create_secret_of_environment
from stripe_pipeline.warehouse.schema import Layout
from stripe_pipeline.warehouse.sql import literal
from stripe_pipeline.warehouse.store import Store, T

_INLINED = 1000
"""Loads of fewer rows than this stay in the catalog until the nightly cleaning writes them into files."""
_KEEP = "now() - INTERVAL 1 DAY"
"""Files that were replaced are kept as long as this, for queries that have begun to read them."""


class DuckLake(Store):
    """The lake. A lock in the catalog's database lets one process of all hosts write at a time.

    Should a process lose its lock without noticing, its commit fails: each load updates the same row of
    `pipeline.meta`, and of two transactions that update a row, the lake refuses the second.
    """

    def __init__(self, folder: DataFolder, lake: Lake, layout: Layout, *, read_only: bool) -> None:
        super().__init__(folder, layout, read_only=read_only)
        self._lake = lake
        self._catalog = LakeCatalog(lake)
        self._attached = False
        self._locked = False
        self._empty = False
        """Whether an empty warehouse in memory is attached instead of the lake, which is missing."""
        self._snapshot: int | None = None
        """The lake's snapshot that was looked up last."""
        self._looked_up: dict[str, list[tuple[Any, ...]]] = {}
        """What SELECTs return in this snapshot."""

    @property
    def place(self) -> str:
        """The catalog's database and host."""
        return self._catalog.place

    def exists(self) -> bool:
        """Whether the catalog has the table `pipeline.meta`."""
        return self._attached or self._catalog.has_warehouse()

    @contextmanager
    def locked(self, *, look: bool = False) -> Iterator[None]:
        """Keeps other threads, processes and hosts from writing; whoever only reads needs no lock."""
        with self._thread_lock:
            if look or self.read_only:
                yield
                return
            if not self._prepared:
                self.folder.prepare()
            with self._waiting():
                self._catalog.lock()
            self._locked = True
            try:
                yield
            finally:
                self._locked = False
                self._catalog.unlock()

    @contextmanager
    def reading(self, failure: str = "{} cannot be read") -> Iterator[duckdb.DuckDBPyConnection]:
        """As `open`; without the lock, which a transaction that only reads does not need, once the lake follows the
        settings."""
        if not self.read_only and self._kept_open() is None:
            with self._thread_lock:
                if self._is_prepared():
                    with self.attached(failure) as connection:
                        self.begin_reading(connection)
                        yield connection
                    return
        with self.open(failure) as connection:
            yield connection

    def _is_prepared(self) -> bool:
        """Whether the lake is there and follows the settings. If that cannot be read, `open` says why."""
        if not self._prepared:
            self.folder.prepare()
            try:
                connection = self._attach(look=False, create=False)
                self.begin_reading(connection)
                applied = dict(self.look_up(connection, STATES))
                [(version, _, _)] = self.look_up(connection, META)
                compacts = applied.get("compact") in (NOW, AT_ONCE)
                self._prepared = not compacts and self.layout.is_same(version, applied.get("layout"))
                self.layout.is_complete = self._prepared and COMMENTS not in applied
                if not self._prepared:
                    self._end_reading(connection)
            except duckdb.Error:
                self.end_duckdb()
        return self._prepared

    def transact(
        self,
        connection: duckdb.DuckDBPyConnection,
        work: Callable[[duckdb.DuckDBPyConnection], T],
        *,
        keep: bool = True,
    ) -> T:
        """As `Store.transact`; the lock is held."""
        assert self._locked, "a session that only reads writes"
        return super().transact(connection, work, keep=keep)

    @contextmanager
    def attached(
        self, failure: str = "{} cannot be read", *, look: bool = False
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yields the connection to the lake, migrated to the settings unless it is only to be read. It stays attached
        afterwards: attaching takes many statements."""
        try:
            with self.explained(failure):
                connection = self._attach(look=look or self.read_only)
                if look:
                    self._end_reading(connection)
                elif not (self.read_only or self._prepared):
                    self.begin_reading(connection)
                    self._prepare(connection)
                yield connection
                self._end_reading(connection)
        except BaseException:
            self.end_duckdb()  # its state is unknown
            raise

    def _attach(self, *, look: bool, create: bool = True) -> duckdb.DuckDBPyConnection:
        if self._empty:
            self.end_duckdb()
        connection = self.duckdb_of_ours()
        if not self._attached:
            if look and not self.exists():
                connection.execute(f"ATTACH ':memory:' AS {CATALOG}")
                connection.execute(f"USE {CATALOG}")
                self.layout.ensure(connection, self.place)
                self._empty = True
                return connection
            attach_lake(connection, self._lake, read_only=self.read_only, create=create)
            self.begin_reading(connection)  # for USE, which reads the schema, and the reads that follow
            connection.execute(f"USE {CATALOG}")
            self._attached = True
        return connection

    def _prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Migrates the lake to the settings."""
        consequence = "Until this works, fields that the settings leave out may still be in it"
        with self.explained("{} could not be brought to the settings", consequence):
            if not self.layout.is_applied(connection):
                self._end_reading(connection)
                self.layout.ensure(connection, self.place)
            if get_state(connection, "compact") in (NOW, AT_ONCE):
                self.compact(connection)
        self._prepared = True

    def starting_options(self) -> dict[str, str]:
        """Those that spare verifying the extensions that come in packages."""
        return starting_options(_extensions(self._lake))

    def begin_reading(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Begins a transaction, unless one is open: each takes four statements of the catalog."""
        if not self._in_transaction:
            connection.execute("BEGIN")
            self._in_transaction = True

    def look_up(
        self, connection: duckdb.DuckDBPyConnection, sql: str, *, unwritten: bool = False
    ) -> list[tuple[Any, ...]]:
        """As `Store.look_up`. A transaction that has not written reads the snapshot that it began with, so the same
        SELECT runs once, also for later transactions that begin with this snapshot."""
        if self._empty or not self._in_transaction or (self._writing and not unwritten):
            return super().look_up(connection, sql)
        # Each transaction asks the catalog for its snapshot once in any case.
        [(snapshot,)] = connection.execute(f"FROM ducklake_current_snapshot('{CATALOG}')").fetchall()
        if snapshot != self._snapshot:
            self._snapshot, self._looked_up = snapshot, {}
        if sql not in self._looked_up:
            self._looked_up[sql] = connection.execute(sql).fetchall()
        return self._looked_up[sql]

    def _end_reading(self, connection: duckdb.DuckDBPyConnection) -> None:
        if self._in_transaction:
            connection.execute("COMMIT")
            self._in_transaction = False

    def may_be_tried_again(self, error: duckdb.Error) -> bool:
        """Whether another process has written first, because this one had lost the lock. Takes the lock again."""
        if "conflict" not in str(error):
            return False
        self._catalog.unlock()  # if it was not lost, it would be taken twice
        with self._waiting():
            self._catalog.lock()
        return True

    def may_hold_later(self, columns: Mapping[str, str], moment: float) -> bool:
        """Whether one of these columns, by table, may hold a time after the moment, by the catalog's statistics."""
        if self._writing or self._empty:  # they do not know these rows
            return True
        return self._catalog.may_hold_later(columns, moment)

    def may_hold_rows(self, table: str) -> bool:
        """Whether the table may hold a row, by the catalog's statistics."""
        return self._writing or self._empty or self._catalog.may_hold_rows(table)

    def settle(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Nothing: a commit is complete."""

    def examine(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Nothing: no copy is kept that a lake could be restored from."""

    def compact(self, connection: duckdb.DuckDBPyConnection, *, if_due: bool = False) -> None:
        """Writes rows in the catalog into files, and few files in place of many; removes files that no query reads any
        more, at once if data was erased."""
        due = get_state(connection, "compact")
        self._end_reading(connection)  # each of the following calls has a transaction of its own
        erased = not if_due or due is not None
        if erased:
            discard_working_files(self.folder, due)
            set_state(connection, "compact", None)  # first: this writes rows, too
            connection.execute("UPDATE pipeline.meta SET revision = revision + 1")
        old = "cleanup_all => true" if erased else f"older_than => {_KEEP}"
        expired = "now()" if erased else _KEEP
        try:
            for call in (
                f"ducklake_flush_inlined_data('{CATALOG}')",
                f"ducklake_rewrite_data_files('{CATALOG}'{', delete_threshold => 0' if erased else ''})",
                f"ducklake_merge_adjacent_files('{CATALOG}')",
                f"ducklake_expire_snapshots('{CATALOG}', older_than => {expired})",
                f"ducklake_cleanup_old_files('{CATALOG}', {old})",
                f"ducklake_delete_orphaned_files('{CATALOG}', {old})",
            ):
                connection.execute(f"CALL {call}").fetchall()
            if erased:
                self._catalog.forget_values()
        except BaseException:
            if erased:
                with contextlib.suppress(duckdb.Error):
                    set_state(connection, "compact", due or AT_ONCE)
            raise

    def reason(self, error: BaseException) -> str:
        """The message, without the catalog's address, which may hold a password."""
        return first_line(error).replace(self._lake.catalog, "…")

    def remedy(self, error: Exception) -> str:
        """What to do about an error of the lake."""
        text = str(error)
        if "DATA_PATH" in text:
            return f"Set {DATA_VARIABLE} to the place that the lake was made with"
        if "conflict" in text:
            return "Another process has written at the same time. Run again"
        return f"See whether the catalog's database and {self._lake.data} can be read and written, then run again"

    def end_duckdb(self) -> None:
        """Ends DuckDB and the connection that holds the lock."""
        super().end_duckdb()
        self._attached = self._empty = False
        self._snapshot = None

    def close(self) -> None:
        """Releases the memory and the connections; the lake may be used again."""
        super().close()
        with self._thread_lock:
            self._catalog.close()


def attach_lake(connection: duckdb.DuckDBPyConnection, lake: Lake, *, read_only: bool, create: bool = True) -> None:
    """Attaches the lake. If it is missing, it is created, unless it is only to be read or not to be created."""
    load_extensions(connection, _extensions(lake))
    if lake.data.startswith("s3:"):
        create_secret_of_environment(connection)
    connection.execute("SET pg_pool_health_check_query = ''")  # a statement before each other one
    options = f"DATA_PATH {literal(lake.data)}, DATA_INLINING_ROW_LIMIT {_INLINED}"
    connection.execute(
        f"ATTACH {literal(f'ducklake:postgres:{lake.catalog}')} AS {CATALOG}"
        f" ({options}{', READ_ONLY' if read_only else ''}{'' if create else ', CREATE_IF_NOT_EXISTS false'})"
    )


def _extensions(lake: Lake) -> tuple[str, ...]:
    return ("postgres_scanner", "ducklake", *(("httpfs",) if lake.data.startswith("s3:") else ()))
