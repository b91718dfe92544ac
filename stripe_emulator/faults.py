"""Faults that a test can inject between a client and the shop: an ordered list of rules.

This module declares what a rule matches and does; `app` applies the rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from random import Random
from typing import Any

import orjson


@dataclass
class LoggedRequest:
    """One request as received by the emulator; `status` is 0 as long as the request is unanswered."""

    method: str
    path: str
    """The path as sent: ids are percent-encoded."""
    params: dict[str, Any]
    """Query parameters, or the form of a POST, nested as Stripe parses them: `{"created": {"gte": "1"}}`."""
    livemode: bool | None
    """The mode of the key; None if the key is invalid."""
    stripe_version: str | None
    time: float
    """By the shop's clock."""
    status: int = 0


@dataclass(kw_only=True)
class Fault:
    """A failure, and the requests it affects.

    The first matching rule that answers a request decides. Rules with only `delay`, `before` or `date` do not answer:
    they take effect, and the next rule is tried.
    """

    path: str = ""
    """Regular expression searched for in the path, such as `/v1/charges$`."""
    livemode: bool | None = None
    """Match only requests with a key of this mode."""
    method: str | None = None
    nth: int = 1
    """The first matching request to affect, counted from 1."""
    times: int | None = 1
    """How many requests to affect; None for all."""
    probability: float = 1.0
    """The share of matching requests to affect, drawn with `seed`."""
    seed: int = 0

    status: int | None = None
    """Answer with this status, and with `body` or Stripe's usual error."""
    body: Mapping[str, Any] | str | bytes | None = None
    """A mapping is sent as JSON, text as HTML. The default `status` is then 200.

    A 429 without a body reports a rate limit, also in its header; `LOCK_TIMEOUT` reports a lock instead.
    """
    headers: Mapping[str, str] = field(default_factory=dict)
    where: Callable[[LoggedRequest], bool] | None = None
    """Match only requests for which this returns true."""
    change: Callable[[bytes], bytes] | None = None
    """Send the real body changed by this function."""
    cut: float | None = None
    """Send this share of the real body under the full Content-Length, then close the connection."""
    truncate: float | None = None
    """Send this share of the real body as if complete."""
    drop: bool = False
    """Close the connection without an answer."""
    trickle: float | None = None
    """Send the body one byte at a time, each after this many seconds."""
    date: Callable[[float], Sequence[str]] | None = None
    """Computes the `Date` headers of the real answer from the time in Unix seconds; see `ahead`, `twice` and
    `without_zone`."""
    delay: float = 0.0
    """Wait this many seconds first."""
    before: Callable[[LoggedRequest], object] | None = None
    """Called before the answer is computed, for example to change the shop between two pages. Other requests are
    answered meanwhile."""

    matched: int = field(default=0, init=False)
    hits: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._pattern = re.compile(self.path)
        self._random = Random(self.seed)

    def hit(self, request: LoggedRequest) -> bool:
        """Whether this rule applies to a request; counts the request."""
        if (
            not self._pattern.search(request.path)
            or self.livemode not in (None, request.livemode)
            or self.method not in (None, request.method)
            or (self.where is not None and not self.where(request))
        ):
            return False
        self.matched += 1
        if self.matched < self.nth or (self.times is not None and self.hits >= self.times):
            return False
        if self.probability < 1.0 and self._random.random() >= self.probability:
            return False
        self.hits += 1
        return True

    @property
    def answers(self) -> bool:
        """Whether this rule determines the answer."""
        return self.replaces or self.spoils

    @property
    def replaces(self) -> bool:
        """Whether this rule's own answer replaces the real answer."""
        return self.status is not None or self.body is not None

    @property
    def spoils(self) -> bool:
        """Whether this rule corrupts the real answer in transit."""
        return self.drop or any(option is not None for option in (self.change, self.cut, self.truncate, self.trickle))

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Returns the status, headers and body of this rule's answer."""
        status = 200 if self.status is None else self.status
        body = _USUAL.get(status, _HTML) if self.body is None else self.body
        if isinstance(body, Mapping):
            kind, content = "application/json", orjson.dumps(dict(body))
        else:
            kind, content = "text/html", body.encode() if isinstance(body, str) else body
        named = {"content-type": kind}
        if status == 429 and self.body is None:
            named["stripe-rate-limited-reason"] = "global-rate"
        return status, named | {name.lower(): value for name, value in self.headers.items()}, content

    def spoil(self, body: bytes) -> tuple[bytes, bytes]:
        """Returns the version of `body` that the Content-Length announces, and the part to send."""
        if self.change is not None:
            body = self.change(body)
        if self.truncate is not None:
            body = body[: int(len(body) * self.truncate)]
            return body, body
        return body, body if self.cut is None else body[: int(len(body) * self.cut)]


def ahead(seconds: float) -> Callable[[float], Sequence[str]]:
    """For `Fault.date`: the clock of the server is this many seconds ahead."""
    return lambda now: [formatdate(now + seconds, usegmt=True)]


def twice(now: float) -> Sequence[str]:
    """For `Fault.date`: a proxy adds its own `Date` header to Stripe's."""
    return [formatdate(now, usegmt=True)] * 2


def joined(now: float) -> Sequence[str]:
    """For `Fault.date`: a proxy joins its own date and Stripe's in one header."""
    return [", ".join(twice(now))]


def without_zone(now: float) -> Sequence[str]:
    """For `Fault.date`: a date without a time zone."""
    return [formatdate(now, usegmt=True).removesuffix(" GMT")]


def choose(faults: Iterable[Fault], request: LoggedRequest) -> list[Fault]:
    """Returns the rules that apply to a request, in order; only the last rule may answer."""
    chosen = []
    for fault in list(faults):
        if fault.hit(request):
            chosen.append(fault)
            if fault.answers:
                break
    return chosen


def _error(kind: str, message: str, **fields: str) -> dict[str, Any]:
    return {"error": {"type": kind, "message": message} | fields}


_HTML = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"

LOCK_TIMEOUT: Mapping[str, Any] = _error(
    "invalid_request_error",
    "This object cannot be accessed right now because another API request or Stripe process is currently accessing it."
    " If you see this error intermittently, retry the request. If you see this error frequently and are making"
    " multiple concurrent requests to a single object, make your requests serially or at a lower rate. For more"
    " details, see https://stripe.com/docs/rate-limits#object-lock-timeouts.",
    code="lock_timeout",
)
"""Body of a 429 caused by an object lock, not by a rate limit."""

RATE_LIMIT: Mapping[str, Any] = _error(
    "invalid_request_error",
    "Request rate limit exceeded. You can learn more about rate limits here https://stripe.com/docs/rate-limits.",
    code="rate_limit",
    doc_url="https://stripe.com/docs/error-codes/rate-limit",
)
"""Body of a 429 caused by a rate limit."""

_USUAL: Mapping[int, Mapping[str, Any]] = {
    400: _error("invalid_request_error", "Invalid request."),
    401: _error("invalid_request_error", "Invalid API Key provided: sk_test_********************0000"),
    403: _error(
        "invalid_request_error",
        "The provided key 'rk_test_********************0000' does not have the required permissions for this endpoint."
        " Having the 'rak_charge_read' permission would allow this request to continue.",
    ),
    404: _error("invalid_request_error", "No such object: 'x'", code="resource_missing", param="id"),
    409: _error(
        "idempotency_error",
        "There is currently another in-progress request using this Idempotency Key (that probably means you submitted"
        " twice, and the other request is still going through). Please try again later.",
        code="idempotency_key_in_use",
    ),
    429: RATE_LIMIT,
    500: _error("api_error", "An unknown error occurred"),
    503: _error("api_error", "Stripe is temporarily unavailable. Please try again."),
}
