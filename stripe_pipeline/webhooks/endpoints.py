"""Webhook endpoints at Stripe: they send events to the receiver, and are created and corrected through Stripe's API.

Unlike all other modules that call Stripe, this one writes to Stripe, through the SDK. `cli.webhooks` prints the
results.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import orjson
import stripe
import urllib3

from stripe_pipeline.addresses import checked_base, is_local
from stripe_pipeline.errors import ApiError, SettingsError
from stripe_pipeline.stripe_api.answers import Failure, Refusal, not_whole, redirected
from stripe_pipeline.stripe_api.connections import connections
from stripe_pipeline.stripe_api.keys import ApiKey
from stripe_pipeline.stripe_api.refusals import WebhookEndpointRequest, refused, unanswered
from stripe_pipeline.stripe_api.version import API_VERSION

_TIMEOUT = 60.0  # seconds that Stripe may be silent
# The SDK's errors for Stripe's refusals; its other errors are about the network, rate limits or the server.
_REFUSALS = (stripe.AuthenticationError, stripe.PermissionError, stripe.InvalidRequestError)
DESCRIPTION = "stripe_pipeline"


@dataclass
class Registered:
    """The result of `Endpoints.register`."""

    id: str
    secret: str | None = None
    """The signing secret of a new endpoint; Stripe never shows it again."""
    changes: list[str] = field(default_factory=list)
    """The changes to an existing endpoint, a few words each."""
    removed: list[str] = field(default_factory=list)
    """Ids of endpoints with the same URL that were removed: duplicates, or with another API version."""
    outdated: list[str] = field(default_factory=list)
    """Ids of such endpoints that still exist and send each event a second time."""


def checked_url(url: str) -> str:
    """`url` if Stripe could send events there; raises `SettingsError` otherwise."""
    try:
        parts = urlsplit(url)
        sound = bool(parts.hostname) and parts.username is None and not parts.fragment and url.isprintable()
        local = is_local(parts.hostname)
        _ = parts.port
    except ValueError:
        sound = local = False
    if not sound or parts.scheme not in ("https", "http") or " " in url:
        raise SettingsError(f"{url!r} is not an address that Stripe could send events to", _URL_REMEDY)
    if parts.scheme == "http" and not local:
        raise SettingsError(f"{url} is not encrypted, and Stripe sends events to https only", _URL_REMEDY)
    return url


_URL_REMEDY = "Give the receiver's public address, such as https://stripe.example.com/webhooks/stripe"


class _Http(stripe.HTTPClient):
    """The SDK's HTTP client: uses the pipeline's connections, and does not follow redirects.

    The SDK's own clients follow redirects, and a body that is not a JSON object causes an `AttributeError` in the SDK.
    """

    name = "urllib3"

    def __init__(self, base_url: str) -> None:
        super().__init__()
        self._connections = connections(base_url, _TIMEOUT)

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any = None,
        *,
        _usage: list[str] | None = None,
    ) -> tuple[str, int, Mapping[str, str]]:
        """The whole response: its body, status and headers. Raises `stripe.APIConnectionError` if it is not
        Stripe's."""
        try:
            answer = self._connections.request(method, url, body=post_data, headers=headers, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            tls = isinstance(error, urllib3.exceptions.SSLError)
            raise _unlike_stripe(f"{type(error).__name__}: {error}", should_retry=not tls) from None
        if 300 <= answer.status < 400:
            raise _unlike_stripe(redirected(answer.status, answer.headers.get("Location")), answer.status)
        if not _is_stripes(answer.status, answer.data):
            seen = f"HTTP {answer.status}, {not_whole(len(answer.data), answer.headers.get('Content-Type'))}"
            # Safe for a POST: the SDK sends the same idempotency key again.
            raise _unlike_stripe(seen, answer.status, should_retry=answer.status >= 500 or answer.status == 200)
        return answer.data.decode(), answer.status, answer.headers

    def close(self) -> None:
        """Close the connections."""
        self._connections.clear()


def _is_stripes(status: int, body: bytes) -> bool:
    """Whether the SDK can parse this body as an endpoint, a list of endpoints or an error."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    if not isinstance(data, dict):
        return False
    if status >= 400:
        return isinstance(data.get("error"), dict)
    if data.get("object") == "list":
        listed = data.get("data")
        return isinstance(listed, list) and isinstance(data.get("has_more"), bool) and all(map(_is_endpoint, listed))
    return data.get("deleted") is True or _is_endpoint(data)


def _is_endpoint(data: object) -> bool:
    return (
        isinstance(data, dict)
        and all(isinstance(data.get(name), str) for name in ("id", "url", "status"))
        and isinstance(data.get("enabled_events"), list)
    )


def _unlike_stripe(seen: str, status: int | None = None, *, should_retry: bool = False) -> stripe.APIConnectionError:
    return stripe.APIConnectionError(  # type: ignore[no-untyped-call]
        seen, http_status=status, should_retry=should_retry
    )


class Endpoints:
    """The webhook endpoints of one key's account and mode, at the API at `base_url`.

    All methods raise `ApiError`s: `AuthenticationFailed`, `PermissionMissing`, `RequestRefused`, `Unavailable`.
    """

    def __init__(self, key: ApiKey, *, base_url: str) -> None:
        stripe.enable_telemetry = False  # it would write files into the home folder (docs/stripe.md#stripe-python)
        self._key = key
        base_url = checked_base(base_url)
        self._client = stripe.StripeClient(
            key.secret,
            stripe_version=API_VERSION,
            base_addresses={"api": base_url},
            max_network_retries=2,
            http_client=_Http(base_url),
        )

    def register(self, url: str, *, event_types: Collection[str], replace: bool = False) -> Registered:
        """Create the endpoint for `url`, or give the existing endpoint exactly these event types.

        An endpoint keeps its original API version (docs/stripe.md#webhooks): beside an endpoint with another version a
        new one is created, and with `replace` the old one is then removed.
        """
        same_url = [endpoint for endpoint in self.all() if endpoint.url == url]
        current = [endpoint for endpoint in same_url if endpoint.api_version == API_VERSION]
        others = [endpoint.id for endpoint in same_url if endpoint not in current[:1]]
        if current:
            done = self._correct(current[0], event_types)
        else:
            version: Any = API_VERSION  # of the versions that the SDK lists by name
            with self._errors():
                created = self._client.v1.webhook_endpoints.create(
                    {
                        "url": url,
                        "enabled_events": _listed(event_types),
                        "api_version": version,
                        "description": DESCRIPTION,
                    }
                )
            done = Registered(created.id, secret=created.secret)
        for endpoint_id in others:
            if replace and self._removed(endpoint_id):
                done.removed.append(endpoint_id)
            else:
                done.outdated.append(endpoint_id)
        return done

    def _correct(self, endpoint: stripe.WebhookEndpoint, event_types: Collection[str]) -> Registered:
        """Correct the endpoint where it differs."""
        done = Registered(endpoint.id)
        enabled = set(endpoint.enabled_events)
        if missing := sorted(set(event_types) - enabled):
            done.changes.append(f"added {', '.join(missing)}")
        if needless := sorted(enabled - set(event_types)):
            done.changes.append(f"removed {', '.join(needless)}")
        disabled = endpoint.status == "disabled"
        if disabled:
            done.changes.append("enabled it again")
        if done.changes:
            params: stripe.params.WebhookEndpointUpdateParams = {"enabled_events": _listed(event_types)}
            if disabled:
                params["disabled"] = False
            with self._errors():
                self._client.v1.webhook_endpoints.update(endpoint.id, params)
        return done

    def _removed(self, endpoint_id: str) -> bool:
        """Whether the endpoint could be removed; an error must not prevent showing the new one's secret."""
        try:
            self.remove(endpoint_id)
        except ApiError:
            return False
        return True

    def all(self) -> list[stripe.WebhookEndpoint]:
        """Every endpoint of this account and mode, newest first."""
        with self._errors():
            return list(self._client.v1.webhook_endpoints.list({"limit": 100}).auto_paging_iter())

    def remove(self, endpoint_id: str) -> None:
        """Remove an endpoint, to which Stripe then sends no more events. Raises `NotFound` if it does not exist."""
        with self._errors():
            self._client.v1.webhook_endpoints.delete(endpoint_id)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Translate Stripe's errors to ours."""
        try:
            yield
        except stripe.StripeError as error:
            raise self._explained(error) from None

    def _explained(self, error: stripe.StripeError) -> ApiError:
        message = str(error.user_message or error).rstrip(". ")
        if isinstance(error, _REFUSALS):
            refusal = Refusal(error.http_status, error.code, message, error.request_id)
            return refused(refusal, WebhookEndpointRequest(), livemode=self._key.livemode)
        return unanswered(Failure(message, error.http_status, error.code, error.request_id))


def _listed(event_types: Collection[str]) -> Any:
    """The event types, typed for the SDK, which enumerates all events."""
    return sorted(event_types)
