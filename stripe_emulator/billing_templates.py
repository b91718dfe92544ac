"""Templates of what a shop sells and bills: the catalog, subscriptions, discounts, credit notes, customers' balances.

`templates` has those of invoices and the rules of all templates.
"""

from __future__ import annotations

from typing import Any

from stripe_emulator.store import Json
from stripe_emulator.templates import fields_of

MONTH = 30 * 86400
"""The period of the shop's subscriptions, in seconds."""


def product(object_id: str, created: int, livemode: bool, name: str) -> Json:
    """A product without prices."""
    return fields_of(
        "products",
        id=object_id,
        active=True,
        attributes=[],
        created=created,
        images=[],
        livemode=livemode,
        marketing_features=[],
        metadata={},
        name=name,
        type="service",
        updated=created,
    )


def price(
    object_id: str, created: int, livemode: bool, product_id: str, amount: int, currency: str, *, monthly: bool
) -> Json:
    """A price per unit, once or every month."""
    recurring = {
        "interval": "month",
        "interval_count": 1,
        "meter": None,
        "trial_period_days": None,
        "usage_type": "licensed",
    }
    return fields_of(
        "prices",
        without=("currency_options", "tiers"),
        id=object_id,
        active=True,
        billing_scheme="per_unit",
        created=created,
        currency=currency,
        livemode=livemode,
        metadata={},
        product=product_id,
        recurring=recurring if monthly else None,
        tax_behavior="unspecified",
        type="recurring" if monthly else "one_time",
        unit_amount=amount,
        unit_amount_decimal=str(amount),
    )


def coupon(object_id: str, created: int, livemode: bool, percent_off: float) -> Json:
    """A coupon that takes a share of all future invoices off."""
    return fields_of(
        "coupons",
        without=("applies_to", "currency_options"),
        id=object_id,
        created=created,
        duration="forever",
        livemode=livemode,
        metadata={},
        name=f"{percent_off:g} % off",
        percent_off=percent_off,
        times_redeemed=0,
        valid=True,
    )


def promotion_code(object_id: str, created: int, livemode: bool, coupon_id: str, code: str) -> Json:
    """An active code for a coupon."""
    return fields_of(
        "promotion_codes",
        id=object_id,
        active=True,
        code=code,
        created=created,
        livemode=livemode,
        metadata={},
        promotion={"coupon": coupon_id, "type": "coupon"},
        restrictions={"first_time_transaction": False, "minimum_amount": None, "minimum_amount_currency": None},
        times_redeemed=0,
    )


def tax_rate(object_id: str, created: int, livemode: bool, percentage: float, name: str) -> Json:
    """An active rate of tax that is added to prices."""
    return fields_of(
        "tax_rates",
        id=object_id,
        active=True,
        created=created,
        display_name=name,
        effective_percentage=None,
        inclusive=False,
        livemode=livemode,
        metadata={},
        percentage=percentage,
        tax_type="vat",
    )


def subscription(
    object_id: str, created: int, livemode: bool, customer: str, currency: str, trial_end: int | None
) -> Json:
    """A subscription without items, active or in its trial."""
    return fields_of(
        "subscriptions",
        without=("managed_payments", "presentment_details"),
        id=object_id,
        application=None,
        automatic_tax={"disabled_reason": None, "enabled": False, "liability": None},
        billing_cycle_anchor=trial_end or created,
        billing_schedules=[],
        billing_mode={"flexible": {"proration_discounts": "included"}, "type": "flexible", "updated_at": created},
        cancel_at_period_end=False,
        cancellation_details={"comment": None, "feedback": None, "reason": None},
        collection_method="charge_automatically",
        created=created,
        currency=currency,
        customer=customer,
        default_tax_rates=[],
        discounts=[],
        invoice_settings={"account_tax_ids": None, "issuer": {"type": "self"}},
        livemode=livemode,
        metadata={},
        payment_settings={
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": "off",
        },
        start_date=created,
        status="trialing" if trial_end else "active",
        trial_end=trial_end,
        trial_settings={"end_behavior": {"missing_payment_method": "create_invoice"}},
        trial_start=created if trial_end else None,
    )


def subscription_item(object_id: str, created: int, subscription_id: str, of_price: Json, quantity: int) -> Json:
    """An item of a subscription in its first period."""
    return fields_of(
        "subscription_items",
        without=("billed_until",),
        id=object_id,
        created=created,
        current_period_end=created + MONTH,
        current_period_start=created,
        discounts=[],
        metadata={},
        price=of_price,
        quantity=quantity,
        subscription=subscription_id,
        tax_rates=[],
    )


def discount(object_id: str, start: int, customer: str, coupon_id: str, **named: str | None) -> Json:
    """A discount by a coupon; `named` are the objects that the discount reduces, and the promotion code."""
    fields: Json = {
        "id": object_id,
        "object": "discount",
        "checkout_session": None,
        "customer": customer,
        "customer_account": None,
        "end": None,
        "invoice": None,
        "invoice_item": None,
        "promotion_code": None,
        "source": {"coupon": coupon_id, "type": "coupon"},
        "start": start,
        "subscription": None,
        "subscription_item": None,
    }
    return fields | named


def credit_note(
    object_id: str, created: int, invoice: Json, number: str, amount: int, *, post_payment: bool, **fields: Any
) -> Json:
    """A credit note of an invoice, without its lines."""
    return (
        fields_of(
            "credit_notes",
            id=object_id,
            amount=amount,
            amount_shipping=0,
            created=created,
            currency=invoice["currency"],
            customer=invoice["customer"],
            discount_amount=0,
            discount_amounts=[],
            effective_at=created,
            invoice=invoice["id"],
            livemode=invoice["livemode"],
            metadata={},
            number=number,
            out_of_band_amount=None,
            pdf=f"https://pay.stripe.com/credit_notes/{object_id}/pdf",
            post_payment_amount=amount if post_payment else 0,
            pre_payment_amount=0 if post_payment else amount,
            pretax_credit_amounts=[],
            reason="order_change",
            refunds=[],
            status="issued",
            subtotal=amount,
            subtotal_excluding_tax=amount,
            total=amount,
            total_excluding_tax=amount,
            total_taxes=[],
            type="post_payment" if post_payment else "pre_payment",
        )
        | fields
    )


def credit_note_line(object_id: str, note: Json, amount: int, invoice_line: str | None) -> Json:
    """A line of a credit note: a part of an invoice line, or an amount of its own."""
    return {
        "id": object_id,
        "object": "credit_note_line_item",
        "amount": amount,
        "credit_note": note["id"],
        "description": "Credit",
        "discount_amount": 0,
        "discount_amounts": [],
        "livemode": note["livemode"],
        "metadata": {},
        "pretax_credit_amounts": [],
        "quantity": 1,
        "tax_rates": [],
        "taxes": [],
        "type": "invoice_line_item" if invoice_line else "custom_line_item",
        "unit_amount": amount,
        "unit_amount_decimal": str(amount),
    } | ({"invoice_line_item": invoice_line} if invoice_line else {})


def customer_balance_transaction(
    object_id: str, created: int, customer: Json, amount: int, currency: str, kind: str, **fields: Any
) -> Json:
    """A change of what a customer owes, negative for a credit."""
    return (
        fields_of(
            "customer_balance_transactions",
            id=object_id,
            amount=amount,
            created=created,
            currency=currency,
            customer=customer["id"],
            ending_balance=(customer.get("balance") or 0) + amount,
            livemode=customer["livemode"],
            metadata={},
            type=kind,
        )
        | fields
    )
