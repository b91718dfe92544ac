"""Locks that show whether their holder is still active: the system releases the locks of an ended process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

SUFFIX = ".lock"
_JUST_MADE = 5  # seconds in which a lock file may exist and not be held yet


@contextlib.contextmanager
def holding(file: Path) -> Iterator[None]:
    """Hold the lock `file`, which is created and removed again. The file remains if the process is killed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(file, mode=0o600):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                file.unlink()


def abandoned(folder: Path) -> Iterator[Path]:
    """The lock files in `folder` whose holders are gone. Each is held while the caller deals with it, then removed."""
    for file in folder.glob(f"*{SUFFIX}"):
        if _just_made(file):
            continue
        with contextlib.suppress(filelock.Timeout), filelock.FileLock(file, timeout=0):
            yield file
            with contextlib.suppress(OSError):
                file.unlink()


def _just_made(file: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        # A time in the future was set before the clock was set back.
        return abs(time.time() - file.stat().st_mtime) < _JUST_MADE
    return True  # its holder has just ended
