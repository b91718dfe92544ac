"""Adding, changing and removing objects of any type, with the corresponding events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stripe_emulator.shop.events import Events
from stripe_emulator.shop.state import Moment, deep_copy, locked
from stripe_emulator.store import Json, reference
from stripe_emulator.types import BY_OBJECT, PART_OF, TYPES


class Changes(Events):
    """Actions on objects of any type."""

    @locked
    def update(
        self,
        type_name: str,
        object_id: str,
        announce: bool = True,
        *,
        livemode: bool | None = None,
        created: int | None = None,
        **fields: Any,
    ) -> Json:
        """Replace fields of any object, with Stripe's events for the change; some types have no such events."""
        moment = self._moment_of(type_name, object_id, {"livemode": livemode, "created": created, "announce": announce})
        return self._change(type_name, object_id, moment, TYPES[type_name].update_events, **fields)

    @locked
    def vanish(self, type_name: str, object_id: str, *, livemode: bool | None = None) -> None:
        """Remove an object, and what can be read only with it, without any event."""
        self._remove(type_name, object_id, self._mode(type_name, object_id, livemode))

    @locked
    def put(
        self,
        obj: Json,
        *,
        livemode: bool | None = None,
        created: int | None = None,
        type_name: str | None = None,
    ) -> Json:
        """Add or replace an object exactly as given, without events or settlement; returns the object.

        `type_name` is needed if several types have such objects. An object that does not name the object it belongs to
        gets that id here: the API does not show the id (`EmulatedType.hidden`).

        `created` sets the position in the list (default: the object's own, or now). Lines embedded in an invoice
        replace the invoice's lines unless `has_more` is set; a line is added to its `invoice`; the stub of a deleted
        customer deletes the customer.
        """
        obj = deep_copy(obj)
        mode = bool(obj.get("livemode", False)) if livemode is None else livemode
        side = self._sides[mode]
        at = self._at(obj.get("created") if created is None else created)
        kind = obj["object"]
        if kind == "line_item":
            lines = side.lines.setdefault(reference(obj["invoice"]), {})
            lines[obj["id"]] = obj
            side.objects["invoices"].rendered.pop(reference(obj["invoice"]), None)
            return obj
        if kind == "event":
            self._keep_event(obj, mode, at)
            return obj
        if kind == "customer" and obj.get("deleted"):
            if obj["id"] in side.objects["customers"]:
                side.objects["customers"].remove(obj["id"])
            side.deleted_customers.add(obj["id"])
            return obj
        if kind == "invoice" and isinstance(obj.get("lines"), dict):
            embedded = {line["id"]: line for line in obj["lines"].get("data", [])}
            earlier = side.lines.get(obj["id"], {}) if obj["lines"].get("has_more") else {}
            side.lines[obj["id"]] = earlier | embedded
        side.deleted_customers.discard(obj["id"])
        side.objects[type_name or BY_OBJECT[kind].name].put(obj["id"], obj, at)
        return obj

    def _add(self, type_name: str, obj: Json, moment: Moment, events: Iterable[str] = ()) -> Json:
        """Add an object created at this moment."""
        self._sides[moment.livemode].objects[type_name].put(obj["id"], obj, moment.at)
        self._outdate_owner(type_name, obj, moment.livemode)
        self._announce(events, type_name, obj["id"], moment)
        return self._shown(type_name, obj["id"], moment.livemode)

    def _change(
        self, type_name: str, object_id: str, moment: Moment, events: Iterable[str] = (), **fields: Any
    ) -> Json:
        """Replace fields of an object."""
        before = self._stored(type_name, object_id, moment.livemode)
        after = before | fields
        self._sides[moment.livemode].objects[type_name].change(object_id, after)
        self._outdate_owner(type_name, after, moment.livemode)
        self._announce(events, type_name, object_id, moment, _difference(before, after))
        return self._shown(type_name, object_id, moment.livemode)

    def _remove(self, type_name: str, object_id: str, livemode: bool) -> Json:
        """Remove and return an object, and what the API shows only as a part of the object."""
        side = self._sides[livemode]
        removed = side.objects[type_name].remove(object_id)
        self._outdate_owner(type_name, removed, livemode)
        if type_name == "invoices":
            side.lines.pop(object_id, None)
        if type_name == "customers":
            transactions = side.objects["customer_balance_transactions"]
            for transaction in list(transactions.with_value("customer", object_id)):
                transactions.remove(transaction)
        return removed

    def _outdate_owner(self, type_name: str, obj: Json, livemode: bool) -> None:
        """Forget the JSON of the object that holds the first objects of this type."""
        if type_name in PART_OF:
            owner, field = PART_OF[type_name]
            self._sides[livemode].objects[owner].rendered.pop(reference(obj[field]), None)


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Json:
    """Returns the `previous_attributes` of a change: the old values of changed fields, recursively."""
    changed: Json = {}
    for name in before.keys() | after.keys():
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        changed[name] = _difference(old, new) if isinstance(old, dict) and isinstance(new, dict) else old
    return changed
