"""Errors as Stripe returns them.

This module defines the format of errors, and the messages shared by several modules. Errors injected by tests belong
to `faults`.
"""

from __future__ import annotations

from stripe_emulator.faults import RATE_LIMIT
from stripe_emulator.store import Json


class StripeError(Exception):
    """An error response from Stripe."""

    def __init__(self, status: int, message: str, *, kind: str = "invalid_request_error", **fields: str | None) -> None:
        super().__init__(message)
        self.status = status
        code = fields.get("code")
        doc = {"doc_url": f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"} if code else {}
        self.body: Json = {"error": {**fields, **doc, "message": message, "type": kind}}
        self.headers: dict[str, str] = {}


def no_such(label: str, object_id: str, *, param: str, status: int, hint: str = "") -> StripeError:
    """Returns the error for a missing object; `label` is Stripe's name for the type, `param` the parameter."""
    return StripeError(status, f"No such {label}: '{object_id}'{hint}", code="resource_missing", param=param)


def too_many_requests(reason: str, livemode: bool) -> StripeError:
    """Returns the error for exceeding a rate limit; `reason` names the limit."""
    error = StripeError(429, RATE_LIMIT["error"]["message"], code="rate_limit")
    if not livemode:
        error.body["error"]["message"] = (
            "Testmode request rate limit exceeded, the rate limits in testmode are lower than livemode. You can learn"
            " more about rate limits here https://stripe.com/docs/rate-limits."
        )
    error.headers = {"stripe-rate-limited-reason": reason}
    return error
