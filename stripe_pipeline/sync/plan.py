"""Which days a run lists and which objects it reads one by one; pure functions of coverage, cursors and the settings.

This module decides what to read. Reading belongs to `stripe_api.reader`, the order of work to `run`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

from stripe_pipeline.batch import Batch
from stripe_pipeline.days import DAY, SETTLED, day_of, day_start, days_between
from stripe_pipeline.inbox.notification import Notification
from stripe_pipeline.objects import OBJECT_TYPES, UNDATED, ObjectType
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.stripe_api.day_files import DayRead
from stripe_pipeline.stripe_api.paths import is_addressable
from stripe_pipeline.warehouse.bookkeeping import Covered

SWEEP = "sweep"
OVERLAP = 300  # seconds; events and balance transactions become visible up to a minute late (docs/stripe.md#events)
FRESH = 30  # a drain lists objects younger than this, in seconds, instead of retrieving them one by one
JUST_BEFORE = 10  # seconds by which a balance transaction may precede the event that announces it
BALANCE_TRANSACTIONS = "balance_transactions"
SYNCS_A_DAY = 96
_PAGE = 100
_LEAST_SWEPT = 0.3  # share of the sweep's requests that remain for days of the past, whatever the daily lists take


@dataclass(frozen=True)
class Plan:
    """How to read the wanted objects of one type."""

    days: set[date]
    ids: set[str]
    list_since: int | None


def plan_type(
    object_type: ObjectType,
    wanted: Mapping[str, int | None],
    listing: Collection[date],
    coverage: Mapping[tuple[str, date], Covered],
    now: float,
    *,
    young_since: float | None,
) -> Plan:
    """The cheapest requests that read each wanted object once: none for objects that are listed anyway, one list for
    young objects, a day's list if it has fewer pages than wanted objects or one of them cannot be read by its id,
    otherwise one retrieve per object. Of a type that is listed as a whole, a part of the list costs as much as all. Of
    a type whose lists omit objects, a day's list does not count as reading an object with an id that Stripe accepts."""
    ids: set[str] = set()
    days: set[date] = set()
    by_day: dict[date, set[str]] = {}
    complete = listing if object_type.lists_all else ()
    young: dict[str, int] = {}
    for object_id, created in wanted.items():
        if created is None:
            ids.add(object_id)
        elif not is_addressable(object_id):
            days |= {day_of(created)} - set(listing)
        elif object_type.whole:
            ids |= set() if day_of(created) in complete else {object_id}
        elif young_since is not None and created >= young_since:
            young[object_id] = created
        else:
            by_day.setdefault(day_of(created), set()).add(object_id)
    list_since = None
    young = {object_id: created for object_id, created in young.items() if day_of(created) not in complete}
    if len(young) > math.ceil(len(young) / _PAGE):
        list_since = min(young.values())
    ids |= young.keys()
    for day, of_day in by_day.items():
        if day in complete:
            continue
        covered = coverage.get((object_type.name, day)) if object_type.lists_all else None
        if covered and day_start(day) + DAY + SETTLED <= now and math.ceil((covered.listed + 1) / _PAGE) < len(of_day):
            days.add(day)
        else:
            ids |= of_day
    return Plan(days, ids, list_since)


def covered_since(began: float, covered: Covered | None) -> bool:
    return covered is not None and covered.listed_at >= began


def transactions_since(notifications: Mapping[str, Sequence[Notification]], *, looked: float) -> float | None:
    """The time from which to list the balance transactions that notifications announce; None if the last sync has
    listed them all.

    The transaction of an asynchronously captured charge has the charge's `created`. If that was long ago, the charge's
    row names the transaction (`Run._read_named`).
    """
    announced = [
        notification.event_created
        if notification.object_created is None or notification.object_created < notification.event_created - OVERLAP
        else min(notification.event_created, notification.object_created)
        for name in OBJECT_TYPES[BALANCE_TRANSACTIONS].announced_by
        for notification in notifications.get(name, ())
        if notification.event_created >= looked - OVERLAP
    ]
    return min(announced) - JUST_BEFORE if announced else None


def kept_days(
    object_type: ObjectType, settings: Settings, coverage: Mapping[tuple[str, date], Covered], now: float
) -> list[date]:
    """The days of a listed type that are kept in sync with Stripe, oldest first: days loaded before its history, then
    the history."""
    if object_type.singleton:
        return []
    if not object_type.dated:
        return [day_of(UNDATED)]
    history = days_between(first_listable(object_type, settings, now), day_of(now))
    if object_type.kept_days is not None:
        return history
    return [*loaded_before(object_type, settings, coverage), *history]


def first_listable(object_type: ObjectType, settings: Settings, now: float) -> date:
    """The first UTC day of `created` that the settings keep and whose objects Stripe still lists all."""
    first = settings.first_listed(object_type)
    if object_type.kept_days is None:
        return first
    return max(first, day_of(now - object_type.kept_days * DAY) + timedelta(days=1))


def whole_list_is_due(
    object_type: ObjectType, days: Sequence[date], coverage: Mapping[tuple[str, date], Covered], now: float
) -> bool:
    """Whether the list of a type that is listed as a whole, and holds these `days`, is due, as it is once a day."""
    listed_at = [covered.listed_at for day in days if (covered := coverage.get((object_type.name, day)))]
    return bool(listed_at) and min(listed_at) < now - DAY


def sweep_budget(enabled: Iterable[ObjectType], allowed: int) -> float:
    """The requests that a day's sweep may spend if the settings allow so many in 30 days: the daily lists of the
    optional types are paid from these requests."""
    a_day = allowed / 30
    return max(
        a_day - daily_lists(object_type for object_type in enabled if object_type.optional), a_day * _LEAST_SWEPT
    )


def daily_lists(enabled: Iterable[ObjectType]) -> int:
    """How many requests the lists of a day take on an idle account: each type lists a day after its end, or its whole
    list."""
    return sum(len(object_type.lists) for object_type in enabled if object_type.endpoint)


def requests_a_month(enabled: Collection[ObjectType], settings: Settings) -> int:
    """How many requests an idle account takes in 30 days for each key, with these types: the syncs, the readings of the
    balance, the daily lists, the nightly sample, and the sweep."""
    scans, balances = (2, 24) if any(of.name == BALANCE_TRANSACTIONS for of in enabled) else (1, 0)
    swept = sweep_budget(enabled, settings.sweep.requests_a_month)
    a_day = SYNCS_A_DAY * scans + balances + daily_lists(enabled) + settings.proofs.sample + swept
    return math.ceil(30 * a_day)


def loaded_before(
    object_type: ObjectType, settings: Settings, coverage: Mapping[tuple[str, date], Covered]
) -> list[date]:
    """The days before a listed type's history that were loaded when the history began earlier, oldest first.

    A history given as an age moves on. Days that are too old stay until they are pruned.
    """
    first = settings.first_listed(object_type)
    return sorted(day for name, day in coverage if name == object_type.name and day < first)


def followed_since(coverage: Mapping[tuple[str, date], Covered]) -> dict[str, float]:
    """The time from which events report changes, by table name, in seconds on Stripe's clock: the event cursor is
    older than every list."""
    since: dict[str, float] = {}
    for (name, day), covered in coverage.items():
        # A day that counts as listed at its own start must be listed again: events may have been missed since.
        if covered.listed_at > day_start(day):
            since[name] = min(since.get(name, covered.listed_at), covered.listed_at)
    return since


def unlisted(
    tables: Collection[str],
    history: Sequence[date],
    coverage: Mapping[tuple[str, date], Covered],
    now: float,
    *,
    since: Mapping[str, float],
) -> set[date]:
    """Days of `history` that must be listed: days with no full list since they ended; and recent days that events
    alone cannot fill, because the day before is not covered or events were not yet followed when the day began.

    `since`: as returned by `followed_since`.
    """
    days = set()
    followed = False
    began = max(since.get(name, math.inf) for name in tables)
    for day in history:
        of_tables = [coverage.get((table, day)) for table in tables]
        sealed_from = day_start(day) + DAY + SETTLED
        if now >= sealed_from:
            followed = all(covered is not None and covered.listed_at >= sealed_from for covered in of_tables)
            if not followed:
                days.add(day)
        else:
            followed = (followed and began <= day_start(day)) or all(of_tables)
            if not followed:
                days.add(day)
    return days


def days_to_sweep(
    to_list: Mapping[str, dict[date, str]],
    kept: Mapping[str, Sequence[date]],
    coverage: Mapping[tuple[str, date], Covered],
    now: float,
    *,
    budget: float,
) -> None:
    """Add the days that were listed longest ago, as `budget` requests allow: they may hold changes without events.

    `kept`: the days of each type that are kept in sync. A day costs its share of pages, plus one request if no
    neighbouring day is listed with it, for each of the type's lists.
    """
    within = {name: set(days) for name, days in kept.items() if not OBJECT_TYPES[name].whole}
    oldest = sorted(
        (covered.listed_at, name, day, covered.listed)
        for (name, day), covered in coverage.items()
        if name in to_list
        and day not in to_list[name]
        and covered.listed_at < now - DAY
        and day in within.get(name, ())
    )
    for _, name, day, objects in oldest:
        beside = {day - timedelta(days=1), day + timedelta(days=1)} & to_list[name].keys()
        cost = objects / _PAGE + (0 if beside else len(OBJECT_TYPES[name].lists))
        if cost > budget:
            break
        budget -= cost
        to_list[name][day] = SWEEP


def add_day(batch: Batch, day: DayRead, *, how: str) -> None:
    batch.days.append(replace(day.listed, how=how))
    for table, file in day.files.items():
        batch.files.setdefault(table, []).append(file)
    batch.first, batch.last = min(batch.first, day.span[0]), max(batch.last, day.span[1])


def oldest_kept(object_type: ObjectType, settings: Settings, coverage: Mapping[tuple[str, date], Covered]) -> int:
    """The earliest `created` kept, Unix seconds."""
    loaded = loaded_before(object_type, settings, coverage)
    return day_start(min([settings.first_listed(object_type), *loaded]))
