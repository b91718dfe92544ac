"""Stripe's time, estimated from the `Date` headers of Stripe's answers.

Rows, cursors and coverage carry Stripe's time, so a wrong estimate hides changes. A single answer never overrides the
estimate: a proxy or one server of many may be wrong.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from itertools import cycle

from stripe_pipeline.errors import ApiError
from stripe_pipeline.stripe_api.deadline import Deadline

STALE_DATE = 1.0
"""The maximum age of a `Date` header when it is sent, in seconds: servers renew it once a second."""
LOCAL_ERROR = 60.0
"""Seconds by which the local clock is assumed to be off at most, until Stripe's answers say more."""
SAME_DATE = 2.0
"""Seconds by which two `Date` values in one answer, from a proxy and from Stripe, may differ."""
CONFIRMATIONS = 3
"""Answers that must agree before they override the estimate, or before the estimate counts as certain."""

_MOST_CONFIRMATIONS = 10
_MOST_REQUESTS = 8  # per client, to find out which of two contradictory answers had the correct time
_WITNESSES = ("/v1/events", "/v1/balance_transactions")  # endpoints that tell Stripe's time
_STEP = 1.0  # seconds; if wall and monotonic clock drift apart by more, the wall clock was set or the machine slept

Bounds = tuple[float, float]
"""The least and the most seconds that Stripe's clock is ahead of the local one."""


@dataclass(frozen=True)
class Reading:
    """What a run knows of Stripe's clock at one moment."""

    bounds: Bounds | None
    """Relative to the machine's wall clock; None before the first answer."""
    latest: float
    """The latest time possible at Stripe, Unix seconds."""


class ServerClock:
    """Stripe's clock as the local one plus an offset; thread-safe.

    `Date` has whole seconds, so Stripe's clock was between D and D + 1 (plus `STALE_DATE`) at some moment between
    sending and receiving. Every answer narrows the bounds of the offset. An answer that contradicts the bounds (or,
    without bounds, the local clock) changes nothing until as many others in a row agree with it as have confirmed the
    bounds, at least `CONFIRMATIONS`.

    Within a run, the local time is the wall clock at the start, continued by the monotonic clock, so that setting
    the wall clock has no effect.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._base = self._between = time.time() - time.monotonic()
        self._bounds: Bounds | None = None
        self._support = 0  # answers of this run that agreed with the bounds
        self._rival: Bounds | None = None
        self._rivals = 0  # answers in a row that contradicted the bounds and agreed with each other

    def local(self) -> float:
        """The local time, Unix seconds."""
        return self._base + time.monotonic()

    def now(self) -> float:
        """Stripe's time, Unix seconds; the local time until an answer has arrived."""
        return self.local() + self.offset

    @property
    def offset(self) -> float:
        """Seconds to add to the local time; exactly 0 as long as the clocks may agree.

        All processes of a machine with a correct clock thus agree, to the microsecond. Otherwise the lower bound,
        which only rises: a later request never gets an earlier time.
        """
        with self._lock:
            return self._offset()

    def _offset(self) -> float:
        if self._bounds is None or self._bounds[0] <= 0.0 <= self._bounds[1]:
            return 0.0
        return self._bounds[0]

    @property
    def doubtful(self) -> bool:
        """Whether the last answer contradicted bounds with too few confirmations: another answer would help."""
        with self._lock:
            return self._rivals > 0 and self._support < CONFIRMATIONS

    def read(self) -> Reading:
        """The knowledge at this moment."""
        with self._lock:
            local = self.local()
            shift = local - time.time()
            if abs(shift) < _STEP:
                shift = 0.0
            bounds = self._bounds and (self._bounds[0] + shift, self._bounds[1] + shift)
            return Reading(bounds, local + (self._bounds[1] if self._bounds else LOCAL_ERROR))

    def assume(self, lowest: float, highest: float) -> None:
        """Start with the bounds of an earlier run.

        This keeps the clock of this run from lagging behind that run's, which had narrowed the bounds further than one
        answer can.
        """
        with self._lock:
            self._bounds = lowest, highest
            self._support = 0

    def learn(self, dates: Bounds, sent: float, received: float) -> None:
        """Learn from an answer.

        `dates`: the earliest and latest time of its `Date` header, Unix seconds; `sent` and `received`:
        the local times of the request and of the answer.
        """
        observed = dates[0] - received, dates[1] + 1.0 + STALE_DATE - sent
        with self._lock:
            between = time.time() - time.monotonic()
            if abs(between - self._between) > _STEP:
                # Either the wall clock was set, which is irrelevant, or the machine slept and its monotonic clock
                # may have stopped.
                self._between, self._support = between, 0
            known = self._bounds or (-LOCAL_ERROR, LOCAL_ERROR)
            if both := _common(known, observed):
                self._bounds = both if self._bounds else observed
                self._support += 1
                self._rival, self._rivals = None, 0
                return
            both = _common(self._rival, observed) if self._rival else None
            self._rivals = self._rivals + 1 if both else 1
            self._rival = both or observed
            if self._rivals >= min(max(self._support + 1, CONFIRMATIONS), _MOST_CONFIRMATIONS):
                self._bounds, self._support = self._rival, self._rivals
                self._rival, self._rivals = None, 0


class Witnesses:
    """Repeats cheap requests while the last answer contradicts the clock; thread-safe.

    Two endpoints are asked in turn, because the dates of one may be wrong, for example behind a cache. Only the
    answer's date counts, even a refusal's; without an answer, the clock stays as it is.
    """

    def __init__(self, clock: ServerClock, deadline: Deadline) -> None:
        self._clock = clock
        self._deadline = deadline
        self._lock = threading.Lock()
        self._requests_left = _MOST_REQUESTS

    def confirm(self, endpoint: str, ask: Callable[[str], object]) -> None:
        """Ask as long as the clock is doubtful.

        The last answer came from `endpoint`, so the other is asked first. `ask` sends one request to an endpoint and
        lets the clock learn from the answer.
        """
        if not self._clock.doubtful:
            return
        witnesses = cycle(sorted(_WITNESSES, key=lambda path: path == endpoint))
        with self._lock:
            while self._clock.doubtful and self._requests_left and not self._deadline.passed:
                self._requests_left -= 1
                with suppress(ApiError):
                    ask(next(witnesses))


def _common(first: Bounds, second: Bounds) -> Bounds | None:
    lowest, highest = max(first[0], second[0]), min(first[1], second[1])
    return (lowest, highest) if lowest <= highest else None


def http_date(text: str) -> float | None:
    """Unix seconds of an HTTP date, which is UTC even if unmarked; None if `text` is not a date."""
    try:
        parsed = parsedate_to_datetime(text)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def http_dates(headers: Sequence[str]) -> Bounds | None:
    """The earliest and latest time in the values of a `Date` header; None if they are not dates or disagree.

    A proxy that adds its own date causes several headers, or one header with both values, separated by a comma.
    """
    texts: list[str] = []
    for header in headers:
        parts = header.split(",")
        # A date itself has a comma, after the day of the week.
        pairs = len(parts) > 2 and len(parts) % 2 == 0
        texts += [",".join(parts[n : n + 2]) for n in range(0, len(parts), 2)] if pairs else [header]
    dates = [http_date(text) for text in texts]
    known = [date for date in dates if date is not None]
    if not known or len(known) < len(dates) or max(known) - min(known) > SAME_DATE:
        return None
    return min(known), max(known)
