"""The cleanup of runs whose process was killed.

Dagster considers a run in progress until its process reports the end. Its run monitoring covers neither runs of the
default launcher nor runs inside a command, so a killed run would block the schedule, and its place in the queue,
forever. Therefore a run holds a lock while it works; when its process ends, the system releases the lock.
"""

import dagster as dg

from stripe_pipeline.inbox.run_locks import RunLocks

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def fail_killed_runs(instance: dg.DagsterInstance, locks: RunLocks) -> None:
    """Report as failed the runs that Dagster considers in progress but whose process was killed, or whose host is gone.

    Raises `WarehouseError` if the inbox's database has the locks and fails.
    """
    for run_id in locks.abandoned():
        run = instance.get_run_by_id(run_id)
        if run is not None and run.status in UNFINISHED:
            instance.report_run_failed(
                run,
                "The process of this run was killed, or its host stopped. Everything it had stored is complete; the"
                " next run continues from there.",
            )
