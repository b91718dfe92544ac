"""Receiving webhooks: the signature is checked, the notification is stored durably, then the answer is 200.

The receiver may be exposed to the internet, so it never opens the warehouse, never calls Stripe, and keeps nothing of
an event but its notification. `server` listens on a port, `inbox` defines notifications.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from stripe import SignatureVerificationError, WebhookSignature

from stripe_pipeline import odd_json
from stripe_pipeline.errors import BadObject, StripePipelineError
from stripe_pipeline.inbox.inbox import Inbox
from stripe_pipeline.inbox.notification import Notification, Summary, notifications_of

logger = logging.getLogger(__name__)

PATH = "/webhooks/stripe"
HEALTH = "/health"
TOLERANCE = 300
"""Seconds that a signature's time may differ from this machine's, in both directions."""
MAX_BODY = 1_000_000
"""Bytes; an event has a few kilobytes."""

_BODY_SECONDS = 10.0  # for a whole body to arrive
_STORE_SECONDS = 10.0  # for the inbox; Stripe does not wait much longer and sends the event again
_LOG_EVERY = 60.0  # seconds between two lines in the log
_LOOK_EVERY = 1.0  # seconds for which a health answer is cached: anyone may ask
_BATCH = 1000  # events per transaction
_TYPES = 100  # event types that a line in the log counts one by one
_TIME = re.compile(r"(?:^|,)t=(\d{1,12})(?:,|$)", re.ASCII)


def create_app(inbox: Inbox, secrets: Sequence[str], tables: Collection[str]) -> Starlette:
    """The receiver: POST `PATH` and GET `HEALTH`.

    `secrets` are the signing secrets, of which one must match; `tables` are those whose notifications are kept, for
    example `charges`.
    """
    receiver = _Receiver(inbox, tuple(secrets), frozenset(tables))
    return Starlette(
        routes=[
            Route(PATH, receiver.receive, methods=["POST"]),
            Route(HEALTH, receiver.health, methods=["GET"]),
        ],
        lifespan=receiver.lifespan,
    )


class _Refused(Exception):
    """The request is not a valid webhook: the status of the answer, and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class _Receiver:
    def __init__(self, inbox: Inbox, secrets: tuple[str, ...], tables: frozenset[str]) -> None:
        self._inbox = inbox
        self._secrets = secrets
        self._tables = tables
        self._writer = _Writer(inbox)
        self._counts: Counter[str] = Counter()
        self._logged: Counter[str] = Counter()
        self._details: Counter[str] = Counter()
        self._looking = asyncio.Lock()
        self._looked_at = float("-inf")
        self._summary: Summary | None = None

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Store incoming notifications while the server runs."""
        tasks = [asyncio.create_task(self._writer.run()), asyncio.create_task(self._log_regularly())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._log_counts()

    async def receive(self, request: Request) -> JSONResponse:
        """Store an event's notifications; 200 once these are on the disk, or if the event concerns no table."""
        try:
            event = _event(await _body(request), request.headers.get("stripe-signature", ""), self._secrets)
        except _Refused as refused:
            return self._answer(refused.status, "refused", refused.reason)
        try:
            notifications = notifications_of(event, tables=self._tables)
        except BadObject as error:
            # Sending the event again would not help; the log says so.
            logger.warning("Ignored: %s", error)
            return self._answer(200, "ignored", f"{_name(event.get('type'))} of an object without a valid id")
        if not notifications:
            return self._answer(200, "ignored", _name(event.get("type")))
        try:
            async with asyncio.timeout(_STORE_SECONDS):
                await self._writer.store(notifications)
        except Exception:  # the writer has logged the reason, or takes too long
            return self._answer(503, "failed", "The event could not be stored; send it again later")
        return self._answer(200, "stored")

    async def health(self, _: Request) -> JSONResponse:
        """Whether the inbox can be written, how many notifications wait, and the events received since the start."""
        async with self._looking:
            if time.monotonic() - self._looked_at > _LOOK_EVERY:
                self._summary = await self._look()
                self._looked_at = time.monotonic()
        counts = {name: self._counts[name] for name in ("stored", "ignored", "refused", "failed")}
        if self._summary is None:
            return JSONResponse({"status": "the inbox cannot be written"} | counts, 503)
        oldest = self._summary.oldest_waiting
        return JSONResponse(
            {
                "status": "ok",
                "waiting": self._summary.waiting,
                "oldest_waiting_seconds": None if oldest is None else round(max(0.0, time.time() - oldest), 1),
                "dead": self._summary.dead,
            }
            | counts
        )

    async def _look(self) -> Summary | None:
        def look() -> Summary:
            self._inbox.check_writable()
            return self._inbox.summary()

        try:
            async with asyncio.timeout(_STORE_SECONDS):
                return await asyncio.to_thread(look)
        except (StripePipelineError, TimeoutError) as error:
            logger.error("%s", error if isinstance(error, StripePipelineError) else "The inbox does not answer")
            return None

    def _answer(self, status: int, outcome: str, detail: str = "") -> JSONResponse:
        self._counts[outcome] += 1
        if detail and (detail in self._details or len(self._details) < _TYPES):
            self._details[detail] += 1
        headers = {"Connection": "close"} if status == 408 else None  # do not wait for the rest of the body
        return JSONResponse({"received": True} if status == 200 else {"error": detail}, status, headers)

    async def _log_regularly(self) -> None:
        """Log received events in summary, not one by one: anyone may send requests."""
        while True:
            await asyncio.sleep(_LOG_EVERY)
            self._log_counts()

    def _log_counts(self) -> None:
        """Log the counts since the last call."""
        logged, self._logged = self._logged, self._counts.copy()
        if new := self._counts - logged:
            details = "".join(f"; {detail} ({count})" for detail, count in self._details.most_common())
            logger.info("%s%s", ", ".join(f"{count} {outcome}" for outcome, count in new.items()), details)
        self._details.clear()


class _Writer:
    """Stores all notifications that arrived during one transaction in the next one."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._queue: asyncio.Queue[tuple[Sequence[Notification], asyncio.Future[None]]] = asyncio.Queue()

    async def store(self, notifications: Sequence[Notification]) -> None:
        """Returns once an event's notifications are on the disk; raises the error that prevented storing it, mostly a
        `WarehouseError`."""
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((notifications, stored))
        await stored

    async def run(self) -> None:
        """Store incoming notifications until cancelled."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < _BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            problem: Exception | None = None
            try:
                await asyncio.to_thread(
                    self._inbox.add, [notification for notifications, _ in batch for notification in notifications]
                )
            except Exception as error:  # whatever the error, the callers get it, and the next batch may succeed
                problem = error
                reason = error if isinstance(error, StripePipelineError) else type(error).__name__
                logger.error("%d events could not be stored: %s", len(batch), reason)
            for _, stored in batch:
                if stored.done():
                    continue  # storing took too long, and the sender was answered
                if problem:
                    stored.set_exception(problem)
                else:
                    stored.set_result(None)


async def _body(request: Request) -> bytes:
    """The whole body, as it was sent."""
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise _Refused(413, f"The body has more than {MAX_BODY:,} bytes")
    except TimeoutError:
        raise _Refused(408, f"The body did not arrive within {_BODY_SECONDS:.0f} seconds") from None
    except ClientDisconnect:
        raise _Refused(400, "The body was cut off") from None
    return bytes(body)


def _event(body: bytes, header: str, secrets: Sequence[str]) -> dict[str, Any]:
    """The event in `body`, if one of `secrets` signed it."""
    if not header:
        raise _Refused(400, "The Stripe-Signature header is missing")
    signed_at = _TIME.search(header)
    if signed_at is None:
        raise _Refused(400, "The Stripe-Signature header has no time")
    # stripe-python looks only into the past (docs/stripe.md#stripe-python).
    if abs(time.time() - int(signed_at[1])) > TOLERANCE:
        raise _Refused(400, f"The signature's time is more than {TOLERANCE} seconds from the receiver's")
    if not any(_signed(body, header, secret) for secret in secrets):
        raise _Refused(400, "The signature belongs to none of the receiver's secrets")
    try:
        event, _ = odd_json.loads(body)
    except ValueError:
        raise _Refused(400, "The body is not JSON") from None
    if not isinstance(event, dict):
        raise _Refused(400, "The body is not a JSON object")
    return event


def _signed(body: bytes, header: str, secret: str) -> bool:
    try:
        return bool(WebhookSignature.verify_header(body, header, secret, TOLERANCE))
    except (SignatureVerificationError, ValueError, TypeError):  # the last two: text that is not UTF-8 or not ASCII
        return False


def _name(event_type: object) -> str:
    """The name of this event type in the log."""
    return event_type[:60] if isinstance(event_type, str) and event_type.isprintable() else "no type"
