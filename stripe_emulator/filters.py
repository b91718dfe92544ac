"""List filters: which objects the parameters of a request select.

Parsing and validating parameters belongs to `parameters`; paging and time ranges of `created` to `store`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from stripe_emulator import parameters
from stripe_emulator.access import Access
from stripe_emulator.errors import StripeError
from stripe_emulator.store import Json, reference
from stripe_emulator.types import BY_OBJECT, TYPES, EmulatedType

Condition = Callable[[str, Json], bool]
"""Whether an object, given its id and content, belongs to the list."""


def condition(access: Access, emulated_type: EmulatedType, params: Json) -> Condition | None:
    """Returns the condition for objects of a list; None if the parameters select all."""
    if emulated_type.name == "events":
        return _event_condition(params, access.shop.clock.now())
    conditions = _conditions(access, emulated_type, params)
    if len(conditions) < 2:
        return conditions[0] if conditions else None
    return lambda object_id, obj: all(meets(object_id, obj) for meets in conditions)


def check_targets(access: Access, emulated_type: EmulatedType, params: Json) -> None:
    """Refuse filters that name a nonexistent object."""
    for name in emulated_type.filters:
        target = TYPES[emulated_type.owner] if emulated_type.owner else BY_OBJECT.get(name)
        if target is None or name not in params:
            continue
        object_id = params[name]
        if not access.holds(target.name, object_id) and not access.is_deleted(target.name, object_id):
            raise access.missing(target.name, object_id, param=name, status=400)


def _conditions(access: Access, emulated_type: EmulatedType, params: Json) -> list[Condition]:
    paid_by = parameters.payment(params) if emulated_type.name == "invoice_payments" else None
    equal = {
        name: parameters.text(params, name) for name in emulated_type.filters if name in params and name != "payment"
    }
    parameters.choices(equal, emulated_type.choices.items())
    conditions: list[Condition] = []
    # Stripe lists customers of a test clock only if the request names the clock.
    if emulated_type.name == "customers" and "test_clock" not in equal:
        conditions.append(lambda _, obj: obj.get("test_clock") is None)
    conditions += _of_catalog(emulated_type.name, equal)
    if payout := equal.pop("payout", None):
        _check_payout(access, payout)
        conditions.append(lambda object_id, _: access.shop.payout_of(object_id, access.livemode) == payout)
    if subscription := equal.pop("subscription", None):
        conditions.append(lambda _, obj: _subscription(obj) == subscription)
    if equal:
        conditions.append(lambda _, obj: _has(obj, equal))
    if paid_by:
        conditions.append(lambda _, obj: _has(obj["payment"], paid_by))
    times = [name for name in emulated_type.time_filters if name in params and name != "created"]
    return conditions + [_between(params, name) for name in times]


def equal_to(values: Json) -> Condition | None:
    """Returns the condition for objects whose fields have these values; None without values."""
    return (lambda _, obj: _has(obj, values)) if values else None


def _of_catalog(type_name: str, equal: Json) -> list[Condition]:
    """The conditions that Stripe adds to lists that would otherwise hold more; removes their filters from `equal`."""
    conditions: list[Condition] = []
    for name in ("active", "inclusive", "shippable"):
        if name in equal:
            wanted = equal.pop(name) == "true"
            conditions.append(lambda _, obj, name=name, wanted=wanted: obj.get(name) is wanted)  # type: ignore[misc]
        elif (type_name, name) == ("prices", "active"):
            conditions.append(lambda _, obj: obj["active"])
    if type_name == "prices":
        conditions.append(lambda _, obj: not obj.get("inline"))
    if type_name == "payment_methods":
        conditions.append(lambda _, obj: obj["customer"] is not None)
    if type_name == "promotion_codes" and (coupon := equal.pop("coupon", None)):
        conditions.append(lambda _, obj: reference(obj["promotion"]["coupon"]) == coupon)
    if type_name == "subscriptions":
        status = equal.pop("status", None)
        ended = ("canceled", "incomplete_expired")
        if status is None:
            conditions.append(lambda _, obj: obj["status"] != "canceled")
        elif status == "ended":
            conditions.append(lambda _, obj: obj["status"] in ended)
        elif status != "all":
            conditions.append(lambda _, obj: obj["status"] == status)
    return conditions


def _check_payout(access: Access, payout_id: str) -> None:
    """Refuse payouts of which Stripe lists no balance transactions."""
    if not access.holds("payouts", payout_id):
        raise access.missing("payouts", payout_id, param="payout", status=400)
    if not access.read("payouts", payout_id)["automatic"]:
        message = "Balance transaction history can only be filtered on automatic transfers, not manual."
        raise StripeError(400, message, param="payout")


def _event_condition(params: Json, now: float) -> Condition:
    patterns = [re.compile(".*".join(map(re.escape, kind.split("*")))) for kind in parameters.event_types(params)]

    def meets(_: str, event: Json) -> bool:
        if event["visible_at"] > now:
            return False
        return not patterns or any(pattern.fullmatch(event["type"]) for pattern in patterns)

    return meets


def _between(params: Json, name: str) -> Condition:
    since, until = parameters.time_range(params, name)
    earliest, end = since or 0, math.inf if until is None else until
    return lambda _, obj: obj.get(name) is not None and earliest <= obj[name] < end


def _has(obj: Json, values: Json) -> bool:
    return all(reference(obj.get(name)) == value for name, value in values.items())


def _subscription(invoice: Json) -> Any:
    details = (invoice.get("parent") or {}).get("subscription_details") or {}
    return reference(details.get("subscription") or invoice.get("subscription"))
