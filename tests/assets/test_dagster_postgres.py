"""Dagster's own storage in Postgres: the driver it needs, and the removal of old records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml

from stripe_emulator import Shop
from stripe_pipeline.assets import dagster_history
from stripe_pipeline.assets.checks import WITHOUT_RUN
from stripe_pipeline.assets.dagster_history import (
    forget_checks,
    forget_events_without_a_run,
    forget_runs,
    report_again,
)
from stripe_pipeline.assets.keys import Names
from stripe_pipeline.cli.instance import dagster_instance
from stripe_pipeline.days import today
from stripe_pipeline.definitions import build_defs
from stripe_pipeline.errors import SettingsError
from stripe_pipeline.resources.pipeline import RESOURCE
from tests.conftest import KEYS, MakePipeline, OpenedPipeline
from tests.stripe_state import days_ago

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
LIVE = {"STRIPE_API_KEY": KEYS["STRIPE_API_KEY"]}


@pytest.fixture
def database(postgres: str, tmp_path: Path) -> Iterator[sa.URL]:
    """The address of an empty database, with the driver that Dagster needs."""
    server = sa.create_engine(sa.make_url(postgres).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE dagster")
        yield sa.make_url(postgres).set(drivername="postgresql+psycopg2", database="dagster")
        connection.exec_driver_sql("DROP DATABASE dagster WITH (FORCE)")
    server.dispose()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of `dagster.yaml`, in which commands work."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(home: Path, storage: dict[str, Any]) -> None:
    """Write a `dagster.yaml` with this storage in Postgres."""
    (home / "dagster.yaml").write_text(
        yaml.safe_dump({"storage": {"postgres": storage}, "telemetry": {"enabled": False}})
    )


def shown(url: sa.URL) -> str:
    return url.render_as_string(hide_password=False)


@dg.op
def nothing() -> None: ...


@dg.job
def empty() -> None:
    nothing()


def test_a_driver_that_dagster_cannot_work_with_is_refused_and_the_remedy_works(home: Path, database: sa.URL) -> None:
    plain = shown(database.set(drivername="postgresql"))
    other = shown(database.set(drivername="postgresql+psycopg"))
    parts = {
        "hostname": "",
        "username": database.username,
        "db_name": database.database,
        "params": dict(database.query),
    }
    for storage in ({"postgres_url": plain}, {"postgres_url": other}, {"postgres_db": parts}):
        write(home, storage)
        refused = (
            r"has the driver psycopg, .* with postgresql\+psycopg2://, or set `scheme: postgresql\+psycopg2` below"
        )
        with pytest.raises(SettingsError, match=refused), dagster_instance():
            pass
    for storage in (
        {"postgres_url": plain.replace("postgresql://", "postgresql+psycopg2://")},
        {"postgres_db": parts | {"scheme": "postgresql+psycopg2"}},
    ):
        write(home, storage)
        with dagster_instance() as instance:
            assert empty.execute_in_process(instance=instance).success


def test_the_removal_of_old_records_has_sessions_as_all_other_parts(home: Path, database: sa.URL) -> None:
    write(home, {"postgres_url": shown(database)})
    with dagster_instance() as instance, dagster_history._database(instance) as connection:
        settings = connection.exec_driver_sql("SELECT name FROM pg_settings WHERE source = 'session'").scalars().all()
        keepalives = {f"tcp_keepalives_{name}" for name in ("idle", "interval", "count")}
        assert keepalives | {"tcp_user_timeout"} <= set(settings)
        assert connection.exec_driver_sql("SHOW application_name").scalar() == "stripe_pipeline"


@contextmanager
def rows(database: sa.URL) -> Iterator[sa.Connection]:
    engine = sa.create_engine(database)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def test_old_records_are_removed_from_postgres(
    home: Path, database: sa.URL, make_pipeline: MakePipeline, shop: Shop
) -> None:
    write(home, {"postgres_url": shown(database)})
    shop.create_customer(livemode=True, created=days_ago(shop, 1))
    pipeline = make_pipeline(LIVE, history=(datetime.now(UTC) - timedelta(days=2)).date())
    defs = build_defs(resource_overrides={RESOURCE: OpenedPipeline(pipeline)})
    sync = defs.resolve_job_def("sync")
    key = dg.AssetKey(["raw", "customers"])
    names, month = Names(), datetime.now(UTC) - timedelta(days=30)

    def count(table: str, where: str = "true") -> int:
        with rows(database) as connection:
            return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table} WHERE {where}").scalar_one())

    old = "create_timestamp < '2021-01-01'"
    with dagster_instance() as instance:
        for _ in range(2):
            assert sync.execute_in_process(instance=instance, partition_key=today().isoformat()).success
        with rows(database) as connection:
            for table in ("runs", "asset_check_executions"):
                connection.exec_driver_sql(f"UPDATE {table} SET create_timestamp = '2020-01-01 00:00:00'")
        results, latest = (
            count("asset_check_executions"),
            count("(SELECT DISTINCT asset_key, check_name FROM asset_check_executions) AS latest"),
        )
        assert results > latest > 0
        with rows(database) as connection:
            connection.exec_driver_sql(
                "INSERT INTO asset_check_executions (asset_key, check_name, run_id, create_timestamp)"
                """ VALUES ('["theirs"]', 'one', 'a', '2020-01-01'), ('["theirs"]', 'one', 'b', '2020-01-01')"""
            )
        days = instance.get_materialized_partitions(key)
        assert days
        assert forget_runs(instance, month, names) == 2
        assert instance.get_runs() == []
        forget_checks(instance, month, names)
        assert count("asset_check_executions", f"{old} AND asset_key LIKE '%%raw%%'") == latest
        assert count("asset_check_executions", "asset_key LIKE '%%theirs%%'") == 2
        covered = pipeline.warehouse.state.covered_days()
        report_again(instance, pipeline.settings, covered, names)
        assert instance.get_materialized_partitions(key) == days

        without_run = f"run_id = '{WITHOUT_RUN}'"
        events = count("event_logs", without_run)
        assert events > 0
        forget_events_without_a_run(instance, names)  # there are too few events
        assert count("event_logs", without_run) == events
        forget_events_without_a_run(instance, names, over=0)
        assert count("event_logs", without_run) == 0
        report_again(instance, pipeline.settings, covered, names)
        assert instance.get_materialized_partitions(key) == days
