"""How the types that are off by default differ from the others, each difference from Stripe to the published file."""

from __future__ import annotations

from typing import Any

import pytest

from stripe_emulator import Server, Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY, day_of
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.sync.pipeline import Pipeline
from stripe_pipeline.sync.plan import SYNCS_A_DAY
from tests.conftest import MakePipeline
from tests.stripe_state import ask, assert_equal_to_stripe, changed, days_ago, rows


def on(*names: str) -> dict[str, Any]:
    """The settings that switch these types on."""
    return {name: {"enabled": True} for name in names}


def paths(server: Server) -> list[str]:
    """The paths of the requests since the last call, in alphabetical order."""
    requested = sorted(request.path for request in server.requests)
    server.requests.clear()
    return requested


def test_what_a_payout_pays_out_is_listed_once_the_payout_is_reconciled(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    for _ in range(3):
        shop.create_payment(created=days_ago(shop, 9))
    automatic = shop.payout(created=days_ago(shop, 2))["source"]
    by_hand = shop.payout(100, created=days_ago(shop, 1))["source"]
    pipeline = make_pipeline(objects=on("payouts"))
    pipeline.sync()
    assert rows(folder.published, "test.payout_balance_transactions") == []
    assert not any("payout" in request.params for request in server.requests)
    shop.complete_payout(by_hand)
    shop.complete_payout(automatic)
    report = pipeline.sync()
    assert changed(report)["payout_balance_transactions"] == (4, 0, 0)  # three payments and the payout's own
    [(paid_out, amount)] = ask(
        folder.published,
        "SELECT sum(t.net), any_value(p.amount) FROM test.payout_balance_transactions l"
        " JOIN test.balance_transactions t ON t.id = l.balance_transaction JOIN test.payouts p ON p.id = l.payout"
        " WHERE t.id <> p.balance_transaction",
    )
    assert paid_out == amount > 0
    assert_equal_to_stripe(shop, folder.published)


def test_all_items_of_a_subscription_are_stored_and_canceled_subscriptions_stay(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    customer = shop.create_customer(created=days_ago(shop, 20))["id"]
    old = shop.create_subscription(customer, created=days_ago(shop, 15))["id"]
    shop.cancel_subscription(old, created=days_ago(shop, 14))
    large = shop.create_subscription(customer, created=days_ago(shop, 10))["id"]
    for _ in range(12):
        shop.add_subscription_item(large, created=days_ago(shop, 9))
    pipeline = make_pipeline(objects=on("subscriptions"))
    pipeline.sync()
    of_large = f"SELECT count(*), count(current_period_end) FROM test.subscription_items WHERE subscription = '{large}'"
    assert ask(folder.published, of_large) == [(13, 13)]
    assert ask(folder.published, f"SELECT status FROM test.subscriptions WHERE id = '{old}'") == [("canceled",)]
    [item, *_] = [key for key, obj in shop.objects("subscription_items", False).items() if obj["subscription"] == large]
    shop.remove_subscription_item(item)
    shop.cancel_subscription(large)
    assert changed(pipeline.sync())["subscription_items"] == (0, 0, 1)
    assert_equal_to_stripe(shop, folder.published)
    # An item is dated by itself, not by the subscription.
    dates = "SELECT DISTINCT created::DATE FROM test.subscription_items WHERE subscription = '{}' ORDER BY 1"
    assert [day for (day,) in ask(folder.published, dates.format(large))] == [
        day_of(days_ago(shop, days)) for days in (10, 9)
    ]


def test_inactive_prices_are_listed_and_prices_made_for_one_use_stay_without_requests(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    price = shop.create_price(created=days_ago(shop, 5))["id"]
    shop.update("prices", price, active=False, announce=False)
    pipeline = make_pipeline(objects=on("prices"))
    pipeline.sync()
    inline = shop.create_price(inline=True)["id"]
    pipeline.sync()
    shop.clock.advance(2 * DAY)
    paths(server)
    pipeline.sync()
    assert not any(inline in path for path in paths(server))
    assert {row["id"]: row["active"] for row in rows(folder.published, "test.prices")} == {price: False, inline: False}
    assert_equal_to_stripe(shop, folder.published)


def with_prices_made_for_one_use(make_pipeline: MakePipeline, shop: Shop) -> tuple[Pipeline, list[str]]:
    """A pipeline that has stored three prices made for one use, and their ids."""
    pipeline = make_pipeline(objects=on("prices"))
    pipeline.sync()
    prices = [shop.create_price(inline=True)["id"] for _ in range(3)]
    pipeline.sync()
    return pipeline, prices


def test_events_of_prices_made_for_one_use_are_applied_while_their_day_is_listed(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    pipeline, prices = with_prices_made_for_one_use(make_pipeline, shop)
    for price in prices:
        shop.update("prices", price, active=True)
    shop.clock.advance(DAY)
    report = pipeline.sync()
    assert day_of(shop.clock.now() - DAY) in report.listed["prices"]
    assert all(row["active"] for row in rows(folder.published, "test.prices"))
    assert_equal_to_stripe(shop, folder.published)


def test_events_of_many_old_prices_made_for_one_use_are_applied(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    pipeline, prices = with_prices_made_for_one_use(make_pipeline, shop)
    shop.clock.advance(5 * DAY)
    pipeline.sync()
    for price in prices:
        shop.update("prices", price, active=True)
    pipeline.sync()
    assert_equal_to_stripe(shop, folder.published)


def test_deleted_products_and_coupons_leave_the_views(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    product, other = (shop.create_product(created=days_ago(shop, 5))["id"] for _ in range(2))
    coupon = shop.create_coupon(created=days_ago(shop, 5))["id"]
    pipeline = make_pipeline(objects=on("products", "coupons"))
    pipeline.sync()
    shop.delete_product(product)
    shop.vanish("coupons", coupon)
    pipeline.sync()
    pipeline.backfill([day_of(days_ago(shop, 5))])
    assert [row["id"] for row in rows(folder.published, "test.products")] == [other]
    assert rows(folder.published, "test.coupons") == []
    assert len(rows(folder.published, "raw.coupons")) == 1
    assert_equal_to_stripe(shop, folder.published)


def test_discounts_are_stored_beside_the_objects_that_name_these(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    customer = shop.create_customer(created=days_ago(shop, 8))["id"]
    coupon = shop.create_coupon(10.0, created=days_ago(shop, 8))["id"]
    subscription = shop.create_subscription(customer, coupon=coupon, created=days_ago(shop, 7))["id"]
    for _ in range(12):
        shop.add_subscription_item(subscription, created=days_ago(shop, 7))
    invoice = shop.invoice_subscription(subscription, created=days_ago(shop, 6))
    [discount] = invoice["discounts"]
    last = shop.lines(invoice["id"], False)[-1]["id"]
    shop.update_invoice_line(invoice["id"], last, discounts=[discount])
    make_pipeline(objects=on("subscriptions", "invoice_discounts")).sync()
    for table, owner in (("invoice", invoice["id"]), ("subscription", subscription)):
        [row] = rows(folder.published, f"test.{table}_discounts")
        assert (row[table], row["id"], row["coupon"]) == (owner, discount, coupon)
    [(named, lines)] = ask(
        folder.published, "SELECT discounts::VARCHAR, lines->'$.data[*].discounts' FROM test.invoices"
    )
    assert named == f'["{discount}"]'
    assert "{" not in str(lines)
    assert_equal_to_stripe(shop, folder.published)


def test_customer_balance_transactions_follow_their_customer_and_no_sweep_reads_these(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    customers = [shop.create_customer(created=days_ago(shop, 5))["id"] for _ in range(3)]
    pipeline = make_pipeline(objects=on("customer_balance_transactions"))
    pipeline.sync()
    shop.adjust_customer_balance(customers[0], -500)
    shop.adjust_customer_balance(customers[0], 200)
    assert changed(pipeline.sync())["customer_balance_transactions"] == (2, 0, 0)
    assert_equal_to_stripe(shop, folder.published)
    [latest] = [row for row in rows(folder.published, "test.customer_balance_transactions") if row["amount"] == 200]
    assert (latest["ending_balance"], latest["default_day"]) == (-300, day_of(days_ago(shop, 0)))
    pipeline.sync()
    shop.clock.advance(3 * DAY)
    paths(server)
    pipeline.sync()
    requested = paths(server)
    assert "/v1/customers" in requested
    assert not any(path.endswith("/balance_transactions") and "customers" in path for path in requested)
    shop.adjust_customer_balance(customers[1], 7, announce=False)
    shop.clock.advance(3 * DAY)
    assert changed(pipeline.sync())["customer_balance_transactions"] == (1, 0, 0)
    shop.delete_customer(customers[0])
    assert changed(pipeline.sync())["customer_balance_transactions"] == (0, 0, 2)
    assert_equal_to_stripe(shop, folder.published)


def test_a_checkout_session_has_all_its_items_and_no_secret(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    pipeline = make_pipeline(objects=on("checkout_sessions"))
    pipeline.sync()
    session = shop.create_checkout_session(n_lines=12, embedded=True)  # without an event
    assert session["client_secret"]
    pipeline.sync()
    assert rows(folder.published, "test.checkout_sessions") == []
    shop.clock.advance(DAY)
    pipeline.sync()
    [row] = rows(folder.published, "test.checkout_sessions")
    assert (row["status"], row["line_items"]) == ("open", None)
    assert "client_secret" not in row
    assert len(rows(folder.published, "test.checkout_session_lines")) == 12
    shop.complete_checkout_session(session["id"])
    pipeline.sync()
    assert ask(folder.published, "SELECT status FROM test.checkout_sessions") == [("complete",)]
    assert_equal_to_stripe(shop, folder.published)


def test_detached_payment_methods_stay(make_pipeline: MakePipeline, shop: Shop, folder: DataFolder) -> None:
    customer = shop.create_customer(created=days_ago(shop, 5))["id"]
    announced, silent, attached = (
        shop.attach_payment_method(customer, created=days_ago(shop, 4))["id"] for _ in range(3)
    )
    pipeline = make_pipeline(objects=on("payment_methods"))
    pipeline.sync()
    shop.detach_payment_method(announced)
    shop.detach_payment_method(silent, announce=False)
    pipeline.sync()
    shop.clock.advance(DAY)
    pipeline.sync()
    stored = {row["id"]: row["customer"] for row in rows(folder.published, "test.payment_methods")}
    assert stored == {announced: None, silent: None, attached: customer}
    assert_equal_to_stripe(shop, folder.published)


def test_reversals_and_refunds_of_fees_come_with_their_events(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    options: Any = {"destination": "acct_1Supplier", "application_fee": 300}
    charge = shop.create_payment(amount=9000, created=days_ago(shop, 5), **options)["latest_charge"]
    pipeline = make_pipeline(objects=on("transfers", "application_fees"))
    pipeline.sync()
    for _ in range(11):
        shop.refund(charge, 100, reverse_transfer=True, refund_application_fee=True)
    made = changed(pipeline.sync())
    assert (made["transfer_reversals"], made["application_fee_refunds"]) == ((11, 0, 0), (11, 0, 0))
    [refund, *_] = shop.objects("application_fee_refunds", False)
    shop.update("application_fee_refunds", refund, metadata={"why": "complaint"})
    assert changed(pipeline.sync())["application_fee_refunds"] == (0, 1, 0)
    assert_equal_to_stripe(shop, folder.published)


def test_events_outlive_stripes_30_days_and_keep_their_payload_only_where_the_settings_name_it(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    customer = shop.create_customer(email="ada@example.com")["id"]
    pipeline = make_pipeline(objects=on("events"))
    pipeline.sync()
    shop.update_customer(customer, name="Ada")
    pipeline.sync()
    seen = "SELECT type, object_id, object_type FROM test.events ORDER BY created, type"
    expected = [("customer.created", customer, "customer"), ("customer.updated", customer, "customer")]
    assert ask(folder.published, seen) == expected
    vanished = shop.events(False)[0]["id"]
    shop.vanish("events", vanished)
    pipeline.backfill([day_of(days_ago(shop, 0))])
    assert ask(folder.published, seen) == expected
    assert "data" not in rows(folder.published, "test.events")[0]
    for _ in range(3):
        shop.clock.advance(14 * DAY)
        pipeline.sync()
    pipeline.backfill([day_of(days_ago(shop, n)) for n in range(60)])
    assert shop.events(False) == []
    assert ask(folder.published, seen) == expected
    named = {"events": {"enabled": True, "fields": {"include": [*OBJECT_TYPES["events"].column_names]}}}
    keeping = make_pipeline(objects=named)
    shop.update_customer(customer, name="Grace")
    keeping.sync()
    payloads = "SELECT data->>'$.object.name' FROM test.events WHERE data IS NOT NULL"
    assert ask(folder.published, payloads) == [("Grace",)]
    keeping.warehouse.erase([customer])
    assert ask(folder.published, payloads) == []


@pytest.mark.both_modes
def test_the_balance_and_the_account_are_read_once_a_day(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    shop.create_payment(amount=5000, livemode=True)
    pipeline = make_pipeline(objects=on("balance", "account"))
    pipeline.sync()
    pipeline.sync()
    shop.clock.advance(DAY + 60)
    pipeline.sync()
    assert ask(folder.published, "SELECT id, count(DISTINCT created) FROM live.balance GROUP BY id") == [("balance", 2)]
    assert ask(folder.published, "SELECT id, count(*) FROM live.account GROUP BY id") == [(shop.account, 2)]
    [(pending,)] = ask(folder.published, "SELECT arg_max((pending->>'$[0].amount')::BIGINT, created) FROM live.balance")
    assert pending == sum(obj["net"] for obj in shop.objects("balance_transactions", True).values())


def test_an_idle_sync_with_every_type_spends_two_requests_and_a_month_stays_within_the_allocation(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    shop.seed_history(3)
    pipeline = make_pipeline(objects="all")
    pipeline.sync()
    shop.clock.advance(2 * DAY)
    pipeline.sync()
    pipeline.sync()
    paths(server)
    pipeline.sync()
    assert paths(server) == ["/v1/balance_transactions", "/v1/events"]
    spent = 0
    for _ in range(2):
        shop.clock.advance(DAY)
        pipeline.sync()
        spent = len(paths(server)) - 2
    assert 30 * (2 * SYNCS_A_DAY + spent) <= 10_000


def test_events_of_children_that_are_off_cost_no_request(
    make_pipeline: MakePipeline, server: Server, shop: Shop
) -> None:
    customer = shop.create_customer(created=days_ago(shop, 3))["id"]
    tax_id = {"id": "txi_1", "object": "tax_id", "customer": customer, "created": days_ago(shop, 1)}
    by_name = make_pipeline(objects=on("customer_tax_ids"))
    without = make_pipeline()
    for pipeline, read in ((without, []), (by_name, [f"/v1/customers/{customer}"])):
        pipeline.sync()
        paths(server)
        shop.emit_event("customer.tax_id.created", tax_id, livemode=False)
        pipeline.sync()
        assert [path for path in paths(server) if path.startswith("/v1/customers/")][:1] == read
