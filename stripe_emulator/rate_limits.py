"""Stripe's rate limits: how many requests per second are allowed. `app` sends the refusal."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable

PER_ACCOUNT = {True: 100, False: 25}
"""Requests per second, live and test."""
PER_ENDPOINT = 25


class RateLimiter:
    """Counts the requests of the last second, by account mode and by endpoint; thread-safe.

    `per_endpoint` is the limit of each endpoint (default: the limit that Stripe documents).
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, *, per_endpoint: int = PER_ENDPOINT) -> None:
        self._now = now
        self._per_endpoint = per_endpoint
        self._lock = threading.Lock()
        self._recent: defaultdict[tuple[bool, str], deque[float]] = defaultdict(deque)

    def refuse(self, livemode: bool, endpoint: str) -> str | None:
        """Returns the reason for refusing this request; None if the request is allowed."""
        with self._lock:
            now = self._now()
            limits = (("", PER_ACCOUNT[livemode], "global-rate"), (endpoint, self._per_endpoint, "endpoint-rate"))
            for name, allowed, reason in limits:
                recent = self._recent[(livemode, name)]
                while recent and recent[0] <= now - 1:
                    recent.popleft()
                if len(recent) >= allowed:
                    return reason
            for name, _, _ in limits:
                self._recent[(livemode, name)].append(now)
            return None
