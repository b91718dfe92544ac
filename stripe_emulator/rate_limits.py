"""Stripe's rate limits: how many requests a second get through. The refusal itself belongs to `app`."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable

PER_ACCOUNT = {True: 100, False: 25}
"""Requests a second, live and test."""
PER_ENDPOINT = 25


class RateLimiter:
    """Counts the requests of the last second, by mode of the account and by endpoint; thread-safe.

    `per_endpoint` is how many of them an endpoint lets through, where that is not what Stripe documents.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, *, per_endpoint: int = PER_ENDPOINT) -> None:
        self._now = now
        self._per_endpoint = per_endpoint
        self._lock = threading.Lock()
        self._recent: defaultdict[tuple[bool, str], deque[float]] = defaultdict(deque)

    def refuse(self, livemode: bool, endpoint: str) -> str | None:
        """Why this request is one too many; none if it is let through."""
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
