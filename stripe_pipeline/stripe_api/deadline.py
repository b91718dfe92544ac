"""Deadlines on the monotonic clock, which cannot be set."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Deadline:
    """A moment on the monotonic clock, `seconds` after its creation; by default the deadline never passes.

    `waited`: how many seconds have been spent so far in which nothing could be done; the deadline moves by as much, at
    most by `seconds`, since a tick of Dagster's sensor must end.
    """

    def __init__(self, seconds: float = math.inf, *, waited: Callable[[], float] = lambda: 0.0) -> None:
        self._at = time.monotonic() + seconds
        self._seconds = seconds
        self._waited, self._waited_before = waited, waited()

    def left(self) -> float:
        """Seconds left; 0 once the deadline has passed, infinity if it never does."""
        moved = min(self._seconds, self._waited() - self._waited_before)
        return max(0.0, self._at + moved - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self.left() == 0.0

    def part(self, of: int) -> Deadline:
        """The deadline for the first of `of` tasks that share the remaining time equally."""
        return Deadline(self.left() / of, waited=self._waited)
