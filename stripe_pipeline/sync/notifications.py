"""Notifications waiting in the inbox: which objects they ask to read, and the outcome of each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from stripe_pipeline.errors import (
    OutOfTime,
    StripePipelineError,
)
from stripe_pipeline.inbox.notification import Notification
from stripe_pipeline.objects import BY_STRIPE_OBJECT
from stripe_pipeline.sync.context import Context
from stripe_pipeline.sync.loading import Loading
from stripe_pipeline.sync.plan import (
    BALANCE_TRANSACTIONS,
)
from stripe_pipeline.sync.unread import UnreadObjects


class Notifications:
    """The notifications of one run with one key."""

    def __init__(self, context: Context, unread: UnreadObjects, loading: Loading) -> None:
        self._context = context
        self._unread = unread
        self._loading = loading
        self._mode = context.mode
        self._inbox = context.inbox
        self._report = context.report
        self._readers = context.readers

    def waiting(self, *, due: float = math.inf, most: int | None = None) -> dict[str, list[Notification]]:
        """The waiting notifications by table name: all, or those that may be tried at `due` (Unix seconds), for at
        most `most` objects."""
        waiting: dict[str, list[Notification]] = {}
        objects: set[tuple[str, str]] = set()
        for notification in self._inbox.waiting(self._mode, now=due):
            key = (notification.object, notification.object_id)
            if most is None or key in objects or len(objects) < most:
                objects.add(key)
                waiting.setdefault(BY_STRIPE_OBJECT[notification.object].name, []).append(notification)
        return waiting

    def wanted(
        self,
        notifications: Mapping[str, Sequence[Notification]],
        due: Iterable[tuple[str, int]],
        oldest: Mapping[str, int],
    ) -> dict[str, dict[str, int | None]]:
        """The objects to reread, with their `created` where known: those that notifications name, and balance
        transactions that are `due`. Objects made before their type's `oldest` (Unix seconds) are left out: a change
        does not add them."""
        wanted: dict[str, dict[str, int | None]] = {
            name: {
                notification.object_id: notification.object_created
                for notification in notifications.get(name, ())
                if notification.object_created is None or notification.object_created >= first
            }
            for name, first in oldest.items()
        }
        if BALANCE_TRANSACTIONS in wanted:
            wanted[BALANCE_TRANSACTIONS] |= dict(due)
        return wanted

    def acknowledge(
        self,
        notifications: Mapping[str, Sequence[Notification]],
        failed: Mapping[str, StripePipelineError],
        bad: Mapping[str, Mapping[str, StripePipelineError]],
    ) -> None:
        """Tell the inbox the outcome of its notifications.

        If the object read for a notification seems older than the stored one, the notification keeps waiting: another
        run may have read the object before the change, yet later by its estimate of Stripe's clock.
        """
        done: list[Notification] = []
        for name in {**self._readers, **notifications}:
            waiting = notifications.get(name, ())
            if name in failed:
                # Their objects are not at fault: they wait for as long as it takes.
                self._inbox.defer(waiting, failed[name])
            problems = {} if name in failed else dict(bad.get(name, {}))
            problems |= {object_id: unread.error for object_id, unread in self._unread.of(name).items()}
            late = {object_id: error for object_id, error in problems.items() if isinstance(error, OutOfTime)}
            problems = {object_id: error for object_id, error in problems.items() if object_id not in late}
            naming: dict[str, list[Notification]] = {}
            for notification in (*waiting, *self._unread.notifications(name)):
                naming.setdefault(notification.object_id, []).append(notification)
            for object_id, error in problems.items():
                self._inbox.failed(naming.get(object_id, ()), error)
            for object_id, error in late.items():
                self._inbox.defer(naming.get(object_id, ()), error)
                self._context.fail(self._readers[name], error)
            if name not in failed:
                again = problems.keys() | late.keys() | self._loading.refused.get(name, set())
                done += [notification for notification in waiting if notification.object_id not in again]
            if name in self._readers:
                self._unread.report(name, problems)
        self._inbox.applied(done, revision=self._loading.revision)
        if done:
            self._context.warehouse.proofs.forget_announced(done)
        self._report.applied += len({notification.event for notification in done})
