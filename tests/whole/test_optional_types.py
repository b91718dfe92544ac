"""Types that are off by default, from Stripe to the published file: before they are switched on, while they are on, and
after they are switched off again."""

from __future__ import annotations

from typing import Any

import pytest

from stripe_emulator import Server, Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY, day_of
from stripe_pipeline.inbox.notification import notifications_of
from stripe_pipeline.objects import ALL_TYPES, DEFAULT_TYPES, OBJECT_TYPES
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.sync.pipeline import Pipeline
from stripe_pipeline.views.catalog import COMBINED
from tests.conftest import MakePipeline
from tests.receiving import receiving
from tests.stripe_state import ask, assert_equal_to_stripe, changed, days_ago, everything, stored

ON: dict[str, Any] = {"payouts": {"enabled": True}}
MARK = "a-customer-to-erase"


def relations(folder: DataFolder) -> set[str]:
    """The qualified names of the tables and views of types."""
    listed = ask(folder.published, "SELECT table_schema || '.' || table_name FROM information_schema.tables")
    return {name for (name,) in listed if not name.startswith("pipeline.")}


def named(tables: set[str]) -> set[str]:
    """The qualified names of these types' tables and views, and of the views that combine types."""
    combined = [view(Settings()) for view in COMBINED]
    return {f"{schema}.{table}" for schema in ("raw", "live", "test") for table in tables} | {
        f"{schema}.{view.name}" for view in combined for schema in view.schemas
    }


def trade_in_payouts(shop: Shop, **moment: Any) -> None:
    """A payout of each outcome."""
    shop.payout(100, **moment)
    for end in (shop.complete_payout, shop.fail_payout, shop.cancel_payout):
        end(shop.payout(100, **moment)["source"])


def test_a_file_has_nothing_of_a_type_that_was_never_on(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    trade_in_payouts(shop, created=days_ago(shop, 3))
    pipeline.sync()
    trade_in_payouts(shop)
    assert pipeline.sync().applied == 0
    pipeline.backfill([day_of(days_ago(shop, 3))])
    assert relations(folder) == named(set(DEFAULT_TYPES))
    assert_equal_to_stripe(shop, folder.published)
    assert ask(folder.published, "SELECT * FROM pipeline.coverage WHERE object_type = 'payouts'") == []
    assert not any(request.path.startswith("/v1/payouts") for request in server.requests)
    server.requests.clear()
    pipeline.sync()
    assert sorted(request.path for request in server.requests) == ["/v1/balance_transactions", "/v1/events"]


@pytest.mark.both_modes
def test_the_first_sync_with_a_type_loads_its_whole_history_and_later_ones_follow_its_events(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    shop.seed_history(20)
    make_pipeline().sync()
    pipeline = make_pipeline(objects=ON)
    pipeline.sync()
    assert relations(folder) == named({*DEFAULT_TYPES, "payouts", "payout_balance_transactions"})
    assert_equal_to_stripe(shop, folder.published)
    [(oldest, statuses)] = ask(
        folder.published, "SELECT epoch(min(created)), list_sort(list(DISTINCT status)) FROM live.payouts"
    )
    assert oldest < days_ago(shop, 15)
    assert statuses == ["paid", "pending"]
    pipeline.sync()
    for livemode in (True, False):
        trade_in_payouts(shop, livemode=livemode)
    server.requests.clear()
    report = pipeline.sync()
    assert changed(report)["payouts"] == (8, 0, 0)
    assert changed(report)["balance_transactions"] == (12, 0, 0)
    assert_equal_to_stripe(shop, folder.published)
    [(old,)] = ask(folder.published, "SELECT arg_min(id, created) FROM test.payouts")
    shop.update("payouts", old, metadata={"seen": "yes"})
    assert changed(pipeline.sync()) == {"payouts": (0, 1, 0)}
    assert_equal_to_stripe(shop, folder.published)
    shop.clock.advance(40 * DAY)  # longer than Stripe keeps events
    shop.fail_payout(shop.payout(100)["source"])
    pipeline.sync()
    assert_equal_to_stripe(shop, folder.published)


def test_webhooks_are_applied_while_the_type_is_on(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    pipeline = make_pipeline(objects=ON)
    shop.payout(100, created=days_ago(shop, 20))
    pipeline.sync()
    with receiving(server, folder):
        trade_in_payouts(shop)
        server.webhooks.settled()
    report = pipeline.drain(most=100)
    pipeline.publish()
    assert changed(report)["payouts"] == (4, 0, 0)
    assert_equal_to_stripe(shop, folder.published)
    [pending, *_] = [key for key, obj in shop.objects("payouts", False).items() if obj["status"] == "pending"]
    shop.complete_payout(pending)
    pipeline.inbox.add([notification for event in shop.events(False)[:4] for notification in notifications_of(event)])
    assert changed(pipeline.drain(most=100)) == {"payouts": (0, 1, 0)}
    pipeline.publish()
    assert_equal_to_stripe(shop, folder.published)


def test_rows_stay_when_the_type_is_switched_off_and_are_read_again_when_on(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    trade_in_payouts(shop, created=days_ago(shop, 20))
    make_pipeline(objects=ON).sync()
    before = everything(folder.published)["payouts"]
    [pending] = [row["id"] for row in before if row["status"] == "pending"]
    server.requests.clear()
    off = make_pipeline()
    off.sync()
    shop.complete_payout(pending)
    shop.clock.advance(DAY)
    off.sync()
    assert not any(request.path.startswith("/v1/payouts") for request in server.requests)
    assert everything(folder.published)["payouts"] == before
    assert relations(folder) == named({*DEFAULT_TYPES, "payouts", "payout_balance_transactions"})
    make_pipeline(objects=ON).sync()
    assert ask(folder.published, f"SELECT status FROM test.payouts WHERE id = '{pending}'") == [("paid",)]
    assert_equal_to_stripe(shop, folder.published)


def test_rows_of_a_type_that_was_switched_off_are_erased_and_filtered_and_corrected_and_pruned(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    customer = shop.create_customer(created=days_ago(shop, 20))["id"]
    charge = shop.create_payment(customer, created=days_ago(shop, 20))["latest_charge"]
    transaction = shop.objects("charges", False)[charge]["balance_transaction"]
    payout = shop.payout(100, created=days_ago(shop, 20))["source"]
    other = shop.payout(100, created=days_ago(shop, 3))["source"]
    shop.update("payouts", payout, balance_transaction=transaction, metadata={"for": MARK}, description=MARK)
    shop.update("payouts", other, metadata={"for": "others"})
    make_pipeline(objects=ON).sync()
    off = make_pipeline()
    off.sync()
    metadata = "SELECT id, metadata->>'for', description FROM raw.payouts ORDER BY created"
    assert ask(folder.published, metadata) == [(payout, MARK, MARK), (other, "others", "STRIPE PAYOUT")]

    [erased] = off.warehouse.erase([customer]).values()
    assert erased.rows["payouts"] == 1
    assert ask(folder.published, metadata) == [(payout, None, None), (other, "others", "STRIPE PAYOUT")]

    filtered = make_pipeline(
        objects={"payouts": {"enabled": False, "fields": {"exclude": ["destination", "metadata.for"]}}}
    )
    filtered.sync()
    for relation in ("raw.payouts", "test.payouts"):
        assert "destination" not in [name for name, *_ in ask(folder.published, f"DESCRIBE {relation}")]
    assert ask(folder.published, metadata) == [(payout, None, None), (other, None, "STRIPE PAYOUT")]

    ahead = "UPDATE raw.payouts SET _fetched_at = _fetched_at + INTERVAL 9 DAY RETURNING 1"
    assert len(filtered.warehouse.ask(ahead)) == 2
    assert any("ahead of Stripe's clock" in note for note in filtered.sync().notes)
    [(latest,)] = ask(folder.published, "SELECT epoch(max(_fetched_at)) FROM raw.payouts")
    assert latest < shop.clock.now()

    short = make_pipeline(objects={"payouts": {"enabled": False, "retention": "10 days"}})
    assert short.warehouse.prune(dry_run=True)["payouts"].rows == 1
    assert short.prune()["payouts"].rows == 1
    assert ask(folder.published, "SELECT id FROM test.payouts") == [(other,)]


@pytest.mark.both_modes
def test_all_loads_every_type(make_pipeline: MakePipeline, shop: Shop, folder: DataFolder) -> None:
    shop.seed_history(10)
    pipeline = make_pipeline(objects="all")
    first = pipeline.sync()
    assert not first.failures
    assert not first.surprises.seen
    assert stored(folder.published) == list(ALL_TYPES.values())
    # Of generated types, the shop has only the payments of invoices.
    by_hand = {name for name, declared in OBJECT_TYPES.items() if not declared.generated}
    assert set(changed(first)) == {*by_hand, "invoice_payments"}
    assert_equal_to_stripe(shop, folder.published)
    pipeline.sync()
    singletons = {name for name, object_type in OBJECT_TYPES.items() if object_type.singleton}
    again = pipeline.backfill([day_of(days_ago(shop, n)) for n in range(12)])
    assert changed(again).keys() == singletons
    assert_equal_to_stripe(shop, folder.published)
