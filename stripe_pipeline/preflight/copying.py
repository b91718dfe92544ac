"""How fast the file system of the data folder makes a version of the published file: clones, or copies.

Tried with a small file, which is removed again. Publishing itself belongs to `warehouse.publisher`.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.storage_errors import reason
from stripe_pipeline.warehouse.file_copies import clone, copy_file
from stripe_pipeline.warehouse.publisher import Pace

_SAMPLE = 16 << 20
_SOON = 5.0  # seconds after which a webhook's change should be visible
_MB = 1_000_000


@dataclass(frozen=True)
class Copying:
    """What publishing costs on this file system."""

    size: int
    """Bytes of the private file."""
    rate: float | None = None
    """Bytes that are copied and flushed in a second; None if files are cloned."""
    problem: str = ""
    """Why it could not be tried."""

    @property
    def seconds(self) -> float:
        """How long a version of the present file takes."""
        return self.size / self.rate if self.rate else 0.0

    def __str__(self) -> str:
        if self.problem:
            return f"how fast files are copied could not be tried ({self.problem})."
        size = f"{self.size / _MB:,.0f} MB" if self.size >= _MB else f"{self.size / 1000:,.0f} kB"
        if self.rate is None:
            return f"this file system clones files, so a new version takes no time, whatever its size (now {size})."
        pace = Pace()
        wait = max(pace.pause, pace.share * self.seconds) + self.seconds
        takes = f"about {self.seconds:.1f}" if self.seconds >= 0.1 else "less than 0.1"
        text = (
            f"this file system has no clones. It copies {self.rate / _MB:,.0f} MB/s: a new version of {size} takes"
            f" {takes} s, so changes that webhooks announce are visible within about {wait:.0f} s."
        )
        if wait > _SOON:
            text += " On a file system with clones (XFS, Btrfs) that does not depend on the size."
        return text


def try_copying(folder: DataFolder) -> Copying | None:
    """Copies a small file from the private folder to the folder to share; None before the first load, when nothing may
    be created."""
    if not folder.private.exists() or not folder.shared.root.is_dir():
        return None
    size = folder.private.stat().st_size
    try:
        with (
            tempfile.TemporaryDirectory(dir=folder.private.parent, prefix="copying-") as private,
            tempfile.TemporaryDirectory(dir=folder.shared.root, prefix="copying-") as shared,
        ):
            source, target = Path(private, "sample"), Path(shared, "sample")
            with source.open("xb") as file:
                file.write(os.urandom(_SAMPLE))
                file.flush()
                os.fsync(file.fileno())
            if clone(source, target):
                return Copying(size)
            started = time.monotonic()
            copy_file(source, target)
            return Copying(size, rate=_SAMPLE / (time.monotonic() - started))
    except OSError as error:
        return Copying(size, problem=reason(error))
