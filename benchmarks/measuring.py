"""The parts that all measurements share: rows of the table, separate processes, CPU and memory.

The measurements belong to the other modules, printing to `__main__`.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

LIMIT = 2500.0
"""Objects a second that Stripe's limit of an endpoint allows (docs/stripe.md#limits)."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    title: str
    goal: str
    measured: str
    met: bool | None = None
    """Whether the goal was met; None without a goal."""
    failed: bool = False
    """Whether nothing could be measured."""
    load: float = field(default_factory=lambda: os.getloadavg()[0])
    """How busy the machine was in the last minute: how far to trust the row."""

    @classmethod
    def failure(cls, title: str, reason: str) -> Row:
        """The row of a measurement that failed."""
        return cls(title, "", f"FAILED: {reason}", False, failed=True)


@dataclass(frozen=True)
class Options:
    """How large the measurements are, and the folder of their files."""

    folder: Path
    quick: bool = False
    smoke: bool = False
    """Whether everything is so small that the figures only show that the measurements work."""
    rows: int = 10_000_000
    """Charges in the large table."""
    memory: int = 1_000_000
    """Charges in the backfill whose memory is measured."""

    def scaled(self, full: int, quick: int, smoke: int) -> int:
        """The count for the size of this run."""
        return smoke if self.smoke else quick if self.quick else full


Measurement = Callable[[Options], Sequence[Row]]


def apart(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of `work` in a process of its own, so that CPU and memory are those of `work` alone."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args, **kwargs).result()


@contextmanager
def new_folder(options: Options) -> Iterator[Path]:
    """An empty folder that is removed again."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        yield Path(folder)


@dataclass
class Spent:
    """Seconds and CPU seconds of this process in a `with` block."""

    seconds: float = 0.0
    cpu: float = 0.0

    def __enter__(self) -> Spent:
        self._began = time.monotonic(), time.process_time()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.seconds = time.monotonic() - self._began[0]
        self.cpu = time.process_time() - self._began[1]


def peak_memory(pid: int | str = "self") -> float:
    """The peak memory of a process so far, in MB; 0 if the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        own = pid == "self"  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000 if own else 0.0
    # Not getrusage, which begins with the parent's peak.
    return next((int(line.split()[1]) / 1000 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)
