"""Listed objects that could not be read: the inbox retries them, and the report names them."""

from __future__ import annotations

from collections.abc import Mapping

from stripe_pipeline.errors import (
    ObjectsUnread,
    StripePipelineError,
)
from stripe_pipeline.inbox.notification import Notification
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.stripe_api.left_out import Unread
from stripe_pipeline.sync.context import Context

_SHOWN = 5  # ids in a sentence


class UnreadObjects:
    """The listed objects that could not be read in this run."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._api = context.api
        self._mode = context.mode
        self._inbox = context.inbox
        self._report = context.report
        self._readers = context.readers
        self._unread: dict[str, dict[str, Unread]] = {}
        """By table name and id."""
        self._given_up: set[str] = set()
        """Ids of events given up before this run met their objects."""

    def of(self, name: str) -> Mapping[str, Unread]:
        """The unread objects of a listed type, by id."""
        return self._unread.get(name, {})

    def notifications(self, name: str) -> list[Notification]:
        """The notifications for unread objects that no event named; the same notification for an object each time."""
        kind = OBJECT_TYPES[name].object
        return [
            Notification(
                event_id=f"read_{kind}_{unread.id}",
                account=self._mode.account,
                livemode=self._mode.livemode,
                object=kind,
                object_id=unread.id,
                object_created=unread.created,
                event_created=int(self._api.now()) if unread.created is None else unread.created,
            )
            for unread in self._unread.get(name, {}).values()
        ]

    def note(self, name: str, more: Mapping[str, Unread] | None = None) -> None:
        """Add the unread objects of this type's lists to the inbox, before the lists count as complete without them."""
        known = self._unread.setdefault(name, {})
        current = {**self._readers[name].unread, **(more or {})}
        if new := {object_id: unread for object_id, unread in current.items() if object_id not in known}:
            if not known:
                self._given_up |= {entry.notification.event_id for entry in self._inbox.dead()}
            known |= new
            self._inbox.add(self.notifications(name), again=True)

    def report(self, name: str, problems: Mapping[str, StripePipelineError]) -> None:
        """Fail the type for its unread objects, except those given up earlier: a note and a check report them."""
        reader = self._readers[name]
        given_up = {
            notification.object_id
            for notification in self.notifications(name)
            if notification.event_id in self._given_up
        }
        fresh = {object_id: error for object_id, error in problems.items() if object_id not in given_up}
        fresh |= {day.isoformat(): error for day, error in sorted(reader.unlisted.items())}
        if fresh and reader.object_type.name not in self._report.failures:
            self._context.fail(reader, ObjectsUnread(fresh))
        if given_up:
            self._report.note(
                f"{name}: {len(given_up)} objects still cannot be read and were given up:"
                f" {', '.join(sorted(given_up)[:_SHOWN])}; `stripe-pipeline webhooks retry` tries them again"
            )
