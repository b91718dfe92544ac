"""The published file: immutable versions of the warehouse, and the symlinks to the newest version.

The file's content, and the lock that prevents changes of the private file, belong to `warehouse`, copying to
`file_copies`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import filelock
import orjson

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.permissions import Permissions, Readers
from stripe_pipeline.published_folder import PublishedFolder
from stripe_pipeline.storage_errors import reason, remedy
from stripe_pipeline.warehouse.file_copies import FileState, catch_up, clone, copy_file, flush

_LONGEST = 3600.0  # seconds; a recorded publish that took longer is invalid
_LOCK_TIMEOUT = 3600  # seconds; copying takes minutes at most, so a longer wait means a hung process
_SMALL = 64 << 20  # bytes that are copied in less than 0.1 seconds
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
    """Publishes copies of the private file, one at a time.

    In its `turn`, a publish calls `copy` while it holds the warehouse's lock. If that returns False, it calls
    `copy_ahead` without the lock, then `is_copied` with it, and if the file has changed, either tries again after
    `note_state`, or calls `complete`. At last, it calls `publish` without the lock.
    """

    def __init__(self, folder: DataFolder, readers: Readers = Readers.OWNER, pace: Pace | None = None) -> None:
        self.folder = folder
        self.pace = pace or Pace()
        self._permissions = Permissions(folder, readers)
        self._last = _Publish()  # the last one of this process, which other processes may not know of
        self._started = 0.0
        self._copied: FileState | None = None  # the private file's state that the copy has, as far as that is known

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
        """The published warehouse revision; None if it is missing, cannot be determined, or is not the one that readers
        of the data folder's link open."""
        newest = self.folder.shared.newest
        try:
            linked = self.folder.published.resolve() == newest.resolve()
            return _revision(newest.readlink().parent) if linked else None
        except OSError:
            return None

    @property
    def _copy(self) -> Path:
        return self.folder.shared.unfinished / self.folder.published.name

    @contextlib.contextmanager
    def turn(self, *, wait: bool = True) -> Iterator[bool]:
        """Keeps other threads and processes from publishing meanwhile; yields False if one is publishing and this one
        is not to `wait`. Raises `WarehouseError`; the published file is then unchanged."""
        lock = filelock.FileLock(self.folder.publish_lock, timeout=_LOCK_TIMEOUT if wait else 0, mode=0o600)
        if not self.folder.publish_lock.parent.is_dir():
            self.folder.prepare()
        try:
            lock.acquire()
        except filelock.Timeout:
            if not wait:
                yield False
                return
            raise WarehouseError(
                f"Another process has been writing to {self.folder.shared.root} for over {_LOCK_TIMEOUT} seconds",
                "See whether a stripe-pipeline or Dagster process hangs, and end it",
            ) from None
        except OSError as error:
            raise WarehouseError(
                f"The lock {self.folder.publish_lock} cannot be taken ({reason(error)})",
                remedy(error, self.folder.publish_lock),
            ) from error
        try:
            self._started, self._copied = time.monotonic(), None
            shutil.rmtree(self._copy.parent, ignore_errors=True)
            yield True
        except OSError as error:
            published = self.folder.published
            raise WarehouseError(
                f"The published file {published} could not be renewed ({reason(error)}); it holds the previous version",
                remedy(error, published.parent),
            ) from error
        finally:
            shutil.rmtree(self._copy.parent, ignore_errors=True)  # or an unfinished copy would keep a full disk full
            lock.release()

    def copy(self) -> bool:
        """Copies the private file, which must be complete and must not change, unless that takes long: a file that is
        large and cannot be cloned. Returns whether it was copied."""
        private = self.folder.private
        self._copy.parent.mkdir(parents=True, mode=0o700)
        if clone(private, self._copy):
            return True
        if private.stat().st_size <= _SMALL:
            copy_file(private, self._copy)
            return True
        self.note_state()
        return False

    def note_state(self) -> None:
        """Notes the state of the private file, which must be complete and must not change, before a `copy_ahead`."""
        self._copied = FileState.of(self.folder.private)

    def copy_ahead(self) -> None:
        """Copies the private file, which may change meanwhile, or what has changed since the last time."""
        if self._copy.exists():
            catch_up(self.folder.private, self._copy)
        else:
            copy_file(self.folder.private, self._copy)

    def is_copied(self) -> bool:
        """Whether the private file has not changed during `copy_ahead`, so that the copy is equal to it."""
        return self._copied == FileState.of(self.folder.private)

    def complete(self) -> None:
        """Makes the copy made ahead equal to the private file, which must be complete and must not change."""
        catch_up(self.folder.private, self._copy)

    def publish(self, revision: int, *, remove_before: int = 0) -> None:
        """Makes the copy the newest version, which has this revision, and switches the links to it.

        Replaced versions are removed later; those with a revision before `remove_before` are removed at once, because
        they hold data erased since.
        """
        published, newest, earlier = self.folder.published, self.folder.shared.newest, self.folder.earlier_places
        version = self.folder.versions / f"{datetime.now(UTC).strftime(_NAME)}-r{revision}"
        flush(self._copy)
        self._copy.parent.rename(version)
        try:
            self._permissions.open_version(version)
            self._retire(keep=version)
            _swap(version / newest.name, newest)
            if published.resolve() != newest.resolve():
                _swap(newest, published)
            for other in _versions(self.folder):
                if other != version and (_revision(other) or 0) < remove_before:
                    shutil.rmtree(other, ignore_errors=True)
            self._leave(earlier)
        except OSError:
            if not _is_target(newest, version):
                shutil.rmtree(version, ignore_errors=True)
            raise
        self._note(_Publish(time.time(), time.monotonic() - self._started))

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
        for version in _versions(self.folder):
            if version.resolve() == current:
                try:
                    os.utime(version)
                except OSError as error:  # its message does not name the file
                    raise type(error)(error.errno, error.strerror, str(version)) from None
            elif version != keep and time.time() - version.stat().st_mtime > self.pace.keep:
                shutil.rmtree(version, ignore_errors=True)

    def _leave(self, earlier: Iterable[PublishedFolder]) -> None:
        """Lets readers of the places published to before open the newest version, and removes the versions there.

        Those in the data folder are retired like others, as readers may be opening them.
        """
        for place in earlier:
            if place.root == self.folder.root:
                if place.versions.is_dir() and not any(place.versions.iterdir()):
                    place.versions.rmdir()
                continue
            if place.newest.is_symlink():
                _swap(self.folder.shared.newest, place.newest)
                shutil.rmtree(place.versions, ignore_errors=True)
            place.report.unlink(missing_ok=True)


def _versions(folder: DataFolder) -> list[Path]:
    """The folders of all versions, those of earlier places included."""
    places = (folder.shared, *folder.earlier_places)
    return [version for place in places if place.versions.is_dir() for version in place.versions.iterdir()]


def _revision(version: Path) -> int | None:
    _, _, revision = version.name.rpartition("-r")
    return int(revision) if revision.isdigit() else None


def copied_at(version: str) -> datetime:
    """When the version of this name was copied; raises `ValueError` for a name of another form."""
    return datetime.strptime(version.partition("-r")[0], _NAME).replace(tzinfo=UTC)


def versions_of(folder: DataFolder) -> list[tuple[Path, datetime, int]]:
    """The existing published copies, newest first: file, time of the copy, and warehouse revision."""
    copies = []
    for version in _versions(folder):
        copy, revision = version / folder.published.name, _revision(version)
        if revision is not None and copy.is_file():
            with contextlib.suppress(ValueError):
                copies.append((copy, copied_at(version.name), revision))
    # The link is more reliable than times from a clock that may have been set back.
    return sorted(copies, key=lambda entry: (_is_target(folder.published, entry[0].parent), entry[1]), reverse=True)


def _is_target(published: Path, version: Path) -> bool:
    return published.is_symlink() and published.resolve().parent == version.resolve()


def _swap(target: Path, link: Path) -> None:
    """Points `link` to `target` atomically: relatively if `target` is below the folder of `link`."""
    temporary = link.with_suffix(".next")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target.relative_to(link.parent) if target.is_relative_to(link.parent) else target)
    temporary.replace(link)
