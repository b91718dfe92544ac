"""What an HTTP answer means: the JSON object that was asked for, a failure that may pass, or a refusal by Stripe.

Here belongs how status, headers and body are read. When a request is sent again belongs to `client`, the errors that
callers see to `refusals`, the estimate of Stripe's time to `clock`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import urllib3

from stripe_pipeline import odd_json
from stripe_pipeline.stripe_api.clock import Bounds, http_date, http_dates

MAX_RETRY_AFTER = 60.0


@dataclass(frozen=True)
class Failure:
    """An answer, or none, that may be better next time."""

    seen: str
    """What came, for a message."""
    status: int | None = None
    code: str | None = None
    request_id: str | None = None
    retry_after: float = 0.0
    """Seconds that the answer asks to wait."""
    final: bool = False
    """Whether Stripe says that asking again is in vain."""


@dataclass(frozen=True)
class Refusal:
    """Stripe's own refusal of a request, which stays the same however often the request is sent."""

    status: int | None
    code: str | None
    """Stripe's error code."""
    message: str
    """Stripe's, for a person; it may repeat values of the request."""
    request_id: str | None


@dataclass(frozen=True)
class HttpAnswer:
    """One answer as it came."""

    status: int
    headers: urllib3.HTTPHeaderDict
    size: int
    """Bytes of the body."""
    body: dict[str, Any] | None
    """The JSON object in the body; None if it is cut, HTML, or JSON of another kind."""
    repaired: bool
    """Whether something in it was replaced (`odd_json`)."""
    dates: Bounds | None
    """The earliest and the latest time of its `Date` header, Unix seconds; None where that does not tell."""

    @classmethod
    def of(cls, response: urllib3.BaseHTTPResponse) -> Self:
        """The answer in a response whose body has been read."""
        headers, content = response.headers, response.data
        body, repaired = _json_object(content)
        return cls(response.status, headers, len(content), body, repaired, http_dates(headers.getlist("Date")))

    @property
    def stripe_dates(self) -> Bounds | None:
        """`dates` where Stripe itself sent this answer: a proxy's is not JSON, and its errors have another form."""
        refused = self.status == 403 and isinstance(self._error, dict)
        return self.dates if self.body is not None and (self.status == 200 or refused) else None

    @property
    def rate_limit(self) -> str | None:
        """The rate limit that Stripe names in a 429; None where another process works on the object."""
        return self.headers.get("Stripe-Rate-Limited-Reason")

    @property
    def _error(self) -> Any:
        return (self.body or {}).get("error")

    def trouble(self, now: float) -> Failure | Refusal:
        """What an answer means that is not a whole object with status 200; `now` is the present in Unix seconds."""
        request_id = self.headers.get("Request-Id")
        retry_after = _retry_after(self.headers.get("Retry-After"), now if self.dates is None else self.dates[1])
        if self.status == 429:
            seen = f"429 ({self.rate_limit or 'the object is locked'})"
            return Failure(seen, self.status, None, request_id, retry_after)
        if 300 <= self.status < 400:
            return Failure(redirected(self.status, self.headers.get("Location")), self.status, None, request_id)
        hint, error = self.headers.get("Stripe-Should-Retry"), self._error
        if isinstance(error, dict):
            code, message = error.get("code"), str(error.get("message") or error.get("type"))
            if 400 <= self.status < 500 and (self.status != 409 or hint == "false"):
                return Refusal(self.status, code, message, request_id)
        else:  # a proxy's page or a cut body; its status is not Stripe's word on the object
            code, message = None, not_whole(self.size, self.headers.get("Content-Type"))
        seen = f"HTTP {self.status}, {message}"
        return Failure(seen, self.status, code, request_id, retry_after, final=hint == "false")


def redirected(status: int, location: str | None) -> str:
    """What to say of an answer that redirects; nothing is asked of another address with a key."""
    try:
        url = urllib3.util.parse_url(location or "")
        where = f" to {url.scheme}://{url.netloc}" if url.host else ""
    except urllib3.exceptions.LocationParseError:
        where = ""
    return f"HTTP {status}, a redirect{where}, which is not followed with a key"


def not_whole(size: int, content_type: str | None) -> str:
    """What to say of a body of `size` bytes that is not the whole JSON of an answer."""
    kind = (content_type or "unknown type").partition(";")[0]
    return f"{size} bytes of {kind} that are not the whole JSON of an answer"


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
