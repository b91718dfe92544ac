"""Random histories of a shop, read by syncs that fail, crash and overlap: in the end, every row equals Stripe's.

`make soak` runs many more of them than `make test`.
"""

from __future__ import annotations

import itertools
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import duckdb
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from stripe_emulator import LOCK_TIMEOUT, Clock, Fault, Server, Shop
from stripe_emulator.store import reference
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY, day_of
from stripe_pipeline.errors import StripePipelineError
from stripe_pipeline.inbox.notification import notifications_of
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.proof.verdict import SETTLING
from stripe_pipeline.settings.environment import load_keys
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.stripe_api import clock as server_clock
from stripe_pipeline.stripe_api.client import Params, Reply, StripeApi
from stripe_pipeline.stripe_api.rate_limits import RateLimits
from stripe_pipeline.stripe_api.retries import Retries
from stripe_pipeline.sync import pipeline as sync
from stripe_pipeline.sync.context import CLOCK_ERROR
from stripe_pipeline.sync.pipeline import Pipeline
from stripe_pipeline.sync.report import Report
from stripe_pipeline.warehouse.warehouse import Warehouse
from tests.conftest import KEYS
from tests.lake import IN_LAKE, lake_folder
from tests.stripe_state import assert_equal_to_stripe, differences, stored
from tests.whole.histories import ACTIONS, ANNOUNCEMENTS, ChangeLog, Happening, stock

HISTORY_DAYS = 20
FIGURES: Counter[str] = Counter()
"""The numbers of histories, happenings, runs and crashes in this process, for the soak."""

TROUBLES: tuple[dict[str, Any], ...] = (
    {"status": 500},
    {"status": 502},
    {"status": 429},
    {"status": 429, "body": LOCK_TIMEOUT},
    {"cut": 0.6},
    {"truncate": 0.6},
    {"drop": True},
)
REFUSALS: tuple[dict[str, Any], ...] = (*TROUBLES, {"status": 400}, {"status": 401}, {"status": 403})
JUMPS = (2, 50, 400, 3700, 6 * 3600, DAY, 3 * DAY, 29 * DAY, 30 * DAY - 30, 30 * DAY, 30 * DAY + 30, 45 * DAY)
MOMENTS = (-2, 1, 120, 330)
"""Seconds from a midnight: days end, begin, and are sealed."""
EVERY_TYPE = {name: {"enabled": True} for name, object_type in OBJECT_TYPES.items() if not object_type.generated}
FAMILY = {child.name: child.parent for child in OBJECT_TYPES.values() if child.parent}
STEPS = ("warehouse.load", "warehouse.publish", "warehouse.state.forget_coverage", "inbox.add", "inbox.applied")

things = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.booleans(), st.sampled_from(ANNOUNCEMENTS), st.integers(0, 999)),
    min_size=2,
    max_size=12,
)
few_things = st.lists(things.map(lambda drawn: drawn[0]), min_size=1, max_size=2)
nths = st.sampled_from((1, 1, 1, 2, 4))
paths = st.sampled_from(["/v1/", "/v1/events", "/lines", *(t.endpoint for t in OBJECT_TYPES.values() if t.endpoint)])


class Crash(Exception):
    """Stands in for the end of a run's process."""


class LocalTime(SimpleNamespace):
    """The local clock as the API client sees it. Setting it does not change Stripe's clock."""

    ahead = 0.0
    monotonic = staticmethod(time.monotonic)

    def time(self) -> float:
        """Unix seconds."""
        return time.time() + self.ahead


class Api(StripeApi):
    """A client that hardly waits. Changes can happen before or after one of its requests."""

    around: Iterator[Callable[[], object] | None] = itertools.repeat(None)
    """The change before and after each request, in turn; None for no change."""
    turn = threading.Lock()
    slowest = 0.0
    """Seconds that the longest request took since this was last set to 0."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        limits = RateLimits(account=1e6, endpoint=1e6)
        # A first 429 pauses the client until it has sent less in the last second than when it was refused. Requests
        # that succeed when they are sent again need more patience than that.
        retries = Retries(patience=2.0, max_attempts=4, first_pause=0.001)
        super().__init__(*arguments, **options | {"limits": limits, "retries": retries})

    def get(self, path: str, params: Params | None = None) -> Reply:
        """As `StripeApi.get`."""
        self._next_change()
        began = time.monotonic()
        reply = super().get(path, params)
        Api.slowest = max(Api.slowest, time.monotonic() - began)
        self._next_change()
        return reply

    def _next_change(self) -> None:
        with Api.turn:
            happens = next(Api.around, None)
        if happens:
            happens()


def _owner(table: str, key: tuple[Any, ...], obj: dict[str, Any] | None) -> str:
    """The id of the object that was read with this one: its parent, or itself."""
    parent_key = OBJECT_TYPES[table].parent_key
    own_key = OBJECT_TYPES[table].key
    owner = key[own_key.index(parent_key) if parent_key in own_key else 0]
    return str(owner if parent_key is None or parent_key in own_key else reference((obj or {})[parent_key]))


@cache
def empty_warehouse(*, every_type: bool) -> bytes:
    """A private file with the schema in place: creating the schema takes longer than a short history."""
    with tempfile.TemporaryDirectory(dir=fast_disk()) as root:
        settings = Settings.model_validate({"objects": EVERY_TYPE if every_type else {}})
        warehouse = Warehouse(DataFolder(Path(root)), settings)
        warehouse.load([])
        return warehouse.folder.private.read_bytes()


def fast_disk() -> str | None:
    """A folder whose files need not reach a disk: histories test the order of changes, other tests the disk."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


class Histories(RuleBasedStateMachine):
    """A shop, two pipelines on one data folder, and the changes and failures that they meet."""

    def __init__(self) -> None:
        super().__init__()
        FIGURES["histories"] += 1
        self.stack = ExitStack()
        self.local = LocalTime()
        self.wrong = False

    @initialize(
        moment=st.integers(0, DAY - 1),
        ahead=st.sampled_from((0, 0, 600, -600)),
        before=things,
        every_type=st.booleans(),
    )
    def start(self, moment: int, ahead: float, before: list[Happening], every_type: bool = False) -> None:
        """At a moment of the day that is drawn, on a machine whose clock may be wrong."""
        self.objects: Any = EVERY_TYPE if every_type else {}
        self.stack.enter_context(mock.patch.object(server_clock, "time", self.local))
        self.stack.enter_context(mock.patch.object(sync, "StripeApi", Api))
        self.local.ahead = ahead
        today = time.time() // DAY * DAY
        self.shop = Shop(clock=Clock(today + moment - time.time()))
        stock(self.shop)
        self.log = ChangeLog(self.shop)
        self.server = self.stack.enter_context(Server(self.shop))
        root = Path(self.stack.enter_context(tempfile.TemporaryDirectory(dir=fast_disk())))
        if IN_LAKE:
            self.folder = self.stack.enter_context(lake_folder(root, self.objects))
            self.folder.prepare()
        else:
            self.folder = DataFolder(root)
            self.folder.prepare()
            self.folder.private.write_bytes(empty_warehouse(every_type=every_type))
        self.first_day = day_of(today) - timedelta(days=HISTORY_DAYS)
        self.pipelines = [self._pipeline(), self._pipeline()]
        self._all(before)

    def _pipeline(self) -> Pipeline:
        pipeline = Pipeline(
            settings=Settings.model_validate(
                {"history": self.first_day, "sweep": {"requests_a_month": 1_000_000}, "objects": self.objects}
            ),
            keys=load_keys(KEYS),
            folder=self.folder,
            base_url=self.server.url,
        )
        pipeline.warehouse.file._prepared = True  # see `empty_warehouse`
        return self.stack.enter_context(pipeline)

    def _all(self, happenings: Sequence[Happening]) -> None:
        for happening in happenings:
            self.log.happen(happening)
        FIGURES["happenings"] += len(happenings)

    @rule(happenings=things)
    def happen(self, happenings: list[Happening]) -> None:
        """Trade goes on."""
        self._all(happenings)

    @rule(seconds=st.sampled_from(JUMPS))
    def wait(self, seconds: int) -> None:
        """Time passes."""
        self.shop.clock.advance(seconds)

    @rule(moment=st.sampled_from(MOMENTS))
    def wait_for_midnight(self, moment: int) -> None:
        """Time passes until about midnight."""
        now = self.shop.clock.now()
        midnight = (now // DAY + 1) * DAY
        self.shop.clock.advance(midnight + moment - now)

    @rule(ahead=st.sampled_from((0.0, 600.0, -600.0, 0.7)))
    def set_the_local_clock(self, ahead: float) -> None:
        """The local clock is corrected, or set wrong."""
        self.local.ahead = ahead

    @rule(happenings=things)
    def sync(self, happenings: list[Happening]) -> None:
        """A sync that nothing disturbs: everything that could be known when it began is right."""
        self._all(happenings)
        self._clean(self.pipelines[0].sync)

    @rule(n=st.integers(0, HISTORY_DAYS + 3))
    def sync_with_a_day(self, n: int) -> None:
        """A sync that also lists a day, today if `n` is 0."""
        self._clean(lambda: self.pipelines[0].sync([day_of(self.shop.clock.now()) - timedelta(days=n)]))

    @rule(happenings=things, path=paths, nth=nths, times=st.integers(1, 2), trouble=st.sampled_from(TROUBLES))
    def sync_in_trouble(
        self, happenings: list[Happening], path: str, nth: int, times: int, trouble: dict[str, Any]
    ) -> None:
        """Requests fail that succeed when they are sent again."""
        self._all(happenings)
        self.server.faults.append(Fault(path=path, nth=nth, times=times, **trouble))
        self._clean(self.pipelines[0].sync)
        self.server.faults.clear()

    @rule(
        happenings=things,
        path=paths,
        nth=nths,
        livemode=st.sampled_from((None, True, False)),
        with_=st.sampled_from(REFUSALS),
    )
    def sync_refused(
        self, happenings: list[Happening], path: str, nth: int, livemode: bool | None, with_: dict[str, Any]
    ) -> None:
        """Requests fail however often they are sent."""
        self._all(happenings)
        self.server.faults.append(Fault(path=path, nth=nth, livemode=livemode, times=None, **with_))
        with suppress(StripePipelineError):
            self._run(self.pipelines[0].sync)
        self.server.faults.clear()

    @rule(nth=st.integers(0, 40), happenings=few_things)
    def sync_amid_trade(self, nth: int, happenings: list[Happening]) -> None:
        """Things happen before or after one of its requests."""
        with self._around(nth, lambda: self._all(happenings)):
            self._clean(self.pipelines[0].sync)

    @rule(
        nth=st.integers(0, 40),
        before=things,
        after=few_things,
        inner=st.sampled_from(("sync", "sync", "backfill")),
        outer=st.sampled_from(("backfill", "backfill", "sync")),
    )
    def two_at_once(self, nth: int, before: list[Happening], after: list[Happening], inner: str, outer: str) -> None:
        """While one run waits for an answer, or has not stored one yet, changes happen and another run is made."""
        first, second = (
            pipeline.sync if kind == "sync" else lambda p=pipeline: p.backfill(self._days(range(HISTORY_DAYS)))
            for kind, pipeline in zip((outer, inner), self.pipelines, strict=True)
        )

        def meanwhile() -> None:
            self._all(before)
            self._run(second, apart=False)
            self._all(after)

        with self._around(nth, meanwhile):
            if outer == "sync":
                self._clean(first)
            else:
                self._run(first)

    @rule(
        ns=st.lists(st.integers(-1, HISTORY_DAYS), min_size=1, max_size=4),
        only=st.sampled_from((None, "charges", "fee_details", "invoices")),
    )
    def backfill(self, ns: list[int], only: str | None) -> None:
        """A backfill of random days."""
        self._run(lambda: self.pipelines[1].backfill(self._days(ns), only and [only]))

    @rule(
        happenings=things,
        step=st.sampled_from(STEPS),
        nth=st.integers(0, 3),
        done=st.booleans(),
        which=st.sampled_from((0, 0, 1)),
    )
    def crash(self, happenings: list[Happening], step: str, nth: int, done: bool, which: int) -> None:
        """A run ends right before or right after it stores something."""
        self._all(happenings)
        owner: Any = self.pipelines[0]
        *names, name = step.split(".")
        for attribute in names:
            owner = getattr(owner, attribute)
        real = getattr(owner, name)
        left = itertools.count()

        def crashing(*arguments: Any, **options: Any) -> Any:
            crashes = next(left) == nth
            if crashes and not done:
                raise Crash
            result = real(*arguments, **options)
            if crashes:
                raise Crash
            return result

        with mock.patch.object(owner, name, crashing), suppress(Crash):
            self._run(
                self.pipelines[0].sync if which == 0 else lambda: self.pipelines[0].backfill(self._days(range(5)))
            )
            FIGURES["crashes"] -= 1
        FIGURES["crashes"] += 1

    def _days(self, ns: Sequence[int]) -> list[Any]:
        today = day_of(self.shop.clock.now())
        return [today - timedelta(days=n) for n in ns]

    # The number of events may depend on the speed of the machine, the drawn values must not.
    @rule(happenings=things, seed=st.integers(0, 2**32), most=st.sampled_from((2, 1000)))
    def webhooks(self, happenings: list[Happening], seed: int, most: int) -> None:
        """Some of the latest events come as webhooks, in any order and some of them twice."""
        self._all(happenings)
        events = [event for livemode in (True, False) for event in self.shop.events(livemode)[:20]]
        sent = random.Random(seed).choices(events, k=min(len(events), 25)) if events else []
        self.pipelines[1].inbox.add([notification for event in sent for notification in notifications_of(event)])
        report = self._run(lambda: self.pipelines[1].drain(most=most))
        assert not report.failures, report.failures
        self.pipelines[1].publish()
        if self.folder.published.exists():
            self._no_row_twice()

    @contextmanager
    def _around(self, nth: int, happens: Callable[[], object]) -> Iterator[None]:
        with mock.patch.object(Api, "around", iter([*[None] * nth, happens])):
            yield

    def _run(self, work: Callable[[], Report], *, apart: bool = True) -> Report:
        FIGURES["runs"] += 1
        if apart:
            # A run that follows another within the error of Stripe's clock may take a change for older than it is; the
            # next sync corrects that.
            self.shop.clock.advance(1 + CLOCK_ERROR)
        self.wrong = True
        try:
            report = work()
        except (Crash, StripePipelineError):
            self.wrong = False
            raise
        self.wrong = False
        return report

    def _clean(self, work: Callable[[], Report]) -> None:
        """Run, and see that everything is right that could be known when it began."""
        began = self.shop.clock.now() + 1 + CLOCK_ERROR
        Api.slowest = 0.0
        report = self._run(work)
        # If the machine stalls, the estimate of Stripe's clock is worse by as much as the answers were late.
        began -= Api.slowest
        self.wrong = True
        assert not report.failures, report.failures
        for table, livemode, key, stripe, ours in differences(self.shop, self.folder.published):
            known_from = self.log.known_from.get(
                (FAMILY.get(table, table), livemode, _owner(table, key, stripe or ours)), 0.0
            )
            # No event announces that money became available: the status is read once an hour. And Stripe's clock is
            # known to about two seconds only: a first sync right after midnight may not know yet that a day has begun.
            settled = table == "balance_transactions" and _but_status(stripe) == _but_status(ours)
            assert known_from > began or settled or began % DAY < 3, (table, livemode, key, stripe, ours)
        self._no_row_twice()
        self.wrong = False

    def _no_row_twice(self) -> None:
        with duckdb.connect(str(self.folder.published), read_only=True) as connection:
            for object_type in stored(connection):
                key = ", ".join(("livemode", *object_type.key))
                sql = f"SELECT {key} FROM raw.{object_type.name} GROUP BY {key} HAVING count(*) > 1"
                assert connection.execute(sql).fetchall() == [], object_type.name

    def teardown(self) -> None:
        """A day later everything is right, announced or not, and a further sync changes nothing."""
        with self.stack:
            if self.wrong or not hasattr(self, "pipelines"):
                return
            self.shop.clock.advance(DAY + 3600)
            if self.shop.clock.now() % DAY > DAY - 60:
                self.shop.clock.advance(60)  # not over midnight, when money becomes available
            self._clean(self.pipelines[0].sync)
            assert_equal_to_stripe(self.shop, self.folder.published)
            report = self._run(self.pipelines[0].sync)
            assert not any(changes.days for changes in report.changes.values())
            assert_equal_to_stripe(self.shop, self.folder.published)
            self.shop.clock.advance(SETTLING + 60)
            self._run(self.pipelines[0].prove)
            unproved = self._unproved()
            assert unproved == [], unproved

    def _unproved(self) -> list[tuple[Any, ...]]:
        """The outcomes that are open or failed, except of what the history begins with."""
        with duckdb.connect(str(self.folder.published), read_only=True) as connection:
            columns = "name, object_type, livemode, currency, scope, left_side, right_side, verdict, reason"
            return connection.execute(f"SELECT {columns} FROM pipeline.proof WHERE verdict <> 'proved'").fetchall()


def _but_status(obj: dict[str, Any] | None) -> dict[str, Any]:
    return (obj or {}) | {"status": None}


TestHistories = pytest.mark.timeout(1200)(Histories.TestCase)  # a minute on an idle machine
# Always the same histories, so that a failure is due to a change of the code.
# `make smoke` runs more of them, `make soak` a thousand. A lake takes several times as long.
TestHistories.settings = settings(
    max_examples=2 if IN_LAKE else 4,
    stateful_step_count=6,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.thorough
def test_rows_that_another_run_read_later_are_not_overwritten() -> None:
    """A case that a few random histories meet too seldom."""
    history = Histories()
    history.start(moment=40_000, ahead=0, before=[("customer", True, "at once", 1)])
    try:
        history.sync([])
        edits: list[Happening] = [("edit", True, "at once", n) for n in (61, 62, 64, 65, 67, 70)]
        history.two_at_once(
            nth=12, before=edits, after=[("payout", True, "at once", 3)], inner="sync", outer="backfill"
        )
        history.sync([])
    finally:
        history.teardown()
