"""The partitioned base tables as assets: one step that reads Stripe once for all of them.

A sync shares one scan of events, one rate budget, one load and one publish, so the assets come from one multi-asset.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import dagster as dg

from stripe_pipeline.assets import columns
from stripe_pipeline.assets.checks import evaluations, last_results
from stripe_pipeline.assets.failure import failure
from stripe_pipeline.assets.keys import Names
from stripe_pipeline.assets.partitions import KEPT, Partitions
from stripe_pipeline.assets.progress import LoggedProgress
from stripe_pipeline.assets.views import changed_views
from stripe_pipeline.batch import Changes
from stripe_pipeline.days import today
from stripe_pipeline.errors import Cancelled, StripePipelineError, by_cause
from stripe_pipeline.objects import OBJECT_TYPES, ObjectType
from stripe_pipeline.resources.pipeline import OpensPipeline
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.sync.report import Report
from stripe_pipeline.views.columns import of_table

SUMMARY_TAG = "summary"
"""The tag that says in the list of runs what a run did."""
_Event = dg.MaterializeResult[Any] | dg.AssetMaterialization | dg.AssetCheckEvaluation


def build_raw_assets(settings: Settings, names: Names) -> dg.AssetsDefinition:
    """The base tables of every enabled object type, partitioned by `created`, today included."""
    partitions_def = Partitions(settings).definition
    specs = [
        dg.AssetSpec(
            names.key_of(object_type),
            deps=[names.key_of(OBJECT_TYPES[object_type.parent])] if object_type.parent else [],
            description=_describe(object_type, settings),
            partitions_def=partitions_def,
            group_name=names.own("raw"),
            kinds={"stripe", "duckdb"},
            skippable=True,
            metadata=columns.of_relation(
                f"raw.{object_type.name}", columns.table_schema(of_table(object_type, settings))
            ),
            tags=columns.tags_of([object_type], settings),
        )
        for object_type in settings.enabled
    ]

    @dg.multi_asset(
        name=names.pipeline,
        specs=specs,
        can_subset=True,
        backfill_policy=dg.BackfillPolicy.single_run(),
        required_resource_keys={names.resource},
        description="Reads Stripe and brings the tables up to date, each by itself: a table that fails keeps its rows.",
    )
    def stripe(context: dg.AssetExecutionContext) -> Iterator[_Event]:
        opens: OpensPipeline = getattr(context.resources, names.resource)
        partitions = Partitions(settings)
        days = partitions.days_of(context.partition_keys)
        selected = {OBJECT_TYPES[key.path[-1]].name for key in context.selected_asset_keys}
        with ExitStack() as working:
            progress = working.enter_context(LoggedProgress(context.log))
            try:
                with opens.open(progress) as pipeline:
                    working.enter_context(opens.run_locks.holding(context.run.run_id))
                    if context.run.job_name == names.sync_job:
                        # Every sync covers the present; other partitions were requested in the UI and are listed.
                        report = pipeline.sync(days - partitions.days_of([partitions.key_of(today())]))
                    else:
                        report = pipeline.backfill(days, selected)
                    # A separate step for the checks would cost as much as the sync.
                    checked = evaluations(pipeline, selected, names)
                    views = changed_views(context.instance, pipeline.warehouse, settings, names)
            except (Cancelled, dg.DagsterExecutionInterruptedError):
                # Without the stack of the thread that happened to wait.
                raise dg.DagsterExecutionInterruptedError(progress.canceled) from None
            except StripePipelineError as error:
                raise failure(error) from None
            context.instance.add_run_tags(context.run.run_id, {SUMMARY_TAG: report.summary})
            yield from views
            yield from _report(context, report, partitions, selected, settings, names, checked)

    return stripe


def _describe(object_type: ObjectType, settings: Settings) -> str:
    title = settings.title(object_type)
    # Plain text: the catalog's lists show Markdown as it is written.
    heading = "" if title == object_type.name.replace("_", " ") else f"{title}. "
    family = OBJECT_TYPES[object_type.parent] if object_type.parent else object_type
    age = settings.retention_of(object_type) or settings.retention_of(family)
    retention = f"kept for {age}" if age else "kept forever"
    origin = " Generated from Stripe's OpenAPI document, without tests of its own." if object_type.generated else ""
    loaded = (
        f"Loaded from {settings.first_listed(object_type)} on, {retention}."
        if object_type.dated
        else ("Every object is loaded: Stripe does not say when they were created.")
    )
    return f"{heading}{object_type.description}{origin}\n\n{loaded}"


def _report(
    context: dg.AssetExecutionContext,
    report: Report,
    partitions: Partitions,
    selected: set[str],
    settings: Settings,
    names: Names,
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
        requested = set(context.partition_keys) if table in selected and not failed else set()
        to_record = _partitions_to_record(context, report, object_type, requested, partitions, names)
        # One result covers all partitions of the run. Without a result, Dagster considers the step skipped.
        own = requested if requested <= to_record else set()
        metadata = _metadata(report, object_type, partitions, to_record)
        for key in sorted(own):
            context.add_asset_metadata(metadata[key], asset_key=names.key_of(object_type), partition_key=key)
        for key in sorted(to_record - own):
            yield dg.AssetMaterialization(names.key_of(object_type), partition=key, metadata=metadata[key])
        if own:
            yield dg.MaterializeResult(asset_key=names.key_of(object_type))
        if to_record:
            materialized.append(object_type)
    # After the materializations, or Dagster considers the check older than the rows.
    yield from checked
    yield from last_results(context.instance, settings, materialized, names, run_id=context.run.run_id)
    if report.failures:
        raise dg.Failure(
            description=" — ".join(f"{', '.join(tables)}: {error}" for tables, error in by_cause(report.failures)),
            metadata={table: str(error) for table, error in report.failures.items()},
            allow_retries=False,
        )


def _shown_changes(report: Report, object_type: ObjectType) -> Changes:
    """The changes to a table by day. Of an undated type, whose rows belong to no partition, all changes are shown
    in the present day."""
    changes = report.changes.get(object_type.name, Changes())
    if object_type.dated:
        return changes
    moved = Changes()
    for name in ("inserted", "updated", "deleted"):
        if number := getattr(changes, name).total():
            getattr(moved, name)[today()] = number
    return moved


def _partitions_to_record(
    context: dg.AssetExecutionContext,
    report: Report,
    object_type: ObjectType,
    requested: set[str],
    partitions: Partitions,
    names: Names,
) -> set[str]:
    """The partitions of a table that are recorded as materialized: those in which rows changed, those that were listed
    for the first time or for the first time since the settings keep them, and those that the settings do not keep,
    once, when a run loads several days, as the first one does. Recording an unchanged partition again would only hide
    the check results.

    All `requested` partitions are recorded in a backfill, which Dagster would otherwise consider unfinished, and in a
    run that fails because of another table, which would otherwise mark those partitions as failed.
    """
    changed = partitions.keys_of(_shown_changes(report, object_type).days)
    expected = requested if report.failures or context.run.job_name != names.sync_job else set()
    listed = partitions.keys_of(report.listed.get(object_type.name, ()) if object_type.dated else ())
    loads = any(len(days) > 1 for days in report.listed.values())
    not_kept = partitions.not_kept(object_type, partitions.definition.get_partition_keys()) if loads else {}
    unchanged = (requested | listed | not_kept.keys()) - changed - expected
    return changed | expected | _shown_wrongly(context.instance, names.key_of(object_type), unchanged, not_kept)


def _shown_wrongly(
    instance: dg.DagsterInstance, asset: dg.AssetKey, keys: set[str], not_kept: Collection[str]
) -> set[str]:
    """Those of the partitions `keys` that Dagster does not show as materialized, or as not kept although they are."""
    # One partition is the case of nearly every sync: looking it up uses an index, looking up all of them a scan.
    shown = keys if len(keys) == 1 else keys & instance.get_materialized_partitions(asset) if keys else set()
    wrong = keys - shown
    for key in shown - set(not_kept):
        result = instance.fetch_materializations(dg.AssetRecordsFilter(asset, asset_partitions=[key]), limit=1)
        latest = next((record.asset_materialization for record in result.records), None)
        if latest is None or KEPT in latest.metadata:
            wrong.add(key)
    return wrong


def materializations(report: Report, settings: Settings, names: Names) -> list[dg.AssetMaterialization]:
    """One materialization per table and partition with changes, for callers that report without a run."""
    partitions = Partitions(settings)
    materialized = []
    for object_type in settings.enabled:
        changed = partitions.keys_of(_shown_changes(report, object_type).days)
        metadata = _metadata(report, object_type, partitions, changed)
        materialized += [
            dg.AssetMaterialization(names.key_of(object_type), partition=key, metadata=metadata[key])
            for key in sorted(changed)
        ]
    return materialized


def _metadata(
    report: Report, object_type: ObjectType, partitions: Partitions, keys: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """The changes in each of the partitions `keys`, its rows where they are known, and whether they are not kept."""
    changes = _shown_changes(report, object_type)
    metadata: dict[str, dict[str, Any]] = {key: {"inserted": 0, "updated": 0, "deleted": 0} for key in keys}
    for name in ("inserted", "updated", "deleted"):
        for day, number in getattr(changes, name).items():
            if of_partition := metadata.get(partitions.key_of(day)):
                of_partition[name] += number
    unchanged = [key for key, of_partition in metadata.items() if not any(of_partition.values())]
    not_kept = partitions.not_kept(object_type, unchanged)
    for key, of_partition in metadata.items():
        rows = partitions.rows(key, changes.rows)
        # Rows that were loaded before the settings left them out may still be there.
        if key in not_kept and not rows:
            of_partition.update(not_kept[key])
        elif rows is not None:
            of_partition["dagster/partition_row_count"] = rows
    return metadata
