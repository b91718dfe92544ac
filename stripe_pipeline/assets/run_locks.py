"""The cleanup of runs whose process was killed.

Dagster considers a run in progress until its process reports the end. Its run monitoring covers neither runs of the
default launcher that have started nor runs inside a command, so a killed run would block the schedule, and its place in
the queue, forever. Therefore every step of a run holds a lock while it works; when its process ends, the system
releases the lock.
"""

from datetime import UTC, datetime, timedelta

import dagster as dg

from stripe_pipeline.assets.keys import Names
from stripe_pipeline.assets.runs import BEGUN, UNFINISHED, is_ours, our_assets
from stripe_pipeline.inbox.run_locks import RunLocks

_SILENCE = timedelta(minutes=15)
"""For how long a run without a lock has logged nothing if nobody works on it. No start of a process takes as long, and
no pause between two steps."""


def fail_killed_runs(instance: dg.DagsterInstance, locks: RunLocks, names: Names) -> None:
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
    for run in _silent_runs(instance, names):
        if not locks.exists(run.run_id):
            instance.report_run_failed(
                run,
                "The process of this run was killed before it began to work, or its host stopped: the run has logged"
                f" nothing for {_SILENCE // timedelta(minutes=1)} minutes. The next run does what this one should have"
                " done.",
            )


def _silent_runs(instance: dg.DagsterInstance, names: Names) -> list[dg.DagsterRun]:
    """The runs of this pipeline that have begun, but show no sign of life."""
    before = datetime.now(UTC) - _SILENCE
    filters = dg.RunsFilter(statuses=BEGUN, updated_before=before)
    begun = [record.dagster_run for record in instance.get_run_records(filters)]
    assets = our_assets(names) if begun else set()
    return [
        run for run in begun if is_ours(run, names, assets) and _last_logged(instance, run.run_id) < before.timestamp()
    ]


def _last_logged(instance: dg.DagsterInstance, run_id: str) -> float:
    """The time of the run's last event, or 0 without any."""
    records = instance.get_records_for_run(run_id, limit=1, ascending=False).records
    return records[0].timestamp if records else 0.0
