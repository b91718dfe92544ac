"""Webhooks: who is told of an event, how it is signed, when it is tried again, and what became of it.

What an event says, and which endpoints there are, belongs to `shop`; the Stripe CLI's sessions to `stripe_cli`.

A webhook is sent at once, as Stripe does: it does not wait for the event to become visible in the list. Its body is the
event as the list has it; events of another API version are those that were put there. Signatures and waits run on the
machine's clock, since the receiver's does too: moving the shop's clock must not make it refuse everything.
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
from ssl import SSLContext

import httpx

from stripe_emulator.shop import Shop

DISABLED_AFTER = 9 * 86400
"""Seconds of nothing but failures after which an endpoint is disabled, as Stripe's warning mails announce it."""
RETRIES: dict[bool, tuple[int, ...]] = {
    True: (300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 76800, 86400),
    False: (300, 3600, 10800),
}
"""Seconds before each further try, live and test.

Stripe's page "Receive Stripe events in your webhook endpoint" says: live for up to three days with exponential
back-off, sandboxes three times over a few hours. It does not say when.
"""

_LOGGED = 200_000
_STOP_SECONDS = 0.2


@dataclass(frozen=True)
class Attempt:
    """One try to deliver an event."""

    event: str
    endpoint: str
    """Id of the webhook endpoint, or of the Stripe CLI's session."""
    status: int
    """The HTTP status that came back; 0 if none did."""
    at: float
    """When it was sent: Unix seconds on the machine's clock."""
    seconds: float
    """How long the answer took."""


@dataclass(frozen=True)
class Listener:
    """Somebody who is told of all events of a mode until they go, and of each only once: a `stripe listen`."""

    livemode: bool
    send: Callable[[str, bytes], object]
    """Takes the event's id and body; called from any thread, must not block."""


@dataclass(frozen=True)
class _Delivery:
    event: str
    livemode: bool
    target: str
    counted: bool = True
    """Whether the event's `pending_webhooks` waits for it."""
    failures: int = 0


def sign(body: bytes, secret: str, at: int) -> str:
    """The `Stripe-Signature` of a body sent `at` (Unix seconds); several comma-separated secrets give several `v1`.

    Written out rather than taken from stripe-python, so that receivers that verify with it are checked against
    something else. Source: Stripe's page "Verify webhook signatures manually".
    """
    signed = b"%d.%b" % (at, body)
    secrets = [one.strip() for one in secret.split(",") if one.strip()]
    made = [hmac.new(one.encode(), signed, hashlib.sha256).hexdigest() for one in secrets]
    return ",".join([f"t={at}", *(f"v1={signature}" for signature in made)])


def headers(body: bytes, secret: str) -> dict[str, str]:
    """What Stripe sends with a body, signed now."""
    return {
        "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        "Accept": "*/*; q=0.5, application/xml",
        "Cache-Control": "no-cache",
        "Content-Type": "application/json; charset=utf-8",
        "Stripe-Signature": sign(body, secret, int(time.time())),
    }


class Webhooks:
    """Delivers the events of a shop while it runs; safe to use from several threads."""

    def __init__(self, shop: Shop, *, backoff: float = 1.0, concurrency: int = 20, timeout: float = 30.0) -> None:
        """`backoff` scales Stripe's waits, such as 0.001 for seconds instead of hours.

        `concurrency` is how many connections are used at once; with 1, events arrive in the order in which they were
        made. `timeout` is the seconds after which a receiver that says nothing has failed.
        """
        if backoff <= 0:
            raise ValueError(f"backoff must be more than 0, not {backoff}")
        self.attempts: list[Attempt] = []
        """Every try so far, in the order in which they ended; `clear()` starts anew."""
        self.listeners: dict[str, Listener] = {}
        """Who listens besides the webhook endpoints, by the id of their session."""
        self._shop = shop
        self._backoff = backoff
        self._concurrency = concurrency
        self._timeout = timeout
        # Never held while the shop's lock is taken: events arrive under the shop's.
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
        """Deliver what happens from now on."""
        with self._lock:
            self._run = object()
        self._shop.event_listeners.append(self._tell)

    def stop(self) -> None:
        """Forget what was not delivered; a receiver that does not answer is not waited for."""
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
        """Keep back every event from now on, until `release`; what is being tried again is not held."""
        with self._lock:
            self._held = self._held or []

    @property
    def held(self) -> list[str]:
        """Ids of the events that are kept back, in the order in which they were made."""
        with self._lock:
            return list(dict.fromkeys(delivery.event for delivery in self._held or ()))

    def release(self, *events: str) -> None:
        """Send what is kept back and hold no more; or only `events`, in this order, one named twice twice.

        A KeyError if one of `events` is not held.
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
        """Send an event now to all who listen for its type: once more, or one that was put. A KeyError if unknown."""
        livemode = self._shop.mode_of_event(event_id)
        deliveries = self._deliveries(event_id, livemode, counted=False)
        with self._lock:
            self._put(deliveries)

    def settled(self, timeout: float = 10.0) -> None:
        """Wait until nothing is to be sent or tried again, held events aside; a TimeoutError after `timeout` seconds.

        What a Stripe CLI does with an event that it was sent is not waited for.
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
        # Copied at once: sessions come and go in another thread.
        listeners = [name for name, listener in self.listeners.copy().items() if listener.livemode is livemode]
        return [
            *(_Delivery(event_id, livemode, endpoint, counted) for endpoint in endpoints),
            *(_Delivery(event_id, livemode, listener, counted=False) for listener in listeners),
        ]

    def _put(self, deliveries: list[_Delivery], wait: float = 0.0) -> None:
        """Queue, with the lock held."""
        if self._run is None:
            return
        at = time.monotonic() + wait
        for delivery in deliveries:
            self._queued += 1
            heapq.heappush(self._queue, (at, self._queued, delivery))
            self._due.notify()
        # Daemons, so that a receiver that hangs cannot keep the process alive.
        while len(self._workers) < min(self._concurrency, len(self._queue) + self._busy):
            arguments = (self._run, self._tls)
            worker = threading.Thread(target=self._work, args=arguments, name="stripe-webhooks", daemon=True)
            self._workers.append(worker)
            worker.start()

    @cached_property
    def _tls(self) -> SSLContext:
        return httpx.create_ssl_context()

    def _work(self, run: object, tls: SSLContext) -> None:
        # One client a worker: a pool that all share is slower, and could not be closed while one hangs.
        with httpx.Client(verify=tls, timeout=self._timeout, trust_env=False) as client:
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

    def _try(self, delivery: _Delivery, client: httpx.Client) -> float | None:
        """Send once; returns the seconds after which to try again, if at all."""
        body = self._shop.event_body(delivery.event, delivery.livemode)
        listener = self.listeners.get(delivery.target)
        if listener is not None:
            listener.send(delivery.event, body)
            return None
        found = self._shop.endpoint_to_call(delivery.target, delivery.livemode)
        if found is None:
            # Stripe tries no more once the endpoint is disabled or deleted.
            return None
        url, secret = found
        at, started = time.time(), time.monotonic()
        try:
            status = client.post(url, content=body, headers=headers(body, secret)).status_code
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError):  # the last for a name that DNS cannot have
            status = 0
        self.log(Attempt(delivery.event, delivery.target, status, at, time.monotonic() - started))
        if 200 <= status < 300:
            self._failing.pop(delivery.target, None)
            if delivery.counted:
                self._shop.webhook_delivered(delivery.event, delivery.livemode)
            return None
        if at - self._failing.setdefault(delivery.target, at) >= DISABLED_AFTER * self._backoff:
            self._failing.pop(delivery.target, None)
            with suppress(KeyError):  # deleted meanwhile
                self._shop.update("webhook_endpoints", delivery.target, livemode=delivery.livemode, status="disabled")
            return None
        waits = RETRIES[delivery.livemode]
        return waits[delivery.failures] * self._backoff if delivery.failures < len(waits) else None
