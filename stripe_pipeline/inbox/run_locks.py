"""Locks of active runs: in the inbox's database if that is Postgres, so that every host sees them, else in the data
folder.

This module knows where the locks are. What a run without its lock means belongs to `assets.run_locks`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.inbox.database import Database, is_postgres
from stripe_pipeline.inbox.holders import Holders, Kind
from stripe_pipeline.run_locks import SUFFIX, abandoned, holding


class RunLocks:
    """The locks of the runs that use this data folder, with the inbox at `url` as in `Inbox`.

    Every method raises `WarehouseError` if the database fails.
    """

    def __init__(self, folder: DataFolder, url: str | None) -> None:
        self._folder = folder
        self._url = url if url and is_postgres(url) else None

    @contextmanager
    def holding(self, run_id: str) -> Iterator[None]:
        """Hold the lock of this run, which is released when the process ends."""
        if self._url is None:
            with holding(self._folder.runs / f"{run_id}{SUFFIX}"):
                yield
            return
        with closing(Database(self._folder, self._url)) as database, Holders(database).holding(Kind.RUN, run_id):
            database.close()  # the connections that idle until the run ends; the lock has one of its own
            yield

    def exists(self, run_id: str) -> bool:
        """Whether there is a lock of this run, held or abandoned."""
        if (self._folder.runs / f"{run_id}{SUFFIX}").exists():
            return True
        if self._url is None:
            return False
        with closing(Database(self._folder, self._url)) as database:
            return Holders(database).exist(run_id)

    def abandoned(self) -> Iterator[str]:
        """The ids of runs whose process is gone. Each lock is held while the caller deals with the run, then removed.

        A lock in the data folder may be from before the inbox was in Postgres.
        """
        for file in abandoned(self._folder.runs):
            yield file.stem
        if self._url is not None:
            with closing(Database(self._folder, self._url)) as database:
                yield from Holders(database).abandoned(Kind.RUN)
