"""The automation: the job `sync` with its schedule and sensor, and the nightly job.

Both jobs list their assets and checks explicitly and bring their own executor: merged into another project's
definitions, they neither run that project's assets nor change how those run.

`assets` and `sync` define what a run or a drain does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from stripe_pipeline.assets.checks import evaluations, last_results
from stripe_pipeline.assets.dagster_storage import check_driver
from stripe_pipeline.assets.keys import Names
from stripe_pipeline.assets.partitions import Partitions
from stripe_pipeline.assets.raw import materializations
from stripe_pipeline.assets.run_locks import fail_killed_runs
from stripe_pipeline.assets.runs import UNFINISHED
from stripe_pipeline.assets.views import changed_views
from stripe_pipeline.days import today
from stripe_pipeline.errors import StripePipelineError, by_cause
from stripe_pipeline.inbox.run_locks import RunLocks
from stripe_pipeline.resources.pipeline import OpensPipeline
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.stripe_api.deadline import Deadline
from stripe_pipeline.sync.pipeline import DRAIN_TIME, Pipeline
from stripe_pipeline.sync.report import Report

# A process per step costs seconds and gains nothing: the requests already run in parallel.
_EXECUTOR = dg.in_process_executor
_POLL = 0.1  # seconds
_SENDING = 10.0  # seconds that a tick may take to send a version to a bucket; runs may take longer


@dataclass(frozen=True)
class TickLimits:
    """How long a tick of the sensor takes, in seconds, and how much it reads."""

    wait: float = 10.0
    """For how long a tick waits for notifications. Dagster stores a row per tick, starts the next tick at once after a
    tick of 5 seconds or more, ends a tick that takes 60, and waits for a running tick before it shuts down."""
    report_within: float = 4.0
    """How soon after its first notification a tick ends and reports to Dagster."""
    read_within: float = 30.0
    """For how long a tick may read Stripe: the tick must also load and publish before Dagster ends it at 60."""
    objects: int = 200
    """Most objects per mode that a tick reads again: 8 seconds at 25 requests a second. A run reads a larger
    backlog."""


def _sync_under_way(instance: dg.DagsterInstance, locks: RunLocks, names: Names) -> str | None:
    """The id of an unfinished run of our job `sync`, or None; a killed run counts as finished.

    Raises `SettingsError` if Dagster's storage cannot record runs, as the next one would hang.
    """
    check_driver(instance)
    fail_killed_runs(instance, locks, names)
    # By tag, too: another code location may have a job of this name.
    ours = dg.RunsFilter(job_name=names.sync_job, tags=names.run_tags, statuses=UNFINISHED)
    runs = instance.get_runs(ours, limit=1)
    return runs[0].run_id if runs else None


def build_schedules(settings: Settings, names: Names) -> tuple[dg.ScheduleDefinition, dg.ScheduleDefinition]:
    """The schedules `sync_every_15_minutes` and `nightly`."""

    @dg.schedule(
        name=names.own("sync_every_15_minutes"),
        job_name=names.sync_job,
        description="Requests a sync. A missed tick is not made up for: each sync determines which days are missing.",
        cron_schedule="*/15 * * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        required_resource_keys={names.resource},
    )
    def sync_every_15_minutes(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """Requests a sync every 15 minutes, unless one is running."""
        opens: OpensPipeline = getattr(context.resources, names.resource)
        if run_id := _sync_under_way(context.instance, opens.run_locks, names):
            return dg.SkipReason(f"The run {run_id} is still reading Stripe")
        now = context.scheduled_execution_time
        return dg.RunRequest(run_key=now.isoformat(), partition_key=Partitions(settings).key_of(now.date()))

    @dg.schedule(
        name=names.own("nightly"),
        job_name=names.nightly_job,
        description="Prunes rows that are past their retention, proves the tables, and makes or verifies the"
        " certificate of the last closed month.",
        cron_schedule="20 3 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        """Requests the nightly job once a day; the next night makes up for a missed one."""
        return dg.RunRequest(run_key=f"{context.scheduled_execution_time:%Y-%m-%d}")

    return sync_every_15_minutes, nightly


def build_sensor(limits: TickLimits, settings: Settings, names: Names) -> dg.SensorDefinition:
    """The sensor `webhook_refresh`, with these limits for each of its ticks."""

    @dg.sensor(
        name=names.sensor,
        job_name=names.sync_job,
        description="Applies webhooks within about a second: waits for them inside its tick, reads their objects again,"
        " loads and publishes. A tick requests a run of sync only if there are more objects than it can read. Ticks"
        " show as skipped; what they applied is in their logs and in the events of the assets.",
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING,
        required_resource_keys={names.resource},
    )
    def webhook_refresh(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        """Waits for notifications and drains them.

        It has no cursor: the inbox holds the notifications that still wait, and the data folder the last publish.
        """
        opens: OpensPipeline = getattr(context.resources, names.resource)
        report = Report()
        events: Sequence[dg.AssetMaterialization | dg.AssetCheckEvaluation] = ()
        trouble: StripePipelineError | None = None
        backlog = False
        ends = Deadline(limits.wait)
        try:
            with opens.open() as pipeline:
                try:
                    backlog = _refresh(pipeline, report, context.instance, opens.run_locks, ends, limits, names)
                finally:
                    events = events_without_a_run(report, pipeline, context.instance, names)
        except StripePipelineError as error:
            trouble = error
            context.log.error(str(error))
            _wait_for(ends, opens.folder.stopping)  # so that a lasting error does not fail a tick every few seconds
        for sentence in report.notes:
            context.log.warning(sentence)
        for tables, failure in by_cause(report.failures):
            context.log.error("%s could not be brought up to date: %s", ", ".join(tables), failure)
        summary = _summary(report, trouble)
        if events:
            context.log.info(summary)
        return dg.SensorResult(
            run_requests=[dg.RunRequest(partition_key=Partitions(settings).key_of(today()))] if backlog else None,
            skip_reason=None if backlog else summary,
            asset_events=events,
        )

    return webhook_refresh


def events_without_a_run(
    report: Report, pipeline: Pipeline, instance: dg.DagsterInstance, names: Names
) -> list[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """The events that tell Dagster of drains, which are not runs."""
    settings = pipeline.settings
    changed = [
        object_type
        for object_type in settings.enabled
        if (changes := report.changes.get(object_type.name)) and changes.days
    ]
    tables = {object_type.name for object_type in changed}
    touched = report.failures.keys() | tables
    # After the table's materialization, or Dagster considers the check older than the rows.
    return [
        *materializations(report, settings, names),
        *(changed_views(instance, pipeline.warehouse, settings, names, tables) if tables else ()),
        *evaluations(pipeline, touched, names),
        *last_results(instance, settings, changed, names),
    ]


def _refresh(
    pipeline: Pipeline,
    report: Report,
    instance: dg.DagsterInstance,
    locks: RunLocks,
    ends: Deadline,
    limits: TickLimits,
    names: Names,
) -> bool:
    """Apply incoming notifications while the tick lasts; returns whether they are so many that a run has to read them.

    A drain waits until its rows may be published, or Dagster is shutting down. Sooner, nobody would see the rows, and
    an object that is announced repeatedly would be read repeatedly.
    """
    reading, pause = Deadline(limits.read_within), Deadline(0)
    while not ends.passed:
        stopping = pipeline.folder.stopping.exists()
        due = pipeline.has_due_notifications()
        if stopping and not due:
            break  # Dagster waits for the tick before it shuts down
        if not due or not (stopping or (pause.passed and pipeline.warehouse.publisher.due())):
            time.sleep(_POLL)
            continue
        ends = Deadline(min(ends.left(), limits.report_within))
        if pipeline.objects_to_read() > limits.objects and _sync_under_way(instance, locks, names):
            break  # that run reads the whole backlog
        try:
            pipeline.drain(most=limits.objects, report=report, within=min(DRAIN_TIME, reading.left()))
        finally:
            pipeline.publish(send_within=_SENDING)
        # Also if nothing changed and so nothing was published.
        pause = Deadline(pipeline.warehouse.publisher.pace.pause)
        if pipeline.objects_to_read() > limits.objects:
            return not _sync_under_way(instance, locks, names)
    return False


def _wait_for(ends: Deadline, stopping: Path) -> None:
    """Wait until the deadline, or until Dagster shuts down: the file `stopping` exists."""
    while not ends.passed and not stopping.exists():
        time.sleep(_POLL)


def _summary(report: Report, trouble: StripePipelineError | None) -> str:
    sentences = []
    if report.applied:
        rows = ", ".join(f"{number} in {table}" for table, number in report.changed_rows.items())
        sentences.append(
            f"Applied {report.applied} event{'' if report.applied == 1 else 's'}; rows changed: {rows or 'none'}"
        )
    sentences += [f"{', '.join(tables)}: {failure}" for tables, failure in by_cause(report.failures)]
    if trouble:
        sentences.append(str(trouble))
    return ". ".join(sentences) or "No events applied"


def build_automation(settings: Settings, names: Names, at_night: Sequence[dg.AssetChecksDefinition]) -> dg.Definitions:
    """The jobs with their schedules and the sensor.

    Checks `at_night` are part of the nightly job; the sync reports the results of the others itself.
    """
    tables = dg.AssetSelection.assets(*(names.key_of(object_type) for object_type in settings.enabled))
    sync = dg.define_asset_job(
        names.sync_job,
        selection=tables.without_checks(),
        description="One sync: the objects that changed in Stripe since the last one, and every day that is not"
        " complete yet.",
        tags=names.run_tags,
        executor_def=_EXECUTOR,
    )
    night = dg.define_asset_job(
        names.nightly_job,
        selection=dg.AssetSelection.assets(names.retention, names.certificate).without_checks()
        | dg.AssetSelection.checks(*at_night),
        description="Removes rows that are past their retention, old notifications and old runs, proves the tables, and"
        " makes or verifies the certificate of the last closed month.",
        tags=names.run_tags,
        executor_def=_EXECUTOR,
    )
    return dg.Definitions(
        jobs=[sync, night],
        schedules=build_schedules(settings, names),
        sensors=[build_sensor(TickLimits(), settings, names)],
    )
