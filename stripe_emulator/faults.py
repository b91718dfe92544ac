"""Faults a test can put between a client and the shop: an ordered list of rules.

What a rule matches and does is declared here; `app` carries it out.
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
    """One request as the emulator saw it; `status` is 0 until it is answered, or if it never is."""

    method: str
    path: str
    """As it was sent: ids are percent-encoded."""
    params: dict[str, Any]
    """Query parameters, or the form of a POST, nested as Stripe reads them: `{"created": {"gte": "1"}}`."""
    livemode: bool | None
    """The mode of the key; none if it is not a valid key."""
    stripe_version: str | None
    time: float
    """On the shop's clock."""
    status: int = 0


@dataclass(kw_only=True)
class Fault:
    """What goes wrong, and for which requests.

    Of the rules that match a request the first one that answers it counts. Rules with only `delay`, `before` or `date`
    answer nothing: they do their part and the next rule is asked.
    """

    path: str = ""
    """Regular expression searched for in the path, such as `/v1/charges$`."""
    livemode: bool | None = None
    """Only requests with a key of this mode."""
    method: str | None = None
    nth: int = 1
    """The first matching request that is hit, counted from 1."""
    times: int | None = 1
    """How many requests are hit; none for all."""
    probability: float = 1.0
    """The share of matching requests that are hit, drawn with `seed`."""
    seed: int = 0

    status: int | None = None
    """Answer with this status, and with `body` or what Stripe usually says then."""
    body: Mapping[str, Any] | str | bytes | None = None
    """A mapping is sent as JSON; text as HTML. Without `status` it goes out with a 200.

    A 429 without a body is about a rate and says so in its header; `LOCK_TIMEOUT` makes it one about a lock.
    """
    headers: Mapping[str, str] = field(default_factory=dict)
    where: Callable[[LoggedRequest], bool] | None = None
    """Only requests of which this is true."""
    change: Callable[[bytes], bytes] | None = None
    """Send the real body as this changes it."""
    cut: float | None = None
    """Send this share of the real body under the full Content-Length, then close the connection."""
    truncate: float | None = None
    """Send this share of the real body as if it were all."""
    drop: bool = False
    """Close the connection without an answer."""
    trickle: float | None = None
    """Send the body one byte at a time, each after so many seconds."""
    date: Callable[[float], Sequence[str]] | None = None
    """The values of the `Date` headers of the usual answer at this time, Unix seconds; see `ahead`, `twice` and
    `without_zone`."""
    delay: float = 0.0
    """Wait this many seconds first."""
    before: Callable[[LoggedRequest], object] | None = None
    """Called before the answer is computed, for example to change the shop between two pages."""

    matched: int = field(default=0, init=False)
    hits: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._pattern = re.compile(self.path)
        self._random = Random(self.seed)

    def hit(self, request: LoggedRequest) -> bool:
        """Whether this rule applies to a request; counts it."""
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
        """Whether this rule decides what is answered."""
        return self.replaces or self.spoils

    @property
    def replaces(self) -> bool:
        """Whether this rule's own answer is sent instead of the real one."""
        return self.status is not None or self.body is not None

    @property
    def spoils(self) -> bool:
        """Whether this rule spoils an answer on its way."""
        return self.drop or any(option is not None for option in (self.change, self.cut, self.truncate, self.trickle))

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body this rule answers with."""
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
        """What the answer with this `body` claims to send, by its Content-Length, and what is sent of it."""
        if self.change is not None:
            body = self.change(body)
        if self.truncate is not None:
            body = body[: int(len(body) * self.truncate)]
            return body, body
        return body, body if self.cut is None else body[: int(len(body) * self.cut)]


def ahead(seconds: float) -> Callable[[float], Sequence[str]]:
    """For `Fault.date`: a server whose clock is so many seconds ahead."""
    return lambda now: [formatdate(now + seconds, usegmt=True)]


def twice(now: float) -> Sequence[str]:
    """For `Fault.date`: a proxy adds its own `Date` to Stripe's."""
    return [formatdate(now, usegmt=True)] * 2


def joined(now: float) -> Sequence[str]:
    """For `Fault.date`: a proxy puts its own date and Stripe's into one header."""
    return [", ".join(twice(now))]


def without_zone(now: float) -> Sequence[str]:
    """For `Fault.date`: a date that does not say that it is UTC."""
    return [formatdate(now, usegmt=True).removesuffix(" GMT")]


def choose(faults: Iterable[Fault], request: LoggedRequest) -> list[Fault]:
    """The rules that apply to a request, in order; only the last one answers it, if any does."""
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
"""Body of a 429 that is about an object lock, not about a rate."""

RATE_LIMIT: Mapping[str, Any] = _error(
    "invalid_request_error",
    "Request rate limit exceeded. You can learn more about rate limits here https://stripe.com/docs/rate-limits.",
    code="rate_limit",
    doc_url="https://stripe.com/docs/error-codes/rate-limit",
)
"""Body of a 429 that is about a rate."""

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
