"""The data source settings: `stripe_pipeline.yaml` and the environment, checked and with defaults.

Keys and secrets come from the environment only. What an object type is belongs to `objects`, where files lie to
`data_folder`.
"""

from __future__ import annotations

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
from stripe_pipeline.resources.stripe_api import ApiKey

DEFAULT_FILE = "stripe_pipeline.yaml"
STRIPE = "https://api.stripe.com"
_AGE = re.compile(r"(\d+)\s*(day|week|month|year)s?")
_DAYS = {"day": 1, "week": 7}
_MONTHS = {"month": 1, "year": 12}


def _age_or_date(value: object) -> date:
    """A date, or an age counted back from today, as the first day of history."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    if isinstance(value, str) and (match := _AGE.fullmatch(value.strip())):
        count, unit = int(match[1]), match[2]
        today = datetime.now(UTC).date()
        if unit in _DAYS:
            return today - timedelta(days=count * _DAYS[unit])
        # Whole months, so that the first partition does not move every day.
        months = today.year * 12 + today.month - 1 - count * _MONTHS[unit]
        return date(months // 12, months % 12 + 1, 1)
    if isinstance(value, str):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise ValueError("expected a date such as 2024-01-01 or an age such as 24 months")


def _percent(value: object) -> object:
    if isinstance(value, str) and (match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value)):
        return float(match[1]) / 100
    return value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rate(_Section):
    """How much of Stripe's rate limits the pipeline may use; the rest is left to the shop."""

    share: Annotated[float, BeforeValidator(_percent), Field(gt=0, le=1)] = 0.8


class ObjectSettings(_Section):
    """Settings of one object type."""

    enabled: bool = True
    title: str | None = None


class Settings(_Section):
    """What `stripe_pipeline.yaml` holds; every key is optional."""

    history: Annotated[date, BeforeValidator(_age_or_date)] = Field(default="24 months", validate_default=True)
    rate: Rate = Rate()
    objects: dict[str, ObjectSettings] = {}

    @property
    def enabled(self) -> tuple[ObjectType, ...]:
        """The object types that are kept, in table order. A child without its parent is not kept either."""

        def on(object_type: ObjectType) -> bool:
            return self.objects.get(object_type.name, ObjectSettings()).enabled

        return tuple(t for t in OBJECT_TYPES.values() if on(t) and (t.parent is None or on(OBJECT_TYPES[t.parent])))

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
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"The settings file {path} cannot be read: {error}", "Correct the file") from error
    if content is None:
        return Settings()
    if not isinstance(content, dict):
        raise SettingsError(f"The settings file {path} is not a list of `key: value` lines", "Correct the file")
    try:
        settings = Settings.model_validate(content)
    except ValidationError as error:
        raise SettingsError(f"The settings file {path} was not understood: {_explain(error)}", _REMEDY) from None
    if unknown := sorted(settings.objects.keys() - OBJECT_TYPES.keys()):
        raise SettingsError(
            f"The settings file {path} names unknown objects: {', '.join(unknown)}",
            f"Known are {', '.join(OBJECT_TYPES)}",
        )
    return settings


_REMEDY = "Correct these keys; if the file was written for a newer stripe_pipeline, upgrade it"


def _explain(error: ValidationError) -> str:
    problems = []
    for problem in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in problem["loc"])
        unknown = problem["type"] == "extra_forbidden"
        problems.append(f"unknown key `{where}`" if unknown else f"`{where}`: {_sentence(problem)}")
    return "; ".join(problems)


def _sentence(problem: Any) -> str:
    return str(problem["msg"]).removeprefix("Value error, ")


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
    keys = tuple(ApiKey.from_text(environment[name]) for name in names)
    if len({key.livemode for key in keys}) < len(keys):
        raise SettingsError(
            "STRIPE_API_KEY and STRIPE_TEST_API_KEY are keys of the same mode",
            "Use the second one for the other mode, or unset it",
        )
    if "STRIPE_TEST_API_KEY" in names and keys[-1].livemode:
        raise SettingsError("STRIPE_TEST_API_KEY holds a live key", "Put the live key into STRIPE_API_KEY")
    return keys


def api_base(environment: Mapping[str, str] = os.environ) -> str:
    """Where the API is: `STRIPE_API_BASE`, else Stripe."""
    return (environment.get("STRIPE_API_BASE") or STRIPE).rstrip("/")
