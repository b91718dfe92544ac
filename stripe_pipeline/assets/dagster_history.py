"""Removes this project's old records from Dagster's own storage: runs, check results, events of drains, logs of ticks.

Dagster removes none of these by itself; docs/decisions/0012-dagsters-own-history.md has how fast they grow. Whatever
relies on the files and tables of Dagster's SQLite storage belongs here, and nothing that the warehouse holds. Other
code locations may use the same storage: only records that are certainly this project's are removed.
"""

import contextlib
import shutil
import sqlite3
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg

from stripe_pipeline.assets.checks import EVALUATED_AT, WITHOUT_RUN, last_results
from stripe_pipeline.assets.keys import NIGHTLY_JOB, RETENTION, RUN_TAGS, SENSOR, SYNC_JOB, key_of, view_key
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.catalog import views
from stripe_pipeline.views.view import MODES

_OUR_ASSETS = {
    RETENTION,
    *(key_of(object_type) for object_type in OBJECT_TYPES.values()),
    *(view_key(view, schema) for view in views(Settings(), OBJECT_TYPES.values()) for schema in MODES),
}
_ASSETS_JOB = "__ASSET_JOB"  # Dagster's name for the job of a backfill, and of assets materialized by hand
_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_AT_ONCE = 500  # runs that are looked up together
_SOON = timedelta(days=1)  # for records that nobody reads later
_EVENTS_BYTES = 50_000_000


def forget_runs(instance: dg.DagsterInstance, before: datetime) -> int:
    """Delete this project's finished runs that were created before `before`, with their files on the disk; returns how
    many."""
    deleted = 0
    for job in (SYNC_JOB, NIGHTLY_JOB, _ASSETS_JOB):
        finished = dg.RunsFilter(job_name=job, statuses=_FINISHED, created_before=before)
        after_others = None
        while records := instance.get_run_records(finished, limit=_AT_ONCE, cursor=after_others):
            run_ids = [record.dagster_run.run_id for record in records if _is_ours(record.dagster_run)]
            for run_id in run_ids:
                instance.delete_run(run_id)
                _remove_files(instance, run_id)
            deleted += len(run_ids)
            if not run_ids:
                after_others = records[-1].dagster_run.run_id
    return deleted


def _is_ours(run: dg.DagsterRun) -> bool:
    """Whether the run is this project's: another code location may have jobs of the same names."""
    if run.job_name != _ASSETS_JOB:
        return RUN_TAGS.items() <= run.tags.items()
    assets = {*(run.asset_selection or ()), *(check.asset_key for check in run.asset_check_selection or ())}
    return bool(assets) and _OUR_ASSETS.issuperset(assets)


def _remove_files(instance: dg.DagsterInstance, run_id: str) -> None:
    """Remove the files that SQLite storage and local logs keep of a deleted run: an empty database of 130 KB and a
    folder of logs."""
    home = _home(instance)
    for path in (*home.glob(f"history/runs/{run_id}.db*"), home / "logs" / run_id, home / "storage" / run_id):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _home(instance: dg.DagsterInstance) -> Path:
    """The folder that `dagster.yaml` stores everything in."""
    return Path(instance.storage_directory()).parent


def remove_tick_logs(instance: dg.DagsterInstance, before: datetime) -> None:
    """Remove the files of the sensor's ticks that were written before `before`, and empty ones after a day: Dagster
    makes one per tick."""
    soon = (datetime.now(UTC) - _SOON).timestamp()
    for log in _home(instance).glob(f"logs/*/{SENSOR}/*"):
        with contextlib.suppress(OSError):
            file = log.stat()
            if file.st_mtime < (before.timestamp() if file.st_size else soon):
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
    assets = [key.to_string() for key in _OUR_ASSETS]
    # The table differs: another version of Dagster.
    with (
        contextlib.suppress(sqlite3.OperationalError),
        contextlib.closing(sqlite3.connect(file, timeout=60)) as storage,
    ):
        storage.execute(
            f"DELETE FROM {results} AND (create_timestamp < ? OR create_timestamp < ? AND (run_id = '{WITHOUT_RUN}'"
            f" OR instr(evaluation_event, '{EVALUATED_AT}')))"
            f" AND id NOT IN (SELECT max(id) FROM {results} GROUP BY asset_key, check_name)",
            [*assets, *(f"{at:%Y-%m-%d %H:%M:%S}" for at in (before, datetime.now(UTC) - _SOON)), *assets],
        )
        storage.commit()


def forget_events_without_a_run(instance: dg.DagsterInstance, *, over: int = _EVENTS_BYTES) -> None:
    """Delete the events that drains reported if they exceed `over` bytes and only this project uses the storage."""
    file = _home(instance) / "history" / "runs" / f"{WITHOUT_RUN}.db"
    if file.exists() and file.stat().st_size > over and not set(instance.get_asset_keys()) - _OUR_ASSETS:
        instance.event_log_storage.delete_events(WITHOUT_RUN)
        with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(file)) as storage:
            storage.execute("VACUUM")  # SQLite keeps the space otherwise


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
