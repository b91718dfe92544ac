"""One run with one API key: scan events, read changed and missing objects, load them.

This module has the order of work for one key. Opening the stores and iterating over the keys belong to `pipeline`,
deciding what to read to `plan`, and the single steps to the modules that this one combines.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import date, timedelta
from hashlib import sha256

from stripe_pipeline.batch import Batch, Mode
from stripe_pipeline.days import DAY, day_of, day_start, days_between
from stripe_pipeline.errors import (
    RequestRefused,
    StripePipelineError,
    Unavailable,
)
from stripe_pipeline.inbox.notification import Notification
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.stripe_api.reader import Reader
from stripe_pipeline.sync.backfill import ask_the_time, stopped_backfill
from stripe_pipeline.sync.context import CLOCK_ERROR, EVENTS, Context
from stripe_pipeline.sync.days import Days
from stripe_pipeline.sync.events import EVENTS_KEPT, EventScan
from stripe_pipeline.sync.loading import Loading
from stripe_pipeline.sync.named import NamedTransactions
from stripe_pipeline.sync.notifications import Notifications
from stripe_pipeline.sync.plan import (
    BALANCE_TRANSACTIONS,
    FRESH,
    OVERLAP,
    SWEEP,
    days_to_sweep,
    oldest_kept,
    plan_type,
    sweep_budget,
    transactions_since,
)
from stripe_pipeline.sync.proving import Proving
from stripe_pipeline.sync.unread import UnreadObjects
from stripe_pipeline.warehouse.bookkeeping import Covered


class Run:
    """One run with one key."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._api = context.api
        self._mode = context.mode
        self._warehouse = context.warehouse
        self._inbox = context.inbox
        self._settings = context.settings
        self._report = context.report
        self._readers = context.readers
        self._asked_for = context.asked_for
        self._unread = UnreadObjects(context)
        self._loading = Loading(context, self._unread)
        self._events = EventScan(context)
        self._days = Days(context)
        self._named = NamedTransactions(context, self._loading)
        self.proving = Proving(context, self._loading)
        self._notifications = Notifications(context, self._unread, self._loading)

    def sync(self, days: set[date]) -> None:
        """Bring the tables up to date, and list `days` completely."""
        cursors = self._context.cursors
        first = EVENTS not in cursors
        scanned_at = self._events.take_first_cursor() if first else self._events.follow(cursors[EVENTS])
        now = self._api.now()
        with self._warehouse.session():
            moved_back = self._put_times_right()
            known = self._warehouse.state.cursors(self._mode) if moved_back else cursors
            if scanned_at is not None and not first and known[EVENTS] - OVERLAP < now - EVENTS_KEPT:
                self._forget_everything(now - known[EVENTS])
            self._loading.coverage = coverage = self._warehouse.state.coverage(self._mode)
            self._forget_disabled(coverage)
            due = self._warehouse.rows.pending_balance_transactions(self._mode, now)
            last_balance = self.proving.last_balance()
        if known.get(EVENTS) != cursors.get(EVENTS):
            scanned_at = self._events.scan(known[EVENTS])
        cursors = known

        kept = self._days.kept(coverage, now)
        to_list = self._days.to_list(days, kept, coverage, now, how="first load" if first else "sync")
        swept = cursors.get(SWEEP, -math.inf) <= now - DAY
        if swept:
            if not self._mode.account:
                # Once a day: the key may have been given the permission since.
                with suppress(Unavailable, RequestRefused):
                    self._api.account()
            days_to_sweep(
                to_list,
                kept,
                coverage,
                now,
                budget=sweep_budget(self._settings.enabled, self._settings.sweep.requests_a_month),
            )
        # No event announces balance transactions: every sync lists those made since the last one.
        looked = cursors.get(BALANCE_TRANSACTIONS, cursors.get(EVENTS))
        followed = cursors.get(EVENTS)
        notifications = self._notifications.waiting()
        batches, failed, bad = self._read_and_load(
            notifications,
            to_list,
            coverage,
            now,
            how="sync",
            young_since=None if followed is None else followed - OVERLAP,
            money_since=None if looked is None else looked - OVERLAP,
            due=due,
        )
        batches += self._events.batches()
        moved: dict[tuple[Mode, str], float] = {}
        self._loading.read_singletons(
            [name for name in _singletons(self._readers) if cursors.get(name, -math.inf) <= now - DAY], moved
        )
        if scanned_at is not None:
            moved[self._mode, EVENTS] = scanned_at
        if swept:
            moved[self._mode, SWEEP] = now
        if BALANCE_TRANSACTIONS in self._readers and BALANCE_TRANSACTIONS not in failed:
            # Of rows read since the last sync checked: a drain, or a run that was killed, may not have checked.
            named = self._named.lacking(since=(looked or now) - CLOCK_ERROR, days=to_list)
            looked_at = {(self._mode, BALANCE_TRANSACTIONS): scanned_at or now}
        else:
            named, looked_at = dict, {}
        unread: dict[str, int] = {}

        def end() -> dict[tuple[Mode, str], float]:
            unread.update(named())
            return {} if unread else moved | looked_at

        with self._warehouse.session():
            # The cursors move with the rows, unless a row names a transaction that is not stored.
            if not self._loading.load(batches, end):
                self._loading.load([], end)
            balance_is_due = bool(unread) or self.proving.balance_is_due(last_balance)
            for lacking in self._warehouse.state.lacking(self._mode):
                self._report.note(str(lacking))
        if unread:
            self._loading.load([], moved | looked_at if self._named.read(named, unread, how="sync") else moved)
        self._notifications.acknowledge(notifications, failed, bad)
        self._inbox.forget(applied_before=time.time() - self._settings.inbox.keep_days * DAY)
        if balance_is_due and BALANCE_TRANSACTIONS not in failed:
            self.proving.compare_balance()

    def drain(self, most: int, due: float) -> None:
        """Reread at most `most` objects of the notifications that may be tried at `due` (Unix seconds)."""
        notifications = self._notifications.waiting(due=due, most=most)
        if not notifications:
            return
        cursors = self._warehouse.state.cursors(self._mode)
        if EVENTS not in cursors:
            # Nothing was listed yet: the first load includes their changes.
            self._notifications.acknowledge(notifications, {}, {})
            return
        now = self._api.now()
        batches, failed, bad = self._read_and_load(
            notifications,
            {name: {} for name in self._readers},
            self._warehouse.state.coverage(self._mode),
            now,
            how="webhook",
            young_since=now - FRESH,
            money_since=transactions_since(notifications, looked=cursors.get(BALANCE_TRANSACTIONS, cursors[EVENTS])),
        )
        named = self._named.lacking(since=now - CLOCK_ERROR, days={})
        with self._warehouse.session():
            self._loading.load(batches)
            unread = {} if BALANCE_TRANSACTIONS in failed else named()
        self._named.read(named, unread, how="webhook")
        self._notifications.acknowledge(notifications, failed, bad)

    def _read_and_load(
        self,
        notifications: Mapping[str, Sequence[Notification]],
        to_list: dict[str, dict[date, str]],
        coverage: Mapping[tuple[str, date], Covered],
        now: float,
        *,
        how: str,
        young_since: float | None,
        money_since: float | None,
        due: Iterable[tuple[str, int]] = (),
    ) -> tuple[list[Batch], dict[str, StripePipelineError], dict[str, dict[str, StripePipelineError]]]:
        """Read the days `to_list`, the objects of `notifications`, the balance transactions made since `money_since`
        and those that are `due`. Lists are loaded as they arrive.

        Returns the batches left to load, the failed types, and the failed single objects, by table name.
        """
        oldest = {
            name: oldest_kept(reader.object_type, self._settings, coverage) for name, reader in self._readers.items()
        }
        wanted = self._notifications.wanted(notifications, due, oldest)
        plans = {}
        for name in self._readers:
            plans[name] = plan_type(
                self._readers[name].object_type,
                wanted[name],
                to_list[name],
                coverage,
                now,
                young_since=young_since,
            )
            to_list[name] |= dict.fromkeys(plans[name].days, how)
        failed = self._loading.list_days(to_list)
        if (
            money_since is not None
            and set(days_between(day_of(money_since), day_of(now))) <= to_list.get(BALANCE_TRANSACTIONS, {}).keys()
        ):
            money_since = None  # listed anyway
        reads = {}
        bad: dict[str, dict[str, StripePipelineError]] = {}
        batches: list[Batch] = []
        with ThreadPoolExecutor(len(self._readers), "read") as side_by_side:
            for name, reader in self._readers.items():
                since = money_since if name == BALANCE_TRANSACTIONS else None
                if name not in failed and (plans[name].ids or since is not None):
                    reads[name] = side_by_side.submit(
                        self._loading.read, reader, plans[name], since, oldest[name], notified=bool(wanted[name])
                    )
        for name, read in reads.items():
            try:
                left, bad[name] = read.result()
            except Exception as error:
                failed[name] = self._context.fail(self._readers[name], error)
            else:
                batches += left
            self._unread.note(name)
        return batches, failed, bad

    def _put_times_right(self) -> bool:
        """Correct stored times in the future, and add a note; whether there were any."""
        now = self._api.now()
        ahead = self._warehouse.state.put_times_right(
            self._mode,
            now=now,
            clock=self._api.clock.read(),
            # A little later than the oldest events that Stripe keeps; otherwise all days would be listed again.
            events_since=int(now) - EVENTS_KEPT + OVERLAP + 3600,
        )
        if ahead is None:
            return False
        self._report.note(_times_corrected(ahead))
        return True

    def _forget_everything(self, gap: float) -> None:
        """Mark all days incomplete: Stripe's events do not cover the changes made before the oldest event."""
        self._report.note(
            f"The last sync was {gap / DAY:.0f} days ago and Stripe keeps events for 30 days:"
            " the whole history is listed again"
        )
        self._warehouse.state.forget_coverage(self._mode, OBJECT_TYPES)

    def _forget_disabled(self, coverage: dict[tuple[str, date], Covered]) -> None:
        """Forget the coverage of disabled tables: they miss changes, so enabling one relists it."""
        enabled = {object_type.name for object_type in self._settings.enabled}
        complete = {table for (table, day), covered in coverage.items() if covered.listed_at > day_start(day)}
        if disabled := complete - enabled:
            self._warehouse.state.forget_coverage(self._mode, disabled)

    def backfill(self, days: set[date]) -> None:
        """List `days` completely, or those that the same backfill has not listed yet if it was stopped."""
        wanted = {name: self._days.within(name, days) for name in self._asked_for}
        request = sha256(f"{sorted(self._asked_for)} {sorted(days)}".encode()).hexdigest()
        if EVENTS not in self._context.cursors:
            self._events.take_first_cursor()
        else:
            _, listed = stopped_backfill(self._context, request, wanted, self._api.now()) or (None, {})
            ask_the_time(self._context, {name: wanted[name] - listed.get(name, set()) for name in wanted})
        with self._warehouse.session():
            self._put_times_right()
            now = self._api.now()
            began, listed = stopped_backfill(self._context, request, wanted, now) or (now, {})
            if began == now:
                self._warehouse.state.begin_backfill(self._mode, request, now)
            self._loading.coverage = self._warehouse.state.coverage(self._mode)
        to_list = {}
        for name in self._asked_for:
            done = listed.get(name, set())
            if done:
                self._report.note(
                    f"{name}: continuing where the same backfill stopped, with {len(done)} of {len(wanted[name])} days"
                    " already listed. Once it has ended, the same command lists all of them again"
                )
            to_list[name] = dict.fromkeys(wanted[name] - done, "backfill")
        failed = self._loading.list_days(to_list)
        self._loading.read_singletons([name for name in _singletons(self._readers) if name in self._asked_for], {})
        named = self._named.lacking(since=began - CLOCK_ERROR, days=wanted)
        if not failed and self._named.read(named, named(), how="backfill"):
            self._warehouse.state.end_backfill(self._mode, request)
        self._notifications.acknowledge({}, failed, {})


def _times_corrected(ahead: float) -> str:
    return (
        f"The warehouse held times up to {timedelta(seconds=round(ahead))} ahead of Stripe's clock, left by a wrong"
        " Date header or clock. They were corrected: days that may be incomplete are listed again, and if the event"
        " cursor was wrong, the last 30 days of events are read again"
    )


def _singletons(readers: Mapping[str, Reader]) -> list[str]:
    return [name for name, reader in readers.items() if reader.object_type.singleton]
