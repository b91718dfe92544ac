"""Ages such as `24 months`, and the first day they reach back to."""

from __future__ import annotations

import calendar
import contextlib
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

_AGE = re.compile(r"(\d+)\s*(day|week|month|year)s?")
_STRIPE_BEGAN = date(2010, 1, 1)
LONGEST = 36_500  # days; more than anyone needs, and within the range of dates
_DAYS = {"day": 1, "week": 7}
_MONTHS = {"month": 1, "year": 12}


def age_or_date(value: object) -> Age | date:
    """The beginning of the history: a day, or an age counted back from today.

    Raises `ValueError`, with words that follow the key in a message.
    """
    begins: Age | date | None = None
    if isinstance(value, Age) or (isinstance(value, date) and not isinstance(value, datetime)):
        begins = value
    elif isinstance(value, str):
        with contextlib.suppress(ValueError):
            begins = Age.from_text(value) or date.fromisoformat(value.strip())
    with contextlib.suppress(ValueError, OverflowError):
        if begins is not None and _STRIPE_BEGAN <= first_day(begins) <= datetime.now(UTC).date():
            return begins
    raise ValueError("should be a date from 2010 on, such as 2024-01-01, or an age such as 24 months")


def first_day(begins: Age | date) -> date:
    """The first UTC day of a history with this beginning."""
    if not isinstance(begins, Age):
        return begins
    first = begins.before(datetime.now(UTC).date())
    # So that the first partition does not move every day.
    return first.replace(day=1) if begins.of_months else first


@dataclass(frozen=True)
class Age:
    """A number of days, weeks, months or years."""

    count: int
    unit: str

    @classmethod
    def from_text(cls, text: str) -> Age | None:
        """The age in a text such as `36 months`; None if the text is not an age."""
        match = _AGE.fullmatch(text.strip())
        return cls(int(match[1]), match[2]) if match else None

    @property
    def of_months(self) -> bool:
        """Whether the age is counted in months or years."""
        return self.unit in _MONTHS

    def before(self, day: date) -> date:
        """The day this long before `day`; the month's last day if the month is too short."""
        if self.unit in _DAYS:
            return day - timedelta(days=self.count * _DAYS[self.unit])
        months = day.year * 12 + day.month - 1 - self.count * _MONTHS[self.unit]
        year, month = months // 12, months % 12 + 1
        return date(year, month, min(day.day, calendar.monthrange(year, month)[1]))

    def __str__(self) -> str:
        return f"{self.count} {self.unit}{'' if self.count == 1 else 's'}"


FOREVER = "forever"


def age_or_forever(value: object) -> Age | str:
    """An age of at least one day, week, month or year, or `FOREVER`. Raises `ValueError` as `age_or_date` does."""
    if isinstance(value, Age) or value == FOREVER:
        return value
    age = Age.from_text(value) if isinstance(value, str) else None
    if age and age.count >= 1:
        with contextlib.suppress(ValueError, OverflowError):
            age.before(datetime.now(UTC).date())
            return age
    raise ValueError(f"should be an age such as 36 months, or {FOREVER}")
