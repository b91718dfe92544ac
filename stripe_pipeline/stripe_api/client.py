"""Reading from Stripe's API: one key, any thread, every answer whole or an error that says what to do.

Here belongs what one request needs: the key, the pinned version, retries, Stripe's clock, pages. How fast requests go
out belongs to `rate_limits`; which windows or ids to read, and what becomes of the objects, to the callers. Objects
are plain dicts: building the SDK's objects takes forty times the CPU (docs/stripe.md#stripe-python).
"""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import stripe
import urllib3

from stripe_pipeline import odd_json
from stripe_pipeline.addresses import BASE_URL, checked_base
from stripe_pipeline.errors import (
    ApiError,
    AuthenticationFailed,
    BadObject,
    Cancelled,
    CursorLost,
    NotFound,
    OutOfTime,
    PermissionMissing,
    RequestRefused,
    Unavailable,
    scrub,
)
from stripe_pipeline.stripe_api.clock import ServerClock, http_date, http_dates
from stripe_pipeline.stripe_api.connections import CONNECT_TIMEOUT, TimeLimit, connections
from stripe_pipeline.stripe_api.deadline import Deadline
from stripe_pipeline.stripe_api.keys import NAMELESS, ApiKey, signed
from stripe_pipeline.stripe_api.rate_limits import RateLimits, endpoint_of

logger = logging.getLogger(__name__)
MAX_LIMIT = 100  # objects a page, docs/stripe.md#lists
TIMEOUT = 60.0  # seconds of silence
REQUEST_TIMEOUT = 120.0  # seconds for a whole request, however steadily its answer trickles in
FIRST_BACKOFF = 0.5
MAX_BACKOFF = 8.0
MAX_RETRY_AFTER = 60.0

# Requests that a client sends only to find out which of two contradicting answers told the time rightly.
_MOST_CONFIRMING = 8
_WITNESSES = ("/v1/events", "/v1/balance_transactions")  # endpoints that tell Stripe's time
_TIME = "time"  # what requests that confirm Stripe's time are spent on: they read no object

# Read whatever the settings say, so no object can be disabled to do without the permission.
_ALWAYS_READ = {"/v1/account", "/v1/events"}
_GOES_ON = "the next run goes on from where this one stopped"
Params = Mapping[str, str | int | Sequence[str]]
_Query = list[tuple[str, str]]


@dataclass(frozen=True)
class Reply:
    """One object of Stripe's JSON, and when it was asked for: Unix seconds on Stripe's clock."""

    data: dict[str, Any]
    sent_at: float
    repaired: bool = False
    """Whether something in it was replaced (`odd_json`)."""


@dataclass(frozen=True)
class Page:
    """One page of a list, newest object first; `sent_at` as in `Reply`."""

    objects: list[dict[str, Any]]
    has_more: bool
    sent_at: float
    repaired: bool = False
    """As in `Reply`."""

    @property
    def last(self) -> str | None:
        """The id after which the next page starts: that of the last object which has one."""
        ids = (it.get("id") for it in reversed(self.objects))
        return next((object_id for object_id in ids if isinstance(object_id, str) and object_id), None)


@dataclass(frozen=True)
class _Answer:
    """One object of Stripe's JSON, the local time at which it was asked for, and whether it was repaired."""

    data: dict[str, Any]
    sent: float
    repaired: bool


@dataclass(frozen=True)
class _Failure:
    """An answer, or none, that may be better next time."""

    seen: str
    status: int | None = None
    code: str | None = None
    request_id: str | None = None
    retry_after: float = 0.0
    final: bool = False


class StripeApi:
    """Reads with one key; thread-safe; a context manager that closes it.

    `limits` says when a request may be sent: by Stripe's own limits unless it is given. A request is sent at most
    `max_attempts` times; one that is answered 429 goes on for `patience` seconds instead. `timeout` is how many seconds
    Stripe may be silent before the connection counts as dropped, `request_timeout` how many seconds a request may take
    from the connection to the last byte of its answer. Nothing is sent or waited for once `deadline` has passed.
    """

    def __init__(
        self,
        key: ApiKey,
        *,
        base_url: str = BASE_URL,
        max_attempts: int = 6,
        patience: float = 120.0,
        timeout: float = TIMEOUT,
        request_timeout: float = REQUEST_TIMEOUT,
        deadline: Deadline | None = None,
        limits: RateLimits | None = None,
    ) -> None:
        self._base_url = checked_base(base_url)
        url = urllib3.util.parse_url(self._base_url)
        self.livemode = key.livemode
        self.clock = ServerClock()
        self._server = url.netloc or base_url
        self._max_attempts = max_attempts
        self._patience = patience
        self._timeout = timeout
        self._request_timeout = request_timeout
        self._deadline = deadline or Deadline()
        self._limits = limits or RateLimits.of_stripe(livemode=key.livemode)
        self._lock = threading.Lock()
        self._spent: Counter[str] = Counter()
        self._slowed_down: Counter[str] = Counter()
        self._in_flight = 0
        self._closed = threading.Event()
        self._key = key
        self._connections = connections(self._base_url, timeout)
        self._account: str | None = None
        self._confirming = threading.Lock()
        self._confirmations_left = _MOST_CONFIRMING

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all waiting with `Cancelled`, and the connections once the last request under way is answered."""
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
        """How many requests Stripe answered with 429 for the sake of its rate limits, by the reason it gave."""
        with self._lock:
            return self._slowed_down.copy()

    def account(self) -> str | None:
        """The id of the account that the key belongs to, for example `acct_1`.

        A restricted key may lack the permission to read the account; Stripe's refusal then names the account. None
        where it does not. Raises as `get` does otherwise.
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
        """The account that Stripe has named so far, when it was asked or refused a request; None if it has not."""
        with self._lock:
            return self._account

    def get(self, path: str, params: Params | None = None) -> Reply:
        """Reads `path`, for example `/v1/charges/ch_1`; a list in `params` is sent as `name[]=…&name[]=…`.

        Retries what may get better: 409, 429, 5xx, cut or foreign bodies, broken connections. Raises
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
                self._confirm_time(endpoint)
                raise
            if isinstance(answer, _Answer):
                self._confirm_time(endpoint)
                return Reply(answer.data, answer.sent + self.clock.offset, answer.repaired)
            attempts += 1
            pause = random.uniform(0.0, min(MAX_BACKOFF, FIRST_BACKOFF * 2 ** min(attempts - 1, 10)))
            pause = max(pause, answer.retry_after * random.uniform(1.0, 1.1))
            if answer.status == 429:
                now = time.monotonic()
                limited_since = now if limited_since is None else limited_since
                if now + pause - limited_since > self._patience:
                    raise self._given_up(path, answer, attempts)
            else:
                failures += 1
                if answer.final or failures >= self._max_attempts:
                    raise self._given_up(path, answer, attempts)
            if pause >= self._deadline.left():
                raise OutOfTime(path, last_seen=answer.seen)
            logger.info("%s", scrub(f"GET {path}: {answer.seen}; asking again in {pause:.1f} s"))
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
            raise CursorLost(
                missing.what,
                "The object this page starts after is gone: read the window again",
                path=path,
                status=missing.status,
                code=missing.code,
                request_id=missing.request_id,
            ) from None
        objects, has_more = reply.data.get("data"), reply.data.get("has_more")
        if not isinstance(objects, list) or not isinstance(has_more, bool):
            raise odd_answer(path, "is not a list of objects")
        # What is not an object is left to the reader, as one without an id.
        page = Page([it if type(it) is dict else {} for it in objects], has_more, reply.sent_at, reply.repaired)
        if has_more and page.last in (None, starting_after):
            raise odd_answer(path, "says that there is more but not after which object")
        return page

    def pages(self, path: str, params: Params | None = None) -> Iterator[Page]:
        """All pages of the list at `path` under one fixed filter, newest first. Raises as `page` does.

        Freeze the upper bound with `created[lt]`: what is made while paging shows up before the first page.
        """
        page = self.page(path, params)
        yield page
        while page.has_more:
            page = self.page(path, params, starting_after=page.last)
            yield page

    @contextmanager
    def _sending(self, endpoint: str) -> Iterator[None]:
        """Counts a request; the last one out closes the connections, which nobody may close under a request."""
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

    def _confirm_time(self, endpoint: str) -> None:
        """Ask again, as cheaply as possible, while the `Date` of an answer of this endpoint contradicts what is known.

        Two endpoints are asked in turn, for the dates of one alone may be wrong, as by a cache in front of it. Only the
        answer's date counts, a refusal's too; where nothing is answered, what is known stays.
        """
        if not self.clock.doubtful:
            return
        witnesses = itertools.cycle(sorted(_WITNESSES, key=lambda path: path == endpoint))
        with self._confirming:
            while self.clock.doubtful and self._confirmations_left and not self._deadline.passed:
                self._confirmations_left -= 1
                witness = next(witnesses)
                with suppress(ApiError):
                    self._ask(witness, witness, [("limit", "1")], spent_on=_TIME)

    def _ask(self, endpoint: str, path: str, query: _Query, *, spent_on: str | None = None) -> _Answer | _Failure:
        """Send the request once and read the whole answer. It counts as spent on `endpoint` unless told otherwise."""
        turn = self._limits.acquire(endpoint, self._deadline)
        seconds = min(self._request_timeout, self._deadline.left())
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
                        connect=min(self._timeout, CONNECT_TIMEOUT, seconds), read=min(self._timeout, seconds)
                    ),
                )
            except urllib3.exceptions.HTTPError as problem:
                if limit.exceeded:
                    return _Failure(f"an answer that was not complete after {seconds:.0f} s")
                return _Failure(f"{type(problem).__name__}: {problem}" if str(problem) else type(problem).__name__)
            received = self.clock.local()

        status, headers = response.status, response.headers
        dates = http_dates(headers.getlist("Date"))
        request_id = headers.get("Request-Id")
        body, repaired = _json_object(response.data)
        if body is None and limit.exceeded:  # without a length its end looks like any other
            return _Failure(f"an answer that was not complete after {seconds:.0f} s")
        if repaired:
            logger.warning("GET %s: the answer holds text that is not valid Unicode or too much of something", path)
        error = (body or {}).get("error")
        if dates is not None and body is not None and (status == 200 or (status == 403 and isinstance(error, dict))):
            self.clock.learn(dates, sent, received)
        if status == 200 and body is not None:
            return _Answer(body, sent, repaired)

        retry_after = _retry_after(headers.get("Retry-After"), self.now() if dates is None else dates[1])
        if status == 429:
            reason = headers.get("Stripe-Rate-Limited-Reason")
            if reason:
                with self._lock:
                    self._slowed_down[reason] += 1
            self._limits.slow_down(endpoint, reason, retry_after, turn)
            return _Failure(f"429 ({reason or 'the object is locked'})", 429, None, request_id, retry_after)
        hint = headers.get("Stripe-Should-Retry")
        if 300 <= status < 400:
            return _Failure(redirected(status, headers.get("Location")), status, None, request_id)
        if isinstance(error, dict):
            code, message = error.get("code"), str(error.get("message") or error.get("type"))
            if 400 <= status < 500 and (status != 409 or hint == "false"):
                raise self._refusal(path, endpoint, status, code, message, request_id)
        else:  # a proxy's page or a cut body; its status is not Stripe's word on the object
            kind = headers.get("Content-Type", "unknown type").partition(";")[0]
            code, message = None, f"{len(response.data)} bytes of {kind} that are not the whole JSON of an answer"
        return _Failure(f"HTTP {status}, {message}", status, code, request_id, retry_after, final=hint == "false")

    def _refusal(
        self, path: str, endpoint: str, status: int, code: str | None, message: str, request_id: str | None
    ) -> ApiError:
        """The error for an answer that will not change."""
        kind: type[ApiError] = RequestRefused
        what = f"Stripe refused GET {path} (HTTP {status}): {message}"
        remedy = "Asking again will not help; find the request in the Stripe Dashboard (Developers, Logs)"
        if status == 401:
            kind = AuthenticationFailed
            what = f"Stripe does not accept the {'live' if self.livemode else 'test'} key: {message}"
            remedy = (
                "Check STRIPE_API_KEY"
                if self.livemode
                else "Check STRIPE_TEST_API_KEY, or STRIPE_API_KEY if that is where the test key is"
            )
        elif status == 403:
            kind = PermissionMissing
            what = f"The key may not read {endpoint.rpartition('/')[2]}: {message}"
            remedy = f"{'Add the permission to' if 'permission' in message else 'Correct'} the key in the Stripe"
            remedy += " Dashboard (Developers, API keys)"
            if endpoint not in _ALWAYS_READ:
                remedy += ", or disable the object in stripe_pipeline.yaml"
        elif status == 404 or code == "resource_missing":
            kind = NotFound
            what = f"Stripe has nothing at {path} (HTTP {status}): {message}"
            remedy = (
                "It may have been deleted meanwhile"
                if code == "resource_missing"
                else "Check STRIPE_API_BASE, which is the address without a path"
            )
        error = kind(signed(what, request_id), remedy, path=path, status=status, code=code, request_id=request_id)
        if isinstance(error, PermissionMissing):
            error.learn(message)
            if error.account:
                with self._lock:
                    self._account = error.account
        return error

    def _given_up(self, path: str, last: _Failure, attempts: int) -> Unavailable:
        times = "once" if attempts == 1 else f"{attempts} times"
        what = f"GET {path} from {self._server} failed {times}, the last time with {last.seen}"
        if last.status == 429:
            remedy = f"Something else uses up Stripe's rate limits: lower rate.share or try later; {_GOES_ON}"
        else:
            remedy = f"Check the network, STRIPE_API_BASE and status.stripe.com; {_GOES_ON}"
        return Unavailable(
            signed(what, last.request_id),
            remedy,
            path=path,
            status=last.status,
            code=last.code,
            request_id=last.request_id,
        )


def is_addressable(object_id: str) -> bool:
    """Whether an object can be read by this id.

    Servers resolve `.` and `..` to another path, even percent-encoded; what begins with `NAMELESS` stands for an object
    without an id. These are read with the day that they were made on.
    """
    return object_id not in (".", "..") and not object_id.startswith(NAMELESS)


def object_path(endpoint: str, object_id: str, *below: str) -> str:
    """The path of one object, for example `/v1/invoices/in_1/lines` with `below` = `lines`.

    A shop may choose its customers' ids, such as `a/b` or `x+y@example.com`: the id is percent-encoded. Raises
    `BadObject` for one that is not addressable.
    """
    if not is_addressable(object_id):
        raise BadObject(
            f"The object {object_id!r} of {endpoint} cannot be read by its id, which stands for another path in a URL",
            "Lists still bring the object in: backfill the day that it was created on",
        )
    return "/".join([endpoint, quote(object_id, safe=""), *below])


def _headers(key: ApiKey) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {key.secret}",
        "Stripe-Version": stripe.api_version,
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


def _json_object(content: bytes) -> tuple[dict[str, Any] | None, bool]:
    """The JSON object in a body, or none if it is cut, HTML, or JSON of another kind; and whether it was repaired."""
    try:
        data, repaired = odd_json.loads(content)
    except ValueError:
        return None, False
    return (data, repaired) if isinstance(data, dict) else (None, False)


def _retry_after(text: str | None, now: float) -> float:
    """Seconds to wait by a `Retry-After` header, which has seconds or an HTTP date; at most `MAX_RETRY_AFTER`."""
    try:
        seconds = float(text or 0)
    except ValueError:
        seconds = (http_date(text or "") or now) - now
    return min(max(0.0, seconds), MAX_RETRY_AFTER)


def redirected(status: int, location: str | None) -> str:
    """What to say of an answer that redirects; nothing is asked of another address with a key."""
    try:
        url = urllib3.util.parse_url(location or "")
        where = f" to {url.scheme}://{url.netloc}" if url.host else ""
    except urllib3.exceptions.LocationParseError:
        where = ""
    return f"HTTP {status}, a redirect{where}, which is not followed with a key"


def odd_answer(path: str, how: str) -> Unavailable:
    """The error for an answer that is JSON but not what `path` stands for."""
    return Unavailable(f"The answer to GET {path} {how}", f"Check STRIPE_API_BASE; {_GOES_ON}", path=path, status=200)
