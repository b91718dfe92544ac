"""The errors for refusals and bad answers from Stripe, each with its remedy, for both Stripe clients.

This module explains refusals to the user: of reads (`client`) and of webhook endpoints (`webhooks.endpoints`).
Telling an answer from a refusal belongs to `answers`, the error classes to `errors`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from stripe_pipeline.errors import (
    ApiError,
    AuthenticationFailed,
    CursorLost,
    NotFound,
    PermissionMissing,
    RequestRefused,
    Unavailable,
)
from stripe_pipeline.stripe_api.answers import Failure, Refusal

RESOURCE_MISSING = "resource_missing"
"""Stripe's error code for a missing object; a 404 without this code is about the address."""

# Always read, so disabling an object type does not make the permission unnecessary.
_ALWAYS_READ = {"/v1/account", "/v1/events"}
_CHECK_NETWORK = "Check the network, STRIPE_API_BASE and status.stripe.com"
_CONTINUES = "the next run continues where this one stopped"
_CHECK_KEY = {
    True: "Check STRIPE_API_KEY",
    False: "Check STRIPE_TEST_API_KEY, or STRIPE_API_KEY if that holds the test key",
}
_Words = tuple[str, str]
"""The problem, to which Stripe's message is added, and the remedy."""


class Request(Protocol):
    """A request that Stripe refused, and the wording of its errors."""

    @property
    def path(self) -> str:
        """The path that was read; empty if none was."""

    def forbidden(self, refusal: Refusal, *, mode: str) -> _Words:
        """For a key that lacks the permission; `mode` is `live` or `test`."""

    def missing(self, refusal: Refusal) -> _Words:
        """For an object that is missing."""

    def refused(self, refusal: Refusal) -> _Words:
        """For any other refusal."""


@dataclass(frozen=True)
class Read:
    """A GET request for `path`, which belongs to `endpoint`."""

    path: str
    endpoint: str

    def forbidden(self, refusal: Refusal, *, mode: str) -> _Words:
        remedy = f"{'Add the permission to' if 'permission' in refusal.message else 'Correct'} the key in the Stripe"
        remedy += " Dashboard (Developers, API keys)"
        if self.endpoint not in _ALWAYS_READ:
            remedy += ", or disable the object type in the settings file"
        return f"The key may not read {self.endpoint.rpartition('/')[2]}", remedy

    def missing(self, refusal: Refusal) -> _Words:
        missing = refusal.code == RESOURCE_MISSING
        return (
            f"Stripe has nothing at {self.path} (HTTP {refusal.status})",
            "It may have been deleted meanwhile"
            if missing
            else "Check STRIPE_API_BASE: it must be an address without a path",
        )

    def refused(self, refusal: Refusal) -> _Words:
        return (
            f"Stripe refused GET {self.path} (HTTP {refusal.status})",
            "A retry will not help; look up the request in the Stripe Dashboard (Developers, Logs)",
        )


class WebhookEndpointRequest:
    """Listing, creating, changing or deleting a webhook endpoint."""

    path = ""

    def forbidden(self, refusal: Refusal, *, mode: str) -> _Words:
        return (
            f"The {mode} key lacks the permission for webhook endpoints",
            "Add Webhook Endpoints to the key's permissions in the Stripe Dashboard (Developers, API keys): read to"
            " list endpoints, write for everything else. Or manage the endpoints there (Developers, Webhooks)",
        )

    def missing(self, refusal: Refusal) -> _Words:
        return "Stripe has no such webhook endpoint", "`stripe-pipeline webhooks list` shows those that exist"

    def refused(self, refusal: Refusal) -> _Words:
        return "Stripe refused the webhook endpoint", "Correct the value that Stripe names"


def refused(refusal: Refusal, request: Request, *, livemode: bool) -> ApiError:
    """The error for a refusal; `livemode` is the key's mode."""
    mode = "live" if livemode else "test"
    kind: type[ApiError]
    if refusal.status == 401:
        kind, (problem, remedy) = AuthenticationFailed, (f"Stripe does not accept the {mode} key", _CHECK_KEY[livemode])
    elif refusal.status == 403:
        kind, (problem, remedy) = PermissionMissing, request.forbidden(refusal, mode=mode)
    elif refusal.status == 404 or refusal.code == RESOURCE_MISSING:
        kind, (problem, remedy) = NotFound, request.missing(refusal)
    else:
        kind, (problem, remedy) = RequestRefused, request.refused(refusal)
    error = kind(
        _with_request_id(f"{problem}: {refusal.message}", refusal.request_id),
        remedy,
        path=request.path,
        status=refusal.status,
        code=refusal.code,
        request_id=refusal.request_id,
    )
    if isinstance(error, PermissionMissing):
        error.learn(refusal.message)
    return error


def cursor_lost(missing: NotFound) -> CursorLost:
    """The error for a page of a list; `missing` says that the object to start after does not exist."""
    return CursorLost(
        missing.what,
        "The object that this page starts after no longer exists: read the window again",
        path=missing.path,
        status=missing.status,
        code=missing.code,
        request_id=missing.request_id,
    )


def given_up(path: str, server: str, last: Failure, attempts: int) -> Unavailable:
    """The error for a GET request that failed `attempts` times, the last time with `last`."""
    times = "once" if attempts == 1 else f"{attempts} times"
    problem = f"GET {path} from {server} failed {times}, the last time with {last.seen}"
    if last.status == 429:
        remedy = f"Something else uses up Stripe's rate limits: lower rate.share or try later; {_CONTINUES}"
    else:
        remedy = f"{_CHECK_NETWORK}; {_CONTINUES}"
    return Unavailable(
        _with_request_id(problem, last.request_id),
        remedy,
        path=path,
        status=last.status,
        code=last.code,
        request_id=last.request_id,
    )


def unanswered(last: Failure) -> Unavailable:
    """The error for a request about webhook endpoints without a proper answer, retries included."""
    return Unavailable(
        _with_request_id(f"Stripe did not answer as it should: {last.seen}", last.request_id),
        f"{_CHECK_NETWORK}, then try again",
        status=last.status,
        code=last.code,
        request_id=last.request_id,
    )


def odd_answer(path: str, how: str) -> Unavailable:
    """The error for an answer that is JSON but does not fit `path`."""
    return Unavailable(f"The answer to GET {path} {how}", f"Check STRIPE_API_BASE; {_CONTINUES}", path=path, status=200)


def _with_request_id(problem: str, request_id: str | None) -> str:
    """`problem` with Stripe's request id, if there is one."""
    return f"{problem.rstrip('. ')} (request {request_id})" if request_id else problem
