"""The shop's clock: the emulator's current time.

All timestamps use this clock: `created`, event visibility and retention, settlement, the Date header.
Rate limits, latency, delays, webhook signatures and webhook retries use the machine's clock, since they concern real
requests.
"""

from __future__ import annotations

import time

DAY = 86400
"""Seconds."""


class Clock:
    """A clock in Unix seconds (UTC); can be skewed, stopped and moved."""

    def __init__(self, offset: float = 0.0) -> None:
        self._offset = offset
        self._frozen: float | None = None

    def now(self) -> float:
        """The current time in Unix seconds."""
        return time.time() + self._offset if self._frozen is None else self._frozen

    def advance(self, seconds: float) -> None:
        """Move the clock, frozen or running; negative seconds move it back."""
        if self._frozen is None:
            self._offset += seconds
        else:
            self._frozen += seconds

    def freeze(self, at: float | None = None) -> None:
        """Stop the clock at `at` (default: now)."""
        self._frozen = self.now() if at is None else float(at)
