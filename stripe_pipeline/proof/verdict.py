"""The outcome of a comparison: one row of `pipeline.proof`.

This module holds the types. What is compared is declared in `tie_outs` and `balance`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

SETTLING = 300
"""For how many seconds after an object was read a difference may come from changes that Stripe does not show yet:
events and balance transactions become visible up to a minute late (docs/stripe.md#events)."""

Ask = Callable[[str], Sequence[tuple[Any, ...]]]
"""Runs a SELECT on the private file."""


class Verdict(StrEnum):
    """Whether both sides are equal."""

    PROVED = "proved"
    OPEN = "open"
    """Cannot be decided, or not yet; the reason says why."""
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The outcome of one check for one scope."""

    name: str
    """Name of the check."""
    livemode: bool
    object_type: str
    """Name of the table that is checked."""
    currency: str | None = None
    """The currency of both sides; None if the sides are not amounts."""
    scope: str = ""
    """What the outcome is about: empty for the whole table, otherwise a day, a kind of balance or an object's id."""
    left: int | None = None
    """What the table holds, in minor units of `currency`."""
    right: int | None = None
    """What the table should hold."""
    verdict: Verdict
    reason: str | None = None
    """Why the verdict is not `PROVED`."""
    rows: int | None = None
    """How many rows were compared."""

    @property
    def difference(self) -> int | None:
        """The left side less the right one; None if a side is unknown."""
        return None if self.left is None or self.right is None else self.left - self.right
