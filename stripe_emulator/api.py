"""The endpoints: from a request to JSON, or to a `StripeError`.

This module computes the answer for each path. Keys, faults and HTTP belong to `app`, parameters to `parameters`,
expansion to `expansion`, webhook endpoints to `webhook_endpoints`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from urllib.parse import quote, unquote_plus

import orjson

from stripe_emulator import expansion, filters, parameters, templates, webhook_endpoints
from stripe_emulator.access import Access
from stripe_emulator.errors import StripeError, no_such
from stripe_emulator.faults import LoggedRequest
from stripe_emulator.keys import Caller, masked
from stripe_emulator.permissions import Permissions
from stripe_emulator.shop import EVENTS_KEPT, Shop
from stripe_emulator.store import Json, Window
from stripe_emulator.stripe_cli import StripeCli
from stripe_emulator.types import BY_PATH, LISTS, TYPES, EmulatedType, IncludedList


class Api:
    """Answers requests from any key."""

    def __init__(self, shop: Shop, permissions: Permissions, stripe_cli: StripeCli) -> None:
        self._shop = shop
        self._permissions = permissions
        self._stripe_cli = stripe_cli

    def answer(self, request: LoggedRequest, caller: Caller, host: str) -> bytes:
        """Returns the body of a successful answer; raises `StripeError` otherwise. `host` is the API's address."""
        if request.stripe_version is not None:
            parameters.check_api_version(request.stripe_version)
        access = Access(self._shop, self._permissions, caller)
        params = dict(request.params)
        segments = _segments(request.path)
        with self._shop.lock:
            if request.method == "GET" and (body := _read(access, segments, params)) is not None:
                return body
            match (request.method, *segments):
                case ("GET", "v1", "account"):
                    return _account(access, self._shop.account, params)
                case ("GET", "v1", "accounts", account):
                    return _account(access, account, params)
                case ("GET", "v1", "invoices", invoice, "lines"):
                    return _lines(access, invoice, params)
                case ("GET", "v1", "balance"):
                    access.permit("balance")
                    parameters.allow_only(params, ("expand",))
                    return orjson.dumps(self._shop.balance_object(access.livemode))
                case ("POST", "v1", "webhook_endpoints"):
                    return orjson.dumps(webhook_endpoints.create(access, params))
                case ("POST", "v1", "webhook_endpoints", object_id):
                    return orjson.dumps(webhook_endpoints.update(access, object_id, params))
                case ("DELETE", "v1", "webhook_endpoints", object_id):
                    return orjson.dumps(webhook_endpoints.delete(access, object_id, params))
                case ("POST", "v1", "stripecli", "sessions"):
                    session = self._stripe_cli.open_session(key=caller.key, livemode=caller.livemode, host=host)
                    return orjson.dumps(session)
        raise StripeError(
            404,
            f"Unrecognized request URL ({request.method}: {request.path}). Please see https://stripe.com/docs"
            " or we can help at https://support.stripe.com/.",
        )


def _read(access: Access, segments: Sequence[str], params: Json) -> bytes | None:
    """Returns a list or an object of one of `TYPES`; None for other paths."""
    version, *parts = segments or [""]
    for length in (2, 1) if version == "v1" else ():
        emulated_type = BY_PATH.get("/".join(parts[:length]))
        if emulated_type is None or len(parts) < length:
            continue
        match parts[length:]:
            case []:
                return _list(access, emulated_type, params)
            case [object_id] if emulated_type.name != "accounts" or access.holds("accounts", object_id):
                return _retrieve(access, emulated_type.name, object_id, params)
            case [object_id, name] if (emulated_type.name, name) in LISTS:
                return _list_below(access, emulated_type, object_id, LISTS[emulated_type.name, name], params)
    return None


def _list_below(access: Access, parent: EmulatedType, object_id: str, listed: IncludedList, params: Json) -> bytes:
    """Returns the list of objects that belong to an object, at the path of that object."""
    access.permit(listed.type_name)
    parameters.allow_only(params, (*parameters.PAGING, *listed.filters, *listed.time_filters))
    if not access.holds(parent.name, object_id):
        raise access.missing(parent.name, object_id, param=parent.object.rpartition(".")[2])
    collection, values = access.collection(listed.type_name), {n: params[n] for n in listed.filters if n in params}
    among = None
    if listed.reference in collection.INDEXED:
        among = collection.with_value(listed.reference, object_id)
    else:
        values[listed.reference] = object_id
    return _page(
        access,
        listed.type_name,
        params,
        among=among,
        condition=filters.equal_to(values),
        url=listed.url.format(id=object_id),
        window=_window(access, listed.type_name, params),
    )


def _account(access: Access, account: str, params: Json) -> bytes:
    access.permit("account")
    parameters.allow_only(params, ("expand",))
    if account != access.shop.account:
        raise StripeError(
            403,
            f"The provided key '{masked(access.caller.key)}' does not have access to account '{account}' (or that"
            " account does not exist). Application access may have been revoked.",
            code="account_invalid",
        )
    return orjson.dumps(templates.account(account))


def _list(access: Access, emulated_type: EmulatedType, params: Json) -> bytes:
    type_name = emulated_type.name
    access.permit(type_name)
    parameters.allow_only(params, (*parameters.PAGING, *emulated_type.filters, *emulated_type.time_filters))
    window = _window(access, type_name, params)
    if emulated_type.needs and emulated_type.needs not in params:
        raise StripeError(
            400,
            f"Missing required param: {emulated_type.needs}.",
            code="parameter_missing",
            param=emulated_type.needs,
        )
    condition = filters.condition(access, emulated_type, params)
    collection = access.collection(type_name)
    indexed = next((name for name in collection.INDEXED if name in params and name in emulated_type.filters), None)
    if (type_name, indexed) == ("invoices", "subscription"):
        indexed = None  # the invoice names its subscription further down
    among = collection.with_value(indexed, params[indexed]) if indexed else None
    return _page(
        access,
        type_name,
        params,
        among=among,
        condition=condition,
        url=f"/v1/{emulated_type.path or type_name}",
        window=window,
    )


def _page(
    access: Access,
    type_name: str,
    params: Json,
    *,
    among: Iterable[str] | None,
    condition: filters.Condition | None,
    url: str,
    window: Window,
) -> bytes:
    """Returns a page of a list, whose objects meet `condition` and are `among` these ids."""
    ids, more = access.collection(type_name).page(window, condition, among)
    if not ids:
        filters.check_targets(access, TYPES[type_name], params)
    if params.get("expand"):
        page = [orjson.loads(access.render(type_name, object_id)) for object_id in ids]
        body = expansion.list_of(page, more, url)
        expansion.expand(access, body, params["expand"], listed=True)
        return orjson.dumps(body)
    rendered = b",".join([access.render(type_name, object_id) for object_id in ids])
    has_more = b"true" if more else b"false"
    return b'{"object":"list","data":[%b],"has_more":%b,"url":"%b"}' % (rendered, has_more, url.encode())


def _window(access: Access, type_name: str, params: Json) -> Window:
    since, until = parameters.time_range(params, "created")
    if type_name == "events":
        oldest = math.ceil(access.shop.clock.now()) - EVENTS_KEPT
        since = oldest if since is None else max(since, oldest)
    cursors = parameters.cursors(params)
    for name, cursor in zip(("starting_after", "ending_before"), cursors, strict=True):
        if cursor is not None and not access.holds(type_name, cursor):
            raise access.missing(type_name, cursor, param=name, status=400)
    return Window(since, until, *cursors, parameters.limit(params))


def _retrieve(access: Access, type_name: str, object_id: str, params: Json) -> bytes:
    access.permit(type_name)
    parameters.allow_only(params, ("expand",))
    if access.is_deleted(type_name, object_id):
        return orjson.dumps(templates.deleted_customer(object_id))
    if not access.holds(type_name, object_id):
        raise access.missing(type_name, object_id)
    rendered = access.render(type_name, object_id)
    if not params.get("expand"):
        return rendered
    body = orjson.loads(rendered)
    expansion.expand(access, body, params["expand"], listed=False)
    return orjson.dumps(body)


def _lines(access: Access, invoice: str, params: Json) -> bytes:
    access.permit("invoices")
    parameters.allow_only(params, parameters.PAGING)
    try:
        lines = access.shop.lines(invoice, access.livemode)
    except KeyError:
        raise access.missing("invoices", invoice, param="invoice") from None
    limit, (after, before) = parameters.limit(params), parameters.cursors(params)
    cursor = after or before
    if cursor is not None:
        places = [place for place, line in enumerate(lines) if line["id"] == cursor]
        if not places:
            raise no_such("line item", cursor, param="starting_after" if after else "ending_before", status=400)
        lines = lines[places[0] + 1 :] if after else lines[: places[0]]
    page = lines[-limit:] if before and not after else lines[:limit]
    body = expansion.list_of(page, len(lines) > limit, f"/v1/invoices/{quote(invoice, safe='')}/lines")
    if params.get("expand"):
        body = orjson.loads(orjson.dumps(body))
        expansion.expand(access, body, params["expand"], listed=True)
    return orjson.dumps(body)


def _segments(path: str) -> list[str]:
    """Returns the decoded segments of a raw path; Stripe's servers split first, then decode.

    A `+` is a space. Dot segments are resolved even if they are percent-encoded, as web servers do.
    """
    segments: list[str] = []
    for part in path.strip("/").split("/"):
        segment = unquote_plus(part)
        if segment == "..":
            del segments[-1:]
        elif segment != ".":
            segments.append(segment)
    return segments
