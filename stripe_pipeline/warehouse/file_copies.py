"""Copies of database files: clones, copies of blocks, and bringing a copy up to date with its source.

What is copied, and which lock is held meanwhile, belongs to the callers.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 1 << 30
_FICLONE = 0x40049409  # of Linux
_COMPARED = 1 << 20  # bytes that are read together
_THREADS = 2
_HEADERS = 3 * 4096
"""Bytes at the start of a DuckDB file; every checkpoint changes a counter in them."""


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


def clone(source: Path, target: Path) -> bool:
    """Makes `target` a clone of `source`, which shares its blocks and takes no time; False, and no `target`, if the
    file system has no clones or the files lie in two of them. The clone is not flushed to disk."""
    with source.open("rb") as read, target.open("xb") as write:
        try:
            fcntl.ioctl(write.fileno(), _FICLONE, read.fileno())
        except OSError:
            target.unlink()
            return False
    return True


def catch_up(source: Path, target: Path) -> int:
    """Makes `target`, a copy taken while `source` changed, equal to `source`, if that does not change meanwhile;
    returns the number of bytes written. The copy is not flushed to disk.

    Every byte is compared: DuckDB's checksum of a block stays the same if values in it change places.
    """
    with source.open("rb") as read, target.open("r+b") as write:
        size = os.fstat(read.fileno()).st_size
        write.truncate(size)
        share = (size // _THREADS // _COMPARED + 1) * _COMPARED

        def write_different(start: int) -> int:
            ours, theirs, written = bytearray(_COMPARED), bytearray(_COMPARED), 0
            for offset in range(start, min(start + share, size), _COMPARED):
                length = min(_COMPARED, size - offset)
                wanted, found = memoryview(ours)[:length], memoryview(theirs)[:length]
                if os.preadv(read.fileno(), [wanted], offset) < length:
                    break  # the source became shorter
                os.preadv(write.fileno(), [found], offset)
                if ours != theirs if length == _COMPARED else bytes(wanted) != bytes(found):
                    _write(write.fileno(), wanted, offset)
                    written += length
            return written

        with ThreadPoolExecutor(_THREADS, "publish") as threads:
            return sum(threads.map(write_different, range(0, size, share)))


def _write(file: int, content: memoryview, offset: int) -> None:
    done = 0
    while done < len(content):
        done += os.pwrite(file, content[done:], offset + done)


def flush(path: Path) -> None:
    """Flushes a file to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@dataclass(frozen=True)
class FileState:
    """What every change of a database file changes."""

    inode: int
    size: int
    changed_at: int
    headers: bytes

    @classmethod
    def of(cls, path: Path) -> FileState:
        """The state of this file now. Raises `OSError`."""
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            return cls(status.st_ino, status.st_size, status.st_mtime_ns, file.read(_HEADERS))
