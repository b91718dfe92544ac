"""Reports on a sync, drain or backfill, afterwards and in progress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Protocol

from stripe_pipeline.batch import Changes, Loaded
from stripe_pipeline.errors import (
    StripePipelineError,
)
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.rows import Surprises

HEADINGS = ("table", "inserted", "updated", "deleted", "requests")
FAILED = "failed"
"""Stands in place of the numbers of a table that could not be brought up to date."""


class Progress(Protocol):
    """Receives a run's progress."""

    def listed(self, table: str, *, days: int, of: int, rows: int, seconds: float) -> None:
        """`days` of the `of` requested days are read, with `rows` rows so far, `seconds` after the start."""

    def finished(self, report: Report) -> None:
        """The run has ended; `report` says what it did."""


@dataclass
class Report:
    """What a run did, by table name."""

    changes: dict[str, Changes] = field(default_factory=dict)
    listed: dict[str, set[date]] = field(default_factory=dict)
    """Days that were listed completely and stored."""
    requests: Counter[str] = field(default_factory=Counter)
    """Requests sent, retries included, by table; those for events and the account under `events`."""
    failures: dict[str, StripePipelineError] = field(default_factory=dict)
    """Why a table (or the scan of `events`) could not be brought up to date; its rows are unchanged."""
    surprises: Surprises = field(default_factory=Surprises)
    notes: list[str] = field(default_factory=list)
    """What the user should know about the run, one sentence each."""
    applied: int = 0
    """Notifications whose objects were reread and stored."""

    def note(self, sentence: str) -> None:
        """Add `sentence` to the notes, once even if both modes add it."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    @property
    def changed_rows(self) -> dict[str, int]:
        """How many rows were inserted, updated or deleted, for each table with any."""
        return {
            table: number
            for table, of in self.changes.items()
            if (number := of.inserted.total() + of.updated.total() + of.deleted.total())
        }

    @property
    def summary(self) -> str:
        """What the run did, as one line: "41 rows changed in 5 tables, 12 requests"."""
        sent = sum(self.requests.values())
        requests = f"{sent:,} request{'' if sent == 1 else 's'}"
        changed = self.changed_rows
        if not changed:
            return f"{requests}, nothing new"
        rows, tables = sum(changed.values()), len(changed)
        return (
            f"{rows:,} row{'' if rows == 1 else 's'} changed in {tables} table{'' if tables == 1 else 's'}, {requests}"
        )

    def table(self) -> list[tuple[str, ...]]:
        """What happened to each table that changed or failed: the cells below `HEADINGS`."""
        rows = []
        for name in OBJECT_TYPES:
            if name in self.changes or name in self.failures:
                changes = self.changes.get(name, Changes())
                numbers = (changes.inserted.total(), changes.updated.total(), changes.deleted.total())
                shown = (FAILED, "", "") if name in self.failures else tuple(f"{number:,}" for number in numbers)
                rows.append((name, *shown, f"{self.requests[name]:,}" if self.requests[name] else ""))
        return rows

    @property
    def text(self) -> str:
        """The table as text, with a line for each row."""
        rows = [HEADINGS, *self.table()]
        names, *numbers = zip(*rows, strict=True)
        columns = [_padded(names, str.ljust), *(_padded(cells, str.rjust) for cells in numbers)]
        lines = map("  ".join, zip(*columns, strict=True))
        return "\n".join(map(str.rstrip, lines))

    def add(self, loaded: Loaded) -> None:
        """Count a load's changes."""
        for table, changes in loaded.changes.items():
            self.changes.setdefault(table, Changes()).update(changes)


def _padded(cells: Sequence[str], pad: Callable[[str, int], str]) -> list[str]:
    width = max(map(len, cells))
    return [pad(cell, width) for cell in cells]
