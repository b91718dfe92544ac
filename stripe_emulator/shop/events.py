"""Events: announcing changes, listing visible events, and notifying listeners at once.

Sending events belongs to `stripe_emulator.webhooks`.
"""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from stripe_emulator import templates
from stripe_emulator.clock import DAY
from stripe_emulator.shop.state import Moment, State, locked, random_text
from stripe_emulator.store import Json

EVENTS_KEPT = 30 * DAY
"""Seconds for which Stripe keeps events."""


class Events(State):
    """Creates and reads events."""

    @locked
    def events(self, livemode: bool) -> list[Json]:
        """Returns the events visible now, newest first."""
        events = self.collection("events", livemode)
        return [orjson.loads(events.rendered[event]) for event in events if self.event_is_visible(event, livemode)]

    @locked
    def event_body(self, event_id: str, livemode: bool) -> bytes:
        """Returns an event as JSON, visible or not; raises KeyError if the event does not exist."""
        return self._sides[livemode].objects["events"].rendered[event_id]

    @locked
    def mode_of_event(self, event_id: str) -> bool:
        """Whether an event is in live mode; raises KeyError if the event does not exist."""
        return self._mode("events", event_id, None)

    def event_is_visible(self, event_id: str, livemode: bool) -> bool:
        """Whether an event is already visible and still retained."""
        events = self._sides[livemode].objects["events"]
        now = self.clock.now()
        return bool(events.objects[event_id]["visible_at"] <= now <= events.created(event_id) + EVENTS_KEPT)

    @locked
    def emit_event(
        self,
        kind: str,
        obj: Json | orjson.Fragment,
        *,
        livemode: bool,
        created: int | None = None,
        visible_after: float | None = None,
        previous_attributes: Json | None = None,
    ) -> Json:
        """Add an event with the current state of `obj`, visible `visible_after` seconds after its `created`.

        `obj` is an object as the API shows it, or its JSON.
        """
        at = self._at(created)
        data: Json = {"object": obj}
        if previous_attributes is not None:
            data["previous_attributes"] = previous_attributes
        listening = len(self._listening(kind, livemode))
        event_id = self._event_id()
        event = templates.event(event_id, at, livemode, kind, data, listening)
        if self._is_forgotten(at):
            return event
        self._keep_event(event, livemode, at, self.event_delay if visible_after is None else visible_after)
        for listener in self.event_listeners if not self._seeding else ():
            listener(event_id, livemode)
        return event

    def _announce(
        self, kinds: Iterable[str], type_name: str, object_id: str, moment: Moment, previous: Json | None = None
    ) -> None:
        """Add an event of each kind with the current object; `previous` holds the old values of changed fields."""
        for kind in kinds if moment.announce else ():
            if self._is_forgotten(moment.at):
                self._event_id()  # Later events have the same ids whenever the history ends.
                continue
            changed = previous if kind.endswith(("updated", "refunded", "closed", "captured")) else None
            obj = orjson.Fragment(self.render(type_name, object_id, moment.livemode))
            self.emit_event(kind, obj, livemode=moment.livemode, created=moment.at, previous_attributes=changed)

    def _event_id(self) -> str:
        return f"evt_1{random_text(self._event_random, 23)}"

    def _is_forgotten(self, created: int) -> bool:
        """Whether Stripe no longer keeps events of this time, in Unix seconds."""
        return created + EVENTS_KEPT < self.clock.now()

    def _listening(self, kind: str, livemode: bool) -> list[str]:
        """Returns the ids of enabled webhook endpoints subscribed to this kind."""
        if self._seeding:
            return []
        return [
            endpoint_id
            for endpoint_id, endpoint in self._sides[livemode].objects["webhook_endpoints"].objects.items()
            if endpoint["status"] == "enabled" and not {"*", kind}.isdisjoint(endpoint["enabled_events"])
        ]

    def _keep_event(self, event: Json, livemode: bool, at: int, visible_after: float = 0.0) -> None:
        row = {"id": event["id"], "type": event["type"], "visible_at": at + visible_after}
        events = self._sides[livemode].objects["events"]
        events.put(event["id"], row, at)
        # Rendered here: later changes to the object must not change the event.
        events.rendered[event["id"]] = orjson.dumps(event)
