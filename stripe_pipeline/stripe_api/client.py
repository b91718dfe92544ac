"""Reading from Stripe's API with one key, from any thread: each answer is complete, or an error that says what to do.

This module has the parts of one request: the key, the pinned version, retries, Stripe's clock, pages. Pacing requests
belongs to `rate_limits`, interpreting answers to `answers`, the errors to `refusals`; which windows or ids to read, and
what to do with the objects, to the callers. Objects are plain dicts: building the SDK's objects takes forty times
the CPU (docs/stripe.md#stripe-python).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

import urllib3

from stripe_pipeline.addresses import BASE_URL, checked_base
from stripe_pipeline.errors import ApiError, Cancelled, NotFound, OutOfTime, PermissionMissing, scrub
from stripe_pipeline.stripe_api.answers import Failure, HttpAnswer, Refusal
from stripe_pipeline.stripe_api.clock import ServerClock, Witnesses
from stripe_pipeline.stripe_api.connections import CONNECT_TIMEOUT, TimeLimit, connections
from stripe_pipeline.stripe_api.deadline import Deadline
from stripe_pipeline.stripe_api.keys import ApiKey
from stripe_pipeline.stripe_api.rate_limits import RateLimits, endpoint_of
from stripe_pipeline.stripe_api.refusals import Read, cursor_lost, given_up, odd_answer, refused
from stripe_pipeline.stripe_api.retries import Retries
from stripe_pipeline.stripe_api.version import API_VERSION

logger = logging.getLogger(__name__)
MAX_LIMIT = 100  # objects per page, docs/stripe.md#lists
_TIME = "time"  # counts requests that confirm Stripe's time: they read no object
Params = Mapping[str, str | int | Sequence[str]]
_Query = list[tuple[str, str]]


@dataclass(frozen=True)
class Reply:
    """A JSON object from Stripe, and when it was requested: Unix seconds on Stripe's clock."""

    data: dict[str, Any]
    sent_at: float
    repaired: bool = False
    """Whether parts of the object were replaced (`odd_json`)."""
    request_id: str | None = None
    """Stripe's id of the request, by which the Dashboard and Stripe's support find it."""


@dataclass(frozen=True)
class Page:
    """One page of a list, newest object first; `sent_at` as in `Reply`."""

    objects: list[dict[str, Any]]
    has_more: bool
    sent_at: float
    repaired: bool = False
    """As in `Reply`."""
    request_id: str | None = None
    """As in `Reply`."""

    @classmethod
    def of(cls, reply: Reply, path: str, starting_after: str | None) -> Self:
        """The page in the reply to a request for the list at `path`; raises `Unavailable` if it is not one."""
        objects, has_more = reply.data.get("data"), reply.data.get("has_more")
        if not isinstance(objects, list) or not isinstance(has_more, bool):
            raise odd_answer(path, "is not a list of objects")
        # A non-object is passed to the reader as an object without an id.
        known = [obj if type(obj) is dict else {} for obj in objects]
        page = cls(known, has_more, reply.sent_at, reply.repaired, reply.request_id)
        if has_more and page.last in (None, starting_after):
            raise odd_answer(path, "says that more objects follow, but not after which one")
        return page

    @property
    def last(self) -> str | None:
        """The id after which the next page starts: the last id on this page."""
        ids = (obj.get("id") for obj in reversed(self.objects))
        return next((object_id for object_id in ids if isinstance(object_id, str) and object_id), None)


@dataclass(frozen=True)
class _Answer:
    """A JSON object from Stripe, the local time at which it was requested, whether it was repaired, and Stripe's id of
    the request."""

    data: dict[str, Any]
    sent: float
    repaired: bool
    request_id: str | None


class StripeApi:
    """Reads with one key; thread-safe; as a context manager, closes itself.

    `limits` says when a request may be sent: by default, Stripe's own limits. `retries` says how long the client tries
    to read an answer. The client stops sending and waiting once `deadline` has passed.
    """

    def __init__(
        self,
        key: ApiKey,
        *,
        base_url: str = BASE_URL,
        retries: Retries | None = None,
        deadline: Deadline | None = None,
        limits: RateLimits | None = None,
    ) -> None:
        self._base_url = checked_base(base_url)
        url = urllib3.util.parse_url(self._base_url)
        self.livemode = key.livemode
        self.clock = ServerClock()
        self._server = url.netloc or base_url
        self.retries = retries or Retries()
        self._deadline = deadline or Deadline()
        self._limits = limits or RateLimits.of_stripe(livemode=key.livemode)
        self._lock = threading.Lock()
        self._spent: Counter[str] = Counter()
        self._slowed_down: Counter[str] = Counter()
        self._in_flight = 0
        self._closed = threading.Event()
        self._key = key
        self._connections = connections(self._base_url, self.retries.silence)
        self._account: str | None = None
        self._witnesses = Witnesses(self.clock, self._deadline)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all waiting with `Cancelled`, and closes the connections after the last request in flight."""
        with self._lock:
            self._closed.set()
            idle = self._in_flight == 0
        self._limits.close()
        if idle:
            self._connections.clear()

    def now(self) -> float:
        """The time on Stripe's clock in Unix seconds; the local time until Stripe has answered once."""
        return self.clock.now()

    def spent(self) -> int:
        """How many requests were sent, retries included."""
        with self._lock:
            return self._spent.total()

    def spent_on(self, endpoint: str) -> int:
        """How many requests were sent to the endpoint that this path belongs to, retries included."""
        with self._lock:
            return self._spent[endpoint_of(endpoint)]

    def slowed_down(self) -> Counter[str]:
        """How many requests Stripe answered with 429 because of its rate limits, by Stripe's reason."""
        with self._lock:
            return self._slowed_down.copy()

    def account(self) -> str | None:
        """The id of the account that the key belongs to, for example `acct_1`.

        A restricted key may lack the permission to read the account; Stripe's refusal then names the account, or the
        result is None. Otherwise raises as `get` does.
        """
        try:
            account = self.get("/v1/account").data.get("id")
        except PermissionMissing:
            return self.named_account
        if not isinstance(account, str):
            raise odd_answer("/v1/account", "names no account")
        with self._lock:
            self._account = account
        return account

    @property
    def named_account(self) -> str | None:
        """The account that Stripe has named so far, in an answer or a refusal; None if it has named none."""
        with self._lock:
            return self._account

    def get(self, path: str, params: Params | None = None) -> Reply:
        """Reads `path`, for example `/v1/charges/ch_1`; a list in `params` is sent as `name[]=…&name[]=…`.

        Retries failures that may pass: 409, 429, 5xx, cut or foreign bodies, broken connections. Raises
        `AuthenticationFailed`, `PermissionMissing`, `NotFound` or `RequestRefused` at once, `Unavailable` when the
        retries are used up, `OutOfTime` when the deadline passes first, and `Cancelled` after `close`.
        """
        endpoint, query = endpoint_of(path), _query(params or {})
        failures = attempts = 0
        limited_since: float | None = None
        while True:
            try:
                answer = self._ask(endpoint, path, query)
            except PermissionMissing:
                self._witnesses.confirm(endpoint, self._ask_for_time)
                raise
            if isinstance(answer, _Answer):
                self._witnesses.confirm(endpoint, self._ask_for_time)
                return Reply(answer.data, answer.sent + self.clock.offset, answer.repaired, answer.request_id)
            attempts += 1
            pause = random.uniform(0.0, self.retries.pause(attempts))
            pause = max(pause, answer.retry_after * random.uniform(1.0, 1.1))
            if answer.status == 429:
                now = time.monotonic()
                limited_since = now if limited_since is None else limited_since
                if now + pause - limited_since > self.retries.patience:
                    raise given_up(path, self._server, answer, attempts)
            else:
                failures += 1
                if answer.final or failures >= self.retries.max_attempts:
                    raise given_up(path, self._server, answer, attempts)
            if pause >= self._deadline.left():
                raise OutOfTime(path, last_seen=answer.seen)
            logger.info("%s", scrub(f"GET {path}: {answer.seen}; trying again in {pause:.1f} s"))
            if self._closed.wait(pause):
                raise Cancelled

    def page(
        self, path: str, params: Params | None = None, *, limit: int = MAX_LIMIT, starting_after: str | None = None
    ) -> Page:
        """One page of the list at `path`; `params` are its filters, for example `{"created[gte]": 1}`.

        Raises as `get` does, and `CursorLost` if Stripe does not know the object `starting_after` names.
        """
        query = {**(params or {}), "limit": limit}
        if starting_after is not None:
            query["starting_after"] = starting_after
        try:
            reply = self.get(path, query)
        except NotFound as missing:
            if starting_after is None:
                raise
            raise cursor_lost(missing) from None
        return Page.of(reply, path, starting_after)

    def pages(self, path: str, params: Params | None = None) -> Iterator[Page]:
        """All pages of the list at `path` under one fixed filter, newest first. Raises as `page` does.

        Fix the upper bound with `created[lt]`: objects created while paging appear before the first page.
        """
        page = self.page(path, params)
        yield page
        while page.has_more:
            page = self.page(path, params, starting_after=page.last)
            yield page

    @contextmanager
    def _sending(self, endpoint: str) -> Iterator[None]:
        """Counts a request in flight; the last one closes the connections, which must stay open until then."""
        with self._lock:
            if self._closed.is_set():
                raise Cancelled
            self._spent[endpoint] += 1
            self._in_flight += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_flight -= 1
                last = self._closed.is_set() and self._in_flight == 0
            if last:
                self._connections.clear()

    def _ask(self, endpoint: str, path: str, query: _Query, *, spent_on: str | None = None) -> _Answer | Failure:
        """Send the request once and read the whole answer. The request counts for `spent_on` or else `endpoint`."""
        turn = self._limits.acquire(endpoint, self._deadline)
        seconds = min(self.retries.request_time, self._deadline.left())
        if not seconds:
            raise OutOfTime(path)
        with self._sending(spent_on or endpoint), TimeLimit(seconds) as limit:
            sent = self.clock.local()
            try:
                response = self._connections.request(
                    "GET",
                    self._base_url + path,
                    fields=query,
                    headers=_headers(self._key),
                    redirect=False,
                    timeout=urllib3.Timeout(
                        connect=min(self.retries.silence, CONNECT_TIMEOUT, seconds),
                        read=min(self.retries.silence, seconds),
                    ),
                )
            except urllib3.exceptions.HTTPError as problem:
                if limit.exceeded:
                    return Failure(f"an answer that was not complete after {seconds:.0f} s")
                return Failure(f"{type(problem).__name__}: {problem}" if str(problem) else type(problem).__name__)
            received = self.clock.local()

        answer = HttpAnswer.of(response)
        if answer.body is None and limit.exceeded:  # without a length, a cut body looks complete
            return Failure(f"an answer that was not complete after {seconds:.0f} s")
        if answer.repaired:
            logger.warning("GET %s: invalid Unicode, too large numbers or too deeply nested values were replaced", path)
        if dates := answer.stripe_dates:
            self.clock.learn(dates, sent, received)
        if answer.status == 200 and answer.body is not None:
            return _Answer(answer.body, sent, answer.repaired, answer.request_id)
        trouble = answer.trouble(self.now())
        if isinstance(trouble, Refusal):
            raise self._refused(Read(path, endpoint), trouble)
        if trouble.status == 429:
            reason = answer.rate_limit
            if reason:
                with self._lock:
                    self._slowed_down[reason] += 1
            self._limits.slow_down(endpoint, reason, trouble.retry_after, turn)
        return trouble

    def _ask_for_time(self, endpoint: str) -> None:
        self._ask(endpoint, endpoint, [("limit", "1")], spent_on=_TIME)

    def _refused(self, request: Read, refusal: Refusal) -> ApiError:
        """The error for a refusal; remembers the account that the refusal names."""
        error = refused(refusal, request, livemode=self.livemode)
        if isinstance(error, PermissionMissing) and error.account:
            with self._lock:
                self._account = error.account
        return error


def _headers(key: ApiKey) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {key.secret}",
        "Stripe-Version": API_VERSION,
        "User-Agent": f"stripe_pipeline/{_version()}",
        "Accept-Encoding": "gzip, deflate",
    }


@cache
def _version() -> str:
    return version("stripe-pipeline")


def _query(params: Params) -> _Query:
    query: _Query = []
    for name, value in params.items():
        if isinstance(value, str | int):
            query.append((name, str(value)))
        else:
            query.extend((f"{name}[]", item) for item in value)
    return query
