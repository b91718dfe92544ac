"""The HTTP side of the emulator: keys, parameters, lists, errors and faults, as Stripe answers them.

What is in the shop and how it changes belongs to `shop`; sockets and threads to `server`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableSequence
from dataclasses import dataclass
from random import Random
from secrets import token_hex
from typing import Any
from urllib.parse import parse_qsl, quote, unquote_plus

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from stripe_emulator import store, templates
from stripe_emulator.faults import RATE_LIMIT, Fault, LoggedRequest, ahead, choose
from stripe_emulator.permissions import Permissions
from stripe_emulator.rate_limits import RateLimiter
from stripe_emulator.shop import EMBEDDED, EVENTS_KEPT, Shop, type_of
from stripe_emulator.store import Json, reference
from stripe_emulator.stripe_cli import PATH, StripeCli
from stripe_emulator.webhooks import Webhooks
from stripe_pipeline.objects import OBJECT_TYPES, Kind

_PATH_NAMES = {
    "balance_transactions": ("balance transaction", "id"),
    "charges": ("charge", "id"),
    "customers": ("customer", "id"),
    "disputes": ("dispute", "id"),
    "events": ("event", "id"),
    "invoice_payments": ("invoice_payment", "invoice_payment"),
    "invoices": ("invoice", "id"),
    "payment_intents": ("payment_intent", "intent"),
    "refunds": ("refund", "id"),
    "webhook_endpoints": ("webhook endpoint", "id"),
}
"""By type: what Stripe calls one in messages, and the parameter its id is."""

_EQUAL = {
    "balance_transactions": ("currency", "payout", "source", "type"),
    "charges": ("customer", "payment_intent", "transfer_group"),
    "customers": ("email", "test_clock"),
    "disputes": ("charge", "payment_intent"),
    "invoices": ("collection_method", "customer", "customer_account", "status", "subscription"),
    "invoice_payments": ("invoice", "payment", "status"),
    "payment_intents": ("customer", "customer_account"),
    "refunds": ("charge", "payment_intent"),
    "events": ("delivery_success", "type", "types"),
    "webhook_endpoints": (),
}
"""Filters by list besides `created`; all are equality, apart from those of events."""

_CHOICES: dict[str, dict[str, tuple[str, ...]]] = {
    "invoices": {
        "collection_method": ("charge_automatically", "send_invoice"),
        "status": ("draft", "open", "paid", "uncollectible", "void"),
    },
    "invoice_payments": {"status": ("canceled", "open", "paid")},
}
_RANGES = ("gt", "gte", "lt", "lte")
_PAGING = ("ending_before", "expand", "limit", "starting_after")
_INCLUDABLE = frozenset(
    (
        *("cash_balance", "confirmation_secret", "data", "discount", "invoice_credit_balance", "lines"),
        *("payments", "refunds", "sources", "subscriptions", "tax", "tax_ids"),
    )
)
_REFERENCES = frozenset(
    column.name
    for object_type in OBJECT_TYPES.values()
    for column in object_type.columns
    if column.kind is Kind.REFERENCE
) | {"balance_transactions", "discounts"}
_KEY = re.compile(r"(sk|rk)_(live|test)_\w+", re.ASCII)
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(\.\w+)?", re.ASCII)
_LOGGED = 200_000
"""Requests kept in the log, so that an emulator that runs for days does not grow for ever."""
_ENDPOINT_FIELDS = ("description", "enabled_events", "expand", "metadata", "url")

Disconnect = Callable[[Scope, bool], None]
"""Closes the connection of a request: at once, or (true) after what was sent has left."""


class StripeError(Exception):
    """An answer of Stripe that is an error."""

    def __init__(self, status: int, message: str, *, kind: str = "invalid_request_error", **fields: str | None) -> None:
        super().__init__(message)
        self.status = status
        code = fields.get("code")
        doc = {"doc_url": f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"} if code else {}
        self.body: Json = {"error": {**fields, **doc, "message": message, "type": kind}}
        self.headers: dict[str, str] = {}


@dataclass(frozen=True)
class _Caller:
    key: str
    livemode: bool
    restricted: bool


def create_app(
    shop: Shop,
    *,
    faults: MutableSequence[Fault] | None = None,
    rate_limits: bool | RateLimiter = False,
    latency_ms: float = 0,
    latency_jitter: float = 0,
    permissions: Permissions | None = None,
    keys: Collection[str] | None = None,
    requests: MutableSequence[LoggedRequest] | None = None,
    disconnect: Disconnect | None = None,
    webhooks: Webhooks | None = None,
) -> Starlette:
    """The Stripe API for a shop.

    `permissions` are those of restricted keys (`rk_`; default: all), `keys` all keys there are (default: any
    well-formed one). `rate_limits` are Stripe's, or another limiter's. Each answer takes `latency_ms`, give or take up
    to `latency_jitter` of it (0 to 1). `faults`, `permissions` and `keys` may be changed while the app runs. Every
    request is added to `requests`.
    Faults that break connections need `disconnect`, which only a server can give; so do `webhooks` that are running,
    without which nothing is sent to a `stripe listen`.
    """
    stripe_cli = StripeCli(webhooks or Webhooks(shop))
    api = _Api(shop, permissions or Permissions(), stripe_cli)
    limiter = RateLimiter() if rate_limits is True else rate_limits or None
    random = Random(1)
    rules: MutableSequence[Fault] = [] if faults is None else faults
    log: MutableSequence[LoggedRequest] = [] if requests is None else requests

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        form = (await request.body()).decode()
        # Params that cannot be read are reported by the handler, after the key was checked.
        params, complaint = _parse(form or request.url.query)
        caller, refusal = _caller(request, keys)
        entry = LoggedRequest(
            method=request.method,
            path=_raw_path(scope),
            params=params,
            livemode=caller.livemode if caller else None,
            stripe_version=request.headers.get("stripe-version"),
            time=shop.clock.now(),
        )
        if len(log) >= _LOGGED:
            del log[: _LOGGED // 2]
        log.append(entry)
        jitter = latency_jitter * random.uniform(-1, 1)
        if latency_ms and not await _pause(latency_ms / 1000 * (1 + jitter), receive):
            return
        chosen = choose(rules, entry)
        for fault in chosen:
            if fault.delay and not await _pause(fault.delay, receive):
                return
            if fault.before is not None:
                fault.before(entry)
        last = chosen[-1] if chosen and chosen[-1].answers else None
        if last is not None and last.drop:
            await _break_off(disconnect, scope, receive, graceful=False)
            return
        if last is not None and (last.status is not None or last.body is not None):
            status, headers, body = last.answer()
        else:
            try:
                if caller is None:
                    raise refusal or StripeError(401, "No key.")
                reason = limiter and limiter.refuse(caller.livemode, _endpoint(entry.path))
                if reason:
                    raise _too_many(reason, caller.livemode)
                if complaint is not None:
                    raise complaint
                status, headers, body = 200, {}, api.answer(entry, caller, request.url.netloc)
            except StripeError as error:
                status, headers, body = error.status, error.headers, orjson.dumps(error.body)
        entry.status = status
        if last is not None and last.change is not None:
            body = last.change(body)
        sent = body
        if last is not None and last.truncate is not None:
            sent = body = body[: int(len(body) * last.truncate)]
        elif last is not None and last.cut is not None:
            sent = body[: int(len(body) * last.cut)]
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "request-id": f"req_{token_hex(7)}",
            "stripe-version": entry.stripe_version or templates.API_VERSION,
        } | headers
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        if "date" not in headers:
            dated = next((fault.date for fault in chosen if fault.date is not None), ahead(0))
            raw += [(b"date", date.encode()) for date in dated(shop.clock.now())]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        whole = len(sent) == len(body)
        if last is not None and last.trickle is not None:
            for byte in sent:
                if not await _pause(last.trickle, receive):
                    return
                await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
            sent = b""
        await send({"type": "http.response.body", "body": sent, "more_body": not whole})
        if not whole:
            await _break_off(disconnect, scope, receive, graceful=True)

    routes = [WebSocketRoute(PATH, stripe_cli.listen), Route("/{path:path}", _Endpoint(answer))]
    return Starlette(routes=routes)


class _Endpoint:
    """An ASGI app; a plain function would be taken for a request handler."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


async def _pause(seconds: float, receive: Receive) -> bool:
    """Wait; false as soon as the client is gone."""
    try:
        async with asyncio.timeout(seconds):
            await _gone(receive)
    except TimeoutError:
        return True
    return False


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _break_off(disconnect: Disconnect | None, scope: Scope, receive: Receive, *, graceful: bool) -> None:
    if disconnect is None:
        raise RuntimeError("this fault breaks a connection: it needs a Server")
    disconnect(scope, graceful)
    await _gone(receive)


class _Api:
    """The endpoints: from a request to JSON, or to a StripeError."""

    def __init__(self, shop: Shop, permissions: Permissions, stripe_cli: StripeCli) -> None:
        self._shop = shop
        self._permissions = permissions
        self._stripe_cli = stripe_cli

    def answer(self, request: LoggedRequest, caller: _Caller, host: str) -> bytes:
        version = request.stripe_version
        if version is not None and not _VERSION.fullmatch(version):
            raise StripeError(400, f"Invalid Stripe API version: {version}")
        method, parts = request.method, _segments(request.path)
        params = dict(request.params)
        with self._shop.lock:
            match (method, *parts):
                case ("GET", "v1", "account"):
                    self._permit("account", caller)
                    return self._account(self._shop.account, params, caller)
                case ("GET", "v1", "accounts", account):
                    self._permit("account", caller)
                    return self._account(account, params, caller)
                case ("GET", "v1", "invoices", invoice, "lines"):
                    self._permit("invoices", caller)
                    return self._lines(invoice, params, caller)
                case ("GET", "v1", type_name) if type_name in _EQUAL:
                    self._permit(type_name, caller)
                    return self._list(type_name, params, caller)
                case ("GET", "v1", type_name, object_id) if type_name in _EQUAL:
                    self._permit(type_name, caller)
                    return self._retrieve(type_name, object_id, params, caller)
                case ("POST", "v1", "webhook_endpoints"):
                    self._permit("webhook_endpoints", caller, "write")
                    return self._create_endpoint(params, caller)
                case ("POST", "v1", "webhook_endpoints", object_id):
                    self._permit("webhook_endpoints", caller, "write")
                    return self._update_endpoint(object_id, params, caller)
                case ("DELETE", "v1", "webhook_endpoints", object_id):
                    self._permit("webhook_endpoints", caller, "write")
                    return self._delete_endpoint(object_id, params, caller)
                case ("POST", "v1", "stripecli", "sessions"):
                    session = self._stripe_cli.open_session(key=caller.key, livemode=caller.livemode, host=host)
                    return orjson.dumps(session)
        raise StripeError(
            404,
            f"Unrecognized request URL ({method}: {request.path}). Please see https://stripe.com/docs"
            " or we can help at https://support.stripe.com/.",
        )

    def _permit(self, type_name: str, caller: _Caller, right: str = "read") -> None:
        if caller.restricted and not self._permissions.allows(type_name, caller.key, right):
            message, code = self._permissions.refusal(
                type_name, right, key=_masked(caller.key), account=self._shop.account
            )
            raise StripeError(403, message, **({"code": code} if code else {}))

    # Reading

    def _list(self, type_name: str, params: Json, caller: _Caller) -> bytes:
        ranged = {"created"} | ({"due_date"} if type_name == "invoices" else set())
        if type_name == "webhook_endpoints":
            ranged = set()
        _only(params, {*_PAGING, *_EQUAL[type_name], *ranged})
        collection = self._shop.collection(type_name, caller.livemode)
        since, until = _range(params, "created")
        if type_name == "events":
            kept = math.ceil(self._shop.clock.now()) - EVENTS_KEPT
            since = kept if since is None else max(since, kept)
        cursors = _cursors(params)
        for name, cursor in zip(("starting_after", "ending_before"), cursors, strict=True):
            if cursor is not None and not self._holds(type_name, cursor, caller):
                raise self._missing(type_name, cursor, caller, param=name, status=400)
        window = store.Window(since, until, *cursors, _limit(params))
        wanted = self._wanted(type_name, params, caller)
        indexed = next((name for name in collection.INDEXED if name in params and name in _EQUAL[type_name]), None)
        among = collection.with_value(indexed, params[indexed]) if indexed else None
        ids, more = collection.page(window, wanted, among)
        if not ids:
            self._check_targets(params, caller)
        if params.get("expand"):
            page = [orjson.loads(self._shop.render(type_name, found, caller.livemode)) for found in ids]
            body = _list_of(page, more, f"/v1/{type_name}")
            self._expand(body, params["expand"], caller, listed=True)
            return orjson.dumps(body)
        rendered = b",".join([self._shop.render(type_name, found, caller.livemode) for found in ids])
        has_more = b"true" if more else b"false"
        return b'{"object":"list","data":[%b],"has_more":%b,"url":"/v1/%b"}' % (rendered, has_more, type_name.encode())

    def _lines(self, invoice: str, params: Json, caller: _Caller) -> bytes:
        _only(params, _PAGING)
        try:
            lines = self._shop.lines(invoice, caller.livemode)
        except KeyError:
            raise self._missing("invoices", invoice, caller, param="invoice") from None
        limit, (after, before) = _limit(params), _cursors(params)
        cursor = after or before
        if cursor is not None:
            places = [place for place, line in enumerate(lines) if line["id"] == cursor]
            if not places:
                name = "starting_after" if after else "ending_before"
                raise _no_such("line item", cursor, name, 400)
            lines = lines[places[0] + 1 :] if after else lines[: places[0]]
        page = lines[-limit:] if before and not after else lines[:limit]
        body = _list_of(page, len(lines) > limit, f"/v1/invoices/{quote(invoice, safe='')}/lines")
        if params.get("expand"):
            body = orjson.loads(orjson.dumps(body))
            self._expand(body, params["expand"], caller, listed=True)
        return orjson.dumps(body)

    def _retrieve(self, type_name: str, object_id: str, params: Json, caller: _Caller) -> bytes:
        _only(params, ("expand",))
        if type_name == "customers" and self._shop.is_deleted_customer(object_id, caller.livemode):
            return orjson.dumps(templates.deleted_customer(object_id))
        if not self._holds(type_name, object_id, caller):
            raise self._missing(type_name, object_id, caller)
        rendered = self._shop.render(type_name, object_id, caller.livemode)
        if not params.get("expand"):
            return rendered
        body = orjson.loads(rendered)
        self._expand(body, params["expand"], caller, listed=False)
        return orjson.dumps(body)

    def _account(self, account: str, params: Json, caller: _Caller) -> bytes:
        _only(params, ("expand",))
        if account != self._shop.account:
            raise StripeError(
                403,
                f"The provided key '{_masked(caller.key)}' does not have access to account '{account}' (or that account"
                " does not exist). Application access may have been revoked.",
                code="account_invalid",
            )
        return orjson.dumps(templates.account(account))

    def _holds(self, type_name: str, object_id: str, caller: _Caller) -> bool:
        if object_id not in self._shop.collection(type_name, caller.livemode):
            return False
        return type_name != "events" or self._shop.event_is_visible(object_id, caller.livemode)

    def _missing(
        self, type_name: str, object_id: str, caller: _Caller, *, param: str | None = None, status: int = 404
    ) -> StripeError:
        name, id_param = _PATH_NAMES[type_name]
        hint = ""
        if object_id in self._shop.collection(type_name, not caller.livemode):
            other, mine = ("test", "live") if caller.livemode else ("live", "test")
            hint = f"; a similar object exists in {other} mode, but a {mine} mode key was used to make this request."
        return _no_such(name, object_id, param or id_param, status, hint)

    def _wanted(self, type_name: str, params: Json, caller: _Caller) -> Callable[[str, Json], bool] | None:
        if type_name == "events":
            return self._wanted_events(params, caller)
        paid_by = _payment(params) if type_name == "invoice_payments" else None
        equal = {name: _text(params, name) for name in _EQUAL[type_name] if name in params and name != "payment"}
        for name, choices in _CHOICES.get(type_name, {}).items():
            if name in equal and equal[name] not in choices:
                listed = ", ".join(choices[:-1])
                raise StripeError(400, f"Invalid {name}: must be one of {listed}, or {choices[-1]}", param=name)
        payout = equal.pop("payout", None)
        subscription = equal.pop("subscription", None)
        due_since, due_until = _range(params, "due_date")
        on_clock = type_name == "customers" and "test_clock" not in equal
        if not (
            equal or payout or subscription or paid_by or due_since is not None or due_until is not None or on_clock
        ):
            return None

        def wanted(object_id: str, obj: Json) -> bool:
            if on_clock and obj.get("test_clock") is not None:
                return False
            if any(reference(obj.get(name)) != value for name, value in equal.items()):
                return False
            if paid_by is not None and any(reference(obj["payment"].get(name)) != it for name, it in paid_by.items()):
                return False
            if payout is not None and self._shop.payout_of(object_id, caller.livemode) != payout:
                return False
            if subscription is not None and _subscription(obj) != subscription:
                return False
            if due_since is None and due_until is None:
                return True
            due = obj.get("due_date")
            return due is not None and (due_since or 0) <= due < (math.inf if due_until is None else due_until)

        return wanted

    def _wanted_events(self, params: Json, caller: _Caller) -> Callable[[str, Json], bool]:
        kinds = params.get("types")
        if kinds is not None and "type" in params:
            raise StripeError(400, "You may only specify one of these parameters: type, types.")
        if kinds is not None and not isinstance(kinds, list):
            raise StripeError(400, "Invalid array", param="types")
        if kinds is not None and len(kinds) > 20:
            raise StripeError(400, "You may specify at most 20 event types in `types`.", param="types")
        delivery = params.get("delivery_success")
        if delivery not in (None, "true", "false"):
            raise StripeError(400, f"Invalid boolean: {delivery}", param="delivery_success", code="parameter_invalid")
        if "type" in params:
            kinds = [_text(params, "type")]
        patterns = [re.compile(".*".join(map(re.escape, kind.split("*")))) for kind in kinds or ()]
        now = self._shop.clock.now()

        def wanted(_: str, event: Json) -> bool:
            if event["visible_at"] > now:
                return False
            return not patterns or any(pattern.fullmatch(event["type"]) for pattern in patterns)

        return wanted

    def _check_targets(self, params: Json, caller: _Caller) -> None:
        """Refuse filters that name an object which does not exist."""
        for name, type_name in (
            ("customer", "customers"),
            ("charge", "charges"),
            ("invoice", "invoices"),
            ("payment_intent", "payment_intents"),
        ):
            target = params.get(name)
            if (
                target is not None
                and not self._holds(type_name, target, caller)
                and not self._shop.is_deleted_customer(target, caller.livemode)
            ):
                raise self._missing(type_name, target, caller, param=name, status=400)

    # Expanding

    def _expand(self, body: Json, paths: Iterable[str], caller: _Caller, *, listed: bool) -> None:
        for path in paths:
            names = path.split(".")
            if len(names) > 4 + listed:
                raise StripeError(400, "You cannot expand more than 4 levels of a property.", param="expand")
            self._expand_one(body, names, path, caller)

    def _expand_one(self, value: Any, names: list[str], path: str, caller: _Caller) -> None:
        if not names or value is None:
            return
        if isinstance(value, list):
            for entry in value:
                self._expand_one(entry, names, path, caller)
            return
        name = names[0]
        if not isinstance(value, dict) or (
            name not in _REFERENCES and name not in _INCLUDABLE and not isinstance(value.get(name), dict)
        ):
            raise StripeError(400, f"This property cannot be expanded ({path}).", param="expand")
        found = value.get(name)
        if isinstance(found, str):
            found = value[name] = self._expanded(found, caller, "customers" if name == "customer" else None)
        elif name == "refunds" and value.get("object") == "charge" and not isinstance(found, dict):
            found = value["refunds"] = self._refunds_of(value["id"], caller)
        elif name == "payments" and value.get("object") == "invoice" and not isinstance(found, dict):
            found = value["payments"] = self._payments_of(value["id"], caller)
        if isinstance(found, dict | list):
            self._expand_one(found, names[1:], path, caller)

    def _expanded(self, object_id: str, caller: _Caller, type_name: str | None) -> Any:
        type_name = type_name or type_of(object_id)  # the ids of customers may be the shop's own
        if type_name == "customers" and self._shop.is_deleted_customer(object_id, caller.livemode):
            return templates.deleted_customer(object_id)
        if type_name is None or not self._holds(type_name, object_id, caller):
            return object_id
        self._permit(type_name, caller)
        return orjson.loads(self._shop.render(type_name, object_id, caller.livemode))

    def _refunds_of(self, charge: str, caller: _Caller) -> Json:
        collection = self._shop.collection("refunds", caller.livemode)
        ids, more = collection.page(store.Window(), among=collection.with_value("charge", charge))
        refunds = [orjson.loads(self._shop.render("refunds", found, caller.livemode)) for found in ids]
        return _list_of(refunds, more, f"/v1/charges/{charge}/refunds")

    def _payments_of(self, invoice: str, caller: _Caller) -> Json:
        payments = self._shop.payments(invoice, caller.livemode)
        more = len(payments) > EMBEDDED
        return _list_of(payments[:EMBEDDED], more, f"/v1/invoice_payments?invoice={invoice}")

    # Webhook endpoints

    def _create_endpoint(self, params: Json, caller: _Caller) -> bytes:
        _only(params, (*_ENDPOINT_FIELDS, "api_version", "connect"))
        for name in ("enabled_events", "url"):
            if not params.get(name):
                raise StripeError(400, f"Missing required param: {name}.", param=name, code="parameter_missing")
        fields = _endpoint_fields(params)
        version = _text(params, "api_version") if "api_version" in params else None
        if version is not None and not _VERSION.fullmatch(version):
            raise StripeError(400, f"Invalid Stripe API version: {version}", param="api_version")
        url, enabled = fields.pop("url"), fields.pop("enabled_events")
        made = self._shop.create_webhook_endpoint(url, enabled, livemode=caller.livemode, api_version=version, **fields)
        return orjson.dumps(made)

    def _update_endpoint(self, object_id: str, params: Json, caller: _Caller) -> bytes:
        _only(params, (*_ENDPOINT_FIELDS, "disabled"))
        if not self._holds("webhook_endpoints", object_id, caller):
            raise self._missing("webhook_endpoints", object_id, caller)
        fields = _endpoint_fields(params)
        if "disabled" in params:
            fields["status"] = "disabled" if params["disabled"] == "true" else "enabled"
        if "metadata" in fields:
            held = self._shop.collection("webhook_endpoints", caller.livemode).objects[object_id]["metadata"]
            merged = held | fields["metadata"]
            fields["metadata"] = {name: value for name, value in merged.items() if value != ""}
        return orjson.dumps(self._shop.update("webhook_endpoints", object_id, livemode=caller.livemode, **fields))

    def _delete_endpoint(self, object_id: str, params: Json, caller: _Caller) -> bytes:
        _only(params, ())
        if not self._holds("webhook_endpoints", object_id, caller):
            raise self._missing("webhook_endpoints", object_id, caller)
        self._shop.vanish("webhook_endpoints", object_id, livemode=caller.livemode)
        return orjson.dumps({"id": object_id, "object": "webhook_endpoint", "deleted": True})


# Keys


def _caller(request: Request, keys: Collection[str] | None) -> tuple[_Caller | None, StripeError | None]:
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    key = given.strip()
    if kind.lower() == "basic":
        try:
            key = base64.b64decode(key).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            key = ""
    if not key or kind.lower() not in ("basic", "bearer"):
        return None, StripeError(
            401,
            "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer"
            " auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY'). See https://stripe.com/docs/api#authentication for"
            " details, or we can help at https://support.stripe.com/.",
        )
    match = _KEY.fullmatch(key)
    if match is None or len(key) < 12 or (keys is not None and key not in keys):
        return None, StripeError(401, f"Invalid API Key provided: {_masked(key)}")
    return _Caller(key, livemode=match[2] == "live", restricted=match[1] == "rk"), None


def _masked(key: str) -> str:
    """A key as Stripe's messages show it: its prefix and the last four characters."""
    prefix = next((key[: found.end()] for found in [re.match(r"[a-z]+_(live|test)_", key)] if found), "")
    hidden = len(key) - len(prefix) - 4
    return prefix + "*" * max(hidden, 0) + key[max(len(prefix), len(key) - 4) :]


def _raw_path(scope: Scope) -> str:
    """The path as the client sent it, percent-encoded."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    return raw.partition(b"?")[0].decode("ascii")


def _segments(path: str) -> list[str]:
    """The decoded parts of a raw path, which Stripe's servers split first and decode then.

    A `+` is a space. Dot segments are resolved even where they were sent encoded, as web servers do.
    """
    segments: list[str] = []
    for part in path.strip("/").split("/"):
        segment = unquote_plus(part)
        if segment == "..":
            del segments[-1:]
        elif segment != ".":
            segments.append(segment)
    return segments


def _endpoint(path: str) -> str:
    """The path with ids left out, which is what Stripe counts requests by."""
    parts = path.strip("/").split("/")
    return "/".join([*parts[:2], *("{id}" for _ in parts[2:3]), *parts[3:]])


def _too_many(reason: str, livemode: bool) -> StripeError:
    error = StripeError(429, RATE_LIMIT["error"]["message"], code="rate_limit")
    if not livemode:
        error.body["error"]["message"] = (
            "Testmode request rate limit exceeded, the rate limits in testmode are lower than livemode. You can learn"
            " more about rate limits here https://stripe.com/docs/rate-limits."
        )
    error.headers = {"stripe-rate-limited-reason": reason}
    return error


# Parameters


def _parse(query: str) -> tuple[Json, StripeError | None]:
    """Nested parameters from `a[b]=…`, `a[]=…`, `a[0]=…`; lists keep their order."""
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


def _only(params: Json, known: Iterable[str]) -> None:
    unknown = [name for name in params if name not in set(known)]
    if unknown:
        raise _unknown(unknown)
    for name, value in params.items():
        if value == "" and name in ("starting_after", "ending_before", "limit", "expand"):
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


def _unknown(names: list[str]) -> StripeError:
    plural = "s" if len(names) > 1 else ""
    message = f"Received unknown parameter{plural}: {', '.join(names)}"
    return StripeError(400, message, code="parameter_unknown", param=names[0])


def _text(params: Json, name: str) -> str:
    value = params[name]
    if not isinstance(value, str):
        raise StripeError(400, f"Invalid string: {orjson.dumps(value).decode()}", param=name)
    return value


def _integer(value: Any, param: str) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"[+-]?\d{1,18}", value, re.ASCII):
        shown = value if isinstance(value, str) else orjson.dumps(value).decode()
        raise StripeError(400, f"Invalid integer: {shown}", code="parameter_invalid_integer", param=param)
    return int(value)


def _limit(params: Json) -> int:
    if "limit" not in params:
        return 10
    limit = _integer(params["limit"], "limit")
    if 1 <= limit <= 100:
        return limit
    bound = "greater than or equal to 1" if limit < 1 else f"less than or equal to 100 (it currently is '{limit}')"
    raise StripeError(400, f"This value must be {bound}.", code="parameter_invalid_integer", param="limit")


def _cursors(params: Json) -> tuple[str | None, str | None]:
    after, before = (_text(params, name) if name in params else None for name in ("starting_after", "ending_before"))
    if after is not None and before is not None:
        raise StripeError(400, "You may only specify one of these parameters: ending_before, starting_after.")
    return after, before


def _range(params: Json, name: str) -> tuple[int | None, int | None]:
    """A time filter as `since <= time < until`."""
    value = params.get(name)
    if value is None:
        return None, None
    if not isinstance(value, dict):
        exact = _integer(value, name)
        return exact, exact + 1
    unknown = [f"{name}[{bound}]" for bound in value if bound not in _RANGES]
    if unknown:
        raise _unknown(unknown)
    bounds = {bound: _integer(given, f"{name}[{bound}]") for bound, given in value.items()}
    lower = [bounds[bound] + (bound == "gt") for bound in ("gt", "gte") if bound in bounds]
    upper = [bounds[bound] + (bound == "lte") for bound in ("lt", "lte") if bound in bounds]
    return max(lower, default=None), min(upper, default=None)


def _payment(params: Json) -> Json | None:
    """The filter by payment of /v1/invoice_payments."""
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


def _endpoint_fields(params: Json) -> Json:
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


def _no_such(name: str, object_id: str, param: str, status: int, hint: str = "") -> StripeError:
    return StripeError(status, f"No such {name}: '{object_id}'{hint}", code="resource_missing", param=param)


def _list_of(data: list[Json], more: bool, url: str) -> Json:
    return {"object": "list", "data": data, "has_more": more, "url": url}


def _subscription(invoice: Json) -> Any:
    details = (invoice.get("parent") or {}).get("subscription_details") or {}
    return reference(details.get("subscription") or invoice.get("subscription"))
