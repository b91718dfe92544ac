"""Names that users and their programs rely on: changing one of them breaks their work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import typer
import yaml

from stripe_pipeline.cli.main import app
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.definitions import build_defs
from stripe_pipeline.settings.model import Settings
from tests.conftest import MakePipeline
from tests.stripe_state import ask

ROOT = Path(__file__).parents[2]
TABLES = {
    *("balance_transactions", "charges", "customers", "disputes", "fee_details", "invoice_lines", "invoices"),
    *("payment_intents", "refunds"),
}


@pytest.mark.both_modes
def test_tables_views_and_their_columns(make_pipeline: MakePipeline, folder: DataFolder) -> None:
    make_pipeline().sync()
    tables = ask(folder.published, "SELECT schema_name || '.' || table_name FROM duckdb_tables()")
    assert {name for (name,) in tables} >= {
        *(f"raw.{table}" for table in TABLES),
        *(f"pipeline.{name}" for name in ("coverage", "cursors", "inbox", "published")),
    }
    views = ask(folder.published, "SELECT schema_name || '.' || view_name FROM duckdb_views() WHERE NOT internal")
    assert {name for (name,) in views} >= {
        f"{mode}.{view}" for mode in ("live", "test") for view in (*TABLES, "payments")
    }
    sql = "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE schema_name = 'raw'"
    columns: dict[str, dict[str, str]] = {}
    for table, column, kind in ask(folder.published, sql):
        columns.setdefault(table, {})[column] = kind
    for table in TABLES:
        common = {"created": "TIMESTAMP WITH TIME ZONE", "livemode": "BOOLEAN", "_account": "VARCHAR", "_extra": "JSON"}
        common |= dict.fromkeys(("_fetched_at", "_deleted_at"), "TIMESTAMP WITH TIME ZONE")
        assert columns[table].items() >= common.items(), table
    assert columns["fee_details"].keys() >= {"balance_transaction", "position", "amount"}
    assert columns["invoice_lines"].keys() >= {"id", "invoice", "amount"}
    assert columns["charges"]["amount"] == "BIGINT"
    assert columns["charges"]["customer"] == "VARCHAR"


@pytest.mark.usefixtures("instance")
def test_assets_jobs_schedule_and_sensor() -> None:
    definitions = build_defs()
    keys = {key.to_user_string() for key in definitions.resolve_all_asset_keys()}
    modes = {f"{mode}/{view}" for mode in ("live", "test") for view in (*TABLES, "payments")}
    assert keys >= {f"raw/{table}" for table in TABLES} | modes | {"retention"}
    assert definitions.resolve_job_def("sync").name == "sync"
    schedule = definitions.resolve_schedule_def("sync_every_15_minutes")
    assert (schedule.cron_schedule, schedule.default_status) == ("*/15 * * * *", dg.DefaultScheduleStatus.RUNNING)
    sensor = definitions.resolve_sensor_def("webhook_refresh")
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    raw = definitions.resolve_asset_graph().get(dg.AssetKey(["raw", "charges"]))
    assert isinstance(raw.partitions_def, dg.DailyPartitionsDefinition)


def test_commands_and_their_options() -> None:
    options = {
        "demo": set(),
        "dev": set(),
        "sync": set(),
        "backfill": {"--from", "--to", "--only"},
        "check": set(),
        "prune": {"--dry-run"},
        "clean": set(),
        "erase": set(),
        "webhooks serve": {"--host", "--port"},
        "webhooks drain": set(),
        "webhooks register": {"--url"},
    }
    root = typer.main.get_command(app)
    for words, named in options.items():
        command = root
        for word in words.split():
            command = command.commands[word]  # type: ignore[attr-defined]
        assert named <= {option for parameter in command.params for option in parameter.opts}, words


def test_settings() -> None:
    text = """
history: 24 months
retention: forever
rate: {share: 80%}
objects:
  charges: {title: Card charges, date_field: created, retention: 36 months, custom_fields: {risk: outcome.risk_level}}
  customers: {fields: {exclude: [email, phone], hash: [name]}, custom_fields: {crm: metadata.crm_id}}
  disputes: {enabled: false}
"""
    settings = Settings.model_validate(yaml.safe_load(text))
    assert TABLES - {object_type.name for object_type in settings.enabled} == {"disputes"}


def test_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STRIPE_PIPELINE_DATA", str(tmp_path / "elsewhere"))
    assert DataFolder.from_environment().published == tmp_path / "elsewhere/stripe.duckdb"
    for name in ("dagster.yaml", "stripe_pipeline.yaml", "Makefile", "README.md", ".ci/run", "pyproject.toml"):
        assert (ROOT / name).is_file(), name


def test_environment_variables_are_documented() -> None:
    page = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    names = (
        *("STRIPE_API_KEY", "STRIPE_TEST_API_KEY", "STRIPE_WEBHOOK_SECRET", "STRIPE_TEST_WEBHOOK_SECRET"),
        *("STRIPE_API_BASE", "STRIPE_PIPELINE_CONFIG", "STRIPE_PIPELINE_DATA", "STRIPE_PIPELINE_INBOX"),
        "STRIPE_PIPELINE_DAGSTER_URL",
    )
    assert [name for name in names if f"`{name}`" not in page] == []


def test_the_query_function_and_the_code_location_stay_where_they_are() -> None:
    code = "from stripe_pipeline import query; from stripe_pipeline.definitions import build_defs, defs"
    subprocess.run([sys.executable, "-c", code], check=True)
