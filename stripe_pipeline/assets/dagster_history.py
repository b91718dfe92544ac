"""Removes a pipeline's old records from Dagster's own storage: runs, check results, events of drains, logs of ticks.

Dagster removes none of these by itself; docs/decisions/0012-dagsters-own-history.md has how fast they grow. Whatever
relies on the files and tables of Dagster's storage, in SQLite or Postgres, belongs here, and nothing that the warehouse
holds. Other code locations may use the same storage: only records that are certainly the pipeline's are removed.
"""

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import sqlalchemy as sa

from stripe_pipeline import postgres
from stripe_pipeline.assets.checks import EVALUATED_AT, WITHOUT_RUN, last_results
from stripe_pipeline.assets.dagster_storage import postgres_of
from stripe_pipeline.assets.keys import Names
from stripe_pipeline.assets.partitions import Partitions
from stripe_pipeline.assets.runs import ASSETS_JOB, is_ours, our_assets
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.settings.model import Settings

_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_AT_ONCE = 500  # runs that are looked up together
_SOON = timedelta(days=1)  # for records that nobody reads later
_EVENTS_BYTES = 50_000_000


def forget_runs(instance: dg.DagsterInstance, before: datetime, names: Names) -> int:
    """Delete this pipeline's finished runs that were created before `before`, with their files on the disk; returns how
    many."""
    deleted = 0
    assets = our_assets(names)
    for job in (names.sync_job, names.nightly_job, ASSETS_JOB):
        finished = dg.RunsFilter(job_name=job, statuses=_FINISHED, created_before=before)
        after_others = None
        while records := instance.get_run_records(finished, limit=_AT_ONCE, cursor=after_others):
            run_ids = [record.dagster_run.run_id for record in records if is_ours(record.dagster_run, names, assets)]
            for run_id in run_ids:
                instance.delete_run(run_id)
                _remove_files(instance, run_id)
            deleted += len(run_ids)
            if not run_ids:
                after_others = records[-1].dagster_run.run_id
    return deleted


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


def remove_tick_logs(instance: dg.DagsterInstance, before: datetime, names: Names) -> None:
    """Remove the files of the sensor's ticks that were written before `before`, and empty ones after a day: Dagster
    makes one per tick."""
    soon = (datetime.now(UTC) - _SOON).timestamp()
    for log in _home(instance).glob(f"logs/*/{names.sensor}/*"):
        with contextlib.suppress(OSError):
            file = log.stat()
            if file.st_mtime < (before.timestamp() if file.st_size else soon):
                log.unlink()


def forget_checks(instance: dg.DagsterInstance, before: datetime, names: Names) -> None:
    """Delete older results of this pipeline's checks except the latest of each, which Dagster shows; results of drains,
    and repeated results, after a day.

    Dagster keeps results even after deleting their run, and has no API to delete them. Storage in SQLite and Postgres
    is supported.
    """
    assets = [key.to_string() for key in our_assets(names)]
    results = "asset_check_executions WHERE asset_key IN :assets"
    statement = sa.text(
        f"DELETE FROM {results} AND (create_timestamp < :before OR create_timestamp < :soon"
        f" AND (run_id = '{WITHOUT_RUN}' OR evaluation_event LIKE '%{EVALUATED_AT}%'))"
        f" AND id NOT IN (SELECT max(id) FROM {results} GROUP BY asset_key, check_name)"
    ).bindparams(sa.bindparam("assets", expanding=True))
    times = {"before": before, "soon": datetime.now(UTC) - _SOON}
    with (
        _database(instance) as storage,
        # The table differs: another version of Dagster.
        contextlib.suppress(sa.exc.OperationalError, sa.exc.ProgrammingError),
        storage.begin(),
    ):
        # As text, which both databases compare with their times: in UTC, or in the zone of a Postgres server.
        shown = {name: f"{at:%Y-%m-%d %H:%M:%S}" for name, at in times.items()}
        storage.execute(statement, {"assets": assets, **shown})


def forget_events_without_a_run(instance: dg.DagsterInstance, names: Names, *, over: int = _EVENTS_BYTES) -> None:
    """Delete the events that drains reported if they exceed `over` bytes and only this pipeline uses the storage."""
    if _bytes_without_a_run(instance) <= over or set(instance.get_asset_keys()) - our_assets(names):
        return
    instance.event_log_storage.delete_events(WITHOUT_RUN)
    file = _file_without_a_run(instance)
    if file.exists():
        with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(file)) as storage:
            storage.execute("VACUUM")  # SQLite keeps the space otherwise


def _bytes_without_a_run(instance: dg.DagsterInstance) -> int:
    """How much space the events that were reported without a run take."""
    if postgres_of(instance) is None:
        file = _file_without_a_run(instance)
        return file.stat().st_size if file.exists() else 0
    size = sa.text(f"SELECT coalesce(sum(length(event)), 0) FROM event_logs WHERE run_id = '{WITHOUT_RUN}'")
    with _database(instance) as storage, contextlib.suppress(sa.exc.ProgrammingError):
        return int(storage.execute(size).scalar_one())
    return 0


def _file_without_a_run(instance: dg.DagsterInstance) -> Path:
    return _home(instance) / "history" / "runs" / f"{WITHOUT_RUN}.db"


@contextlib.contextmanager
def _database(instance: dg.DagsterInstance) -> Iterator[sa.Connection]:
    """A connection to the database of Dagster's events: Postgres, a file of SQLite, or one without tables for any other
    storage."""
    if url := postgres_of(instance):
        engine = postgres.engine(url)
    else:
        file = _home(instance) / "history" / "runs" / "index.db"
        engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(file) if file.exists() else None), connect_args={"timeout": 60}
        )
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def report_again(
    instance: dg.DagsterInstance, settings: Settings, covered: Mapping[str, Mapping[date, int]], names: Names
) -> None:
    """Make Dagster show covered partitions as materialized even after the run that loaded them was deleted."""
    partitions = Partitions(settings)
    for table, days in covered.items():
        key = names.key_of(OBJECT_TYPES[table])
        missing = partitions.keys_of(days) - set(instance.get_materialized_partitions(key))
        for partition in sorted(missing):
            rows = partitions.rows(partition, days)
            metadata = {} if rows is None else {"dagster/partition_row_count": rows}
            instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition, metadata=metadata))
        if missing:
            for result in last_results(instance, settings, [OBJECT_TYPES[table]], names):
                instance.report_runless_asset_event(result)
