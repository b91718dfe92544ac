"""Until when something may take, on a clock that nobody sets."""

from __future__ import annotations

import math
import time


class Deadline:
    """A moment on the monotonic clock, `seconds` from the one at which this is made; never, unless they are given."""

    def __init__(self, seconds: float = math.inf) -> None:
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until then; 0 once it has passed, infinity if it never does."""
        return max(0.0, self._at - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self.left() == 0.0

    def part(self, of: int) -> Deadline:
        """The deadline for the first of `of` tasks that share the remaining time equally."""
        return Deadline(self.left() / of)
