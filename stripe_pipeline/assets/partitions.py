"""The partitions of the base tables: UTC days of `created`, or months if the settings ask for those.

This module converts between days and partition keys. All tables have the same partitions: Dagster splits a backfill
where they differ (docs/dagster.md#partitions-and-backfills). Which days are read belongs to `sync`.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

import dagster as dg

from stripe_pipeline.days import days_between, today
from stripe_pipeline.objects import ObjectType
from stripe_pipeline.settings.model import PartitionSize, Settings

KEPT = "kept"
"""The metadata of a partition of which the settings keep no row; other partitions do not have it."""


class Partitions:
    """The partitions that the settings ask for, by key: `2026-01-31`, or `2026-01` for a month.

    The keys of the two sizes differ, so that a month never looks materialized because its first day was.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._first_day = settings.first_day
        self._monthly = settings.partitions is PartitionSize.MONTH

    @property
    def definition(self) -> dg.TimeWindowPartitionsDefinition:
        """The definition for Dagster, whose last partition is the present one."""
        if self._monthly:
            start = self._first_day.replace(day=1)
            return dg.MonthlyPartitionsDefinition(start_date=f"{start:%Y-%m}", fmt="%Y-%m", end_offset=1)
        return dg.DailyPartitionsDefinition(start_date=self._first_day.isoformat(), end_offset=1)

    def key_of(self, day: date) -> str:
        """The key of the partition that the day belongs to."""
        return f"{day:%Y-%m}" if self._monthly else day.isoformat()

    def keys_of(self, days: Iterable[date]) -> set[str]:
        """The keys of the partitions that the days belong to."""
        return {self.key_of(day) for day in days}

    def days_of(self, keys: Iterable[str]) -> set[date]:
        """The days of these partitions; of a month, those from the first day of the history to today."""
        if not self._monthly:
            return {date.fromisoformat(key) for key in keys}
        days: set[date] = set()
        for key in keys:
            first = date.fromisoformat(f"{key}-01")
            last = first.replace(day=calendar.monthrange(first.year, first.month)[1])
            days.update(days_between(max(first, self._first_day), min(last, today())))
        return days

    def not_kept(self, object_type: ObjectType, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Those of the partitions `keys` of which the settings keep no row of this type, with metadata that says so:
        those before its history or past its retention. A month in which some days are kept is not among these."""
        if not object_type.dated:
            return {}
        since = self._settings.first_listed(object_type)
        why = f"The settings keep {object_type.name} from {since} on"
        # Keys are in the order of their days.
        before = [key for key in keys if key < self.key_of(since)]
        return {key: {KEPT: False, "why": why, "dagster/partition_row_count": 0} for key in before}

    def rows(self, key: str, rows_of_days: Mapping[date, int]) -> int | None:
        """The rows of a partition, if the rows of each of its days are known; otherwise None."""
        days = self.days_of([key])
        known = [rows_of_days[day] for day in days if day in rows_of_days]
        return sum(known) if days and len(known) == len(days) else None
