"""Locks of active runs, and the cleanup of runs whose process was killed.

Dagster considers a run in progress until its process reports the end. Its run monitoring covers neither runs of the
default launcher nor runs inside a command, so a killed run would block the schedule, and its place in the queue,
forever. Therefore a run holds a lock while it works; when its process ends, the system releases the lock.
"""

import contextlib
from collections.abc import Iterator

import dagster as dg

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.run_locks import SUFFIX, abandoned, holding

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@contextlib.contextmanager
def hold_run_lock(folder: DataFolder, run_id: str) -> Iterator[None]:
    """Hold the lock of this run. The file exists while the lock is held, and remains if the process is killed."""
    with holding(folder.runs / f"{run_id}{SUFFIX}"):
        yield


def fail_killed_runs(instance: dg.DagsterInstance, folder: DataFolder) -> None:
    """Report as failed the runs that Dagster considers in progress but whose process was killed."""
    for file in abandoned(folder.runs):
        run = instance.get_run_by_id(file.stem)
        if run is not None and run.status in UNFINISHED:
            instance.report_run_failed(
                run,
                "The process of this run was killed, or the machine stopped. Everything it had stored is complete; the"
                " next run continues from there.",
            )
