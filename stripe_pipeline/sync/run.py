"""One run with one API key: scan events, read what changed and what is missing, load it.

Here belongs the order of work for one key. Opening the stores and going through the keys belongs to `pipeline`, what to
read to `plan`.
"""

from __future__ import annotations

import gc
import math
import queue
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from stripe_pipeline.batch import Batch, Mode
from stripe_pipeline.days import DAY, day_of, day_start, days_between
from stripe_pipeline.errors import (
    ApiError,
    AuthenticationFailed,
    BadObject,
    Cancelled,
    ObjectsUnread,
    OutOfTime,
    RequestRefused,
    StripePipelineError,
    Unavailable,
    WarehouseError,
)
from stripe_pipeline.fields import FieldFilter
from stripe_pipeline.inbox.inbox import Inbox
from stripe_pipeline.inbox.notification import Poke, poke_of
from stripe_pipeline.objects import BY_STRIPE_OBJECT, OBJECT_TYPES, ObjectType
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.storage_errors import reason, remedy
from stripe_pipeline.stripe_api.client import StripeApi
from stripe_pipeline.stripe_api.listing import newest_first
from stripe_pipeline.stripe_api.reader import DayRead, Reader, Unread
from stripe_pipeline.sync.plan import (
    BALANCE_TRANSACTIONS,
    FRESH,
    OVERLAP,
    SWEEP,
    Plan,
    _covered_since,
    add_day,
    days_to_sweep,
    kept_days,
    loaded_before,
    plan_type,
    transactions_since,
    unlisted,
)
from stripe_pipeline.sync.report import Progress, Report
from stripe_pipeline.warehouse.bookkeeping import Covered, Identity
from stripe_pipeline.warehouse.warehouse import Warehouse

EVENTS = "events"
EVENTS_KEPT = 30 * DAY  # FACTS.md, Events
CLOCK_ERROR = 2  # seconds by which Stripe's clock may be ahead of what it is taken for (`ServerClock`)
RESUMED_WITHIN = 3600  # seconds since its last list in which a backfill that was stopped is gone on with
THREADS = 6  # of each listed type: 25 requests a second an endpoint, at 100 to 240 ms each
_ROWS_A_LOAD = 10_000
_SECONDS_A_LOAD = 3.0
_OBJECTS_A_COLLECTION = 5000  # of Python's, between two looks for cycles
_SHOWN = 5  # ids in a sentence


@contextmanager
def _few_collections() -> Iterator[None]:
    """Let Python look for cycles less often: Stripe's objects have none, and parsing takes twice as long with it."""
    threshold, *others = gc.get_threshold()
    gc.set_threshold(max(threshold, _OBJECTS_A_COLLECTION), *others)
    try:
        yield
    finally:
        gc.set_threshold(threshold, *others)


class Run:
    """One run with one key."""

    def __init__(
        self,
        api: StripeApi,
        warehouse: Warehouse,
        inbox: Inbox,
        settings: Settings,
        fields: FieldFilter,
        progress: Progress | None,
        mode: Mode,
        families: Mapping[str, ObjectType],
        asked_for: Collection[str],
        executors: Mapping[str, Executor],
        spool: Path,
        report: Report,
        identity: Identity,
    ) -> None:
        self._identity = identity
        self._revision = identity.revision
        self._warehouse = warehouse
        self._inbox = inbox
        self._progress = progress
        self._settings = settings
        self._api = api
        self._mode = mode
        self._report = report
        self._asked_for = asked_for
        self._refused: dict[str, set[str]] = {}
        self._unread: dict[str, dict[str, Unread]] = {}
        """What could not be read of lists and is in the inbox, by table name and id."""
        self._given_up: set[str] = set()
        """Ids of events that were dead before this run met what they name."""
        side = "live" if mode.livemode else "test"
        self._readers = {
            name: Reader(
                api,
                family,
                tuple(child for child in self._settings.enabled if child.parent == name),
                mode,
                fields,
                folder=spool / side / name,
                executor=executors[name],
            )
            for name, family in families.items()
        }

    def backfill(self, days: set[date]) -> None:
        cursors = self._warehouse.state.cursors(self._mode)
        kept = {name: self._kept(name, days) for name in self._asked_for}
        request = sha256(f"{sorted(self._asked_for)} {sorted(days)}".encode()).hexdigest()
        if EVENTS not in cursors:
            self._take_first_cursor()
        else:
            _, there = self._stopped_backfill(request, kept, self._api.now()) or (None, {})
            self._ask_the_time({name: them - there.get(name, set()) for name, them in kept.items()})
        self._put_times_right()
        now = self._api.now()
        began, there = self._stopped_backfill(request, kept, now) or (now, {})
        if began == now:
            self._warehouse.state.begin_backfill(self._mode, request, now)
        to_list = {}
        for name in self._asked_for:
            done = there.get(name, set())
            if done:
                self._report.note(
                    f"{name}: going on where the same backfill stopped, with {len(done)} of {len(kept[name])} days in;"
                    " once it has ended, the same backfill reads all of them again"
                )
            to_list[name] = dict.fromkeys(kept[name] - done, "backfill")
        failed = self._list(to_list)
        named = self._named(since=began - CLOCK_ERROR, days=kept)
        if not failed and self._read_named(named, named(), how="backfill"):
            self._warehouse.state.end_backfill(self._mode, request)
        self._settle({}, failed, {})

    def _stopped_backfill(
        self, request: str, kept: Mapping[str, Set[date]], now: float
    ) -> tuple[float, dict[str, set[date]]] | None:
        """When this backfill began that was stopped, and the days by table name that it listed; None where it begins
        anew: it was not begun, has ended, listed nothing for a while, or has nothing left."""
        stopped = self._warehouse.state.stopped_backfill(self._mode, request)
        if stopped is None or now - stopped.last_listed > RESUMED_WITHIN:
            return None
        coverage = self._warehouse.state.coverage(self._mode)
        there = {
            name: {
                day
                for day in kept[name]
                if all(_covered_since(stopped.began, coverage.get((table, day))) for table in reader.tables)
            }
            for name, reader in self._readers.items()
            if name in kept
        }
        return (stopped.began, there) if any(kept[name] - there[name] for name in kept) else None

    def _ask_the_time(self, days: Mapping[str, Collection[date]]) -> None:
        """Ask for something of these `days`, by table name, which are listed next: any answer tells what time it is at
        Stripe, which bounds the lists of today and all times that are stored. One type that cannot be read does not
        stop the others."""
        first = next((name for name, wanted in days.items() if wanted), None)
        if first is None:
            return
        window = {"created[gte]": day_start(min(days[first])), "created[lt]": day_start(max(days[first])) + DAY}
        try:
            self._api.get(f"{self._readers[first].object_type.endpoint}", {"limit": 1, **window})
        except (AuthenticationFailed, Cancelled):
            raise
        except ApiError as error:
            if error.status is None:
                raise  # No answer at all: the other requests would wait as long.

    def _put_times_right(self) -> bool:
        """Bring stored times that lie in the future back, and say so; whether there were any."""
        now = self._api.now()
        ahead = self._warehouse.state.put_times_right(
            self._mode,
            now=now,
            clock=self._api.clock.read(),
            # A little later than the oldest events that Stripe keeps, or everything would be listed again.
            events_since=int(now) - EVENTS_KEPT + OVERLAP + 3600,
        )
        if ahead is None:
            return False
        self._report.note(
            f"The warehouse held times up to {timedelta(seconds=round(ahead))} ahead of Stripe's clock, left by a wrong"
            " Date header or clock. They were put right: days that may be incomplete are listed again, and the last 30"
            " days of events are read again where the place up to which they had been read was wrong"
        )
        return True

    def tick(self, asked: set[date]) -> None:
        cursors = self._warehouse.state.cursors(self._mode)
        first = EVENTS not in cursors
        scanned_at = self._take_first_cursor() if first else self._follow_events(cursors[EVENTS])
        now = self._api.now()
        with self._warehouse.session():
            moved_back = self._put_times_right()
            known = self._warehouse.state.cursors(self._mode) if moved_back else cursors
            if scanned_at is not None and not first and known[EVENTS] - OVERLAP < now - EVENTS_KEPT:
                self._forget_everything(now - known[EVENTS])
            coverage = self._warehouse.state.coverage(self._mode)
            self._forget_disabled(coverage)
            due = self._warehouse.rows.pending_balance_transactions(self._mode, now)
        if known.get(EVENTS) != cursors.get(EVENTS):
            scanned_at = self._scan_events(known[EVENTS])
        cursors = known

        to_list = self._days_to_list(asked, coverage, now, how="first load" if first else "tick")
        swept = cursors.get(SWEEP, -math.inf) <= now - DAY
        if swept:
            if not self._mode.account:
                # Once a day: the key may have been given the permission meanwhile.
                with suppress(Unavailable, RequestRefused):
                    self._api.account()
            days_to_sweep(to_list, coverage, now, budget=self._settings.sweep.requests_a_month / 30)
        # No event announces balance transactions: those made since the last look are listed at every tick.
        looked = cursors.get(BALANCE_TRANSACTIONS, cursors.get(EVENTS))
        followed = cursors.get(EVENTS)
        pokes = self._waiting()
        batches, failed, bad = self._bring_in(
            pokes,
            to_list,
            coverage,
            now,
            how="tick",
            young_since=None if followed is None else followed - OVERLAP,
            money_since=None if looked is None else looked - OVERLAP,
            due=due,
        )
        moved = {}
        if scanned_at is not None:
            moved[self._mode, EVENTS] = scanned_at
        if swept:
            moved[self._mode, SWEEP] = now
        if BALANCE_TRANSACTIONS in self._readers and BALANCE_TRANSACTIONS not in failed:
            # Of rows that were read since the last tick looked: a drain, or a run that was killed, may not have.
            named = self._named(since=(looked or now) - CLOCK_ERROR, days=to_list)
            looked_at = {(self._mode, BALANCE_TRANSACTIONS): scanned_at or now}
        else:
            named, looked_at = dict, {}
        with self._warehouse.session():
            self._load(batches)
            if not (unread := named()):
                self._end_tick(moved | looked_at)
        if unread:
            self._end_tick(moved | looked_at if self._read_named(named, unread, how="tick") else moved)
        self._settle(pokes, failed, bad)
        self._inbox.forget(applied_before=time.time() - self._settings.inbox.keep_days * DAY)

    def drain(self, most: int, due: float) -> None:
        pokes = self._waiting(due=due, most=most)
        if not pokes:
            return
        cursors = self._warehouse.state.cursors(self._mode)
        if EVENTS not in cursors:
            # Nothing was listed yet: the first load finds what these tell.
            self._settle(pokes, {}, {})
            return
        now = self._api.now()
        batches, failed, bad = self._bring_in(
            pokes,
            {name: {} for name in self._readers},
            self._warehouse.state.coverage(self._mode),
            now,
            how="webhook",
            young_since=now - FRESH,
            money_since=transactions_since(pokes, looked=cursors.get(BALANCE_TRANSACTIONS, cursors[EVENTS])),
        )
        named = self._named(since=now - CLOCK_ERROR, days={})
        with self._warehouse.session():
            self._load(batches)
            unread = {} if BALANCE_TRANSACTIONS in failed else named()
        self._read_named(named, unread, how="webhook")
        self._settle(pokes, failed, bad)

    def _bring_in(
        self,
        pokes: Mapping[str, Sequence[Poke]],
        to_list: dict[str, dict[date, str]],
        coverage: Mapping[tuple[str, date], Covered],
        now: float,
        *,
        how: str,
        young_since: float | None,
        money_since: float | None,
        due: Iterable[tuple[str, int]] = (),
    ) -> tuple[list[Batch], dict[str, StripePipelineError], dict[str, dict[str, StripePipelineError]]]:
        """Read what is to be listed, what `pokes` name, the balance transactions made since `money_since` and those
        that are `due`. Lists are loaded as they come.

        Returns what is left to load, the types that failed, and the single objects that did, by table name.
        """
        oldest = {name: self._oldest(reader.object_type, coverage) for name, reader in self._readers.items()}
        wanted = self._wanted(pokes, due, oldest)
        plans = {}
        for name in self._readers:
            plans[name] = plan_type(name, wanted[name], to_list[name], coverage, now, young_since=young_since)
            to_list[name] |= dict.fromkeys(plans[name].days, how)
        failed = self._list(to_list)
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
                        self._read, reader, plans[name], since, oldest[name], poked=bool(wanted[name])
                    )
        for name, read in reads.items():
            try:
                found, bad[name] = read.result()
            except Exception as error:
                failed[name] = self._fail(self._readers[name], error)
            else:
                batches += found
            self._note_unread(name)
        return batches, failed, bad

    def _end_tick(self, cursors: dict[tuple[Mode, str], float]) -> None:
        self._load([], cursors)
        for lacking in self._warehouse.state.lacking(self._mode):
            self._report.note(str(lacking))

    def _named(self, *, since: float, days: Mapping[str, Collection[date]]) -> Callable[[], dict[str, int]]:
        """Finds the balance transactions that stored rows name and the table lacks, with `created` in Unix seconds.

        The rows looked at are those requested `since` then and those made on `days`, by table name. A transaction may
        appear long after its charge with the charge's `created`, where no list of what is new finds it (FACTS.md).
        """
        reader = self._readers.get(BALANCE_TRANSACTIONS)
        if reader is None:
            return dict
        return lambda: self._warehouse.rows.lacking_targets(self._mode, reader.object_type, since=since, days=days)

    def _read_named(self, named: Callable[[], dict[str, int]], wanted: Mapping[str, int], *, how: str) -> bool:
        """Read what `named` has just found, if anything; whether that worked."""
        if not wanted:
            return True
        reader = self._readers[BALANCE_TRANSACTIONS]
        coverage = self._warehouse.state.coverage(self._mode)
        plan = plan_type(BALANCE_TRANSACTIONS, wanted, (), coverage, self._api.now(), young_since=None)
        ids = plan.ids
        if plan.days:
            if self._list({BALANCE_TRANSACTIONS: dict.fromkeys(plan.days, how)}):
                return False
            ids = set(named())  # made on another day than what names it
        try:
            batch, bad = reader.read_again(ids, since=self._oldest(reader.object_type, coverage))
        except Exception as error:
            self._fail(reader, error)
            return False
        # The rows that name them are not looked at again: the inbox keeps asking.
        self._note_unread(
            BALANCE_TRANSACTIONS, {object_id: Unread(object_id, None, error) for object_id, error in bad.items()}
        )
        self._load([batch])
        return True

    def _settle(
        self,
        pokes: Mapping[str, Sequence[Poke]],
        failed: Mapping[str, StripePipelineError],
        bad: Mapping[str, Mapping[str, StripePipelineError]],
    ) -> None:
        """Tell the inbox how its pokes fared.

        What was read for a poke and then taken for older than what is known goes on waiting: another run may have read
        the object before it changed and yet a moment later by its idea of Stripe's clock.
        """
        done: list[Poke] = []
        for name in {**self._readers, **pokes}:
            them = pokes.get(name, ())
            if name in failed:
                # Nothing is wrong with what they name: they wait for as long as it takes.
                self._inbox.defer(them, failed[name])
            problems = {} if name in failed else dict(bad.get(name, {}))
            problems |= {object_id: it.error for object_id, it in self._unread.get(name, {}).items()}
            late = {object_id: error for object_id, error in problems.items() if isinstance(error, OutOfTime)}
            problems = {object_id: error for object_id, error in problems.items() if object_id not in late}
            naming: dict[str, list[Poke]] = {}
            for poke in (*them, *self._own_pokes(name)):
                naming.setdefault(poke.object_id, []).append(poke)
            for object_id, error in problems.items():
                self._inbox.failed(naming.get(object_id, ()), error)
            for object_id, error in late.items():
                self._inbox.defer(naming.get(object_id, ()), error)
                self._fail(self._readers[name], error)
            if name not in failed:
                again = problems.keys() | late.keys() | self._refused.get(name, set())
                done += [poke for poke in them if poke.object_id not in again]
            if name in self._readers:
                self._tell_of_unread(name, problems)
        self._inbox.applied(done, revision=self._revision)
        self._report.applied += len(done)

    def _own_pokes(self, name: str) -> list[Poke]:
        """What the inbox is told of objects that no event named and that could not be read; the same one each time."""
        kind = OBJECT_TYPES[name].object
        return [
            Poke(
                event_id=f"read_{kind}_{it.id}",
                account=self._mode.account,
                livemode=self._mode.livemode,
                object=kind,
                object_id=it.id,
                object_created=it.created,
                event_created=int(self._api.now()) if it.created is None else it.created,
            )
            for it in self._unread.get(name, {}).values()
        ]

    def _note_unread(self, name: str, more: Mapping[str, Unread] | None = None) -> None:
        """Put what could not be read of this type's lists into the inbox, before they count as complete without it."""
        known = self._unread.setdefault(name, {})
        found = {**self._readers[name].unread, **(more or {})}
        if new := {object_id: it for object_id, it in found.items() if object_id not in known}:
            if not known:
                self._given_up |= {entry.poke.event_id for entry in self._inbox.dead()}
            known |= new
            self._inbox.add(self._own_pokes(name), again=True)

    def _tell_of_unread(self, name: str, problems: Mapping[str, StripePipelineError]) -> None:
        """Fail the type for what could not be read, but for what was given up before: a note and a check tell of it."""
        reader = self._readers[name]
        given_up = {poke.object_id for poke in self._own_pokes(name) if poke.event_id in self._given_up}
        fresh = {object_id: error for object_id, error in problems.items() if object_id not in given_up}
        fresh |= {day.isoformat(): error for day, error in sorted(reader.unlisted.items())}
        if fresh and reader.object_type.name not in self._report.failures:
            self._fail(reader, ObjectsUnread(fresh))
        if given_up:
            self._report.note(
                f"{name}: {len(given_up)} still cannot be read and were given up:"
                f" {', '.join(sorted(given_up)[:_SHOWN])}; `stripe-pipeline webhooks retry` tries them again"
            )

    def _days_to_list(
        self, asked: set[date], coverage: Mapping[tuple[str, date], Covered], now: float, *, how: str
    ) -> dict[str, dict[date, str]]:
        """The days that each type must list, with the reason."""
        listed = {}
        for name, reader in self._readers.items():
            days = kept_days(reader.object_type, self._settings, coverage, now)
            listed[name] = dict.fromkeys(unlisted(reader.tables, days, coverage, now), how)
            listed[name] |= dict.fromkeys(self._kept(name, asked), "backfill")
        return listed

    def _kept(self, name: str, days: set[date]) -> set[date]:
        """Those of `days` that the settings keep; a note tells of the others."""
        first = self._settings.first_listed(self._settings.types[name])
        kept = {day for day in days if day >= first}
        if left_out := len(days) - len(kept):
            self._report.note(f"{name}: {left_out} days are older than what the settings keep, from {first} on")
        return kept

    def _forget_everything(self, gap: float) -> None:
        """Take nothing for complete any more: what changed before Stripe's events begin cannot be told by them."""
        self._report.note(
            f"The last tick was {gap / DAY:.0f} days ago and Stripe keeps events for 30 days:"
            " the whole history is listed again"
        )
        self._warehouse.state.forget_coverage(self._mode, OBJECT_TYPES)

    def _forget_disabled(self, coverage: dict[tuple[str, date], Covered]) -> None:
        """A table that is switched off misses the news: switched on again, it is listed again."""
        enabled = {object_type.name for object_type in self._settings.enabled}
        complete = {table for (table, day), covered in coverage.items() if covered.listed_at > day_start(day)}
        if disabled := complete - enabled:
            self._warehouse.state.forget_coverage(self._mode, disabled)

    def _take_first_cursor(self) -> float:
        """Start the event cursor before anything is listed, so that what changes meanwhile is told at the next tick."""
        started = self._api.get("/v1/events", {"limit": 1}).sent_at
        self._warehouse.load([], cursors={(self._mode, EVENTS): started}, clock=self._api.clock.read())
        return started

    def _follow_events(self, cursor: float) -> float | None:
        """Put what happened since `cursor` into the inbox, or all that Stripe still tells where the inbox is new; when
        the scan began, or None if it failed."""
        if self._inbox.is_complete(self._identity, self._mode.livemode):
            return self._scan_events(cursor)
        started = self._scan_events(min(cursor, self._api.now() - EVENTS_KEPT))
        if started is not None:
            failing = [
                Poke(event_id, self._mode.account, livemode, name, object_id, None, received)
                for event_id, livemode, name, object_id, received in self._warehouse.state.failing()
                if name in BY_STRIPE_OBJECT
            ]
            put_back = self._inbox.add(failing)
            # Behind both: a run that is killed in between leaves it to the next one.
            self._inbox.completed(self._mode.livemode)
            self._report.note(
                "The inbox was new: Stripe's events of the last 30 days were read again"
                + (f", and {put_back} older notifications that had failed are tried again" if put_back else "")
            )
        return started

    def _scan_events(self, cursor: float) -> float | None:
        """Put what happened since `cursor` into the inbox; when the scan began, or None if it failed."""
        started: float | None = None
        enabled = {object_type.name for object_type in self._settings.enabled}
        try:
            for page in newest_first(self._api, "/v1/events", since=int(cursor) - OVERLAP):
                started = page.sent_at if started is None else started
                pokes = [self._poke_of(event) for event in page.objects]
                self._inbox.add([poke for poke in pokes if poke and BY_STRIPE_OBJECT[poke.object].name in enabled])
        except (AuthenticationFailed, Cancelled):
            raise
        except StripePipelineError as error:
            if isinstance(error, Unavailable) and error.status is None:
                raise  # No answer at all: the other requests would wait as long and find the same.
            self._report.failures[EVENTS] = error
            return None
        return started

    def _poke_of(self, event: dict[str, Any]) -> Poke | None:
        try:
            return poke_of(event, self._mode)
        except BadObject as error:
            self._report.note(str(error))
            return None

    def _waiting(self, *, due: float = math.inf, most: int | None = None) -> dict[str, list[Poke]]:
        """Pokes by table name: all that wait, or those that may be tried at `due` (Unix seconds), of `most` objects."""
        waiting: dict[str, list[Poke]] = {}
        objects: set[tuple[str, str]] = set()
        for poke in self._inbox.waiting(self._mode, now=due):
            it = (poke.object, poke.object_id)
            if most is None or it in objects or len(objects) < most:
                objects.add(it)
                waiting.setdefault(BY_STRIPE_OBJECT[poke.object].name, []).append(poke)
        return waiting

    def _wanted(
        self, pokes: Mapping[str, Sequence[Poke]], due: Iterable[tuple[str, int]], oldest: Mapping[str, int]
    ) -> dict[str, dict[str, int | None]]:
        """The objects to read again, with their `created` where it is known: those that pokes name, and balance
        transactions that are `due`. What was made before the `oldest` of its type, Unix seconds, is left out: a change
        does not bring it in."""
        wanted: dict[str, dict[str, int | None]] = {
            name: {
                poke.object_id: poke.object_created
                for poke in pokes.get(name, ())
                if poke.object_created is None or poke.object_created >= first
            }
            for name, first in oldest.items()
        }
        if BALANCE_TRANSACTIONS in wanted:
            wanted[BALANCE_TRANSACTIONS] |= dict(due)
        return wanted

    def _oldest(self, object_type: ObjectType, coverage: Mapping[tuple[str, date], Covered]) -> int:
        """Unix seconds from when on objects are kept."""
        loaded = loaded_before(object_type, self._settings, coverage)
        return day_start(min([self._settings.first_listed(object_type), *loaded]))

    def _read(
        self, reader: Reader, plan: Plan, made_since: float | None, oldest: int, *, poked: bool
    ) -> tuple[list[Batch], dict[str, StripePipelineError]]:
        """What a list of everything made since then, or since the plan's start, and single reads bring."""
        batches = []
        bad: dict[str, StripePipelineError] = {}
        ids = plan.ids
        starts = [int(start) for start in (plan.list_since, made_since) if start is not None]
        if starts:
            batch, listed = reader.list_since(min(starts))
            batch.read_again = poked
            batches.append(batch)
            # Wanted but not listed: deleted meanwhile, or older than it said.
            ids = ids - listed
        if ids:
            batch, bad = reader.read_again(ids, since=oldest)
            batches.append(batch)
        return batches, bad

    @_few_collections()
    def _list(self, days: Mapping[str, Mapping[date, str]]) -> dict[str, StripePipelineError]:
        """List these days of these types side by side and load them as they come; the types that failed.

        `days`: why each day is listed, by table name and day.
        """
        news: queue.Queue[tuple[str, DayRead | Exception | None]] = queue.Queue()
        until = int(self._api.now()) + 1 + CLOCK_ERROR
        open_lists = set()
        for name, wanted in days.items():
            if wanted:
                open_lists.add(name)
                self._readers[name].list_days(
                    wanted,
                    until=until,
                    read=lambda day, name=name: news.put((name, day)),  # type: ignore[misc]
                    done=lambda error, name=name: news.put((name, error)),  # type: ignore[misc]
                )
        totals = {name: len([day for day in wanted if day_start(day) < until]) for name, wanted in days.items()}
        rows: Counter[str] = Counter()
        done: Counter[str] = Counter()
        failed: dict[str, StripePipelineError] = {}
        batches: dict[str, Batch] = {}
        began = loaded_at = time.monotonic()
        held = 0
        while open_lists or batches:
            if open_lists:
                try:
                    name, item = news.get(timeout=_SECONDS_A_LOAD)
                except queue.Empty:
                    pass
                else:
                    if isinstance(item, DayRead):
                        batch = batches.setdefault(name, self._readers[name].batch())
                        add_day(batch, item, how=days[name][item.listed.day])
                        rows[name] += item.rows
                        done[name] += 1
                        held += item.rows
                        if self._progress:
                            self._progress.listed(
                                name,
                                days=done[name],
                                of=totals[name],
                                rows=rows[name],
                                seconds=time.monotonic() - began,
                            )
                    else:
                        open_lists.discard(name)
                        if item is not None:
                            failed[name] = self._fail(self._readers[name], item)
                            if not isinstance(item, Unavailable):
                                # Refused half-way: its rows stay as they were. What is only late is kept.
                                batches.pop(name, None)
            if batches and (not open_lists or held >= _ROWS_A_LOAD or time.monotonic() - loaded_at >= _SECONDS_A_LOAD):
                self._load(list(batches.values()))
                self._warehouse.publish(force=False)
                batches, held, loaded_at = {}, 0, time.monotonic()
        return failed

    def _load(self, batches: Sequence[Batch], cursors: dict[tuple[Mode, str], float] | None = None) -> None:
        """Load; then ask for each object that a complete list did not name whether it is gone, and load that."""
        if not batches and not cursors:
            return
        for batch in batches:
            if batch.days:
                self._note_unread(batch.object_type.name)
                batch.kept_out = frozenset(self._unread[batch.object_type.name])
        loaded = self._warehouse.load(batches, cursors=cursors, clock=self._api.clock.read())
        self._report.add(loaded)
        self._revision = loaded.revision
        for name, refused in loaded.refused.items():
            self._refused.setdefault(name, set()).update(refused)
        for batch in batches:
            for table in batch.tables:
                self._report.listed.setdefault(table.name, set()).update(day.day for day in batch.days)
            for files in batch.files.values():
                for file in files:
                    file.unlink(missing_ok=True)
        for batch, missing in loaded.missing:
            ids = [object_id for day in missing.values() for object_id in day]
            reader = self._readers[batch.object_type.name]
            try:
                again, bad = reader.read_again(ids)
            except Exception as error:
                self._fail(reader, error)
                continue
            # Whether these are gone cannot be told: their rows stay, and the inbox keeps asking.
            created = {object_id: day_start(day) for day, them in missing.items() for object_id in them}
            self._note_unread(
                batch.object_type.name,
                {object_id: Unread(object_id, created[object_id], error) for object_id, error in bad.items()},
            )
            again.days = [listed for listed in batch.days if listed.day in missing]
            again.nothing_missing = True
            self._load([again])

    def _fail(self, reader: Reader, error: Exception) -> StripePipelineError:
        """Note that this type failed, if the others can go on; else raise."""
        if isinstance(error, OSError):
            raise rows_lost(error, self._warehouse.folder.spool) from error
        if isinstance(error, (AuthenticationFailed, Cancelled, WarehouseError)) or not isinstance(
            error, StripePipelineError
        ):
            raise error
        for table in reader.tables:
            self._report.failures[table] = error
        return error

    def count_requests(self) -> None:
        """Put what was spent and what was odd into the report."""
        before = self._report.requests.total()
        for name, reader in self._readers.items():
            endpoint = reader.object_type.endpoint
            self._report.requests[name] += self._api.spent_on(f"{endpoint}")
            for included in reader.object_type.include:
                self._report.requests[name] += self._api.spent_on(included.endpoint)
            for child in reader.children:
                self._report.requests[child.name] += self._api.spent_on(f"{endpoint}/id/{child.embedded_in}")
            self._report.surprises.update(reader.surprises)
        self._report.requests[EVENTS] += self._api.spent() - (self._report.requests.total() - before)


def rows_lost(error: OSError, spool: Path) -> WarehouseError:
    """What a run ends with that cannot write its working files."""
    to_do = (
        "Something removed the run's working files from the data folder: run again"
        if isinstance(error, FileNotFoundError)
        else remedy(error, spool)
    )
    return WarehouseError(f"Rows could not be kept on their way to the warehouse ({reason(error)})", to_do)
