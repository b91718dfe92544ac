"""The scan of Stripe's events: where it starts, and what it adds to the inbox."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from stripe_pipeline.batch import Batch
from stripe_pipeline.days import DAY
from stripe_pipeline.errors import (
    AuthenticationFailed,
    BadObject,
    Cancelled,
    StripePipelineError,
    Unavailable,
)
from stripe_pipeline.inbox.notification import Notification, notifications_of
from stripe_pipeline.objects import BY_STRIPE_OBJECT
from stripe_pipeline.stripe_api.client import Page
from stripe_pipeline.stripe_api.listing import newest_first
from stripe_pipeline.sync.context import EVENTS, Context
from stripe_pipeline.sync.plan import (
    OVERLAP,
)

EVENTS_KEPT = 30 * DAY  # docs/stripe.md#events


class EventScan:
    """The scan of events in one run with one key."""

    def __init__(self, context: Context) -> None:
        self._api = context.api
        self._mode = context.mode
        self._warehouse = context.warehouse
        self._inbox = context.inbox
        self._settings = context.settings
        self._report = context.report
        self._identity = context.identity
        self._context = context
        # The table of events, if the settings switch it on, takes the events from the scan.
        self._reader = context.readers.get(EVENTS)
        self._batch = self._reader.batch() if self._reader else None

    def take_first_cursor(self) -> float:
        """Set the event cursor before any list starts, so that the next sync sees all changes made in between."""
        started = self._api.get("/v1/events", {"limit": 1}).sent_at
        self._warehouse.load([], cursors={(self._mode, EVENTS): started}, clock=self._api.clock.read())
        return started

    def follow(self, cursor: float) -> float | None:
        """Add the events since `cursor` to the inbox, or all that Stripe still keeps if the inbox is new; returns when
        the scan began, or None if it failed."""
        if self._inbox.is_complete(self._identity, self._mode.livemode):
            return self.scan(cursor)
        started = self.scan(min(cursor, self._api.now() - EVENTS_KEPT))
        if started is not None:
            failing = [
                Notification(event_id, self._mode.account, livemode, name, object_id, None, received)
                for event_id, livemode, name, object_id, received in self._warehouse.state.failing()
                if name in BY_STRIPE_OBJECT
            ]
            put_back = self._inbox.add(failing)
            # Last of all: if this run is killed earlier, the next one starts over.
            self._inbox.completed(self._mode.livemode)
            self._report.note(
                "The inbox was new: Stripe's events of the last 30 days were read again"
                + (f", and {put_back} older notifications that had failed are tried again" if put_back else "")
            )
        return started

    def scan(self, cursor: float) -> float | None:
        """Add the events since `cursor` to the inbox; returns when the scan began, None on failure."""
        started: float | None = None
        enabled = {object_type.name for object_type in self._settings.enabled}
        try:
            for page in newest_first(self._api, "/v1/events", since=int(cursor) - OVERLAP):
                started = page.sent_at if started is None else started
                self._keep(page, int(cursor) - OVERLAP)
                self._inbox.add([of for event in page.objects for of in self._notifications_of(event, enabled)])
        except (AuthenticationFailed, Cancelled):
            raise
        except StripePipelineError as error:
            if isinstance(error, Unavailable) and error.status is None:
                raise  # No answer at all: the other requests would wait as long and fail as well.
            self._report.failures[EVENTS] = error
            return None
        return started

    def batches(self) -> list[Batch]:
        """The scanned events, to be loaded if their table is on."""
        return [self._batch] if self._batch and self._batch.files else []

    def _keep(self, page: Page, since: int) -> None:
        if self._reader and self._batch:
            try:
                self._reader.take(page, self._batch, since=since)
            except OSError as error:
                self._context.fail(self._reader, error)

    def _notifications_of(self, event: dict[str, Any], enabled: Collection[str]) -> list[Notification]:
        try:
            return notifications_of(event, self._mode, enabled)
        except BadObject as error:
            self._report.note(str(error))
            return []
