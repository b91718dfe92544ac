"""Removing everything that the pipeline keeps: the data folder's contents, the inbox, and Dagster's history.

`runs` asks for confirmation and prints.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType

import filelock

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import SettingsError, StripePipelineError, WarehouseError
from stripe_pipeline.inbox.inbox import Inbox
from stripe_pipeline.run_locks import SUFFIX
from stripe_pipeline.sqlite_files import sqlite_cause_of
from stripe_pipeline.storage_errors import Cause, reason, remedy
from stripe_pipeline.warehouse.warehouse import Warehouse


class Cleaning:
    """The data to remove. During the `with` block no `demo`, `dev` or run can start to use the data.

    `history` is the folder that Dagster keeps its storage in; None to leave it. Raises `SettingsError` if a process is
    using the folder, and other `StripePipelineError`s if it may not be read.
    """

    def __init__(self, folder: DataFolder, inbox_url: str | None, *, history: Path | None) -> None:
        self.folder = folder
        self._history = history if history and history.is_dir() else None
        self._inbox_url = inbox_url
        self._locks = ExitStack()
        self.items: list[str] = []
        """What would be removed, a line each; empty if there is nothing to remove."""

    def __enter__(self) -> Cleaning:
        if self.folder.lake:
            raise SettingsError(
                "The warehouse is in a lake, which other hosts may use; `clean` removes only what is on this one",
                "Stop all hosts, drop the database that STRIPE_PIPELINE_WAREHOUSE names, and remove the files in"
                f" {self.folder.lake.data}. Then unset STRIPE_PIPELINE_WAREHOUSE and run `stripe-pipeline clean` on"
                " each host",
            )
        try:
            if self.folder.contents():
                self.folder.check_access()
                self._claim()
                self.items.append(
                    f"the data folder {self.folder.root}: {self._held()}, {_size(self.folder.contents())}"
                )
                for lock in (self.folder.publish_lock, self.folder.lock):
                    self._lock(lock, "a run")
                if self.folder.hash_key.exists():
                    self.items.append(f"the key that fields are hashed with, {self.folder.hash_key}")
            if self._inbox_url and (waiting := self._waiting_elsewhere()):
                self.items.append(waiting)
            if self._history:
                self.items.append(f"Dagster's history of runs and partitions in {self._history}")
        except BaseException:
            self._locks.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._locks.close()

    def remove(self) -> list[Path]:
        """Remove the data; returns the other files in the data folder. After a `WarehouseError` cleaning can be
        repeated."""
        if self._inbox_url:
            inbox = Inbox(self.folder, self._inbox_url)
            try:
                inbox.clear()
            finally:
                inbox.close()
        if self._history:
            try:
                shutil.rmtree(self._history)
            except OSError as error:
                raise WarehouseError(
                    f"Dagster's history in {self._history} could not be removed ({reason(error)})",
                    remedy(error, self._history),
                ) from error
        return self.folder.clear()

    def _claim(self) -> None:
        """Lock out all long-running users of the folder; raises `SettingsError` if one is active."""
        self._lock(self.folder.running, "`stripe-pipeline demo` or `dev`")
        for lock in (*self.folder.runs.glob(f"*{SUFFIX}"), *self.folder.spool.glob(f"*{SUFFIX}")):
            self._lock(lock, "a run")
        if self.folder.inbox.exists() and _is_open(self.folder.inbox):
            raise SettingsError(
                f"The inbox {self.folder.inbox} is in use, by `stripe-pipeline webhooks serve` or by Dagster",
                "Stop it first",
            )

    def _lock(self, lock: Path, user: str) -> None:
        if not lock.parent.is_dir():
            return
        try:
            self._locks.enter_context(filelock.FileLock(lock, timeout=0, mode=0o600))
        except filelock.Timeout:
            raise SettingsError(f"The data folder {self.folder.root} is in use by {user}", "Stop it first") from None

    def _held(self) -> str:
        """The accounts of the data, and the number of rows."""
        warehouse = Warehouse(self.folder, read_only=True)
        try:
            accounts = sorted(warehouse.keys.accounts())
            rows = warehouse.rows.number()
        except StripePipelineError:
            return "an unknown account, because the warehouse cannot be read"
        finally:
            warehouse.close()
        return f"{rows:,} rows of {', '.join(accounts)}" if accounts else "no account's data yet"

    def _waiting_elsewhere(self) -> str | None:
        inbox = Inbox(self.folder, self._inbox_url)
        try:
            hosts = inbox.presence.hosts()
            summary = inbox.summary()
        finally:
            inbox.close()
        if hosts:
            raise SettingsError(
                f"The inbox that STRIPE_PIPELINE_INBOX names is in use by a process on host {', '.join(hosts)}",
                "Stop it first",
            )
        return (
            f"the inbox that STRIPE_PIPELINE_INBOX names, with {summary.waiting + summary.dead} unapplied notifications"
        )


def _is_open(inbox: Path) -> bool:
    """Whether another process has this SQLite file open: only the last process may turn write-ahead logging off."""
    try:
        with closing(sqlite3.connect(inbox, timeout=0)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        return sqlite_cause_of(error) is Cause.IN_USE
    return False


def _size(paths: list[Path]) -> str:
    files = [file for path in paths for file in (path, *path.rglob("*")) if file.is_file() and not file.is_symlink()]
    return f"{sum(file.stat().st_size for file in files) / 1e6:,.1f} MB"
