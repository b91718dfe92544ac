"""Edge cases that often break pipelines; every history has each case once."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from stripe_emulator import templates
from stripe_emulator.clock import DAY
from stripe_emulator.shop.actions import Actions
from stripe_emulator.shop.demo_data import person

_HUGE = 2_750_000_000  # exceeds 32 bits, yet is a plausible price: 27.5 million rupiah are about 1,700 dollars


def _odd_metadata(shop: Actions, random: Random, livemode: bool, at: int) -> None:
    metadata = {"a b": "1", "a_b": "2", "A_B": "3", "emoji 🎉": "naïve 🦄 value", "long": "x" * 500}
    fields = person(random) | {"metadata": metadata, "currency": "usd"}
    shop.create_customer(livemode=livemode, created=at, **fields)


def _own_ids(shop: Actions, random: Random, livemode: bool, at: int) -> None:
    """Customers with ids chosen by the shop; one is changed and one deleted later."""
    ids = [f"{own} {'live' if livemode else 'test'}" for own in ("user", "shop/42?#", "50%+é")]
    for own in ids:
        shop.create_customer(id=own, name="Chosen Id", currency="usd", livemode=livemode, created=at)
    shop.create_payment(ids[0], livemode=livemode, created=at + 60, description="Order: Mug")
    shop.update_customer(ids[1], name="Changed Name", livemode=livemode, created=at + 3600)
    shop.delete_customer(ids[2], livemode=livemode, created=at + 7200)


def _huge_amount(shop: Actions, random: Random, livemode: bool, at: int) -> None:
    customer = shop.create_customer(livemode=livemode, created=at, **person(random) | {"currency": "idr"})
    year = {"start": at, "end": at + 365 * DAY}
    lines = [{"amount": _HUGE, "description": "Business plan, a year", "period": year}]
    invoice = shop.create_invoice(customer["id"], lines=lines, currency="idr", livemode=livemode, created=at)
    shop.pay_invoice(invoice["id"], settlement_currency="usd", livemode=livemode, created=at + 60)


def _equal_fees(shop: Actions, random: Random, livemode: bool, at: int) -> None:
    radar = templates.fee(5, "usd", description="Radar for Fraud Teams")
    tax = templates.fee(12, "usd", kind="tax", description="VAT")
    fees = [templates.fee(175, "usd"), radar, dict(radar), tax]
    shop.create_payment(amount=5000, fees=fees, livemode=livemode, created=at, description="Order: Desk lamp")


def _many_refunds(shop: Actions, random: Random, livemode: bool, at: int) -> None:
    intent = shop.create_payment(amount=13_000, livemode=livemode, created=at, description="Order: 13 mugs, all broken")
    for mug in range(13):
        metadata, moment = {"mug": str(mug)}, at + 60 * (mug + 1)
        shop.refund(intent["latest_charge"], 1000, livemode=livemode, created=moment, metadata=metadata)


def _many_lines(shop: Actions, random: Random, livemode: bool, at: int) -> None:
    invoice = shop.create_invoice(n_lines=40, livemode=livemode, created=at)
    shop.pay_invoice(invoice["id"], livemode=livemode, created=at + 60)


def _same_line_twice(shop: Actions, random: Random, livemode: bool, at: int) -> None:
    """Invoices that share line ids, as old invoices do."""
    customer = shop.create_customer(livemode=livemode, created=at, **person(random) | {"currency": "usd"})["id"]
    for month in range(2):
        lines = [{"id": f"sli_1{customer[-12:]}", "amount": 1900 + month}]
        invoice = shop.create_invoice(customer, lines=lines, livemode=livemode, created=at + month)
        shop.pay_invoice(invoice["id"], livemode=livemode, created=at + month)


def _won_and_lost_disputes(shop: Actions, random: Random, livemode: bool, at: int) -> None:
    """One won dispute and one lost dispute, whatever the random outcome of others."""
    for won in (True, False):
        intent = shop.create_payment(amount=8_900, livemode=livemode, created=at, description="Order: Mug")
        dispute = shop.dispute(intent["latest_charge"], livemode=livemode, created=at + 3600)
        shop.update_dispute(dispute["id"], livemode=livemode, created=at + 7200)
        shop.close_dispute(dispute["id"], won, livemode=livemode, created=at + 10_000)


def _test_clock(shop: Actions, random: Random, livemode: bool, at: int) -> None:
    if not livemode:
        fields = person(random) | {"test_clock": "clock_1DemoShop000000000000000"}
        shop.create_customer(livemode=False, created=at, **fields)


def _many_items(shop: Actions, random: Random, livemode: bool, at: int) -> None:
    """A subscription with 12 items, a coupon that is deleted later and one that stays, a credit note with 12 lines."""
    customer = shop.create_customer(livemode=livemode, created=at, **person(random) | {"currency": "usd"})["id"]
    coupon = shop.create_coupon(livemode=livemode, created=at)["id"]
    code = shop.create_promotion_code(coupon, livemode=livemode, created=at)["id"]
    prices = {shop.create_price(amount=900, livemode=livemode, created=at)["id"]: 1 for _ in range(12)}
    subscription = shop.create_subscription(
        customer, prices, coupon=coupon, promotion_code=code, livemode=livemode, created=at
    )["id"]
    shop.create_tax_rate(livemode=livemode, created=at)
    invoice = shop.invoice_subscription(subscription, reason="create", livemode=livemode, created=at)["id"]
    shop.pay_invoice(invoice, livemode=livemode, created=at + 60)
    shop.create_credit_note(invoice, 1200, n_lines=12, livemode=livemode, created=at + 120)
    shop.create_credit_note(invoice, 600, to_balance=True, livemode=livemode, created=at + 180)
    shop.delete_coupon(coupon, livemode=livemode, created=at + 240)
    shop.create_promotion_code(livemode=livemode, created=at + 300)


def _many_goods(shop: Actions, random: Random, livemode: bool, at: int) -> None:
    """A checkout session with 12 items."""
    session = shop.create_checkout_session(n_lines=12, livemode=livemode, created=at)["id"]
    shop.complete_checkout_session(session, livemode=livemode, created=at + 60)


def _detached_card(shop: Actions, random: Random, livemode: bool, at: int) -> None:
    customer = shop.create_customer(livemode=livemode, created=at, **person(random))["id"]
    cards = [shop.attach_payment_method(customer, livemode=livemode, created=at)["id"] for _ in range(2)]
    shop.detach_payment_method(cards[0], livemode=livemode, created=at + 60)


def _destination_charge(shop: Actions, random: Random, livemode: bool, at: int) -> None:
    """Money for a connected account, of which a part comes back with the refund, and another part later."""
    intent = shop.create_payment(
        amount=9000, destination="acct_1Supplier", application_fee=900, livemode=livemode, created=at
    )
    shop.refund(
        intent["latest_charge"],
        3000,
        reverse_transfer=True,
        refund_application_fee=True,
        livemode=livemode,
        created=at + 60,
    )
    transfer = shop.collection("charges", livemode).objects[intent["latest_charge"]]["transfer"]
    shop.reverse_transfer(transfer, 1000, livemode=livemode, created=at + 120)


ODD_CASES: tuple[Callable[[Actions, Random, bool, int], None], ...] = (
    _odd_metadata,
    _own_ids,
    _huge_amount,
    _equal_fees,
    _many_refunds,
    _many_lines,
    _same_line_twice,
    _won_and_lost_disputes,
    _test_clock,
    _many_items,
    _many_goods,
    _detached_card,
    _destination_charge,
)
"""Each case takes a mode and the second of its start."""
