"""Addresses to which a key may be sent."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping

import urllib3

from stripe_pipeline.errors import SettingsError

BASE_URL = "https://api.stripe.com"
ALLOW_HTTP = "STRIPE_PIPELINE_ALLOW_HTTP"
"""The environment variable that allows http to other machines, if it is `yes`."""


def is_local(host: str | None) -> bool:
    """Whether `host` is this machine by its name or address alone: `localhost`, 127.0.0.0/8 or ::1."""
    name = (host or "").strip("[]").lower()
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def checked_base(base: str, environment: Mapping[str, str] = os.environ) -> str:
    """`base`, the address of a Stripe API, without a slash at its end.

    Raises `SettingsError` if it is not the address of a server, holds a password, or would send the key unencrypted to
    another machine, which `STRIPE_PIPELINE_ALLOW_HTTP=yes` allows.
    """
    try:
        url = urllib3.util.parse_url(base) if re.match(r"https?://[\w\[]", base, re.IGNORECASE) else None
    except urllib3.exceptions.LocationParseError:
        url = None
    instead = f"Unset it to use {BASE_URL}, or give one like http://127.0.0.1:12111"
    if url is not None and (url.auth is not None or "@" in base):
        # The password would be shown wherever the address is.
        raise SettingsError("STRIPE_API_BASE holds a user name or password, which Stripe does not take", instead)
    if url is None or not url.host or url.query is not None or url.fragment is not None:
        raise SettingsError(f"STRIPE_API_BASE is {base!r}, which is not the address of a server", instead)
    allowed = environment.get(ALLOW_HTTP, "").strip().lower() == "yes"
    if url.scheme != "https" and not is_local(url.host) and not allowed:
        raise SettingsError(
            f"STRIPE_API_BASE is {base}: the key would be sent unencrypted over the network",
            f"Give an https address; http is accepted for this machine (127.0.0.1, localhost), and for others if you"
            f" set {ALLOW_HTTP}=yes",
        )
    return base.rstrip("/")
