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

from stripe_pipeline.objects.balance import BALANCE_TRANSACTIONS, FEE_DETAILS, PAYOUTS
from stripe_pipeline.objects.billing import INVOICE_LINES, INVOICES
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
from stripe_pipeline.objects.payments import CHARGES, CUSTOMERS, DISPUTES, PAYMENT_INTENTS, REFUNDS

__all__ = [
    "BOOKKEEPING",
    "BY_STRIPE_OBJECT",
    "CHARGES",
    "CUSTOMERS",
    "DEFAULT_TYPES",
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
    BALANCE_TRANSACTIONS,
    CHARGES,
    CUSTOMERS,
    DISPUTES,
    FEE_DETAILS,
    INVOICE_LINES,
    INVOICES,
    PAYMENT_INTENTS,
    PAYOUTS,
    REFUNDS,
)

OBJECT_TYPES: Mapping[str, ObjectType] = {
    object_type.name: object_type for object_type in sorted(_DECLARED, key=lambda declared: declared.name)
}
"""All object types by table name, in alphabetical order."""

DEFAULT_TYPES: Mapping[str, ObjectType] = {
    name: object_type for name, object_type in OBJECT_TYPES.items() if not object_type.optional
}
"""The object types that are loaded unless the settings switch one off, by table name."""

BY_STRIPE_OBJECT: Mapping[str, ObjectType] = {
    object_type.object: object_type for object_type in OBJECT_TYPES.values() if object_type.endpoint
}
"""Object types with an endpoint, by `data.object.object` of an event.

An event's name does not say which object it carries (`charge.refund.updated` carries a refund), so nothing routes by
name. Lines and fees are missing here on purpose: they are read with their parent."""


def children_of(object_type: ObjectType) -> tuple[ObjectType, ...]:
    """The object types whose rows come with `object_type`'s."""
    return tuple(child for child in OBJECT_TYPES.values() if child.parent == object_type.name)


def family_of(object_type: ObjectType) -> ObjectType:
    """The listed type that yields `object_type`: the type itself, or its parent."""
    return OBJECT_TYPES[object_type.parent] if object_type.parent else object_type
