"""The code location as Dagster sees it: names, partitions, and the records of runs."""

from __future__ import annotations

import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from stripe_emulator import Fault, Server, Shop
from stripe_pipeline.assets.checks import CHECK, EVALUATED_AT, PROVED, REFERENCES, UNIQUE
from stripe_pipeline.assets.columns import SCHEMA
from stripe_pipeline.assets.keys import Names
from stripe_pipeline.assets.raw import SUMMARY_TAG
from stripe_pipeline.assets.retention import not_kept_materializations
from stripe_pipeline.assets.views import build_view_assets, changed_views
from stripe_pipeline.automation import events_without_a_run
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import day_of, days_between, today
from stripe_pipeline.definitions import build_defs
from stripe_pipeline.inbox.notification import notifications_of
from stripe_pipeline.objects import DEFAULT_TYPES
from stripe_pipeline.resources.pipeline import RESOURCE
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.sync.pipeline import Pipeline
from stripe_pipeline.sync.report import Report
from stripe_pipeline.views import catalog
from stripe_pipeline.views.catalog import COMBINED, views
from stripe_pipeline.views.columns import Source, selectable
from stripe_pipeline.views.view import FINANCE, DescribedColumn, View
from stripe_pipeline.warehouse.pruning import Pruned
from tests.conftest import MakePipeline, OpenedPipeline
from tests.stripe_state import ask, assert_equal_to_stripe, days_ago
from tests.webserver import Webserver, webserver

RUN_TAGS = Names().run_tags
RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


@pytest.fixture
def defs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, make_pipeline: MakePipeline, instance: dg.DagsterInstance
) -> dg.Definitions:
    """The definitions, with ten days of history, reading the emulator. Dagster resolves them with a live instance."""
    history = (datetime.now(UTC) - timedelta(days=10)).date()
    settings = tmp_path / "settings.yaml"
    settings.write_text(
        f"history: {history}\nobjects:\n  charges:\n    title: Card charges\n"
        "    fields: {exclude: [billing_details.email], hash: [receipt_email]}\n"
        "    custom_fields: {risk: outcome.risk_level}\n    retention: 45 days\n"
    )
    monkeypatch.setenv("STRIPE_PIPELINE_CONFIG", str(settings))
    return build_defs(resource_overrides={RESOURCE: OpenedPipeline(make_pipeline(history=history))})


def materialized(instance: dg.DagsterInstance, *path: str) -> set[str]:
    """The partitions of an asset that Dagster shows as materialized."""
    return instance.get_materialized_partitions(dg.AssetKey(path))


def latest(instance: dg.DagsterInstance, table: str, day: str) -> dict[str, Any]:
    """The metadata of the last materialization of one partition."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(["raw", table]), asset_partitions=[day]), limit=1
    ).records
    materialization = records[0].asset_materialization
    assert materialization is not None
    return {name: value.value for name, value in materialization.metadata.items()}


@pytest.mark.both_modes
def test_the_location_has_the_names_of_the_contract(defs: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(defs)
    graph = defs.resolve_asset_graph()
    keys = {key.to_user_string() for key in graph.get_all_asset_keys()}
    tables = {f"{schema}/{table}" for schema in ("raw", "live", "test") for table in DEFAULT_TYPES}
    combined = {
        f"{schema}/{view.name}"
        for view in (declared(Settings()) for declared in COMBINED)
        if view.rows_of in (None, *DEFAULT_TYPES)
        for schema in view.schemas
    }
    assert keys == tables | combined | {"retention", "proof/certificate", "report/overview"}
    partitionings = {graph.get(dg.AssetKey(["raw", table])).partitions_def for table in DEFAULT_TYPES}
    assert len(partitionings) == 1
    [daily] = partitionings
    assert isinstance(daily, dg.DailyPartitionsDefinition)
    assert daily.get_first_partition_key() == (today() - timedelta(days=10)).isoformat()
    assert daily.get_last_partition_key() == today().isoformat()
    schedule = defs.resolve_schedule_def("sync_every_15_minutes")
    assert schedule.cron_schedule == "*/15 * * * *"
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert schedule.job_name == "sync"


@pytest.mark.both_modes
def test_assets_have_descriptions_kinds_and_columns(defs: dg.Definitions) -> None:
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    charges = specs["raw/charges"]
    assert charges.kinds == {"stripe", "duckdb"}
    first = today() - timedelta(days=10)
    assert "Card charges" in (charges.description or "")
    assert f"Loaded from {first} on, kept for 45 days." in (charges.description or "")
    assert f"Loaded from {first} on, kept forever." in (specs["raw/fee_details"].description or "")
    shown = charges.metadata[SCHEMA].columns
    names = [column.name for column in shown]
    assert names[:2] == ["id", "created"]
    assert set(names) >= {"livemode", "_account", "_fetched_at", "_deleted_at", "_extra", "amount_refunded"}
    descriptions = {
        column.name: column.description for column in (*shown, *specs["live/charges"].metadata[SCHEMA].columns)
    }
    assert descriptions["amount"] == "Amount of the charge, in minor units of `currency`"
    assert descriptions["amount_decimal"] == "`amount` in major units of `currency`"
    assert descriptions["customer"] == "ID of the customer; a row of `customers`"
    assert descriptions["receipt_email"] == "Email address to which the receipt is sent. Hashed"
    assert descriptions["billing_details"] == "Name and contact data given for the payment. Without `email`"
    assert descriptions["risk"] == "Custom: `outcome.risk_level`"
    assert [dep.asset_key.to_user_string() for dep in specs["raw/invoice_lines"].deps] == ["raw/invoices"]
    assert [dep.asset_key.to_user_string() for dep in specs["live/charges"].deps] == ["raw/charges"]
    payments = specs["test/payments"]
    assert {dep.asset_key.to_user_string() for dep in payments.deps} == {
        f"test/{table}" for table in ("charges", "customers", "invoices", "refunds", "disputes", "balance_transactions")
    }
    assert "net_total_decimal" in [column.name for column in payments.metadata[SCHEMA].columns]
    balance = specs["finance_test/balance_by_day"]
    assert [dep.asset_key.to_user_string() for dep in balance.deps] == ["test/balance_transactions"]


def test_a_finance_view_with_the_name_of_a_table_depends_on_the_view_of_its_mode() -> None:
    others = {name: {"enabled": False} for name in DEFAULT_TYPES if name != "customers"}
    specs = build_view_assets(Settings.model_validate({"objects": others}), Names()).specs
    above = {
        spec.key.to_user_string(): [dep.asset_key.to_user_string() for dep in spec.deps]
        for spec in specs
        if "customers" in spec.key.path
    }
    assert above == {
        **{f"{mode}/customers": ["raw/customers"] for mode in ("live", "test")},
        **{f"{schema}/customers": [f"{mode}/customers"] for schema, mode in FINANCE.items()},
    }


@pytest.mark.both_modes
def test_the_job_records_every_day_it_loaded(
    defs: dg.Definitions, instance: dg.DagsterInstance, shop: Shop, folder: DataFolder
) -> None:
    shop.seed_history(5)
    job = defs.resolve_job_def("sync")
    result = job.execute_in_process(instance=instance, partition_key=today().isoformat())
    assert result.success
    assert_equal_to_stripe(shop, folder.published)
    for table in DEFAULT_TYPES:
        assert len(materialized(instance, "raw", table)) == 11
    day = day_of(days_ago(shop, 2)).isoformat()
    created = [obj for mode in (True, False) for obj in shop.objects("charges", mode).values()]
    count = len([charge for charge in created if day_of(charge["created"]).isoformat() == day])
    assert latest(instance, "charges", day) == {
        "inserted": count,
        "updated": 0,
        "deleted": 0,
        "dagster/partition_row_count": count,
    }
    view = instance.get_latest_materialization_event(dg.AssetKey(["live", "charges"]))
    assert view is not None
    assert view.asset_materialization is not None
    assert view.asset_materialization.metadata["dagster/row_count"].value == len(shop.objects("charges", True))


@pytest.mark.both_modes
def test_a_run_logs_how_far_its_lists_are(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    server: Server,
    shop: Shop,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stripe_pipeline.assets.progress.SECONDS_BETWEEN_LINES", 0.01)
    shop.seed_history(5)
    server.faults.append(Fault(path="/v1/charges$", nth=2, delay=0.5))  # a line is due before the second page
    job = defs.resolve_job_def("sync")

    def logged() -> tuple[list[str], str]:
        """The lines of a sync about its progress, and what its run says in the list of runs."""
        result = job.execute_in_process(instance=instance, partition_key=today().isoformat())
        [run] = instance.get_runs(dg.RunsFilter(run_ids=[result.run_id]))
        messages = [event.user_message for event in instance.all_logs(result.run_id)]
        assert run.tags[SUMMARY_TAG] in messages
        return [message for message in messages if message.startswith("Reading Stripe for ")], run.tags[SUMMARY_TAG]

    lines, summary = logged()
    assert any(
        re.search(r"charges \d+ of 11 days, [\d,]+ rows, [\d,]+ rows/s, about \d+ s left", line) for line in lines
    )
    assert re.fullmatch(r"[\d,]+ rows changed in \d tables, [\d,]+ requests", summary)
    lines, summary = logged()
    assert lines, "a run that lists no days is silent"
    assert re.fullmatch(r"\d requests, nothing new", summary)


def test_a_backfill_that_is_canceled_says_what_is_kept(
    defs: dg.Definitions, instance: dg.DagsterInstance, server: Server, shop: Shop
) -> None:
    shop.seed_history(5)
    job = defs.resolve_job_def("sync")
    assert job.execute_in_process(instance=instance, partition_key=today().isoformat()).success
    server.faults.append(Fault(path="/v1/charges$", before=lambda _: signal.raise_signal(signal.SIGINT)))
    days = [day_of(days_ago(shop, n)).isoformat() for n in (3, 0)]
    backfill = defs.resolve_implicit_global_asset_job_def()
    with pytest.raises(dg.DagsterExecutionInterruptedError, match="Complete days are kept, and the same backfill"):
        backfill.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(["raw", "charges"])],
            tags=dict(zip(RANGE, days, strict=True)),
        )


def test_partitions_whose_rows_the_settings_do_not_keep_say_so(
    make_pipeline: MakePipeline, instance: dg.DagsterInstance, shop: Shop
) -> None:
    pipeline = make_pipeline(objects={"charges": {"history": "30 days"}})
    kept = pipeline.settings.first_listed(pipeline.settings.types["charges"])
    reported = list(not_kept_materializations(instance, pipeline.settings, Names(), {}))
    days = [event.partition for event in reported if event.asset_key.path[-1] == "charges"]
    first = pipeline.settings.first_day
    assert days == [day.isoformat() for day in days_between(first, kept - timedelta(days=1))]
    assert reported[0].metadata["why"].value == f"The settings keep charges from {kept} on"
    for event in reported:
        instance.report_runless_asset_event(event)
    assert list(not_kept_materializations(instance, pipeline.settings, Names(), {})) == [], "they are reported once"
    pruned = {"charges": Pruned(kept, Counter({first: 3}))}
    again = list(not_kept_materializations(instance, pipeline.settings, Names(), pruned))
    assert [event.partition for event in again] == [first.isoformat()], "the rows were removed since"


def test_a_sync_records_the_days_of_changed_rows(
    defs: dg.Definitions, instance: dg.DagsterInstance, shop: Shop, folder: DataFolder
) -> None:
    job = defs.resolve_job_def("sync")
    old = shop.create_customer(created=days_ago(shop, 9))["id"]
    job.execute_in_process(instance=instance, partition_key=today().isoformat())
    shop.update("customers", old, name="Grace")
    result = job.execute_in_process(instance=instance, partition_key=today().isoformat())
    days = {event.partition for event in result.get_asset_materialization_events() if event.asset_key}
    assert days == {None, day_of(days_ago(shop, 9)).isoformat()}
    assert latest(instance, "customers", day_of(days_ago(shop, 9)).isoformat())["updated"] == 1


def test_a_table_without_changes_is_materialized_once_a_day(
    defs: dg.Definitions, instance: dg.DagsterInstance, server: Server, shop: Shop
) -> None:
    """A run that fails because of another table materializes it again: Dagster would show its partition as failed."""
    job = defs.resolve_job_def("sync")

    def synced() -> set[str]:
        result = job.execute_in_process(instance=instance, partition_key=today().isoformat(), raise_on_error=False)
        events = result.get_asset_materialization_events()
        return {event.asset_key.path[-1] for event in events if event.asset_key and event.asset_key.path[0] == "raw"}

    def failed() -> set[str]:
        daily = defs.resolve_asset_graph().get(dg.AssetKey(["raw", "charges"])).partitions_def
        assert daily
        statuses = {
            table: instance.get_status_by_partition(dg.AssetKey(["raw", table]), [today().isoformat()], daily) or {}
            for table in DEFAULT_TYPES
        }
        return {
            table
            for table, by_day in statuses.items()
            if {status.name for status in by_day.values() if status} == {"FAILED"}
        }

    assert synced() == DEFAULT_TYPES.keys()
    assert synced() == set()
    assert failed() == set()
    customer = shop.create_customer()["id"]
    assert synced() == {"customers"}
    shop.update("customers", customer, name="Grace")
    server.faults.append(Fault(path=f"/v1/customers/{customer}", status=403, times=None))
    server.faults.append(Fault(path="/v1/customers", status=403, times=None))
    assert synced() == DEFAULT_TYPES.keys() - {"customers"}
    assert failed() == {"customers"}


CHECKS = """
{ assetNodes { assetKey { path } assetChecksOrError { ... on AssetChecks { checks {
    name executionForLatestMaterialization { status evaluation { metadataEntries { label } } } } } } } }
"""


def shown(page: Webserver) -> dict[tuple[str, str], str]:
    """The status of each check in the UI: SUCCEEDED, FAILED, or `Not evaluated`; by table and name of the check."""
    return {
        (node["assetKey"]["path"][-1], check["name"]): (check["executionForLatestMaterialization"] or {}).get(
            "status", "Not evaluated"
        )
        for node in page.query(CHECKS)["assetNodes"]
        for check in node["assetChecksOrError"].get("checks", ())
    }


@pytest.fixture
def page(defs: dg.Definitions, instance: dg.DagsterInstance) -> Iterator[Webserver]:
    """The UI's server, with the settings of `defs`."""
    with webserver(instance) as page:
        yield page


@pytest.mark.both_modes
@pytest.mark.dagster_files
@pytest.mark.thorough
def test_planned_checks_keep_their_status_while_rows_arrive(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    shop: Shop,
    server: Server,
    make_pipeline: MakePipeline,
    monkeypatch: pytest.MonkeyPatch,
    page: Webserver,
) -> None:
    sync, night = defs.resolve_job_def("sync"), defs.resolve_job_def("nightly")
    shop.seed_history(3)
    customer = shop.create_customer()["id"]
    assert sync.execute_in_process(instance=instance, partition_key=today().isoformat()).success
    assert night.execute_in_process(instance=instance).success
    first = shown(page)
    charges = dg.AssetKey(["raw", "charges"])
    with_checks = {dg.AssetCheckKey(charges, name) for name in (UNIQUE, REFERENCES, CHECK)}
    by_hand = defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection={charges}, asset_check_selection=with_checks
    )
    beside = make_pipeline()
    backfill = Pipeline.backfill

    def drained_meanwhile(self: Pipeline, *arguments: Any) -> Report:
        shop.create_payment(customer=customer)
        beside.inbox.add([notification for event in shop.events(False) for notification in notifications_of(event)])
        report = beside.drain(most=1000)  # more than the history has
        assert report.changes["charges"].days
        for event in events_without_a_run(report, beside, instance, Names()):
            instance.report_runless_asset_event(event)
        return backfill(self, *arguments)

    monkeypatch.setattr(Pipeline, "backfill", drained_meanwhile)
    for refused in (False, True):
        if refused:
            server.faults.append(Fault(path="^/v1/charges$", status=403, times=None))
        ran = by_hand.execute_in_process(instance=instance, partition_key=today().isoformat(), raise_on_error=False)
        assert ran.success is not refused
        server.faults.clear()
        shop.create_payment(customer=customer)
        assert sync.execute_in_process(instance=instance, partition_key=today().isoformat()).success
        assert shown(page) == first


@pytest.mark.both_modes
@pytest.mark.dagster_files
def test_the_results_of_the_nightly_checks_stay_shown_while_rows_arrive(
    defs: dg.Definitions, instance: dg.DagsterInstance, shop: Shop, make_pipeline: MakePipeline, page: Webserver
) -> None:
    sync, night = defs.resolve_job_def("sync"), defs.resolve_job_def("nightly")
    history = (datetime.now(UTC) - timedelta(days=10)).date()
    pipeline = make_pipeline(history=history)

    def drain() -> None:
        shop.update("customers", customer, name=f"{time.monotonic()}")
        pipeline.inbox.add([notification for event in shop.events(False) for notification in notifications_of(event)])
        report = pipeline.drain(most=100)
        for event in events_without_a_run(report, pipeline, instance, Names()):
            instance.report_runless_asset_event(event)

    shop.seed_history(3)
    customer = shop.create_customer()["id"]
    assert sync.execute_in_process(instance=instance, partition_key=today().isoformat()).success
    # A customer in two rows.
    with duckdb.connect(str(pipeline.folder.private)) as connection:
        connection.execute(f"INSERT INTO raw.customers FROM raw.customers WHERE id = '{customer}'")
    evaluated = night.execute_in_process(instance=instance).get_asset_check_evaluations()
    passed = {(evaluation.asset_key.path[-1], evaluation.check_name): evaluation.passed for evaluation in evaluated}
    assert not passed["customers", UNIQUE]
    assert passed["charges", UNIQUE]
    first = shown(page)
    assert {key: status == "SUCCEEDED" for key, status in first.items() if key[1] != CHECK} == passed
    assert "Not evaluated" not in first.values()

    shop.create_payment(customer=customer)
    sync.execute_in_process(instance=instance, partition_key=today().isoformat())
    assert shown(page) == first, "after a sync"
    drain()
    drain()
    assert shown(page) == first, "after drains"
    key = dg.AssetCheckKey(dg.AssetKey(["raw", "customers"]), UNIQUE)
    record = instance.get_latest_asset_check_evaluation_record(key)
    assert record
    assert record.evaluation
    assert record.evaluation.severity is dg.AssetCheckSeverity.ERROR
    assert "examples" in record.evaluation.metadata
    [ran] = [evaluation for evaluation in evaluated if evaluation.asset_check_key == key]
    at = record.evaluation.metadata[EVALUATED_AT].value
    assert isinstance(at, float)
    assert ran.target_materialization_data
    assert record.create_timestamp > at > ran.target_materialization_data.timestamp


def test_a_sync_also_records_changes_of_days_before_the_first_partition(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    shop: Shop,
    make_pipeline: MakePipeline,
    folder: DataFolder,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A history that is an age moves on, so that loaded rows are before the first partition."""
    old = shop.create_customer(created=days_ago(shop, 9))["id"]
    defs.resolve_job_def("sync").execute_in_process(instance=instance, partition_key=today().isoformat())
    shop.update("customers", old, name="Grace")
    (tmp_path / "later.yaml").write_text("history: 5 days")
    monkeypatch.setenv("STRIPE_PIPELINE_CONFIG", str(tmp_path / "later.yaml"))
    later = build_defs(resource_overrides={RESOURCE: OpenedPipeline(make_pipeline(history="5 days"))})
    result = later.resolve_job_def("sync").execute_in_process(instance=instance, partition_key=today().isoformat())
    assert result.success
    assert latest(instance, "customers", day_of(days_ago(shop, 9)).isoformat())["updated"] == 1
    assert_equal_to_stripe(shop, folder.published)


@pytest.mark.both_modes
def test_a_view_is_materialized_when_its_rows_change(
    defs: dg.Definitions, instance: dg.DagsterInstance, shop: Shop, make_pipeline: MakePipeline
) -> None:
    job = defs.resolve_job_def("sync")
    customer = shop.create_customer(created=days_ago(shop, 9))["id"]
    every = [view for view in views(Settings()) if view.rows_of in (None, *DEFAULT_TYPES)]
    known = {f"{schema}/{view.name}" for view in every for schema in view.schemas}
    of_customers = {f"{view.schemas[1]}/{view.name}" for view in every if "customers" in view.tables}
    assert of_customers >= {"test/customers", "test/payments", "finance_test/customers"}

    def synced_views() -> set[str]:
        result = job.execute_in_process(instance=instance, partition_key=today().isoformat())
        assert {event.step_key for event in result.all_node_events} == {"stripe"}, "a sync runs one step"
        return known & {
            event.asset_key.to_user_string() for event in result.get_asset_materialization_events() if event.asset_key
        }

    assert synced_views() == known
    assert synced_views() == set()
    shop.update("customers", customer, name="Grace")
    assert synced_views() == of_customers
    shop.update("customers", customer, name="Ada")
    history = (datetime.now(UTC) - timedelta(days=10)).date()
    make_pipeline(history=history).sync()  # without a report to Dagster
    assert synced_views() == of_customers
    assert synced_views() == set()


def customers_by_currency(settings: Settings) -> View:
    """A view whose rows are not those of a table."""
    columns = selectable(settings)
    return View(
        name="customers_by_currency",
        title="Customers by currency",
        description="One row per currency.",
        describe=lambda: (DescribedColumn("currency", "VARCHAR"), DescribedColumn("customers", "BIGINT")),
        tables=("customers", "charges"),
        rows_of=None,
        select=lambda schema: (
            "SELECT currency, count(id) AS customers"
            f" FROM {Source(schema, columns).rows('customers', 'id currency')} GROUP BY currency"
        ),
    )


def test_a_view_that_groups_rows_has_no_row_count_and_is_materialized_when_a_row_is_removed(
    monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance, shop: Shop, make_pipeline: MakePipeline
) -> None:
    monkeypatch.setattr(catalog, "COMBINED", (*COMBINED, customers_by_currency))
    first, *_ = [shop.create_customer(created=days_ago(shop, age), currency="usd")["id"] for age in (3, 2, 1)]
    pipeline = make_pipeline()

    def reported() -> dict[str, Any] | None:
        pipeline.sync()
        changed = changed_views(instance, pipeline.warehouse, pipeline.settings, Names())
        for materialization in changed:
            instance.report_runless_asset_event(materialization)
        by_view = {"/".join(one.asset_key.path): one.metadata for one in changed}
        metadata = by_view.get("test/customers_by_currency")
        return None if metadata is None else {name: entry.value for name, entry in metadata.items()}

    before = reported()
    assert before is not None
    assert before.keys() == {"rows of its tables", "newest row read"}
    assert before["rows of its tables"] == 3
    assert reported() is None
    shop.delete_customer(first)
    after = reported()
    assert after is not None
    assert after == before | {"rows of its tables": 2}
    assert ask(pipeline.folder.published, "FROM test.customers_by_currency") == [("usd", 2)]
    without = make_pipeline(objects={"customers": {"enabled": False}, "charges": {"enabled": False}}).settings
    assert not [key for key in build_view_assets(without, Names()).keys if "customers_by_currency" in key.path]
    some = make_pipeline(objects={"customers": {"enabled": False}}).settings
    assert [key for key in build_view_assets(some, Names()).keys if "customers_by_currency" in key.path]


@pytest.mark.both_modes
def test_views_can_be_created_again_by_hand(
    instance: dg.DagsterInstance, shop: Shop, make_pipeline: MakePipeline, folder: DataFolder
) -> None:
    shop.create_payment(livemode=True)
    pipeline = make_pipeline()
    pipeline.sync()
    with duckdb.connect(str(folder.private)) as connection:
        connection.execute("CREATE OR REPLACE VIEW live.payments AS SELECT 1 AS spoiled")
        connection.execute("CREATE OR REPLACE VIEW live.refunds AS SELECT 1 AS spoiled")
    result = dg.materialize(
        [build_view_assets(pipeline.settings, Names())],
        selection=dg.AssetSelection.assets("live/payments", "live/charges"),
        instance=instance,
        resources={RESOURCE: OpenedPipeline(pipeline)},
    )
    assert result.success
    materializations = {
        "/".join(materialization.asset_key.path): materialization
        for event in result.get_asset_materialization_events()
        if (materialization := event.materialization)
    }
    assert materializations.keys() == {"live/payments", "live/charges"}
    assert materializations["live/payments"].metadata["dagster/row_count"].value == 1
    assert ask(folder.published, "SELECT count(*) FROM live.payments WHERE charge IS NOT NULL") == [(1,)]
    assert ask(folder.published, "SELECT count(id) FROM live.refunds") == [(0,)]  # `payments` reads it, too


def test_a_backfill_of_a_range_is_one_run_with_counts_for_each_partition(
    defs: dg.Definitions, instance: dg.DagsterInstance, shop: Shop, folder: DataFolder
) -> None:
    for days in (3, 2, 2, 1):
        shop.create_customer(created=days_ago(shop, days))
    first, last = (day_of(days_ago(shop, days)).isoformat() for days in (3, 1))
    job = defs.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance,
        tags=dict(zip(RANGE, (first, last), strict=True)),
        asset_selection=[dg.AssetKey(["raw", "customers"])],
    )
    assert result.success
    assert materialized(instance, "raw", "customers") == {day_of(days_ago(shop, n)).isoformat() for n in (3, 2, 1)}
    assert materialized(instance, "raw", "charges") == set()
    counts = [latest(instance, "customers", day_of(days_ago(shop, n)).isoformat()) for n in (3, 2, 1)]
    assert [count["dagster/partition_row_count"] for count in counts] == [1, 2, 1]
    assert [count["inserted"] for count in counts] == [1, 2, 1]


def test_a_type_that_fails_is_named_and_the_others_are_materialized(
    defs: dg.Definitions, instance: dg.DagsterInstance, server: Server, shop: Shop
) -> None:
    body = {
        "error": {"type": "invalid_request_error", "message": "Having the 'rak_refund_read' permission would help."}
    }
    server.faults.append(Fault(path="/v1/refunds", status=403, body=body, times=None))
    job = defs.resolve_job_def("sync")
    result = job.execute_in_process(instance=instance, partition_key=today().isoformat(), raise_on_error=False)
    assert not result.success
    failure = result.failure_data_for_node("stripe")
    assert failure is not None
    assert failure.user_failure_data is not None
    assert "refunds" in str(failure.user_failure_data.description)
    assert "rak_refund_read" in str(failure.user_failure_data.description)
    assert materialized(instance, "raw", "refunds") == set()
    for table in DEFAULT_TYPES.keys() - {"refunds"}:
        assert today().isoformat() in materialized(instance, "raw", table)


@pytest.mark.dagster_files
def test_the_schedule_requests_a_run_for_today_unless_one_is_under_way(
    defs: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    at = datetime(2026, 11, 23, 0, 0, tzinfo=UTC)
    with dg.build_schedule_context(
        instance, at, resources=defs.resources, repository_def=defs.get_repository_def()
    ) as context:
        schedule = defs.resolve_schedule_def("sync_every_15_minutes")
        [request] = schedule.evaluate_tick(context).run_requests or ()
        assert request.partition_key == "2026-11-23"
        run = instance.create_run_for_job(
            defs.resolve_job_def("sync"), tags=RUN_TAGS, status=dg.DagsterRunStatus.STARTED
        )
        skipped = schedule.evaluate_tick(context)
        assert not skipped.run_requests
        assert run.run_id in str(skipped.skip_message)


@pytest.mark.usefixtures("instance")
def test_a_disabled_object_has_no_assets(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("objects:\n  invoices: {enabled: false}\n")
    monkeypatch.setenv("STRIPE_PIPELINE_CONFIG", str(settings))
    keys = {key.to_user_string() for key in build_defs().resolve_all_asset_keys()}
    assert "raw/charges" in keys
    assert not {"raw/invoices", "raw/invoice_lines", "live/invoices", "test/invoice_lines"} & keys


@pytest.mark.usefixtures("instance")
def test_an_optional_type_has_assets_and_checks_once_the_type_is_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    settings = tmp_path / "settings.yaml"
    monkeypatch.setenv("STRIPE_PIPELINE_CONFIG", str(settings))
    assets = {dg.AssetKey([schema, "payouts"]) for schema in ("raw", "live", "test")}
    for text, there in (("", set()), ("objects: all", assets)):
        settings.write_text(text)
        graph = build_defs().resolve_asset_graph()
        assert assets & set(graph.get_all_asset_keys()) == there
        checks = {key.name for key in graph.asset_check_keys if key.asset_key == dg.AssetKey(["raw", "payouts"])}
        undated = [node.description or "" for node in graph.asset_nodes if node.key.path[-1] == "payment_links"]
        assert len(undated) == (3 if there else 0)
        assert not any("1970" in description for description in undated)
        assert checks == ({CHECK, PROVED, REFERENCES, UNIQUE} if there else set())


def test_a_run_checks_that_each_announced_change_was_read(
    defs: dg.Definitions, instance: dg.DagsterInstance, server: Server, shop: Shop, make_pipeline: MakePipeline
) -> None:
    customer = shop.create_customer(created=days_ago(shop, 5))["id"]
    job = defs.resolve_job_def("sync")
    pipeline = make_pipeline()

    def checked() -> dict[str, bool]:
        result = job.execute_in_process(
            instance=instance, partition_key=today().isoformat(), run_config=None, raise_on_error=False
        )
        return {
            evaluation.asset_key.path[-1]: evaluation.passed
            for evaluation in result.get_asset_check_evaluations()
            if evaluation.check_name == CHECK
        }

    listed = {name for name, object_type in DEFAULT_TYPES.items() if object_type.endpoint}
    assert checked() == dict.fromkeys(listed, True)
    server.faults.append(Fault(path=f"/v1/customers/{customer}", status=400, times=None))
    shop.update("customers", customer, name="new")
    for _ in range(5):
        checked()
    assert checked() == dict.fromkeys(listed, True) | {"customers": False}
    server.faults.clear()
    pipeline.inbox.retry()
    assert checked() == dict.fromkeys(listed, True)
