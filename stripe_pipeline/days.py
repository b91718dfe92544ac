"""UTC days, by which everything is partitioned, and their bounds in Unix seconds.

The only module that converts between times and days; `sync` decides which days to read.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

DAY = 86_400  # seconds; Unix time has no leap seconds
SETTLED = 300  # a day's list counts as complete this long after the day ends, seconds


def day_start(day: date) -> int:
    """The first second of a UTC day, Unix seconds."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def day_of(seconds: float) -> date:
    """The UTC day of a time in Unix seconds."""
    return datetime.fromtimestamp(seconds, UTC).date()


def utc_day(moment: str) -> str:
    """SQL for the UTC day (a DATE) of `moment` (a TIMESTAMPTZ), whatever the session's time zone."""
    return local_day(moment, "UTC")


def local_day(moment: str, time_zone: str) -> str:
    """SQL for the day (a DATE) of `moment` (a TIMESTAMPTZ) in a time zone, whatever the session's time zone."""
    # A cast of `moment` itself uses the calendar of the session's time zone and is 16 times as slow.
    return f"{local_time(moment, time_zone)}::DATE"


def local_time(moment: str, time_zone: str) -> str:
    """SQL for the date and time (a TIMESTAMP) of `moment` (a TIMESTAMPTZ) on the clocks of a time zone."""
    return f"make_timestamp(epoch_us({moment}))" if time_zone == "UTC" else f"timezone('{time_zone}', {moment})"


def days_between(first: date, last: date) -> list[date]:
    """All days from `first` to `last`, inclusive."""
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def stretches(days: Iterable[date]) -> list[tuple[date, date]]:
    """The first and last day of each stretch of days without a gap, oldest first."""
    spans: list[tuple[date, date]] = []
    for day in sorted(set(days)):
        if spans and day - spans[-1][1] == timedelta(days=1):
            spans[-1] = (spans[-1][0], day)
        else:
            spans.append((day, day))
    return spans


def today() -> date:
    """The present UTC day by the local clock."""
    return datetime.now(UTC).date()
