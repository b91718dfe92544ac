"""The days that are being listed, and the files that collect their lines.

This module decides when a day is complete, and describes it. Which lines an object has belongs to `lines`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from stripe_pipeline.batch import ListedDay
from stripe_pipeline.days import DAY, day_of, day_start, days_between

LinesByTable = dict[str, list[bytes]]
"""Lines of NDJSON by table name."""


@dataclass(frozen=True)
class DayRead:
    """One complete day of a type, in files."""

    listed: ListedDay
    files: dict[str, Path]
    rows: int
    """Objects in the type's own file."""
    span: tuple[int, int]
    """The day's smallest and largest `created`, Unix seconds."""


@dataclass
class _Day:
    """A day that is being listed."""

    left: int
    """Seconds of the day not yet listed, summed over the lists that hold its objects."""
    until: int
    listed_at: float = float("inf")
    files: dict[str, Path] = field(default_factory=dict)
    objects: Counter[str] = field(default_factory=Counter)
    """How many objects the files hold, by table name."""
    first: int = 2**62
    last: int = -1
    first_page: tuple[int, str | None] = (-1, None)
    """The end of the page with the newest objects so far, Unix seconds, and the id of its request."""
    last_page: tuple[int, str | None] = (2**62, None)
    """The start of the page with the oldest objects so far, and the id of its request."""


class DayFiles:
    """The days of `table` that are being listed, each with its files in `folder`. Callers hold a lock."""

    def __init__(self, folder: Path, table: str) -> None:
        self._folder = folder
        self._table = table
        self._days: dict[date, _Day] = {}

    def __contains__(self, day: date) -> bool:
        return day in self._days

    def begin(self, days: Iterable[date], *, until: int, lists: int) -> None:
        """Begin these days, up to `until` (exclusive, Unix seconds), which so many `lists` hold together."""
        for day in days:
            end = min(day_start(day) + DAY, until)
            self._days[day] = _Day(left=(end - day_start(day)) * lists, until=end)

    def append(self, day: date, objects: Sequence[tuple[int, LinesByTable]], sent_at: float) -> None:
        """Write objects of one day, each with its `created`; `sent_at`: when the request was sent."""
        entry = self._days[day]
        entry.listed_at = min(entry.listed_at, sent_at)
        for created, _ in objects:
            entry.first, entry.last = min(entry.first, created), max(entry.last, created)
        for table in objects[0][1]:
            lines = [line for _, by_table in objects for line in by_table[table]]
            entry.objects[table] += len(lines)
            entry.files[table] = append(self._folder, f"{table}-{day}", lines)

    def count(self, day: date) -> None:
        """Count an object that was listed on this day and is not in its file."""
        self._days[day].objects[self._table] += 1

    def cover(
        self, start: int, end: int, sent_at: float, requests: tuple[str | None, str | None] = (None, None)
    ) -> list[DayRead]:
        """Mark this span (end exclusive, Unix seconds) as listed; returns the days completed by it.

        `requests`: Stripe's ids of the requests for the newest and the oldest objects of the span.
        """
        complete = []
        for day in days_between(day_of(start), day_of(end - 1)) if end > start else []:
            entry = self._days[day]
            entry.left -= min(end, day_start(day) + DAY) - max(start, day_start(day))
            entry.listed_at = min(entry.listed_at, sent_at)
            entry.first_page = max(entry.first_page, (end, requests[0]), key=lambda page: page[0])
            entry.last_page = min(entry.last_page, (start, requests[1]), key=lambda page: page[0])
            if entry.left == 0:
                complete.append(self._finish(day))
        return complete

    def _finish(self, day: date) -> DayRead:
        entry = self._days.pop(day)
        receipts = (entry.first_page[1], entry.last_page[1])
        listed = ListedDay(day, entry.listed_at, entry.until, objects=entry.objects, requests=receipts)
        return DayRead(listed, entry.files, entry.objects[self._table], (entry.first, entry.last))


def append(folder: Path, name: str, lines: Iterable[bytes]) -> Path:
    """Append lines to the NDJSON file `name`; returns its path."""
    path = folder / f"{name}.ndjson"
    with path.open("ab") as file:
        file.writelines(lines)
    return path
