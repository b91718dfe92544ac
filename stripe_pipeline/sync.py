"""Deciding what to read from Stripe and bringing it into the warehouse: the tick, the drain and the backfill.

All end in the same two steps, reading (`resources.reading`) and loading (`resources.warehouse`). Nothing here knows of
Dagster; `assets` reports what a run did.
"""

from __future__ import annotations

import gc
import logging
import math
import queue
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, TypedDict
from uuid import uuid4

from stripe_pipeline.account import identify
from stripe_pipeline.at_work import SUFFIX, abandoned, holding
from stripe_pipeline.data_folder import DataFolder
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
from stripe_pipeline.fields import FieldFilter, load_hash_key
from stripe_pipeline.objects import BY_STRIPE_OBJECT, OBJECT_TYPES, ObjectType, family_of
from stripe_pipeline.resources.deadline import Deadline
from stripe_pipeline.resources.inbox import Claim, Inbox, Poke, poke_of
from stripe_pipeline.resources.listing import newest_first
from stripe_pipeline.resources.pruning import Pruned
from stripe_pipeline.resources.rate_limits import RateLimits
from stripe_pipeline.resources.reading import DayRead, Reader, Unread
from stripe_pipeline.resources.recovery import Restored
from stripe_pipeline.resources.stripe_api import ApiKey, StripeApi, is_addressable
from stripe_pipeline.resources.warehouse import Batch, Changes, Covered, Identity, Loaded, Mode, Warehouse
from stripe_pipeline.rows import Surprises
from stripe_pipeline.settings import Settings, api_base, inbox_url, load_keys, load_settings
from stripe_pipeline.storage_errors import reason, remedy

logger = logging.getLogger(__name__)

EVENTS = "events"
SWEEP = "sweep"
EVENTS_KEPT = 30 * DAY  # docs/stripe.md#events
OVERLAP = 300  # seconds; events and balance transactions become visible up to a minute late (docs/stripe.md#events)
CLOCK_ERROR = 2  # seconds by which Stripe's clock may be ahead of what it is taken for (`ServerClock`)
SETTLED = 300  # seconds after a day's end from when its list is taken for complete
FRESH = 30  # seconds; of objects made since then a drain takes a list to be shorter than its pokes
JUST_BEFORE = 10  # seconds before the event that announces it in which a balance transaction may have been made
RESUMED_WITHIN = 3600  # seconds since its last list in which a backfill that was stopped is gone on with
TICK_TIME = 3600.0  # seconds that a tick may read; the next one goes on
DRAIN_TIME = 25.0  # seconds that a drain may read: a sensor's tick must have loaded and published within a minute
BALANCE_TRANSACTIONS = "balance_transactions"

_THREADS = 6  # of each listed type: 25 requests a second an endpoint, at 100 to 240 ms each
_ROWS_A_LOAD = 10_000
_SECONDS_A_LOAD = 3.0
_PAGE = 100
_SHOWN = 5  # ids in a sentence
_OBJECTS_A_COLLECTION = 5000  # of Python's, between two looks for cycles


class _Haste(TypedDict, total=False):
    """How early a run gives up on Stripe, where that is sooner than `StripeApi` does by itself."""

    max_attempts: int
    patience: float
    timeout: float
    request_timeout: float


# One request must not use up the time of a drain.
_OF_A_DRAIN = _Haste(max_attempts=2, patience=10.0, timeout=10.0, request_timeout=10.0)


class Progress(Protocol):
    """Shown to whoever waits for a run."""

    def listed(self, table: str, *, days: int, of: int, rows: int, seconds: float) -> None:
        """`days` of the `of` days asked for are in, with `rows` rows so far, `seconds` after the lists began."""

    def finished(self, report: Report) -> None:
        """The run has ended; `report` says what it did."""


@dataclass
class Report:
    """What a run did, by table name."""

    changes: dict[str, Changes] = field(default_factory=dict)
    listed: dict[str, set[date]] = field(default_factory=dict)
    """Days that were listed completely and stored."""
    requests: Counter[str] = field(default_factory=Counter)
    """Requests sent, retries included, by table; those for events and the account under `events`."""
    failures: dict[str, StripePipelineError] = field(default_factory=dict)
    """Why a table (or the scan of `events`) could not be brought up to date; it holds what it held."""
    surprises: Surprises = field(default_factory=Surprises)
    notes: list[str] = field(default_factory=list)
    """What whoever watches the run should know, one sentence each."""
    applied: int = 0
    """Pokes whose objects were read again and stored."""

    def note(self, sentence: str) -> None:
        """Add it to the notes; once, also where it holds for both modes."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def add(self, loaded: Loaded) -> None:
        """Count a load's changes."""
        for table, changes in loaded.changes.items():
            self.changes.setdefault(table, Changes()).update(changes)


class Pipeline:
    """The settings, keys and stores that runs work with. Use as a context manager."""

    def __init__(
        self,
        *,
        settings: Settings,
        keys: Sequence[ApiKey],
        folder: DataFolder,
        base_url: str,
        inbox_url: str | None = None,
        progress: Progress | None = None,
        settings_now: Callable[[], Settings] | None = None,
    ) -> None:
        """`settings_now` tells what the settings are by then, where they may change."""
        self.settings = settings
        self.folder = folder
        self._keys = keys
        self._modes = {key.livemode for key in keys}
        self._base_url = base_url
        self.progress = progress
        folder.prepare()
        self._was_open = folder.restrict(settings.published.readable_by)
        rules = {name: settings.rules(object_type) for name, object_type in settings.types.items()}
        hash_key = load_hash_key(folder) if settings.hashes else None
        self.fields = FieldFilter(rules, hash_key)
        self.warehouse = Warehouse(folder, settings, hash_key, settings_now=settings_now)
        self.inbox = Inbox(folder, inbox_url)
        self._identity: Identity | None = None

    @classmethod
    def from_environment(cls, progress: Progress | None = None) -> Pipeline:
        """The pipeline that the environment and the settings file describe; raises `SettingsError`."""
        return cls(
            settings=load_settings(),
            keys=load_keys(),
            folder=DataFolder.from_environment(),
            base_url=api_base(),
            inbox_url=inbox_url(),
            progress=progress,
            settings_now=load_settings,
        )

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *exception: object) -> None:
        self.inbox.close()
        self.warehouse.close()

    def tick(self, days: Iterable[date] = (), *, within: float = TICK_TIME) -> Report:
        """Bring every enabled table up to date with Stripe; list `days` completely besides.

        After `within` seconds nothing more is read: what was read is stored, the report names the tables that are not
        up to date, and the next tick goes on from there.
        Raises `StripePipelineError` where nothing could be done at all; what concerns single tables is in the report.
        """
        return self._run(lambda run: run.tick(set(days)), self.settings.enabled, within=within)

    def backfill(self, days: Iterable[date], tables: Iterable[str] | None = None) -> Report:
        """List `days` (UTC, of `created`) of these tables completely, whatever is known of them.

        The same backfill, where it was stopped or failed and listed something within the last hour, goes on from there.
        A table's parent and children come with it. Raises as `tick` does.
        """
        asked = self.settings.enabled if tables is None else tuple(self.settings.types[name] for name in tables)
        return self._run(lambda run: run.backfill(set(days)), asked, urgent=False)

    def drain(
        self, *, most: int, report: Report | None = None, due: float | None = None, within: float = DRAIN_TIME
    ) -> Report:
        """Read again what the inbox's pokes name that may be tried at `due`, at most `most` objects of each mode.

        `due`: Unix seconds, the present unless given; infinity for all of them. What could not be read `within` so many
        seconds waits in the inbox.
        Adds to `report` if one is given. Publishing what was stored is left to the caller. Raises as `tick` does.
        """
        until = time.time() if due is None else due
        return self._run(
            lambda run: run.drain(most, until),
            self.settings.enabled,
            report=report,
            haste=_OF_A_DRAIN,
            within=within,
            publish=False,
        )

    def prune(self) -> dict[str, Pruned]:
        """Remove what is older than its retention, and news that was dealt with long ago; by table name.

        Raises `WarehouseError`.
        """
        self._claim_inbox()
        pruned = self.warehouse.prune()
        self.inbox.forget(applied_before=time.time() - self.settings.inbox.keep_days * DAY)
        self.publish()
        return pruned

    def has_news(self, due: float | None = None) -> bool:
        """Whether pokes wait that `drain` would read; may be asked ten times a second. `due`: as for `drain`."""
        return self.inbox.has_due(due, modes=self._modes)

    def objects_to_read(self, due: float | None = None) -> int:
        """How many objects those pokes name."""
        return self.inbox.objects_due(due, modes=self._modes)

    def publish(self, *, force: bool = True) -> bool:
        """Make what was stored visible, with what the inbox could not apply.

        Without `force` only if publishing is due (`Warehouse.publish`); False where it has to wait.
        """
        identity = self._identity or self.warehouse.identity()
        # An inbox that is new does not know what failed; the tick takes that from the file.
        failing = self.inbox.rows(failing=True) if self.inbox.is_complete(identity) else None
        return self.warehouse.publish(force=force, failing=failing)

    def adopt_inbox(self) -> int:
        """Take the inbox over from another warehouse; how many notifications wait again.

        The next tick reads again what Stripe told in the last 30 days. Raises `WarehouseError`.
        """
        return self._claim_inbox(take_over=True).reopened or 0

    def _claim_inbox(self, *, take_over: bool = False) -> Claim:
        claim = self.inbox.claim(self.warehouse.identity, self._modes, take_over=take_over)
        self._identity = claim.warehouse
        return claim

    def _run(
        self,
        work: Callable[[_Run], None],
        asked: Iterable[ObjectType],
        *,
        report: Report | None = None,
        haste: _Haste | None = None,
        within: float = math.inf,
        urgent: bool = True,
        publish: bool = True,
    ) -> Report:
        report = report or Report()
        deadline = Deadline(within)
        stopped: StripePipelineError | None = None
        claim = self._claim_inbox()
        if claim.reopened is not None:
            report.note(
                "The inbox knew another warehouse, or a later state of this one:"
                f" {claim.reopened} notifications are applied again"
            )
        if self._was_open:
            self._was_open = False
            report.note(
                f"Other users of this machine could read files in {self.folder.root} and no longer can;"
                " `published: {readable_by: group}` in the settings lets the folder's group read the published file."
            )
        if claim.warehouse.restored:
            self._catch_up(claim.warehouse.restored, report)
        if unread := {True, False} - self._modes:
            # Without a key of a mode, and never loaded, nobody will ever want its news.
            self.inbox.drop_modes(self._modes | (unread & self.warehouse.modes()))
        asked_for = list({family_of(it).name: None for it in asked})
        # Balance transactions are also read because other rows name them.
        named = [BALANCE_TRANSACTIONS] if self.settings.types[BALANCE_TRANSACTIONS] in self.settings.enabled else []
        families = {name: self.settings.types[name] for name in [*asked_for, *named]}
        with self._spool() as spool, ExitStack() as threads:
            # Threads of its own for each type: those that wait for one endpoint's turn do not hold up another's.
            executors = {name: threads.enter_context(ThreadPoolExecutor(_THREADS, name)) for name in families}
            for n, key in enumerate(self._keys):
                limits = RateLimits.of_stripe(
                    livemode=key.livemode,
                    share=self.settings.rate.share,
                    shared=self.folder.rates(livemode=key.livemode),
                    urgent=urgent,
                )
                own = deadline.part(len(self._keys) - n)
                with StripeApi(key, base_url=self._base_url, limits=limits, deadline=own, **(haste or _Haste())) as api:
                    try:
                        mode = self._mode(api, key)
                        run = _Run(self, api, mode, families, asked_for, executors, spool, report, claim.warehouse)
                        try:
                            work(run)
                        finally:
                            run.count_requests()
                            self._name(api, key, mode)
                    except Cancelled:
                        raise
                    except StripePipelineError as error:
                        # The other key's mode has nothing to do with it.
                        stopped = stopped or error
        # What was stored before an error is right and may be seen.
        if publish:
            try:
                self.publish()
            except WarehouseError as error:
                stopped = stopped or error
        if stopped is not None:
            raise stopped
        if self.progress:
            self.progress.finished(report)
        return report

    def _catch_up(self, restored: Restored, report: Report) -> None:
        """After the warehouse was restored from a copy, have read again what it lacks.

        The tick scans the events from the copy's cursor; those that the inbox knows it would not store again.
        """
        report.note(f"{restored}.")
        [(cursor,)] = self.warehouse.ask(
            f"SELECT epoch_us(min(read_until)) / 1e6 FROM pipeline.cursors WHERE name = '{EVENTS}'"
        )
        self.inbox.wait_again(
            applied_since=restored.since - OVERLAP, created_since=-math.inf if cursor is None else cursor - OVERLAP
        )
        self.warehouse.caught_up()

    def _mode(self, api: StripeApi, key: ApiKey) -> Mode:
        """Whose key this is: asked once, then known by the key's fingerprint."""
        with self.warehouse.session():
            account = self.warehouse.account_of(key.fingerprint)
            bounds = self.warehouse.clock()
        if bounds:
            api.clock.assume(*bounds)
        configured = self.settings.account
        if account is None or (configured and account != configured):
            account = identify(api, key, self.warehouse, configured=configured)
            self.warehouse.remember_key(key.fingerprint, Mode(account, key.livemode))
        return Mode(account, key.livemode)

    def _name(self, api: StripeApi, key: ApiKey, mode: Mode) -> None:
        """Name the account if Stripe did so during the run; raises `WarehouseError` if it is not the one held."""
        if api.named_account not in (None, mode.account):
            self.warehouse.remember_key(key.fingerprint, Mode(api.named_account, key.livemode))

    @contextmanager
    def _spool(self) -> Iterator[Path]:
        """A folder for this run's working files; those of runs that were killed are removed."""
        for lock in abandoned(self.folder.spool):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        for unlocked in self.folder.spool.glob("tmp*"):  # versions without these locks made them
            with suppress(FileNotFoundError):
                if time.time() - unlocked.stat().st_mtime > DAY:
                    shutil.rmtree(unlocked, ignore_errors=True)
        spool = self.folder.spool / uuid4().hex
        with ExitStack() as held:
            try:
                held.enter_context(holding(spool.with_suffix(SUFFIX)))
                spool.mkdir(mode=0o700)
            except OSError as error:
                raise _rows_lost(error, self.folder.spool) from error
            held.callback(shutil.rmtree, spool, ignore_errors=True)
            yield spool


@contextmanager
def look() -> Iterator[Warehouse]:
    """The warehouse that the environment and the settings file describe, only to be looked at: needs no key, and makes
    nothing. Raises `SettingsError`."""
    settings, folder = load_settings(), DataFolder.from_environment()
    hash_key = load_hash_key(folder, keep=False) if settings.hashes else None
    warehouse = Warehouse(folder, settings, hash_key, as_it_is=True)
    try:
        yield warehouse
    finally:
        warehouse.close()


@contextmanager
def _few_collections() -> Iterator[None]:
    """Let Python look for cycles less often: Stripe's objects have none, and parsing takes twice as long with it."""
    threshold, *others = gc.get_threshold()
    gc.set_threshold(max(threshold, _OBJECTS_A_COLLECTION), *others)
    try:
        yield
    finally:
        gc.set_threshold(threshold, *others)


class _Run:
    """One run with one key."""

    def __init__(
        self,
        pipeline: Pipeline,
        api: StripeApi,
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
        self._warehouse = pipeline.warehouse
        self._inbox = pipeline.inbox
        self._progress = pipeline.progress
        self._settings = pipeline.settings
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
                pipeline.fields,
                folder=spool / side / name,
                executor=executors[name],
            )
            for name, family in families.items()
        }

    def backfill(self, days: set[date]) -> None:
        cursors = self._warehouse.cursors(self._mode)
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
            self._warehouse.begin_backfill(self._mode, request, now)
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
            self._warehouse.end_backfill(self._mode, request)
        self._settle({}, failed, {})

    def _stopped_backfill(
        self, request: str, kept: Mapping[str, Set[date]], now: float
    ) -> tuple[float, dict[str, set[date]]] | None:
        """When this backfill began that was stopped, and the days by table name that it listed; None where it begins
        anew: it was not begun, has ended, listed nothing for a while, or has nothing left."""
        stopped = self._warehouse.stopped_backfill(self._mode, request)
        if stopped is None or now - stopped.last_listed > RESUMED_WITHIN:
            return None
        coverage = self._warehouse.coverage(self._mode)
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
        ahead = self._warehouse.put_times_right(
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
        cursors = self._warehouse.cursors(self._mode)
        first = EVENTS not in cursors
        scanned_at = self._take_first_cursor() if first else self._follow_events(cursors[EVENTS])
        now = self._api.now()
        with self._warehouse.session():
            moved_back = self._put_times_right()
            known = self._warehouse.cursors(self._mode) if moved_back else cursors
            if scanned_at is not None and not first and known[EVENTS] - OVERLAP < now - EVENTS_KEPT:
                self._forget_everything(now - known[EVENTS])
            coverage = self._warehouse.coverage(self._mode)
            self._forget_disabled(coverage)
            due = self._warehouse.pending_balance_transactions(self._mode, now)
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
            _sweep(to_list, coverage, now, budget=self._settings.sweep.requests_a_month / 30)
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
        cursors = self._warehouse.cursors(self._mode)
        if EVENTS not in cursors:
            # Nothing was listed yet: the first load finds what these tell.
            self._settle(pokes, {}, {})
            return
        now = self._api.now()
        batches, failed, bad = self._bring_in(
            pokes,
            {name: {} for name in self._readers},
            self._warehouse.coverage(self._mode),
            now,
            how="webhook",
            young_since=now - FRESH,
            money_since=_money_since(pokes, looked=cursors.get(BALANCE_TRANSACTIONS, cursors[EVENTS])),
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
            plans[name] = _plan(name, wanted[name], to_list[name], coverage, now, young_since=young_since)
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
        for lacking in self._warehouse.lacking(self._mode):
            self._report.note(str(lacking))

    def _named(self, *, since: float, days: Mapping[str, Collection[date]]) -> Callable[[], dict[str, int]]:
        """Finds the balance transactions that stored rows name and the table lacks, with `created` in Unix seconds.

        The rows looked at are those requested `since` then and those made on `days`, by table name. A transaction may
        appear long after its charge with the charge's `created`, where no list of what is new finds it
        (docs/stripe.md#asynchronous-capture).
        """
        reader = self._readers.get(BALANCE_TRANSACTIONS)
        if reader is None:
            return dict
        return lambda: self._warehouse.lacking_targets(self._mode, reader.object_type, since=since, days=days)

    def _read_named(self, named: Callable[[], dict[str, int]], wanted: Mapping[str, int], *, how: str) -> bool:
        """Read what `named` has just found, if anything; whether that worked."""
        if not wanted:
            return True
        reader = self._readers[BALANCE_TRANSACTIONS]
        coverage = self._warehouse.coverage(self._mode)
        plan = _plan(BALANCE_TRANSACTIONS, wanted, (), coverage, self._api.now(), young_since=None)
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
        self._warehouse.forget_coverage(self._mode, OBJECT_TYPES)

    def _forget_disabled(self, coverage: dict[tuple[str, date], Covered]) -> None:
        """A table that is switched off misses the news: switched on again, it is listed again."""
        enabled = {object_type.name for object_type in self._settings.enabled}
        complete = {table for (table, day), covered in coverage.items() if covered.listed_at > day_start(day)}
        if disabled := complete - enabled:
            self._warehouse.forget_coverage(self._mode, disabled)

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
                for event_id, livemode, name, object_id, received in self._warehouse.failing()
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
        self, reader: Reader, plan: _Plan, made_since: float | None, oldest: int, *, poked: bool
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
                        _add_day(batch, item, how=days[name][item.listed.day])
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
            raise _rows_lost(error, self._warehouse.folder.spool) from error
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


@dataclass(frozen=True)
class _Plan:
    """How to read the wanted objects of one type."""

    days: set[date]
    ids: set[str]
    list_since: int | None


def _plan(
    name: str,
    wanted: Mapping[str, int | None],
    listing: Collection[date],
    coverage: Mapping[tuple[str, date], Covered],
    now: float,
    *,
    young_since: float | None,
) -> _Plan:
    """The cheapest requests that bring each wanted object once: nothing for what is listed anyway, one list for the
    young ones, a day's list where its pages are fewer than its wanted objects or one cannot be read by its id, else one
    retrieve each."""
    ids: set[str] = set()
    days: set[date] = set()
    by_day: dict[date, set[str]] = {}
    young: dict[str, int] = {}
    for object_id, created in wanted.items():
        if created is None:
            ids.add(object_id)
        elif not is_addressable(object_id):
            days |= {day_of(created)} - set(listing)
        elif young_since is not None and created >= young_since:
            young[object_id] = created
        else:
            by_day.setdefault(day_of(created), set()).add(object_id)
    list_since = None
    young = {object_id: created for object_id, created in young.items() if day_of(created) not in listing}
    if len(young) > math.ceil(len(young) / _PAGE):
        list_since = min(young.values())
    ids |= young.keys()
    for day, them in by_day.items():
        if day in listing:
            continue
        covered = coverage.get((name, day))
        if covered and day_start(day) + DAY + SETTLED <= now and math.ceil((covered.listed + 1) / _PAGE) < len(them):
            days.add(day)
        else:
            ids |= them
    return _Plan(days, ids, list_since)


def _rows_lost(error: OSError, spool: Path) -> WarehouseError:
    """What a run ends with that cannot write its working files."""
    to_do = (
        "Something removed the run's working files from the data folder: run again"
        if isinstance(error, FileNotFoundError)
        else remedy(error, spool)
    )
    return WarehouseError(f"Rows could not be kept on their way to the warehouse ({reason(error)})", to_do)


def _covered_since(began: float, covered: Covered | None) -> bool:
    return covered is not None and covered.listed_at >= began


def _money_since(pokes: Mapping[str, Sequence[Poke]], *, looked: float) -> float | None:
    """From when on to list the balance transactions that pokes announce; None for none that a tick has not listed.

    A charge that was captured asynchronously has one with its own `created`. Where that was long ago, the charge's row
    names it (`_Run._read_named`).
    """
    announced = [
        poke.event_created
        if poke.object_created is None or poke.object_created < poke.event_created - OVERLAP
        else min(poke.event_created, poke.object_created)
        for name in OBJECT_TYPES[BALANCE_TRANSACTIONS].announced_by
        for poke in pokes.get(name, ())
        if poke.event_created >= looked - OVERLAP
    ]
    return min(announced) - JUST_BEFORE if announced else None


def kept_days(
    object_type: ObjectType, settings: Settings, coverage: Mapping[tuple[str, date], Covered], now: float
) -> list[date]:
    """The days of a listed type that are kept equal to Stripe, the oldest first: those loaded before its history, and
    the history."""
    history = days_between(settings.first_listed(object_type), day_of(now))
    return [*loaded_before(object_type, settings, coverage), *history]


def loaded_before(
    object_type: ObjectType, settings: Settings, coverage: Mapping[tuple[str, date], Covered]
) -> list[date]:
    """The days before its history that were loaded of a listed type when that began earlier, the oldest first.

    A history that is an age moves on. What is too old stays until it is pruned.
    """
    first = settings.first_listed(object_type)
    return sorted(day for name, day in coverage if name == object_type.name and day < first)


def unlisted(
    tables: Collection[str], history: Sequence[date], coverage: Mapping[tuple[str, date], Covered], now: float
) -> set[date]:
    """Days of `history` that must be listed: finished ones no list was made of since they ended; and the last ones,
    where the day before is not known either, so that events alone cannot tell what they hold."""
    days = set()
    followed = False
    for day in history:
        found = [coverage.get((table, day)) for table in tables]
        sealed_from = day_start(day) + DAY + SETTLED
        if now >= sealed_from:
            followed = all(covered is not None and covered.listed_at >= sealed_from for covered in found)
            if not followed:
                days.add(day)
        else:
            followed = followed or all(found)
            if not followed:
                days.add(day)
    return days


def _sweep(
    to_list: Mapping[str, dict[date, str]],
    coverage: Mapping[tuple[str, date], Covered],
    now: float,
    *,
    budget: float,
) -> None:
    """Add the days that were listed longest ago, as many as `budget` requests bring: they may hold what no event told.

    A day costs its share of pages, and one request besides where no neighbour is listed with it.
    """
    oldest = sorted(
        (covered.listed_at, name, day, covered.listed)
        for (name, day), covered in coverage.items()
        if name in to_list and day not in to_list[name] and covered.listed_at < now - DAY
    )
    for _, name, day, objects in oldest:
        beside = {day - timedelta(days=1), day + timedelta(days=1)} & to_list[name].keys()
        cost = objects / _PAGE + (0 if beside else 1)
        if cost > budget:
            break
        budget -= cost
        to_list[name][day] = "sweep"


def _add_day(batch: Batch, day: DayRead, *, how: str) -> None:
    batch.days.append(replace(day.listed, how=how))
    for table, file in day.files.items():
        batch.files.setdefault(table, []).append(file)
    batch.first, batch.last = min(batch.first, day.span[0]), max(batch.last, day.span[1])
