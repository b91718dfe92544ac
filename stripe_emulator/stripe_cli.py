"""The server side of `stripe listen`: sessions of the Stripe CLI, and the websocket that sends events.

Selecting, holding and sending events belongs to `webhooks`. Field names are those of the CLI's public source
(stripe/stripe-cli: pkg/stripeauth, pkg/websocket, pkg/proxy).
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

import orjson
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from stripe_emulator import templates
from stripe_emulator.store import Json
from stripe_emulator.webhooks import Attempt, Listener, Webhooks, headers

PATH = "/subscribe"
_SUBPROTOCOL = "stripecli-devproxy-v1"
_RECONNECT_SECONDS = 86400
"""While the CLI reconnects, for about a second, all events are lost."""
_API_VERSIONS = (None, templates.API_VERSION)
"""Every event is sent twice: for listeners to the account's default version and for `--latest`."""


@dataclass(frozen=True)
class _Session:
    livemode: bool
    secret: str


class StripeCli:
    """Sessions by id, kept while the emulator runs."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks
        self._sessions: dict[str, _Session] = {}

    def open_session(self, *, key: str, livemode: bool, host: str) -> Json:
        """Answer `POST /v1/stripecli/sessions`; the same key always gets the same signing secret."""
        session_id = f"cliws_{token_hex(12)}"
        secret = "whsec_" + hashlib.sha256(key.encode()).hexdigest()
        self._sessions[session_id] = _Session(livemode, secret)
        return {
            "default_version": templates.API_VERSION,
            "display_connect_filter_warning": False,
            "latest_version": templates.API_VERSION,
            "reconnect_delay": _RECONNECT_SECONDS,
            "secret": secret,
            "websocket_authorized_feature": "webhooks",
            "websocket_id": session_id,
            "websocket_url": f"ws://{host}{PATH}",
        }

    async def listen(self, websocket: WebSocket) -> None:
        """Send the events of a session's mode over its websocket and record the CLI's responses."""
        session_id = websocket.headers.get("websocket-id", "")
        session = self._sessions.get(session_id)
        if session is None:
            refusal = orjson.dumps({"error": {"message": "Unknown WebSocket ID."}})
            await websocket.send_denial_response(Response(refusal, 401, media_type="application/json"))
            return
        await websocket.accept(subprotocol=_SUBPROTOCOL)
        loop, waiting = asyncio.get_running_loop(), asyncio.Queue[tuple[str, bytes]]()
        sent: dict[str, tuple[str, float]] = {}

        def send(event_id: str, body: bytes) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(waiting.put_nowait, (event_id, body))

        async def pass_on() -> None:
            with suppress(WebSocketDisconnect):
                while True:
                    event_id, body = await waiting.get()
                    webhook = f"wh_{token_hex(12)}"
                    sent[webhook] = (event_id, time.time())
                    for version in _API_VERSIONS:
                        await websocket.send_text(_message(webhook, body, version, session.secret))

        self._webhooks.listeners[session_id] = Listener(session.livemode, send)
        passing_on = asyncio.create_task(pass_on())
        try:
            async for text in websocket.iter_text():
                self._note(session_id, orjson.loads(text), sent)
        finally:
            del self._webhooks.listeners[session_id]
            passing_on.cancel()

    def _note(self, session_id: str, message: Any, sent: dict[str, tuple[str, float]]) -> None:
        # Besides its targets' responses, the CLI acknowledges every message it understands: `event_ack`.
        if message.get("type") == "webhook_response" and message.get("webhook_id") in sent:
            event_id, at = sent.pop(message["webhook_id"])
            self._webhooks.log(Attempt(event_id, session_id, message["status"], at, time.time() - at))


def _message(webhook: str, body: bytes, version: str | None, secret: str) -> str:
    return orjson.dumps(
        {
            "endpoint": {"api_version": version},
            "event_payload": body.decode(),
            "http_headers": headers(body, secret),
            "type": "webhook_event",
            "webhook_conversation_id": f"wc_{token_hex(12)}",
            "webhook_id": webhook,
        }
    ).decode()
