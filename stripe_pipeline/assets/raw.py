"""The partitioned base tables as assets: one step that reads Stripe once for all of them.

A sync shares one scan of events, one rate budget, one load and one publish, so the assets come from one multi-asset.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from datetime import date
from typing import Any

import dagster as dg

from stripe_pipeline.assets import columns
from stripe_pipeline.assets.checks import evaluations, last_results
from stripe_pipeline.assets.keys import SYNC_JOB, key_of
from stripe_pipeline.assets.run_locks import hold_run_lock
from stripe_pipeline.assets.views import changed_views
from stripe_pipeline.batch import Changes
from stripe_pipeline.days import today
from stripe_pipeline.errors import Cancelled, StripePipelineError, by_cause
from stripe_pipeline.objects import OBJECT_TYPES, ObjectType
from stripe_pipeline.resources.pipeline import RESOURCE, OpensPipeline
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.sync.report import Report
from stripe_pipeline.views.columns import of_table

_Event = dg.MaterializeResult[Any] | dg.AssetMaterialization | dg.AssetCheckEvaluation
_SECONDS_BETWEEN_LINES = 10.0


def build_raw_assets(settings: Settings) -> dg.AssetsDefinition:
    """The base tables of every enabled object type, partitioned by the UTC day of `created`, today included."""
    daily = dg.DailyPartitionsDefinition(start_date=settings.first_day.isoformat(), end_offset=1)
    specs = [
        dg.AssetSpec(
            key_of(object_type),
            deps=[key_of(OBJECT_TYPES[object_type.parent])] if object_type.parent else [],
            description=_describe(object_type, settings),
            partitions_def=daily,
            group_name="raw",
            kinds={"stripe", "duckdb"},
            skippable=True,
            metadata={
                "dagster/table_name": f"raw.{object_type.name}",
                columns.SCHEMA: columns.table_schema(of_table(object_type, settings)),
            },
        )
        for object_type in settings.enabled
    ]

    @dg.multi_asset(
        name="stripe",
        specs=specs,
        can_subset=True,
        backfill_policy=dg.BackfillPolicy.single_run(),
        required_resource_keys={RESOURCE},
        description="Reads Stripe and brings the tables up to date, each by itself: a table that fails keeps its rows.",
    )
    def stripe(context: dg.AssetExecutionContext) -> Iterator[_Event]:
        opens: OpensPipeline = getattr(context.resources, RESOURCE)
        days = {date.fromisoformat(key) for key in context.partition_keys}
        selected = {OBJECT_TYPES[key.path[-1]].name for key in context.selected_asset_keys}
        with ExitStack() as working:
            try:
                with opens.open(_Logged(context.log)) as pipeline:
                    working.enter_context(hold_run_lock(pipeline.folder, context.run.run_id))
                    if context.run.job_name == SYNC_JOB:
                        # Notifications cover today; other days were requested in the UI and are listed, too.
                        report = pipeline.sync(days - {today()})
                    else:
                        report = pipeline.backfill(days, selected)
                    # A separate step for the checks would cost as much as the sync.
                    checked = evaluations(pipeline, selected)
                    views = changed_views(context.instance, pipeline.warehouse, settings)
            except Cancelled:
                raise
            except StripePipelineError as error:
                raise dg.Failure(description=str(error), allow_retries=False) from None
            yield from views
            yield from _report(context, report, days, selected, settings, checked)

    return stripe


class _Logged:
    """Logs the progress of a run's lists."""

    def __init__(self, log: dg.DagsterLogManager) -> None:
        self._log = log
        self._logged_at = time.monotonic()
        self._now: dict[str, str] = {}

    def listed(self, table: str, *, days: int, of: int, rows: int, seconds: float) -> None:
        """Log the progress of all tables every few seconds."""
        self._now[table] = f"{table} {pace(days=days, of=of, rows=rows, seconds=seconds)}"
        if time.monotonic() - self._logged_at >= _SECONDS_BETWEEN_LINES:
            self._logged_at = time.monotonic()
            self._log.info("\n".join(["Listed so far:", *self._now.values()]))

    def finished(self, report: Report) -> None:
        """Log nothing: the materializations report it."""


def pace(*, days: int, of: int, rows: int, seconds: float) -> str:
    """The progress of a list, in words."""
    left = f", about {seconds * (of - days) / days:,.0f} s left" if 0 < days < of else ""
    return f"{days} of {of} days, {rows:,} rows, {rows / max(seconds, 0.001):,.0f} rows/s{left}"


def _describe(object_type: ObjectType, settings: Settings) -> str:
    title = settings.title(object_type)
    # Plain text: the catalog's lists show Markdown as it is written.
    heading = "" if title == object_type.name.replace("_", " ") else f"{title}. "
    family = OBJECT_TYPES[object_type.parent] if object_type.parent else object_type
    age = settings.retention_of(object_type) or settings.retention_of(family)
    retention = f"kept for {age}" if age else "kept forever"
    origin = " Generated from Stripe's OpenAPI document, without tests of its own." if object_type.generated else ""
    loaded = f"Loaded from {settings.first_listed(object_type)} on, {retention}."
    return f"{heading}{object_type.description}{origin}\n\n{loaded}"


def _report(
    context: dg.AssetExecutionContext,
    report: Report,
    days: set[date],
    selected: set[str],
    settings: Settings,
    checked: Sequence[dg.AssetCheckEvaluation],
) -> Iterator[_Event]:
    """Report the changes to Dagster, then fail if any table could not be brought up to date."""
    for note in report.notes:
        context.log.warning(note)
    if report.surprises.seen:
        context.log.warning(
            "Values that Stripe sent in an unexpected form (those of another type are kept in _extra): %s",
            report.surprises,
        )
    materialized = []
    # Dagster wants parents before children.
    for object_type in sorted(settings.enabled, key=lambda declared: declared.parent is not None):
        table = object_type.name
        failed = table in report.failures
        if failed:
            context.log.error("%s could not be brought up to date: %s", table, report.failures[table])
        requested = days if table in selected and not failed else set()
        to_record = _days_to_record(context, report, object_type, requested)
        # One result covers all partitions of the run. Without a result, Dagster considers the step skipped.
        own = requested if requested <= to_record else set()
        for day in sorted(own):
            context.add_asset_metadata(
                _metadata(report, object_type, day), asset_key=key_of(object_type), partition_key=day.isoformat()
            )
        for day in sorted(to_record - own):
            yield _materialization(report, object_type, day)
        if own:
            yield dg.MaterializeResult(asset_key=key_of(object_type))
        if to_record:
            materialized.append(object_type)
    # After the materializations, or Dagster considers the check older than the rows.
    yield from checked
    yield from last_results(context.instance, settings, materialized, run_id=context.run.run_id)
    if report.failures:
        raise dg.Failure(
            description=" — ".join(f"{', '.join(tables)}: {error}" for tables, error in by_cause(report.failures)),
            metadata={table: str(error) for table, error in report.failures.items()},
            allow_retries=False,
        )


def _shown_changes(report: Report, object_type: ObjectType) -> Changes:
    """The changes to a table by partition. Of an undated type, whose rows belong to no partition, all changes are shown
    in the present day's."""
    changes = report.changes.get(object_type.name, Changes())
    if object_type.dated:
        return changes
    moved = Changes()
    for name in ("inserted", "updated", "deleted"):
        if number := getattr(changes, name).total():
            getattr(moved, name)[today()] = number
    return moved


def _days_to_record(
    context: dg.AssetExecutionContext, report: Report, object_type: ObjectType, requested: set[date]
) -> set[date]:
    """The days of a table whose partitions are recorded as materialized: days on which rows changed, and days that are
    complete for the first time. Recording an unchanged day would only hide the check results.

    All `requested` days are recorded in a backfill, which Dagster would otherwise consider unfinished, and in a run
    that fails because of another table, which would otherwise mark those days as failed.
    """
    changed = _shown_changes(report, object_type).days
    expected = requested if report.failures or context.run.job_name != SYNC_JOB else set()
    listed = report.listed.get(object_type.name, set()) if object_type.dated else set()
    unchanged = (requested | listed) - changed - expected
    return changed | expected | _never_materialized(context.instance, key_of(object_type), unchanged)


def _never_materialized(instance: dg.DagsterInstance, key: dg.AssetKey, days: set[date]) -> set[date]:
    """The `days` that Dagster does not show as materialized."""
    if len(days) != 1:
        shown: Iterable[str] = instance.get_materialized_partitions(key) if days else ()
        return days - {date.fromisoformat(partition) for partition in shown}
    # The case of nearly every sync: looking up one partition uses an index, looking up all of them a scan.
    [day] = days
    result = instance.fetch_materializations(dg.AssetRecordsFilter(key, asset_partitions=[day.isoformat()]), limit=1)
    return set() if result.records else days


def materializations(report: Report, enabled: Sequence[ObjectType]) -> list[dg.AssetMaterialization]:
    """One materialization per table and day with changes, for callers that report without a run."""
    return [
        _materialization(report, object_type, day)
        for object_type in enabled
        for day in sorted(_shown_changes(report, object_type).days)
    ]


def _materialization(report: Report, object_type: ObjectType, day: date) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        key_of(object_type), partition=day.isoformat(), metadata=_metadata(report, object_type, day)
    )


def _metadata(report: Report, object_type: ObjectType, day: date) -> dict[str, int]:
    changes = _shown_changes(report, object_type)
    metadata = {
        "inserted": changes.inserted[day],
        "updated": changes.updated[day],
        "deleted": changes.deleted[day],
        "requests": report.requests[object_type.name],
    }
    if day in changes.rows:
        metadata["dagster/partition_row_count"] = changes.rows[day]
    return metadata
