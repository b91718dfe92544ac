"""The asset that removes what is too old: rows, news that was dealt with, and Dagster's own history of this project.

Which rows those are belongs to `resources.pruning`.
"""

import contextlib
import shutil
import sqlite3
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from stripe_pipeline.assets.keys import RESOURCE, OpensPipeline, key_of
from stripe_pipeline.assets.raw import SYNC_JOB
from stripe_pipeline.assets.under_way import at_work
from stripe_pipeline.errors import StripePipelineError
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.resources.pruning import Pruned
from stripe_pipeline.settings import Settings

RETENTION = dg.AssetKey("retention")
NIGHTLY_JOB = "nightly"
PRUNED = "pruned"

_OURS = {RETENTION, *(key_of(it, schema) for it in OBJECT_TYPES.values() for schema in ("raw", "live", "test"))}
_ASSETS_JOB = "__ASSET_JOB"  # what Dagster calls the job of a backfill, and of assets that somebody materializes
_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_AT_ONCE = 500  # runs that are looked up together
_RUNLESS = ""  # what Dagster's storage calls the run of events that were reported without one
_RUNLESS_BYTES = 50_000_000


class RetentionConfig(dg.Config):
    """What may be asked of a run of `retention` in the launchpad."""

    dry_run: bool = False
    """Only count what would be removed."""


def build_retention_asset(settings: Settings) -> dg.AssetsDefinition:
    """The unpartitioned asset `retention`, downstream of every base table."""

    @dg.asset(
        key=RETENTION,
        deps=[
            dg.AssetDep(key_of(object_type), partition_mapping=dg.AllPartitionMapping())
            for object_type in settings.enabled
        ],
        description="Removes rows that are older than their retention, children with their parents, and what was"
        " dealt with long ago of the inbox and of Dagster's own runs and ticks. `dry_run` only counts.",
        group_name="maintenance",
        kinds={"duckdb"},
        required_resource_keys={RESOURCE},
    )
    def retention(context: dg.AssetExecutionContext, config: RetentionConfig) -> dg.MaterializeResult[Any]:
        opens: OpensPipeline = getattr(context.resources, RESOURCE)
        try:
            with opens.open() as pipeline, at_work(pipeline.folder, context.run.run_id):
                if config.dry_run:
                    return dg.MaterializeResult(metadata=_metadata(pipeline.warehouse.prune(dry_run=True)))
                pruned = pipeline.prune()
                covered = pipeline.warehouse.covered_days()
        except StripePipelineError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from None
        runs = forget_runs(context.instance, keep_days=settings.runs.keep_days)
        forget_ticks(context.instance, keep_days=settings.runs.keep_days)
        forget_events_without_a_run(context.instance)
        report_again(context.instance, covered)
        return dg.MaterializeResult(metadata={**_metadata(pruned), "runs of Dagster removed": runs})

    return retention


def records(pruned: Mapping[str, Pruned]) -> list[dict[str, str | int]]:
    """A line for each table, for people."""
    return [
        {
            "table": table,
            "rows": them.rows,
            "first day": str(min(them.days, default="")),
            "last day": str(max(them.days, default="")),
            "kept from": str(them.cutoff or "as its parent"),
        }
        for table, them in pruned.items()
    ]


def _metadata(pruned: Mapping[str, Pruned]) -> dict[str, Any]:
    """One table of all, and for each its days and their rows."""
    metadata: dict[str, Any] = {"rows": sum(them.rows for them in pruned.values())}
    if pruned:
        metadata[PRUNED] = dg.MetadataValue.table([dg.TableRecord(record) for record in records(pruned)])
    for table, them in pruned.items():
        if them.days:
            metadata[table] = dg.MetadataValue.json({str(day): them.days[day] for day in sorted(them.days)})
    return metadata


def forget_runs(instance: dg.DagsterInstance, *, keep_days: float) -> int:
    """Delete finished runs of this project's jobs and assets that began earlier, with what they left on the disk; how
    many."""
    before = datetime.now(UTC) - timedelta(days=keep_days)
    deleted = 0
    for job in (SYNC_JOB, NIGHTLY_JOB, _ASSETS_JOB):
        runs = dg.RunsFilter(job_name=job, statuses=_FINISHED, created_before=before)
        others = None
        while records := instance.get_run_records(runs, limit=_AT_ONCE, cursor=others):
            run_ids = [
                it.dagster_run.run_id for it in records if _OURS.issuperset(it.dagster_run.asset_selection or ())
            ]
            for run_id in run_ids:
                instance.delete_run(run_id)
                _remove_files(instance, run_id)
            deleted += len(run_ids)
            if not run_ids:
                others = records[-1].dagster_run.run_id
    return deleted


def _is_ours(run: dg.DagsterRun) -> bool:
    """Whether no other code location's assets are in it."""
    return run.job_name != _ASSETS_JOB or (bool(run.asset_selection) and _OURS.issuperset(run.asset_selection or ()))


def _remove_files(instance: dg.DagsterInstance, run_id: str) -> None:
    """What SQLite storage and local logs keep of a deleted run: an empty database of 130 KB and a folder of logs."""
    home = Path(instance.storage_directory()).parent
    for left_over in (*home.glob(f"history/runs/{run_id}.db*"), home / "logs" / run_id, home / "storage" / run_id):
        if left_over.is_dir():
            shutil.rmtree(left_over, ignore_errors=True)
        else:
            left_over.unlink(missing_ok=True)


def forget_ticks(instance: dg.DagsterInstance, *, keep_days: float) -> None:
    """Delete older ticks of this project's schedules and sensor.

    `dagster.yaml` has Dagster do so too, and sooner; an instance with another configuration keeps them for ever.
    """
    before = (datetime.now(UTC) - timedelta(days=keep_days)).timestamp()
    for state in instance.all_instigator_state():
        if state.name in ("sync_every_15_minutes", "nightly", "webhook_refresh"):
            instance.purge_ticks(state.instigator_origin_id, state.selector_id, before=before)


def forget_events_without_a_run(instance: dg.DagsterInstance, *, over: int = _RUNLESS_BYTES) -> None:
    """Delete what drains reported where it is over so many bytes and the storage is this project's alone."""
    file = Path(instance.storage_directory()).parent / "history" / "runs" / f"{_RUNLESS}.db"
    if file.exists() and file.stat().st_size > over and not set(instance.get_asset_keys()) - _OURS:
        instance.event_log_storage.delete_events(_RUNLESS)
        with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(file)) as connection:
            connection.execute("VACUUM")  # SQLite keeps the space otherwise


def report_again(instance: dg.DagsterInstance, covered: Mapping[str, Mapping[date, int]]) -> None:
    """Have Dagster show as materialized what is, also where it has forgotten the run that did it."""
    for table, days in covered.items():
        key = key_of(OBJECT_TYPES[table])
        shown: Iterable[str] = instance.get_materialized_partitions(key)
        for day in sorted(days.keys() - {date.fromisoformat(partition) for partition in shown}):
            instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    key, partition=day.isoformat(), metadata={"dagster/partition_row_count": days[day]}
                )
            )
