"""The private file: which process may open it and when, and restoring a damaged file.

This module opens and closes the file. Writing to the file belongs to `load`, its layout to `schema`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import filelock

from stripe_pipeline.data_folder import CATALOG, DataFolder
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.storage_errors import Cause, cause_of, reason, remedy
from stripe_pipeline.warehouse.compaction import discard, rewrite
from stripe_pipeline.warehouse.file_state import AT_ONCE, NOW, get_state
from stripe_pipeline.warehouse.merge import first_line
from stripe_pipeline.warehouse.recovery import (
    LINEAGE,
    StandIn,
    cannot_be_restored,
    is_whole,
    remove,
    restore,
    stand_ins,
)
from stripe_pipeline.warehouse.schema import Layout
from stripe_pipeline.warehouse.sql import attach, start_duckdb

_LOCK_TIMEOUT = 600  # seconds; loads hold the lock for seconds at most, so a longer wait means a hung process
_EMPTY_FILE = 12_288  # bytes of a database without tables


class PrivateFile:
    """The private DuckDB file, opened only for loads and reads, by one process at a time; safe to share between
    threads."""

    def __init__(self, folder: DataFolder, layout: Layout, *, read_only: bool) -> None:
        """`read_only`: the file is only read: it is neither migrated to the layout nor created."""
        self.folder = folder
        self.layout = layout
        self.read_only = read_only
        self.lineage: str | None = None
        """Lineage of the file that this process reads and writes; a restore changes the lineage."""
        self.unwritten = False
        """Whether loaded data is only in the write-ahead log."""
        self._thread_lock = threading.Lock()
        self._process_lock = filelock.FileLock(folder.lock, timeout=_LOCK_TIMEOUT, thread_local=False, mode=0o600)
        self._prepared = False
        self._duckdb: duckdb.DuckDBPyConnection | None = None
        self._empty = False
        """Whether an empty warehouse in memory is attached instead of the file, which is missing."""
        self._session: tuple[int, duckdb.DuckDBPyConnection] | None = None
        """The thread that keeps the file open, and its connection."""

    def close(self) -> None:
        """Releases the memory; the warehouse may be used again."""
        with self._thread_lock:
            self.end_duckdb()

    @contextmanager
    def open(self, failure: str = "{} cannot be read") -> Iterator[duckdb.DuckDBPyConnection]:
        """Yields the file's only connection, with the schema in place; closes it and releases the lock on exit.

        `failure` is the text of a `WarehouseError` about the file (`{}`) if DuckDB fails.
        """
        if self._session and self._session[0] == threading.get_ident():
            with self.explained(failure):
                yield self._session[1]
            return
        with self.locked(), self.attached(failure) as connection:
            yield connection

    @contextmanager
    def session(self) -> Iterator[None]:
        """Keeps the file open between several reads and loads of this thread, which would each open it otherwise.

        Every other process waits meanwhile, so a session must neither call Stripe nor publish.
        """
        with self.open() as connection:
            outer, self._session = self._session, (threading.get_ident(), connection)
            try:
                yield
            finally:
                self._session = outer
            if self.unwritten and not outer:
                self.checkpoint(connection)

    @contextmanager
    def locked(self, *, look: bool = False) -> Iterator[None]:
        """Keeps other threads and processes away from the file. A missing file that is only to be read needs no
        lock."""
        look = look or self.read_only
        with self._thread_lock:
            if look:
                self.folder.check_access()
                if not self.folder.private.exists():
                    yield
                    return
            elif not self._prepared:
                self.folder.prepare()
            try:
                self._process_lock.acquire()
            except filelock.Timeout:
                raise WarehouseError(
                    f"Another process has been writing to {self.folder.private} for over {_LOCK_TIMEOUT} seconds",
                    "See whether a stripe-pipeline or Dagster process hangs, and end it",
                ) from None
            except OSError as error:
                raise WarehouseError(
                    f"The lock {self.folder.lock} cannot be taken ({reason(error)})", remedy(error, self.folder.lock)
                ) from error
            try:
                yield
            finally:
                self._process_lock.release()

    @contextmanager
    def attached(
        self, failure: str = "{} cannot be read", *, look: bool = False
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yields the connection to the file, migrated to the settings unless it is only to be read.

        A damaged file is restored: at once if it cannot be opened, else for the next run, and this run fails.
        """
        look = look or self.read_only
        try:
            with self.explained(failure):
                if look:
                    connection = self._attach_to_look()
                else:
                    connection = self.attach()
                    self._prepare(connection)
                yield connection
                connection.execute("USE memory")
                if not self._empty:
                    connection.execute(f"DETACH {CATALOG}")
        except BaseException as error:
            # DuckDB's state is unknown, so it is discarded.
            self.end_duckdb()
            if not look and _is_damaged(self.folder.private, error):
                restored = restore(self.folder, first_line(_origin(error)))
                raise WarehouseError(
                    f"{restored}. This run had begun with the data of the damaged file, and was ended", "Run again"
                ) from None
            raise

    @contextmanager
    def explained(self, failure: str, consequence: str = "") -> Iterator[None]:
        """Turns DuckDB's errors into a `WarehouseError`: the failure, with the file for its `{}`, the reason, the
        consequence and the remedy."""
        try:
            yield
        except (duckdb.Error, OSError) as error:
            message = f"{failure.format(self.folder.private)}: {first_line(error)}"
            raise WarehouseError(
                f"{message}. {consequence}" if consequence else message, _remedy(self.folder, error)
            ) from None

    def _prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Migrates the file to the settings, unless this was done."""
        if self._prepared:
            return
        consequence = "Until this works, fields that the settings leave out may still be in it"
        with self.explained("{} could not be brought to the settings", consequence):
            self.layout.ensure(connection, self.folder.private)
            self.lineage = get_state(connection, LINEAGE)
            if get_state(connection, "compact") in (NOW, AT_ONCE):
                self.compact(connection)
        self._prepared = True

    def compact(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Rewrites the file, so that no erased data is left in it and free space is returned."""
        try:
            rewrite(self.folder, connection)
        except BaseException:
            self.end_duckdb()
            discard(self.folder)
            raise
        self.attach()

    def _duckdb_of_ours(self) -> duckdb.DuckDBPyConnection:
        if self._duckdb is None:
            self._duckdb = start_duckdb(self.folder.spill)
        return self._duckdb

    def attach(self) -> duckdb.DuckDBPyConnection:
        """Attaches the private file. A file that is missing or cannot be opened is restored from the published file; if
        nothing was ever published, a new file is created."""
        private = self.folder.private
        self._detach_empty()
        if not private.exists():
            if stand_ins(self.folder):
                restore(self.folder, "the file is missing")
            else:
                self._make()
        connection = self._duckdb_of_ours()
        try:
            attach(connection, private)
        except duckdb.Error as error:
            if not _is_damaged(self.folder.private, error):
                raise
            connection = self._attach_restored(first_line(error))
        if private.stat().st_size <= _EMPTY_FILE and _is_empty(connection) and stand_ins(self.folder):
            connection = self._attach_restored("it is empty")
        connection.execute(f"USE {CATALOG}")
        return connection

    def _attach_restored(self, why: str) -> duckdb.DuckDBPyConnection:
        self.end_duckdb()
        restore(self.folder, why)
        connection = self._duckdb_of_ours()
        attach(connection, self.folder.private)
        return connection

    def _make(self) -> None:
        """Creates the private file completely or not at all."""
        new_file = self.folder.private.with_name("new.duckdb")
        remove(new_file)
        connection = self._duckdb_of_ours()
        try:
            attach(connection, new_file)
            connection.execute(f"USE {CATALOG}")
            self.layout.ensure(connection, new_file)
            connection.execute("USE memory")
            connection.execute(f"DETACH {CATALOG}")
            new_file.chmod(0o600)
            new_file.replace(self.folder.private)
            self._prepared = True
        except BaseException:
            self.end_duckdb()
            remove(new_file)
            raise

    def _attach_to_look(self) -> duckdb.DuckDBPyConnection:
        """Attaches the private file, or an empty one in memory if the file is missing."""
        private, connection = self.folder.private, self._duckdb_of_ours()
        if private.exists():
            self._detach_empty()
            attach(connection, private)
            if not _is_empty(connection):
                connection.execute(f"USE {CATALOG}")
                return connection
            connection.execute(f"DETACH {CATALOG}")
        if versions := stand_ins(self.folder):
            raise WarehouseError(
                f"The warehouse {private} is missing or empty",
                _restoring(versions[0]),
            )
        if not self._empty:
            connection.execute(f"ATTACH ':memory:' AS {CATALOG}")
            connection.execute(f"USE {CATALOG}")
            self.layout.ensure(connection, private)
            self._empty = True
        connection.execute(f"USE {CATALOG}")
        return connection

    def _detach_empty(self) -> None:
        if self._empty and self._duckdb is not None:
            self._duckdb.execute(f"DETACH {CATALOG}")
        self._empty = False

    def end_duckdb(self) -> None:
        if self._duckdb is not None:
            self._duckdb.close()
            self._duckdb = None
        self._empty = False

    def checkpoint(self, connection: duckdb.DuckDBPyConnection) -> None:
        with self.explained("{} could not be written to the end", "The loaded data is in its write-ahead log"):
            connection.execute(f"CHECKPOINT {CATALOG}")
        self.unwritten = False

    @property
    def in_session(self) -> bool:
        """Whether a thread keeps the file open."""
        return self._session is not None

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows that a SELECT on the private file returns."""
        with self.open() as connection:
            return connection.execute(sql).fetchall()


def _remedy(folder: DataFolder, error: Exception) -> str:
    """What to do about an error of the private file."""
    if folder.private.is_dir():
        return "Move this folder away, then run again"
    if cause_of(error) is Cause.IN_USE:
        return (
            "Another program has it open: close that program, then run again. To query, open"
            f" {folder.published} instead"
        )
    if cause_of(error) is Cause.DAMAGED:  # and opened only to be read
        if versions := stand_ins(folder):
            return _restoring(versions[0])
        return cannot_be_restored(folder).remedy
    return remedy(error, folder.private)


def _restoring(stand_in: StandIn) -> str:
    return (
        f"The next run, such as `stripe-pipeline sync`, restores it from its state of {stand_in}; `stripe-pipeline"
        " clean` removes it, to begin anew"
    )


def _is_empty(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether the attached file has no table."""
    [(tables,)] = connection.execute(
        f"SELECT count(*) FROM duckdb_tables() WHERE database_name = '{CATALOG}'"
    ).fetchall()
    return not tables


def _is_damaged(file: Path, error: BaseException) -> bool:
    """Whether damage to the file led to `error`."""
    return cause_of(error) in (Cause.DAMAGED, Cause.SUSPECT) and not is_whole(file)


def _origin(error: BaseException) -> BaseException:
    """The first of the errors that led to this one."""
    before = error.__cause__ or error.__context__
    return error if before is None else _origin(before)
