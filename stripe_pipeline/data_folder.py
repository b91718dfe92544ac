"""The folder of everything that the pipeline stores: `data/` unless `STRIPE_PIPELINE_DATA` names another.

This module holds the paths, their permissions and the removal of all files; other modules define the files' contents.

Only the owner may access the files (folders 0700, files 0600), except the published file and its versions, which the
setting `published.readable_by` opens to the group of the data folder or to everyone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.storage_errors import Cause, access_remedy, cause_of, data_root, reason, remedy

CATALOG = "stripe"
"""Stem of every database file, and so the name of the catalog in SQL, wherever the file lies."""

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Readers(StrEnum):
    """Who may read the published file."""

    OWNER = "owner"
    GROUP = "group"
    EVERYONE = "everyone"

    @property
    def folder_mode(self) -> int:
        """The mode of the data folder, of `versions` and of each version, which these users need to reach the file."""
        return {Readers.OWNER: 0o700, Readers.GROUP: 0o750, Readers.EVERYONE: 0o755}[self]

    @property
    def file_mode(self) -> int:
        """The mode of a published file, which is read-only."""
        return {Readers.OWNER: 0o400, Readers.GROUP: 0o440, Readers.EVERYONE: 0o444}[self]


@dataclass(frozen=True)
class DataFolder:
    """The layout of the data folder."""

    root: Path

    @classmethod
    def from_environment(cls) -> DataFolder:
        """The folder that `STRIPE_PIPELINE_DATA` names, else `data` in the working directory."""
        return cls(data_root())

    @property
    def published(self) -> Path:
        """The file that analysts open: a symlink to the newest version."""
        return self.root / f"{CATALOG}.duckdb"

    @property
    def versions(self) -> Path:
        """Immutable copies of the warehouse, one folder each."""
        return self.root / "versions"

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

    def rates(self, *, livemode: bool) -> Path:
        """The recent use of Stripe's rate limits by all processes that use this folder."""
        return self.root / "private" / f"rates-{'live' if livemode else 'test'}.json"

    @property
    def publishing(self) -> Path:
        """When the published file was last renewed and how long that took, for all processes that use this folder."""
        return self.root / "private" / "publishing.json"

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
            for folder in (self.versions, *self._private_folders):
                folder.mkdir(exist_ok=True, mode=0o700)
            for folder in (self.root, self.versions, *self._private_folders):
                with tempfile.TemporaryFile(dir=folder):
                    pass
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
        for path in (self.root, *self._private_folders, *self._private_files):
            try:
                # A folder must be searched to tell whether a file is in it.
                needed = os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)
                usable = not path.exists() or os.access(path, needed)
            except PermissionError:
                usable = False
            if not usable:
                raise WarehouseError(f"{path} cannot be read and written by this user", access_remedy(path))

    def restrict(self, readers: Readers) -> bool:
        """Give all files and folders here their proper modes; True if others had more access than `readers` allows.

        Files of other users stay as they are, and so does the data folder itself if it holds other files: it may be a
        home folder.
        """
        opened = _set_mode(self.versions, readers.folder_mode)
        if not self._others():
            opened |= _set_mode(self.root, readers.folder_mode)
        for folder in self._private_folders:
            opened |= _set_mode(folder, 0o700)
        for file in self._private_files:
            opened |= _set_mode(file, 0o600)
        for version in self.versions.iterdir() if self.versions.is_dir() else ():
            opened |= self.open_version(version, readers)
        return opened

    def open_version(self, version: Path, readers: Readers) -> bool:
        """Let `readers` read this version of the published file; True if others could read it before."""
        if readers is Readers.GROUP:
            self._give_to_group(self.versions, version, *version.glob("*.duckdb"))
        opened = [_set_mode(file, readers.file_mode) for file in version.glob("*.duckdb")]
        return _set_mode(version, readers.folder_mode) or any(opened)

    def _give_to_group(self, *paths: Path) -> None:
        """Give these paths to the data folder's group: new files in a folder without the set-group-ID bit get the
        process's group."""
        group = self.root.stat().st_gid
        for path in paths:
            with contextlib.suppress(OSError):  # another user's file, or this user is not in that group
                if path.stat().st_gid != group:
                    os.chown(path, -1, group)

    def contents(self) -> list[Path]:
        """The pipeline's files and folders directly below the data folder.

        Where the pipeline never ran, only empty folders count: other programs may use these names, too.
        """
        # Versions are removed before the private file: if this is interrupted, no version must be left to restore from.
        known = [self.published, self.published.with_suffix(".next"), self.versions, self.private.parent, self.spool]
        known += [self.logs, self.runs, self.running, self.stopping, self.hash_key, self.root / "demo.yaml"]
        known += sorted(self.root.glob(f"{self.inbox.name}*"))
        marks = (self.lock, self.private, self.damaged, self.inbox, self.running, self.published)
        ran_here = any(mark.is_symlink() or mark.exists() for mark in marks)
        existing = [path for path in known if path.is_symlink() or path.exists()]
        return [path for path in existing if ran_here or (path.is_dir() and not any(path.iterdir()))]

    def clear(self, *, keep: Collection[Path] = ()) -> list[Path]:
        """Remove the pipeline's files, and the folder if no other files are in it; returns the other files.

        Raises `WarehouseError`.
        """
        try:
            for path in self.contents():
                if path in keep:
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            others = self._others()
            if not others and not keep and not self.root.is_symlink():
                with contextlib.suppress(OSError):  # a mount point, for example
                    self.root.rmdir()
        except OSError as error:
            raise WarehouseError(
                f"The data folder {self.root} could not be cleaned ({reason(error)}: {error.filename})",
                remedy(error, self.root),
            ) from error
        return others

    def _others(self) -> list[Path]:
        """The other files and folders in the data folder."""
        ours = set(self.contents())
        return sorted(path for path in self.root.iterdir() if path not in ours) if self.root.is_dir() else []

    @property
    def _private_folders(self) -> tuple[Path, ...]:
        return (self.private.parent, self.spool, self.logs, self.runs)

    @property
    def _private_files(self) -> Iterator[Path]:
        yield from (self.private, self.private.with_name(f"{self.private.name}.wal"))
        yield from (self.lock, self.hash_key, self.running)
        yield from (self.rates(livemode=True), self.rates(livemode=False), self.publishing)
        yield from (self.inbox.with_name(f"{self.inbox.name}{suffix}") for suffix in ("", "-wal", "-shm", ".lock"))


def _set_mode(path: Path, mode: int) -> bool:
    """Set the mode of `path` if it exists; True if its old mode gave other users more access than `mode`."""
    with contextlib.suppress(OSError):  # missing, or another user's file
        before = stat.S_IMODE(path.stat().st_mode)
        if before & 0o777 != mode:
            path.chmod(mode | before & ~0o777)  # keeps the set-group-ID bit
            return bool(before & ~mode & _OTHERS)
    return False
