"""Notifications: which object to read again, from an event or from a list."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from stripe_pipeline.errors import BadObject, shown
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.objects.routes import ROUTES, SEPARATOR
from stripe_pipeline.rows import is_id

if TYPE_CHECKING:  # its module loads DuckDB, which the receiver's process does without
    from stripe_pipeline.batch import Mode
    from stripe_pipeline.identity import Identity


LARGEST = 2**53  # of a number in JSON
_WITHOUT_ID = "invoice.upcoming"
_SHOWN = 80  # characters of an invalid id in a message


class State(StrEnum):
    """The state of an unapplied notification, derived from its stored columns."""

    WAITING = "waiting"
    DEAD = "dead"


@dataclass(frozen=True)
class Notification:
    """A notification that an object was created, changed or deleted; it does not contain the object."""

    event_id: str
    """The event's id; if the event names several objects, followed by what tells their notifications apart."""
    account: str | None
    """The Stripe account; None if the event does not name it, as webhooks of an account itself do not."""
    livemode: bool
    object: str
    """Stripe's `data.object.object`, for example `charge`."""
    object_id: str
    object_created: int | None
    """Unix seconds, if the event says."""
    event_created: int

    @property
    def event(self) -> str:
        """The event's id."""
        return self.event_id.partition(SEPARATOR)[0]


@dataclass(frozen=True)
class Entry:
    """A notification and its state in the inbox."""

    notification: Notification
    received_at: float
    """Unix seconds, by the local clock."""
    attempts: int
    """How many attempts to read its object again have failed."""
    error: str | None
    """Why the last attempt failed."""
    not_before: float
    """Unix seconds before which the notification is not tried again."""
    state: State


@dataclass(frozen=True)
class Summary:
    """The unapplied notifications in numbers."""

    waiting: int
    dead: int
    oldest_waiting: float | None
    """When the longest-waiting one was received: Unix seconds."""


@dataclass(frozen=True)
class Claim:
    """A warehouse's claim on the inbox."""

    warehouse: Identity
    reopened: int | None = None
    """How many applied notifications wait again because the warehouse lacks, or may lack, the rows read for them; None
    unless the inbox belonged to another warehouse, or to a later state of this one."""


def notifications_of(
    event: object, mode: Mode | None = None, tables: Collection[str] = OBJECT_TYPES.keys()
) -> list[Notification]:
    """The notifications of an event, one for each object to read again; `mode` is given if the mode of the events is
    known.

    Empty for events that concern none of `tables`: other objects, the invoice without an id of `invoice.upcoming`, thin
    events (`v2.core.event`), events of connected accounts, and values that are not events. Raises `BadObject` if the
    event names an object of one of the tables by an id that is not valid.
    """
    if not isinstance(event, dict) or event.get("object", "event") != "event":
        return []
    data = event.get("data")
    obj = data.get("object") if isinstance(data, dict) else None
    livemode = mode.livemode if mode else event.get("livemode")
    event_id, event_created = event.get("id"), _seconds(event.get("created"))
    if not isinstance(obj, dict) or not isinstance(livemode, bool) or event_created is None or not is_id(event_id):
        return []
    # Only events of connected accounts name the account (docs/stripe.md#webhooks).
    if event.get("account") is not None and (mode is None or event["account"] != mode.account):
        return []
    name = obj.get("object")
    notifications: dict[tuple[str, str], Notification] = {}
    for route in ROUTES.get(name, ()) if isinstance(name, str) else ():
        object_id = route.id_in(obj)
        if route.table not in tables or (object_id is None and (route.fields or event.get("type") == _WITHOUT_ID)):
            continue
        if not is_id(object_id):
            invalid = repr(object_id[:_SHOWN]) if isinstance(object_id, str) else shown(object_id)
            raise BadObject(
                f"The event {event_id} names an object of type {route.object} with an invalid id: {invalid}",
                "Report this with the event; a backfill of the day on which the object was created reads the object",
            )
        notifications[route.object, object_id] = Notification(
            event_id=f"{event_id}{route.suffix}",
            account=mode.account if mode else None,
            livemode=livemode,
            object=route.object,
            object_id=object_id,
            object_created=None if route.fields else _seconds(obj.get("created")),
            event_created=event_created,
        )
    return [*notifications.values()]


def _seconds(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < LARGEST else None
