"""Templates of objects of the types that are optional in the pipeline, as `templates` has those of the others.

Fields that a template does not name are null; which fields a type has is declared in `stripe_pipeline.objects`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from stripe_emulator.store import Json
from stripe_pipeline.objects import OBJECT_TYPES

MONTH = 30 * 86400
"""The period of the shop's subscriptions, in seconds."""


def _fields(type_name: str, *, without: Iterable[str] = (), **values: Any) -> Json:
    """Returns every field of a type, except those that Stripe does not send in this case; null unless given."""
    object_type = OBJECT_TYPES[type_name]
    names = [column.name for column in object_type.columns if not column.added and column.name not in without]
    return dict.fromkeys(names) | {"object": object_type.object} | values


def product(object_id: str, created: int, livemode: bool, name: str) -> Json:
    """A product without prices."""
    return _fields(
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
    return _fields(
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
    return _fields(
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
    return _fields(
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
    return _fields(
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
    return _fields(
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
    return _fields(
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
        _fields(
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
        _fields(
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


def payment_method(object_id: str, created: int, livemode: bool, details: Json, billing: Json) -> Json:
    """A card, not attached to a customer; `details` are those of a charge's `payment_method_details.card`."""
    names = ("brand", "country", "exp_month", "exp_year", "fingerprint", "funding", "last4", "wallet")
    card: Json = {name: details[name] for name in names}
    card |= {
        "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
        "display_brand": details["brand"],
        "generated_from": None,
        "networks": {"available": [details["brand"]], "preferred": None},
        "regulated_status": "unregulated",
        "three_d_secure_usage": {"supported": True},
    }
    return {
        "id": object_id,
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": billing,
        "card": card,
        "created": created,
        "customer": None,
        "customer_account": None,
        "livemode": livemode,
        "metadata": {},
        "type": "card",
    }


def transfer(object_id: str, created: int, charge: Json, amount: int, transaction: Json) -> Json:
    """The transfer of a destination charge to the connected account."""
    return _fields(
        "transfers",
        without=("reversals",),
        id=object_id,
        amount=amount,
        amount_reversed=0,
        balance_transaction=transaction["id"],
        created=created,
        currency=transaction["currency"],
        destination=charge["transfer_data"]["destination"],
        destination_payment=f"py_{object_id[3:]}",
        livemode=charge["livemode"],
        metadata={},
        reversed=False,
        source_transaction=charge["id"],
        source_type="card",
        transfer_group=charge["transfer_group"],
    )


def transfer_reversal(object_id: str, created: int, of_transfer: Json, amount: int, transaction: str) -> Json:
    """A part of a transfer that was taken back."""
    return _fields(
        "transfer_reversals",
        id=object_id,
        amount=amount,
        balance_transaction=transaction,
        created=created,
        currency=of_transfer["currency"],
        metadata={},
        transfer=of_transfer["id"],
    )


def application_fee(object_id: str, created: int, charge: Json, transaction: Json) -> Json:
    """The platform's fee of a destination charge."""
    return _fields(
        "application_fees",
        without=("refunds",),
        id=object_id,
        account=charge["transfer_data"]["destination"],
        amount=charge["application_fee_amount"],
        amount_refunded=0,
        application="ca_DemoPlatform000000000000000000",
        balance_transaction=transaction["id"],
        charge=charge["id"],
        created=created,
        currency=transaction["currency"],
        fee_source={"charge": charge["id"], "type": "charge"},
        livemode=charge["livemode"],
        originating_transaction=charge["id"],
        refunded=False,
    )


def application_fee_refund(object_id: str, created: int, fee: Json, amount: int, transaction: str) -> Json:
    """A part of an application fee that was given back."""
    return _fields(
        "application_fee_refunds",
        id=object_id,
        amount=amount,
        balance_transaction=transaction,
        created=created,
        currency=fee["currency"],
        fee=fee["id"],
        metadata={},
    )


def checkout_session(
    object_id: str, created: int, livemode: bool, customer: str | None, currency: str, amount: int, *, embedded: bool
) -> Json:
    """An open session for one payment, on Stripe's page or `embedded` in the shop's."""
    returning: Json = {}
    if embedded:
        returning = {"redirect_on_completion": "always", "return_url": "https://shop.example/thanks"}
    return (
        _fields(
            "checkout_sessions",
            without=(
                *(
                    "branding_settings",
                    "excluded_payment_method_types",
                    "line_items",
                    "name_collection",
                    "optional_items",
                ),
                *("payment_method_configuration_details", "presentment_details", "tax_id_collection"),
                *("redirect_on_completion", "return_url"),
            ),
            id=object_id,
            adaptive_pricing={"enabled": True},
            amount_subtotal=amount,
            amount_total=amount,
            automatic_tax={"enabled": False, "liability": None, "provider": None, "status": None},
            cancel_url=None if embedded else "https://shop.example/cart",
            client_secret=f"{object_id}_secret_demo" if embedded else None,
            created=created,
            currency=currency,
            custom_fields=[],
            custom_text={
                "after_submit": None,
                "shipping_address": None,
                "submit": None,
                "terms_of_service_acceptance": None,
            },
            customer=customer,
            customer_creation=None if customer else "if_required",
            discounts=[],
            expires_at=created + 86400,
            invoice_creation={
                "enabled": False,
                "invoice_data": {
                    "account_tax_ids": None,
                    "custom_fields": None,
                    "description": None,
                    "footer": None,
                    "issuer": None,
                    "metadata": {},
                    "rendering_options": None,
                },
            },
            livemode=livemode,
            managed_payments={"enabled": False},
            metadata={},
            mode="payment",
            payment_method_collection="if_required",
            payment_method_options={},
            payment_method_types=["card"],
            payment_status="unpaid",
            phone_number_collection={"enabled": False},
            shipping_options=[],
            status="open",
            success_url=None if embedded else "https://shop.example/thanks",
            total_details={"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
            ui_mode="embedded_page" if embedded else "hosted_page",
            url=None if embedded else f"https://checkout.stripe.com/c/pay/{object_id}",
        )
        | returning
    )


def checkout_session_line(object_id: str, session: str, currency: str, of_price: Json, quantity: int) -> Json:
    """An item of a session."""
    amount = of_price["unit_amount"] * quantity
    return {
        "id": object_id,
        "object": "item",
        "adjustable_quantity": None,
        "amount_discount": 0,
        "amount_subtotal": amount,
        "amount_tax": 0,
        "amount_total": amount,
        "checkout_session": session,
        "currency": currency,
        "description": "Goods",
        "metadata": {},
        "price": of_price,
        "quantity": quantity,
    }


def balance(livemode: bool, available: Sequence[tuple[str, int]], pending: Sequence[tuple[str, int]]) -> Json:
    """The balance, from a currency's amount each."""

    def amounts(of_currencies: Sequence[tuple[str, int]]) -> list[Json]:
        return [
            {"amount": amount, "currency": currency, "source_types": {"card": amount}}
            for currency, amount in of_currencies
        ]

    return {
        "object": "balance",
        "available": amounts(available),
        "livemode": livemode,
        "pending": amounts(pending),
        "refund_and_dispute_prefunding": {"available": amounts([("usd", 0)]), "pending": amounts([("usd", 0)])},
    }
