"""The values of environment variables: API keys, signing secrets, addresses of the inbox and the API."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import urllib3

from stripe_pipeline.addresses import BASE_URL, checked_base
from stripe_pipeline.errors import SettingsError
from stripe_pipeline.stripe_api.keys import ApiKey

_SIGNING_SECRET = re.compile(r"whsec_[\w+/=-]+", re.ASCII)


def load_keys(environment: Mapping[str, str] = os.environ) -> tuple[ApiKey, ...]:
    """The API keys in `STRIPE_API_KEY` and `STRIPE_TEST_API_KEY`, one per mode.

    Raises `SettingsError` if there is none, if one is not a secret or restricted key, or if both are of one mode.
    """
    names = [name for name in ("STRIPE_API_KEY", "STRIPE_TEST_API_KEY") if environment.get(name, "").strip()]
    if not names:
        raise SettingsError(
            "No Stripe API key is set",
            "Set STRIPE_API_KEY to a secret or restricted key (sk_… or rk_…) of your account,"
            " or run `stripe-pipeline demo` to try everything without an account",
        )
    keys = tuple(_key(name, environment[name]) for name in names)
    if len({key.livemode for key in keys}) < len(keys):
        raise SettingsError(
            "STRIPE_API_KEY and STRIPE_TEST_API_KEY are keys of the same mode",
            "Set the second one to a key of the other mode, or unset it",
        )
    if "STRIPE_TEST_API_KEY" in names and keys[-1].livemode:
        raise SettingsError("STRIPE_TEST_API_KEY holds a live key", "Put the live key into STRIPE_API_KEY")
    return keys


def _key(name: str, text: str) -> ApiKey:
    try:
        return ApiKey.from_text(text)
    except SettingsError as error:
        raise SettingsError(f"{name} does not hold a Stripe secret or restricted key", error.remedy) from None


def webhook_secrets(environment: Mapping[str, str] = os.environ, *, needed: bool = True) -> tuple[str, ...]:
    """The signing secrets in `STRIPE_WEBHOOK_SECRET` and `STRIPE_TEST_WEBHOOK_SECRET`, which may hold several each.

    Raises `SettingsError` if there is none although one is `needed`, or if one is not a signing secret.
    """
    secrets: list[str] = []
    for name in ("STRIPE_WEBHOOK_SECRET", "STRIPE_TEST_WEBHOOK_SECRET"):
        for secret in filter(None, map(str.strip, environment.get(name, "").split(","))):
            if not _SIGNING_SECRET.fullmatch(secret):
                raise SettingsError(
                    f"{name} does not hold a webhook signing secret",
                    "A signing secret starts with whsec_: `stripe-pipeline webhooks register`, `stripe listen` and the"
                    " endpoint's page in the Stripe Dashboard show it. Separate several secrets with commas",
                )
            secrets.append(secret)
    if needed and not secrets:
        raise SettingsError(
            "No webhook signing secret is set",
            "Set STRIPE_WEBHOOK_SECRET to the secret (whsec_…) that `stripe-pipeline webhooks register` or"
            " `stripe listen` shows",
        )
    return tuple(dict.fromkeys(secrets))


def inbox_url(environment: Mapping[str, str] = os.environ) -> str | None:
    """The database that holds the inbox, as an SQLAlchemy URL: `STRIPE_PIPELINE_INBOX`; None for the data folder.

    The URL may hold a password. `inbox` validates it.
    """
    return environment.get("STRIPE_PIPELINE_INBOX", "").strip() or None


def dagster_url(environment: Mapping[str, str] = os.environ) -> str | None:
    """The address of Dagster's web server, without a slash at its end: `STRIPE_PIPELINE_DAGSTER_URL`; None if commands
    run on this host. Raises `SettingsError` if it is not the address of a server."""
    text = environment.get("STRIPE_PIPELINE_DAGSTER_URL", "").strip()
    if not text:
        return None
    try:
        url = urllib3.util.parse_url(text) if re.match(r"https?://[\w\[]", text, re.IGNORECASE) else None
    except urllib3.exceptions.LocationParseError:
        url = None
    if url is None or not url.host or url.auth is not None or url.query is not None or url.fragment is not None:
        raise SettingsError(
            "STRIPE_PIPELINE_DAGSTER_URL is not the address of a web server",
            "Give an address like http://10.0.0.7:3000, without a user name, or unset it to run commands on this host",
        )
    return text.rstrip("/")


def api_base(environment: Mapping[str, str] = os.environ) -> str:
    """The API's address: `STRIPE_API_BASE`, else Stripe's. Raises `SettingsError` like `checked_base`."""
    return checked_base(environment.get("STRIPE_API_BASE", "").strip() or BASE_URL, environment)
