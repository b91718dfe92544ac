"""The HTTP side of the emulator: requests and responses, the request log, latency, rate limits and faults.

This module handles everything between a connection and `api`, which computes the answer. Sockets and threads belong
to `server`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, MutableSequence
from dataclasses import dataclass
from random import Random
from secrets import token_hex
from urllib.parse import quote

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from stripe_emulator import keys as api_keys
from stripe_emulator import parameters, templates
from stripe_emulator.api import Api
from stripe_emulator.errors import StripeError, too_many_requests
from stripe_emulator.faults import Fault, LoggedRequest, ahead, choose
from stripe_emulator.keys import Caller
from stripe_emulator.permissions import Permissions
from stripe_emulator.rate_limits import RateLimiter
from stripe_emulator.shop import Shop
from stripe_emulator.store import Json
from stripe_emulator.stripe_cli import PATH, StripeCli
from stripe_emulator.webhooks import Webhooks

_LOGGED = 200_000
"""Requests kept in the log; the limit bounds the memory of an emulator that runs for days."""
_NO_FAULT = Fault()

Disconnect = Callable[[Scope, bool], None]
"""Closes the connection of a request: at once, or (true) after flushing the sent data."""


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
    """Returns the Stripe API of a shop.

    `permissions` applies to restricted keys (`rk_`; default: all), `keys` lists the existing keys (default: any
    well-formed key). `rate_limits` is true for Stripe's limits, or a custom limiter. Each answer takes `latency_ms`,
    plus or minus a share of up to `latency_jitter` (0 to 1). `faults`, `permissions` and `keys` may be changed while
    the app runs. Every request is added to `requests`.
    Faults that break connections need `disconnect`, which only a server can provide. `stripe listen` receives events
    only from running `webhooks`, which also need a server.
    """
    stripe_cli = StripeCli(webhooks or Webhooks(shop))
    http = _Http(
        shop,
        Api(shop, permissions or Permissions(), stripe_cli),
        keys=keys,
        limiter=RateLimiter() if rate_limits is True else rate_limits or None,
        latency=_Latency(latency_ms / 1000, latency_jitter),
        faults=[] if faults is None else faults,
        log=[] if requests is None else requests,
        disconnect=disconnect,
    )
    return Starlette(routes=[WebSocketRoute(PATH, stripe_cli.listen), Route("/{path:path}", http)])


class _Latency:
    """The duration of an answer."""

    def __init__(self, seconds: float, jitter: float) -> None:
        self._seconds = seconds
        self._jitter = jitter
        self._random = Random(1)

    def draw(self) -> float:
        """Returns the latency of the next answer, in seconds."""
        return self._seconds * (1 + self._jitter * self._random.uniform(-1, 1))


@dataclass
class _Answer:
    status: int
    headers: dict[str, str]
    """Headers that extend or override the default headers."""
    body: bytes


class _Http:
    """The ASGI app for all paths; a class, because Starlette treats a function as a request handler."""

    def __init__(
        self,
        shop: Shop,
        api: Api,
        *,
        keys: Collection[str] | None,
        limiter: RateLimiter | None,
        latency: _Latency,
        faults: MutableSequence[Fault],
        log: MutableSequence[LoggedRequest],
        disconnect: Disconnect | None,
    ) -> None:
        self._shop = shop
        self._api = api
        self._keys = keys
        self._limiter = limiter
        self._latency = latency
        self._faults = faults
        self._log = log
        self._disconnect = disconnect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        form = (await request.body()).decode()
        # Malformed parameters are refused only after the key has been checked.
        params, complaint = parameters.parse(form or request.url.query)
        caller = api_keys.identify(request.headers.get("authorization", ""), self._keys)
        entry = self._note(request, params, caller)
        if not await _pause(self._latency.draw(), receive):
            return
        faults = choose(self._faults, entry)
        for fault in faults:
            if not await _pause(fault.delay, receive):
                return
            if fault.before is not None:
                await asyncio.to_thread(fault.before, entry)  # others are answered meanwhile
        fault = faults[-1] if faults and faults[-1].answers else _NO_FAULT
        if fault.drop:
            await self._break_off(scope, receive, graceful=False)
            return
        if fault.replaces:
            answer = _Answer(*fault.answer())
        else:
            answer = self._answer(entry, caller, complaint, request.url.netloc)
        entry.status = answer.status
        answer.body, sent = fault.spoil(answer.body)
        headers = self._headers(entry, answer, faults)
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        complete = len(sent) == len(answer.body)
        if fault.trickle is not None:
            for byte in sent:
                if not await _pause(fault.trickle, receive):
                    return
                await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
            sent = b""
        await send({"type": "http.response.body", "body": sent, "more_body": not complete})
        if not complete:
            await self._break_off(scope, receive, graceful=True)

    def _note(self, request: Request, params: Json, caller: Caller | StripeError) -> LoggedRequest:
        """Add a request to the log."""
        entry = LoggedRequest(
            method=request.method,
            path=_raw_path(request.scope),
            params=params,
            livemode=caller.livemode if isinstance(caller, Caller) else None,
            stripe_version=request.headers.get("stripe-version"),
            time=self._shop.clock.now(),
        )
        if len(self._log) >= _LOGGED:
            del self._log[: _LOGGED // 2]
        self._log.append(entry)
        return entry

    def _answer(
        self, entry: LoggedRequest, caller: Caller | StripeError, complaint: StripeError | None, host: str
    ) -> _Answer:
        """Returns Stripe's answer, before any faults."""
        try:
            if isinstance(caller, StripeError):
                raise caller
            if self._limiter and (reason := self._limiter.refuse(caller.livemode, _endpoint(entry.path))):
                raise too_many_requests(reason, caller.livemode)
            if complaint is not None:
                raise complaint
            return _Answer(200, {}, self._api.answer(entry, caller, host))
        except StripeError as error:
            return _Answer(error.status, error.headers, orjson.dumps(error.body))

    def _headers(self, entry: LoggedRequest, answer: _Answer, faults: list[Fault]) -> list[tuple[bytes, bytes]]:
        headers = {
            "content-type": "application/json",
            "content-length": str(len(answer.body)),
            "request-id": f"req_{token_hex(7)}",
            "stripe-version": entry.stripe_version or templates.API_VERSION,
        } | answer.headers
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        if "date" not in headers:
            dates = next((fault.date for fault in faults if fault.date is not None), ahead(0))
            raw += [(b"date", date.encode()) for date in dates(self._shop.clock.now())]
        return raw

    async def _break_off(self, scope: Scope, receive: Receive, *, graceful: bool) -> None:
        if self._disconnect is None:
            raise RuntimeError("this fault breaks a connection: it needs a Server")
        self._disconnect(scope, graceful)
        await _gone(receive)


async def _pause(seconds: float, receive: Receive) -> bool:
    """Wait; returns false as soon as the client disconnects. Skips the wait if `seconds` is 0."""
    if not seconds:
        return True
    try:
        async with asyncio.timeout(seconds):
            await _gone(receive)
    except TimeoutError:
        return True
    return False


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _raw_path(scope: Scope) -> str:
    """Returns the path as sent by the client, percent-encoded."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    return raw.partition(b"?")[0].decode("ascii")


def _endpoint(path: str) -> str:
    """Returns the path without ids; Stripe counts requests per such path."""
    parts = path.strip("/").split("/")
    return "/".join([*parts[:2], *("{id}" for _ in parts[2:3]), *parts[3:]])
