"""The data source settings: `stripe_pipeline.yaml` and the environment, checked and with defaults.

Keys and secrets come from the environment only. What an object type is belongs to `objects`, where files lie to
`data_folder`.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from stripe_pipeline.errors import SettingsError
from stripe_pipeline.objects import OBJECT_TYPES, ObjectType
from stripe_pipeline.resources.stripe_api import BASE_URL, ApiKey

DEFAULT_FILE = "stripe_pipeline.yaml"

_AGE = re.compile(r"(\d+)\s*(day|week|month|year)s?")
_SIGNING_SECRET = re.compile(r"whsec_[\w+/=-]+", re.ASCII)
_STRIPE_BEGAN = date(2010, 1, 1)
_DAYS = {"day": 1, "week": 7}
_MONTHS = {"month": 1, "year": 12}


def _age_or_date(value: object) -> date:
    """A date, or an age counted back from today, as the first day of history."""
    today = datetime.now(UTC).date()
    first = None
    if isinstance(value, date) and not isinstance(value, datetime):
        first = value
    elif isinstance(value, str):
        with contextlib.suppress(ValueError, OverflowError):
            match = _AGE.fullmatch(value.strip())
            first = _ago(today, int(match[1]), match[2]) if match else date.fromisoformat(value.strip())
    if first is None or not _STRIPE_BEGAN <= first <= today:
        raise ValueError("should be a date from 2010 on such as 2024-01-01, or an age such as 24 months")
    return first


def _ago(today: date, count: int, unit: str) -> date:
    if unit in _DAYS:
        return today - timedelta(days=count * _DAYS[unit])
    # Whole months, so that the first partition does not move every day.
    months = today.year * 12 + today.month - 1 - count * _MONTHS[unit]
    return date(months // 12, months % 12 + 1, 1)


def _percent(value: object) -> object:
    if isinstance(value, str) and (match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value)):
        return float(match[1]) / 100
    return value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rate(_Section):
    """How much of Stripe's rate limits the pipeline may use; the rest is left to the shop."""

    share: Annotated[float, BeforeValidator(_percent), Field(gt=0, le=1)] = 0.8


class Sweep(_Section):
    """The lists of older days that find what no event told."""

    requests_a_month: Annotated[int, Field(ge=0)] = 3000
    """For each key. With the ticks of an idle account (5,760) and the seals this stays under the 10,000 reads that
    every account has (FACTS.md, Limits)."""


class Inbox(_Section):
    """What is kept of the news from Stripe."""

    keep_days: Annotated[int, Field(ge=1)] = 40
    """How long what was dealt with is remembered. The default is longer than Stripe keeps events, so that none is ever
    taken for new twice (FACTS.md, Events)."""


class ObjectSettings(_Section):
    """Settings of one object type."""

    enabled: bool = True
    title: str | None = None


class Settings(_Section):
    """What `stripe_pipeline.yaml` holds; every key is optional."""

    history: Annotated[date, BeforeValidator(_age_or_date)] = Field(default="24 months", validate_default=True)
    rate: Rate = Rate()
    sweep: Sweep = Sweep()
    inbox: Inbox = Inbox()
    objects: dict[str, ObjectSettings] = {}

    @property
    def enabled(self) -> tuple[ObjectType, ...]:
        """The object types that are kept, in table order. A child without its parent is not kept either."""

        def on(object_type: ObjectType) -> bool:
            return self.objects.get(object_type.name, ObjectSettings()).enabled

        return tuple(t for t in OBJECT_TYPES.values() if on(t) and (t.parent is None or on(OBJECT_TYPES[t.parent])))

    @property
    def announcing(self) -> tuple[ObjectType, ...]:
        """The object types whose events matter for what is kept, in table order: those kept, and those that announce
        one of them and may be switched off themselves."""
        kept = {object_type.name for object_type in self.enabled}
        announcing = {name for object_type in self.enabled for name in object_type.announced_by}
        return tuple(t for t in OBJECT_TYPES.values() if t.events and t.name in kept | announcing)

    @property
    def event_types(self) -> tuple[str, ...]:
        """The event types that a webhook endpoint needs, in alphabetical order."""
        return tuple(sorted(event for object_type in self.announcing for event in object_type.events))

    def title(self, object_type: ObjectType) -> str:
        """What people call this type: the settings' title, else the table's name."""
        return self.objects.get(object_type.name, ObjectSettings()).title or object_type.name.replace("_", " ")


def load_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings file that `STRIPE_PIPELINE_CONFIG` names, else `stripe_pipeline.yaml` if it is there.

    Raises `SettingsError`, which names the file, the key and what is accepted.
    """
    named = environment.get("STRIPE_PIPELINE_CONFIG")
    path = Path(named or DEFAULT_FILE)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not named:
            return Settings()
        raise SettingsError(
            f"The settings file {path} is not there", "Correct STRIPE_PIPELINE_CONFIG or unset it"
        ) from None
    except OSError as error:
        raise SettingsError(
            f"The settings file {path} cannot be read ({error.strerror})", "Let this user read it, or name another"
        ) from error
    except (ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or a day that does not exist
        raise SettingsError(f"The settings file {path} is not YAML: {_where(error)}", "Correct it there") from error
    try:
        settings = Settings.model_validate({} if content is None else _given(content))
    except ValidationError as error:
        raise SettingsError(f"In the settings file {path} {_explain(error)}", _remedy(error)) from None
    if unknown := sorted(settings.objects.keys() - OBJECT_TYPES.keys()):
        raise SettingsError(
            f"The settings file {path} sets objects that do not exist: {', '.join(unknown)}",
            f"There are {', '.join(OBJECT_TYPES)}",
        )
    return settings


def _given(content: Any) -> Any:
    """Without the keys that nothing stands behind: what is commented out below them is not asked for."""
    if isinstance(content, dict):
        return {key: _given(value) for key, value in content.items() if value is not None}
    return content


def _where(error: ValueError | yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def _explain(error: ValidationError) -> str:
    return ", ".join(_sentence(problem) for problem in error.errors(include_url=False, include_input=False))


def _sentence(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    name = f"`{where}`" if where else "everything"
    if problem["type"] == "extra_forbidden":
        return f"{name} is no known key"
    if problem["type"] in ("model_type", "dict_type"):
        return f"{name} should be lines of `key: value`"
    return f"{name} {str(problem['msg']).removeprefix('Value error, ').replace('Input should', 'should', 1)}"


def _remedy(error: ValidationError) -> str:
    if any(problem["type"] == "extra_forbidden" for problem in error.errors(include_url=False, include_input=False)):
        return "Correct it, or upgrade stripe_pipeline if the file was written for a newer one"
    return "Correct it there"


def load_keys(environment: Mapping[str, str] = os.environ) -> tuple[ApiKey, ...]:
    """The API keys in `STRIPE_API_KEY` and `STRIPE_TEST_API_KEY`, one per mode.

    Raises `SettingsError` if there is none, if one is no secret or restricted key, or if both are of one mode.
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
            "Use the second one for the other mode, or unset it",
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

    Raises `SettingsError` if there is none although one is `needed`, or if one is no signing secret.
    """
    secrets: list[str] = []
    for name in ("STRIPE_WEBHOOK_SECRET", "STRIPE_TEST_WEBHOOK_SECRET"):
        for secret in filter(None, map(str.strip, environment.get(name, "").split(","))):
            if not _SIGNING_SECRET.fullmatch(secret):
                raise SettingsError(
                    f"{name} does not hold a webhook signing secret",
                    "One starts with whsec_: `stripe-pipeline webhooks register`, `stripe listen` and the endpoint's"
                    " page in the Stripe Dashboard show it; several are separated by commas",
                )
            secrets.append(secret)
    if needed and not secrets:
        raise SettingsError(
            "No webhook signing secret is set",
            "Set STRIPE_WEBHOOK_SECRET to the one (whsec_…) that `stripe-pipeline webhooks register` or `stripe listen`"
            " shows",
        )
    return tuple(dict.fromkeys(secrets))


def inbox_url(environment: Mapping[str, str] = os.environ) -> str | None:
    """The database that holds the inbox, as an SQLAlchemy URL: `STRIPE_PIPELINE_INBOX`; None for the data folder.

    It may hold a password. What it can be is checked where it is used, by `resources.inbox`.
    """
    return environment.get("STRIPE_PIPELINE_INBOX", "").strip() or None


def api_base(environment: Mapping[str, str] = os.environ) -> str:
    """Where the API is: `STRIPE_API_BASE`, else Stripe. Raises `SettingsError` if that is no address of a server."""
    base = environment.get("STRIPE_API_BASE", "").strip() or BASE_URL
    if not re.match(r"https?://\w", base):
        raise SettingsError(
            f"STRIPE_API_BASE is {base!r}, which is no address of a server",
            f"Unset it to use {BASE_URL}, or give one like http://127.0.0.1:12111",
        )
    return base.rstrip("/")
