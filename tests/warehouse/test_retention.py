"""Rows that are too old are removed and come back with a longer retention; deleted rows are hidden or removed.

The tests go from the emulator to the published file. See docs/stripe.md#trap-29-pruned-rows.
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from stripe_emulator import Server, Shop
from stripe_pipeline.assets.dagster_history import forget_events_without_a_run, forget_runs, report_again
from stripe_pipeline.assets.keys import Names
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY, day_of, today
from stripe_pipeline.definitions import build_defs
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.resources.pipeline import RESOURCE
from stripe_pipeline.warehouse import compaction
from tests.cli.test_cli import Project, Run, api, environment, project, run  # noqa: F401 - the command line's fixtures
from tests.conftest import KEYS, MakePipeline, OpenedPipeline
from tests.stripe_state import ask, assert_equal_to_stripe, changed, days_ago
from tests.test_fields import holding
from tests.variants import varied
from tests.whole.test_traps import Held

LIVE = {"STRIPE_API_KEY": KEYS["STRIPE_API_KEY"]}


def oldest(folder: DataFolder, table: str, column: str = "created") -> float:
    """The age of the oldest date in a column, in days."""
    [(at,)] = ask(folder.published, f"SELECT min({column}) FROM raw.{table}")
    return float((datetime.now(UTC) - at) / timedelta(days=1))


def counts(folder: DataFolder) -> dict[str, int]:
    """Rows of the base tables that retention may touch."""
    tables = ("charges", "invoices", "invoice_lines", "balance_transactions", "fee_details", "customers")
    return {table: ask(folder.published, f"SELECT count(*) FROM raw.{table}")[0][0] for table in tables}


@pytest.mark.both_modes
def test_trap_29_pruned_rows_stay_away_until_a_longer_retention_and_a_backfill_bring_them_back(
    make_pipeline: MakePipeline, shop: Shop, server: Server, folder: DataFolder
) -> None:
    shop.seed_history(45)
    make_pipeline().sync()
    before = counts(folder)
    short = make_pipeline(retention="20 days")
    foreseen = short.warehouse.prune(dry_run=True)
    assert counts(folder) == before
    pruned = short.prune()
    assert {table: pruned[table].days for table in pruned} == {table: foreseen[table].days for table in foreseen}
    after = counts(folder)
    assert {table: before[table] - after[table] for table in after} == {table: pruned[table].rows for table in after}
    for table in after:
        assert 0 < after[table] < before[table]
        assert oldest(folder, table) < 21
    # The coverage of the first day that is kept stays: the day need not be listed again.
    covered = short.warehouse.state.covered_days()
    assert min(covered["charges"]) == min(covered["fee_details"]) == pruned["charges"].cutoff
    assert set(pruned["charges"].days) == {day_of(days_ago(shop, n)) for n in range(21, 47)} & set(
        pruned["charges"].days
    )

    old = [charge for charge in shop.objects("charges", True).values() if charge["created"] < days_ago(shop, 30)]
    shop.update("charges", old[0]["id"], description="changed", livemode=True)
    lines = list(shop.objects("invoice_lines", True))
    invoices = shop.objects("invoices", True)
    [old_invoice, *_] = [invoice for invoice, _ in lines if invoices[invoice]["created"] < days_ago(shop, 30)]
    shop.update("invoices", old_invoice, description="changed", livemode=True)
    events = short.sync()
    assert events.applied
    assert counts(folder) == after
    path = f"/v1/charges/{old[0]['id']}"
    assert path not in [request.path for request in server.requests]  # nor is the charge requested
    again = short.backfill([day_of(days_ago(shop, n)) for n in range(46)])
    assert changed(again) == {}
    assert any("charges: 25 days are older than what the settings keep" in note for note in again.notes)
    assert counts(folder) == after
    assert not short.has_due_notifications(math.inf)  # no notification waits for rows that are not kept

    longer = make_pipeline(retention="40 days")
    longer.backfill([day_of(days_ago(shop, n)) for n in range(46)])
    assert after["charges"] < counts(folder)["charges"] < before["charges"]
    assert 38 < oldest(folder, "charges") < 41
    forever = make_pipeline()
    forever.sync()  # lists the days that are not covered
    assert counts(folder) == before
    assert_equal_to_stripe(shop, folder.published)


@pytest.mark.both_modes
def test_retention_goes_by_the_date_field_and_by_created_where_that_is_null(
    make_pipeline: MakePipeline, shop: Shop, server: Server, folder: DataFolder
) -> None:
    created = days_ago(shop, 30)
    ids = {
        "due": shop.create_invoice(livemode=True, created=created, due_date=days_ago(shop, 2))["id"],
        "long due": shop.create_invoice(livemode=True, created=created, due_date=days_ago(shop, 20))["id"],
        "without": shop.create_invoice(livemode=True, created=created, due_date=None)["id"],
    }
    objects = {"invoices": {"date_field": "due_date", "retention": "10 days"}}
    pipeline = make_pipeline(LIVE, objects=objects)
    pipeline.sync()
    assert ask(folder.published, "SELECT id FROM raw.invoices") == [(ids["due"],)]
    assert ask(folder.published, "SELECT DISTINCT invoice FROM raw.invoice_lines") == [(ids["due"],)]
    pipeline.prune()
    server.requests.clear()
    pipeline.sync()  # the days of the rows that are kept are covered
    lists = [request for request in server.requests if request.path == "/v1/invoices"]
    assert not [request for request in lists if int(request.params["created[gte]"]) <= created]
    # A change makes the invoice too old.
    shop.update("invoices", ids["due"], due_date=days_ago(shop, 15), livemode=True)
    pipeline.sync()
    assert counts(folder)["invoices"] == counts(folder)["invoice_lines"] == 0
    # Another change makes it young enough again; later, the retention is longer.
    shop.update("invoices", ids["due"], due_date=days_ago(shop, 1), livemode=True)
    pipeline.sync()
    assert ask(folder.published, "SELECT id FROM raw.invoices") == [(ids["due"],)]
    longer = make_pipeline(LIVE, objects={"invoices": {"date_field": "due_date", "retention": "2 months"}})
    longer.sync()
    assert counts(folder)["invoices"] == 3
    # By another date, other invoices are young enough.
    shop.create_invoice(livemode=True, created=days_ago(shop, 5), due_date=days_ago(shop, 90))
    longer.sync()
    assert counts(folder)["invoices"] == 3
    make_pipeline(LIVE, objects={"invoices": {"retention": "2 months"}}).sync()
    assert counts(folder)["invoices"] == 4
    # Days are those of the date field, for children those of their parent's `created`.
    pruned = pipeline.prune()
    assert pruned["invoices"].days == {day_of(at): 1 for at in (days_ago(shop, 20), created, days_ago(shop, 90))}
    assert pruned["invoice_lines"].days.keys() == {day_of(created), day_of(days_ago(shop, 5))}
    assert ask(folder.published, "SELECT DISTINCT invoice FROM raw.invoice_lines") == [(ids["due"],)]


@pytest.mark.both_modes
def test_a_child_may_be_pruned_before_its_parent_and_never_after_it(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.seed_history(30)
    objects = {"balance_transactions": {"retention": "20 days"}, "fee_details": {"retention": "5 days"}}
    make_pipeline().sync()
    pipeline = make_pipeline(retention="forever", objects=objects)
    foreseen = pipeline.warehouse.prune(dry_run=True)
    pruned = pipeline.prune()
    assert pruned == foreseen
    assert pruned.keys() == objects.keys()
    assert pruned["fee_details"].cutoff == today() - timedelta(days=5)
    assert {day_of(days_ago(shop, 25)), day_of(days_ago(shop, 10))} <= pruned["fee_details"].days.keys()
    for again in (False, True):
        if again:
            pipeline.backfill([day_of(days_ago(shop, n)) for n in range(3, 26)])
        assert 18 < oldest(folder, "balance_transactions") < 21
        assert oldest(folder, "fee_details") < 6
        assert oldest(folder, "charges") > 25
    shorter = make_pipeline(
        objects={"balance_transactions": {"retention": "5 days"}, "fee_details": {"retention": "20 days"}}
    )
    shorter.prune()
    assert oldest(folder, "fee_details") < 6


@pytest.mark.both_modes
@pytest.mark.parametrize(
    ("was_there", "date_field", "retention"), varied([(True, "available_on", "20 days"), (False, "created", "3 days")])
)
def test_the_next_sync_loads_rows_that_are_kept_longer_now(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, was_there: bool, date_field: str, retention: str
) -> None:
    shop.seed_history(12)
    tables = ("charges", "invoice_lines", "balance_transactions", "fee_details")
    before = {table: {"retention": "3 days"} for table in tables[:3]}
    before["balance_transactions"] |= {"date_field": date_field}
    if was_there:
        make_pipeline().sync()
    short = make_pipeline(objects=before)
    if was_there:
        short.prune()
    short.sync()
    shorter = counts(folder)
    now = {
        "balance_transactions": {"date_field": "available_on", "retention": retention},
        "charges": {"retention": "4 days"},
    }
    longer = make_pipeline(objects=now)
    report = longer.sync()
    assert {table for table, rows in counts(folder).items() if rows > shorter[table]} == set(tables)
    assert report.listed["charges"] == {day_of(days_ago(shop, 4))}
    make_pipeline().sync()
    assert_equal_to_stripe(shop, folder.published)


@pytest.mark.both_modes
def test_a_tables_own_history_decides_which_days_are_listed(
    make_pipeline: MakePipeline, shop: Shop, server: Server, folder: DataFolder
) -> None:
    shop.seed_history(45)
    start = (datetime.now(UTC) - timedelta(days=40)).date()
    pipeline = make_pipeline(LIVE, history=start, objects={"charges": {"history": "10 days"}})
    pipeline.sync()
    assert oldest(folder, "charges") < 11
    assert oldest(folder, "balance_transactions") > 35
    report = pipeline.sync([day_of(days_ago(shop, 20))])  # as a run of an older partition does
    assert any("charges: 1 days are older than what the settings keep" in note for note in report.notes)
    assert report.listed["refunds"] == {day_of(days_ago(shop, 20))}
    assert oldest(folder, "charges") < 11
    pipeline.backfill([day_of(days_ago(shop, n)) for n in range(40)])
    assert oldest(folder, "charges") < 11
    earlier = make_pipeline(LIVE, history=start, objects={"charges": {"history": "30 days"}})
    earlier.sync()
    assert 28 < oldest(folder, "charges") < 31


@pytest.mark.both_modes
@pytest.mark.parametrize(
    "change", varied(["changed", "deleted", "changed in a gap", "switched off meanwhile"], quick=2)
)
def test_loaded_rows_stay_equal_to_stripe_when_the_history_begins_later(
    make_pipeline: MakePipeline, shop: Shop, server: Server, folder: DataFolder, change: str
) -> None:
    """As a history that is an age does with every month."""
    unswept: dict[str, Any] = {"history": "30 days", "sweep": {"requests_a_month": 0}}
    customer, other = (
        shop.create_customer(livemode=True, created=days_ago(shop, 40), name="Ada")["id"] for _ in range(2)
    )
    make_pipeline(LIVE).sync()
    never_loaded = shop.create_customer(livemode=True, created=days_ago(shop, 70))["id"]
    later = make_pipeline(LIVE, **unswept)
    later.sync()
    if change == "switched off meanwhile":
        off = make_pipeline(LIVE, **unswept, objects={"customers": {"enabled": False}})
        off.sync()
    if change == "changed in a gap":
        shop.update("customers", customer, name="Grace", announce=False, livemode=True)
        shop.clock.advance(31 * DAY)
    elif change == "deleted":
        shop.delete_customer(customer)
    else:
        shop.update("customers", customer, name="Grace", livemode=True)
    if change == "switched off meanwhile":
        for _ in range(2):
            off.sync()
    shop.update("customers", never_loaded, name="Too old", livemode=True)
    make_pipeline(LIVE, **unswept).sync()
    names = [("Ada",)] if change == "deleted" else [("Ada",), ("Grace",)]
    assert ask(folder.published, "SELECT name FROM live.customers ORDER BY 1") == names
    # Covered days are not listed again, nor are days between them.
    server.requests.clear()
    shop.update("customers", other, name="Ada L.", livemode=True)
    report = make_pipeline(LIVE, **unswept).sync()
    assert changed(report) == {"customers": (0, 1, 0)}
    assert len(server.requests) <= 4
    make_pipeline(LIVE, **unswept, retention="20 days").prune()
    assert ask(folder.published, "SELECT name FROM live.customers") == []
    shop.update("customers", other, name="Too old by now", livemode=True)
    make_pipeline(LIVE, **unswept, retention="20 days").sync()
    assert ask(folder.published, "SELECT name FROM live.customers") == []


@pytest.mark.both_modes
def test_a_sweep_counts_listed_rows_even_if_few_of_them_are_kept(
    make_pipeline: MakePipeline, shop: Shop, server: Server, folder: DataFolder
) -> None:
    for age in range(20, 30):
        start = days_ago(shop, age) // DAY * DAY
        for n in range(250):
            shop.create_payment(livemode=True, created=start + n * 60, announce=False)
    off = {table: {"enabled": False} for table in ("charges", "customers", "invoices", "payment_intents", "refunds")}
    on = {"balance_transactions": {"date_field": "available_on", "retention": "10 days"}}
    pipeline = make_pipeline(LIVE, objects={**off, **on}, sweep={"requests_a_month": 240})
    pipeline.sync()
    assert ask(folder.published, "SELECT count(*) FROM raw.balance_transactions") == [(0,)]
    covered = "SELECT DISTINCT listed FROM pipeline.coverage WHERE object_type = 'balance_transactions' AND listed > 0"
    assert ask(folder.published, covered) == [(250,)]
    for _ in range(3):
        shop.clock.advance(DAY + 3600)
        report = pipeline.sync()
        swept = [day for day in report.listed["balance_transactions"] if day <= day_of(days_ago(shop, 20))]
        assert 0 < report.requests["balance_transactions"] <= 8 + 4, swept  # the budget, and the changes


def test_a_sweep_reads_days_with_a_burst_of_objects_in_as_many_requests_as_they_have_pages(
    make_pipeline: MakePipeline, shop: Shop, server: Server
) -> None:
    for age in range(3, 6):
        start = days_ago(shop, age) // DAY * DAY
        for n in range(250):
            shop.create_customer(livemode=True, created=start + n, announce=False)
    off = {table: {"enabled": False} for table in ("charges", "invoices", "payment_intents", "refunds")}
    make_pipeline(LIVE, objects=off, history="30 days").sync()
    shop.clock.advance(DAY + 3600)
    server.requests.clear()
    report = make_pipeline(LIVE, objects=off, history="30 days").sync()
    assert len([day for day in report.listed["customers"] if day < day_of(days_ago(shop, 3))]) >= 26
    assert report.requests["customers"] <= 8 + 2


def load_many_customers(make_pipeline: MakePipeline, shop: Shop) -> None:
    """Load 6,000 customers of the last 40 days, most of them older than 10, which take some 40 MB."""
    start = days_ago(shop, 40)
    for n in range(6000):
        shop.create_customer(livemode=True, created=start + n * 500, announce=False, description=os.urandom(3000).hex())
    make_pipeline(LIVE).sync()


@pytest.mark.thorough
@pytest.mark.both_modes
def test_space_is_given_back_later_if_a_pruning_was_stopped(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_many_customers(make_pipeline, shop)
    before = folder.private.stat().st_size

    def full(*_: object) -> None:
        raise duckdb.IOException("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(compaction, "_copy_to", full)
        with pytest.raises(
            WarehouseError, match=r"Rows that were too old were removed, but .* could not be made smaller: No sp"
        ):
            make_pipeline(LIVE, retention="10 days").prune()
    # Whether DuckDB frees blocks depends on how the rows lie.
    monkeypatch.setattr("stripe_pipeline.warehouse.compaction._mostly_free", lambda connection: False)
    pruned = make_pipeline(LIVE, retention="10 days").prune()
    assert pruned["customers"].rows == 0
    assert folder.private.stat().st_size < before / 2


@pytest.mark.both_modes
def test_a_dry_run_changes_nothing_whatever_the_settings_say_now(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    deleted = shop.create_customer(livemode=True, created=days_ago(shop, 5), name="Gone")["id"]
    shop.create_customer(livemode=True, created=days_ago(shop, 5), name="Ada", phone="1")
    make_pipeline(LIVE).sync()
    shop.delete_customer(deleted)
    make_pipeline(LIVE).sync()
    objects = {"customers": {"retention": "3 days", "fields": {"exclude": ["phone"]}}}
    later = make_pipeline(LIVE, on_delete="remove", objects=objects)
    foreseen = later.warehouse.prune(dry_run=True)
    assert foreseen["customers"].rows == 1
    assert ask(folder.private, "SELECT name, phone FROM raw.customers ORDER BY 1") == [("Ada", "1"), ("Gone", None)]
    assert later.prune() == foreseen
    assert ask(folder.private, "SELECT name FROM raw.customers") == []


@pytest.mark.both_modes
def test_disabled_children_are_removed_with_their_parents(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    invoice = shop.create_invoice(livemode=True, created=days_ago(shop, 30), due_date=days_ago(shop, 2))["id"]
    dated: dict[str, Any] = {"invoices": {"date_field": "due_date", "retention": "10 days"}}
    make_pipeline(LIVE, objects=dated).sync()
    assert counts(folder)["invoice_lines"] > 0
    shop.update("invoices", invoice, due_date=days_ago(shop, 15), livemode=True)
    make_pipeline(LIVE, objects=dated | {"invoice_lines": {"enabled": False}}).sync()
    assert counts(folder)["invoices"] == counts(folder)["invoice_lines"] == 0


@pytest.mark.thorough
@pytest.mark.both_modes
def test_space_is_used_again_and_given_back_where_that_halves_the_file(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    load_many_customers(make_pipeline, shop)
    before = folder.private.stat().st_size
    make_pipeline(LIVE, retention="10 days").prune()
    assert folder.private.stat().st_size < before / 2
    assert folder.published.stat().st_size == folder.private.stat().st_size
    assert counts(folder)["customers"] == len(
        [
            customer
            for customer in shop.objects("customers", True).values()
            if customer["created"] >= days_ago(shop, 0) // DAY * DAY - 10 * DAY
        ]
    )


@pytest.mark.both_modes
@pytest.mark.parametrize("on_delete", varied(["hide", "remove"]))
def test_objects_that_are_deleted_in_stripe_are_hidden_or_removed(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, on_delete: str
) -> None:
    day = days_ago(shop, 5)
    deleted = shop.create_customer(livemode=True, created=day, name="Gone for good")["id"]
    ada = shop.create_customer(livemode=True, created=day, name="Ada")["id"]
    draft = shop.create_invoice(ada, livemode=True, created=day, draft=True)
    pipeline = make_pipeline(on_delete=on_delete)
    pipeline.sync()
    shop.delete_customer(deleted)
    shop.delete_invoice(draft["id"])
    report = pipeline.sync()
    assert report.changes["customers"].deleted.total() == 1
    for _ in range(2):  # a late event and another list do not bring it back
        assert ask(folder.published, "SELECT name FROM live.customers") == [("Ada",)]
        assert ask(folder.published, "SELECT count(*) FROM live.invoice_lines") == [(0,)]
        hidden = ask(folder.published, "SELECT name FROM raw.customers WHERE _deleted_at IS NOT NULL")
        assert hidden == ([("Gone for good",)] if on_delete == "hide" else [])
        assert (ask(folder.published, "SELECT count(*) FROM raw.invoice_lines") == [(0,)]) == (on_delete == "remove")
        pipeline.backfill([day_of(day)])
    pipeline.prune()
    assert bool(holding(folder.root, "Gone for good")) == (on_delete == "hide")


@pytest.mark.both_modes
def test_rows_that_were_only_hidden_are_removed_once_the_settings_say_so(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    deleted = shop.create_customer(livemode=True, created=days_ago(shop, 5), name="Gone for good")["id"]
    draft = shop.create_invoice(livemode=True, created=days_ago(shop, 5), draft=True)["id"]
    pipeline = make_pipeline()
    pipeline.sync()
    shop.delete_customer(deleted)
    shop.delete_invoice(draft)
    pipeline.sync()
    assert holding(folder.root, "Gone for good")
    assert counts(folder)["invoice_lines"] > 0
    make_pipeline(objects={"customers": {"on_delete": "remove"}, "invoices": {"on_delete": "remove"}}).sync()
    assert holding(folder.root, "Gone for good") == []
    assert counts(folder)["invoices"] == counts(folder)["invoice_lines"] == 0


@pytest.mark.both_modes
@pytest.mark.dagster_files
def test_the_asset_prunes_and_reports_rows_by_day_and_a_dry_run_only_reports(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, instance: dg.DagsterInstance
) -> None:
    shop.seed_history(20)
    history = today() - timedelta(days=22)  # each day is reported to Dagster, which takes long
    make_pipeline(history=history).sync()
    before = counts(folder)
    short = make_pipeline(history=history, retention="10 days")
    defs = build_defs(resource_overrides={RESOURCE: OpenedPipeline(short)})
    job = defs.resolve_job_def("nightly")
    for dry_run in (True, False):
        config = {"ops": {"retention": {"config": {"dry_run": dry_run}}}}
        assert job.execute_in_process(instance=instance, run_config=config).success
        event = instance.get_latest_materialization_event(dg.AssetKey("retention"))
        assert event is not None
        assert event.asset_materialization is not None
        metadata: dict[str, Any] = dict(event.asset_materialization.metadata)
        rows = {record.data["table"]: record.data["rows"] for record in metadata["pruned"].records}
        assert sum(metadata["charges"].data.values()) == rows["charges"] > 0
        assert metadata["rows"].value == sum(rows.values())
        if dry_run:
            assert counts(folder) == before
    assert {table: before[table] - left for table, left in counts(folder).items()} == {t: rows[t] for t in before}
    assert defs.resolve_schedule_def("nightly").default_status is dg.DefaultScheduleStatus.RUNNING
    assert dg.AssetKey("retention") not in set(
        defs.resolve_job_def("sync").asset_layer.selected_asset_keys  # a sync does not prune
    )


def files(instance: dg.DagsterInstance) -> set[str]:
    """The names of all files that Dagster keeps."""
    return {path.name for path in Path(instance.storage_directory()).parent.rglob("*") if path.is_file()}


@pytest.mark.thorough
@pytest.mark.both_modes
@pytest.mark.dagster_files
def test_old_runs_are_removed_and_their_partitions_are_reported_again(
    make_pipeline: MakePipeline, shop: Shop, instance: dg.DagsterInstance
) -> None:
    shop.seed_history(5)
    start = (datetime.now(UTC) - timedelta(days=8)).date()
    pipeline = make_pipeline(history=start)
    defs = build_defs(resource_overrides={RESOURCE: OpenedPipeline(pipeline)})
    run_ids = [
        defs.resolve_job_def("sync").execute_in_process(instance=instance, partition_key=today().isoformat()).run_id
        for _ in range(2)
    ]

    @dg.asset
    def theirs() -> None:
        pass

    @dg.asset_check(asset=theirs)
    def check_of_theirs() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    all_of_theirs = dg.AssetSelection.all() | dg.AssetSelection.checks(check_of_theirs)
    jobs = [
        dg.define_asset_job("sync", selection=all_of_theirs),
        dg.define_asset_job("nightly", selection=dg.AssetSelection.checks(check_of_theirs)),
    ]
    other = dg.Definitions([theirs], asset_checks=[check_of_theirs], jobs=jobs)
    materialized = [(defs, dg.AssetKey("retention")), (other, dg.AssetKey("theirs"))]
    of_assets = [
        definitions.resolve_implicit_global_asset_job_def()
        .execute_in_process(instance=instance, asset_selection=[asset])
        .run_id
        for definitions, asset in materialized
    ]
    run_ids.append(of_assets[0])
    alone = frozenset({dg.AssetCheckKey(dg.AssetKey(["raw", "charges"]), "each_object_once")})
    run_ids.append("of a check alone")
    instance.add_run(
        dg.DagsterRun(
            job_name="__ASSET_JOB",
            run_id=run_ids[-1],
            asset_check_selection=alone,
            status=dg.DagsterRunStatus.SUCCESS,
        )
    )
    # Jobs of these names, and the implicit job of other assets, may belong to another code location.
    others = [other.resolve_job_def(name) for name in ("sync", "nightly")]
    others.append(other.resolve_implicit_global_asset_job_def())
    run_ids_of_others = {job.execute_in_process(instance=instance).run_id for job in reversed(others)}
    run_ids_of_others.add(of_assets[1])
    key = dg.AssetKey(["raw", "charges"])
    days = instance.get_materialized_partitions(key)
    assert forget_runs(instance, datetime.now(UTC) - timedelta(days=1), Names()) == 0
    assert forget_runs(instance, datetime.now(UTC), Names()) == len(run_ids) == 4
    assert {dagster_run.run_id for dagster_run in instance.get_runs()} == run_ids_of_others
    assert not [name for name in files(instance) if any(run_id in name for run_id in run_ids)]
    assert instance.get_materialized_partitions(key) == set()
    report_again(instance, pipeline.settings, pipeline.warehouse.state.covered_days(), Names())
    assert instance.get_materialized_partitions(key) == days

    forget_events_without_a_run(instance, Names())  # there are too few events
    assert instance.get_materialized_partitions(key) == days
    forget_events_without_a_run(instance, Names(), over=0)  # there are events of other assets
    assert instance.get_materialized_partitions(key) == days
    instance.wipe_assets([dg.AssetKey("theirs")])
    storage = Path(instance.storage_directory()).parent / "history" / "runs" / ".db"
    size = storage.stat().st_size
    forget_events_without_a_run(instance, Names(), over=0)
    assert storage.stat().st_size < size
    assert instance.get_materialized_partitions(key) == set()
    for _ in range(2):  # the second report changes nothing
        report_again(instance, pipeline.settings, pipeline.warehouse.state.covered_days(), Names())
        assert instance.get_materialized_partitions(key) == days
        assert len(instance.fetch_materializations(key, limit=100).records) == len(days)


def test_prune_on_the_command_line(project: Project, run: Run) -> None:  # noqa: F811
    assert run("sync").status == 0
    nothing = run("prune", "--dry-run")
    assert (nothing.status, nothing.out) == (
        0,
        "Nothing to prune: no `retention` is set.\n",
    )
    project.settings("history: 3 days\nretention: 1 day")
    foreseen = run("prune", "--dry-run")
    assert foreseen.status == 0
    assert "Dry run: nothing was removed." in foreseen.out
    removed = run("prune")
    assert removed.status == 0, removed.err
    assert removed.out.splitlines() == foreseen.out.splitlines()[:-1]
    [charges] = [line.split() for line in removed.out.splitlines() if line.startswith("charges")]
    assert int(charges[1].replace(",", "")) > 0
    assert charges[-1] == str(today() - timedelta(days=1))
    assert [line.endswith("as its parent") for line in removed.out.splitlines() if "_lines" in line] == [True]
    assert all(" 0 " in line or "table" in line for line in run("prune").out.splitlines())


def empty_job(name: str) -> dg.JobDefinition:
    """A job of this name that does nothing."""

    @dg.op
    def nothing() -> None: ...

    @dg.job(name=name)
    def job() -> None:
        nothing()

    return job


@contextlib.contextmanager
def results_of_checks(instance: dg.DagsterInstance) -> Iterator[sqlite3.Connection]:
    """A connection to the database in which Dagster keeps the results of checks."""
    file = Path(instance.storage_directory()).parent / "history" / "runs" / "index.db"
    with contextlib.closing(sqlite3.connect(file)) as storage, storage:
        yield storage


def old_results(instance: dg.DagsterInstance, *, ours: bool) -> list[tuple[str, str]]:
    """Asset and check of the results from 2020."""
    with results_of_checks(instance) as storage:
        results = storage.execute(
            "SELECT asset_key, check_name FROM asset_check_executions WHERE create_timestamp < '2021-01-01'"
            " ORDER BY 1, 2"
        ).fetchall()
    return [(asset, check) for asset, check in results if ("raw" in asset) == ours]


@pytest.mark.both_modes
@pytest.mark.dagster_files
def test_the_asset_removes_old_runs_that_have_ended_and_reports_their_partitions_again(
    make_pipeline: MakePipeline, shop: Shop, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.create_customer(livemode=True, created=days_ago(shop, 1))
    pipeline = make_pipeline(LIVE, history=(datetime.now(UTC) - timedelta(days=2)).date())
    defs = build_defs(resource_overrides={RESOURCE: OpenedPipeline(pipeline)})
    sync, nightly = (defs.resolve_job_def(name) for name in ("sync", "nightly"))
    old = [
        sync.execute_in_process(instance=instance, partition_key=today().isoformat()).run_id,
        nightly.execute_in_process(instance=instance).run_id,
    ]
    under_way = instance.create_run_for_job(sync).run_id
    key = dg.AssetKey(["raw", "customers"])
    days = instance.get_materialized_partitions(key)
    assert days
    theirs, young = (empty_job(name).execute_in_process(instance=instance).run_id for name in ("theirs", "sync"))
    with sqlite3.connect(Path(instance.storage_directory()).parent / "history" / "runs.db") as storage:
        storage.execute("UPDATE runs SET create_timestamp = '2020-01-01 00:00:00' WHERE run_id <> ?", [young])
    storage.close()
    # As if drains had reported many events, of days that are not kept any more.
    monkeypatch.setattr(forget_events_without_a_run, "__kwdefaults__", {"over": 0})
    instance.report_runless_asset_event(dg.AssetMaterialization(key, partition="2020-01-01"))
    logs = Path(instance.storage_directory()).parent / "logs" / "__repository__" / "webhook_refresh"
    logs.mkdir(parents=True)
    for name, age, text in (("1.err", 100, "Applied"), ("2.err", 80, "Applied"), ("3.err", 2, ""), ("4.err", 0.5, "")):
        (logs / name).write_text(text)
        at = datetime.now(UTC).timestamp() - age * DAY
        os.utime(logs / name, (at, at))
    with results_of_checks(instance) as storage:
        storage.execute("UPDATE asset_check_executions SET create_timestamp = '2020-01-01 00:00:00'")
        columns = "check_name, execution_status, create_timestamp"
        for asset, run_id in (("asset_key", "'an older run'"), ("'[\"theirs\"]'", "run_id")):
            storage.execute(
                f"INSERT INTO asset_check_executions (asset_key, run_id, {columns})"
                f" SELECT {asset}, {run_id}, {columns} FROM asset_check_executions ORDER BY id DESC"
            )
    before, theirs_before = old_results(instance, ours=True), old_results(instance, ours=False)
    assert len(before) == 2 * len(set(before)) > 0
    assert nightly.execute_in_process(instance=instance).success
    assert old_results(instance, ours=False) == theirs_before
    remaining = old_results(instance, ours=True)
    assert len(remaining) == len(set(remaining)), "only the last result of each check"
    assert "announced_changes_read" in {check for _, check in remaining}
    assert {log.name for log in logs.iterdir()} == {"2.err", "4.err"}
    others = [under_way, theirs, young]
    assert [run_id for run_id in (*old, *others) if instance.has_run(run_id)] == others
    assert instance.get_materialized_partitions(key) == days
    event = instance.get_latest_materialization_event(dg.AssetKey("retention"))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["runs of Dagster removed"].value == len(old)


@pytest.mark.both_modes
def test_a_page_that_is_written_late_does_not_remove_an_invoice_that_became_young_enough_meanwhile(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = days_ago(shop, 30)
    invoice = shop.create_invoice(livemode=True, created=created, due_date=days_ago(shop, 2))["id"]
    objects = {"invoices": {"date_field": "due_date", "retention": "10 days"}}
    late, prompt = (make_pipeline(LIVE, objects=objects) for _ in range(2))
    prompt.sync()
    held = Held()
    held.lists_of(late, monkeypatch)
    with ThreadPoolExecutor(1) as thread:
        shop.update("invoices", invoice, due_date=days_ago(shop, 15), livemode=True, announce=False)
        backfill = thread.submit(late.backfill, [day_of(created)])
        assert held.has_read.wait(60)
        shop.update("invoices", invoice, due_date=days_ago(shop, 1), livemode=True)
        prompt.sync()
        held.may_write.set()
        assert not backfill.result(60).failures
    assert_equal_to_stripe(shop, folder.published)
    assert counts(folder)["invoices"] == 1


@pytest.mark.both_modes
def test_pruning_and_removing_do_not_disturb_a_run_that_has_not_stored_its_pages_yet(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = days_ago(shop, 5)
    deleted, renamed, deleted_later = (shop.create_customer(livemode=True, created=day)["id"] for _ in range(3))
    draft = shop.create_invoice(deleted_later, livemode=True, created=day, draft=True)["id"]
    late, prompt = (make_pipeline(LIVE, on_delete="remove") for _ in range(2))
    prompt.sync()
    shop.delete_customer(deleted)
    prompt.sync()
    shop.update("customers", renamed, name="changed", livemode=True, announce=False)
    held = Held()
    held.lists_of(late, monkeypatch)
    with ThreadPoolExecutor(1) as thread:
        backfill = thread.submit(late.backfill, [day_of(day)])
        assert held.has_read.wait(60)
        # The pages that it has read still hold these objects.
        shop.delete_customer(deleted_later)
        shop.delete_invoice(draft)
        prompt.sync()
        prompt.prune()
        held.may_write.set()
        assert not backfill.result(60).failures
    assert ask(folder.published, "SELECT name FROM raw.customers") == [("changed",)]
    assert counts(folder)["invoices"] == counts(folder)["invoice_lines"] == 0
