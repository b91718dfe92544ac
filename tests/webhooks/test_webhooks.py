"""Webhooks from the shop to the row: the emulator posts signed events to the receiver, and the inbox is drained.

There is one test for each trap of docs/stripe.md#traps that concerns webhooks, named after the trap. Requests that the
receiver refuses are in the tests of the receiver (trap 25).
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from stripe_emulator import Fault, Server, Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY, day_of
from stripe_pipeline.errors import AuthenticationFailed, PermissionMissing
from stripe_pipeline.inbox.notification import notifications_of
from stripe_pipeline.sync.pipeline import Pipeline
from stripe_pipeline.sync.report import Report
from tests.conftest import KEYS, MakePipeline
from tests.receiving import receiving
from tests.stripe_state import ask, assert_equal_to_stripe, changed, days_ago, rows
from tests.variants import varied

TEST_KEY = {"STRIPE_API_KEY": "sk_test_of_the_tests"}
MOST = 200


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """An emulator that delivers one event after the other, or over as many connections as the test says."""
    connections = getattr(request, "param", 1)
    with Server(Shop(), webhook_backoff=0.001, webhook_concurrency=connections) as running:
        yield running


@pytest.fixture
def webhooks(server: Server, folder: DataFolder) -> Iterator[Server]:
    """The emulator, which delivers the events of both modes to the receiver."""
    with receiving(server, folder):
        yield server


def drain(pipeline: Pipeline, server: Server, report: Report | None = None) -> Report:
    """Wait until all events were delivered, apply their notifications and publish."""
    server.webhooks.settled()
    report = pipeline.drain(most=MOST, report=report)
    pipeline.publish()
    return report


@pytest.mark.both_modes
def test_every_type_follows_its_webhooks_without_a_sync(
    pipeline: Pipeline, webhooks: Server, shop: Shop, folder: DataFolder
) -> None:
    for livemode in (True, False):
        shop.create_payment(created=days_ago(shop, 20), livemode=livemode)
    pipeline.sync()
    for livemode in (True, False):
        old = next(iter(shop.objects("charges", livemode)))
        shop.create_customer(name="new", livemode=livemode)
        shop.create_payment(livemode=livemode)
        shop.refund(old, amount=100, livemode=livemode)
        shop.dispute(old, livemode=livemode)
        shop.create_invoice(n_lines=13, livemode=livemode)
    report = drain(pipeline, webhooks)
    assert not report.failures
    assert_equal_to_stripe(shop, folder.published)
    assert len([request for request in webhooks.requests if request.path == "/v1/events"]) == 2, (
        "one scan for each key, by the sync"
    )
    assert pipeline.inbox.summary().waiting == 0


def test_a_refund_of_an_old_charge_takes_few_requests(
    make_pipeline: MakePipeline, webhooks: Server, shop: Shop, folder: DataFolder
) -> None:
    charge = shop.create_payment(created=days_ago(shop, 30))["latest_charge"]
    pipeline = make_pipeline(TEST_KEY)
    pipeline.sync()
    webhooks.requests.clear()
    shop.refund(charge, amount=100)
    report = drain(pipeline, webhooks)
    assert changed(report) == {"charges": (0, 1, 0), "refunds": (1, 0, 0), "balance_transactions": (1, 0, 0)}
    assert len(webhooks.requests) <= 4
    assert_equal_to_stripe(shop, folder.published)


def test_before_the_first_load_a_drain_reads_no_object(
    pipeline: Pipeline, webhooks: Server, shop: Shop, folder: DataFolder
) -> None:
    shop.create_payment()
    report = drain(pipeline, webhooks)
    assert report.applied > 0
    assert not [request for request in webhooks.requests if request.path != "/v1/account"]
    pipeline.sync()
    assert_equal_to_stripe(shop, folder.published)


def test_trap_15_webhooks_that_arrive_twice_and_in_any_order_give_the_rows_of_the_api(
    pipeline: Pipeline, webhooks: Server, shop: Shop, folder: DataFolder
) -> None:
    orders = list(itertools.permutations(range(3)))
    charges = [shop.create_payment(created=days_ago(shop, 40 + n))["latest_charge"] for n in range(len(orders))]
    pipeline.sync()
    webhooks.webhooks.settled()
    by_charge: list[list[str]] = []
    at = int(shop.clock.now())
    webhooks.webhooks.hold()
    for charge in charges:
        before = set(webhooks.webhooks.held)
        for n in range(3):
            shop.update("charges", charge, description=f"{n}", created=at)
        by_charge.append([event for event in webhooks.webhooks.held if event not in before])
        assert len(by_charge[-1]) == 3
    for step in range(3):
        for events, order in zip(by_charge, orders, strict=True):
            webhooks.webhooks.release(events[order[step]], events[order[step]])
        for charge in charges:
            shop.update("charges", charge, announce=False, description=f"state {step}")
        drain(pipeline, webhooks)
        assert ask(folder.published, "SELECT DISTINCT description FROM test.charges") == [(f"state {step}",)]
    assert_equal_to_stripe(shop, folder.published)


def test_trap_16_a_page_that_is_written_late_does_not_undo_the_newer_row_of_a_webhook(
    make_pipeline: MakePipeline,
    webhooks: Server,
    shop: Shop,
    folder: DataFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    customer = shop.create_customer(name="t0", created=days_ago(shop, 5))["id"]
    late, prompt = make_pipeline(TEST_KEY), make_pipeline(TEST_KEY)
    prompt.sync()
    has_read, may_write, load = threading.Event(), threading.Event(), late.warehouse.load

    def held(batches: Any, **options: Any) -> Any:
        if batches:
            has_read.set()
            assert may_write.wait(60)
        return load(batches, **options)

    monkeypatch.setattr(late.warehouse, "load", held)
    with ThreadPoolExecutor(1) as thread:
        shop.update("customers", customer, name="t0 + 0.5", announce=False)
        backfill = thread.submit(late.backfill, [day_of(days_ago(shop, 5))], ["customers"])
        assert has_read.wait(60)
        shop.update("customers", customer, name="t0 + 1")
        drain(prompt, webhooks)
        may_write.set()
        assert not backfill.result(60).failures
    assert ask(folder.published, "SELECT name FROM test.customers") == [("t0 + 1",)]


def test_trap_17_a_webhook_replayed_15_days_later_does_not_bring_back_old_values(
    pipeline: Pipeline, webhooks: Server, shop: Shop, folder: DataFolder
) -> None:
    customer, deleted = (shop.create_customer(name="first", created=days_ago(shop, 40))["id"] for _ in range(2))
    pipeline.sync()
    webhooks.webhooks.hold()
    for renamed in (customer, deleted):
        shop.update("customers", renamed, name="second")
    first = webhooks.webhooks.held
    webhooks.webhooks.release()
    drain(pipeline, webhooks)
    shop.update("customers", customer, name="third")
    shop.delete_customer(deleted)
    drain(pipeline, webhooks)
    assert_equal_to_stripe(shop, folder.published)

    shop.clock.advance(15 * DAY)
    pipeline.inbox.forget(applied_before=2**40)  # as if the events were new
    for event in first:
        webhooks.webhooks.deliver(event)
    report = drain(pipeline, webhooks)
    assert report.applied == 2
    assert changed(report) == {}
    assert ask(folder.published, "SELECT name FROM test.customers") == [("third",)]


def test_trap_18_an_event_in_an_old_api_versions_shape_clears_no_column(
    pipeline: Pipeline, webhooks: Server, shop: Shop, folder: DataFolder
) -> None:
    payment = shop.create_payment(description="Order 6735", created=days_ago(shop, 3))
    pipeline.sync()
    webhooks.webhooks.hold()
    old = {"id": payment["latest_charge"], "object": "charge", "created": payment["created"], "card": {}}
    event = shop.emit_event("charge.updated", old, livemode=False)
    shop.put(event | {"api_version": "2015-10-16"}, livemode=False)
    webhooks.webhooks.release()
    report = drain(pipeline, webhooks)
    assert report.applied == 1
    assert changed(report) == {}
    assert_equal_to_stripe(shop, folder.published)


def test_trap_19_a_deleted_customer_stays_deleted_after_late_webhooks_and_keeps_its_last_columns(
    pipeline: Pipeline, webhooks: Server, shop: Shop, folder: DataFolder
) -> None:
    customer = shop.create_customer(name="Ada", created=days_ago(shop, 10))["id"]
    pipeline.sync()
    webhooks.webhooks.hold()
    shop.update("customers", customer, name="Ada Lovelace")
    [late] = webhooks.webhooks.held
    shop.delete_customer(customer)
    webhooks.webhooks.release(*[event for event in webhooks.webhooks.held if event != late])
    drain(pipeline, webhooks)
    columns = "SELECT name, _deleted_at IS NOT NULL FROM raw.customers"
    assert ask(folder.published, "SELECT count(*) FROM test.customers") == [(0,)]
    assert ask(folder.published, columns) == [("Ada", True)]
    webhooks.webhooks.release(late)
    assert drain(pipeline, webhooks).applied == 1
    pipeline.backfill([day_of(days_ago(shop, 10))])
    assert ask(folder.published, "SELECT count(*) FROM test.customers") == [(0,)]
    assert ask(folder.published, columns) == [("Ada", True)]


@pytest.mark.thorough
@pytest.mark.parametrize("server", [20], indirect=True)
def test_trap_26_5000_webhooks_at_once_read_each_object_once(
    pipeline: Pipeline, webhooks: Server, shop: Shop, folder: DataFolder
) -> None:
    customers = [shop.create_customer(created=days_ago(shop, 40 - n / 4))["id"] for n in range(100)]
    pipeline.sync()
    webhooks.requests.clear()
    before = len(webhooks.webhooks.attempts)
    for n in range(5000):
        shop.update("customers", customers[n % 100], description=f"{n}")
    webhooks.webhooks.settled(120)
    assert {attempt.status for attempt in webhooks.webhooks.attempts[before:]} == {200}
    report = drain(pipeline, webhooks)
    assert report.applied == 5000
    assert len(webhooks.requests) <= 5, "their days are listed"
    assert_equal_to_stripe(shop, folder.published)


class Killed(BaseException):
    """Stands in for the end of the process."""


@pytest.mark.parametrize("done", varied([pytest.param(False, id="before"), pytest.param(True, id="after")]))
@pytest.mark.parametrize("step", ["warehouse.load", "inbox.applied", "warehouse.publish"])
def test_trap_28_after_a_kill_between_any_two_steps_the_next_drain_completes_the_work(
    make_pipeline: MakePipeline,
    webhooks: Server,
    shop: Shop,
    folder: DataFolder,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    done: bool,
) -> None:
    charge = shop.create_payment(created=days_ago(shop, 30))["latest_charge"]
    killed = make_pipeline()
    killed.sync()
    shop.refund(charge, amount=100)
    shop.create_customer(name="new")
    owner: Any = killed
    *names, name = step.split(".")
    for attribute in names:
        owner = getattr(owner, attribute)
    real: Callable[..., Any] = getattr(owner, name)

    def kill(*arguments: Any, **options: Any) -> Any:
        if done:
            real(*arguments, **options)
        raise Killed

    monkeypatch.setattr(owner, name, kill)
    with suppress(Killed):
        drain(killed, webhooks)
        pytest.fail("the drain was not killed")
    monkeypatch.undo()
    drain(make_pipeline(), webhooks)
    assert_equal_to_stripe(shop, folder.published)
    assert not [row for row in rows(folder.published, "raw.refunds") if row["_deleted_at"]]
    assert ask(folder.published, "SELECT count(*), count(DISTINCT id) FROM raw.refunds") == [(1, 1)]


@pytest.mark.both_modes
def test_notifications_of_a_type_that_may_not_be_read_wait_and_the_others_are_applied(
    make_pipeline: MakePipeline, webhooks: Server, shop: Shop, folder: DataFolder
) -> None:
    pipeline = make_pipeline({"STRIPE_API_KEY": "rk_test_of_the_tests"})
    charge = shop.create_payment(created=days_ago(shop, 30))["latest_charge"]
    pipeline.sync()
    webhooks.deny("refunds")
    shop.refund(charge, amount=100)
    report = drain(pipeline, webhooks)
    assert report.failures.keys() == {"refunds"}
    assert isinstance(report.failures["refunds"], PermissionMissing)
    assert ask(folder.published, "SELECT amount_refunded FROM test.charges") == [(100,)]
    assert not pipeline.inbox.has_due(), "the refund is not read again at once"
    [notification] = ask(folder.published, "SELECT DISTINCT object, attempts, state FROM pipeline.inbox")
    assert notification == ("refund", 0, "waiting")
    assert "rak_charge_read" in ask(folder.published, "SELECT error FROM pipeline.inbox")[0][0]
    webhooks.allow("refunds")
    assert not pipeline.sync().failures
    assert_equal_to_stripe(shop, folder.published)
    assert ask(folder.published, "SELECT count(*) FROM pipeline.inbox") == [(0,)]


def test_an_object_that_cannot_be_read_is_given_up_after_five_attempts_and_delays_no_other(
    make_pipeline: MakePipeline, webhooks: Server, shop: Shop, folder: DataFolder
) -> None:
    bad, good = (shop.create_customer(name="old", created=days_ago(shop, 30 + n))["id"] for n in range(2))
    pipeline = make_pipeline(TEST_KEY)
    pipeline.sync()
    webhooks.faults.append(Fault(path=f"/v1/customers/{bad}", status=400, times=None))
    for customer in (bad, good):
        shop.update("customers", customer, name="new")
    report = drain(pipeline, webhooks)
    assert report.failures.keys() == {"customers"}
    assert ask(folder.published, "SELECT id FROM test.customers WHERE name = 'new'") == [(good,)]
    for _ in range(4):
        assert pipeline.sync().failures.keys() == {"customers"}
    notifications = "SELECT object_id, attempts, state FROM pipeline.inbox"
    assert ask(folder.published, notifications) == [(bad, 5, "dead")]
    assert not pipeline.sync().failures, "the type is read again"

    webhooks.faults.clear()
    assert pipeline.inbox.retry() == 1
    assert not drain(pipeline, webhooks).failures
    assert_equal_to_stripe(shop, folder.published)
    assert ask(folder.published, "SELECT count(*) FROM pipeline.inbox") == [(0,)]


def test_a_dead_notification_is_done_once_its_object_is_read_for_another_event(
    pipeline: Pipeline, webhooks: Server, shop: Shop, folder: DataFolder
) -> None:
    customer = shop.create_customer(name="old", created=days_ago(shop, 30))["id"]
    pipeline.sync()
    shop.update("customers", customer, name="new")
    webhooks.webhooks.settled()
    for _ in range(5):
        pipeline.inbox.failed([entry.notification for entry in pipeline.inbox.rows()], "no")
    assert len(pipeline.inbox.dead()) == 1
    shop.update("customers", customer, name="newer")
    drain(pipeline, webhooks)
    assert pipeline.inbox.rows() == []


@pytest.mark.both_modes
def test_webhooks_of_a_mode_without_a_key_do_not_wait_forever(
    make_pipeline: MakePipeline, webhooks: Server, shop: Shop
) -> None:
    pipeline = make_pipeline(TEST_KEY)
    pipeline.sync()
    shop.create_customer(livemode=True)
    drain(pipeline, webhooks)
    assert pipeline.inbox.rows() == []


@pytest.mark.both_modes
def test_webhooks_of_a_mode_that_is_loaded_wait_for_its_key(
    make_pipeline: MakePipeline, webhooks: Server, shop: Shop, folder: DataFolder
) -> None:
    both, one = make_pipeline(), make_pipeline(TEST_KEY)
    both.sync()
    shop.create_customer(livemode=True)
    drain(one, webhooks)
    assert not one.has_due_notifications()
    assert both.has_due_notifications()
    drain(both, webhooks)
    assert_equal_to_stripe(shop, folder.published)


@pytest.mark.both_modes
def test_a_key_that_stripe_does_not_know_leaves_the_inbox_unchanged(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    with Server(shop, keys=list(KEYS.values())) as strict:
        make_pipeline(url=strict.url).sync()
    pipeline = make_pipeline()
    shop.create_customer(name="new")
    with Server(shop, keys=["sk_test_another"]) as strict:
        refused = make_pipeline(url=strict.url)
        refused.inbox.add([notification for event in shop.events(False) for notification in notifications_of(event)])
        with pytest.raises(AuthenticationFailed):
            refused.drain(most=MOST)
    assert pipeline.inbox.has_due()
    pipeline.drain(most=MOST)
    pipeline.publish()
    assert_equal_to_stripe(shop, folder.published)
