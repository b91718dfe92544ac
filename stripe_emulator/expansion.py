"""Expansion: replacing ids with the objects to which the ids refer.

Docs: https://docs.stripe.com/expand. `types` declares which lists an object can include.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stripe_emulator.access import Access
from stripe_emulator.errors import StripeError
from stripe_emulator.shop import EMBEDDED
from stripe_emulator.store import Json, Window
from stripe_emulator.types import BY_OBJECT, IncludedList, type_of
from stripe_pipeline.objects import OBJECT_TYPES

_REFERENCES = frozenset(
    column.name
    for object_type in OBJECT_TYPES.values()
    if not object_type.generated
    for column in object_type.columns
    if column.kind.names_object
) | {"balance_transactions", "discounts"}
_INCLUDABLE = frozenset(
    (
        *("cash_balance", "confirmation_secret", "data", "discount", "invoice_credit_balance", "items", "line_items"),
        *("lines", "payments", "refunds", "sources", "subscriptions", "tax", "tax_ids"),
    )
)
"""Fields that callers can expand although the fields hold no id."""


def expand(access: Access, body: Json, paths: Iterable[str], *, listed: bool) -> None:
    """Expand the `paths` of a body in place; `listed`: the body is a list, with its objects under `data`."""
    for path in paths:
        names = path.split(".")
        if len(names) > 4 + listed:
            raise StripeError(400, "You cannot expand more than 4 levels of a property.", param="expand")
        _expand(access, body, names, path)


def list_of(data: list[Json], more: bool, url: str) -> Json:
    """Returns a list in Stripe's format."""
    return {"object": "list", "data": data, "has_more": more, "url": url}


def _expand(access: Access, value: Any, names: list[str], path: str) -> None:
    if not names or value is None:
        return
    if isinstance(value, list):
        for entry in value:
            _expand(access, entry, names, path)
        return
    name = names[0]
    if not isinstance(value, dict) or (
        name not in _REFERENCES and name not in _INCLUDABLE and not isinstance(value.get(name), dict)
    ):
        raise StripeError(400, f"This property cannot be expanded ({path}).", param="expand")
    expanded = value.get(name)
    if name == "discounts" and isinstance(expanded, list):
        shop = access.shop
        expanded = value[name] = [
            shop.discount(entry, access.livemode) if isinstance(entry, str) else entry for entry in expanded
        ]
    if isinstance(expanded, str):
        # Customer ids may be chosen by the shop.
        type_name = "customers" if name == "customer" else type_of(expanded)
        expanded = value[name] = _expanded(access, expanded, type_name)
    elif not isinstance(expanded, dict) and (included := _included(value, name)) is not None:
        expanded = value[name] = _included_list(access, included, value["id"])
    if isinstance(expanded, dict | list):
        _expand(access, expanded, names[1:], path)


def _expanded(access: Access, object_id: str, type_name: str | None) -> Any:
    if type_name is None:
        return object_id
    if not access.is_deleted(type_name, object_id):
        if not access.holds(type_name, object_id):
            return object_id
        access.permit(type_name)
    return access.read(type_name, object_id)


def _included(obj: Json, name: str) -> IncludedList | None:
    kind = obj.get("object")
    emulated_type = BY_OBJECT.get(kind) if isinstance(kind, str) else None
    return emulated_type.included.get(name) if emulated_type else None


def _included_list(access: Access, included: IncludedList, object_id: str) -> Json:
    collection = access.collection(included.type_name)
    among = collection.with_value(included.reference, object_id)
    ids, more = collection.page(Window(limit=EMBEDDED), among=among)
    data = [access.read(included.type_name, included_id) for included_id in ids]
    return list_of(data, more, included.url.format(id=object_id))
