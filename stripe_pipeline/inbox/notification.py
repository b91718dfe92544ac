"""Notifications: which object to read again, from an event or from a list."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from stripe_pipeline.errors import BadObject, shown
from stripe_pipeline.objects import ANNOUNCED_CHILDREN, BY_STRIPE_OBJECT, OBJECT_TYPES
from stripe_pipeline.rows import is_id

if TYPE_CHECKING:  # its module loads DuckDB, which the receiver's process does without
    from stripe_pipeline.batch import Mode
    from stripe_pipeline.identity import Identity


LARGEST = 2**53  # of a number in JSON
_SHOWN = 80  # characters of an invalid id in a message


class State(StrEnum):
    """The state of an unapplied notification, derived from its stored columns."""

    WAITING = "waiting"
    DEAD = "dead"


@dataclass(frozen=True)
class Notification:
    """A notification that an object was created, changed or deleted; it does not contain the object."""

    event_id: str
    account: str | None
    """The Stripe account; None if the event does not name it, as webhooks of an account itself do not."""
    livemode: bool
    object: str
    """Stripe's `data.object.object`, for example `charge`."""
    object_id: str
    object_created: int | None
    """Unix seconds, if the event says."""
    event_created: int


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


def notification_of(
    event: object, mode: Mode | None = None, tables: Collection[str] = OBJECT_TYPES.keys()
) -> Notification | None:
    """The notification of an event; `mode` is given if the mode of the events is known.

    None for events that concern none of `tables`: other objects, the invoice without an id of `invoice.upcoming`, thin
    events (`v2.core.event`), events of connected accounts, and values that are not events. Raises `BadObject` if the
    event names an object of one of the tables by an id that is not valid.
    """
    if not isinstance(event, dict) or event.get("object", "event") != "event":
        return None
    data = event.get("data")
    obj = data.get("object") if isinstance(data, dict) else None
    livemode = mode.livemode if mode else event.get("livemode")
    event_id, event_created = event.get("id"), _seconds(event.get("created"))
    if not isinstance(obj, dict) or not isinstance(livemode, bool) or event_created is None:
        return None
    # Only events of connected accounts name the account (docs/stripe.md#webhooks).
    if event.get("account") is not None and (mode is None or event["account"] != mode.account):
        return None
    name, object_id, object_created = obj.get("object"), obj.get("id"), _seconds(obj.get("created"))
    if isinstance(name, str) and name in ANNOUNCED_CHILDREN:
        child = ANNOUNCED_CHILDREN[name]
        if child.name not in tables:
            return None
        parent = obj.get(f"{child.parent_key}")
        name, object_created = OBJECT_TYPES[f"{child.parent}"].object, None
        object_id = parent.get("id") if isinstance(parent, dict) else parent
    if not isinstance(name, str) or name not in BY_STRIPE_OBJECT or not is_id(event_id):
        return None
    if BY_STRIPE_OBJECT[name].name not in tables:
        return None
    if not is_id(object_id):
        if object_id is None and event.get("type") == "invoice.upcoming":
            return None
        invalid = repr(object_id[:_SHOWN]) if isinstance(object_id, str) else shown(object_id)
        raise BadObject(
            f"The event {event_id} names an object of type {name} with an invalid id: {invalid}",
            "Report this with the event; a backfill of the day on which the object was created reads the object",
        )
    return Notification(
        event_id=str(event_id),
        account=mode.account if mode else None,
        livemode=livemode,
        object=name,
        object_id=str(object_id),
        object_created=object_created,
        event_created=event_created,
    )


def _seconds(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < LARGEST else None
