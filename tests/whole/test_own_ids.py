"""Customers whose ids the shop has chosen are read, changed and deleted like any other."""

from __future__ import annotations

from datetime import date
from typing import Any

import duckdb
import pytest

from stripe_emulator import Server, Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY, day_of
from stripe_pipeline.inbox.inbox import Inbox
from stripe_pipeline.inbox.tables import MAX_ATTEMPTS
from stripe_pipeline.objects import CUSTOMERS, OBJECT_TYPES
from stripe_pipeline.proof.proving import once
from stripe_pipeline.proof.verdict import Verdict
from stripe_pipeline.sync.pipeline import Pipeline
from stripe_pipeline.views.references import dangling
from tests.conftest import MakePipeline
from tests.stripe_state import ask, assert_equal_to_stripe, days_ago
from tests.variants import varied
from tests.whole.test_traps import TEST_KEY, deliver

OWN_IDS = [
    *("user 42", "a/b", "/", "a//b", "a#b", "50%off", "%2F", "a?b", "a?b=c&d", "a\\b", "x+y@example.com", "é", "a'b"),
    *('a"b', "日本", "🦊", "...", "a..b", "-", "customers", "__proto__", "%", "x" * 300, "é" * 300, " a ", "a;b", "~"),
]


@pytest.fixture
def pipeline(make_pipeline: MakePipeline) -> Pipeline:
    """A pipeline of the test mode."""
    return make_pipeline(TEST_KEY)


def names(folder: DataFolder) -> dict[str, str]:
    """The names that analysts see, by customer."""
    return dict(ask(folder.published, "SELECT id, name FROM test.customers"))


def test_trap_35_customers_with_ids_of_the_shops_own_are_read_changed_and_deleted(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    for number, own in enumerate(OWN_IDS):
        shop.create_customer(id=own, name="before", created=days_ago(shop, 3 + number))
    pipeline.sync()
    assert names(folder) == dict.fromkeys(OWN_IDS, "before")

    for own in OWN_IDS:
        shop.update("customers", own, name="after")
    report = pipeline.sync()
    assert not report.failures
    assert report.applied == len(OWN_IDS)
    assert names(folder) == dict.fromkeys(OWN_IDS, "after")

    for own in OWN_IDS[::2]:
        shop.delete_customer(own)
    assert not pipeline.sync().failures
    assert names(folder) == dict.fromkeys(OWN_IDS[1::2], "after")
    assert ask(folder.published, "SELECT count(*) FROM pipeline.inbox") == [(0,)]
    assert_equal_to_stripe(shop, folder.published)


def test_webhooks_about_customers_with_ids_of_the_shops_own_are_applied(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    pipeline.sync()
    for own in OWN_IDS:
        shop.create_customer(id=own, name="before", created=days_ago(shop, 2), announce=False)
        shop.update("customers", own, name="after")
    deliver(folder, shop.events(False))
    assert not pipeline.drain(most=1000).failures
    pipeline.publish()
    assert names(folder) == dict.fromkeys(OWN_IDS, "after")


@pytest.mark.both_modes
@pytest.mark.parametrize("apart", varied([DAY, 0]))
def test_trap_41_the_same_id_in_both_modes_names_two_customers(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, apart: int
) -> None:
    """Created on the same day or on different days; changed, deleted, missing and listed again one by one."""
    times = {livemode: days_ago(shop, 5) + apart * livemode for livemode in (True, False)}
    for own in ("user 1", "user 2", "user 3"):
        for livemode in (True, False):
            shop.create_customer(id=own, name=f"{own} {livemode}", created=times[livemode], livemode=livemode)
    both = make_pipeline()
    assert not both.sync().failures
    assert_equal_to_stripe(shop, folder.published)
    assert ask(folder.published, "SELECT count(*) FROM raw.customers") == [(6,)]

    for changed in ((True,), (True, False)):
        for livemode in changed:
            shop.update("customers", "user 1", livemode=livemode, name=f"changed {changed} {livemode}")
            deliver(folder, shop.events(livemode))
        assert not both.drain(most=1000).failures
        both.publish()
        assert_equal_to_stripe(shop, folder.published)

    shop.delete_customer("user 2", livemode=False)
    assert not both.sync().failures
    assert_equal_to_stripe(shop, folder.published)

    shop.vanish("customers", "user 3", livemode=True)
    assert not both.backfill([day_of(created) for created in times.values()], ["customers"]).failures
    assert_equal_to_stripe(shop, folder.published)
    tombstones = "SELECT livemode, id FROM raw.customers WHERE _deleted_at IS NOT NULL ORDER BY id"
    assert ask(folder.published, tombstones) == [(False, "user 2"), (True, "user 3")]
    for livemode in (True, False):
        [whole] = once(both.warehouse.ask, CUSTOMERS, livemode=livemode)
        assert whole.verdict is Verdict.PROVED


@pytest.mark.both_modes
def test_trap_41_a_row_does_not_refer_to_a_customer_of_the_other_mode(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    for livemode in (True, False):
        shop.create_customer(id="user 1", created=days_ago(shop, 3), livemode=livemode)
        shop.create_payment("user 1", created=days_ago(shop, 2), livemode=livemode)
    both = make_pipeline()
    both.sync()
    both.sync()  # references are checked in rows that were read before a sync began
    with duckdb.connect(str(folder.private)) as connection:
        connection.execute("DELETE FROM raw.customers WHERE livemode")
    charges = OBJECT_TYPES["charges"]
    [customer] = [reference for reference in charges.references if reference.target == "customers"]
    [(checked, missing, _, ids, _)] = both.warehouse.ask(dangling(charges, customer, date(2020, 1, 1)))
    assert (checked, missing, ids) == (2, 1, ["user 1"])


@pytest.mark.both_modes
def test_trap_41_a_file_in_which_one_customer_replaced_the_other_is_completed(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    for livemode in (True, False):
        shop.create_customer(id="user 1", created=days_ago(shop, 9), livemode=livemode)
    make_pipeline().sync()
    with duckdb.connect(str(folder.private)) as connection:  # as format 4 left it
        connection.execute("DELETE FROM raw.customers WHERE NOT livemode")
        connection.execute("ALTER TABLE pipeline.gone DROP COLUMN livemode")
        connection.execute("UPDATE pipeline.meta SET format = 4")
    assert not make_pipeline().sync().failures
    assert_equal_to_stripe(shop, folder.published)


@pytest.mark.both_modes
def test_trap_41_erasing_a_customer_erases_the_id_in_both_modes(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    days = {livemode: days_ago(shop, 3 + livemode) for livemode in (True, False)}
    for livemode, day in days.items():
        shop.create_customer(id="user 1", created=day, livemode=livemode)
    both = make_pipeline()
    both.sync()
    both.warehouse.erase(["user 1"])
    both.sync()
    assert ask(folder.published, "SELECT count(*) FROM raw.customers") == [(0,)]
    assert both.warehouse.keep_out_no_longer("user 1") == sorted(day_of(day) for day in days.values())


def test_a_deletion_that_nothing_announced_is_found_by_a_list(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    created = days_ago(shop, 5)
    for own in OWN_IDS:
        shop.create_customer(id=own, created=created)
    pipeline.sync()
    for own in OWN_IDS[1:]:
        shop.vanish("customers", own)
    assert not pipeline.backfill([day_of(created)], ["customers"]).failures
    assert names(folder).keys() == {OWN_IDS[0]}
    assert_equal_to_stripe(shop, folder.published)


def test_pages_may_end_with_an_id_of_the_shops_own(pipeline: Pipeline, shop: Shop, folder: DataFolder) -> None:
    for number in range(250):
        shop.create_customer(id=f"a/b?c#d {number}%+é", created=days_ago(shop, 2) + number, announce=False)
    assert not pipeline.sync().failures
    assert_equal_to_stripe(shop, folder.published)


def test_objects_of_such_a_customer_refer_to_it(pipeline: Pipeline, shop: Shop, folder: DataFolder) -> None:
    shop.create_customer(id="a/b +é", created=days_ago(shop, 3))
    shop.create_payment("a/b +é", created=days_ago(shop, 2))
    shop.create_invoice("a/b +é", n_lines=12, created=days_ago(shop, 2))
    pipeline.sync()
    joined = "SELECT count(*) FROM test.customers c JOIN test.{} o ON o.customer = c.id"
    assert [ask(folder.published, joined.format(table)) for table in ("charges", "invoices")] == [[(1,)], [(1,)]]


@pytest.mark.parametrize("own", varied([".", ".."]))
def test_an_object_whose_id_a_url_cannot_carry_is_read_with_its_day(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder, own: str
) -> None:
    shop.create_customer(id=own, name="before", created=days_ago(shop, 3), announce=False)
    pipeline.sync()
    shop.update("customers", own, name="after")
    server.requests.clear()
    assert not pipeline.sync().failures
    assert names(folder) == {own: "after"}
    assert {request.path for request in server.requests} == {"/v1/events", "/v1/balance_transactions", "/v1/customers"}


@pytest.mark.parametrize("own", varied([".", ".."]))
def test_if_such_an_object_may_be_deleted_its_row_stays_and_the_attempts_are_counted(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder, own: str
) -> None:
    shop.create_customer(id=own, created=days_ago(shop, 3), announce=False)
    deleted = shop.create_customer(created=days_ago(shop, 3), announce=False)["id"]
    pipeline.sync()
    shop.delete_customer(own)
    shop.delete_customer(deleted)
    report = pipeline.sync()
    assert repr(own) in str(report.failures["customers"])
    assert names(folder).keys() == {own}
    for _ in range(MAX_ATTEMPTS):
        pipeline.sync()
    assert not pipeline.sync().failures
    assert set(ask(folder.published, "SELECT object_id, state FROM pipeline.inbox")) == {(own, "dead")}
    assert not [request for request in server.requests if request.status != 200]


def test_an_event_whose_object_has_no_valid_id_is_named_and_the_scan_goes_on(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    customer = shop.create_customer(name="before", created=days_ago(shop, 3))["id"]
    pipeline.sync()
    odd: dict[str, Any] = {"id": "a\nb", "object": "customer", "created": days_ago(shop, 1)}
    shop.emit_event("customer.updated", odd, livemode=False)
    shop.update("customers", customer, name="after")
    report = pipeline.sync()
    assert not report.failures
    assert [note for note in report.notes if "customer with an invalid id" in note]
    assert names(folder) == {customer: "after"}
    shop.clock.advance(DAY)
    inbox = Inbox(folder)
    assert inbox.rows() == []
    inbox.close()
