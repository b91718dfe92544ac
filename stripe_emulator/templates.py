"""Templates of new Stripe objects: every field that is always present, at API version `API_VERSION`.

Pure functions from a few values to JSON. Actions on objects, and their order, belong to `shop`; further templates are
in `billing_templates` and `payment_templates`.
Nested values are shared between objects: change an object by replacing its fields, never in place.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from stripe_emulator.store import Json
from stripe_pipeline.objects import OBJECT_TYPES

API_VERSION = "2026-10-28.endive"

# UGX has no minor unit, but Stripe represents it with two decimals (docs/stripe.md#money).
ZERO_DECIMAL = frozenset(
    ("bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf")
)
THREE_DECIMAL = frozenset(("bhd", "jod", "kwd", "omr", "tnd"))

_USD_RATES = {"usd": "1", "eur": "1.08", "gbp": "1.27", "jpy": "0.0067", "kwd": "3.25", "idr": "0.000062"}
PER_DOLLAR = {"usd": 1.0, "eur": 0.9, "gbp": 0.8, "jpy": 150.0, "kwd": 0.31, "idr": 16_000.0}
"""The price of a dollar in other currencies."""
_FIXED_FEES = {"usd": 30, "eur": 25, "gbp": 20, "jpy": 40, "kwd": 100}
_DISPUTE_FEES = {"usd": 1500, "eur": 2000, "gbp": 2000, "jpy": 1300, "kwd": 5000}

DECLINES = {
    "generic_decline": ("card_declined", "Your card was declined."),
    "insufficient_funds": ("card_declined", "Your card has insufficient funds."),
    "expired_card": ("expired_card", "Your card has expired."),
    "incorrect_cvc": ("incorrect_cvc", "Your card's security code is incorrect."),
}
"""Decline codes with Stripe's error code and message."""

_NO_ADDRESS: Json = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))


def fields_of(type_name: str, *, without: Iterable[str] = (), **values: Any) -> Json:
    """Returns every field of a type, except those that Stripe does not send in this case; null unless given."""
    object_type = OBJECT_TYPES[type_name]
    names = [column.name for column in object_type.columns if not column.added and column.name not in without]
    return dict.fromkeys(names) | {"object": object_type.object} | values


def minor_units(currency: str) -> int:
    """Returns the number of minor units per unit of `currency`."""
    return 1 if currency in ZERO_DECIMAL else 1000 if currency in THREE_DECIMAL else 100


def processing_fee(amount: int, currency: str) -> int:
    """Returns Stripe's fee for a card payment, in minor units."""
    share = (Decimal(amount) * Decimal("0.029")).quantize(Decimal(1), ROUND_HALF_UP)
    return min(amount, int(share) + _FIXED_FEES.get(currency, 30))


def dispute_fee(currency: str) -> int:
    """Returns Stripe's fee for a dispute, in minor units."""
    return _DISPUTE_FEES.get(currency, 1500)


def to_usd(amount: int, currency: str) -> tuple[int, float]:
    """Returns `amount` in US cents, and the exchange rate between whole units."""
    rate = Decimal(_USD_RATES.get(currency, "1"))
    cents = Decimal(amount) / minor_units(currency) * rate * 100
    return int(cents.quantize(Decimal(1), ROUND_HALF_UP)), float(rate)


def account(account_id: str) -> Json:
    """The account that owns the shop."""
    return {
        "id": account_id,
        "object": "account",
        "business_profile": {
            "annual_revenue": None,
            "estimated_worker_count": None,
            "mcc": "5734",
            "minority_owned_business_designation": None,
            "name": "Demo Shop",
            "product_description": None,
            "support_address": None,
            "support_email": "help@shop.example",
            "support_phone": None,
            "support_url": None,
            "url": "https://shop.example",
        },
        "business_type": "company",
        "capabilities": {"card_payments": "active", "transfers": "active"},
        "charges_enabled": True,
        "country": "US",
        "default_currency": "usd",
        "details_submitted": True,
        "email": "owner@shop.example",
        "payouts_enabled": True,
        "settings": {
            "branding": {"icon": None, "logo": None, "primary_color": None, "secondary_color": None},
            "card_payments": {
                "statement_descriptor_prefix": None,
                "statement_descriptor_prefix_kana": None,
                "statement_descriptor_prefix_kanji": None,
            },
            "dashboard": {"display_name": "Demo Shop", "timezone": "Etc/UTC"},
            "payments": {
                "statement_descriptor": "DEMO SHOP",
                "statement_descriptor_kana": None,
                "statement_descriptor_kanji": None,
            },
        },
        "type": "standard",
    }


def customer(object_id: str, created: int, livemode: bool) -> Json:
    """A customer without any details."""
    return {
        "id": object_id,
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": created,
        "currency": None,
        "customer_account": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "discount": None,
        "email": None,
        "invoice_prefix": object_id[-8:].upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": livemode,
        "metadata": {},
        "name": None,
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
    }


def deleted_customer(object_id: str) -> Json:
    """The stub of a deleted customer."""
    return {"id": object_id, "object": "customer", "deleted": True}


def payment_intent(object_id: str, created: int, livemode: bool, amount: int, currency: str) -> Json:
    """A new payment intent that requires a payment method."""
    return {
        "id": object_id,
        "object": "payment_intent",
        "allowed_payment_method_types": None,
        "amount": amount,
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "application": None,
        "application_fee_amount": None,
        "automatic_payment_methods": {"allow_redirects": "always", "enabled": True},
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": "automatic_async",
        "client_secret": f"{object_id}_secret_{object_id[:2:-1]}",
        "confirmation_method": "automatic",
        "created": created,
        "currency": currency,
        "customer": None,
        "customer_account": None,
        "description": None,
        "excluded_payment_method_types": None,
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": livemode,
        "managed_payments": None,
        "metadata": {},
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": None,
        "payment_method_configuration_details": {"id": "pmc_1DemoShop0000000000000", "parent": None},
        "payment_method_options": {
            "card": {
                "installments": None,
                "mandate_options": None,
                "network": None,
                "request_three_d_secure": "automatic",
            },
            "link": {"persistent_token": None},
        },
        "payment_method_types": ["card", "link"],
        "payment_record": None,
        "processing": None,
        "receipt_email": None,
        "review": None,
        "setup_future_usage": None,
        "shipping": None,
        "source": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": "requires_payment_method",
        "transfer_data": None,
        "transfer_group": None,
    }


def card(brand: str, last4: str, country: str, amount: int) -> Json:
    """The `payment_method_details` of a card payment."""
    return {
        "card": {
            "amount_authorized": amount,
            "authorization_code": last4 + "07",
            "brand": brand,
            "checks": {"address_line1_check": None, "address_postal_code_check": "pass", "cvc_check": "pass"},
            "country": country,
            "exp_month": 8,
            "exp_year": 2031,
            "extended_authorization": {"status": "disabled"},
            "fingerprint": f"fp{brand}{last4}"[:16],
            "funding": "credit",
            "incremental_authorization": {"status": "unavailable"},
            "installments": None,
            "last4": last4,
            "mandate": None,
            "multicapture": {"status": "unavailable"},
            "network": brand,
            "network_token": {"used": False},
            "network_transaction_id": f"1195288{last4}62117",
            "overcapture": {"maximum_amount_capturable": amount, "status": "unavailable"},
            "regulated_status": "unregulated",
            "three_d_secure": None,
            "wallet": None,
        },
        "type": "card",
    }


_AUTHORIZED: Json = {
    "advice_code": None,
    "network_advice_code": None,
    "network_decline_code": None,
    "network_status": "approved_by_network",
    "reason": None,
    "risk_level": "normal",
    "risk_score": 21,
    "seller_message": "Payment complete.",
    "type": "authorized",
}


def charge(object_id: str, created: int, livemode: bool, intent: Json, details: Json, person: Json | None) -> Json:
    """An authorised charge of a payment intent, not captured yet."""
    return {
        "id": object_id,
        "object": "charge",
        "amount": intent["amount"],
        "amount_captured": 0,
        "amount_refunded": 0,
        "application": intent["application"],
        "application_fee": None,
        "application_fee_amount": intent["application_fee_amount"],
        "balance_transaction": None,
        "billing_details": {
            "address": (person and person.get("address")) or _NO_ADDRESS,
            "email": person and person.get("email"),
            "name": person and person.get("name"),
            "phone": person and person.get("phone"),
            "tax_id": None,
        },
        "calculated_statement_descriptor": "DEMO SHOP",
        "captured": False,
        "created": created,
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": intent["description"],
        "disputed": False,
        "failure_balance_transaction": None,
        "failure_code": None,
        "failure_message": None,
        "fraud_details": {},
        "livemode": livemode,
        "metadata": intent["metadata"],
        "on_behalf_of": None,
        "outcome": _AUTHORIZED,
        "paid": True,
        "payment_intent": intent["id"],
        "payment_method": intent["payment_method"],
        "payment_method_details": details,
        "radar_options": {},
        "receipt_email": intent["receipt_email"],
        "receipt_number": None,
        "receipt_url": f"https://pay.stripe.com/receipts/payment/{object_id[3:]}",
        "refunded": False,
        "review": None,
        "shipping": intent["shipping"],
        "source": None,
        "source_transfer": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": "succeeded",
        "transfer_data": intent["transfer_data"],
        "transfer_group": intent["transfer_group"],
    }


def declined(decline_code: str) -> tuple[Json, Json]:
    """The fields of a declined charge, and the `last_payment_error` of its payment intent."""
    code, message = DECLINES[decline_code]
    outcome = _AUTHORIZED | {
        "advice_code": "try_again_later",
        "network_status": "declined_by_network",
        "reason": decline_code,
        "risk_score": 38,
        "seller_message": "The bank did not return any further details with this decline.",
        "type": "issuer_declined",
    }
    fields = {
        "failure_code": code,
        "failure_message": message,
        "outcome": outcome,
        "paid": False,
        "status": "failed",
        "receipt_url": None,
    }
    error = {
        "advice_code": "try_again_later",
        "code": code,
        "decline_code": decline_code,
        "doc_url": f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}",
        "message": message,
        "type": "card_error",
    }
    return fields, error


def fee(amount: int, currency: str, *, kind: str = "stripe_fee", description: str = "Stripe processing fees") -> Json:
    """One entry of `fee_details`."""
    application = "ca_DemoPlatform000000000000000000" if kind == "application_fee" else None
    return {
        "amount": amount,
        "application": application,
        "currency": currency,
        "description": description,
        "type": kind,
    }


def balance_transaction(
    object_id: str,
    created: int,
    amount: int,
    currency: str,
    *,
    kind: str,
    category: str,
    source: str,
    description: str | None,
    available_on: int,
    fees: list[Json],
    exchange_rate: float | None = None,
) -> Json:
    """A movement of the balance; available at once if `available_on` is not later than `created`."""
    total = sum(entry["amount"] for entry in fees)
    return {
        "id": object_id,
        "object": "balance_transaction",
        "amount": amount,
        "available_on": available_on,
        "balance_type": "payments",
        "created": created,
        "currency": currency,
        "description": description,
        "exchange_rate": exchange_rate,
        "fee": total,
        "fee_details": fees,
        "net": amount - total,
        "reporting_category": category,
        "source": source,
        "status": "pending" if available_on > created else "available",
        "type": kind,
    }


def payout(
    object_id: str,
    created: int,
    livemode: bool,
    amount: int,
    currency: str,
    balance_transaction: str,
    arrival_date: int,
) -> Json:
    """An automatic payout that has not arrived at the bank yet."""
    return {
        "id": object_id,
        "object": "payout",
        "amount": amount,
        "application_fee": None,
        "application_fee_amount": None,
        "arrival_date": arrival_date,
        "automatic": True,
        "balance_transaction": balance_transaction,
        "created": created,
        "currency": currency,
        "description": "STRIPE PAYOUT",
        "destination": "ba_1DemoShop000000000000000",
        "failure_balance_transaction": None,
        "failure_code": None,
        "failure_message": None,
        "livemode": livemode,
        "metadata": {},
        "method": "standard",
        "original_payout": None,
        "payout_method": None,
        "reconciliation_status": "in_progress",
        "reversed_by": None,
        "source_type": "card",
        "statement_descriptor": None,
        "status": "pending",
        "trace_id": {"status": "pending", "value": None},
        "type": "bank_account",
    }


def refund(object_id: str, created: int, charge: Json, amount: int, balance_transaction: str | None) -> Json:
    """A successful refund."""
    return {
        "id": object_id,
        "object": "refund",
        "amount": amount,
        "balance_transaction": balance_transaction,
        "charge": charge["id"],
        "created": created,
        "currency": charge["currency"],
        "customer": charge["customer"],
        "customer_account": None,
        "destination_details": {
            "card": {
                "reference_status": "pending",
                "reference_type": "acquirer_reference_number",
                "type": "refund",
            },
            "type": "card",
        },
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "payment_method": charge["payment_method"],
        "reason": "requested_by_customer",
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": "succeeded",
        "transfer_reversal": None,
    }


_NO_EVIDENCE: Json = {
    **dict.fromkeys(
        (
            *("access_activity_log", "billing_address", "cancellation_policy"),
            *("cancellation_policy_disclosure", "cancellation_rebuttal", "customer_communication"),
            *("customer_email_address", "customer_name", "customer_purchase_ip", "customer_signature"),
            *("duplicate_charge_documentation", "duplicate_charge_explanation", "duplicate_charge_id"),
            *("product_description", "receipt", "refund_policy", "refund_policy_disclosure"),
            *("refund_refusal_explanation", "service_date", "service_documentation", "shipping_address"),
            *("shipping_carrier", "shipping_date", "shipping_documentation", "shipping_tracking_number"),
            *("uncategorized_file", "uncategorized_text"),
        )
    ),
    "enhanced_evidence": {},
}


def dispute(object_id: str, created: int, charge: Json, amount: int, reason: str, withdrawal: Json) -> Json:
    """A dispute that awaits evidence, with its funds withdrawn."""
    brand = (charge["payment_method_details"] or {}).get("card", {}).get("brand", "visa")
    return {
        "id": object_id,
        "object": "dispute",
        "amount": amount,
        "balance_transactions": [withdrawal],
        "charge": charge["id"],
        "created": created,
        "currency": charge["currency"],
        "enhanced_eligibility_types": [],
        "evidence": _NO_EVIDENCE,
        "evidence_details": {
            "due_by": created + 9 * 86400,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
        },
        "intended_submission_method": None,
        "is_charge_refundable": False,
        "livemode": charge["livemode"],
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "payment_method_details": {
            "card": {"brand": brand, "case_type": "chargeback", "network": brand, "network_reason_code": "83"},
            "type": "card",
        },
        "reason": reason,
        "status": "needs_response",
    }


def invoice_payment(object_id: str, created: int, invoice: Json, intent: str, amount: int, *, is_default: bool) -> Json:
    """The link between an invoice and a payment intent that has not yet succeeded."""
    return {
        "id": object_id,
        "object": "invoice_payment",
        "amount_paid": None,
        "amount_requested": amount,
        "created": created,
        "currency": invoice["currency"],
        "invoice": invoice["id"],
        "is_default": is_default,
        "livemode": invoice["livemode"],
        "payment": {"payment_intent": intent, "type": "payment_intent"},
        "status": "open",
        "status_transitions": {"canceled_at": None, "paid_at": None},
    }


def invoice_line(
    object_id: str, invoice: Json, amount: int, *, description: str, quantity: int, item: str, price: str
) -> Json:
    """A line of an invoice: of its subscription if it has one, otherwise of an invoice item."""
    parent = invoice["parent"]
    subscription = parent["subscription_details"]["subscription"] if parent else None
    details: Json = {"invoice_item": None, "proration": False, "proration_details": {"credited_items": None}}
    if subscription:
        kind, link = "subscription_item_details", {"subscription": subscription, "subscription_item": f"si_{item}"}
    else:
        kind, link = "invoice_item_details", {"invoice_item": f"ii_{item}", "subscription": None}
    unit = Decimal(amount) / quantity if quantity else Decimal(amount)
    return {
        "id": object_id,
        "object": "line_item",
        "amount": amount,
        "currency": invoice["currency"],
        "description": description,
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": invoice["id"],
        "livemode": invoice["livemode"],
        "metadata": {},
        "parent": {"invoice_item_details": None, "subscription_item_details": None, "type": kind}
        | {kind: details | link},
        "period": {"end": invoice["period_end"], "start": invoice["period_start"]},
        "pretax_credit_amounts": [],
        "pricing": {
            "price_details": {"price": f"price_{price}", "product": f"prod_{price[:14]}"},
            "type": "price_details",
            "unit_amount_decimal": f"{unit.normalize():f}" if unit == unit.to_integral() else f"{unit:.12f}",
        },
        "quantity": quantity,
        "quantity_decimal": str(quantity),
        "subscription": subscription,
        "subtotal": amount,
        "taxes": [],
    }


def invoice(
    object_id: str, created: int, livemode: bool, currency: str, person: Json, subscription: str | None
) -> Json:
    """An empty draft; the shop fills in its lines and amounts."""
    parent = subscription and {
        "quote_details": None,
        "subscription_details": {"metadata": {}, "subscription": subscription},
        "type": "subscription_details",
    }
    return {
        "id": object_id,
        "object": "invoice",
        "account_country": "US",
        "account_name": "Demo Shop",
        "account_tax_ids": None,
        "amount_due": 0,
        "amount_overpaid": 0,
        "amount_paid": 0,
        "amount_paid_off_stripe": 0,
        "amount_remaining": 0,
        "amount_shipping": 0,
        "application": None,
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": True,
        "automatic_tax": {
            "disabled_reason": None,
            "enabled": False,
            "liability": None,
            "provider": None,
            "status": None,
        },
        "automatically_finalizes_at": created + 3600,
        "billing_reason": "subscription_cycle" if subscription else "manual",
        "collection_method": "charge_automatically",
        "created": created,
        "currency": currency,
        "custom_fields": None,
        "customer": person["id"],
        "customer_account": None,
        "customer_address": person.get("address"),
        "customer_email": person.get("email"),
        "customer_name": person.get("name"),
        "customer_phone": person.get("phone"),
        "customer_shipping": person.get("shipping"),
        "customer_tax_exempt": "none",
        "customer_tax_ids": [],
        "default_payment_method": None,
        "default_source": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "due_date": None,
        "effective_at": None,
        "ending_balance": None,
        "footer": None,
        "from_invoice": None,
        "hosted_invoice_url": None,
        "invoice_pdf": None,
        "issuer": {"type": "self"},
        "last_finalization_error": None,
        "latest_revision": None,
        "lines": {"object": "list", "has_more": False, "total_count": 0, "url": f"/v1/invoices/{object_id}/lines"},
        "livemode": livemode,
        "metadata": {},
        "next_payment_attempt": created + 3600,
        "number": None,
        "on_behalf_of": None,
        "parent": parent,
        "payment_settings": {
            "default_mandate": None,
            "payment_method_options": None,
            "payment_method_types": None,
        },
        "period_end": created,
        "period_start": created - 30 * 86400 if subscription else created,
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "receipt_number": None,
        "rendering": {
            "amount_tax_display": None,
            "pdf": {"page_size": "auto"},
            "template": None,
            "template_version": None,
        },
        "shipping_cost": None,
        "shipping_details": None,
        "starting_balance": 0,
        "statement_descriptor": None,
        "status": "draft",
        "status_transitions": {
            "finalized_at": None,
            "marked_uncollectible_at": None,
            "paid_at": None,
            "voided_at": None,
        },
        "subtotal": 0,
        "subtotal_excluding_tax": 0,
        "test_clock": person.get("test_clock"),
        "total": 0,
        "total_discount_amounts": [],
        "total_excluding_tax": 0,
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
        "webhooks_delivered_at": created,
    }


def webhook_endpoint(object_id: str, created: int, livemode: bool, url: str, enabled_events: list[str]) -> Json:
    """An enabled webhook endpoint, without its secret."""
    return {
        "id": object_id,
        "object": "webhook_endpoint",
        "api_version": None,
        "application": None,
        "created": created,
        "description": None,
        "enabled_events": enabled_events,
        "livemode": livemode,
        "metadata": {},
        "status": "enabled",
        "url": url,
    }


def event(object_id: str, created: int, livemode: bool, kind: str, data: Json, pending_webhooks: int) -> Json:
    """An event that announces `data`."""
    return {
        "id": object_id,
        "object": "event",
        "api_version": API_VERSION,
        "created": created,
        "data": data,
        "livemode": livemode,
        "pending_webhooks": pending_webhooks,
        "request": {"id": None, "idempotency_key": None},
        "type": kind,
    }
