"""The objects read from Stripe to be loaded together, and the result of a load.

This module holds the types that reading passes to loading. `rows` writes a row as JSON, `warehouse.load` loads rows
into the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from stripe_pipeline.days import day_start
from stripe_pipeline.objects import ObjectType

_LISTED_AHEAD = 5  # seconds; a list's bound is a little ahead of the request


@dataclass(frozen=True)
class Mode:
    """One side of one account: rows of two modes never mix."""

    account: str
    """Empty (`account.UNNAMED`) as long as the account is unknown."""
    livemode: bool


@dataclass(frozen=True)
class ListedDay:
    """A UTC day of `created` that was listed completely, up to `until`."""

    day: date
    listed_at: float
    """When the first request for the list was sent: seconds on Stripe's clock. A row requested earlier is older."""
    until: float
    """The list's exclusive upper bound of `created`: the day's end, or for today the time of reading."""
    how: str = ""
    """Why the day was listed, for `pipeline.coverage`."""
    objects: Mapping[str, int] = field(default_factory=dict)
    """How many objects of the type and of each child the list held, by table name, including those too old to keep."""
    requests: tuple[str | None, str | None] = (None, None)
    """Stripe's ids of the requests for the first and the last page of the list: receipts of what was listed."""


@dataclass(frozen=True)
class Tombstone:
    """An object that Stripe says is gone."""

    id: str
    found_at: float
    """When the request that found the object gone was sent: seconds on Stripe's clock."""


@dataclass
class Batch:
    """The objects of one listed type and its children that were read and are loaded together."""

    object_type: ObjectType
    children: tuple[ObjectType, ...]
    """The child types that were read, without disabled ones."""
    mode: Mode
    number: int = 0
    """Distinguishes the files of this batch from those of the reader's other batches."""
    files: dict[str, list[Path]] = field(default_factory=dict)
    """NDJSON files of `rows.shape`'s lines by table name: the type's own and its children's."""
    first: int = 2**62
    last: int = -1
    """The smallest and largest `created` in the files, Unix seconds."""
    days: list[ListedDay] = field(default_factory=list)
    tombstones: list[Tombstone] = field(default_factory=list)
    kept_out: frozenset[str] = frozenset()
    """Ids that the days' lists held but the files do not: these objects are not gone."""
    without_children: bool = False
    """Some child types were not read: the load returns the changed objects, whose children must be read."""
    skip_missing_check: bool = False
    """The days hold more objects than were read: do not look for objects missing from these days' lists."""
    read_again: bool = False
    """The objects were requested one by one: even unchanged rows are now known as of this request."""
    compared: str = ""
    """How these objects were chosen, if they were read to compare their rows with Stripe. Those of listed days are
    compared if `followed_since` is set."""
    followed_since: float | None = None
    """Since when events have announced all changes of this type: seconds on Stripe's clock; None if they have not. A
    difference that no event announced is then recorded in `pipeline.drift`."""
    latest: float = 2.0**40
    """Unix seconds: no part of the batch was requested later."""

    def limit(self, latest: float) -> None:
        """Cap all request times of the batch at `latest`, Stripe's time.

        A later time came from a wrong estimate of Stripe's clock. A day whose list has such a time counts as listed at
        the day's beginning, so that it is listed again.
        """
        self.latest = latest
        self.days = [
            replace(
                listed,
                listed_at=listed.listed_at if listed.listed_at <= latest else day_start(listed.day),
                until=min(listed.until, latest + _LISTED_AHEAD),
            )
            for listed in self.days
        ]
        self.tombstones = [
            replace(tombstone, found_at=min(tombstone.found_at, latest)) for tombstone in self.tombstones
        ]

    @property
    def tables(self) -> tuple[ObjectType, ...]:
        """The type and its children."""
        return (self.object_type, *self.children)


@dataclass
class Changes:
    """The changes that a load made to one table, by UTC day of `created`."""

    inserted: Counter[date] = field(default_factory=Counter)
    updated: Counter[date] = field(default_factory=Counter)
    deleted: Counter[date] = field(default_factory=Counter)
    rows: dict[date, int] = field(default_factory=dict)
    """How many rows of both modes exist in Stripe (not deleted) after the load, for each day that it touched."""

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
    """Ids by day that the table holds but a complete list of the day lacked. Those days were loaded but not recorded as
    listed: the pipeline must first ask Stripe whether the objects are gone."""
    changed: list[tuple[Batch, list[str]]] = field(default_factory=list)
    """Ids of the new and changed objects of batches that lack children."""
    revision: int = 0
    """The warehouse's after the load."""
    refused: dict[str, set[str]] = field(default_factory=dict)
    """Ids, by table name, of objects that were not stored because the warehouse has a newer state or must no longer
    keep them."""

    @property
    def is_complete(self) -> bool:
        """Whether no further objects must be read and loaded."""
        return not (self.missing or self.changed)
