"""Which warehouse a data folder holds: what the warehouse tells of itself, and what an inbox is claimed with.

Here belongs only what both must know. How a file is restored belongs to `warehouse.recovery`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Restored:
    """That the private file was restored."""

    since: float
    """When the copy was made that is now the private file: Unix seconds, by the local clock."""
    said: str
    """What happened, for people: a sentence without its full stop."""

    def __str__(self) -> str:
        return self.said


@dataclass(frozen=True)
class Identity:
    """Which warehouse this is, and in which state."""

    id: str
    """Its file's own; copies of the file have it too."""
    revision: int
    """Increases with every load."""
    followed: frozenset[bool]
    """The `livemode` of the modes that have a cursor of events."""
    restored: Restored | None = None
    """What is still to be done after the file was restored: reading again what was read since."""
