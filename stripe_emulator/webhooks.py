"""Webhooks: the recipients, signatures, retries and results of event deliveries.

The content of events and the webhook endpoints belong to `shop`, the Stripe CLI's sessions to `stripe_cli`.

Webhooks are sent immediately, as by Stripe, even before the event becomes visible in the list. The body is the event as
listed; only events added by `put` can have another API version. Signatures and waits use the machine's clock, as
receivers do: moving the shop's clock must not make receivers refuse all webhooks.
"""

from __future__ import annotations

import hashlib
import heapq
import hmac
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from ssl import SSLContext, create_default_context

import certifi
import urllib3

from stripe_emulator.shop import Shop

DISABLED_AFTER = 9 * 86400
"""Seconds of continuous failure after which an endpoint is disabled, as announced in Stripe's warning emails."""
RETRIES: dict[bool, tuple[int, ...]] = {
    True: (300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 76800, 86400),
    False: (300, 3600, 10800),
}
"""Seconds before each retry, live and test.

Stripe's page "Receive Stripe events in your webhook endpoint" says: live for up to three days with exponential
back-off, sandboxes three times over a few hours. The page gives no exact times.
"""

_LOGGED = 200_000
_STOP_SECONDS = 0.2


@dataclass(frozen=True)
class Attempt:
    """One attempt to deliver an event."""

    event: str
    endpoint: str
    """Id of the webhook endpoint or of the Stripe CLI session."""
    status: int
    """The HTTP status of the response; 0 if none."""
    at: float
    """Time of sending: Unix seconds on the machine's clock."""
    seconds: float
    """Duration until the response."""


@dataclass(frozen=True)
class Listener:
    """A receiver of all events of a mode until it disconnects, each event sent only once: a `stripe listen`."""

    livemode: bool
    send: Callable[[str, bytes], object]
    """Takes the event's id and body; called from any thread, must not block."""


@dataclass(frozen=True)
class _Delivery:
    event: str
    livemode: bool
    target: str
    counted: bool = True
    """Whether `pending_webhooks` counts this delivery."""
    failures: int = 0


def sign(body: bytes, secret: str, at: int) -> str:
    """Returns the `Stripe-Signature` of a body sent `at` (Unix seconds); comma-separated secrets give several `v1`.

    Does not use stripe-python, so that receivers that verify with stripe-python are checked against an independent
    implementation. Source: Stripe's page "Verify webhook signatures manually".
    """
    signed = b"%d.%b" % (at, body)
    keys = [key.strip().encode() for key in secret.split(",") if key.strip()]
    signatures = [hmac.new(key, signed, hashlib.sha256).hexdigest() for key in keys]
    return ",".join([f"t={at}", *(f"v1={signature}" for signature in signatures)])


def headers(body: bytes, secret: str) -> dict[str, str]:
    """Returns Stripe's headers for a body, signed now."""
    return {
        "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        "Accept": "*/*; q=0.5, application/xml",
        "Cache-Control": "no-cache",
        "Content-Type": "application/json; charset=utf-8",
        "Stripe-Signature": sign(body, secret, int(time.time())),
    }


class Webhooks:
    """Delivers the events of a shop while running; safe to use from several threads."""

    def __init__(self, shop: Shop, *, backoff: float = 1.0, concurrency: int = 20, timeout: float = 30.0) -> None:
        """`backoff` scales Stripe's waits; 0.001 gives seconds instead of hours.

        `concurrency` is the number of simultaneous connections; with 1, events arrive in order of creation. `timeout`
        is the number of seconds after which an unresponsive receiver has failed.
        """
        if backoff <= 0:
            raise ValueError(f"backoff must be more than 0, not {backoff}")
        self.attempts: list[Attempt] = []
        """Every attempt so far, in order of completion; `clear()` empties the log."""
        self.listeners: dict[str, Listener] = {}
        """Listeners besides the webhook endpoints, by session id."""
        self._shop = shop
        self._backoff = backoff
        self._concurrency = concurrency
        self._timeout = timeout
        # Never held while acquiring the shop's lock: events arrive under the shop's lock.
        self._lock = threading.Lock()
        self._due = threading.Condition(self._lock)
        self._done = threading.Condition(self._lock)
        self._queue: list[tuple[float, int, _Delivery]] = []
        self._queued = 0
        self._busy = 0
        self._held: list[_Delivery] | None = None
        self._failing: dict[str, float] = {}
        self._workers: list[threading.Thread] = []
        self._run: object | None = None

    # Running

    def start(self) -> None:
        """Deliver all events from now on."""
        with self._lock:
            self._run = object()
        self._shop.event_listeners.append(self._tell)

    def stop(self) -> None:
        """Drop undelivered events, without waiting for receivers that do not answer."""
        self._shop.event_listeners.remove(self._tell)
        with self._lock:
            self._run, self._held = None, None
            self._queue.clear()
            self._busy = 0
            self._due.notify_all()
            self._done.notify_all()
            workers, self._workers = self._workers, []
        until = time.monotonic() + _STOP_SECONDS
        for worker in workers:
            worker.join(max(until - time.monotonic(), 0))

    # What tests can do

    def hold(self) -> None:
        """Hold every event from now on, until `release`; retries are not held."""
        with self._lock:
            self._held = self._held or []

    @property
    def held(self) -> list[str]:
        """Returns the ids of held events, in order of creation."""
        with self._lock:
            return list(dict.fromkeys(delivery.event for delivery in self._held or ()))

    def release(self, *events: str) -> None:
        """Send all held events and stop holding; or send only `events`, in this order, with repetitions.

        Raises KeyError if any event is not held.
        """
        with self._lock:
            held = self._held or []
            if not events:
                self._held = None
                self._put(held)
                return
            released: list[_Delivery] = []
            for event in events:
                copies = [delivery for delivery in held if delivery.event == event]
                if not copies:
                    raise KeyError(f"{event} is not held back")
                again = any(delivery.event == event for delivery in released)
                released += [replace(delivery, counted=False) if again else delivery for delivery in copies]
            self._held = [delivery for delivery in held if delivery.event not in events]
            self._put(released)

    def deliver(self, event_id: str) -> None:
        """Send an event now, again or after `put`, to all receivers of its type; raises KeyError if unknown."""
        livemode = self._shop.mode_of_event(event_id)
        deliveries = self._deliveries(event_id, livemode, counted=False)
        with self._lock:
            self._put(deliveries)

    def settled(self, timeout: float = 10.0) -> None:
        """Wait until no sends or retries remain, except held events; raises TimeoutError after `timeout` seconds.

        Does not wait for a Stripe CLI to process the events it received.
        """
        with self._lock:
            if not self._done.wait_for(lambda: not (self._queue or self._busy), timeout):
                left = len(self._queue) + self._busy
                raise TimeoutError(f"webhooks: {left} still to be delivered after {timeout:g} seconds")

    # For the Stripe CLI's sessions

    def log(self, attempt: Attempt) -> None:
        """Add to `attempts`."""
        if len(self.attempts) >= _LOGGED:
            del self.attempts[: _LOGGED // 2]
        self.attempts.append(attempt)

    # Inside

    def _tell(self, event_id: str, livemode: bool) -> None:
        deliveries = self._deliveries(event_id, livemode)
        if not deliveries:
            return
        with self._lock:
            if self._held is None:
                self._put(deliveries)
            else:
                self._held += deliveries

    def _deliveries(self, event_id: str, livemode: bool, *, counted: bool = True) -> list[_Delivery]:
        endpoints = self._shop.endpoints_for(event_id, livemode)
        # Copied atomically: another thread adds and removes sessions.
        listeners = [name for name, listener in self.listeners.copy().items() if listener.livemode is livemode]
        return [
            *(_Delivery(event_id, livemode, endpoint, counted) for endpoint in endpoints),
            *(_Delivery(event_id, livemode, listener, counted=False) for listener in listeners),
        ]

    def _put(self, deliveries: list[_Delivery], wait: float = 0.0) -> None:
        """Queue deliveries; the caller holds the lock."""
        if self._run is None:
            return
        at = time.monotonic() + wait
        for delivery in deliveries:
            self._queued += 1
            heapq.heappush(self._queue, (at, self._queued, delivery))
            self._due.notify()
        # Daemon threads, so that a hanging receiver cannot keep the process alive.
        while len(self._workers) < min(self._concurrency, len(self._queue) + self._busy):
            arguments = (self._run, self._tls)
            worker = threading.Thread(target=self._work, args=arguments, name="stripe-webhooks", daemon=True)
            self._workers.append(worker)
            worker.start()

    @cached_property
    def _tls(self) -> SSLContext:
        return create_default_context(cafile=certifi.where())

    def _work(self, run: object, tls: SSLContext) -> None:
        # One client per worker: a shared pool is slower, and could not be closed while a request hangs.
        with urllib3.PoolManager(ssl_context=tls, timeout=self._timeout, retries=False) as client:
            while (delivery := self._next(run)) is not None:
                again = None
                try:
                    again = self._try(delivery, client)
                finally:
                    with self._lock:
                        if self._run is run:
                            self._busy -= 1
                            if again is not None:
                                self._put([replace(delivery, failures=delivery.failures + 1)], again)
                            if not self._queue and not self._busy:
                                self._done.notify_all()

    def _next(self, run: object) -> _Delivery | None:
        with self._lock:
            while self._run is run:
                wait = self._queue[0][0] - time.monotonic() if self._queue else None
                if wait is not None and wait <= 0:
                    self._busy += 1
                    return heapq.heappop(self._queue)[2]
                self._due.wait(wait)
        return None

    def _try(self, delivery: _Delivery, client: urllib3.PoolManager) -> float | None:
        """Send once; returns the seconds after which to try again, if at all."""
        body = self._shop.event_body(delivery.event, delivery.livemode)
        listener = self.listeners.get(delivery.target)
        if listener is not None:
            listener.send(delivery.event, body)
            return None
        endpoint = self._shop.endpoint_to_call(delivery.target, delivery.livemode)
        if endpoint is None:
            # Stripe stops retrying once the endpoint is disabled or deleted.
            return None
        url, secret = endpoint
        at, started = time.time(), time.monotonic()
        try:
            status = client.request("POST", url, body=body, headers=headers(body, secret), redirect=False).status
        except (urllib3.exceptions.HTTPError, UnicodeError):  # UnicodeError: the host name is not valid in DNS
            status = 0
        self.log(Attempt(delivery.event, delivery.target, status, at, time.monotonic() - started))
        if 200 <= status < 300:
            self._failing.pop(delivery.target, None)
            if delivery.counted:
                self._shop.webhook_delivered(delivery.event, delivery.livemode)
            return None
        if at - self._failing.setdefault(delivery.target, at) >= DISABLED_AFTER * self._backoff:
            self._failing.pop(delivery.target, None)
            with suppress(KeyError):  # the endpoint was deleted meanwhile
                self._shop.update("webhook_endpoints", delivery.target, livemode=delivery.livemode, status="disabled")
            return None
        waits = RETRIES[delivery.livemode]
        return waits[delivery.failures] * self._backoff if delivery.failures < len(waits) else None
