"""The identity of a data folder's warehouse, which the warehouse reports and claims an inbox with.

This module holds only the types that both share. `warehouse.recovery` restores files.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Restored:
    """A restoration of the private file."""

    since: float
    """When the copy that is now the private file was made: Unix seconds, by the local clock."""
    said: str
    """What happened: a sentence without its full stop."""

    def __str__(self) -> str:
        return self.said


@dataclass(frozen=True)
class Identity:
    """Which warehouse this is, and in which state."""

    id: str
    """The id of the file, which its copies share."""
    revision: int
    """Increases with every load."""
    followed: frozenset[bool]
    """The `livemode` of the modes that have a cursor of events."""
    restored: Restored | None = None
    """The restoration after which rows read since the copy must still be read again, if any."""
