"""Stripe's object types: one declaration each.

Tables, assets, checks, the views on one table each, event routing, listing, what `check` tries, relations and
docs/tables.md are derived from `OBJECT_TYPES`: for the pipeline, another type is one more declaration in a module of
this package, and what the declarations of other types say about the new type (`references`, `announced_by`). What the
emulator needs of a type is in `stripe_emulator.types`.

Fields and types are those of the API version that every request asks for (`stripe_api.version`). More facts about the
types: docs/stripe.md#object-types.
"""

from __future__ import annotations

from collections.abc import Mapping

from stripe_pipeline.objects.account import ACCOUNT, EVENTS
from stripe_pipeline.objects.balance import (
    BALANCE,
    BALANCE_TRANSACTIONS,
    FEE_DETAILS,
    PAYOUT_BALANCE_TRANSACTIONS,
    PAYOUTS,
)
from stripe_pipeline.objects.billing import (
    COUPONS,
    CREDIT_NOTE_LINES,
    CREDIT_NOTES,
    CUSTOMER_BALANCE_TRANSACTIONS,
    INVOICE_DISCOUNTS,
    INVOICE_LINES,
    INVOICES,
    PRICES,
    PRODUCTS,
    PROMOTION_CODES,
    SUBSCRIPTION_DISCOUNTS,
    SUBSCRIPTION_ITEMS,
    SUBSCRIPTIONS,
    TAX_RATES,
)
from stripe_pipeline.objects.declaration import (
    BOOKKEEPING,
    KINDS,
    UNDATED,
    ChildList,
    Column,
    FlatColumn,
    Included,
    Kind,
    ObjectType,
    Reference,
)
from stripe_pipeline.objects.generated import GENERATED, GENERATED_DIGEST
from stripe_pipeline.objects.payments import (
    APPLICATION_FEE_REFUNDS,
    APPLICATION_FEES,
    CHARGES,
    CHECKOUT_SESSION_LINES,
    CHECKOUT_SESSIONS,
    CUSTOMERS,
    DISPUTES,
    PAYMENT_INTENTS,
    PAYMENT_METHODS,
    REFUNDS,
    TRANSFER_REVERSALS,
    TRANSFERS,
)

__all__ = [
    "ALL_TYPES",
    "BOOKKEEPING",
    "BY_STRIPE_OBJECT",
    "CHARGES",
    "CUSTOMERS",
    "DEFAULT_TYPES",
    "GENERATED_DIGEST",
    "INVOICES",
    "INVOICE_LINES",
    "KINDS",
    "OBJECT_TYPES",
    "UNDATED",
    "ChildList",
    "Column",
    "FlatColumn",
    "Included",
    "Kind",
    "ObjectType",
    "Reference",
    "children_of",
    "family_of",
]

_DECLARED = (
    ACCOUNT,
    APPLICATION_FEES,
    APPLICATION_FEE_REFUNDS,
    BALANCE,
    BALANCE_TRANSACTIONS,
    CHARGES,
    CHECKOUT_SESSIONS,
    CHECKOUT_SESSION_LINES,
    COUPONS,
    CREDIT_NOTES,
    CREDIT_NOTE_LINES,
    CUSTOMERS,
    CUSTOMER_BALANCE_TRANSACTIONS,
    DISPUTES,
    EVENTS,
    FEE_DETAILS,
    INVOICES,
    INVOICE_DISCOUNTS,
    INVOICE_LINES,
    PAYMENT_INTENTS,
    PAYMENT_METHODS,
    PAYOUTS,
    PAYOUT_BALANCE_TRANSACTIONS,
    PRICES,
    PRODUCTS,
    PROMOTION_CODES,
    REFUNDS,
    SUBSCRIPTIONS,
    SUBSCRIPTION_DISCOUNTS,
    SUBSCRIPTION_ITEMS,
    TAX_RATES,
    TRANSFERS,
    TRANSFER_REVERSALS,
)

OBJECT_TYPES: Mapping[str, ObjectType] = {
    object_type.name: object_type
    for object_type in sorted((*GENERATED, *_DECLARED), key=lambda declared: declared.name)
}
"""All object types by table name, in alphabetical order."""

DEFAULT_TYPES: Mapping[str, ObjectType] = {
    name: object_type
    for name, object_type in OBJECT_TYPES.items()
    if not object_type.optional and not (object_type.parent and OBJECT_TYPES[object_type.parent].optional)
}
"""The object types that are loaded unless the settings switch one off, by table name."""

ALL_TYPES: Mapping[str, ObjectType] = {
    name: object_type
    for name, object_type in OBJECT_TYPES.items()
    if not (object_type.generated and object_type.child_list)
}
"""The object types that `objects: all` loads, by table name: the others would take a request for each payment intent,
customer or other parent, and are switched on by name."""

BY_STRIPE_OBJECT: Mapping[str, ObjectType] = {
    object_type.object: object_type for object_type in (*GENERATED, *_DECLARED) if object_type.endpoint
}
"""Object types with an endpoint, by Stripe's `object` value: `account` is the key's own account.

Lines and fees are missing here on purpose: they are read with their parent."""


def children_of(object_type: ObjectType) -> tuple[ObjectType, ...]:
    """The object types whose rows come with `object_type`'s."""
    return tuple(child for child in OBJECT_TYPES.values() if child.parent == object_type.name)


def family_of(object_type: ObjectType) -> ObjectType:
    """The listed type that yields `object_type`: the type itself, or its parent."""
    return OBJECT_TYPES[object_type.parent] if object_type.parent else object_type
