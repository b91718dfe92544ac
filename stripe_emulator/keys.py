"""API keys: identifying the caller, and masking keys for messages.

The rights of restricted keys belong to `permissions`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection
from dataclasses import dataclass

from stripe_emulator.errors import StripeError

_KEY = re.compile(r"(sk|rk)_(live|test)_\w+", re.ASCII)


@dataclass(frozen=True)
class Caller:
    """The key of a request."""

    key: str
    livemode: bool
    restricted: bool


def identify(authorization: str, keys: Collection[str] | None) -> Caller | StripeError:
    """Returns the caller for an `Authorization` header, or the error that refuses the request.

    `keys` lists the existing keys; None accepts any well-formed key.
    """
    scheme, _, credentials = authorization.partition(" ")
    key = credentials.strip()
    if scheme.lower() == "basic":
        try:
            key = base64.b64decode(key).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            key = ""
    if not key or scheme.lower() not in ("basic", "bearer"):
        return StripeError(
            401,
            "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer"
            " auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY'). See https://stripe.com/docs/api#authentication for"
            " details, or we can help at https://support.stripe.com/.",
        )
    match = _KEY.fullmatch(key)
    if match is None or len(key) < 12 or (keys is not None and key not in keys):
        return StripeError(401, f"Invalid API Key provided: {masked(key)}")
    return Caller(key, livemode=match[2] == "live", restricted=match[1] == "rk")


def masked(key: str) -> str:
    """Returns a key as Stripe's messages show it: the prefix and the last four characters."""
    match = re.match(r"[a-z]+_(live|test)_", key)
    prefix = match[0] if match else ""
    hidden = len(key) - len(prefix) - 4
    return prefix + "*" * max(hidden, 0) + key[max(len(prefix), len(key) - 4) :]
