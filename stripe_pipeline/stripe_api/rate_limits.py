"""Stripe's request limits, shared by all threads of all processes that use one data folder, or one inbox in Postgres.

This module decides when a request may be sent. Sending it, and handling refusals, belongs to `stripe_api`; keeping the
shared state, to `inbox.shared_rates`.

Each endpoint has a token bucket and the account has one; a request takes a token from both at the same moment, so
that a waiting endpoint holds no token of the account. A 429 lowers the bucket's rate to the throughput of the second
before, at most by half; a period without 429s raises the rate again step by step. Urgent callers may borrow the next
token; the others wait until it is repaid. All times are seconds.

Where an exchange of the state takes a network's time, one exchange also plans the requests that wait at that moment: it
takes their tokens in advance, for the times at which they may be sent.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from typing import Any

import orjson

from stripe_pipeline.errors import Cancelled, OutOfTime
from stripe_pipeline.inbox.shared_rates import SharedRates
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.stripe_api.deadline import Deadline

# Requests per second, docs/stripe.md#limits.
ENDPOINT_RATE = 25.0
LIVE_ACCOUNT_RATE = 100.0
TEST_ACCOUNT_RATE = 25.0
READ_ALLOCATION = 10_000
"""Read requests that Stripe allows every account in 30 days; more if it has many transactions."""

SPARE = 1.5
"""Requests per second reserved for catching up: requests sent evenly arrive unevenly, so that one second may
contain one more."""
SLOWEST_RATE = 1.0
CAREFUL = 0.97
"""After a 429, the rate becomes this share of the throughput just before it."""
QUIET = 5.0
"""Seconds without a 429 after which a slowed bucket speeds up by one step."""
STEP = 0.03
"""The first increase, as a share of the rate; each further step doubles it: the limit is found near the refused rate
with one 429 in a hundred requests, and from half to full speed takes 25 s."""
LONGEST = frozenset({"/v1/balance_transactions", "/v1/charges", "/v1/payment_intents"})
"""The longest lists of an account that sells by card. If the account's limit is the bottleneck, the other lists use the
remaining tokens, a quarter: all lists of such an account are then read sooner than with equal shares
(docs/decisions/0013-hand-written-code.md)."""
LEFT = 0.4
"""Account tokens that the other lists leave to `LONGEST`."""
SAME_TROUBLE = 1.0
"""Further 429s within so many seconds answer requests sent before the slow-down, and have no effect."""

_SOON = 0.25  # seconds ahead of which requests are planned
_REMEMBERED = 10.0  # seconds for which sent requests are remembered; a 429 that takes longer halves the rate
_LONGEST_PAUSE = 120.0  # seconds; times further ahead are from before the clock restarted
_ACCOUNT = "account"
_USED = "requests"
_COUNTED = 40  # days for which requests are counted
_NAMESPACES = frozenset(
    endpoint.split("/")[2]
    for object_type in OBJECT_TYPES.values()
    if (endpoint := object_type.endpoint) and endpoint.count("/") == 3
)
"""First parts of paths whose second part names the type, such as `checkout` of `/v1/checkout/sessions`."""

Wait = Callable[[threading.Event, float | None], bool]


def endpoint_of(path: str) -> str:
    """The endpoint that Stripe counts a path for: `/v1/charges/ch_1` belongs to `/v1/charges`.

    A list below an object is an endpoint of its own: `/v1/invoices/in_1/lines` gives `/v1/invoices/{id}/lines`.
    Ids in `path` are percent-encoded (`paths.object_path`), so a slash in an id does not start a segment.
    """
    parts = path.strip("/").split("/")
    id_at = 3 if parts[1] in _NAMESPACES else 2
    named = ["{id}" if place == id_at else part for place, part in enumerate(parts[: id_at + 2])]
    return "/" + "/".join(named).removesuffix("/{id}")


@dataclass(frozen=True)
class Requests:
    """The requests that all processes sent on one UTC day."""

    day: date
    sent: int
    """Retries included."""
    refused: int
    """How many of these Stripe refused with 429, for being too fast."""


def requests_by_day(shared: SharedRates) -> list[Requests]:
    """The requests of the last 40 days, oldest first, from the state that limits share; empty if none are counted.
    Raises `WarehouseError` if the database that holds the state fails."""
    text = shared.read()
    try:
        used = orjson.loads(text)[_USED]
        return [Requests(date.fromisoformat(day), sent, refused) for day, (sent, refused) in sorted(used.items())]
    except (ValueError, LookupError, TypeError, AttributeError):
        return []


class Bucket:
    """A token bucket that slows down when told to and recovers by itself; not thread-safe, every time is passed in."""

    def __init__(self, limit: float, share: float) -> None:
        self.full_rate = min(limit * share, max(limit - SPARE, limit / 2))
        self.rate = self.full_rate
        # Saved tokens and the steady rate together stay below Stripe's limit, in any second.
        self._burst = max(1.0, min(limit - self.full_rate, self.full_rate / 4))
        self._tokens = self._burst
        self._filled_at: float | None = None
        self._slowed_at: float | None = None
        self._quiet_since = 0.0
        self._step = STEP
        self._sent: deque[float] = deque()  # recent send times, without refused requests

    def wait(self, now: float, left: float = 0.0) -> float:
        """Seconds until a token is available with `left` more remaining; 0 if now. `now` must never decrease."""
        self._fill(now)
        assert self._filled_at is not None
        wanted = min(1.0 + left, self._burst)
        if self._tokens >= wanted - 1e-9:  # so that a rounding error costs no extra turn
            return max(0.0, self._filled_at - now)
        return self._filled_at - now + (wanted - self._tokens) / self.rate

    def take(self, now: float) -> None:
        """Takes a token, after `wait` returned 0."""
        self._tokens -= 1.0
        self._sent.append(now)
        while self._sent[0] < now - _REMEMBERED:
            self._sent.popleft()

    def state(self) -> dict[str, Any]:
        """The bucket's state for other processes. Recent throughput is not shared: it is rarely needed, and this method
        runs a hundred times a second."""
        return {
            "rate": self.rate,
            "tokens": self._tokens,
            "filled_at": self._filled_at,
            "slowed_at": self._slowed_at,
            "quiet_since": self._quiet_since,
            "step": self._step,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from another process's `state`; raises `LookupError` or `TypeError` if it is not valid."""
        rate, tokens = min(state["rate"], self.full_rate), min(state["tokens"], self._burst)
        filled_at, slowed_at, quiet_since, step = (
            state[name] for name in ("filled_at", "slowed_at", "quiet_since", "step")
        )
        self.rate, self._tokens, self._filled_at = rate, tokens, filled_at
        self._slowed_at, self._quiet_since, self._step = slowed_at, quiet_since, step

    def slow_down(self, now: float, pause: float, sent: float | None = None) -> None:
        """Handle a 429 to a request sent at `sent`: lower the rate to the throughput of the second before, at most by
        half; send nothing for `pause` seconds, nor until the last second holds fewer requests than that."""
        self._fill(now)
        assert self._filled_at is not None
        sent = now if sent is None else sent
        with suppress(ValueError):
            self._sent.remove(sent)
        if self._slowed_at is None or (now - self._slowed_at >= SAME_TROUBLE and sent > self._slowed_at):
            passed = [time for time in self._sent if sent - 1.0 < time <= sent]
            self.rate = max(min(SLOWEST_RATE, self.full_rate), self.rate / 2, min(self.rate, CAREFUL * len(passed)))
            self._slowed_at = now
            self._step = STEP
            if passed:
                pause = max(pause, passed[0] + 1.0 - now)
        self._tokens = 0.0
        self._filled_at = max(self._filled_at, now + pause)
        self._quiet_since = self._filled_at

    def _fill(self, now: float) -> None:
        if self._filled_at is None:
            self._filled_at = now
        if now <= self._filled_at:  # still paused
            return
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now
        while self.rate < self.full_rate and now - self._quiet_since >= QUIET:
            self.rate = min(self.full_rate, self.rate * (1.0 + self._step))
            self._step *= 2.0
            self._quiet_since += QUIET


class RateLimits:
    """One bucket for the account and one for each endpoint; thread-safe.

    `account` and `endpoint` are requests per second, `share` (0 to 1) the share of them to use. Processes with the same
    state in `shared` share the limits, `urgent` ones first. `clock` (instead of that of `shared`) and `wait` (waits for
    an event, or so many seconds) exist for tests.
    """

    def __init__(
        self,
        *,
        account: float,
        endpoint: float = ENDPOINT_RATE,
        share: float = 1.0,
        shared: SharedRates | None = None,
        urgent: bool = False,
        clock: Callable[[], float] | None = None,
        wait: Wait = threading.Event.wait,
    ) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, not {share}")
        self._endpoint = endpoint
        self._share = share
        self._urgent = urgent
        self._shared = shared
        self._clock = clock or (shared.clock if shared else time.monotonic)
        self._wait = wait
        self._lock = threading.Lock()
        self._closed = False
        self._account = Bucket(account, share)
        self._used: dict[str, list[int]] = {}
        self._endpoints: dict[str, Bucket] = {}
        self._queues: dict[str, deque[threading.Event]] = {}
        self._planned: dict[str, deque[float]] = {}

    @classmethod
    def of_stripe(
        cls, *, livemode: bool, share: float = 1.0, shared: SharedRates | None = None, urgent: bool = False
    ) -> RateLimits:
        """Stripe's own limits for a live or a test key."""
        account = LIVE_ACCOUNT_RATE if livemode else TEST_ACCOUNT_RATE
        return cls(account=account, share=share, shared=shared, urgent=urgent)

    def acquire(self, endpoint: str, deadline: Deadline | None = None) -> float:
        """Returns when a request to `endpoint` may be sent; first come, first served on each endpoint.

        The time, by the clock of these limits, is for `slow_down`. Raises `Cancelled` once the limits are closed, and
        `OutOfTime` as soon as it is clear that the request may not be sent before `deadline`.
        """
        turn = threading.Event()
        deadline = deadline or Deadline()
        with self._lock:
            self._bucket(endpoint)
            queue = self._queues[endpoint]
            queue.append(turn)
        try:
            at: float | None = None
            while True:
                with self._lock:
                    if self._closed:
                        raise Cancelled
                    turn.clear()
                    delay = None
                    if queue[0] is turn:  # only the first in the queue waits for a time, the rest for their turn
                        if at is None:
                            at, delay = self._take(endpoint)
                        else:
                            delay = max(0.0, at - self._clock())
                    if at is not None and not delay:
                        return at
                left = deadline.left()
                if not left or (delay or 0.0) > left:
                    raise OutOfTime(endpoint)
                self._wait(turn, left if delay is None and left < math.inf else delay)
        finally:
            with self._lock:
                first = queue[0] is turn
                queue.remove(turn)
                if first and queue:
                    queue[0].set()

    def _take(self, endpoint: str) -> tuple[float | None, float]:
        """Returns when the request may be sent, or None if no token was taken, and how long to wait before sending or
        retrying."""
        planned = self._planned[endpoint]
        while planned:
            now, at = self._clock(), planned.popleft()
            if at > now - _SOON:  # else the request it was planned for was given up
                return at, max(0.0, at - now)
        with self._together():
            bucket, now = self._bucket(endpoint), self._clock()
            left = 0.0 if self._urgent or endpoint in LONGEST else LEFT
            at_once = self._shared.at_once if self._shared else 1
            in_bucket, in_account = bucket.wait(now), self._account.wait(now, left)
            delay = max(in_bucket, in_account)
            # The other lists must not take the account's next tokens from `LONGEST`.
            plans = at_once > 1 and delay <= _SOON and (in_account <= in_bucket or not left)
            if delay and not self._urgent and not plans:
                return None, delay
            self._spend(bucket, now + delay)
            for _ in range(min(at_once, len(self._queues[endpoint])) - 1):
                later = max(bucket.wait(now), self._account.wait(now, left))
                if later > _SOON:
                    break
                self._spend(bucket, now + later)
                planned.append(now + later)
            return now + delay, delay

    def _spend(self, bucket: Bucket, at: float) -> None:
        """Takes the tokens of a request that is sent at `at`."""
        bucket.take(at)
        self._account.take(at)
        self._count(sent=1)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Locks the buckets' shared state, loads it, and saves it at the end."""
        if self._shared is None:
            yield
            return
        with self._shared.exchange() as state:
            self._restore(state.read)
            yield
            states = {name: bucket.state() for name, bucket in self._endpoints.items()}
            state.text = orjson.dumps(states | {_ACCOUNT: self._account.state(), _USED: self._used})

    def _restore(self, stored: bytes) -> None:
        # A missing or truncated state, or one of another version, counts as if nothing had been sent.
        with suppress(ValueError, LookupError, TypeError, AttributeError):
            states = orjson.loads(stored)
            self._used = states.pop(_USED, {})
            if max(state["filled_at"] or 0.0 for state in states.values()) > self._clock() + _LONGEST_PAUSE:
                return
            for name, state in states.items():
                (self._account if name == _ACCOUNT else self._bucket(name)).restore(state)

    def slow_down(self, endpoint: str, reason: str | None, pause: float = 0.0, sent: float | None = None) -> None:
        """Handle a 429 for a request to `endpoint` at `sent`; `reason` is from `Stripe-Rate-Limited-Reason`.

        `global-…` slows down the account and any other reason the endpoint, for at least `pause` seconds. Without
        a reason the object was locked, which says nothing about the rate (docs/stripe.md#limits).
        """
        if reason is None:
            return
        with self._lock, self._together():
            bucket = self._account if reason.startswith("global-") else self._bucket(endpoint)
            bucket.slow_down(self._clock(), pause, sent)
            for planned in self._planned.values():
                planned.clear()
            self._count(refused=1)

    def _count(self, *, sent: int = 0, refused: int = 0) -> None:
        """Counts requests of the present UTC day."""
        day = time.strftime("%Y-%m-%d", time.gmtime())
        if day not in self._used:
            for earlier in sorted(self._used)[: -_COUNTED + 1]:
                del self._used[earlier]
            self._used[day] = [0, 0]
        self._used[day][0] += sent
        self._used[day][1] += refused

    def close(self) -> None:
        """Ends all waiting: every `acquire`, now or later, raises `Cancelled`."""
        with self._lock:
            self._closed = True
            for queue in self._queues.values():
                for turn in queue:
                    turn.set()
            if self._shared:
                self._shared.close()

    def _bucket(self, endpoint: str) -> Bucket:
        if endpoint not in self._endpoints:
            self._endpoints[endpoint] = Bucket(self._endpoint, self._share)
            self._queues[endpoint] = deque()
            self._planned[endpoint] = deque()
        return self._endpoints[endpoint]
