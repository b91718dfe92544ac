"""Event types: each that Stripe has is followed, or changes no row; events whose object is a part of a row, from Stripe
to the published file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_args

import pytest
import stripe

from stripe_emulator import Server, Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.objects.routes import ROUTES
from tests.conftest import MakePipeline
from tests.receiving import receiving
from tests.stripe_state import ask, assert_equal_to_stripe, changed, days_ago, rows

READ_DAILY = "the account and the balance are read once a day, each reading a row"
ABOUT_OTHERS = "no table has such objects: Stripe does not list them"
OF_SOURCE = "a source's own state is in no row; customer.source.* tells which sources a customer has"
NOT_FOLLOWED: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("account.external_account.created", "account.external_account.deleted", "account.updated"),
            *("account.external_account.updated", "balance.available", "capability.updated"),
            *("person.created", "person.deleted", "person.updated"),
        ),
        READ_DAILY,
    ),
    **dict.fromkeys(
        (
            *("account.application.authorized", "account.application.deauthorized"),
            *("apps.install.created", "apps.install.deleted", "apps.install.updated"),
            *("balance_settings.updated", "billing_portal.session.created", "mandate.updated", "tax.settings.updated"),
            "financial_connections.authorization.expected_deactivation_date_updated",
            "financial_connections.authorization.upcoming_deactivation",
            *("reserve.hold.created", "reserve.hold.updated", "reserve.plan.created", "reserve.plan.disabled"),
            *("reserve.plan.expired", "reserve.plan.updated", "reserve.release.created"),
            *(
                f"three_d_secure.authentication.{change}"
                for change in ("canceled", "challenge_started", "errored", "failed", "succeeded")
            ),
            "three_d_secure.authentication.requires_challenge",
            "three_d_secure.authentication.requires_submission",
        ),
        ABOUT_OTHERS,
    ),
    **dict.fromkeys(
        (
            *("source.canceled", "source.chargeable", "source.failed", "source.mandate_notification"),
            *("source.refund_attributes_required", "source.transaction.created", "source.transaction.updated"),
        ),
        OF_SOURCE,
    ),
    "billing.alert.triggered": "an alert does not change when it is triggered",
    "cash_balance.funds_available": "Stripe sends a customer's cash_balance on request only",
    "customer.source.expiring": "announces a date that the source has already",
    "invoice.upcoming": "its invoice does not exist yet and has no id",
}
"""The event types that change no row, with the reasons."""


def event_types() -> frozenset[str]:
    """All event types of the pinned API version."""
    [listed] = get_args(stripe.params.WebhookEndpointCreateParams.__annotations__["enabled_events"])
    return frozenset(get_args(listed)) - {"*"}


def test_each_event_type_is_followed_or_changes_no_row() -> None:
    followed = {event for object_type in OBJECT_TYPES.values() for event in object_type.event_types}
    assert followed.isdisjoint(NOT_FOLLOWED)
    assert sorted(event_types() - followed - NOT_FOLLOWED.keys()) == []
    assert sorted((followed | NOT_FOLLOWED.keys()) - event_types()) == []


def test_each_type_with_events_has_a_route_from_the_objects_that_these_carry() -> None:
    for name, object_type in OBJECT_TYPES.items():
        carried = {of.object for of in object_type.announcements} | (
            {object_type.object} if object_type.events else set()
        )
        for stripe_object in carried:
            assert name in [route.table for route in ROUTES[stripe_object]], (name, stripe_object)


BILLING: dict[str, Any] = {name: {"enabled": True} for name in ("coupons", "promotion_codes", "subscriptions")}


@pytest.mark.parametrize("how", ["scan", "webhooks"])
@pytest.mark.both_modes
def test_discounts_change_the_rows_of_whatever_they_name(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder, how: str
) -> None:
    """No other event comes with those of the discounts."""
    pipeline = make_pipeline(objects=BILLING)
    live: dict[str, Any] = {"livemode": True, "created": days_ago(shop, 4)}
    customer = shop.create_customer(**live)["id"]
    coupon, other = (shop.create_coupon(**live)["id"] for _ in range(2))
    code = shop.create_promotion_code(coupon, **live)["id"]
    subscription = shop.create_subscription(customer, {}, coupon=coupon, **live)["id"]
    pipeline.sync()

    def followed(action: Callable[[], Any]) -> tuple[Any, dict[str, tuple[int, int, int]]]:
        """The result of an action, and the rows that its events changed."""
        if how == "scan":
            return action(), changed(pipeline.sync())
        with receiving(server, folder):
            result = action()
            server.webhooks.settled()
        report = pipeline.drain(most=100)
        pipeline.publish()
        return result, changed(report)

    first, rows_changed = followed(lambda: shop.discount_customer(customer, coupon, promotion_code=code, livemode=True))
    assert rows_changed == dict.fromkeys(("coupons", "customers", "promotion_codes"), (0, 1, 0))
    replaced, rows_changed = followed(lambda: shop.discount_customer(customer, other, livemode=True))
    assert rows_changed == dict.fromkeys(("coupons", "customers"), (0, 1, 0))
    assert_equal_to_stripe(shop, folder.published)
    shown = "SELECT discount->>'id' FROM live.customers"
    assert ask(folder.published, shown) == [(replaced["id"],)] != [(first["id"],)]
    added, rows_changed = followed(lambda: shop.discount_subscription(subscription, other, livemode=True))
    assert rows_changed == {
        "coupons": (0, 1, 0),
        "subscription_discounts": (1, 0, 0),
        "subscriptions": (0, 1, 0),
    }
    assert_equal_to_stripe(shop, folder.published)
    for discount, table in ((replaced, "customers"), (added, "subscriptions")):
        _, rows_changed = followed(partial(shop.end_discount, discount["id"], livemode=True))
        assert rows_changed[table] == (0, 1, 0)
        assert_equal_to_stripe(shop, folder.published)
    assert ask(folder.published, shown) == [(None,)]
    assert len(rows(folder.published, "live.subscription_discounts")) == 1


def test_events_of_parts_change_the_rows_of_their_objects(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    """Each change has one event, which carries something else than the object that changed."""
    on = ("balance", "prices", "tax_ids", "entitlements_active_entitlements")
    pipeline = make_pipeline(objects={name: {"enabled": True} for name in on})
    customer = shop.create_customer(created=days_ago(shop, 3))["id"]
    price = shop.create_price(created=days_ago(shop, 3))["id"]
    tax_id = {"object": "tax_id", "id": "txi_1", "created": days_ago(shop, 3), "livemode": False, "customer": customer}
    shop.put(tax_id | {"type": "eu_vat", "value": "DE1"}, type_name="tax_ids")
    entitlement = {"object": "entitlements.active_entitlement", "id": "ent_1", "livemode": False, "customer": customer}
    pipeline.sync()

    card = {"object": "card", "id": "card_1", "customer": customer}
    summary = {"object": "entitlements.active_entitlement_summary", "customer": customer}
    shop.update("customers", customer, announce=False, default_source="card_1")
    shop.emit_event("customer.source.created", card, livemode=False)
    assert changed(pipeline.sync()) == {"customers": (0, 1, 0)}
    shop.update("prices", price, announce=False, nickname="Basic")
    shop.emit_event("plan.updated", {"object": "plan", "id": price}, livemode=False)
    assert changed(pipeline.sync()) == {"prices": (0, 1, 0)}
    shop.put(tax_id | {"type": "eu_vat", "value": "DE2"}, type_name="tax_ids")
    shop.emit_event("customer.tax_id.updated", tax_id, livemode=False)
    assert changed(pipeline.sync()) == {"tax_ids": (0, 1, 0)}
    shop.put(entitlement | {"feature": "feat_1", "lookup_key": "a"}, type_name="entitlements_active_entitlements")
    shop.emit_event("entitlements.active_entitlement_summary.updated", summary, livemode=False)
    assert changed(pipeline.sync()) == {"entitlements_active_entitlements": (1, 0, 0)}
    invoice = shop.create_invoice(customer)["id"]
    shop.pay_invoice(invoice)
    pipeline.sync()
    [payment] = shop.payments(invoice, False)
    shop.update("invoice_payments", payment["id"], announce=False, amount_paid=1)
    shop.emit_event("invoice_payment.paid", payment, livemode=False)
    assert changed(pipeline.sync()) == {"invoices": (0, 1, 0)}
    assert_equal_to_stripe(shop, folder.published)


def test_a_dispute_and_a_refund_that_fails_change_the_row_of_their_charge(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    pipeline = make_pipeline()
    charges = [shop.create_payment(created=days_ago(shop, 3))["latest_charge"] for _ in range(2)]
    refund = shop.refund(charges[1], 100)["id"]
    pipeline.sync()
    for change in (partial(shop.dispute, charges[0]), partial(shop.fail_refund, refund)):
        change()
        assert changed(pipeline.sync())["charges"] == (0, 1, 0)
    shown = f"SELECT disputed, amount_refunded FROM test.charges WHERE id IN {tuple(charges)} ORDER BY disputed"
    assert ask(folder.published, shown) == [(False, 0), (True, 0)]
    assert_equal_to_stripe(shop, folder.published)


def test_the_balance_that_an_event_carries_is_no_object_to_read_again(make_pipeline: MakePipeline, shop: Shop) -> None:
    pipeline = make_pipeline(objects={"balance": {"enabled": True}})
    pipeline.sync()
    shop.emit_event("balance.available", {"object": "balance", "livemode": False, "available": []}, livemode=False)
    report = pipeline.sync()
    assert (report.applied, list(report.notes)) == (0, [])
