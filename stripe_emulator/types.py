"""The emulated object types: one declaration each.

This module declares how the API's types differ: names, ids, filters, permissions. The content of objects belongs to
`templates`, actions on objects to `shop`, and their fields to `stripe_pipeline.objects`. Every type that the pipeline
lists needs an entry in `_DECLARED`, a template, an action of the shop that adds such objects, and a place in the shop's
history where that action is used.
"""

from __future__ import annotations

from collections.abc import Mapping

from stripe_emulator.declaration import EmulatedType, IncludedList
from stripe_emulator.generated_types import LISTS_OF_GENERATED, generated_types
from stripe_pipeline.objects import BY_STRIPE_OBJECT

__all__ = [
    "BY_OBJECT",
    "BY_PATH",
    "LISTED",
    "LISTS",
    "PART_OF",
    "TYPES",
    "EmulatedType",
    "IncludedList",
    "type_of",
]


_DECLARED: Mapping[str, EmulatedType] = {
    emulated_type.name: emulated_type
    for emulated_type in (
        EmulatedType(
            name="balance_transactions",
            object="balance_transaction",
            label="balance transaction",
            id_prefixes=("txn",),
            filters=("currency", "payout", "source", "type"),
            # Documented as the permission for expanding `source`. Connectors that list balance transactions request
            # only this permission.
            permission="balance_transaction_source",
            permission_label="Balance Transaction Sources",
        ),
        EmulatedType(
            name="charges",
            object="charge",
            label="charge",
            id_prefixes=("ch", "py"),
            filters=("customer", "payment_intent", "transfer_group"),
            included={"refunds": IncludedList(type_name="refunds", reference="charge", url="/v1/charges/{id}/refunds")},
            update_events=("charge.updated",),
            permission="charge",
            permission_label="Charges and Refunds",
        ),
        EmulatedType(
            name="customers",
            object="customer",
            label="customer",
            id_prefixes=("cus",),
            filters=("email", "test_clock"),
            below={
                "balance_transactions": IncludedList(
                    type_name="customer_balance_transactions",
                    reference="customer",
                    url="/v1/customers/{id}/balance_transactions",
                    time_filters=("created",),
                    filters=("invoice",),
                ),
                "payment_methods": IncludedList(
                    type_name="payment_methods",
                    reference="customer",
                    url="/v1/customers/{id}/payment_methods",
                    filters=("type",),
                ),
            },
            update_events=("customer.updated",),
            permission="customer",
            permission_label="Customers",
        ),
        EmulatedType(
            name="disputes",
            object="dispute",
            label="dispute",
            id_prefixes=("dp", "du"),
            filters=("charge", "payment_intent"),
            update_events=("charge.dispute.updated",),
            permission="dispute",
            permission_label="Disputes",
        ),
        EmulatedType(
            name="events",
            object="event",
            label="event",
            filters=("delivery_success", "type", "types"),
            permission="event",
            permission_label="Events",
        ),
        EmulatedType(
            name="invoice_payments",
            object="invoice_payment",
            label="invoice_payment",
            id_parameter="invoice_payment",
            id_prefixes=("inpay",),
            filters=("invoice", "payment", "status"),
            choices={"status": ("canceled", "open", "paid")},
            permission="invoice",
            permission_label="Invoices",
        ),
        EmulatedType(
            name="invoices",
            object="invoice",
            label="invoice",
            id_prefixes=("in",),
            filters=("collection_method", "customer", "customer_account", "status", "subscription"),
            choices={
                "collection_method": ("charge_automatically", "send_invoice"),
                "status": ("draft", "open", "paid", "uncollectible", "void"),
            },
            time_filters=("created", "due_date"),
            included={
                "payments": IncludedList(
                    type_name="invoice_payments", reference="invoice", url="/v1/invoice_payments?invoice={id}"
                )
            },
            update_events=("invoice.updated",),
            permission="invoice",
            permission_label="Invoices",
        ),
        EmulatedType(
            name="payment_intents",
            object="payment_intent",
            label="payment_intent",
            id_parameter="intent",
            id_prefixes=("pi",),
            filters=("customer", "customer_account"),
            permission="payment_intent",
            permission_label="PaymentIntents",
        ),
        EmulatedType(
            name="payouts",
            object="payout",
            label="payout",
            id_parameter="payout",
            id_prefixes=("po",),
            filters=("destination", "status"),
            time_filters=("created", "arrival_date"),
            update_events=("payout.updated",),
            permission="payout",
            permission_label="Payouts",
        ),
        EmulatedType(
            name="refunds",
            object="refund",
            label="refund",
            id_prefixes=("re", "pyr"),
            filters=("charge", "payment_intent"),
            update_events=("refund.updated", "charge.refund.updated"),
            permission="charge",
            permission_label="Charges and Refunds",
        ),
        EmulatedType(
            name="application_fee_refunds",
            object="fee_refund",
            label="fee refund",
            id_prefixes=("fr",),
            path="-",
            update_events=("application_fee.refund.updated",),
            permission="application_fee",
            permission_label="Application Fees",
        ),
        EmulatedType(
            name="application_fees",
            object="application_fee",
            label="application fee",
            id_prefixes=("fee",),
            filters=("charge",),
            embedded={
                "refunds": IncludedList(
                    type_name="application_fee_refunds", reference="fee", url="/v1/application_fees/{id}/refunds"
                )
            },
            permission="application_fee",
            permission_label="Application Fees",
        ),
        EmulatedType(
            name="checkout_session_lines",
            object="item",
            label="item",
            id_prefixes=("li",),
            path="-",
            hidden={"checkout_session": "checkout_sessions"},
            permission="checkout_session",
            permission_label="Checkout Sessions",
        ),
        EmulatedType(
            name="checkout_sessions",
            object="checkout.session",
            label="checkout.session",
            id_parameter="session",
            id_prefixes=("cs",),
            path="checkout/sessions",
            filters=("customer", "payment_intent", "status", "subscription"),
            choices={"status": ("complete", "expired", "open")},
            included={
                "line_items": IncludedList(
                    type_name="checkout_session_lines",
                    reference="checkout_session",
                    url="/v1/checkout/sessions/{id}/line_items",
                )
            },
            permission="checkout_session",
            permission_label="Checkout Sessions",
        ),
        EmulatedType(
            name="coupons",
            object="coupon",
            label="coupon",
            id_parameter="coupon",
            id_prefixes=(),
            update_events=("coupon.updated",),
            permission="coupon",
            permission_label="Coupons",
        ),
        EmulatedType(
            name="credit_note_lines",
            object="credit_note_line_item",
            label="credit note line item",
            id_prefixes=("cnli",),
            path="-",
            hidden={"credit_note": "credit_notes"},
            permission="credit_note",
            permission_label="Credit notes",
        ),
        EmulatedType(
            name="credit_notes",
            object="credit_note",
            label="credit note",
            id_prefixes=("cn",),
            filters=("customer", "customer_account", "invoice"),
            embedded={
                "lines": IncludedList(
                    type_name="credit_note_lines", reference="credit_note", url="/v1/credit_notes/{id}/lines"
                )
            },
            update_events=("credit_note.updated",),
            permission="credit_note",
            permission_label="Credit notes",
        ),
        EmulatedType(
            name="customer_balance_transactions",
            object="customer_balance_transaction",
            label="customer balance transaction",
            id_prefixes=("cbtxn",),
            path="-",
            permission="customer",
            permission_label="Customers",
        ),
        EmulatedType(
            name="payment_methods",
            object="payment_method",
            label="PaymentMethod",
            id_parameter="payment_method",
            id_prefixes=("pm",),
            filters=("customer", "customer_account", "type"),
            time_filters=(),
            update_events=("payment_method.updated",),
            permission="payment_method",
            permission_label="Payment Methods",
        ),
        EmulatedType(
            name="prices",
            object="price",
            label="price",
            id_parameter="price",
            id_prefixes=("price",),
            filters=("active", "currency", "product", "type"),
            choices={"active": ("false", "true")},
            update_events=("price.updated",),
            permission="plan",
            permission_label="Prices",
        ),
        EmulatedType(
            name="products",
            object="product",
            label="product",
            id_prefixes=("prod",),
            filters=("active", "shippable", "url"),
            update_events=("product.updated",),
            permission="product",
            permission_label="Products",
        ),
        EmulatedType(
            name="promotion_codes",
            object="promotion_code",
            label="promotion code",
            id_parameter="promotion_code",
            id_prefixes=("promo",),
            filters=("active", "code", "coupon", "customer"),
            update_events=("promotion_code.updated",),
            permission="promotion_code",
            permission_label="Promotion Codes",
        ),
        EmulatedType(
            name="subscription_items",
            object="subscription_item",
            label="subscription_item",
            id_parameter="item",
            id_prefixes=("si",),
            filters=("subscription",),
            needs="subscription",
            time_filters=(),
            permission="subscription",
            permission_label="Subscriptions",
        ),
        EmulatedType(
            name="subscriptions",
            object="subscription",
            label="subscription",
            id_prefixes=("sub",),
            filters=("collection_method", "customer", "customer_account", "status"),
            choices={
                "status": (
                    "active",
                    "all",
                    "canceled",
                    "ended",
                    "incomplete",
                    "incomplete_expired",
                    "past_due",
                    "paused",
                    "trialing",
                    "unpaid",
                )
            },
            embedded={
                "items": IncludedList(
                    type_name="subscription_items",
                    reference="subscription",
                    url="/v1/subscription_items?subscription={id}",
                )
            },
            update_events=("customer.subscription.updated",),
            permission="subscription",
            permission_label="Subscriptions",
        ),
        EmulatedType(
            name="tax_rates",
            object="tax_rate",
            label="tax rate",
            id_parameter="tax_rate",
            id_prefixes=("txr",),
            filters=("active", "inclusive"),
            update_events=("tax_rate.updated",),
            permission="tax_rate",
            permission_label="Tax Rates",
        ),
        EmulatedType(
            name="transfer_reversals",
            object="transfer_reversal",
            label="transfer reversal",
            id_prefixes=("trr",),
            path="-",
            permission="transfer",
            permission_label="Transfers",
        ),
        EmulatedType(
            name="transfers",
            object="transfer",
            label="transfer",
            id_prefixes=("tr",),
            filters=("destination", "transfer_group"),
            embedded={
                "reversals": IncludedList(
                    type_name="transfer_reversals", reference="transfer", url="/v1/transfers/{id}/reversals"
                )
            },
            update_events=("transfer.updated",),
            permission="transfer",
            permission_label="Transfers",
        ),
        EmulatedType(
            name="webhook_endpoints",
            object="webhook_endpoint",
            label="webhook endpoint",
            time_filters=(),
            permission="webhook",
            permission_label="Webhook Endpoints",
        ),
    )
}

TYPES: Mapping[str, EmulatedType] = {
    **_DECLARED,
    **{emulated_type.name: emulated_type for emulated_type in generated_types(_DECLARED)},
}
"""All emulated types by name."""

BY_PATH: Mapping[str, EmulatedType] = {
    emulated_type.path or emulated_type.name: emulated_type
    for emulated_type in TYPES.values()
    if emulated_type.path != "-"
}
"""The types that can be listed and retrieved, by path below `/v1/`."""

LISTS: Mapping[tuple[str, str], IncludedList] = {
    **LISTS_OF_GENERATED,
    **{
        (emulated_type.name, name): listed
        for emulated_type in TYPES.values()
        for name, listed in {**emulated_type.included, **emulated_type.embedded, **emulated_type.below}.items()
        if listed.url.endswith(f"/{{id}}/{name}")
    },
}
"""The lists at the paths of objects, by the type of these and the last part of the path."""

PART_OF: Mapping[str, tuple[str, str]] = {
    listed.type_name: (emulated_type.name, listed.reference)
    for emulated_type in TYPES.values()
    for listed in emulated_type.embedded.values()
}
"""The types of which objects of another type hold the first entries: that type, and the field that names the object."""

BY_OBJECT: Mapping[str, EmulatedType] = {
    emulated_type.object: emulated_type for emulated_type in reversed([*TYPES.values()])
}
"""All emulated types by Stripe's `object` value; of several with the same, the first."""

LISTED = tuple(
    sorted(
        object_type.name
        for object_type in BY_STRIPE_OBJECT.values()
        if not object_type.singleton and not object_type.generated and object_type.name != "events"
    )
)
"""The types that the pipeline lists, except events and the generated types, of which the history has no objects."""

_BY_PREFIX = {prefix: emulated_type for emulated_type in TYPES.values() for prefix in emulated_type.id_prefixes}


def type_of(object_id: str) -> str | None:
    """Returns the name of an id's type, by its prefix; None if the shop has no such objects."""
    emulated_type = _BY_PREFIX.get(object_id.partition("_")[0])
    return emulated_type.name if emulated_type else None
