"""Which runs are at work, and letting go of those whose process was killed.

Dagster takes a run for under way until its process says that it ended. Its run monitoring looks neither after runs of
the default launcher nor after those inside a command, so one that was killed would keep the schedule waiting, and its
place in the queue, forever. Therefore a run holds a lock while it works; where its process ends, the system opens it.
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
    """Hold the lock of this run. Its file is there while it is held, and stays where the process is killed."""
    with holding(folder.runs / f"{run_id}{SUFFIX}"):
        yield


def fail_killed_runs(instance: dg.DagsterInstance, folder: DataFolder) -> None:
    """Report as failed what Dagster takes for under way although its process was killed."""
    for file in abandoned(folder.runs):
        run = instance.get_run_by_id(file.stem)
        if run is not None and run.status in UNFINISHED:
            instance.report_run_failed(
                run,
                "The process of this run was killed, or the machine stopped. What it had stored is whole; the next"
                " run goes on from there.",
            )
