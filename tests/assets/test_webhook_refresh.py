"""The sensor that applies webhooks: its reports to Dagster, and the runs that it requests.

The tests of webhooks compare the rows with Stripe.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from stripe_emulator import Fault, Server, Shop
from stripe_pipeline.assets.checks import CHECK
from stripe_pipeline.assets.keys import Names
from stripe_pipeline.automation import TickLimits, build_sensor
from stripe_pipeline.cli.processes import Processes
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import day_of, today
from stripe_pipeline.definitions import build_defs
from stripe_pipeline.errors import SettingsError
from stripe_pipeline.inbox.notification import notifications_of
from stripe_pipeline.objects import DEFAULT_TYPES
from stripe_pipeline.resources.pipeline import RESOURCE
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.sync.pipeline import Pipeline
from stripe_pipeline.views.catalog import views
from stripe_pipeline.warehouse.publisher import Pace
from tests.conftest import MakePipeline, OpenedPipeline
from tests.stripe_state import assert_equal_to_stripe, days_ago
from tests.warehouse.test_warehouse import slow_copies

KEY = {"STRIPE_API_KEY": "sk_test_of_the_tests"}
RUN_TAGS = Names().run_tags
SHORT = TickLimits(wait=1.0, report_within=0.5)
AT_ONCE = Pace(pause=0.0, share=0)
SELDOM = Pace(pause=0.0, share=1000)


@pytest.fixture
def pipeline(make_pipeline: MakePipeline) -> Pipeline:
    """A pipeline of the test mode that publishes whenever something changed."""
    return make_pipeline(KEY, pace=AT_ONCE)


_definitions = cache(build_defs)


@dataclass(frozen=True)
class Tick:
    """The result of a tick of the sensor."""

    message: str
    events: Sequence[Any]
    partitions: list[str | None]
    """Of the runs that the tick requests."""


def tick(opens: object, instance: dg.DagsterInstance, limits: TickLimits = SHORT) -> Tick:
    """One tick of the sensor."""
    with dg.build_sensor_context(instance=instance, resources={RESOURCE: opens}, definitions=_definitions()) as context:
        done = build_sensor(limits, Settings(), Names()).evaluate_tick(context)
    runs = [request.partition_key for request in done.run_requests or ()]
    return Tick(done.skip_message or "", done.asset_events, runs)


def add_events(pipeline: Pipeline, shop: Shop) -> None:
    """Put all events into the inbox, as the receiver does."""
    pipeline.inbox.add([notification for event in shop.events(False) for notification in notifications_of(event)])


def test_a_tick_applies_events_that_arrive_while_it_waits_and_reports_each_table_and_day(
    pipeline: Pipeline, shop: Shop, folder: DataFolder, instance: dg.DagsterInstance
) -> None:
    created = days_ago(shop, 30)
    charge = shop.create_payment(created=created)["latest_charge"]
    pipeline.sync()
    add_events(pipeline, shop)
    pipeline.drain(most=1000)
    shop.refund(charge, amount=100)
    threading.Timer(0.3, add_events, (pipeline, shop)).start()
    result = tick(OpenedPipeline(pipeline), instance, TickLimits(report_within=0.5))
    assert_equal_to_stripe(shop, folder.published)
    reported = {
        (event.asset_key.path[-1], event.partition): {name: entry.value for name, entry in event.metadata.items()}
        for event in result.events
        if isinstance(event, dg.AssetMaterialization) and event.asset_key.path[0] == "raw"
    }
    today_, old = today().isoformat(), day_of(created).isoformat()
    assert reported.keys() == {("charges", old), ("refunds", today_), ("balance_transactions", today_)}
    shown = {event.asset_key.to_user_string() for event in result.events if event.asset_key.path[0].endswith("test")}
    tables = {"charges", "refunds", "balance_transactions"}
    by_default = [view for view in views(Settings()) if view.rows_of in (None, *DEFAULT_TYPES)]
    assert shown == {f"{view.schemas[1]}/{view.name}" for view in by_default if tables & set(view.tables)}
    assert shown >= {"test/payments", *(f"test/{table}" for table in tables)}
    checks = {
        event.asset_key.path[-1]: event.passed for event in result.events if isinstance(event, dg.AssetCheckEvaluation)
    }
    assert checks == {"charges": True, "refunds": True, "balance_transactions": True}
    assert reported["charges", old] == {
        "inserted": 0,
        "updated": 1,
        "deleted": 0,
        "dagster/partition_row_count": 1,
    }
    assert result.message.startswith("Applied 2 events; rows changed: ")
    assert "1 in charges" in result.message


def test_a_tick_without_events_says_so_and_reads_nothing(
    pipeline: Pipeline, server: Server, instance: dg.DagsterInstance
) -> None:
    pipeline.sync()
    server.requests.clear()
    result = tick(OpenedPipeline(pipeline), instance)
    assert result.message == "No events applied"
    assert not result.events
    assert not server.requests


def test_objects_that_are_too_many_for_a_tick_become_one_run(
    pipeline: Pipeline, shop: Shop, folder: DataFolder, instance: dg.DagsterInstance
) -> None:
    limits = replace(SHORT, objects=3)
    customers = [shop.create_customer(name="old", created=days_ago(shop, 20 + n))["id"] for n in range(9)]
    pipeline.sync()
    for customer in customers:
        shop.update("customers", customer, name="new")
    add_events(pipeline, shop)
    result = tick(OpenedPipeline(pipeline), instance, limits)
    assert result.partitions == [today().isoformat()]
    tables = [event for event in result.events if isinstance(event, dg.AssetMaterialization) and event.partition]
    assert len(tables) == 3, "the first objects are read at once"
    assert pipeline.inbox.objects_due() == 6

    job = _definitions().resolve_job_def("sync")
    run = instance.create_run_for_job(job, tags=RUN_TAGS, status=dg.DagsterRunStatus.STARTED)
    assert run.job_name == "sync"
    result = tick(OpenedPipeline(pipeline), instance, limits)
    assert not result.partitions, "the run reads the other objects"
    assert pipeline.inbox.objects_due() == 6
    pipeline.sync()
    assert_equal_to_stripe(shop, folder.published)


def test_an_object_that_is_announced_repeatedly_is_read_once_in_two_seconds(
    make_pipeline: MakePipeline, shop: Shop, server: Server, folder: DataFolder, instance: dg.DagsterInstance
) -> None:
    pipeline = make_pipeline(KEY, pace=Pace(share=0))
    customers = [shop.create_customer(created=days_ago(shop, 20 + n))["id"] for n in range(2)]
    pipeline.sync()
    server.requests.clear()
    ends = time.monotonic() + 5

    def trade() -> None:
        while time.monotonic() < ends:
            for customer in customers:
                shop.update("customers", customer, description=f"{time.monotonic()}")
            add_events(pipeline, shop)
            time.sleep(0.05)

    trading = threading.Thread(target=trade)
    trading.start()
    while trading.is_alive() or pipeline.inbox.has_due():
        tick(OpenedPipeline(pipeline), instance)
    trading.join()
    assert_equal_to_stripe(shop, folder.published)
    assert len(server.requests) <= 2 * 4, "every two seconds"


@pytest.mark.both_modes
def test_webhooks_wait_until_publishing_is_due_over_many_ticks(
    make_pipeline: MakePipeline,
    shop: Shop,
    server: Server,
    folder: DataFolder,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop.create_customer(created=days_ago(shop, 20))
    make_pipeline(KEY).sync()
    copies = slow_copies(monkeypatch, seconds=0.1)
    folder.publishing.unlink()  # as if the last publish had been long ago
    summaries = []
    for _ in range(3):
        shop.create_customer()
        add_events(make_pipeline(KEY), shop)
        # Each tick has its own pipeline.
        summaries.append(tick(OpenedPipeline(make_pipeline(KEY, pace=SELDOM)), instance).message)
    assert summaries[0].startswith("Applied")
    assert summaries[1:] == ["No events applied"] * 2
    assert len(copies) == 1
    server.requests.clear()
    assert tick(OpenedPipeline(make_pipeline(KEY, pace=AT_ONCE)), instance).message.startswith("Applied 2 events")
    assert len(copies) == 2
    assert_equal_to_stripe(shop, folder.published)


@pytest.mark.both_modes
def test_waiting_notifications_are_published_when_dagster_is_being_ended(
    make_pipeline: MakePipeline,
    shop: Shop,
    folder: DataFolder,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow_copies(monkeypatch, seconds=0.1)
    pipeline = make_pipeline(KEY, pace=SELDOM)
    shop.create_customer(created=days_ago(shop, 20))
    pipeline.sync()
    folder.stopping.touch()
    shop.create_customer()
    add_events(pipeline, shop)
    assert tick(OpenedPipeline(pipeline), instance).message.startswith("Applied")
    assert_equal_to_stripe(shop, folder.published)


def test_dead_notifications_fail_a_check_of_their_table(
    pipeline: Pipeline, shop: Shop, server: Server, instance: dg.DagsterInstance
) -> None:
    customer = shop.create_customer(created=days_ago(shop, 20))["id"]
    pipeline.sync()
    server.faults.append(Fault(path=f"/v1/customers/{customer}", status=400, times=None))
    shop.update("customers", customer, name="new")
    add_events(pipeline, shop)
    notifications = [entry.notification for entry in pipeline.inbox.rows() if entry.notification.object_id == customer]
    for _ in range(4):
        pipeline.inbox.failed(notifications, "no", now=0)
    result = tick(OpenedPipeline(pipeline), instance)
    [check] = [event for event in result.events if isinstance(event, dg.AssetCheckEvaluation)]
    assert (check.asset_key.to_user_string(), check.check_name, check.passed) == ("raw/customers", CHECK, False)
    assert customer in check.metadata
    assert "customers" in result.message


def test_an_invalid_setting_is_reported_without_a_failed_tick(folder: DataFolder, instance: dg.DagsterInstance) -> None:
    class Broken:
        def __init__(self) -> None:
            self.folder = folder

        @contextmanager
        def open(self) -> Iterator[Pipeline]:
            raise SettingsError("No Stripe API key is set", "Set STRIPE_API_KEY")
            yield

    started = time.monotonic()
    assert tick(Broken(), instance).message == "No Stripe API key is set. Set STRIPE_API_KEY."
    assert time.monotonic() - started >= 1, "the next tick comes later"
    folder.prepare()
    folder.stopping.touch()
    started = time.monotonic()
    tick(Broken(), instance)
    assert time.monotonic() - started < 1


def test_a_tick_does_not_wait_while_dagster_is_being_ended_but_applies_waiting_notifications(
    pipeline: Pipeline, shop: Shop, folder: DataFolder, instance: dg.DagsterInstance
) -> None:
    limits = TickLimits(wait=30.0, report_within=30.0)
    shop.create_customer(created=days_ago(shop, 20))
    pipeline.sync()
    folder.stopping.touch()
    started = time.monotonic()
    assert tick(OpenedPipeline(pipeline), instance, limits).message == "No events applied"
    shop.create_customer()
    add_events(pipeline, shop)
    assert tick(OpenedPipeline(pipeline), instance, limits).message.startswith("Applied")
    assert time.monotonic() - started < 25
    assert_equal_to_stripe(shop, folder.published)


def test_a_mark_exists_while_processes_are_being_ended_and_an_old_mark_is_removed(tmp_path: Path) -> None:
    mark = tmp_path / "stopping"
    mark.touch()
    program = f"import pathlib, time; m = pathlib.Path({str(mark)!r})\ntry: time.sleep(60)\n"
    program += "except KeyboardInterrupt: pathlib.Path('seen').write_text(str(m.exists()))\n"
    (tmp_path / "waits.py").write_text(program)
    with contextlib.chdir(tmp_path):
        with Processes(tmp_path, stopping=mark) as processes:
            assert not mark.exists()
            processes.start("Waits", "waits")
            time.sleep(1)
        assert (tmp_path / "seen").read_text() == "True"
    assert not mark.exists()
