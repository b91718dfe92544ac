"""Scheduled actions of simulated trade."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Timeline:
    """Scheduled actions, in chronological order."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, int, Callable[[int], object]]] = []
        self._added = 0

    def add(self, at: float, action: Callable[[int], object]) -> None:
        """Schedule an action for a second; the second is its argument."""
        self._added += 1
        heapq.heappush(self._entries, (int(at), self._added, action))

    def later(self, at: float, livemode: bool, action: Callable[..., object], *args: object, **options: object) -> None:
        """Schedule one of the shop's actions in a mode."""
        self.add(at, lambda moment: action(*args, livemode=livemode, created=moment, **options))

    def run(self, until: int) -> None:
        """Run all due actions, including those added meanwhile."""
        while self._entries and self._entries[0][0] <= until:
            at, _, action = heapq.heappop(self._entries)
            action(at)
