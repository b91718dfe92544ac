"""The published file: immutable versions of the warehouse, and the symlink to the newest version.

The file's content, and the lock that prevents changes during a copy, belong to `warehouse`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson

from stripe_pipeline.data_folder import DataFolder, Readers
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.storage_errors import reason, remedy

_LONGEST = 3600.0  # seconds; a recorded publish that took longer is invalid
_CHUNK = 1 << 30
_NAME = "%Y%m%dT%H%M%S.%fZ"  # start of a version's name; its revision follows


@dataclass(frozen=True)
class Pace:
    """How often versions are published and removed."""

    pause: float = 2.0
    """Minimum seconds between two publishes."""
    share: int = 10
    """Publishing may take at most 1/`share` of the time."""
    keep: float = 30.0
    """Seconds that a replaced version is kept, for readers that have resolved the link but not yet opened the file."""


@dataclass(frozen=True)
class _Publish:
    """When a publish ended, in Unix seconds by the local clock, and how many seconds it took."""

    ended: float = 0.0
    seconds: float = 0.0


class Publisher:
    """Publishes copies of the private file, one at a time; the caller holds the warehouse's lock."""

    def __init__(self, folder: DataFolder, readers: Readers = Readers.OWNER, pace: Pace | None = None) -> None:
        self.folder = folder
        self.pace = pace or Pace()
        self._readers = readers
        self._last = _Publish()  # the last one of this process, which other processes may not know of

    def due(self) -> bool:
        """Whether publishing now stays within its share of the time, and the pause has passed.

        Publishes by other processes count, too: a sensor reopens the warehouse in each of its ticks.
        """
        last = max(self._last, self._noted(), key=lambda publish: publish.ended)
        passed = time.time() - last.ended
        if passed < 0:  # the clock has been set back since
            return True
        return passed >= max(self.pace.pause, self.pace.share * last.seconds)

    def published_revision(self) -> int | None:
        """The published warehouse revision; None if it is missing or cannot be determined."""
        try:
            return _revision(self.folder.published.readlink().parent)
        except OSError:
            return None

    def publish(self, revision: int, *, remove_before: int = 0) -> None:
        """Copies the private file, which must be complete and must not change, to a new version and switches the link.

        Replaced versions are removed later; those with a revision before `remove_before` are removed at once, because
        they hold data erased since.

        Raises `WarehouseError`; the published file is then unchanged.
        """
        started = time.monotonic()
        published = self.folder.published
        version = self.folder.versions / f"{datetime.now(UTC).strftime(_NAME)}-r{revision}"
        try:
            version.mkdir(parents=True, mode=0o700)
            copy = version / published.name
            copy_file(self.folder.private, copy)
            self.folder.open_version(version, self._readers)
            self._retire(keep=version)
            _swap(copy, published)
            for other in self.folder.versions.iterdir():
                if other != version and (_revision(other) or 0) < remove_before:
                    shutil.rmtree(other, ignore_errors=True)
        except OSError as error:
            if not _is_target(published, version):
                shutil.rmtree(version, ignore_errors=True)  # otherwise the copied data would keep the disk full
            raise WarehouseError(
                f"The published file {published} could not be renewed ({reason(error)}); it holds the previous version",
                remedy(error, published.parent),
            ) from error
        self._note(_Publish(time.time(), time.monotonic() - started))

    def _note(self, publish: _Publish) -> None:
        """Records this publish for all processes; if this fails, others at worst publish too early."""
        self._last = publish
        new = self.folder.publishing.with_suffix(".new")
        with contextlib.suppress(OSError):
            new.touch(mode=0o600)
            new.write_bytes(orjson.dumps(asdict(publish)))
            new.replace(self.folder.publishing)

    def _noted(self) -> _Publish:
        """The last publish that any process recorded; one long ago if no readable record exists."""
        try:
            noted = orjson.loads(self.folder.publishing.read_bytes())
            publish = _Publish(noted["ended"], noted["seconds"])
            return publish if publish.ended >= 0 and 0 <= publish.seconds <= _LONGEST else _Publish()
        except (OSError, ValueError, LookupError, TypeError):
            return _Publish()

    def _retire(self, keep: Path) -> None:
        """Removes versions replaced a while ago, and marks the current version as replaced now."""
        current = self.folder.published.resolve().parent
        for version in self.folder.versions.iterdir():
            if version.resolve() == current:
                try:
                    os.utime(version)
                except OSError as error:  # its message does not name the file
                    raise type(error)(error.errno, error.strerror, str(version)) from None
            elif version != keep and time.time() - version.stat().st_mtime > self.pace.keep:
                shutil.rmtree(version, ignore_errors=True)


def _revision(version: Path) -> int | None:
    _, _, revision = version.name.rpartition("-r")
    return int(revision) if revision.isdigit() else None


def versions_of(folder: DataFolder) -> list[tuple[Path, datetime, int]]:
    """The existing published copies, newest first: file, time of the copy, and warehouse revision."""
    copies = []
    for version in folder.versions.iterdir() if folder.versions.is_dir() else ():
        copy, revision = version / folder.published.name, _revision(version)
        if revision is not None and copy.is_file():
            with contextlib.suppress(ValueError):
                copied_at = datetime.strptime(version.name.partition("-r")[0], _NAME).replace(tzinfo=UTC)
                copies.append((copy, copied_at, revision))
    # The link is more reliable than times from a clock that may have been set back.
    return sorted(copies, key=lambda entry: (_is_target(folder.published, entry[0].parent), entry[1]), reverse=True)


def _is_target(published: Path, version: Path) -> bool:
    return published.is_symlink() and published.resolve().parent == version.resolve()


def copy_file(source: Path, target: Path) -> None:
    """Copies a file, as a clone if the file system supports clones, and flushes the copy to disk."""
    with source.open("rb") as read, target.open("xb") as write:
        try:
            while os.copy_file_range(read.fileno(), write.fileno(), _CHUNK):
                pass
        except (AttributeError, OSError):
            # Not on Linux, or the file system cannot clone.
            read.seek(0)
            write.seek(0)
            write.truncate()
            shutil.copyfileobj(read, write, 1 << 20)
        write.flush()
        os.fsync(write.fileno())


def _swap(copy: Path, published: Path) -> None:
    """Points `published` to `copy` atomically."""
    temporary = published.with_suffix(".next")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(copy.relative_to(published.parent))
    temporary.replace(published)
