"""What a sync, drain or backfill did, and how it tells while it works."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import date
from typing import Protocol

from stripe_pipeline.batch import Changes, Loaded
from stripe_pipeline.errors import (
    StripePipelineError,
)
from stripe_pipeline.rows import Surprises


class Progress(Protocol):
    """Shown to whoever waits for a run."""

    def listed(self, table: str, *, days: int, of: int, rows: int, seconds: float) -> None:
        """`days` of the `of` days asked for are in, with `rows` rows so far, `seconds` after the lists began."""

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
    """Why a table (or the scan of `events`) could not be brought up to date; it holds what it held."""
    surprises: Surprises = field(default_factory=Surprises)
    notes: list[str] = field(default_factory=list)
    """What whoever watches the run should know, one sentence each."""
    applied: int = 0
    """Notifications whose objects were read again and stored."""

    def note(self, sentence: str) -> None:
        """Add it to the notes; once, also where it holds for both modes."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def add(self, loaded: Loaded) -> None:
        """Count a load's changes."""
        for table, changes in loaded.changes.items():
            self.changes.setdefault(table, Changes()).update(changes)
