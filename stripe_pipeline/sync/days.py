"""The days that a run with one key lists, type by type: those that are due, and those that were requested.

This module applies the rules of `plan` to the types that the run reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

from stripe_pipeline.days import day_of
from stripe_pipeline.objects import UNDATED
from stripe_pipeline.sync.context import Context
from stripe_pipeline.sync.plan import (
    first_listable,
    followed_since,
    kept_days,
    unlisted,
    whole_list_is_due,
)
from stripe_pipeline.warehouse.bookkeeping import Covered


class Days:
    """The days of the types of one run."""

    def __init__(self, context: Context) -> None:
        self._api = context.api
        self._settings = context.settings
        self._report = context.report
        self._readers = context.readers

    def kept(self, coverage: Mapping[tuple[str, date], Covered], now: float) -> dict[str, list[date]]:
        """The days of each type that are kept in sync with Stripe, oldest first."""
        return {
            name: kept_days(reader.object_type, self._settings, coverage, now) for name, reader in self._readers.items()
        }

    def to_list(
        self,
        requested: set[date],
        kept: Mapping[str, Sequence[date]],
        coverage: Mapping[tuple[str, date], Covered],
        now: float,
        *,
        how: str,
    ) -> dict[str, dict[date, str]]:
        """The days that each type must list, with the reason; among them those that are `requested`. `kept`: the days
        of each type that are kept in sync with Stripe."""
        listed = {}
        since = followed_since(coverage)
        for name, reader in self._readers.items():
            missing = unlisted(reader.tables, kept[name], coverage, now, since=since)
            if reader.object_type.whole and (
                missing or whole_list_is_due(reader.object_type, kept[name], coverage, now)
            ):
                missing = set(kept[name])
            listed[name] = dict.fromkeys(missing, how)
            listed[name] |= dict.fromkeys(self.within(name, requested), "backfill")
        return listed

    def within(self, name: str, days: set[date]) -> set[date]:
        """The `days` that the settings keep; a note reports the others. Of an undated type, the day of all rows."""
        object_type = self._settings.types[name]
        if object_type.singleton:
            return set()
        if not object_type.dated:
            return {day_of(UNDATED)} if days else set()
        first = first_listable(object_type, self._settings, self._api.now())
        within = {day for day in days if day >= first}
        if left_out := len(days) - len(within):
            keeper = "the settings keep" if object_type.kept_days is None else "the settings and Stripe keep"
            self._report.note(f"{name}: {left_out} days are older than what {keeper} (from {first} on)")
        return within
