"""The folder of everything that the pipeline stores: `data/` unless `STRIPE_PIPELINE_DATA` names another.

This module holds the paths and the removal of all files; who may read the files belongs to `permissions`, and other
modules define the files' contents.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stripe_pipeline.errors import SettingsError, WarehouseError
from stripe_pipeline.lake import Lake, lake_of
from stripe_pipeline.published_folder import NAME, PublishedFolder, published_bucket, published_folder
from stripe_pipeline.storage_errors import Cause, access_remedy, cause_of, data_root, reason, remedy

CATALOG = "stripe"
"""Stem of every database file, and so the name of the catalog in SQL, wherever the file lies."""


@dataclass(frozen=True)
class DataFolder:
    """The layout of the data folder."""

    root: Path
    elsewhere: PublishedFolder | None = None
    """The folder to share, if it is not in the data folder."""
    bucket: str | None = None
    """The place in a bucket, as `s3://bucket/prefix`, that published files are sent to."""
    lake: Lake | None = None
    """The lake that holds the warehouse, if the data folder does not."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ, *, default: str = "data") -> DataFolder:
        """The folder that `STRIPE_PIPELINE_DATA` names, else `default` in the working directory; raises `SettingsError`
        if `STRIPE_PIPELINE_PUBLISH` does not name a folder that can be shared, or `STRIPE_PIPELINE_WAREHOUSE` no lake,
        or if both a lake and a bucket are named."""
        return cls.at(data_root(environment, default=default), environment)

    @classmethod
    def at(cls, root: Path, environment: Mapping[str, str] = os.environ) -> DataFolder:
        """The data folder `root`; raises `SettingsError` as `from_environment`."""
        bucket, lake = published_bucket(environment), lake_of(environment)
        if bucket and lake:
            raise SettingsError(
                "STRIPE_PIPELINE_PUBLISH names a bucket, but the tables are in a lake, of which no file is published",
                "Unset STRIPE_PIPELINE_PUBLISH: readers attach the lake, see docs/ducklake.md",
            )
        return cls(root, published_folder(root, environment), bucket, lake)

    @property
    def shared(self) -> PublishedFolder:
        """The folder to share."""
        return self.elsewhere or PublishedFolder(self.root / "published")

    @property
    def published(self) -> Path:
        """The file that analysts open: a symlink to the newest version in the published folder."""
        return self.root / NAME

    @property
    def versions(self) -> Path:
        """Immutable copies of the warehouse, one folder each."""
        return self.shared.versions

    @property
    def earlier_places(self) -> tuple[PublishedFolder, ...]:
        """Other folders that versions and certificates may still lie in: where an earlier release kept these, and where
        `STRIPE_PIPELINE_PUBLISH` pointed before."""
        places = [PublishedFolder(self.root), PublishedFolder(self.root / "published")]
        with contextlib.suppress(OSError):
            target = self.root / self.published.readlink()
            if target.name == NAME and not target.is_relative_to(self.root / "versions"):
                places.append(PublishedFolder(target.parent))
        mine = self.shared.root.resolve()
        return tuple({place.root.resolve(): place for place in places if place.root.resolve() != mine}.values())

    @property
    def private(self) -> Path:
        """The warehouse that the pipeline writes. Any other process that opens the file blocks the pipeline."""
        return self.root / "private" / f"{CATALOG}.duckdb"

    @property
    def damaged(self) -> Path:
        """Where a damaged private file is moved for inspection; only the latest one is kept."""
        return self.private.with_name("damaged.duckdb")

    @property
    def spill(self) -> Path:
        """DuckDB's temporary files; empty while DuckDB is idle."""
        return self.root / "private" / "temp"

    @property
    def lock(self) -> Path:
        """The lock of the one process that has the private file open."""
        return self.root / "private" / "writer.lock"

    @property
    def publish_lock(self) -> Path:
        """The lock of the one process that publishes."""
        return self.root / "private" / "publish.lock"

    def rates(self, *, livemode: bool) -> Path:
        """The recent use of Stripe's rate limits by all processes that use this folder."""
        return self.root / "private" / f"rates-{'live' if livemode else 'test'}.json"

    @property
    def publishing(self) -> Path:
        """When the published file was last renewed and how long that took, for all processes that use this folder."""
        return self.root / "private" / "publishing.json"

    @property
    def sent(self) -> Path:
        """The version that was last sent to the bucket."""
        return self.root / "private" / "sent.json"

    @property
    def spool(self) -> Path:
        """Rows on their way from Stripe to the warehouse; empty between runs."""
        return self.root / "spool"

    @property
    def inbox(self) -> Path:
        """The SQLite file of waiting notifications."""
        return self.root / "inbox.sqlite"

    @property
    def hash_key(self) -> Path:
        """The key for hashing fields, unless the environment sets another."""
        return self.root / "hash.key"

    @property
    def running(self) -> Path:
        """Locked by the `demo` or `dev` that uses this folder."""
        return self.root / "running.lock"

    @property
    def stopping(self) -> Path:
        """Exists while `demo` or `dev` shuts down; the sensor then stops waiting."""
        return self.root / "stopping"

    @property
    def runs(self) -> Path:
        """A lock file for each active run, by its id."""
        return self.root / "runs"

    @property
    def logs(self) -> Path:
        """The output of the processes that `demo` and `dev` start."""
        return self.root / "logs"

    def prepare(self) -> None:
        """Create the folders, each for its owner only. Raises `WarehouseError` if they cannot be created or written, or
        if files in them belong to another user."""
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.shared.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in (*self.shared.folders, *self.private_folders):
                folder.mkdir(exist_ok=True, mode=0o700)
            for folder in (self.root, *self.shared.folders, *self.private_folders):
                with tempfile.TemporaryFile(dir=folder):
                    pass
            self.shared.take_certificates(place.certificates for place in self.earlier_places)
        except OSError as error:
            raise WarehouseError(
                f"The data folder {self.root} cannot be written ({reason(error)}: {error.filename or self.root})",
                remedy(error, self.root)
                if cause_of(error) in (Cause.FULL, Cause.DENIED)
                else "Give this user read and write access to it, or name another folder in STRIPE_PIPELINE_DATA",
            ) from error
        self.check_access()

    def check_access(self) -> None:
        """Raise `WarehouseError` if this user may not use a file or folder of the pipeline here."""
        for path in (self.root, *self.private_folders, *self.private_files):
            try:
                # A folder must be searched to tell whether a file is in it.
                needed = os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)
                usable = not path.exists() or os.access(path, needed)
            except PermissionError:
                usable = False
            if not usable:
                raise WarehouseError(f"{path} cannot be read and written by this user", access_remedy(path))

    def contents(self) -> list[Path]:
        """The pipeline's files and folders, those in the published folder first.

        Where the pipeline never ran, only empty folders count: other programs may use these names, too.
        """
        # Versions are removed before the private file: if this is interrupted, no version must be left to restore from.
        places = (self.shared, *self.earlier_places)
        # A report directly in the data folder is not the pipeline's.
        known = [path for place in places for path in place.contents() if path != self.root / self.shared.report.name]
        known += [place.root for place in places if place.root.parent == self.root and place.holds_only_ours()]
        known += [self.published, self.published.with_suffix(".next"), self.private.parent, self.spool]
        known += [
            self.logs,
            self.runs,
            self.running,
            self.stopping,
            self.hash_key,
            self.root / "demo.yaml",
        ]
        known += sorted(self.root.glob(f"{self.inbox.name}*"))
        marks = (self.lock, self.private, self.damaged, self.inbox, self.running, self.published)
        ran_here = any(mark.is_symlink() or mark.exists() for mark in marks)
        existing = [path for path in dict.fromkeys(known) if path.is_symlink() or path.exists()]
        return [
            path
            for path in existing
            if ran_here or (path.is_dir() and all(below.is_dir() for below in path.rglob("*")))
        ]

    def clear(self, *, keep: Collection[Path] = ()) -> list[Path]:
        """Remove the pipeline's files, and the folders if no other files are in them; returns the other files.

        Raises `WarehouseError`.
        """
        try:
            for path in self.contents():
                if path in keep:
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            others = self.others()
            if not others and not keep and not self.root.is_symlink():
                with contextlib.suppress(OSError):  # a mount point, for example
                    self.root.rmdir()
        except OSError as error:
            raise WarehouseError(
                f"The data folder {self.root} could not be cleaned ({reason(error)}: {error.filename})",
                remedy(error, self.root),
            ) from error
        return others

    def others(self) -> list[Path]:
        """The other files and folders in the data folder."""
        ours = set(self.contents())
        return sorted(path for path in self.root.iterdir() if path not in ours) if self.root.is_dir() else []

    @property
    def private_folders(self) -> tuple[Path, ...]:
        """Folders that only the owner may access."""
        return (self.private.parent, self.spool, self.logs, self.runs)

    @property
    def private_files(self) -> Iterator[Path]:
        """Files that only the owner may access, whether they exist or not."""
        yield from (self.private, self.private.with_name(f"{self.private.name}.wal"))
        yield from (self.lock, self.publish_lock, self.hash_key, self.running)
        yield from (self.rates(livemode=True), self.rates(livemode=False), self.publishing)
        yield from (self.sent, self.sent.with_suffix(".lock"))
        yield from (self.inbox.with_name(f"{self.inbox.name}{suffix}") for suffix in ("", "-wal", "-shm", ".lock"))
