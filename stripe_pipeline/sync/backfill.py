"""What a backfill needs beyond a sync: the point to resume a stopped backfill at, and Stripe's time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
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

RESUMED_WITHIN = 3600  # seconds after its last list within which a stopped backfill is resumed


def stopped_backfill(
    context: Context, request: str, days: Mapping[str, Set[date]], now: float
) -> tuple[float, dict[str, set[date]]] | None:
    """When the stopped backfill began, and which of its `days` (by table name) it listed; None if it must start over:
    it never began, has ended, listed nothing for a while, or has nothing left to list."""
    stopped = context.warehouse.state.stopped_backfill(context.mode, request)
    if stopped is None or now - stopped.last_listed > RESUMED_WITHIN:
        return None
    coverage = context.warehouse.state.coverage(context.mode)
    listed = {
        name: {
            day
            for day in days[name]
            if all(covered_since(stopped.began, coverage.get((table, day))) for table in reader.tables)
        }
        for name, reader in context.readers.items()
        if name in days
    }
    return (stopped.began, listed) if any(days[name] - listed[name] for name in days) else None


def ask_the_time(context: Context, days: Mapping[str, Collection[date]]) -> None:
    """Request one object from these `days` (by table name), which are listed next: any answer tells Stripe's time,
    which bounds today's lists and all stored times. A type that cannot be read does not stop the others."""
    first = next((name for name, wanted in days.items() if wanted), None)
    if first is None:
        return
    object_type = context.readers[first].object_type
    params: dict[str, str | int | Sequence[str]] = {"limit": 1, **object_type.lists[0]}
    if not object_type.whole:
        params |= {"created[gte]": day_start(min(days[first])), "created[lt]": day_start(max(days[first])) + DAY}
    try:
        context.api.get(f"{object_type.endpoint}", params)
    except (AuthenticationFailed, Cancelled):
        raise
    except ApiError as error:
        if error.status is None:
            raise  # No answer at all: other requests would wait as long.
