"""Where everything the pipeline stores lies: one folder, `data/` unless `STRIPE_PIPELINE_DATA` names another.

Only paths and whether the folder can be used belong here; what is in the files belongs to their modules.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from stripe_pipeline.errors import WarehouseError

CATALOG = "stripe"
"""Stem of every database file, and so the name of the catalog in SQL, wherever the file lies."""


@dataclass(frozen=True)
class DataFolder:
    """The layout of the data folder."""

    root: Path

    @classmethod
    def from_environment(cls) -> DataFolder:
        """The folder that `STRIPE_PIPELINE_DATA` names, else `data` in the working directory."""
        return cls(Path(os.environ.get("STRIPE_PIPELINE_DATA") or "data").expanduser().absolute())

    @property
    def published(self) -> Path:
        """What analysts open: a symlink to the newest version."""
        return self.root / f"{CATALOG}.duckdb"

    @property
    def versions(self) -> Path:
        """Immutable copies of the warehouse, one folder each."""
        return self.root / "versions"

    @property
    def private(self) -> Path:
        """The warehouse that the pipeline writes. Nobody else opens it: whoever does blocks the pipeline."""
        return self.root / "private" / f"{CATALOG}.duckdb"

    @property
    def spill(self) -> Path:
        """What DuckDB puts on the disk while it works; empty when it does not."""
        return self.root / "private" / "temp"

    @property
    def lock(self) -> Path:
        """Held by the one process that has the private file open."""
        return self.root / "private" / "writer.lock"

    def rates(self, *, livemode: bool) -> Path:
        """How much of Stripe's limits was used in the last seconds, by all processes that use this folder."""
        return self.root / "private" / f"rates-{'live' if livemode else 'test'}.json"

    @property
    def spool(self) -> Path:
        """Rows on their way from Stripe to the warehouse; empty between runs."""
        return self.root / "spool"

    @property
    def inbox(self) -> Path:
        """The SQLite file of waiting pokes."""
        return self.root / "inbox.sqlite"

    @property
    def hash_key(self) -> Path:
        """What fields are hashed with, unless the environment gives another."""
        return self.root / "hash.key"

    @property
    def running(self) -> Path:
        """Locked by the `demo` or `dev` that uses this folder."""
        return self.root / "running.lock"

    @property
    def stopping(self) -> Path:
        """There while the `demo` or `dev` that uses this folder ends: who waits for news goes on without."""
        return self.root / "stopping"

    @property
    def runs(self) -> Path:
        """A lock for each run that is at work, by its id."""
        return self.root / "runs"

    @property
    def logs(self) -> Path:
        """What the processes that `demo` and `dev` start print."""
        return self.root / "logs"

    def prepare(self) -> None:
        """Make the folders. Raises `WarehouseError` if they cannot be made or written."""
        try:
            for folder in (self.root, self.versions, self.private.parent, self.spool, self.logs, self.runs):
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    pass
        except OSError as error:
            raise WarehouseError(
                f"The data folder {folder} cannot be written ({error.strerror})",
                "Give this user write access to it, or name another folder in STRIPE_PIPELINE_DATA",
            ) from error
