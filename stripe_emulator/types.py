"""The emulated object types: one declaration each.

This module declares how the API's types differ: names, ids, filters, permissions. The content of objects belongs to
`templates`, actions on objects to `shop`, and their fields to `stripe_pipeline.objects`. Every type that the pipeline
lists needs an entry in `TYPES`, a template, an action of the shop that adds such objects, and a place in the shop's
history where that action is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stripe_pipeline.objects import BY_STRIPE_OBJECT


@dataclass(frozen=True, kw_only=True)
class IncludedList:
    """A list of other objects that Stripe includes in an object only on expansion."""

    type_name: str
    """The type of the listed objects, for example `refunds`."""
    reference: str
    """The field of the listed objects that holds the object's id, for example `charge`; one of `Collection.INDEXED`."""
    url: str
    """The URL of the whole list; `{id}` stands for the object's id."""


@dataclass(frozen=True, kw_only=True)
class EmulatedType:
    """One type that the emulated API lists and retrieves."""

    name: str
    """The name in paths, for example `balance_transactions`."""
    object: str
    """Stripe's `object` value, for example `balance_transaction`."""
    label: str
    """The name of an object in Stripe's messages, for example `balance transaction`."""
    id_parameter: str = "id"
    """The name of the object's id parameter in Stripe's messages."""
    id_prefixes: tuple[str, ...] = ()
    """Id prefixes by which other objects refer to objects of this type, for example `ch` and `py`."""
    filters: tuple[str, ...] = ()
    """Filters of the list besides the time filters; all test for equality, except those of events."""
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Accepted values by filter, where Stripe refuses other values."""
    time_filters: tuple[str, ...] = ("created",)
    """Filters of the list that take a time or a time range: fields that hold a time, or null."""
    included: Mapping[str, IncludedList] = field(default_factory=dict)
    """Expandable lists, by the field that holds the expanded list."""
    update_events: tuple[str, ...] = ()
    """The events that announce changed fields; empty if Stripe announces no such changes for the type."""
    permission: str
    """The prefix of the type's permission names, for example `charge` of `charge_read`."""
    permission_label: str
    """The permission's name in the Dashboard's form for restricted keys, for example `Charges and Refunds`."""


TYPES: Mapping[str, EmulatedType] = {
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
            name="webhook_endpoints",
            object="webhook_endpoint",
            label="webhook endpoint",
            time_filters=(),
            permission="webhook",
            permission_label="Webhook Endpoints",
        ),
    )
}
"""All emulated types by name."""

BY_OBJECT: Mapping[str, EmulatedType] = {emulated_type.object: emulated_type for emulated_type in TYPES.values()}
"""All emulated types by Stripe's `object` value."""

LISTED = tuple(sorted(object_type.name for object_type in BY_STRIPE_OBJECT.values()))
"""The types that the pipeline lists."""

_BY_PREFIX = {prefix: emulated_type for emulated_type in TYPES.values() for prefix in emulated_type.id_prefixes}


def type_of(object_id: str) -> str | None:
    """Returns the name of an id's type, by its prefix; None if the shop has no such objects."""
    emulated_type = _BY_PREFIX.get(object_id.partition("_")[0])
    return emulated_type.name if emulated_type else None
