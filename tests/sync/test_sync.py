"""Syncs and backfills, from the emulator to the published file."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from typing import Any

import pytest

from stripe_emulator import Fault, Server, Shop
from stripe_pipeline.batch import Mode
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY, day_of, day_start, days_between
from stripe_pipeline.errors import AuthenticationFailed, Unavailable
from stripe_pipeline.inbox.notification import notifications_of
from stripe_pipeline.objects import DEFAULT_TYPES
from stripe_pipeline.settings.environment import load_keys
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.sync.context import EVENTS
from stripe_pipeline.sync.pipeline import Pipeline
from stripe_pipeline.sync.plan import OVERLAP, SWEEP
from stripe_pipeline.sync.report import Report
from tests.conftest import KEYS, MakePipeline
from tests.stripe_state import ask, assert_equal_to_stripe, changed, days_ago, everything, rows
from tests.variants import varied

LIVE_KEY = {"STRIPE_API_KEY": "sk_live_of_the_tests"}


def settle(pipeline: Pipeline, server: Server) -> None:
    """Sync until the events of the first load are applied, then clear the log of requests."""
    pipeline.sync()
    pipeline.sync()
    server.requests.clear()


@pytest.mark.both_modes
def test_a_second_sync_and_a_backfill_of_everything_change_nothing(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.seed_history(45)
    first = pipeline.sync()
    assert not first.failures
    assert not first.surprises.seen
    assert_equal_to_stripe(shop, folder.published)
    assert set(changed(first)) == set(DEFAULT_TYPES)
    before = everything(folder.published)

    assert changed(pipeline.sync()) == {}
    report = pipeline.backfill([day_of(days_ago(shop, n)) for n in range(60)])
    assert changed(report) == {}

    after = everything(folder.published)
    # Objects that were read again for a notification have the time of that request; nothing else differs.
    for table in DEFAULT_TYPES:
        assert [row | {"_fetched_at": None} for row in after[table]] == [
            row | {"_fetched_at": None} for row in before[table]
        ]


@pytest.mark.thorough
@pytest.mark.both_modes
def test_syncs_follow_a_shop_that_goes_on_trading(pipeline: Pipeline, shop: Shop, folder: DataFolder) -> None:
    shop.seed_history(10)
    pipeline.sync()
    for _ in range(4):
        for _ in range(25):
            shop.trade()
        assert not pipeline.sync().failures
        assert_equal_to_stripe(shop, folder.published)


def test_changes_of_old_objects_arrive_with_the_next_sync(pipeline: Pipeline, shop: Shop, folder: DataFolder) -> None:
    customer = shop.create_customer(created=days_ago(shop, 50))["id"]
    deleted = shop.create_customer(created=days_ago(shop, 49), name="Ada")["id"]
    payment = shop.create_payment(customer, created=days_ago(shop, 48))
    invoice = shop.create_invoice(customer, n_lines=25, draft=True, created=days_ago(shop, 47))["id"]
    draft = shop.create_invoice(customer, n_lines=12, draft=True, created=days_ago(shop, 46))["id"]
    pipeline.sync()
    assert_equal_to_stripe(shop, folder.published)

    shop.refund(payment["latest_charge"], amount=500)
    shop.delete_customer(deleted)
    line = next(reversed(shop.lines(invoice, False)))["id"]
    shop.remove_invoice_line(invoice, line)
    shop.delete_invoice(draft)
    report = pipeline.sync()

    assert_equal_to_stripe(shop, folder.published)
    assert changed(report) == {
        "balance_transactions": (1, 0, 0),
        "charges": (0, 1, 0),
        "customers": (0, 0, 1),
        "invoices": (0, 1, 1),
        "invoice_lines": (0, 0, 13),
        "refunds": (1, 0, 0),
    }
    # Deleted objects and their children keep their last columns in the base tables; a removed line is not stored.
    assert ask(folder.published, f"SELECT name FROM raw.customers WHERE id = '{deleted}' AND _deleted_at NOTNULL") == [
        ("Ada",)
    ]
    assert ask(
        folder.published, f"SELECT count(*), count(_deleted_at) FROM raw.invoice_lines WHERE invoice = '{draft}'"
    ) == [(12, 12)]
    assert ask(folder.published, f"SELECT count(*) FROM raw.invoice_lines WHERE id = '{line}'") == [(0,)]


def test_a_backfill_finds_changes_that_no_event_announced(pipeline: Pipeline, shop: Shop, folder: DataFolder) -> None:
    remaining = shop.create_customer(created=days_ago(shop, 20))["id"]
    vanished = shop.create_customer(created=days_ago(shop, 20))["id"]
    on_a_clock = shop.create_customer(created=days_ago(shop, 20))["id"]
    payment = shop.create_payment(remaining, created=days_ago(shop, 20))
    pipeline.sync()

    shop.update("payment_intents", payment["id"], announce=False, metadata={"order": "6735"})
    shop.vanish("customers", vanished)
    # Stripe leaves customers on a test clock out of its lists; they still exist.
    shop.update("customers", on_a_clock, announce=False, test_clock="clock_1")
    assert changed(pipeline.sync()) == {}

    report = pipeline.backfill([day_of(days_ago(shop, 20))])
    assert changed(report) == {"payment_intents": (0, 1, 0), "customers": (0, 1, 1)}
    assert_equal_to_stripe(shop, folder.published)
    assert [row["id"] for row in rows(folder.published, "test.customers") if row["test_clock"]] == [on_a_clock]


def test_objects_created_today_before_the_first_backfill_are_loaded_by_the_first_sync(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.clock.advance(DAY - shop.clock.now() % DAY + DAY / 2)  # noon: yesterday is complete once it is listed
    shop.create_payment(created=days_ago(shop, 1), announce=False)
    shop.create_payment(created=days_ago(shop, 0.25), announce=False)
    pipeline = make_pipeline()
    yesterday = day_of(days_ago(shop, 1))
    pipeline.backfill([yesterday])
    shop.create_payment()
    pipeline.sync()
    assert_equal_to_stripe(shop, folder.published)


def test_a_type_that_was_enabled_today_is_listed_today(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.clock.advance(DAY - shop.clock.now() % DAY + DAY / 2)
    without = make_pipeline(objects={"customers": {"enabled": False}})
    without.sync()
    shop.clock.advance(3 * DAY)
    without.sync()
    shop.create_customer(created=days_ago(shop, 0.25))
    without.sync()
    pipeline = make_pipeline()
    pipeline.backfill([day_of(days_ago(shop, 1))], ["customers"])
    pipeline.sync()
    assert_equal_to_stripe(shop, folder.published)


def test_a_backfill_of_one_table_loads_its_family_and_nothing_else(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.create_invoice(n_lines=12, created=days_ago(shop, 3))
    report = pipeline.backfill([day_of(days_ago(shop, 3))], ["invoice_lines"])
    assert changed(report) == {"invoices": (1, 0, 0), "invoice_lines": (12, 0, 0)}
    # The next sync loads everything else.
    pipeline.sync()
    assert_equal_to_stripe(shop, folder.published)


@pytest.mark.both_modes
def test_a_sync_after_one_refund_of_an_old_charge_spends_at_most_six_requests(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    shop.seed_history(40)
    pipeline = make_pipeline(LIVE_KEY)
    charge = shop.create_payment(livemode=True, created=days_ago(shop, 35))["latest_charge"]
    settle(pipeline, server)
    shop.refund(charge)
    pipeline.sync()
    assert len(server.requests) <= 6
    assert ask(folder.published, f"SELECT refunded FROM live.charges WHERE id = '{charge}'") == [(True,)]


def test_without_permission_for_events_tables_are_still_listed(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    pipeline = make_pipeline()
    pipeline.sync()
    server.faults.append(Fault(path="/v1/events", status=403, times=None))
    shop.create_payment()
    report = pipeline.sync()
    assert report.failures.keys() == {EVENTS}
    assert len(rows(folder.published, "test.balance_transactions")) == 1  # these are listed, as no event announces them
    server.faults.clear()
    pipeline.sync()
    assert_equal_to_stripe(shop, folder.published)


@pytest.mark.both_modes
def test_a_key_that_is_refused_does_not_stop_the_other_mode(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    shop.create_customer(livemode=True)
    server.faults.append(
        Fault(path="/v1/", livemode=False, status=401, times=None, body={"error": {"message": "Invalid API Key"}})
    )
    with pytest.raises(AuthenticationFailed):
        pipeline.sync()
    assert len(rows(folder.published, "live.customers")) == 1


@pytest.mark.thorough
@pytest.mark.both_modes
def test_after_an_outage_the_next_sync_goes_on(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    shop.seed_history(5)
    pipeline.sync()
    before = everything(folder.published)
    shop.trade()
    server.faults.append(Fault(path="/v1/", drop=True, times=None))
    with pytest.raises(Unavailable):
        pipeline.sync()
    assert everything(folder.published) == before
    server.faults.clear()
    pipeline.sync()
    assert_equal_to_stripe(shop, folder.published)


@pytest.mark.both_modes
def test_a_finished_day_is_sealed_once_by_a_complete_list(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    shop.seed_history(3)
    pipeline.sync()
    day = day_of(shop.clock.now())
    shop.create_customer()
    payment = shop.create_payment()
    pipeline.sync()
    shop.update("payment_intents", payment["id"], announce=False, metadata={"silent": "yes"})

    shop.clock.advance(DAY)
    pipeline.sync()
    assert_equal_to_stripe(shop, folder.published)
    sealed = f"SELECT listed_at >= (day + 1)::TIMESTAMPTZ FROM pipeline.coverage WHERE day = '{day}'"
    assert {answer for (answer,) in ask(folder.published, sealed)} == {True}
    server.requests.clear()
    pipeline.sync()
    assert len(server.requests) == 4  # two keys: events and balance transactions, no list


@pytest.mark.both_modes
def test_the_sweep_finds_changes_without_events_within_a_day_and_keeps_to_its_budget(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    shop.seed_history(50)
    make_pipeline().sync()
    old = sorted(shop.objects("payment_intents", True).values(), key=lambda intent: intent["created"])[5]
    shop.update("payment_intents", old["id"], announce=False, metadata={"silent": "yes"})

    shop.clock.advance(DAY + 3600)
    server.requests.clear()
    make_pipeline(sweep={"requests_a_month": 0}).sync()
    without = len(server.requests)
    assert ask(folder.published, f"SELECT metadata->>'silent' FROM live.payment_intents WHERE id = '{old['id']}'") == [
        (None,)
    ]
    shop.clock.advance(DAY + 3600)
    server.requests.clear()
    make_pipeline().sync()
    assert_equal_to_stripe(shop, folder.published)
    assert len(server.requests) - without <= 2 * 3000 / 30


def test_an_object_type_that_is_enabled_again_is_listed_again(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    old = shop.create_customer(name="Before", created=days_ago(shop, 20))["id"]
    shop.create_payment(old, created=days_ago(shop, 20))
    make_pipeline().sync()
    off = make_pipeline(objects={"customers": {"enabled": False}})
    off.sync()
    shop.update("customers", old, name="After")
    assert off.sync().applied == 0
    shop.clock.advance(2 * OVERLAP)
    off.sync()
    assert ask(folder.published, "SELECT name FROM test.customers") == [("Before",)]
    # The views do not join a disabled table, whose rows are out of date, with tables that are up to date.
    assert ask(folder.published, "SELECT customer, customer_name FROM test.payments") == [(old, None)]
    make_pipeline().sync()
    assert ask(folder.published, "SELECT customer_name FROM test.payments") == [("After",)]
    assert_equal_to_stripe(shop, folder.published)


def test_coverage_and_cursors_can_be_queried(make_pipeline: MakePipeline, shop: Shop, folder: DataFolder) -> None:
    history = day_of(days_ago(shop, 2))
    shop.create_customer(created=days_ago(shop, 1))
    make_pipeline(history=history).sync()
    today: date = day_of(shop.clock.now())
    covered = ask(
        folder.published,
        "SELECT day, \"rows\" FROM pipeline.coverage WHERE object_type = 'customers' AND NOT livemode ORDER BY day",
    )
    assert covered == [(history, 0), (history + timedelta(days=1), 1), (today, 0)]
    names = ask(folder.published, "SELECT DISTINCT name FROM pipeline.cursors ORDER BY 1")
    assert names == [("balance_transactions",), (EVENTS,), (SWEEP,)]


@pytest.mark.both_modes
@pytest.mark.parametrize("retention", varied(["10 days", None]))
def test_coverage_counts_the_listed_and_the_stored_rows_of_each_table(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, retention: str | None
) -> None:
    shop.seed_history(20)
    short = {"retention": retention} if retention else {}
    make_pipeline(objects={"fee_details": short, "invoice_lines": short}).sync()
    held = {name: sum(len(shop.objects(name, mode)) for mode in (True, False)) for name in DEFAULT_TYPES}
    held["customers"] -= sum(
        customer["test_clock"] is not None for customer in shop.objects("customers", False).values()
    )
    counted = dict(ask(folder.published, "SELECT object_type, sum(listed)::INT FROM pipeline.coverage GROUP BY ALL"))
    assert counted == held
    assert held["fee_details"] != held["balance_transactions"]
    rows = dict(ask(folder.published, 'SELECT object_type, sum("rows")::INT FROM pipeline.coverage GROUP BY ALL'))
    stored = {name: ask(folder.published, f"SELECT count(*) FROM raw.{name}")[0][0] for name in DEFAULT_TYPES}
    assert rows == stored
    assert (rows == counted) is (retention is None)


def read_the_captured_charge(how: str, pipeline: Pipeline, shop: Shop) -> Report:
    """Run and publish a sync, a backfill or a drain, 901 seconds after the charge was created."""
    if how == "sync":
        return pipeline.sync()
    if how == "backfill":
        return pipeline.backfill([day_of(shop.clock.now() - 901)], ["charges"])
    [event] = [event for event in shop.events(True) if event["type"] == "charge.updated"]
    pipeline.inbox.add(notifications_of(event, Mode(shop.account, livemode=True)))
    report = pipeline.drain(most=200)
    pipeline.publish()
    return report


@pytest.mark.both_modes
@pytest.mark.parametrize("how", varied(["drain", "sync", "backfill"]))
def test_a_transaction_that_a_charge_names_late_is_read_in_the_same_run(
    make_pipeline: MakePipeline, shop: Shop, server: Server, folder: DataFolder, how: str
) -> None:
    pipeline = make_pipeline(LIVE_KEY)
    pipeline.sync()
    charge = shop.create_payment(livemode=True, captured_after=900)["latest_charge"]
    gross = f"SELECT gross FROM live.payments WHERE charge = '{charge}'"
    shop.clock.advance(700)
    settle(pipeline, server)
    assert ask(folder.published, gross) == [(None,)]
    shop.clock.advance(201)
    read_the_captured_charge(how, pipeline, shop)
    assert ask(folder.published, gross) == [(2000,)]
    fees = "SELECT count(*) FROM live.fee_details"
    assert ask(folder.published, fees) == [(1,)]
    transaction = shop.objects("charges", True)[charge]["balance_transaction"]
    path = f"/v1/balance_transactions/{transaction}"
    assert [request.path for request in server.requests].count(path) == 1
    server.requests.clear()
    pipeline.sync()
    pipeline.sync()
    assert not [request for request in server.requests if request.path == path]


@pytest.mark.both_modes
@pytest.mark.parametrize("how", varied(["drain", "sync", "backfill"]))
def test_a_named_transaction_that_cannot_be_read_waits_and_is_read_later(
    make_pipeline: MakePipeline, shop: Shop, server: Server, folder: DataFolder, how: str
) -> None:
    pipeline = make_pipeline(LIVE_KEY)
    pipeline.sync()
    charge = shop.create_payment(livemode=True, captured_after=900)["latest_charge"]
    shop.clock.advance(700)
    settle(pipeline, server)
    shop.clock.advance(201)
    server.faults.append(Fault(path="^/v1/balance_transactions/", status=500, times=None))
    report = read_the_captured_charge(how, pipeline, shop)
    assert "balance_transactions" in report.failures
    assert pipeline.inbox.summary().waiting == 1
    pipeline.sync()
    server.faults.clear()
    pipeline.sync()
    pipeline.drain(most=200, due=math.inf)
    pipeline.publish()
    assert ask(folder.published, f"SELECT gross FROM live.payments WHERE charge = '{charge}'") == [(2000,)]
    assert pipeline.inbox.summary().waiting == 0


@pytest.mark.both_modes
def test_a_transaction_that_does_not_exist_is_requested_once(
    make_pipeline: MakePipeline, shop: Shop, server: Server
) -> None:
    pipeline = make_pipeline(LIVE_KEY)
    pipeline.sync()
    charge = shop.create_payment(livemode=True, captured_after=10_000)["latest_charge"]
    shop.update("charges", charge, balance_transaction="txn_nowhere")
    for _ in range(4):
        pipeline.sync()
    paths = [request.path for request in server.requests]
    assert paths.count("/v1/balance_transactions/txn_nowhere") == 1
    server.requests.clear()
    pipeline.sync()
    assert len(server.requests) == 2


def test_a_file_that_counted_parents_for_children_does_not_show_those_counts(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.create_invoice(n_lines=3, created=days_ago(shop, 5))
    pipeline = make_pipeline()
    pipeline.sync()
    pipeline.warehouse.ask("UPDATE pipeline.coverage SET listed = 1")
    pipeline.warehouse.ask("DELETE FROM pipeline.applied WHERE name IN ('coverage counts children', 'layout')")
    later = make_pipeline()
    later.sync()
    nulls = "SELECT DISTINCT object_type FROM pipeline.coverage WHERE listed IS NULL ORDER BY 1"
    assert ask(folder.published, nulls) == [("fee_details",), ("invoice_lines",)]
    later.backfill([day_of(days_ago(shop, 5))])
    lines = "SELECT max(listed), count(*) FILTER (listed IS NULL) > 0 FROM pipeline.coverage"
    assert ask(folder.published, f"{lines} WHERE object_type = 'invoice_lines'") == [(3, True)]


def test_days_that_only_a_backfill_has_listed_are_swept_by_the_first_sync(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    customer = shop.create_customer(name="old", created=days_ago(shop, 5))["id"]
    pipeline = make_pipeline(history=day_of(days_ago(shop, 6)))
    pipeline.backfill([day_of(days_ago(shop, days)) for days in range(7)])
    shop.update("customers", customer, name="new", announce=False)
    shop.clock.advance(2 * DAY)
    pipeline.sync()
    assert ask(folder.published, "SELECT name FROM test.customers") == [("new",)]


def test_a_disabled_child_does_not_cause_its_parent_to_be_listed_at_each_sync(
    make_pipeline: MakePipeline, server: Server, shop: Shop
) -> None:
    shop.create_invoice(created=days_ago(shop, 3))
    pipeline = make_pipeline(objects={"invoice_lines": {"enabled": False}})
    settle(pipeline, server)
    for _ in range(2):
        pipeline.sync()
    assert not [request for request in server.requests if request.path == "/v1/invoices"]


def test_a_disabled_child_is_not_stored_and_is_loaded_once_it_is_enabled(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    draft = shop.create_invoice(n_lines=13, draft=True, created=days_ago(shop, 3))["id"]
    shop.create_invoice(n_lines=13, created=days_ago(shop, 2))
    off: dict[str, Any] = {"invoice_lines": {"enabled": False}}
    report = make_pipeline(objects=off).sync()
    assert not {"invoice_lines"} & (report.changes.keys() | report.listed.keys() | report.requests.keys())
    assert ask(folder.published, "SELECT count(*) FROM raw.invoice_lines") == [(0,)]
    make_pipeline().sync()
    assert_equal_to_stripe(shop, folder.published)
    shop.delete_invoice(draft)
    make_pipeline(objects=off).sync()
    make_pipeline().sync()
    assert_equal_to_stripe(shop, folder.published)


@pytest.mark.both_modes
def test_a_backfill_that_was_stopped_requests_only_the_remaining_days(
    make_pipeline: MakePipeline, shop: Shop, server: Server, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stripe_pipeline.sync.loading._ROWS_A_LOAD", 200)
    first = days_ago(shop, 40)
    for n in range(40 * 120):
        shop.create_customer(livemode=True, created=first + n * DAY // 120, announce=False)
    pipeline = make_pipeline(LIVE_KEY)
    pipeline.sync()
    days = [day_of(days_ago(shop, n)) for n in range(41)]

    def requests(tables: list[str]) -> tuple[int, list[str]]:
        report = pipeline.backfill(days, tables)
        return report.requests["customers"], report.notes

    total, notes = requests(["customers"])
    assert total >= 48  # pages
    assert not notes
    server.faults.append(Fault(path="/v1/customers$", nth=round(total * 0.7), status=400, times=None))
    assert "customers" in pipeline.backfill(days, ["customers"]).failures
    server.faults.clear()
    assert requests(["refunds"])[1] == []  # a backfill of another table continues nothing
    left, notes = requests(["customers"])
    # Days that were not complete yet are read again, a good part of so few pages.
    assert 0 < left < total * 0.75
    assert "customers: continuing where the same backfill stopped" in notes[0]
    assert requests(["customers"])[0] > total * 0.9  # it has ended, so that the same backfill reads everything
    assert_equal_to_stripe(shop, folder.published)


@pytest.mark.both_modes
def test_a_failed_backfill_of_which_nothing_is_left_reads_everything_again(
    make_pipeline: MakePipeline, shop: Shop, server: Server, folder: DataFolder
) -> None:
    shop.create_customer(livemode=True, created=days_ago(shop, 2))
    silent = shop.create_customer(livemode=True, created=days_ago(shop, 1))["id"]
    pipeline = make_pipeline(LIVE_KEY)
    pipeline.sync()
    days = [day_of(days_ago(shop, n)) for n in range(4)]
    server.faults.append(Fault(path="^/v1/refunds$", status=403, times=None))
    assert "refunds" in pipeline.backfill(days, ["customers", "refunds"]).failures
    server.faults.clear()
    pipeline.sync(days)  # lists the refunds that had failed
    shop.update("customers", silent, announce=False, name="changed without a word")
    report = pipeline.backfill(days, ["customers", "refunds"])
    assert report.requests["customers"] >= 1
    assert not report.notes
    assert_equal_to_stripe(shop, folder.published)


@pytest.mark.both_modes
def test_a_failed_backfill_is_continued_for_an_hour(
    make_pipeline: MakePipeline, shop: Shop, server: Server, folder: DataFolder
) -> None:
    silent = shop.create_customer(livemode=True, created=days_ago(shop, 2))["id"]
    pipeline = make_pipeline(LIVE_KEY)
    pipeline.sync()
    days = [day_of(days_ago(shop, n)) for n in range(4)]

    def fail() -> None:
        server.faults.append(Fault(path="^/v1/refunds$", status=403, times=None))
        assert "refunds" in pipeline.backfill(days, ["customers", "refunds"]).failures
        server.faults.clear()

    fail()
    report = pipeline.backfill(days, ["customers", "refunds"])
    assert report.requests["refunds"] >= 1
    assert report.requests["customers"] == 0
    [note] = report.notes
    assert note.startswith("customers: continuing where the same backfill stopped")
    fail()
    shop.update("customers", silent, announce=False, name="changed without a word")
    shop.clock.advance(3660)
    report = pipeline.backfill(days, ["customers", "refunds"])
    assert report.requests["customers"] >= 1
    assert not report.notes
    assert_equal_to_stripe(shop, folder.published)


@pytest.mark.both_modes
def test_progress_says_how_far_the_lists_are(make_pipeline: MakePipeline, shop: Shop) -> None:
    calls: list[tuple[str, int, int, int]] = []

    class Recorder:
        def listed(self, table: str, *, days: int, of: int, rows: int, seconds: float) -> None:
            assert seconds > 0
            calls.append((table, days, of, rows))

        def finished(self, report: Report) -> None:
            calls.append(("finished", 0, 0, 0))

    shop.create_customer(livemode=True, created=days_ago(shop, 2))
    pipeline = make_pipeline(LIVE_KEY)
    pipeline.progress = Recorder()
    pipeline.backfill([day_of(days_ago(shop, n)) for n in range(4)], ["customers"])
    assert calls[-2:] == [("customers", 4, 4, 1), ("finished", 0, 0, 0)]
    assert [days for _, days, _, _ in calls[:-1]] == [1, 2, 3, 4]


@pytest.mark.both_modes
def test_a_stopped_backfill_starts_over_if_the_settings_store_more_since(
    make_pipeline: MakePipeline, shop: Shop, server: Server, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stripe_pipeline.sync.loading._ROWS_A_LOAD", 1)
    for n in range(300):
        shop.create_customer(
            livemode=True, created=days_ago(shop, 20 - n / 20), announce=False, email="ada@example.com"
        )
    days = [day_of(days_ago(shop, n)) for n in range(21)]
    narrow = make_pipeline(LIVE_KEY, objects={"customers": {"fields": {"exclude": ["email"]}}})
    narrow.sync()
    server.faults.append(Fault(path="/v1/customers$", nth=3, status=400, times=None))
    assert "customers" in narrow.backfill(days, ["customers"]).failures
    server.faults.clear()
    assert ask(folder.published, "SELECT count(*) > 0 FROM pipeline.coverage WHERE how = 'backfill'") == [(True,)]
    make_pipeline(LIVE_KEY).backfill(days, ["customers"])
    assert ask(folder.published, "SELECT count(email) FROM live.customers") == [(300,)]


@pytest.mark.both_modes
def test_a_few_changes_spread_over_a_long_time_replace_their_rows_and_no_others(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    pipeline = make_pipeline(LIVE_KEY)
    ids = [shop.create_customer(livemode=True, created=days_ago(shop, n))["id"] for n in range(1, 55)]
    invoices = [
        shop.create_invoice(ids[n], n_lines=3, draft=True, livemode=True, created=days_ago(shop, n))
        for n in (2, 30, 50)
    ]
    pipeline.sync()
    for n in (0, 25, 53):
        shop.update_customer(ids[n], name=f"changed {n}", livemode=True)
    for invoice in invoices[1:]:
        shop.update_invoice_line(invoice["id"], invoice["lines"]["data"][0]["id"], description="changed", livemode=True)
    report = pipeline.sync()
    assert changed(report)["customers"] == (0, 3, 0)
    assert changed(report)["invoice_lines"] == (0, 2, 0)
    assert_equal_to_stripe(shop, folder.published)


def test_processes_that_read_at_the_same_time_stay_within_stripes_limits_and_a_sync_goes_first(
    folder: DataFolder,
) -> None:
    shop = Shop()
    start = days_ago(shop, 20)
    for n in range(8000):
        shop.create_customer(livemode=True, created=start + n * 200, announce=False)
    with Server(shop, rate_limits=True) as server:
        first, second = (
            Pipeline(
                settings=Settings.model_validate({"history": "60 days", "rate": {"share": "80%"}}),
                keys=load_keys({"STRIPE_API_KEY": KEYS["STRIPE_API_KEY"]}),
                folder=folder,
                base_url=server.url,
            )
            for _ in range(2)
        )
        days = days_between(day_of(start), day_of(start + 8000 * 200))
        edge = day_start(days[5])
        with first, second, ThreadPoolExecutor(1) as beside:
            first.sync()
            server.requests.clear()
            under_way = beside.submit(second.backfill, days[5:], ["customers"])
            while len(server.requests) < 10:
                time.sleep(0.001)
            first.sync(days[:5])
            under_way.result()
        lists = [request.params for request in server.requests if request.path == "/v1/customers"]
        of_the_sync = [n for n, params in enumerate(lists) if int(params["created"]["lt"]) <= edge]
        assert len(of_the_sync) >= (edge - start) / 200 / 100
        assert of_the_sync[-1] < len(lists) - 1, "the backfill ended before the sync had read its lists"
        assert [request.path for request in server.requests if request.status == 429] == []
        # From the sync's first list to its last, where processor time does not count; more than ten if they took turns.
        between = of_the_sync[-1] - of_the_sync[0] + 1 - len(of_the_sync)
        assert between <= 5
