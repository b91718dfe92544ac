"""The database of the inbox: its connections, its SQLite file, and the meaning of its errors.

This module opens transactions, in SQLite and in Postgres. `tables` defines the tables, `inbox` their content, and
`owner` the warehouse they belong to.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import filelock
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from stripe_pipeline import postgres
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import SettingsError, WarehouseError
from stripe_pipeline.inbox.tables import lacking, make_tables
from stripe_pipeline.sqlite_files import sqlite_cause_of
from stripe_pipeline.storage_errors import Cause

_PAUSE = 0.01  # seconds before a retry where SQLite itself does not wait
_POSTGRES_DISK_FULL = "53100"  # of SQLSTATE
_POSTGRES_LOCK = 0x57121BE  # any number that nothing else in the database locks while it changes its tables


class Database:
    """SQLite in the data folder, or the database that `url` names; thread-safe.

    `url` and `patience` as in `Inbox`. Raises `SettingsError` if `url` is not an address of SQLite or Postgres, or if a
    pooler shares Postgres's sessions. All methods raise `WarehouseError` if the database fails.
    """

    def __init__(self, folder: DataFolder, url: str | None, *, patience: float = 60.0) -> None:
        self._url = parse_url(url) if url else sa.URL.create("sqlite", database=str(folder.inbox))
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self._patience = patience
        self._path = _path_of(self._url) if self.is_sqlite else None
        self._file: tuple[int, int] | None = None
        # SQLite's files only: no connection is in use while the file is reopened.
        self._one_at_a_time = threading.RLock()
        try:
            # Connections stay open, so that asking whether something is due costs no more than the query.
            self.engine = (
                sa.create_engine(self._url, connect_args={"timeout": patience})
                if self.is_sqlite
                else postgres.engine(self._url, pool_pre_ping=True)
            )
        except ImportError:
            raise SettingsError(
                "STRIPE_PIPELINE_INBOX names a Postgres database, but the client for it is not installed",
                'Install the client: pip install "psycopg[binary]"',
            ) from None
        if self.is_sqlite:
            sa.event.listen(self.engine, "connect", lambda connection, _: _make_durable(connection))
        try:
            with self.errors():
                self._make()
        except BaseException:
            self.engine.dispose()
            raise

    @property
    def address(self) -> str:
        """The address to show, without the password."""
        return self._url.render_as_string()

    def insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """An INSERT that supports ON CONFLICT."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection for reading."""
        with self.errors(), self._one_at_a_time if self._path else nullcontext():
            self._follow_file()
            with self.engine.connect() as connection:
                yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction, which is durable once it has ended."""
        with self.errors(), self._one_at_a_time if self._path else nullcontext():
            self._follow_file()
            with self.engine.begin() as connection:
                yield connection
            if self._path is not None and _file_id(self._path) != self._file:
                raise WarehouseError(
                    f"The inbox {self._path} was moved away or replaced while it was written", "Try again"
                )

    def session(self, purpose: str) -> sa.Connection:
        """A connection of its own, which is not pooled, for locks of the session. Postgres shows the purpose."""
        connection = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            connection.detach()
            connection.execute(sa.select(sa.func.set_config("application_name", f"stripe_pipeline {purpose}", False)))
        except BaseException:
            connection.close()
            raise
        return connection

    def lock(self, connection: sa.Connection) -> None:
        """Block all other callers of this method until the transaction ends."""
        if self.is_sqlite:
            self.begin_writing(connection)
        else:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_POSTGRES_LOCK)))

    def begin_writing(self, connection: sa.Connection) -> None:
        """Make SQLite block other writers between the next read and the write that follows.

        Postgres locks the rows that are read instead (`with_for_update`).
        """
        if self.is_sqlite:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    def _make(self) -> None:
        """Create the tables, or add the columns and indexes that tables of an older version lack."""
        if self._path is not None:
            _begin_file(self._path)
        with self.engine.connect() as connection:
            if self.is_sqlite:
                # Readers and the one writer do not block each other.
                self._write_ahead(connection)
            else:
                self._require_session(connection)
            if self._path is not None:
                self._file = _file_id(self._path)
            if not lacking(connection):
                return
        with self.engine.begin() as connection:
            # Several processes may start at once: one creates the tables, the others wait here and check again.
            self.lock(connection)
            make_tables(connection)

    def _require_session(self, connection: sa.Connection) -> None:
        """Raise `SettingsError` if a pooler gives Postgres's sessions to several clients."""

        @contextmanager
        def another() -> Iterator[Any]:
            with self.engine.connect() as other:
                yield other.connection.driver_connection

        own: Any = connection.connection.driver_connection
        postgres.require_session(own, another, f"The inbox at {self.address}", "STRIPE_PIPELINE_INBOX")

    def _write_ahead(self, connection: sa.Connection) -> None:
        """Turn on write-ahead logging, with retries: for this pragma SQLite does not wait for other processes."""
        ends = time.monotonic() + self._patience
        while True:
            try:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            except sa.exc.OperationalError as error:
                if getattr(error.orig, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY or time.monotonic() > ends:
                    raise
                time.sleep(_PAUSE)
            else:
                return

    def _follow_file(self) -> None:
        """Reopen SQLite's file if it was moved away or replaced: nobody reads rows written to the old file."""
        if self._path is not None and _file_id(self._path) != self._file:
            self.engine.dispose()
            self._make()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Translate the database's errors to ours, without SQL, values or passwords."""
        try:
            yield
        except OSError as error:
            raise WarehouseError(
                f"The inbox {self._path} cannot be created ({error.strerror})",
                "Give this user write access to its folder, or free disk space if it ran out",
            ) from None
        except sa.exc.SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            reason = " ".join(str(cause).split())
            # A driver may name the address it could not use.
            password = str(self._url.password or "")
            for secret in {password, quote(password), quote_plus(password)} - {""}:
                reason = reason.replace(secret, "…")
            if self.is_sqlite:
                raise self._explained(sqlite_cause_of(cause), reason) from None
            full = getattr(cause, "sqlstate", None) == _POSTGRES_DISK_FULL
            raise WarehouseError(
                f"The inbox at {self.address} cannot be used ({reason})",
                "Free disk space on the database's server"
                if full
                else "Check STRIPE_PIPELINE_INBOX, and that this user may create and write tables there",
            ) from None

    def _explained(self, cause: Cause, reason: str) -> WarehouseError:
        """The error for SQLite's `reason`, with what to do about its cause."""
        file = self._url.database
        name = Path(file or "").name
        match cause:
            case Cause.FULL:
                problem = f"The disk has no space left for the inbox {file}"
                remedy = (
                    "Free disk space. Stripe sends again the events that could not be stored, and the next sync finds"
                    " them, too"
                )
            case Cause.IO:
                problem = f"The inbox {file} could not be read or written"
                remedy = "Free disk space if it ran out, else check the disk"
            case Cause.DENIED:
                problem = f"The inbox {file} cannot be opened or written"
                remedy = "Give this user write access to the file and its folder"
            case Cause.IN_USE:
                problem = f"Another process kept the inbox {file} locked for over {self._patience:.0f} seconds"
                remedy = "Stop a stripe-pipeline or Dagster process that hangs, then try again"
            case _:
                damaged = cause is Cause.DAMAGED
                problem = f"The inbox {file} {'is damaged' if damaged else 'cannot be used'}"
                remedy = (
                    f"Stop the processes that use the inbox (`dev`, `webhooks serve`), move it away together with"
                    f" {name}-wal and {name}-shm, and start the processes again: the next sync creates a new inbox and"
                    " reads Stripe's events of the last 30 days again"
                )
        return WarehouseError(f"{problem} ({reason})", remedy)


def is_postgres(url: str) -> bool:
    """Whether `url` is an address of Postgres; raises `SettingsError` as `parse_url` does."""
    return parse_url(url).get_backend_name() == "postgresql"


def parse_url(url: str) -> sa.URL:
    """`url` with the driver that the project uses. Raises `SettingsError` if it is neither SQLite nor Postgres."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.SQLAlchemyError, ValueError):  # their messages show the password
        parsed = None
    backend = parsed.get_backend_name() if parsed else None
    # If a password is not encoded, a part of it would be taken for the host or the database, and be shown.
    if not parsed or backend not in ("sqlite", "postgresql", "postgres") or "@" in f"{parsed.host}{parsed.database}":
        raise SettingsError(
            "STRIPE_PIPELINE_INBOX is not the address of a usable database",
            "Give an address like postgresql://user:password@host/database (with %40 for an @ in the password),"
            " or unset it to keep the inbox in the data folder",
        )
    return parsed if backend == "sqlite" else parsed.set(drivername="postgresql+psycopg")


def _make_durable(connection: Any) -> None:
    """SQLite: a commit is on the disk before it returns, even in WAL mode and if the machine loses power."""
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")  # otherwise macOS leaves the data in the drive's cache


def _path_of(url: sa.URL) -> Path | None:
    """The file of an SQLite database; None for one in memory or named by a URI of SQLite's."""
    return None if not url.database or url.database.startswith((":", "file:")) else Path(url.database)


def _file_id(path: Path) -> tuple[int, int] | None:
    """The identity of the file at this path; None if the file does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _begin_file(path: Path) -> None:
    """Create an empty file if none exists, and remove SQLite's side files of a file that was moved away.

    Only the owner may access the file; SQLite gives the side files the same mode.
    """
    if path.exists():
        return
    with filelock.FileLock(f"{path}.lock", mode=0o600):
        if not path.exists():
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            path.touch(mode=0o600)
