"""The store in a DuckDB file, the private file: which process may open it and when, and restoring a damaged file.

This module opens and closes the file. Writing to the file belongs to `load`, its layout to `schema`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import filelock

from stripe_pipeline.data_folder import CATALOG, DataFolder
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.storage_errors import Cause, cause_of, reason, remedy
from stripe_pipeline.warehouse.compaction import discard, is_due, rewrite
from stripe_pipeline.warehouse.file_state import AT_ONCE, LINEAGE, NOW, get_state
from stripe_pipeline.warehouse.merge import first_line
from stripe_pipeline.warehouse.recovery import (
    StandIn,
    cannot_be_restored,
    is_whole,
    read_through,
    remove,
    restore,
    stand_ins,
)
from stripe_pipeline.warehouse.schema import Layout
from stripe_pipeline.warehouse.sql import attach
from stripe_pipeline.warehouse.store import LOCK_TIMEOUT, Store

_EMPTY_FILE = 12_288  # bytes of a database without tables


class PrivateFile(Store):
    """The private DuckDB file."""

    def __init__(self, folder: DataFolder, layout: Layout, *, read_only: bool) -> None:
        super().__init__(folder, layout, read_only=read_only)
        self._process_lock = filelock.FileLock(folder.lock, timeout=LOCK_TIMEOUT, thread_local=False, mode=0o600)
        self._empty = False
        """Whether an empty warehouse in memory is attached instead of the file, which is missing."""

    @property
    def place(self) -> str:
        """The path of the file."""
        return str(self.folder.private)

    def exists(self) -> bool:
        """Whether there is the file."""
        return self.folder.private.exists()

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
                with self._waiting():
                    self._process_lock.acquire()
            except filelock.Timeout:
                raise WarehouseError(
                    f"Another process has been writing to {self.folder.private} for over {LOCK_TIMEOUT} seconds",
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

    def _prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Migrates the file to the settings, unless this was done."""
        if self._prepared:
            return
        consequence = "Until this works, fields that the settings leave out may still be in it"
        with self.explained("{} could not be brought to the settings", consequence):
            self.layout.ensure(connection, self.place)
            self.lineage = get_state(connection, LINEAGE)
            if get_state(connection, "compact") in (NOW, AT_ONCE):
                self.compact(connection)
        self._prepared = True

    def settle(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Writes the write-ahead log into the file."""
        connection.execute(f"CHECKPOINT {CATALOG}")

    def examine(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Reads the whole file: a damaged block is found while an undamaged published version may still exist."""
        read_through(connection)

    def compact(self, connection: duckdb.DuckDBPyConnection, *, if_due: bool = False) -> None:
        """Copies everything into a new file; `if_due`: if data was erased, or half of the file is free."""
        if if_due and not is_due(connection):
            return
        try:
            rewrite(self.folder, connection)
        except BaseException:
            self.end_duckdb()
            discard(self.folder)
            raise
        self.attach()

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
        connection = self.duckdb_of_ours()
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
        connection = self.duckdb_of_ours()
        attach(connection, self.folder.private)
        return connection

    def _make(self) -> None:
        """Creates the private file completely or not at all."""
        new_file = self.folder.private.with_name("new.duckdb")
        remove(new_file)
        connection = self.duckdb_of_ours()
        try:
            attach(connection, new_file)
            connection.execute(f"USE {CATALOG}")
            self.layout.ensure(connection, str(new_file))
            connection.execute(f"CHECKPOINT {CATALOG}")  # DETACH would hide an error, and leave the content behind
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
        private, connection = self.folder.private, self.duckdb_of_ours()
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
            self.layout.ensure(connection, str(private))
            self._empty = True
        connection.execute(f"USE {CATALOG}")
        return connection

    def _detach_empty(self) -> None:
        if self._empty and self._duckdb is not None:
            self._duckdb.execute(f"DETACH {CATALOG}")
        self._empty = False

    def end_duckdb(self) -> None:
        """Ends DuckDB, and with it everything that is attached."""
        super().end_duckdb()
        self._empty = False

    def remedy(self, error: Exception) -> str:
        """What to do about an error of the private file."""
        return _remedy(self.folder, error)


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
