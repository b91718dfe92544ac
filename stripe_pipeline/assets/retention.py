"""The asset that removes old data: rows, applied notifications, and Dagster's own history of this project.

`warehouse.pruning` decides which rows are too old.
"""

import contextlib
import shutil
import sqlite3
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from stripe_pipeline.assets.checks import EVALUATED_AT, WITHOUT_RUN, last_results
from stripe_pipeline.assets.keys import key_of, view_key
from stripe_pipeline.assets.raw import SYNC_JOB
from stripe_pipeline.assets.run_locks import hold_run_lock
from stripe_pipeline.errors import StripePipelineError
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.resources.pipeline import RESOURCE, OpensPipeline
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.catalog import views
from stripe_pipeline.views.view import MODES
from stripe_pipeline.warehouse.pruning import Pruned

RETENTION = dg.AssetKey("retention")
NIGHTLY_JOB = "nightly"
PRUNED = "pruned"

SENSOR = "webhook_refresh"
RUN_TAGS = {"stripe_pipeline": "true"}
"""The tags of runs of this project's jobs: other projects may have jobs of the same names."""

_OUR_ASSETS = {
    RETENTION,
    *(key_of(object_type) for object_type in OBJECT_TYPES.values()),
    *(view_key(view, schema) for view in views(Settings()) for schema in MODES),
}
_ASSETS_JOB = "__ASSET_JOB"  # Dagster's name for the job of a backfill, and of assets materialized by hand
_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_AT_ONCE = 500  # runs that are looked up together
_LOCATION = "dagster/code_location"  # the tag of runs that Dagster launched
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
        " dealt with long ago of the inbox and of Dagster's own runs and ticks. With dry_run it only counts.",
        group_name="maintenance",
        kinds={"duckdb"},
        required_resource_keys={RESOURCE},
    )
    def retention(context: dg.AssetExecutionContext, config: RetentionConfig) -> dg.MaterializeResult[Any]:
        opens: OpensPipeline = getattr(context.resources, RESOURCE)
        try:
            if config.dry_run:
                with opens.look() as warehouse:
                    foreseen = _metadata(warehouse.prune(dry_run=True))
                return dg.MaterializeResult(metadata={"dry run": True, **foreseen})
            with opens.open() as pipeline, hold_run_lock(pipeline.folder, context.run.run_id):
                pruned = pipeline.prune()
                covered = pipeline.warehouse.state.covered_days()
        except StripePipelineError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from None
        before = datetime.now(UTC) - timedelta(days=settings.runs.keep_days)
        runs = forget_runs(context.instance, before)
        if location := context.run.tags.get(_LOCATION):
            forget_ticks(context.instance, before, location=location)
        forget_checks(context.instance, before)
        forget_events_without_a_run(context.instance)
        report_again(context.instance, settings, covered)
        return dg.MaterializeResult(metadata={**_metadata(pruned), "runs of Dagster removed": runs})

    return retention


def records(pruned: Mapping[str, Pruned]) -> list[dict[str, str | int]]:
    """One human-readable line per table."""
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
    """A summary of all tables, and the rows per day of each table."""
    metadata: dict[str, Any] = {"rows": sum(them.rows for them in pruned.values())}
    if pruned:
        metadata[PRUNED] = dg.MetadataValue.table([dg.TableRecord(record) for record in records(pruned)])
    for table, them in pruned.items():
        if them.days:
            metadata[table] = dg.MetadataValue.json({str(day): them.days[day] for day in sorted(them.days)})
    return metadata


def forget_runs(instance: dg.DagsterInstance, before: datetime) -> int:
    """Delete this project's finished runs that were created before `before`, with their files on the disk; returns how
    many."""
    deleted = 0
    for job in (SYNC_JOB, NIGHTLY_JOB, _ASSETS_JOB):
        runs = dg.RunsFilter(job_name=job, statuses=_FINISHED, created_before=before)
        others = None
        while records := instance.get_run_records(runs, limit=_AT_ONCE, cursor=others):
            run_ids = [it.dagster_run.run_id for it in records if _is_ours(it.dagster_run)]
            for run_id in run_ids:
                instance.delete_run(run_id)
                _remove_files(instance, run_id)
            deleted += len(run_ids)
            if not run_ids:
                others = records[-1].dagster_run.run_id
    return deleted


def _is_ours(run: dg.DagsterRun) -> bool:
    """Whether the run is this project's: another code location may have jobs of the same names."""
    if run.job_name != _ASSETS_JOB:
        return RUN_TAGS.items() <= run.tags.items()
    named = {*(run.asset_selection or ()), *(it.asset_key for it in run.asset_check_selection or ())}
    return bool(named) and _OUR_ASSETS.issuperset(named)


def _remove_files(instance: dg.DagsterInstance, run_id: str) -> None:
    """Remove the files that SQLite storage and local logs keep of a deleted run: an empty database of 130 KB and a
    folder of logs."""
    home = _home(instance)
    for left_over in (*home.glob(f"history/runs/{run_id}.db*"), home / "logs" / run_id, home / "storage" / run_id):
        if left_over.is_dir():
            shutil.rmtree(left_over, ignore_errors=True)
        else:
            left_over.unlink(missing_ok=True)


def _home(instance: dg.DagsterInstance) -> Path:
    """The folder that `dagster.yaml` stores everything in."""
    return Path(instance.storage_directory()).parent


def forget_ticks(instance: dg.DagsterInstance, before: datetime, *, location: str) -> None:
    """Delete older ticks of this project's schedules and sensor in the code location `location`, and the sensor's logs.

    `dagster.yaml` makes Dagster delete ticks too, and sooner; an instance with another configuration keeps them
    forever.
    """
    for state in instance.all_instigator_state():
        there = state.origin.repository_origin.code_location_origin.location_name
        if there == location and state.name in ("sync_every_15_minutes", "nightly", SENSOR):
            instance.purge_ticks(state.instigator_origin_id, state.selector_id, before=before.timestamp())
    for log in _home(instance).glob(f"logs/*/{SENSOR}/*"):  # a file per tick, which Dagster never deletes
        with contextlib.suppress(OSError):
            if log.stat().st_mtime < before.timestamp():
                log.unlink()


def forget_checks(instance: dg.DagsterInstance, before: datetime) -> None:
    """Delete older results of this project's checks except the latest of each, which Dagster shows; results of drains,
    and repeated results, after a day.

    Dagster keeps results even after deleting their run, and has no API to delete them: only SQLite storage is
    supported.
    """
    file = _home(instance) / "history" / "runs" / "index.db"
    if not file.exists():
        return
    results = f"asset_check_executions WHERE asset_key IN ({', '.join('?' * len(_OUR_ASSETS))})"
    ours = [key.to_string() for key in _OUR_ASSETS]
    # The table differs: another version of Dagster.
    with (
        contextlib.suppress(sqlite3.OperationalError),
        contextlib.closing(sqlite3.connect(file, timeout=60)) as storage,
    ):
        storage.execute(
            f"DELETE FROM {results} AND (create_timestamp < ? OR create_timestamp < ? AND (run_id = '{WITHOUT_RUN}'"
            f" OR instr(evaluation_event, '{EVALUATED_AT}')))"
            f" AND id NOT IN (SELECT max(id) FROM {results} GROUP BY asset_key, check_name)",
            [*ours, *(f"{at:%Y-%m-%d %H:%M:%S}" for at in (before, datetime.now(UTC) - timedelta(days=1))), *ours],
        )
        storage.commit()


def forget_events_without_a_run(instance: dg.DagsterInstance, *, over: int = _RUNLESS_BYTES) -> None:
    """Delete the events that drains reported if they exceed `over` bytes and only this project uses the storage."""
    file = _home(instance) / "history" / "runs" / f"{WITHOUT_RUN}.db"
    if file.exists() and file.stat().st_size > over and not set(instance.get_asset_keys()) - _OUR_ASSETS:
        instance.event_log_storage.delete_events(WITHOUT_RUN)
        with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(file)) as connection:
            connection.execute("VACUUM")  # SQLite keeps the space otherwise


def report_again(instance: dg.DagsterInstance, settings: Settings, covered: Mapping[str, Mapping[date, int]]) -> None:
    """Make Dagster show covered days as materialized even after the run that loaded them was deleted."""
    for table, days in covered.items():
        key = key_of(OBJECT_TYPES[table])
        shown: Iterable[str] = instance.get_materialized_partitions(key)
        missing = days.keys() - {date.fromisoformat(partition) for partition in shown}
        for day in sorted(missing):
            instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    key, partition=day.isoformat(), metadata={"dagster/partition_row_count": days[day]}
                )
            )
        if missing:
            for result in last_results(instance, settings, [OBJECT_TYPES[table]]):
                instance.report_runless_asset_event(result)
