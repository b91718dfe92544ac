"""The published file: immutable versions of the warehouse and the symlink that names the newest.

What is in the file, and the lock that keeps it still while it is copied, belong to `warehouse`.
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

_KEEP = 30  # seconds a replaced version stays, for readers that have resolved the link and are about to open it
PAUSE = 2.0
"""Seconds between two publishes, at least."""
_SHARE = 10  # publishing may take one part in this many of the time
_LONGEST = 3600.0  # seconds; a publish that is said to have taken more did not
_CHUNK = 1 << 30
_NAME = "%Y%m%dT%H%M%S.%fZ"  # of a version, before its revision


@dataclass(frozen=True)
class _Publish:
    """When a publish ended, in Unix seconds by the local clock, and how many seconds it took."""

    ended: float = 0.0
    seconds: float = 0.0


class Publisher:
    """Publishes copies of the private file; one at a time, by whoever holds the warehouse's lock."""

    def __init__(self, folder: DataFolder, readers: Readers = Readers.OWNER) -> None:
        self.folder = folder
        self._readers = readers
        self._last = _Publish()  # by this process: its note for the others may not have been stored

    def due(self, *, pause: float = PAUSE) -> bool:
        """Whether publishing again now keeps within its share of the time, and `pause` seconds have passed.

        What other processes published counts, too: a sensor opens the warehouse anew in every one of its ticks.
        """
        last = max(self._last, self._noted(), key=lambda publish: publish.ended)
        passed = time.time() - last.ended
        return passed < 0 or passed >= max(pause, _SHARE * last.seconds)  # < 0: the clock was set back since

    def published_revision(self) -> int | None:
        """The warehouse revision that is published; None where there is none, or no telling."""
        try:
            return _revision(self.folder.published.readlink().parent)
        except OSError:
            return None

    def publish(self, revision: int, *, remove_before: int = 0) -> None:
        """Copy the private file into a new version and swap the link to it. The private file must be still and whole.

        Replaced versions are removed a while later; those whose revision is before `remove_before` at once: they hold
        what was erased since.

        Raises `WarehouseError`; then the published file is as it was.
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
                shutil.rmtree(version, ignore_errors=True)  # or what was copied keeps the disk full
            raise WarehouseError(
                f"The published file {published} could not be renewed ({reason(error)}); it holds the previous version",
                remedy(error, published.parent),
            ) from error
        self._note(_Publish(time.time(), time.monotonic() - started))

    def _note(self, publish: _Publish) -> None:
        """Note this for all processes; where it cannot be stored, others publish too early at worst."""
        self._last = publish
        new = self.folder.publishing.with_suffix(".new")
        with contextlib.suppress(OSError):
            new.touch(mode=0o600)
            new.write_bytes(orjson.dumps(asdict(publish)))
            new.replace(self.folder.publishing)

    def _noted(self) -> _Publish:
        """The last publish that any process noted; one long ago where there is no note or it cannot be read."""
        try:
            noted = orjson.loads(self.folder.publishing.read_bytes())
            publish = _Publish(noted["ended"], noted["seconds"])
            return publish if publish.ended >= 0 and 0 <= publish.seconds <= _LONGEST else _Publish()
        except (OSError, ValueError, LookupError, TypeError):
            return _Publish()

    def _retire(self, keep: Path) -> None:
        """Remove versions replaced a while ago, and note when the present one is replaced: now."""
        current = self.folder.published.resolve().parent
        for version in self.folder.versions.iterdir():
            if version.resolve() == current:
                try:
                    os.utime(version)
                except OSError as error:  # which does not say of what
                    raise type(error)(error.errno, error.strerror, str(version)) from None
            elif version != keep and time.time() - version.stat().st_mtime > _KEEP:
                shutil.rmtree(version, ignore_errors=True)


def _revision(version: Path) -> int | None:
    _, _, revision = version.name.rpartition("-r")
    return int(revision) if revision.isdigit() else None


def versions_of(folder: DataFolder) -> list[tuple[Path, datetime, int]]:
    """The published copies that are there, the newest first: file, when it was copied, and warehouse revision."""
    found = []
    for version in folder.versions.iterdir() if folder.versions.is_dir() else ():
        copy, revision = version / folder.published.name, _revision(version)
        if revision is not None and copy.is_file():
            with contextlib.suppress(ValueError):
                copied_at = datetime.strptime(version.name.partition("-r")[0], _NAME).replace(tzinfo=UTC)
                found.append((copy, copied_at, revision))
    # The link tells better than the times of a clock that may have been set back.
    return sorted(found, key=lambda it: (_is_target(folder.published, it[0].parent), it[1]), reverse=True)


def _is_target(published: Path, version: Path) -> bool:
    return published.is_symlink() and published.resolve().parent == version.resolve()


def copy_file(source: Path, target: Path) -> None:
    """Copy, letting the kernel clone where the file system can, and make sure it is on the disk."""
    with source.open("rb") as read, target.open("xb") as write:
        try:
            while os.copy_file_range(read.fileno(), write.fileno(), _CHUNK):
                pass
        except (AttributeError, OSError):
            # Not on Linux, or a file system that cannot.
            read.seek(0)
            write.seek(0)
            write.truncate()
            shutil.copyfileobj(read, write, 1 << 20)
        write.flush()
        os.fsync(write.fileno())


def _swap(copy: Path, published: Path) -> None:
    """Let `published` name `copy`, at once for whoever opens it."""
    temporary = published.with_suffix(".next")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(copy.relative_to(published.parent))
    except (NotImplementedError, OSError):
        shutil.copyfile(copy, temporary)
    temporary.replace(published)
