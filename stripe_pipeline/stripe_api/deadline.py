"""Deadlines on the monotonic clock, which cannot be set."""

from __future__ import annotations

import math
import time


class Deadline:
    """A moment on the monotonic clock, `seconds` after its creation; by default the deadline never passes."""

    def __init__(self, seconds: float = math.inf) -> None:
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left; 0 once the deadline has passed, infinity if it never does."""
        return max(0.0, self._at - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self.left() == 0.0

    def part(self, of: int) -> Deadline:
        """The deadline for the first of `of` tasks that share the remaining time equally."""
        return Deadline(self.left() / of)
