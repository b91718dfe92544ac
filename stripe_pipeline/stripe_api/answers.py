"""What an HTTP answer means: the requested JSON object, a failure that may pass, or a refusal by Stripe.

This module interprets status, headers and body. Retrying requests belongs to `client`, the errors that callers see to
`refusals`, the estimate of Stripe's time to `clock`.
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
    """A missing or bad answer; a retry may succeed."""

    seen: str
    """The answer, for a message."""
    status: int | None = None
    code: str | None = None
    request_id: str | None = None
    retry_after: float = 0.0
    """Seconds to wait, as the answer asks."""
    final: bool = False
    """Whether Stripe says that a retry is futile."""


@dataclass(frozen=True)
class Refusal:
    """Stripe's own refusal of a request, which stays the same however often the request is sent."""

    status: int | None
    code: str | None
    """Stripe's error code."""
    message: str
    """Stripe's text for people; may repeat values of the request."""
    request_id: str | None


@dataclass(frozen=True)
class HttpAnswer:
    """One answer as received."""

    status: int
    headers: urllib3.HTTPHeaderDict
    size: int
    """Bytes of the body."""
    body: dict[str, Any] | None
    """The JSON object in the body; None if it is truncated, HTML, or other JSON."""
    repaired: bool
    """Whether parts of the body were replaced (`odd_json`)."""
    dates: Bounds | None
    """The earliest and latest time of the `Date` header, Unix seconds; None if the header is not usable."""

    @classmethod
    def of(cls, response: urllib3.BaseHTTPResponse) -> Self:
        """The answer in a response whose body has been read."""
        headers, content = response.headers, response.data
        body, repaired = _json_object(content)
        return cls(response.status, headers, len(content), body, repaired, http_dates(headers.getlist("Date")))

    @property
    def stripe_dates(self) -> Bounds | None:
        """`dates` if Stripe itself sent the answer: a proxy's answer is not JSON, or its errors look different."""
        refused = self.status == 403 and isinstance(self._error, dict)
        return self.dates if self.body is not None and (self.status == 200 or refused) else None

    @property
    def request_id(self) -> str | None:
        """Stripe's id of the request."""
        return self.headers.get("Request-Id")

    @property
    def rate_limit(self) -> str | None:
        """The rate limit that Stripe names in a 429; None if the object is locked by another request."""
        return self.headers.get("Stripe-Rate-Limited-Reason")

    @property
    def _error(self) -> Any:
        return (self.body or {}).get("error")

    def trouble(self, now: float) -> Failure | Refusal:
        """The meaning of an answer that is not a complete object with status 200; `now` is in Unix seconds."""
        request_id = self.request_id
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
        else:  # a proxy's page or a truncated body: the status is not from Stripe
            code, message = None, not_whole(self.size, self.headers.get("Content-Type"))
        seen = f"HTTP {self.status}, {message}"
        return Failure(seen, self.status, code, request_id, retry_after, final=hint == "false")


def redirected(status: int, location: str | None) -> str:
    """The message for a redirect; no request with a key goes to another address."""
    try:
        url = urllib3.util.parse_url(location or "")
        where = f" to {url.scheme}://{url.netloc}" if url.host else ""
    except urllib3.exceptions.LocationParseError:
        where = ""
    return f"HTTP {status}, a redirect{where}, which is not followed with a key"


def not_whole(size: int, content_type: str | None) -> str:
    """The message for a body of `size` bytes that is not the complete JSON of an answer."""
    kind = (content_type or "unknown type").partition(";")[0]
    return f"{size} bytes of {kind} that are not the complete JSON of an answer"


def _json_object(content: bytes) -> tuple[dict[str, Any] | None, bool]:
    """The JSON object in a body, or None if it is truncated, HTML, or other JSON; and whether it was repaired."""
    try:
        data, repaired = odd_json.loads(content)
    except ValueError:
        return None, False
    return (data, repaired) if isinstance(data, dict) else (None, False)


def _retry_after(text: str | None, now: float) -> float:
    """Seconds to wait by a `Retry-After` header (seconds or an HTTP date); at most `MAX_RETRY_AFTER`."""
    try:
        seconds = float(text or 0)
    except ValueError:
        seconds = (http_date(text or "") or now) - now
    return min(max(0.0, seconds), MAX_RETRY_AFTER)
