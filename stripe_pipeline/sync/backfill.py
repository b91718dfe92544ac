"""What a backfill needs besides a sync: where a stopped one continues, and what time it is at Stripe."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from datetime import date

from stripe_pipeline.days import DAY, day_start
from stripe_pipeline.errors import (
    ApiError,
    AuthenticationFailed,
    Cancelled,
)
from stripe_pipeline.sync.context import Context
from stripe_pipeline.sync.plan import (
    covered_since,
)

RESUMED_WITHIN = 3600  # seconds since its last list in which a backfill that was stopped is gone on with


def stopped_backfill(
    context: Context, request: str, kept: Mapping[str, Set[date]], now: float
) -> tuple[float, dict[str, set[date]]] | None:
    """When this backfill began that was stopped, and the days by table name that it listed; None where it begins
    anew: it was not begun, has ended, listed nothing for a while, or has nothing left."""
    stopped = context.warehouse.state.stopped_backfill(context.mode, request)
    if stopped is None or now - stopped.last_listed > RESUMED_WITHIN:
        return None
    coverage = context.warehouse.state.coverage(context.mode)
    there = {
        name: {
            day
            for day in kept[name]
            if all(covered_since(stopped.began, coverage.get((table, day))) for table in reader.tables)
        }
        for name, reader in context.readers.items()
        if name in kept
    }
    return (stopped.began, there) if any(kept[name] - there[name] for name in kept) else None


def ask_the_time(context: Context, days: Mapping[str, Collection[date]]) -> None:
    """Ask for something of these `days`, by table name, which are listed next: any answer tells what time it is at
    Stripe, which bounds the lists of today and all times that are stored. One type that cannot be read does not
    stop the others."""
    first = next((name for name, wanted in days.items() if wanted), None)
    if first is None:
        return
    window = {"created[gte]": day_start(min(days[first])), "created[lt]": day_start(max(days[first])) + DAY}
    try:
        context.api.get(f"{context.readers[first].object_type.endpoint}", {"limit": 1, **window})
    except (AuthenticationFailed, Cancelled):
        raise
    except ApiError as error:
        if error.status is None:
            raise  # No answer at all: the other requests would wait as long.
