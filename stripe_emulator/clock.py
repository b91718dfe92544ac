"""The shop's clock: what the emulator takes for now.

Everything that carries a time reads it here: `created`, event visibility and retention, settlement, the Date header.
Rate limits, latency, delays, and when webhooks are signed and tried again, run on the machine's clock, since they are
about real requests.
"""

from __future__ import annotations

import time

DAY = 86400
"""Seconds."""


class Clock:
    """Unix seconds (UTC) that can be skewed, stopped and moved."""

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
        """Stop the clock at `at`, or where it is."""
        self._frozen = self.now() if at is None else float(at)
