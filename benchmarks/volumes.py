"""A file system that clones files, for measurements beside those on the machine's own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_OWN = 400 << 20  # bytes of a volume beside those of the files in it; XFS needs 300 MB


@contextmanager
def xfs(place: Path, size: int) -> Iterator[tuple[Path | None, str]]:
    """A folder on XFS for `size` bytes, in a file in `place` that is mounted meanwhile; or None, and the reason."""
    volume, mounted = place / "xfs", place / "xfs-mounted"
    mounted.mkdir()
    with volume.open("wb") as file:
        file.truncate(_OWN + size)
    failure = _failure("mkfs.xfs", "-q", "-m", "reflink=1", volume) or _failure("mount", "-o", "loop", volume, mounted)
    try:
        if failure:
            yield None, failure
            return
        try:
            yield mounted, ""
        finally:
            subprocess.run(["umount", mounted], check=True)
    finally:
        mounted.rmdir()
        volume.unlink()


def _failure(*command: str | Path) -> str | None:
    """Why a command failed; None if it worked."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return done.stderr.strip() or f"exit status {done.returncode}" if done.returncode else None
