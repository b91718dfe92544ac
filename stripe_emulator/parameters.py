"""Request parameters: parsing and validating them as Stripe does.

This module contains the checks that do not need the shop. `filters` applies the filters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

import orjson

from stripe_emulator.errors import StripeError
from stripe_emulator.store import Json

PAGING = ("ending_before", "expand", "limit", "starting_after")
"""Parameters of every list."""
ENDPOINT_FIELDS = ("description", "enabled_events", "expand", "metadata", "url")
"""Parameters of requests that create or update a webhook endpoint."""

_BOUNDS = ("gt", "gte", "lt", "lte")
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(\.\w+)?", re.ASCII)


def parse(query: str) -> tuple[Json, StripeError | None]:
    """Returns nested parameters from `a[b]=…`, `a[]=…`, `a[0]=…`; lists keep their order.

    On error, the parameters are those before the malformed parameter.
    """
    params: Json = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        first, *inner = re.findall(r"[^\[\]]+|(?<=\[)(?=\])", name) or [name]
        if len(inner) > 1:
            return params, _unknown([name])
        if not inner:
            params[first] = value
        elif inner[0] == "" or inner[0].isdigit():
            entries = params.setdefault(first, [])
            if not isinstance(entries, list):
                return params, StripeError(400, f"Invalid array: {first}", param=first)
            entries.append(value)
        else:
            fields = params.setdefault(first, {})
            if not isinstance(fields, dict):
                return params, StripeError(400, f"Invalid object: {first}", param=first)
            fields[inner[0]] = value
    return params, None


def allow_only(params: Json, known: Iterable[str]) -> None:
    """Refuse parameters that are not `known`, empty paging parameters, and an `expand` that is not a list."""
    unknown = [name for name in params if name not in set(known)]
    if unknown:
        raise _unknown(unknown)
    for name, value in params.items():
        if value == "" and name in PAGING:
            raise StripeError(
                400,
                f"You passed an empty string for '{name}'. We assume empty values are an attempt to unset a parameter;"
                f" however '{name}' cannot be unset. You should remove '{name}' from your request or supply a non-empty"
                " value.",
                code="parameter_invalid_empty",
                param=name,
            )
    expand = params.get("expand")
    if expand is not None and not isinstance(expand, list):
        raise StripeError(400, "Invalid array", param="expand")


def text(params: Json, name: str) -> str:
    """Returns a parameter that must be a string."""
    value = params[name]
    if not isinstance(value, str):
        raise StripeError(400, f"Invalid string: {orjson.dumps(value).decode()}", param=name)
    return value


def limit(params: Json) -> int:
    """Returns the page size: 1 to 100, by default 10."""
    if "limit" not in params:
        return 10
    size = _integer(params["limit"], "limit")
    if 1 <= size <= 100:
        return size
    bound = "greater than or equal to 1" if size < 1 else f"less than or equal to 100 (it currently is '{size}')"
    raise StripeError(400, f"This value must be {bound}.", code="parameter_invalid_integer", param="limit")


def cursors(params: Json) -> tuple[str | None, str | None]:
    """Returns `starting_after` and `ending_before`; at most one of the two may be given."""
    after, before = (text(params, name) if name in params else None for name in ("starting_after", "ending_before"))
    if after is not None and before is not None:
        raise StripeError(400, "You may only specify one of these parameters: ending_before, starting_after.")
    return after, before


def time_range(params: Json, name: str) -> tuple[int | None, int | None]:
    """Returns a time filter as `since <= time < until`, in Unix seconds."""
    value = params.get(name)
    if value is None:
        return None, None
    if not isinstance(value, dict):
        exact = _integer(value, name)
        return exact, exact + 1
    unknown = [f"{name}[{bound}]" for bound in value if bound not in _BOUNDS]
    if unknown:
        raise _unknown(unknown)
    bounds = {bound: _integer(limit, f"{name}[{bound}]") for bound, limit in value.items()}
    lower = [bounds[bound] + (bound == "gt") for bound in ("gt", "gte") if bound in bounds]
    upper = [bounds[bound] + (bound == "lte") for bound in ("lt", "lte") if bound in bounds]
    return max(lower, default=None), min(upper, default=None)


def choices(values: Json, allowed: Iterable[tuple[str, tuple[str, ...]]]) -> None:
    """Refuse a value that is not `allowed` for its parameter."""
    for name, accepted in allowed:
        if name in values and values[name] not in accepted:
            listed = ", ".join(accepted[:-1])
            raise StripeError(400, f"Invalid {name}: must be one of {listed}, or {accepted[-1]}", param=name)


def payment(params: Json) -> Json | None:
    """Returns the payment filter of `/v1/invoice_payments`."""
    value = params.get("payment")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise StripeError(400, "Invalid object", param="payment")
    if "type" not in value:
        raise StripeError(
            400, "Missing required param: payment[type].", param="payment[type]", code="parameter_missing"
        )
    if unknown := [f"payment[{name}]" for name in value if name not in ("payment_intent", "payment_record", "type")]:
        raise _unknown(unknown)
    return value


def event_types(params: Json) -> list[str]:
    """Returns the event type patterns that filter `/v1/events`; empty for all events."""
    types = params.get("types")
    if types is not None and "type" in params:
        raise StripeError(400, "You may only specify one of these parameters: type, types.")
    if types is not None and not isinstance(types, list):
        raise StripeError(400, "Invalid array", param="types")
    if types is not None and len(types) > 20:
        raise StripeError(400, "You may specify at most 20 event types in `types`.", param="types")
    delivery = params.get("delivery_success")
    if delivery not in (None, "true", "false"):
        raise StripeError(400, f"Invalid boolean: {delivery}", param="delivery_success", code="parameter_invalid")
    return [text(params, "type")] if "type" in params else types or []


def check_api_version(version: str, *, param: str | None = None) -> None:
    """Refuse a malformed API version; `param` names its parameter, None means the header."""
    if not _VERSION.fullmatch(version):
        raise StripeError(400, f"Invalid Stripe API version: {version}", **({"param": param} if param else {}))


def endpoint_fields(params: Json) -> Json:
    """Returns the webhook endpoint fields that a request sets."""
    fields: Json = {
        name: params[name] for name in ("description", "enabled_events", "metadata", "url") if name in params
    }
    if not isinstance(fields.get("enabled_events", []), list):
        raise StripeError(400, "Invalid array", param="enabled_events")
    if not isinstance(fields.get("metadata", {}), dict):
        raise StripeError(400, "Invalid object", param="metadata")
    if "url" in fields and not str(fields["url"]).startswith(("http://", "https://")):
        message = "Invalid URL: An explicit scheme (such as https) must be provided."
        raise StripeError(400, message, code="url_invalid", param="url")
    return fields


def _integer(value: Any, param: str) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"[+-]?\d{1,18}", value, re.ASCII):
        shown = value if isinstance(value, str) else orjson.dumps(value).decode()
        raise StripeError(400, f"Invalid integer: {shown}", code="parameter_invalid_integer", param=param)
    return int(value)


def _unknown(names: list[str]) -> StripeError:
    plural = "s" if len(names) > 1 else ""
    message = f"Received unknown parameter{plural}: {', '.join(names)}"
    return StripeError(400, message, code="parameter_unknown", param=names[0])
