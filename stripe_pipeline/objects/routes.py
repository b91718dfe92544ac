"""Routes: which objects to read again after an event, by the object that the event carries.

They follow from the declarations: nothing is declared here. `inbox.notification` applies them to an event.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stripe_pipeline.objects import BY_STRIPE_OBJECT, OBJECT_TYPES, ObjectType, family_of

SEPARATOR = ":"
"""What separates an event's id from a route's suffix; in no id of Stripe's."""


@dataclass(frozen=True)
class Route:
    """One object to read again: what it is for, and where an event's object has its id."""

    table: str
    """The table whose rows may have changed; the route is taken only if the table is on."""
    object: str
    """Stripe's `object` value of the object to read."""
    fields: tuple[str, ...] = ()
    """Dotted paths of the id in the event's object, of which the first that is there counts; none if the event carries
    the object itself."""
    suffix: str = ""
    """Tells the notification apart from others of the same event."""

    def id_in(self, carried: Mapping[str, Any]) -> Any:
        """The id of the object to read, in an event's object; None if the event's object names none."""
        if not self.fields:
            return carried.get("id")
        named = (_id_at(carried, field.split(".")) for field in self.fields)
        return next((object_id for object_id in named if object_id is not None), None)


def _id_at(carried: Mapping[str, Any], path: list[str]) -> Any:
    value: Any = carried
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value.get("id") if isinstance(value, dict) else value


def _of_type(object_type: ObjectType) -> Iterator[tuple[str, Route]]:
    """The routes that lead to rows of a type, each with the object that the event carries."""
    if object_type.singleton:
        return  # its rows are readings, which no event makes
    name, read = object_type.name, family_of(object_type).object
    if BY_STRIPE_OBJECT.get(object_type.object) is object_type:
        yield object_type.object, Route(name, read)
    elif object_type.parent and object_type.events:
        yield object_type.object, Route(name, read, (f"{object_type.parent_key}",))
    for announcement in object_type.announcements:
        yield announcement.object, Route(name, read, announcement.fields)


def _routes() -> dict[str, tuple[Route, ...]]:
    routes: dict[str, list[Route]] = {}
    for carried, route in (found for object_type in OBJECT_TYPES.values() for found in _of_type(object_type)):
        routes.setdefault(carried, []).append(route)
    return {carried: tuple(_told_apart(to)) for carried, to in routes.items()}


def _told_apart(routes: list[Route]) -> Iterator[Route]:
    """The routes of one kind of event, to the event's own object first."""
    ordered = sorted(routes, key=lambda route: bool(route.fields))
    for route in ordered:
        suffix = "" if route.object == ordered[0].object else f"{SEPARATOR}{route.object}"
        yield Route(route.table, route.object, route.fields, suffix)


ROUTES: Mapping[str, tuple[Route, ...]] = _routes()
"""By `data.object.object` of an event. An event's name does not say which object it carries
(docs/stripe.md#events), so nothing routes by name."""
