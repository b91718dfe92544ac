"""What is read from Stripe to be loaded together, and what a load did.

Here belong types that pass between reading and loading. How a row is written as JSON belongs to `rows`, writing it into
the file to `warehouse.load`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from stripe_pipeline.days import day_start
from stripe_pipeline.objects import ObjectType

_LISTED_AHEAD = 5  # seconds; a list's bound is a little ahead of when it is asked for


@dataclass(frozen=True)
class Mode:
    """One side of one account: rows of two modes never mix."""

    account: str
    """Empty (`account.UNNAMED`) as long as nothing names it."""
    livemode: bool


@dataclass(frozen=True)
class ListedDay:
    """A UTC day of `created` that was listed completely, up to `until`."""

    day: date
    listed_at: float
    """When the earliest of its requests was sent: seconds on Stripe's clock. Whatever was requested before is older."""
    until: float
    """The list's exclusive upper bound of `created`: the day's end, or for today when it was read."""
    how: str = ""
    """Why it was listed, for `pipeline.coverage`."""
    objects: Mapping[str, int] = field(default_factory=dict)
    """How many objects of the type and of each child the list held, by table name, including those too old to keep."""


@dataclass(frozen=True)
class Tombstone:
    """An object that Stripe says is gone."""

    id: str
    found_at: float
    """When the request that found it gone was sent: seconds on Stripe's clock."""


@dataclass
class Batch:
    """What was read of one listed type and its children, to be loaded as one."""

    object_type: ObjectType
    children: tuple[ObjectType, ...]
    """Those that were read with it: one that is switched off is not."""
    mode: Mode
    files: dict[str, list[Path]] = field(default_factory=dict)
    """NDJSON files of `rows.shape`'s lines by table name: the type's own and its children's."""
    first: int = 2**62
    last: int = -1
    """The smallest and largest `created` in the files, Unix seconds."""
    days: list[ListedDay] = field(default_factory=list)
    tombstones: list[Tombstone] = field(default_factory=list)
    kept_out: frozenset[str] = frozenset()
    """Ids that the days' lists held and that are not in the files: they are not gone."""
    skip_missing_check: bool = False
    """The days hold more than what was read: do not look for objects that these days' lists left out."""
    read_again: bool = False
    """The rows were asked for one by one: even where nothing changed they are now known as of this request."""
    latest: float = 2.0**40
    """Unix seconds: nothing of it was requested later than that."""

    def limit(self, latest: float) -> None:
        """Let nothing of it be taken for requested later than `latest`, Stripe's time.

        A time beyond that came from a wrong idea of Stripe's clock. A day whose list has one counts as listed at its
        beginning, so that it is listed again.
        """
        self.latest = latest
        self.days = [
            replace(
                it,
                listed_at=it.listed_at if it.listed_at <= latest else day_start(it.day),
                until=min(it.until, latest + _LISTED_AHEAD),
            )
            for it in self.days
        ]
        self.tombstones = [replace(it, found_at=min(it.found_at, latest)) for it in self.tombstones]

    @property
    def tables(self) -> tuple[ObjectType, ...]:
        """The type and its children."""
        return (self.object_type, *self.children)


@dataclass
class Changes:
    """What a load did to one table, by UTC day of `created`."""

    inserted: Counter[date] = field(default_factory=Counter)
    updated: Counter[date] = field(default_factory=Counter)
    deleted: Counter[date] = field(default_factory=Counter)
    rows: dict[date, int] = field(default_factory=dict)
    """Rows that exist in Stripe (not deleted) after the load, of both modes, of every day touched."""

    def update(self, other: Changes) -> None:
        """Add a later load's changes."""
        self.inserted.update(other.inserted)
        self.updated.update(other.updated)
        self.deleted.update(other.deleted)
        self.rows.update(other.rows)

    @property
    def days(self) -> set[date]:
        """Days in which a row was inserted, updated or deleted."""
        return {day for counter in (self.inserted, self.updated, self.deleted) for day, n in counter.items() if n}


@dataclass
class Loaded:
    """The result of one load."""

    changes: dict[str, Changes] = field(default_factory=dict)
    """By table name."""
    missing: list[tuple[Batch, dict[date, list[str]]]] = field(default_factory=list)
    """Ids by day that the table holds and a complete list of their day did not name. Those days were loaded but not
    recorded as listed: whether the objects are gone must be asked first."""
    revision: int = 0
    """The warehouse's, after it."""
    refused: dict[str, set[str]] = field(default_factory=dict)
    """Ids by table name of what was not stored because something newer is known, or nothing of it any more."""
