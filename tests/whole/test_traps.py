"""The traps that real systems fell into (docs/stripe.md#traps), from the emulator to the published file.

Traps 25 and 26 are about receiving webhooks; their tests are those of the receiver and of webhooks.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest

from stripe_emulator import Fault, LoggedRequest, Server, Shop
from stripe_pipeline.batch import Batch, Loaded
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY, day_of, day_start
from stripe_pipeline.errors import PermissionMissing, RequestRefused, Unavailable, WarehouseError
from stripe_pipeline.inbox.inbox import Inbox
from stripe_pipeline.inbox.notification import notifications_of
from stripe_pipeline.objects import DEFAULT_TYPES
from stripe_pipeline.stripe_api import clock as server_clock
from stripe_pipeline.stripe_api.client import StripeApi
from stripe_pipeline.stripe_api.reader import Reader
from stripe_pipeline.stripe_api.retries import Retries
from stripe_pipeline.sync.context import EVENTS
from stripe_pipeline.sync.pipeline import Pipeline
from stripe_pipeline.sync.plan import OVERLAP
from tests.conftest import KEYS, MakePipeline
from tests.stripe_state import all_columns, ask, assert_equal_to_stripe, changed, days_ago, everything, rows
from tests.variants import varied

LIVE_KEY = {"STRIPE_API_KEY": "sk_live_of_the_tests"}
TEST_KEY = {"STRIPE_API_KEY": "rk_test_of_the_tests"}
NEVER = 10**9  # seconds until an event is visible that only a webhook announces


@pytest.fixture
def pipeline(make_pipeline: MakePipeline) -> Pipeline:
    """A pipeline of the test mode with 60 days of history."""
    return make_pipeline(TEST_KEY)


def name_of(folder: DataFolder, customer: str) -> str | None:
    """The name under which analysts see a customer."""
    [(name,)] = ask(folder.published, f"SELECT name FROM test.customers WHERE id = '{customer}'")
    return None if name is None else str(name)


def requests_of(server: Server, path: str) -> list[LoggedRequest]:
    """The requests to exactly this path."""
    return [request for request in server.requests if request.path == path]


def deliver(folder: DataFolder, events: Sequence[dict[str, Any]]) -> None:
    """Put notifications of these events into the inbox one by one, as a process that receives webhooks does."""
    inbox = Inbox(folder)
    for event in events:
        [notification] = notifications_of(event)
        inbox.add([notification])
    inbox.close()


# Silent loss


def test_trap_01_an_invoice_with_25_lines_has_25_rows_all_fresh_after_a_change_and_24_after_one_is_removed(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    invoice = shop.create_invoice(n_lines=25, draft=True, created=days_ago(shop, 3))["id"]
    pipeline.sync()
    counted = "SELECT count(*), count(*) FILTER (description = 'fresh') FROM test.invoice_lines"
    assert ask(folder.published, counted) == [(25, 0)]

    for line in shop.lines(invoice, False):
        shop.update_invoice_line(invoice, line["id"], description="fresh", announce=False)
    shop.update("invoices", invoice, description="tells of its lines")
    pipeline.sync()
    assert ask(folder.published, counted) == [(25, 25)]

    shop.remove_invoice_line(invoice, shop.lines(invoice, False)[17]["id"])
    pipeline.sync()
    assert ask(folder.published, counted) == [(24, 24)]
    assert_equal_to_stripe(shop, folder.published)


def test_trap_02_a_charge_with_13_refunds_has_13_rows_and_refund_failed_changes_one(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    charge = shop.create_payment(amount=2600, created=days_ago(shop, 50))["latest_charge"]
    pipeline.sync()
    refunds = [shop.refund(charge, amount=100 + n)["id"] for n in range(13)]
    pipeline.sync()
    assert ask(folder.published, "SELECT count(*), count(DISTINCT id) FROM test.refunds") == [(13, 13)]

    failed = shop.fail_refund(refunds[4], announce=False)
    shop.emit_event("refund.failed", failed, livemode=False)
    shop.emit_event("charge.updated", shop.objects("charges", False)[charge], livemode=False)
    pipeline.sync()
    assert ask(folder.published, "SELECT id FROM test.refunds WHERE status = 'failed'") == [(refunds[4],)]
    assert_equal_to_stripe(shop, folder.published)


def test_trap_03_an_events_name_does_not_decide_the_type_of_its_object(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    charge = shop.create_payment(created=days_ago(shop, 2))["latest_charge"]
    refund = shop.refund(charge, amount=10, created=days_ago(shop, 1), announce=False)["id"]
    invoice = shop.create_invoice(n_lines=2, created=days_ago(shop, 2))
    pipeline.sync()
    server.requests.clear()

    refunded = shop.update("refunds", refund, announce=False, metadata={"seen": "yes"})
    shop.emit_event("charge.refund.updated", refunded, livemode=False)
    subscription = {
        "id": "sub_1",
        "object": "subscription",
        "created": days_ago(shop, 1),
        "customer": invoice["customer"],
    }
    shop.emit_event("customer.subscription.updated", subscription, livemode=False)
    shop.emit_event("invoice.updated", invoice, livemode=False)
    shop.emit_event("invoice.upcoming", {"object": "invoice", "created": days_ago(shop, 0)}, livemode=False)
    report = pipeline.sync()

    assert not report.failures
    assert changed(report) == {"refunds": (0, 1, 0)}
    assert [request.path for request in server.requests if request.status != 200] == []
    assert not [request for request in server.requests if "sub_1" in request.path]
    assert_equal_to_stripe(shop, folder.published)


def test_trap_04_after_31_days_a_changed_old_object_is_found_and_a_note_says_so(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    old = shop.create_customer(name="before", created=days_ago(shop, 20))["id"]
    pipeline.sync()
    shop.update("customers", old, name="after")
    shop.clock.advance(31 * DAY)
    report = pipeline.sync()
    assert any("31 days ago" in note for note in report.notes)
    assert name_of(folder, old) == "after"
    assert_equal_to_stripe(shop, folder.published)


@pytest.mark.parametrize("seconds", varied([0, -1, 1]))
def test_trap_04_after_exactly_30_days_nothing_is_lost(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, seconds: int
) -> None:
    pipeline = make_pipeline(TEST_KEY, sweep={"requests_a_month": 0})
    late = shop.create_customer(name="before", created=days_ago(shop, 20))["id"]
    prompt = shop.create_customer(name="before", created=days_ago(shop, 20))["id"]
    pipeline.sync()
    [(cursor,)] = ask(folder.published, f"SELECT epoch(read_until) FROM pipeline.cursors WHERE name = '{EVENTS}'")
    # Created before the last scan, visible only after it.
    changed_late = shop.update("customers", late, announce=False, name="after")
    shop.emit_event("customer.updated", changed_late, livemode=False, created=int(cursor) - 40, visible_after=50)
    shop.update("customers", prompt, name="after", created=int(cursor))

    shop.clock.freeze(cursor + 30 * DAY + seconds)
    assert not pipeline.sync().failures
    assert (name_of(folder, late), name_of(folder, prompt)) == ("after", "after")


def test_trap_05_a_type_that_is_quiet_for_60_days_is_not_reloaded_at_each_sync(
    make_pipeline: MakePipeline, server: Server, shop: Shop
) -> None:
    shop.clock.advance(1.5 * DAY - shop.clock.now() % DAY)  # noon, so that no day ends during the last syncs
    pipeline = make_pipeline(TEST_KEY, history=day_of(days_ago(shop, 100)), sweep={"requests_a_month": 0})
    shop.create_invoice(n_lines=12, created=days_ago(shop, 90))
    shop.create_payment(created=days_ago(shop, 90))
    pipeline.sync()
    for _ in range(3):
        shop.clock.advance(20 * DAY)
        server.requests.clear()
        pipeline.sync()
        assert len(requests_of(server, "/v1/customers")) == 1  # seals the days that have ended
    server.requests.clear()
    for _ in range(2):
        shop.clock.advance(900)
        pipeline.sync()
    assert {request.path for request in server.requests} == {"/v1/events", "/v1/balance_transactions"}


def test_trap_06_a_change_between_the_page_that_lists_it_and_the_end_of_the_first_load_is_caught(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    customers = [shop.create_customer(created=days_ago(shop, n / 10), announce=False)["id"] for n in range(150)]

    def change(_: LoggedRequest) -> None:
        shop.update("customers", customers[3], name="changed")
        shop.clock.advance(2 * OVERLAP)  # a first load may take long

    server.faults.append(Fault(path="/v1/customers$", nth=2, before=change))
    pipeline.sync()
    assert name_of(folder, customers[3]) is None
    pipeline.sync()
    assert name_of(folder, customers[3]) == "changed"


def test_trap_07_an_event_that_is_visible_late_or_shares_its_second_with_the_cursor_is_caught(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    late = shop.create_customer(created=days_ago(shop, 20))["id"]
    same = shop.create_customer(created=days_ago(shop, 19))["id"]
    shop.clock.advance(OVERLAP + 60)
    pipeline.sync()
    shop.clock.advance(900)
    pipeline.sync()
    [(cursor,)] = ask(folder.published, f"SELECT epoch(read_until) FROM pipeline.cursors WHERE name = '{EVENTS}'")

    shop.update("customers", same, name="changed", created=int(cursor))
    change = shop.update("customers", late, announce=False, name="changed")
    shop.emit_event("customer.updated", change, livemode=False, visible_after=40)
    shop.clock.advance(20)
    pipeline.sync()
    assert (name_of(folder, late), name_of(folder, same)) == (None, "changed")
    shop.clock.advance(21)
    pipeline.sync()
    assert name_of(folder, late) == "changed"


def test_trap_08_changes_without_an_event_are_caught_within_a_day(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    young = shop.create_payment(created=days_ago(shop, 0.001))
    old = shop.create_payment(created=days_ago(shop, 40))
    # Pending until the start of the third day after its creation.
    due = day_start(day_of(shop.clock.now())) - 2 * DAY
    pending = shop.create_payment(created=due)["latest_charge"]
    pipeline.sync()
    status = f"SELECT status FROM test.balance_transactions WHERE source = '{pending}'"
    assert ask(folder.published, status) == [("pending",)]

    for payment in (young, old):
        shop.update("payment_intents", payment["id"], metadata={"order": "6735"})
    shop.clock.advance(DAY + OVERLAP)
    pipeline.sync()

    assert ask(folder.published, status) == [("available",)]
    assert ask(folder.published, "SELECT count(*) FROM test.payment_intents WHERE metadata->>'order' = '6735'") == [
        (2,)
    ]
    assert_equal_to_stripe(shop, folder.published)


def test_trap_08_balance_transactions_turn_available_without_a_list_of_their_day(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    pipeline = make_pipeline(TEST_KEY, sweep={"requests_a_month": 0})
    shop.create_payment(created=days_ago(shop, 1))
    [transaction] = shop.objects("balance_transactions", False)
    pipeline.sync()
    shop.clock.advance(8 * DAY)
    pipeline.sync()
    assert requests_of(server, f"/v1/balance_transactions/{transaction}")
    assert ask(folder.published, "SELECT status FROM test.balance_transactions") == [("available",)]
    assert_equal_to_stripe(shop, folder.published)


def test_trap_09_a_type_that_is_refused_keeps_its_rows_and_coverage_and_the_others_go_on(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    charge = shop.create_payment(created=days_ago(shop, 5))["latest_charge"]
    shop.refund(charge, amount=100, created=days_ago(shop, 4))
    pipeline.sync()
    before = rows(folder.published, "raw.refunds")
    covered = "SELECT * FROM pipeline.coverage WHERE object_type = 'refunds' ORDER BY day"
    coverage = ask(folder.published, covered)

    server.deny("refunds")
    shop.refund(charge, amount=200)
    report = pipeline.sync()
    assert isinstance(report.failures["refunds"], PermissionMissing)
    assert report.failures.keys() == {"refunds"}
    assert rows(folder.published, "raw.refunds") == before
    assert ask(folder.published, covered) == coverage
    assert ask(folder.published, "SELECT amount_refunded FROM test.charges") == [(300,)]
    refused = pipeline.backfill([day_of(days_ago(shop, 4))])
    assert refused.failures.keys() == {"refunds"}
    assert ask(folder.published, covered) == coverage

    server.allow("refunds")
    assert not pipeline.sync().failures
    assert_equal_to_stripe(shop, folder.published)


@pytest.mark.parametrize("status", varied([403, 400]))
def test_trap_09_a_type_that_is_refused_between_two_pages_keeps_its_rows_and_cursor(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder, status: int
) -> None:
    shop.create_payment(created=days_ago(shop, 50))
    pipeline.sync()
    before = everything(folder.published)
    progress = (
        "SELECT name, read_until FROM pipeline.cursors WHERE name = 'balance_transactions' UNION ALL"
        " SELECT object_type || day, listed_at FROM pipeline.coverage"
        " WHERE object_type IN ('balance_transactions', 'fee_details') ORDER BY 1"
    )
    known = ask(folder.published, progress)

    for _ in range(230):
        shop.payout(100)
    shop.create_customer(name="goes on")
    server.faults.append(Fault(path="/v1/balance_transactions", nth=2, status=status, times=None))
    report = pipeline.sync()

    assert report.failures.keys() == {"balance_transactions", "fee_details"}
    assert isinstance(report.failures["balance_transactions"], RequestRefused if status == 400 else PermissionMissing)
    assert rows(folder.published, "raw.balance_transactions") == before["balance_transactions"]
    assert rows(folder.published, "raw.fee_details") == before["fee_details"]
    assert ask(folder.published, progress) == known
    assert ask(folder.published, "SELECT name FROM test.customers") == [("goes on",)]
    server.faults.clear()
    assert not pipeline.sync().failures
    assert_equal_to_stripe(shop, folder.published)


def test_trap_10_a_429_is_waited_out_as_long_as_stripe_asks_for(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    for n in range(150):
        shop.create_customer(created=days_ago(shop, n / 10), announce=False)
    server.faults.append(Fault(path="/v1/customers$", nth=2, times=2, status=429, headers={"Retry-After": "1"}))
    assert not pipeline.sync().failures
    assert_equal_to_stripe(shop, folder.published)
    first, second, third = requests_of(server, "/v1/customers")[1:4]
    assert [first.status, second.status, third.status] == [429, 429, 200]
    assert first.params == second.params == third.params
    assert second.time - first.time >= 1
    assert third.time - second.time >= 1
    assert third.time - first.time <= 5


def test_trap_10_a_429_that_never_ends_fails_loudly_and_the_next_run_goes_on_from_there(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    for n in range(250):
        shop.create_customer(created=days_ago(shop, n / 10), announce=False)
    server.faults.append(Fault(path="/v1/customers$", nth=3, status=429, times=None))
    report = make_pipeline(TEST_KEY, retries=Retries(patience=0.5)).sync()
    assert report.failures.keys() == {"customers"}
    assert isinstance(report.failures["customers"], Unavailable)
    assert "429" in str(report.failures["customers"])
    [(covered, newest, oldest)] = ask(
        folder.published, "SELECT count(*), max(day), min(day) FROM pipeline.coverage WHERE object_type = 'customers'"
    )
    assert 15 <= covered <= 21  # two pages of ten customers a day, and the days around them that are complete
    assert (newest - oldest).days == covered - 1

    server.faults.clear()
    server.requests.clear()
    assert not make_pipeline(TEST_KEY).sync().failures
    assert {int(request.params["created"]["lt"]) for request in requests_of(server, "/v1/customers")} == {
        day_start(oldest)
    }
    assert not requests_of(server, "/v1/charges")
    assert_equal_to_stripe(shop, folder.published)


def test_trap_11_a_page_that_arrives_broken_is_requested_again(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    for n in range(120):
        charge = shop.create_payment(created=days_ago(shop, n / 6), announce=False)["latest_charge"]
        shop.refund(charge, created=days_ago(shop, n / 7), announce=False)
        shop.create_invoice(created=days_ago(shop, n / 8), announce=False)
    server.faults += [
        Fault(path="/v1/charges$", nth=2, cut=0.7),
        Fault(path="/v1/customers$", nth=2, drop=True),
        Fault(path="/v1/refunds$", nth=2, status=500),
        Fault(path="/v1/payment_intents$", nth=2, status=502, body="<html><h1>502 Bad Gateway</h1></html>"),
        Fault(path="/v1/invoices$", nth=2, truncate=0.5),
    ]
    assert not pipeline.sync().failures
    assert [fault.hits for fault in server.faults] == [1] * 5
    assert_equal_to_stripe(shop, folder.published)


@pytest.mark.parametrize("how", [{"cut": 0.9}, {"truncate": 0.9}, {"status": 200, "body": '{"object": "list"}'}])
def test_trap_11_nothing_is_stored_of_a_page_that_never_arrives_complete(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder, how: dict[str, Any]
) -> None:
    for n in range(30):
        shop.create_customer(created=days_ago(shop, n), announce=False)
    server.faults.append(Fault(path="/v1/customers$", times=None, **how))
    report = make_pipeline(TEST_KEY, retries=Retries(max_attempts=2)).sync()
    assert report.failures.keys() == {"customers"}
    assert rows(folder.published, "raw.customers") == []
    assert ask(folder.published, "SELECT count(*) FROM pipeline.coverage WHERE object_type = 'customers'") == [(0,)]
    server.faults.clear()
    make_pipeline(TEST_KEY).sync()
    assert_equal_to_stripe(shop, folder.published)


def test_trap_12_the_first_run_loads_the_whole_history_of_the_settings(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    for days in (399, 200, 31, 29, 0.001):
        charge = shop.create_payment(created=days_ago(shop, days))["latest_charge"]
        shop.refund(charge, amount=1, created=days_ago(shop, days))
        shop.dispute(charge, created=days_ago(shop, days))
        shop.create_invoice(n_lines=11, created=days_ago(shop, days))
    make_pipeline(TEST_KEY, history=day_of(days_ago(shop, 400))).sync()
    assert ask(folder.published, "SELECT count(*) FROM test.customers") == [(5,)]
    assert_equal_to_stripe(shop, folder.published)


@pytest.mark.both_modes
def test_trap_13_reading_in_parallel_gives_the_same_as_reading_serially(
    make_pipeline: MakePipeline,
    server: Server,
    shop: Shop,
    folder: DataFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    today = day_start(day_of(shop.clock.now()))
    for n in range(1200):
        shop.create_customer(created=today - 1 - n * 2400, announce=False)
    crowded = today - 12 * DAY + 5555
    for _ in range(1000):
        shop.create_customer(created=crowded, announce=False)
    days = [day_of(today - n * DAY) for n in range(1, 41)]

    def bounds() -> set[int]:
        created = [request.params["created"] for request in requests_of(server, "/v1/customers")]
        return {int(window[bound]) for window in created for bound in ("gte", "lt")}

    parallel = make_pipeline(LIVE_KEY | {"STRIPE_TEST_API_KEY": TEST_KEY["STRIPE_API_KEY"]}, rate={"share": 1.0})
    parallel.backfill(days, ["customers"])
    for bound in bounds():
        for created in (bound - 1, bound, bound):
            shop.create_customer(created=created, announce=False)
    server.requests.clear()
    parallel.backfill(days, ["customers"])
    assert len(bounds()) > 4  # the list was read in parallel
    in_parallel = ask(folder.published, "SELECT id FROM test.customers ORDER BY id")

    with StripeApi(parallel._keys[-1], base_url=server.url) as api:
        window = {"created[gte]": day_start(days[-1]), "created[lt]": today}
        serially = sorted(obj["id"] for page in api.pages("/v1/customers", window) for obj in page.objects)
    assert [object_id for (object_id,) in in_parallel] == serially
    assert len(serially) > 2200


def test_trap_14_the_object_that_a_page_starts_after_is_deleted_between_pages(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    for n in range(250):
        shop.create_customer(created=days_ago(shop, n / 10), announce=False)
    server.faults.append(
        Fault(
            path="/v1/customers$",
            nth=2,
            times=2,
            before=lambda request: (
                shop.delete_customer(request.params["starting_after"], announce=False)
                if "starting_after" in request.params
                else None
            ),
        )
    )
    assert not pipeline.sync().failures
    assert [request.status for request in requests_of(server, "/v1/customers")].count(400) == 1
    # The deleted customer was listed before: an event announces the deletion, or the next list finds it.
    pipeline.backfill([day_of(days_ago(shop, n)) for n in range(30)])
    assert ask(folder.published, "SELECT count(*) FROM test.customers") == [(249,)]
    assert_equal_to_stripe(shop, folder.published)


def test_trap_14_an_invoice_is_deleted_between_its_page_and_its_lines(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    remaining, unread, known = (
        shop.create_invoice(n_lines=25, draft=True, created=days_ago(shop, days))["id"] for days in (9, 8, 7)
    )
    server.faults.append(Fault(path=f"{unread}/lines", before=lambda _: shop.delete_invoice(unread)))
    assert not pipeline.sync().failures
    assert {row["id"] for row in rows(folder.published, "test.invoices")} == {remaining, known}

    shop.update("invoices", known, description="read again, with its lines")
    server.faults.append(Fault(path=f"{known}/lines", before=lambda _: shop.delete_invoice(known)))
    assert not pipeline.sync().failures
    assert [row["id"] for row in rows(folder.published, "test.invoices")] == [remaining]
    assert_equal_to_stripe(shop, folder.published)


# Stale or wrong rows


def test_trap_15_webhooks_that_arrive_twice_and_in_any_order_within_one_second_give_the_rows_of_the_api(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    orders = list(itertools.permutations(range(3)))
    charges = [shop.create_payment(created=days_ago(shop, 40 + n))["latest_charge"] for n in range(len(orders))]
    at = int(shop.clock.now())
    webhooks: list[list[dict[str, Any]]] = []
    for charge in charges:
        states = [shop.objects("charges", False)[charge]]
        shop.refund(charge, amount=100, created=at, announce=False)
        states.append(shop.objects("charges", False)[charge])
        shop.dispute(charge, created=at, announce=False)
        states.append(shop.objects("charges", False)[charge])
        webhooks.append(
            [
                shop.emit_event(kind, state, livemode=False, created=at, visible_after=NEVER)
                for kind, state in zip(("charge.succeeded", "charge.refunded", "charge.updated"), states, strict=True)
            ]
        )
    pipeline.sync()
    shop_now = shop.objects("charges", False)
    for step in range(3):
        arriving = [events[order[step]] for events, order in zip(webhooks, orders, strict=True)]
        earlier = [events[order[n]] for events, order in zip(webhooks, orders, strict=True) for n in range(step)]
        deliver(folder, [*arriving, *arriving, *earlier])
        for charge in charges:
            shop.update("charges", charge, announce=False, description=f"state {step}")
        pipeline.sync()
        stored = ask(
            folder.published, "SELECT DISTINCT description, amount_refunded, disputed FROM test.charges ORDER BY ALL"
        )
        assert stored == [(f"state {step}", 100, True)]
    assert len(shop_now) == len(orders)
    assert shop.objects("charges", False).keys() == {row["id"] for row in rows(folder.published, "test.charges")}


class Held:
    """Holds back what a run has read until the test lets the run write."""

    def __init__(self) -> None:
        self.has_read = threading.Event()
        self.may_write = threading.Event()

    def lists_of(self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        """Hold the lists of days that this pipeline reads."""
        load = pipeline.warehouse.load

        def held(batches: Sequence[Batch], **others: Any) -> Loaded:
            if any(batch.days for batch in batches):
                self._wait()
            return load(batches, **others)

        monkeypatch.setattr(pipeline.warehouse, "load", held)

    def single_objects(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Hold the single objects that syncs read."""
        read_again = Reader.read_again

        def held(reader: Reader, ids: Iterable[str], **others: Any) -> Any:
            read = read_again(reader, ids, **others)
            if threading.current_thread() is not threading.main_thread():
                self._wait()
            return read

        monkeypatch.setattr(Reader, "read_again", held)

    def _wait(self) -> None:
        self.has_read.set()
        assert self.may_write.wait(60)


def test_trap_16_a_page_that_is_written_late_does_not_undo_the_newer_row_of_a_webhook(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = days_ago(shop, 5)
    customer = shop.create_customer(name="t0", created=day)["id"]
    deleted = shop.create_customer(name="t0", created=day)["id"]
    invoice = shop.create_invoice(n_lines=3, draft=True, created=day)["id"]
    late, prompt = make_pipeline(TEST_KEY), make_pipeline(TEST_KEY)
    prompt.sync()
    held = Held()
    held.lists_of(late, monkeypatch)
    with ThreadPoolExecutor(1) as thread:
        # The page differs from the stored rows, so that writing it would change something.
        shop.update("customers", customer, name="t0 + 0.5", announce=False)
        backfill = thread.submit(late.backfill, [day_of(day)])
        assert held.has_read.wait(60)
        shop.update("customers", customer, name="t0 + 1")
        shop.delete_customer(deleted)
        shop.add_invoice_line(invoice)
        prompt.sync()
        held.may_write.set()
        assert not backfill.result(60).failures
    assert name_of(folder, customer) == "t0 + 1"
    assert ask(folder.published, "SELECT count(*) FROM test.invoice_lines") == [(4,)]
    assert_equal_to_stripe(shop, folder.published)


def test_trap_16_a_webhooks_answer_that_is_written_late_does_not_undo_a_list_made_meanwhile(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = shop.create_customer(name="t0", created=days_ago(shop, 5))["id"]
    late, prompt = make_pipeline(TEST_KEY), make_pipeline(TEST_KEY)
    prompt.sync()
    shop.update("customers", customer, name="t0 + 1")
    held = Held()
    held.single_objects(monkeypatch)
    with ThreadPoolExecutor(1) as thread:
        held_sync = thread.submit(late.sync)
        assert held.has_read.wait(60)
        shop.update("customers", customer, name="t0", announce=False)
        prompt.backfill([day_of(days_ago(shop, 5))])  # the list finds the row as it is
        held.may_write.set()
        assert not held_sync.result(60).failures
    assert name_of(folder, customer) == "t0"


def test_trap_17_a_webhook_replayed_15_days_later_does_not_bring_back_old_values(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    customer = shop.create_customer(name="first", created=days_ago(shop, 40))["id"]
    deleted = shop.create_customer(name="Ada", created=days_ago(shop, 40))["id"]
    pipeline.sync()
    webhooks = [
        shop.emit_event(
            "customer.updated", shop.objects("customers", False)[object_id], livemode=False, visible_after=NEVER
        )
        for object_id in (customer, deleted)
    ]
    deliver(folder, webhooks)
    pipeline.sync()
    shop.update("customers", customer, name="second")
    shop.delete_customer(deleted)
    pipeline.sync()
    assert_equal_to_stripe(shop, folder.published)

    shop.clock.advance(15 * DAY)
    deliver(folder, [*webhooks, *(event | {"id": f"{event['id']}again"} for event in webhooks)])
    pipeline.sync()
    assert name_of(folder, customer) == "second"
    assert_equal_to_stripe(shop, folder.published)


def test_trap_18_an_event_in_an_old_api_versions_shape_clears_no_column(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    payment = shop.create_payment(description="Order 6735", created=days_ago(shop, 3))
    invoice = shop.create_invoice(n_lines=3, created=days_ago(shop, 3))["id"]
    pipeline.sync()
    before = everything(folder.published)

    old_charge = {"id": payment["latest_charge"], "object": "charge", "created": payment["created"], "card": {}}
    old_invoice = {"id": invoice, "object": "invoice", "date": days_ago(shop, 3), "lines": {"data": [], "count": 0}}
    for kind, obj in (("charge.updated", old_charge), ("invoice.updated", old_invoice)):
        event = shop.emit_event(kind, obj, livemode=False, visible_after=NEVER)
        shop.put(event | {"api_version": "2015-10-16"}, livemode=False)
    report = pipeline.sync()

    assert changed(report) == {}
    assert {request.stripe_version for request in server.requests} == {server.requests[0].stripe_version}
    assert str(server.requests[0].stripe_version) > "2026"
    assert requests_of(server, f"/v1/charges/{payment['latest_charge']}")
    assert requests_of(server, f"/v1/invoices/{invoice}")
    after = everything(folder.published)
    for table in DEFAULT_TYPES:
        assert [row | {"_fetched_at": None} for row in after[table]] == [
            row | {"_fetched_at": None} for row in before[table]
        ]


def test_trap_19_a_deleted_customer_stays_deleted_and_keeps_its_last_columns_in_the_base_table(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    customer = shop.create_customer(name="Ada", email="ada@example.com", created=days_ago(shop, 10))["id"]
    pipeline.sync()
    last = shop.objects("customers", False)[customer]
    shop.delete_customer(customer)
    pipeline.sync()
    stored = "SELECT name, email, _deleted_at IS NOT NULL FROM raw.customers"
    visible = "SELECT count(*) FROM test.customers"
    assert ask(folder.published, visible) == [(0,)]
    assert ask(folder.published, stored) == [("Ada", "ada@example.com", True)]

    shop.emit_event("customer.updated", last, livemode=False)
    pipeline.sync()
    assert ask(folder.published, visible) == [(0,)]
    pipeline.backfill([day_of(days_ago(shop, 10))])
    assert ask(folder.published, visible) == [(0,)]
    assert ask(folder.published, stored) == [("Ada", "ada@example.com", True)]
    covered = "SELECT sum(\"rows\")::INT FROM pipeline.coverage WHERE object_type = 'customers'"
    assert ask(folder.published, covered) == [(0,)]


def test_trap_20_equal_fees_are_rows_of_their_own_and_a_list_that_shrinks_is_trimmed(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    fee = {"amount": 30, "application": None, "currency": "usd", "description": "Fixed fee", "type": "stripe_fee"}
    percent = fee | {"amount": 58, "description": "2.9 %"}
    shop.create_payment(fees=[fee, fee, percent], created=days_ago(shop, 2))
    pipeline.sync()
    fees = "SELECT position, amount FROM test.fee_details ORDER BY position"
    sums = (
        "SELECT b.fee, sum(f.amount)::BIGINT FROM test.balance_transactions b"
        " JOIN test.fee_details f ON f.balance_transaction = b.id GROUP BY ALL"
    )
    assert ask(folder.published, fees) == [(0, 30), (1, 30), (2, 58)]
    assert ask(folder.published, sums) == [(118, 118)]

    [transaction] = shop.objects("balance_transactions", False)
    shop.update("balance_transactions", transaction, fee_details=[fee], fee=30)
    pipeline.backfill([day_of(days_ago(shop, 2))])
    assert ask(folder.published, fees) == [(0, 30)]
    assert ask(folder.published, sums) == [(30, 30)]
    assert ask(folder.published, "SELECT count(*) FROM raw.fee_details") == [(1,)]


@pytest.mark.both_modes
def test_trap_21_every_row_of_every_type_has_the_right_livemode(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.seed_history(10)
    make_pipeline(KEYS).sync()
    assert_equal_to_stripe(shop, folder.published)
    for table in DEFAULT_TYPES:
        counts = dict(ask(folder.published, f"SELECT livemode, count(*) FROM raw.{table} GROUP BY ALL"))
        assert counts.keys() == {True, False}, table
        assert counts[True] == len(rows(folder.published, f"live.{table}"))


@pytest.mark.both_modes
def test_trap_21_a_key_of_another_account_is_refused(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.create_customer()
    make_pipeline(TEST_KEY).sync()
    before = everything(folder.published)
    with Server(Shop(account="acct_1Other")) as other:
        other.shop.create_customer()
        stranger = make_pipeline({"STRIPE_API_KEY": "sk_test_of_another_account"}, url=other.url)
        with pytest.raises(WarehouseError, match="acct_1Other"):
            stranger.sync()
        with pytest.raises(WarehouseError, match="acct_1Other"):
            stranger.backfill([day_of(shop.clock.now())])
    assert everything(folder.published) == before


def test_trap_22_amounts_are_stored_in_minor_units_however_large(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    for currency, amount in (("jpy", 5000), ("kwd", 12345), ("usd", 2**31 + 1), ("idr", 2**53 + 1)):
        shop.create_payment(amount=amount, currency=currency, created=days_ago(shop, 2))
    pipeline.sync()
    expected = [("idr", 2**53 + 1), ("jpy", 5000), ("kwd", 12345), ("usd", 2**31 + 1)]
    for table in ("charges", "payment_intents", "balance_transactions"):
        stored = ask(folder.published, f"SELECT currency, amount FROM test.{table} ORDER BY currency")
        assert stored == expected, table
    assert_equal_to_stripe(shop, folder.published)


def test_trap_23_metadata_keeps_its_keys_and_values_and_loses_removed_ones(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    metadata = {"a b": "1", "a_b": "2", "A_B": "3", "emoji": "👩‍🚀 ok", "long": "é" * 500, "gone": "soon"}
    customer = shop.create_customer(metadata=metadata, created=days_ago(shop, 2))["id"]
    pipeline.sync()
    query = (
        "SELECT metadata->>'a b', metadata->>'a_b', metadata->>'A_B', metadata->>'emoji', metadata->>'long',"
        " metadata->>'gone' FROM test.customers"
    )
    assert ask(folder.published, query) == [tuple(metadata.values())]
    del metadata["gone"]
    shop.update("customers", customer, metadata=metadata)
    pipeline.sync()
    assert ask(folder.published, query) == [(*metadata.values(), None)]
    assert_equal_to_stripe(shop, folder.published)


def test_trap_24_columns_survive_nulls_expanded_references_new_fields_and_changed_types(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    day = days_ago(shop, 2)
    plain = shop.create_payment(created=day)["latest_charge"]
    expanded = shop.create_payment(created=day)["latest_charge"]
    shop.update("charges", expanded, customer={"id": "cus_1", "object": "customer", "name": "Ada"}, announce=False)
    odd = shop.create_payment(created=day)["latest_charge"]
    shop.update("charges", odd, amount={"value": "2000"}, loyalty={"points": 7}, announce=False)
    report = pipeline.sync()

    assert not report.failures
    assert "charges.amount" in report.surprises.seen
    for object_type in DEFAULT_TYPES.values():
        described = {name for (name, *_) in ask(folder.published, f"DESCRIBE raw.{object_type.name}")}
        assert described == set(all_columns(object_type))
    assert ask(folder.published, "SELECT count(review), count(*) FROM test.charges") == [(0, 3)]
    stored = ask(
        folder.published,
        "SELECT id, customer, amount, _extra->'amount'->>'value', (_extra->'loyalty'->>'points')::INT"
        " FROM test.charges",
    )
    assert sorted(stored) == sorted(
        [(plain, None, 2000, None, None), (expanded, "cus_1", 2000, None, None), (odd, None, None, "2000", 7)]
    )
    assert_equal_to_stripe(shop, folder.published)


# Operation


@pytest.fixture
def settings_file(shop: Shop, tmp_path: Path) -> Path:
    """The settings file of pipelines that run as processes of their own."""
    path = tmp_path / "settings.yaml"
    path.write_text(f"history: {day_of(days_ago(shop, 60))}\n", encoding="utf-8")
    return path


def process(program: str, *arguments: str, server: Server, folder: DataFolder, settings: Path) -> subprocess.Popen[str]:
    """A Python process with the environment of a pipeline of the test mode."""
    environment = (
        os.environ
        | TEST_KEY
        | {
            "STRIPE_API_BASE": server.url,
            "STRIPE_PIPELINE_DATA": str(folder.root),
            "STRIPE_PIPELINE_CONFIG": str(settings),
        }
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], env=environment, stderr=subprocess.PIPE, text=True
    )


_SYNCS = """
from stripe_pipeline.sync.pipeline import Pipeline
with Pipeline.from_environment() as pipeline:
    for _ in range(3):
        report = pipeline.sync()
        assert not report.failures, report.failures
"""
_BACKFILLS = """
import datetime
from stripe_pipeline.days import today
from stripe_pipeline.sync.pipeline import Pipeline
with Pipeline.from_environment() as pipeline:
    for _ in range(2):
        report = pipeline.backfill([today() - datetime.timedelta(days=n) for n in range(3)])
        assert not report.failures, report.failures
"""


@pytest.mark.thorough
def test_trap_27_schedule_webhooks_and_backfill_at_once_with_analysts_reading(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder, settings_file: Path
) -> None:
    for n in range(12):
        charge = shop.create_payment(created=days_ago(shop, n / 2))["latest_charge"]
        shop.create_invoice(n_lines=n, created=days_ago(shop, n / 2))
        shop.refund(charge, amount=5, created=days_ago(shop, n / 3))
    make_pipeline(TEST_KEY).sync()
    cursor = f"SELECT read_until FROM pipeline.cursors WHERE name = '{EVENTS}'"
    stop = threading.Event()
    seen: list[datetime] = []

    def read() -> int:
        opened = 0
        while not stop.is_set():
            with duckdb.connect(str(folder.published), read_only=True) as connection:
                for _ in range(3):  # a connection keeps the version that it opened
                    [(at,)] = connection.execute(cursor).fetchall()
                    doubles = "SELECT id FROM test.charges GROUP BY id HAVING count(*) > 1"
                    assert connection.execute(doubles).fetchall() == []
            seen.append(at)
            opened += 1
        return opened

    def refresh(pipeline: Pipeline) -> None:
        while not stop.is_set():
            shop.trade(False)
            assert not pipeline.sync().failures

    with ThreadPoolExecutor(4) as threads:
        analysts = [threads.submit(read) for _ in range(2)]
        webhooks = [threads.submit(refresh, make_pipeline(TEST_KEY)) for _ in range(2)]
        processes = [
            process(program, server=server, folder=folder, settings=settings_file) for program in (_SYNCS, _BACKFILLS)
        ]
        try:
            ended = [(running.communicate(timeout=120)[1], running.returncode) for running in processes]
        finally:
            stop.set()
        assert ended == [("", 0), ("", 0)]
        for webhook in webhooks:
            webhook.result(60)
        assert all(analyst.result(60) > 2 for analyst in analysts)
    make_pipeline(TEST_KEY).sync()
    assert_equal_to_stripe(shop, folder.published)
    assert ask(folder.published, cursor) >= [(max(seen),)]


_KILLED = """
import functools, importlib, os, signal, sys
from stripe_pipeline.days import today
from stripe_pipeline.sync.pipeline import Pipeline

def die(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)

def do_and_die(step, *arguments, **named):
    step(*arguments, **named)
    die()

when, _, where = sys.argv[1].partition(" ")
if ":" in where:
    module, _, names = where.partition(":")
    *parents, name = names.split(".")
    owner = functools.reduce(getattr, parents, importlib.import_module(module))
    step = getattr(owner, name)
    setattr(owner, name, die if when == "before" else lambda *a, **n: do_and_die(step, *a, **n))
with Pipeline.from_environment() as pipeline:
    pipeline.backfill([today()]) if sys.argv[2] == "backfill" else pipeline.sync()
"""
_STEPS = [
    "before stripe_pipeline.inbox.inbox:Inbox.add",
    "before stripe_pipeline.warehouse.warehouse:Warehouse.load",
    "before stripe_pipeline.warehouse.load:move_cursors",
    "after stripe_pipeline.warehouse.warehouse:Warehouse.load",
    "after stripe_pipeline.inbox.inbox:Inbox.applied",
    "before stripe_pipeline.warehouse.publisher:_swap",
    "after stripe_pipeline.warehouse.publisher:_swap",
]


def killed_at(number: int, server: Server, command: list[subprocess.Popen[str]]) -> None:
    """Make the emulator kill a process instead of answering the request of this number."""

    def kill(_: LoggedRequest) -> None:
        command[0].kill()

    server.faults.append(Fault(nth=number, before=kill))


@pytest.mark.parametrize("step", varied(["request 2", *_STEPS, "request 5"], quick=3))
def test_trap_28_after_a_kill_between_two_steps_the_next_run_completes_the_work(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder, settings_file: Path, step: str
) -> None:
    charge = shop.create_payment(created=days_ago(shop, 50))["latest_charge"]
    customer = shop.create_customer(name="Ada", created=days_ago(shop, 40))["id"]
    invoice = shop.create_invoice(n_lines=12, draft=True, created=days_ago(shop, 30))["id"]
    pipeline.sync()
    shop.refund(charge)
    shop.delete_customer(customer)
    shop.remove_invoice_line(invoice, shop.lines(invoice, False)[11]["id"])
    shop.create_payment()

    children: list[subprocess.Popen[str]] = []
    if step.startswith("request"):
        killed_at(int(step.split()[1]), server, children)
    children.append(process(_KILLED, step, "sync", server=server, folder=folder, settings=settings_file))
    _, problem = children[0].communicate(timeout=60)
    assert problem == ""
    assert children[0].returncode == -signal.SIGKILL
    server.faults.clear()

    for table, object_type in DEFAULT_TYPES.items():  # the published file has no row twice
        key = ", ".join(("livemode", *object_type.key))
        assert ask(folder.published, f"SELECT {key} FROM raw.{table} GROUP BY {key} HAVING count(*) > 1") == []
    assert not pipeline.sync().failures
    assert_equal_to_stripe(shop, folder.published)
    assert len(rows(folder.published, "raw.invoice_lines")) == 11


@pytest.mark.parametrize("run", varied(["sync", "backfill"]))
def test_trap_28_a_first_run_that_is_killed_repeatedly_is_completed_by_the_next(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder, settings_file: Path, run: str
) -> None:
    for n in range(12):
        shop.create_payment(created=days_ago(shop, n), announce=False)
        shop.create_invoice(n_lines=11, created=days_ago(shop, n), announce=False)
    for number in (2, 12):
        children: list[subprocess.Popen[str]] = []
        killed_at(number, server, children)
        children.append(process(_KILLED, "never", run, server=server, folder=folder, settings=settings_file))
        children[0].communicate(timeout=60)
        server.faults.clear()
    make_pipeline(TEST_KEY).sync()
    assert_equal_to_stripe(shop, folder.published)
    assert ask(folder.published, "SELECT count(*) FROM raw.invoice_lines") == [(132,)]


def test_trap_29_objects_older_than_the_history_stay_out_until_a_longer_history_loads_them(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    first = day_of(days_ago(shop, 10))
    old = shop.create_customer(created=days_ago(shop, 30))["id"]
    edge = shop.create_customer(created=day_start(first) - 1)["id"]
    young = shop.create_customer(created=day_start(first))["id"]
    charge = shop.create_payment(created=days_ago(shop, 30))["latest_charge"]
    pipeline = make_pipeline(TEST_KEY, history=first)
    pipeline.sync()
    for customer in (old, edge, young):
        shop.update("customers", customer, name="changed")
    without_time = {"id": old, "object": "customer"}
    shop.emit_event("customer.updated", without_time, livemode=False)
    refund = shop.refund(charge)["id"]
    pipeline.sync()
    pipeline.backfill([first + timedelta(days=n) for n in range(11)])
    shop.clock.advance(DAY)
    pipeline.sync()
    assert [row["id"] for row in rows(folder.published, "raw.customers")] == [young]
    assert requests_of(server, f"/v1/customers/{edge}") == []
    assert rows(folder.published, "raw.charges") == []
    assert [row["id"] for row in rows(folder.published, "raw.refunds")] == [refund]  # created today

    make_pipeline(TEST_KEY, history=day_of(days_ago(shop, 60))).sync()
    assert_equal_to_stripe(shop, folder.published)


@pytest.mark.both_modes
def test_trap_30_an_idle_sync_spends_two_requests_and_rewrites_nothing(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    shop.seed_history(3)
    shop.create_payment(livemode=True)
    pipeline = make_pipeline(LIVE_KEY)
    pipeline.sync()
    pipeline.sync()
    server.requests.clear()
    before = everything(folder.published)
    report = pipeline.sync()
    assert [request.path for request in server.requests] == ["/v1/events", "/v1/balance_transactions"]
    assert report.requests.total() == 2
    assert changed(report) == {}
    assert everything(folder.published) == before


@pytest.mark.parametrize("minutes", varied([-10, 10]))
def test_trap_31_a_local_clock_that_is_wrong_loses_nothing(
    pipeline: Pipeline, shop: Shop, folder: DataFolder, minutes: int
) -> None:
    shop.clock.advance(minutes * 60)
    customer = shop.create_customer(created=days_ago(shop, 0))["id"]
    shop.create_payment(customer, created=days_ago(shop, 2))
    pipeline.sync()
    assert_equal_to_stripe(shop, folder.published)
    for _ in range(20):
        shop.trade(False)
    pipeline.sync()
    assert_equal_to_stripe(shop, folder.published)
    pipeline.backfill([day_of(shop.clock.now())])
    assert_equal_to_stripe(shop, folder.published)


@pytest.mark.parametrize("minutes", varied([-10, 10]))
@pytest.mark.parametrize("set_back", [0.0, 1.0])
def test_trap_31_with_a_wrong_local_clock_a_change_right_after_a_read_is_not_taken_for_old(
    pipeline: Pipeline,
    server: Server,
    shop: Shop,
    folder: DataFolder,
    monkeypatch: pytest.MonkeyPatch,
    minutes: int,
    set_back: float,
) -> None:
    """Stripe's dates are whole seconds, so that a run may estimate an earlier time than the run before."""
    local, passed = [float(int(time.time()))], [0.0]
    clocks = SimpleNamespace(time=lambda: local[0], monotonic=lambda: passed[0])
    monkeypatch.setattr(server_clock, "time", clocks)
    shop.clock.freeze(local[0] + minutes * 60)

    def pass_by(seconds: float) -> None:
        local[0] += seconds
        passed[0] += seconds
        shop.clock.advance(seconds)

    customer = shop.create_customer(created=days_ago(shop, 2))["id"]
    deleted = shop.create_customer(created=days_ago(shop, 3))["id"]
    # The first answer comes on the full second and tells the time exactly, the others do not.
    server.faults.append(Fault(path="/v1/events", before=lambda _: pass_by(0.3)))
    pipeline.sync()
    shop.update("customers", customer, name="changed")
    shop.delete_customer(deleted)
    pass_by(0.3)
    local[0] -= set_back
    pipeline.sync()
    if set_back:  # then the answer is refused, and the object is requested again
        pass_by(2)
        pipeline.sync()
    assert_equal_to_stripe(shop, folder.published)
