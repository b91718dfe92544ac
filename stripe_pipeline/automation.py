"""What runs by itself: the job `sync` and its schedule. What a run does belongs to `assets` and `sync`."""

import dagster as dg

from stripe_pipeline.assets.raw import SYNC_JOB

sync_job = dg.define_asset_job(
    SYNC_JOB,
    selection=dg.AssetSelection.all(),
    description="One tick: what changed in Stripe since the last one, and every day that is not complete yet.",
)

_UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


@dg.schedule(
    target=sync_job,
    cron_schedule="*/15 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def sync_every_15_minutes(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Ticks every 15 minutes. A missed tick needs no making up: the next one finds by itself what is missing."""
    under_way = context.instance.get_runs(dg.RunsFilter(job_name=SYNC_JOB, statuses=_UNDER_WAY), limit=1)
    if under_way:
        return dg.SkipReason(f"The run {under_way[0].run_id} is still reading Stripe")
    now = context.scheduled_execution_time
    return dg.RunRequest(run_key=now.isoformat(), partition_key=f"{now:%Y-%m-%d}")
