"""Which runs are at work, and letting go of those whose process was killed.

Dagster takes a run for under way until its process says that it ended. Its run monitoring looks neither after runs of
the default launcher nor after those inside a command, so one that was killed would keep the schedule waiting, and its
place in the queue, for ever. Therefore a run holds a lock while it works; where its process ends, the system opens it.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import filelock

from stripe_pipeline.data_folder import DataFolder

UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_SUFFIX = ".lock"
_JUST_MADE = 5  # seconds in which a lock may be there and not held yet


@contextlib.contextmanager
def at_work(folder: DataFolder, run_id: str) -> Iterator[None]:
    """Hold the lock of this run. Its file is there while it is held, and stays where the process is killed."""
    folder.runs.mkdir(parents=True, exist_ok=True)
    file = folder.runs / f"{run_id}{_SUFFIX}"
    with filelock.FileLock(file):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                file.unlink()


def let_go_of_killed(instance: dg.DagsterInstance, folder: DataFolder) -> None:
    """Report as failed what Dagster takes for under way although its process was killed."""
    for file in folder.runs.glob(f"*{_SUFFIX}"):
        if _just_made(file):
            continue
        with contextlib.suppress(filelock.Timeout), filelock.FileLock(file, timeout=0):
            run = instance.get_run_by_id(file.stem)
            if run is not None and run.status in UNDER_WAY:
                instance.report_run_failed(
                    run,
                    "The process of this run was killed, or the machine stopped. What it had stored is whole; the next"
                    " run goes on from there.",
                )
            with contextlib.suppress(OSError):
                file.unlink()


def _just_made(file: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return time.time() - file.stat().st_mtime < _JUST_MADE
    return True  # the run has just ended
