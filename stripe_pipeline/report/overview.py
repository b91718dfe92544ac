"""What the report says, as numbers: read from one version of the published file, and from two counters beside it.

The page and the charts show these numbers. No customer's data is among them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from stripe_pipeline.days import DAY, SETTLED, day_of, day_start, days_between
from stripe_pipeline.objects import ObjectType
from stripe_pipeline.proof.summary import Summary, summarize
from stripe_pipeline.proof.verdict import Ask, Verdict
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.stripe_api.rate_limits import Requests
from stripe_pipeline.views.view import FINANCE
from stripe_pipeline.warehouse.proofs import outcomes

KEPT_DAYS = 60
"""Days before today for which the report says what was kept."""
COVERAGE_DAYS = 60
BRIDGE_DAYS = 30
LAG_HOURS = 48
STEPS = ("charges", "refunds", "disputes", "fees", "adjustments", "payouts", "other")
"""What moves the balance, in the order of the bridge."""
_KEPT = ("charges", "refunds", "disputes", "fees")


class DayState(StrEnum):
    """What is known of a day of a table."""

    COMPLETE = "complete"
    UNFINISHED = "not finished"
    DIFFERS = "differs"
    UNREAD = "not read"
    NOT_KEPT = "not kept by the settings"


@dataclass(frozen=True)
class Stretch:
    """Days of a table in one state."""

    table: str
    first: date
    last: date
    state: DayState

    @property
    def days(self) -> int:
        """How many days these are."""
        return (self.last - self.first).days + 1


@dataclass(frozen=True)
class Kept:
    """What the shop kept in one currency: charges less refunds, disputes and fees, in major units by day."""

    currency: str
    by_day: Mapping[date, Decimal]
    """Days without a movement are missing."""

    def between(self, first: date, last: date) -> Decimal:
        """The sum of these days, inclusive."""
        return sum((amount for day, amount in self.by_day.items() if first <= day <= last), Decimal(0))


@dataclass(frozen=True)
class Bridge:
    """How the balance of one currency changed, in major units."""

    currency: str
    first: date
    last: date
    opening: Decimal | None
    """None if the balance is not known."""
    steps: Mapping[str, Decimal]
    closing: Decimal | None


@dataclass(frozen=True)
class Lag:
    """How long new objects of one hour took to be stored, in seconds."""

    hour: datetime
    p50: float
    p95: float
    objects: int


@dataclass(frozen=True)
class Overview:
    """Everything that the report says about one mode."""

    livemode: bool
    account: str
    time_zone: str
    version: int
    published_at: datetime
    read_until: datetime | None
    today: date
    """The day of the publish, in the time zone of the settings; it has not ended."""
    summary: Summary
    kept: Sequence[Kept]
    coverage: Sequence[Stretch]
    bridges: Sequence[Bridge]
    lags: Sequence[Lag]
    requests: Sequence[Requests]

    @property
    def mode(self) -> str:
        """`live` or `test`."""
        return "live" if self.livemode else "test"

    def days_in(self, *states: DayState) -> int:
        """How many days of tables are in one of these states."""
        return sum(stretch.days for stretch in self.coverage if stretch.state in states)

    @property
    def requests_sent(self) -> int:
        """The requests of the last 30 days."""
        last = self.published_at.date()
        return sum(of_day.sent for of_day in self.requests if of_day.day > last - timedelta(days=30))


def livemode_of(ask: Ask) -> bool:
    """The mode that the report is about: live, unless only test data was ever read."""
    return (True,) in ask("SELECT DISTINCT livemode FROM pipeline.cursors") or not ask("FROM pipeline.cursors LIMIT 1")


def overview(
    ask: Ask,
    settings: Settings,
    *,
    livemode: bool,
    applied: Sequence[tuple[int, float]],
    requests: Sequence[Requests],
) -> Overview:
    """The numbers of one mode. `ask` runs a SELECT on the published file; `applied`: when objects were created and
    stored, in Unix seconds; `requests`: those of the mode's key."""
    [(version, published_at, today)] = ask(
        f"SELECT version, published_at, timezone('{settings.time_zone}', published_at)::DATE FROM pipeline.published"
    )
    [(read_until,)] = ask(f"SELECT {'live' if livemode else 'test'}_read_until FROM pipeline.published")
    accounts = ask(f"SELECT min(account) FROM pipeline.keys WHERE livemode = {livemode}")
    kept = _kept(ask, _finance(livemode), today)
    order = [of.currency for of in kept]
    return Overview(
        livemode=livemode,
        account=str(accounts[0][0] or ""),
        time_zone=settings.time_zone,
        version=version,
        published_at=published_at,
        read_until=read_until,
        today=today,
        summary=summarize(outcomes(ask, f"livemode = {livemode}")),
        kept=kept,
        coverage=list(_coverage(ask, settings, livemode, published_at)),
        bridges=sorted(
            _bridges(ask, _finance(livemode), today),
            key=lambda bridge: order.index(bridge.currency) if bridge.currency in order else len(order),
        ),
        lags=lags(applied, published_at),
        requests=requests,
    )


def _finance(livemode: bool) -> str:
    """The schema of the finance views of the mode."""
    return next(schema for schema, below in FINANCE.items() if (below == "live") is livemode)


def _kept(ask: Ask, schema: str, today: date) -> list[Kept]:
    """By currency, those with the most days first."""
    amounts = " + ".join(f"{name}_decimal" for name in _KEPT)
    changed = " OR ".join(f"{name} <> 0" for name in _KEPT)
    rows = ask(
        f"SELECT currency, day, sum({amounts}) FROM {schema}.balance_by_day"
        f" WHERE ({changed}) AND day >= DATE '{today}' - {KEPT_DAYS} AND day <= DATE '{today}' GROUP BY ALL"
    )
    by_currency: dict[str, dict[date, Decimal]] = {}
    for currency, day, amount in rows:
        by_currency.setdefault(currency, {})[day] = amount
    order = sorted(by_currency, key=lambda currency: (-len(by_currency[currency]), currency))
    return [Kept(currency, by_currency[currency]) for currency in order]


def _bridges(ask: Ask, schema: str, today: date) -> list[Bridge]:
    """By currency: the last 30 days of the payments balance."""
    sums = ", ".join(f"sum({name}_decimal)" for name in STEPS)
    moved = " OR ".join(f"{name} <> 0" for name in STEPS)
    rows = ask(
        f"SELECT currency, min(day), max(day), arg_min(opening_decimal, day), arg_max(closing_decimal, day), {sums},"
        f" count(*) FILTER ({moved}) AS days FROM {schema}.balance_by_day"
        f" WHERE balance_type = 'payments' AND day > DATE '{today}' - {BRIDGE_DAYS} AND day <= DATE '{today}'"
        " GROUP BY currency HAVING days > 0 ORDER BY days DESC, currency"
    )
    return [
        Bridge(currency, first, last, opening, dict(zip(STEPS, amounts, strict=True)), closing)
        for currency, first, last, opening, closing, *amounts, _ in rows
    ]


def _coverage(ask: Ask, settings: Settings, livemode: bool, at: datetime) -> list[Stretch]:
    last = at.astimezone(UTC).date()
    first = last - timedelta(days=COVERAGE_DAYS - 1)
    listed: dict[tuple[str, date], tuple[float, bool]] = {
        (table, day): (listed_at, whole)
        for table, day, listed_at, whole in ask(
            'SELECT object_type, day, epoch_us(listed_at) / 1e6, "rows" >= COALESCE(listed, "rows")'
            f" FROM pipeline.coverage WHERE livemode = {livemode} AND day >= DATE '{first}'"
        )
    }
    differing = {
        (table, day)
        for table, day in ask(
            f"SELECT object_type, TRY_CAST(scope AS DATE) FROM pipeline.proof WHERE livemode = {livemode}"
            f" AND verdict = '{Verdict.FAILED}' UNION ALL SELECT object_type, make_timestamp(epoch_us(created))::DATE"
            f" FROM pipeline.drift WHERE livemode = {livemode} AND NOT healed"
        )
    }
    stretches: list[Stretch] = []
    for object_type in settings.enabled:
        if not object_type.dated or object_type.singleton:
            continue
        of_table: list[Stretch] = []
        for day in days_between(first, last):
            key = (object_type.name, day)
            state = _state(object_type, settings, day, listed.get(key), key in differing, at.timestamp())
            if of_table and of_table[-1].state is state:
                of_table[-1] = Stretch(object_type.name, of_table[-1].first, day, state)
            else:
                of_table.append(Stretch(object_type.name, day, day, state))
        stretches += of_table
    return stretches


def _state(
    object_type: ObjectType, settings: Settings, day: date, listed: tuple[float, bool] | None, differs: bool, at: float
) -> DayState:
    ended = day_start(day) + DAY + SETTLED
    kept_from = settings.first_listed(object_type)
    if object_type.kept_days is not None:
        kept_from = max(kept_from, day_of(at - object_type.kept_days * DAY) + timedelta(days=1))
    if differs:
        return DayState.DIFFERS
    if day < kept_from:
        return DayState.NOT_KEPT
    if ended > at:
        return DayState.UNFINISHED
    if listed is None or listed[0] < ended:
        return DayState.UNREAD
    if listed[1]:
        return DayState.COMPLETE
    # Objects of the list that have no row: their default date is past the retention.
    return DayState.NOT_KEPT if settings.retention_of(object_type) else DayState.DIFFERS


def lags(applied: Sequence[tuple[int, float]], at: datetime) -> list[Lag]:
    """Percentiles of the seconds from the creation of objects until they were stored, by the hour of creation."""
    since = at.timestamp() - LAG_HOURS * 3600
    by_hour: dict[int, list[float]] = {}
    for created, stored in applied:
        if created >= since:
            by_hour.setdefault(created // 3600, []).append(max(0.0, stored - created))
    return [
        Lag(datetime.fromtimestamp(hour * 3600, UTC), percentile(of, 0.5), percentile(of, 0.95), len(of))
        for hour, of in sorted(by_hour.items())
    ]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of `values` does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def span(seconds: float) -> str:
    """A duration as people read it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
