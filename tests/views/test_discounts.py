"""The view `discounts`, from the emulator to the published file."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from stripe_emulator import Shop
from stripe_pipeline.data_folder import DataFolder
from tests.conftest import MakePipeline
from tests.stripe_state import ask, days_ago, rows

ON: dict[str, Any] = {
    name: {"enabled": True} for name in ("coupons", "invoice_discounts", "promotion_codes", "subscriptions")
}


def test_each_discount_is_one_row_whoever_names_it(make_pipeline: MakePipeline, shop: Shop, folder: DataFolder) -> None:
    at = days_ago(shop, 8)
    customer = shop.create_customer(name="Ada", currency="usd", created=at)["id"]
    price = shop.create_price(amount=1000, created=at)["id"]
    coupon = shop.create_coupon(10.0, created=at)["id"]
    code = shop.create_promotion_code(coupon, created=at)
    own = shop.discount_customer(customer, coupon, promotion_code=code["id"], created=at)["id"]
    subscription = shop.create_subscription(customer, {price: 2}, coupon=coupon, created=at)["id"]
    [of_subscription] = shop.objects("subscriptions", False)[subscription]["discounts"]
    for _ in range(2):
        shop.finalize_invoice(shop.invoice_subscription(subscription, created=at)["id"], created=at)
    shop.invoice_subscription(subscription, created=at)  # a draft has reduced nothing yet
    pipeline = make_pipeline(objects=ON)
    pipeline.sync()

    def shown() -> dict[str, dict[str, Any]]:
        listed = rows(folder.published, "test.discounts")
        assert len({row["discount"] for row in listed}) == len(listed)
        return {row["discount"]: row for row in listed}

    both = shown()
    assert both.keys() == {own, of_subscription}
    for row in both.values():
        assert (row["customer"], row["customer_name"], row["coupon"]) == (customer, "Ada", coupon)
        assert (row["coupon_name"], row["percent_off"], row["end"]) == ("10 % off", 10.0, None)
        assert row["start"].timestamp() == at
    assert (both[own]["code"], both[own]["subscription"], both[own]["invoices"]) == (code["code"], None, 0)
    billed = both[of_subscription]
    assert (billed["subscription"], billed["code"], billed["invoices"]) == (subscription, None, 2)
    assert (billed["currency"], billed["amount"], billed["amount_decimal"]) == ("usd", 400, Decimal("4.000"))
    # Only the invoices still name the discount of the subscription once it ended.
    shop.end_discount(of_subscription)
    shop.end_discount(own)
    pipeline.sync()
    assert shown() == {of_subscription: billed}


def test_the_discounts_are_those_of_customers_unless_more_is_loaded(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    customer = shop.create_customer(created=days_ago(shop, 3))["id"]
    coupon = shop.create_coupon(created=days_ago(shop, 3))["id"]
    shop.create_subscription(customer, {}, coupon=coupon, created=days_ago(shop, 2))
    own = shop.discount_customer(customer, coupon)["id"]
    make_pipeline().sync()
    columns = "SELECT discount, customer, coupon, coupon_name, invoices FROM test.discounts"
    assert ask(folder.published, columns) == [(own, customer, coupon, None, 0)]
    make_pipeline(objects={"invoices": {"enabled": False}}).sync()
    assert ask(folder.published, columns) == [(own, customer, coupon, None, None)]
