"""The report: its numbers against the emulator's objects, its page, and when Dagster makes it again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest

from stripe_emulator import Fault, Server, Shop
from stripe_pipeline.assets.keys import Names
from stripe_pipeline.assets.report import build_report_automation, metadata
from stripe_pipeline.cli.processes import free_port
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import day_of, today
from stripe_pipeline.definitions import build_defs
from stripe_pipeline.errors import StripePipelineError, WarehouseError
from stripe_pipeline.inbox.shared_rates import FileRates
from stripe_pipeline.report.making import Report, make_report
from stripe_pipeline.report.money import amount
from stripe_pipeline.report.overview import DayState, lags, percentile, span
from stripe_pipeline.resources.pipeline import RESOURCE
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.stripe_api.rate_limits import requests_by_day
from stripe_pipeline.sync.pipeline import Pipeline
from tests.conftest import MakePipeline, OpenedPipeline
from tests.stripe_state import days_ago

DECIMALS = {"usd": 2, "jpy": 0, "kwd": 3}


@pytest.fixture
def pipeline(make_pipeline: MakePipeline, shop: Shop) -> Pipeline:
    """A pipeline that has loaded payments in currencies without, with two and with three decimals."""
    for n in range(1, 20):
        for currency in DECIMALS:
            shop.create_payment(amount=5000 + n, currency=currency, created=days_ago(shop, n))
    charge = shop.create_payment(amount=9000, created=days_ago(shop, 3))["latest_charge"]
    shop.refund(charge, 1234, created=days_ago(shop, 2))
    shop.create_payment(amount=700)
    shop.create_customer(created=days_ago(shop, 1), name="Ada <b>Lovelace", email="ada@example.com")
    made = make_pipeline(objects={"invoices": {"history": "10 days"}})
    made.sync()
    return made


def report_of(pipeline: Pipeline) -> Report:
    """The report on what the pipeline has published."""
    return make_report(pipeline.folder, pipeline.settings, None)


def test_what_was_kept_is_the_sum_of_the_balance_transactions_of_each_day(pipeline: Pipeline, shop: Shop) -> None:
    expected: dict[tuple[str, Any], Decimal] = defaultdict(Decimal)
    for transaction in shop.objects("balance_transactions", False).values():
        if transaction["type"] in ("charge", "refund", "payment"):
            currency = transaction["currency"]
            expected[currency, day_of(transaction["created"])] += Decimal(transaction["net"]).scaleb(
                -DECIMALS[currency]
            )
    of = report_of(pipeline).overview
    shown = {(kept.currency, day): value for kept in of.kept for day, value in kept.by_day.items()}
    assert shown == dict(expected)
    assert len(of.kept) >= 1
    [usd] = [kept for kept in of.kept if kept.currency == "usd"]
    assert usd.between(of.today, of.today) > 0
    assert of.today == today()


def test_amounts_have_the_decimals_of_their_currency() -> None:
    value = Decimal("-1234567.500")
    assert [amount(value, currency) for currency in ("usd", "jpy", "kwd")] == [
        "−1,234,567.50",
        "−1,234,568",
        "−1,234,567.500",
    ]
    assert amount(None, "usd") == "–"


def test_the_bridge_leads_from_the_opening_to_the_closing_balance(pipeline: Pipeline) -> None:
    of = report_of(pipeline).overview
    assert of.bridges
    for bridge in of.bridges:
        assert bridge.opening is not None
        assert bridge.closing == bridge.opening + sum(bridge.steps.values())
    assert {bridge.currency for bridge in of.bridges} == {kept.currency for kept in of.kept}


def test_days_are_complete_differ_or_are_not_kept(pipeline: Pipeline, shop: Shop) -> None:
    of = report_of(pipeline).overview
    states = {(stretch.table, stretch.state): stretch.days for stretch in of.coverage}
    assert states["charges", DayState.COMPLETE] == 59
    assert states["charges", DayState.UNFINISHED] == 1
    assert states["invoices", DayState.NOT_KEPT] == 49  # ten days and today are kept
    assert of.days_in(DayState.DIFFERS, DayState.UNREAD) == 0

    day = day_of(days_ago(shop, 5))
    with pipeline.warehouse.file.open() as connection:
        connection.execute(f"DELETE FROM pipeline.coverage WHERE object_type = 'charges' AND day = '{day}'")
        connection.execute(
            "INSERT INTO pipeline.proof (name, livemode, object_type, scope, verdict, checked_at) VALUES"
            f" ('rows_of_listed_days', false, 'refunds', '{day}', 'failed', now())"
        )
        connection.execute("UPDATE pipeline.meta SET revision = revision + 1")
    pipeline.publish()
    of = report_of(pipeline).overview
    assert of.days_in(DayState.DIFFERS) == 1
    [differs] = [stretch for stretch in of.coverage if stretch.state is DayState.DIFFERS]
    assert (differs.table, differs.first) == ("refunds", day)
    [unread] = [stretch for stretch in of.coverage if stretch.state is DayState.UNREAD]
    assert (unread.table, unread.first, unread.days) == ("charges", day, 1)
    assert of.summary.verdict == "failed"
    assert "rows_of_listed_days of refunds" in of.summary.sentence


def test_the_lag_is_from_created_to_stored(pipeline: Pipeline, shop: Shop) -> None:
    assert report_of(pipeline).overview.lags == [], "the first load has no lag"
    pipeline.sync()
    shop.create_payment()
    time.sleep(2)
    pipeline.sync()
    [lag] = report_of(pipeline).overview.lags
    assert lag.objects >= 2  # the charge and its payment intent
    assert 1 <= lag.p50 <= lag.p95 <= 30
    values = [float(n) for n in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.95), percentile([7.0], 0.95)) == (50, 95, 7)
    assert [span(seconds) for seconds in (5, 600, 9000)] == ["5 s", "10 min", "2.5 h"]
    published = report_of(pipeline).overview.published_at
    assert lags([(int(published.timestamp()) - 3 * 86_400, published.timestamp())], published) == []


def test_requests_are_counted_for_all_processes(pipeline: Pipeline, server: Server, folder: DataFolder) -> None:
    sent = len(server.requests)
    assert sum(day.sent for day in requests_by_day(FileRates(folder.rates(livemode=False)))) == sent
    server.faults.append(Fault(path="^/v1/events", status=429, times=1))
    pipeline.sync()
    [day] = requests_by_day(FileRates(folder.rates(livemode=False)))
    assert (day.sent, day.refused) == (len(server.requests), 1)
    assert requests_by_day(FileRates(folder.rates(livemode=True))) == []
    of = report_of(pipeline).overview
    assert of.requests_sent == len(server.requests)


class Text(HTMLParser):
    """The tags of a page; fails for an address of another file."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), name
            if name in ("src", "href", "xlink:href"):
                assert (value or "").startswith("#"), value


def test_the_page_is_one_small_file_without_scripts_and_customers(pipeline: Pipeline, folder: DataFolder) -> None:
    made = report_of(pipeline)
    assert made.path == folder.root / "published" / "report.html"
    text = made.path.read_text(encoding="utf-8")
    page = Text()
    page.feed(text)
    assert not set(page.tags) & {"script", "link", "img", "iframe"}
    assert page.tags.count("svg") >= 5
    assert len(text) < 300_000
    assert "Test data, not real money" in text
    assert "prefers-color-scheme: dark" in text
    order = [text.index(part) for part in ('class="verdict', *(f"<h2>{name}" for name in SECTIONS))]
    assert order == sorted(order)
    for secret in ("Ada", "ada@example.com", "cus_", "ch_", "sk_test"):
        assert secret not in text
    assert not re.findall(r"#00000[0-9a]\b", text), "a placeholder is left"
    assert made.path.stat().st_mode & 0o077 == 0
    # A published version may change meanwhile: the page is replaced at once.
    assert not [*made.path.parent.glob(".*")]


SECTIONS = ("Kept by day", "Coverage", "Balance", "Lag", "Requests to Stripe")


def test_nothing_published_is_said(folder: DataFolder) -> None:
    with pytest.raises(WarehouseError, match="does not exist yet"):
        make_report(folder, Settings(), None)


def test_a_file_without_money_has_a_page(make_pipeline: MakePipeline, shop: Shop) -> None:
    shop.create_customer(created=days_ago(shop, 1))
    pipeline = make_pipeline(objects={"balance_transactions": {"enabled": False}})
    pipeline.sync()
    text = report_of(pipeline).path.read_text(encoding="utf-8")
    assert "Nothing moved the balance" in text


@pytest.mark.both_modes
def test_live_data_comes_first(make_pipeline: MakePipeline, shop: Shop) -> None:
    shop.create_payment(livemode=True, created=days_ago(shop, 1))
    pipeline = make_pipeline()
    pipeline.sync()
    text = report_of(pipeline).path.read_text(encoding="utf-8")
    assert "Live data" in text
    assert "Test data" not in text


# Dagster


def test_the_asset_shows_figures_and_charts(
    pipeline: Pipeline, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("history: 60 days")
    monkeypatch.setenv("STRIPE_PIPELINE_CONFIG", str(settings))
    defs = build_defs(resource_overrides={RESOURCE: OpenedPipeline(pipeline)})
    assert defs.resolve_job_def("report").execute_in_process(instance=instance).success
    event = instance.get_latest_materialization_event(Names().report)
    assert event is not None
    assert event.asset_materialization is not None
    shown = event.asset_materialization.metadata
    figures = str(shown["overview"].value)
    assert 4 <= figures.count("\n") - 1 <= 6
    assert "| **Verdict, test mode** |" in figures
    images = str(shown["charts"].value)
    assert images.count("data:image/svg+xml;base64,") >= 5
    assert max(len(image) for image in images.split("\n\n")) < 100_000
    assert "data:" not in figures


def test_figures_cannot_break_the_table(pipeline: Pipeline) -> None:
    made = report_of(pipeline)
    object.__setattr__(made.overview.summary, "sentence", "a | b\n<script>")
    assert "a \\| b &lt;script>" in str(metadata(made)["overview"].value)


def test_the_sensor_requests_a_run_only_after_a_change(
    pipeline: Pipeline, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    defs = build_report_automation(pipeline.settings, Names())
    sensor = defs.resolve_sensor_def("report_refresh")
    assert sensor.minimum_interval_seconds == 300
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING

    def tick(cursor: str | None) -> tuple[int, str | None]:
        with dg.build_sensor_context(instance=instance, cursor=cursor) as context:
            data = sensor.evaluate_tick(context)
        return len(data.run_requests or ()), data.cursor

    assert tick(None)[0] == 0, "nothing was ever materialized"
    charges = dg.AssetKey(["raw", "charges"])
    instance.report_runless_asset_event(dg.AssetMaterialization(charges, partition=today().isoformat()))
    requested, cursor = tick(None)
    assert requested == 1
    assert tick(cursor)[0] == 0
    instance.report_runless_asset_event(dg.AssetMaterialization(Names().report))
    assert tick(cursor)[0] == 0, "the report itself is not a change"
    instance.report_runless_asset_event(dg.AssetMaterialization(charges, partition=today().isoformat()))
    assert tick(cursor)[0] == 1


def test_missing_libraries_are_named(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(StripePipelineError, match="cannot be made") as missing:
        report_of(pipeline)
    assert "pip install 'stripe-pipeline[report]'" in missing.value.remedy
    sensor = build_report_automation(pipeline.settings, Names()).resolve_sensor_def("report_refresh")
    with dg.DagsterInstance.ephemeral() as instance, dg.build_sensor_context(instance=instance) as context:
        data = sensor.evaluate_tick(context)
    assert "stripe-pipeline[report]" in str(data.skip_message)


# Commands


@pytest.fixture
def environment(pipeline: Pipeline, tmp_path: Path) -> dict[str, str]:
    """The variables with which commands use the data folder, in a project of their own."""
    (tmp_path / "settings.yaml").write_text("history: 60 days")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STRIPE_")}
    home = tmp_path / "home"
    home.mkdir()
    return inherited | {
        "STRIPE_PIPELINE_DATA": str(pipeline.folder.root),
        "STRIPE_PIPELINE_CONFIG": str(tmp_path / "settings.yaml"),
        "DAGSTER_HOME": str(home),
    }


def test_the_command_makes_the_report_and_prints_where_it_is(pipeline: Pipeline, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "stripe_pipeline", "report"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].endswith("published/report.html")
    assert pipeline.folder.shared.report.exists()


@pytest.mark.thorough
def test_explore_serves_a_page_on_this_machine_only(environment: dict[str, str]) -> None:
    port = free_port()
    command = [sys.executable, "-m", "stripe_pipeline", "explore", "--port", f"{port}"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 90
        while True:
            try:
                answer = httpx.get(f"http://127.0.0.1:{port}/", timeout=5, trust_env=False)
                break
            except httpx.TransportError:
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.3)
        assert answer.status_code == 200
        assert "<title>Stripe" in answer.text
        listening = subprocess.run(["ss", "-ltnH", f"sport = :{port}"], capture_output=True, text=True, check=True)
        assert f"127.0.0.1:{port}" in listening.stdout
        assert "0.0.0.0" not in listening.stdout.split(f":{port}")[0]
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DuckDB's client uses what the next pandas lacks
def test_the_cells_of_explore_run(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_PIPELINE_DATA", str(pipeline.folder.root))
    from stripe_pipeline.report.explore import app

    _, defined = app.run()
    assert defined["mode"] == "test"
    assert set(defined["trend"].columns) == {"day", "kept"}
    assert len(defined["payments"]) > 10
