"""Templates of what surrounds a payment: payment methods, checkout sessions, transfers, application fees, the balance.

`templates` has those of payments themselves and the rules of all templates.
"""

from __future__ import annotations

from collections.abc import Sequence

from stripe_emulator.store import Json
from stripe_emulator.templates import fields_of


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
    return fields_of(
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
    return fields_of(
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
    return fields_of(
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
    return fields_of(
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
        fields_of(
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
