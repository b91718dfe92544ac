"""Estimates from a few pages how many objects a period has, and how many requests it takes to list them.

Stripe does not return counts: a page shows the density of a hundred objects, and the density between pages is
interpolated. Bursts, such as invoices that are all made on the first of a month, are easily missed. Deciding what to
read belongs to `sync`, listing to `stripe_api.listing`.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stripe_pipeline.days import DAY
from stripe_pipeline.objects import ObjectType
from stripe_pipeline.rows import created_of, id_of
from stripe_pipeline.stripe_api.client import MAX_LIMIT, StripeApi

MOST_PAGES = 5
"""Maximum number of pages read per type."""

Window = tuple[int, int]
"""Start inclusive, end exclusive, Unix seconds of `created`."""

# Busy hours and days must not stand for the whole. With steps of 1.4 days, five pages fall on five times of day and
# five days of the week, as far from each other as possible.
_WEEK = 7 * DAY
_STEP = int(1.4 * DAY)
_LONG = 2 * _WEEK  # a gap long enough to choose the time of the week
_BURST = 10  # times as dense as most pages: a single burst, which says nothing about its surroundings
_FAR = 1000  # times the span of a page: too far to extrapolate
# `listing` splits long spans into windows, by the span of the first page. Each window ends with a page that is not
# full, which adds a tenth of the pages (measured), and an empty window costs one request.
_NOT_FULL = 1.1
_PARTS = 8
_PAGES_A_PART = 4


@dataclass(frozen=True)
class Estimate:
    """The number of objects, and the cost of reading."""

    objects: int
    requests: int
    exact: bool
    """Whether `objects` is an exact count."""


@dataclass(frozen=True)
class _Span:
    """The span of one page."""

    start: int
    end: int
    density: float
    """Objects per second."""


@dataclass(frozen=True)
class _Gap:
    """A span that no page covers, with the density at both ends."""

    start: int
    end: int
    before: float
    after: float


class Sample:
    """A few pages of one type's list, over `windows` in chronological order."""

    def __init__(self, windows: Sequence[Window]) -> None:
        self.windows = windows
        self.objects: dict[str, dict[str, Any]] = {}
        """The objects of the pages, by id."""
        self._spans: list[_Span] = []
        self._usual: list[float] = []

    def add(self, page: Sequence[dict[str, Any]], *, before: int, has_more: bool) -> None:
        """Add the page of the newest objects made before `before` (Unix seconds)."""
        self.objects.update((id_of(obj), obj) for obj in page)
        # The last second may have more objects.
        start = min(created_of(page[-1]) + 1, before - 1) if has_more else self.windows[0][0]
        span = _Span(start, before, len(page) / (before - start))
        self._spans = sorted([*self._spans, span], key=lambda span: span.end)
        if has_more:
            self._usual.append(span.density)

    def next_page(self) -> int | None:
        """The time (Unix seconds) before which another page would tell the most; None if no page is needed."""
        if not self._spans:
            return self.windows[-1][1]
        gap = max(self._gaps(), key=self._at_most, default=None)
        if gap is None or not self._at_most(gap):
            return None
        if self._at_most(gap) <= MAX_LIMIT:
            return gap.end  # One page covers it all.
        length = gap.end - gap.start
        middle = gap.end - length // 2
        if not gap.before:
            # No page is older. A history may be many times as long as the account's age, or as the time in which a
            # script filled a sandbox.
            page = MAX_LIMIT / gap.after
            if len(self._usual) == 1 and length > _FAR * page:
                return gap.end - int(math.sqrt(length * page))
            middle = gap.end - length // 4
        if length < _LONG:
            return middle
        wanted = self._spans[-1].end - len(self._spans) * _STEP
        return middle + (wanted - middle + _WEEK // 2) % _WEEK - _WEEK // 2

    def count(self, windows: Sequence[Window]) -> float:
        """The estimated number of objects in `windows`, which lie within the sample's windows."""
        seen = sum(_lies_in(created_of(obj), windows) for obj in self.objects.values())
        return seen + sum((gap.before + gap.after) / 2 * _common(gap, windows) for gap in self._gaps())

    def empty_parts(self) -> int:
        """How many of the parts into which the last window will be split seem to be empty."""
        start, newest = self.windows[-1][0], self._spans[-1]
        pages = (newest.start - start) / (newest.end - newest.start)
        number = min(_PARTS, int(pages / _PAGES_A_PART))
        if number < 2:
            return 0
        edges = [start + (newest.start - start) * n // number for n in range(number + 1)]
        return sum(self.count([part]) < 1 for part in itertools.pairwise(edges))

    @property
    def exact(self) -> bool:
        """Whether the pages cover everything."""
        return not any(_common(gap, self.windows) for gap in self._gaps())

    def _at_most(self, gap: _Gap) -> float:
        return max(gap.before, gap.after) * _common(gap, self.windows)

    def _gaps(self) -> list[_Gap]:
        highest = _BURST * statistics.median_low(self._usual or [0.0])
        spans = [_Span(it.start, it.end, min(it.density, highest)) for it in self._spans]
        gaps = [
            _Gap(earlier.end, later.start, earlier.density, later.density)
            for earlier, later in itertools.pairwise(spans)
            if earlier.end < later.start
        ]
        first, start = spans[0], self.windows[0][0]
        # Further back, only the existence of more objects is known.
        return [_Gap(start, first.start, first.density, first.density), *gaps] if start < first.start else gaps


def sample(api: StripeApi, object_type: ObjectType, windows: Sequence[Window]) -> Sample:
    """Read up to `MOST_PAGES` pages of objects made in `windows`. Raises as `StripeApi.page` does."""
    taken = Sample(windows)
    for _ in range(MOST_PAGES):
        before = taken.next_page()
        if before is None:
            break
        page = api.page(f"{object_type.endpoint}", {"created[gte]": windows[0][0], "created[lt]": before})
        taken.add(page.objects, before=before, has_more=page.has_more)
    return taken


def of_type(taken: Sample) -> Estimate:
    """The estimate for the sampled type itself."""
    objects = taken.count(taken.windows)
    pages = objects / MAX_LIMIT
    requests = math.ceil(pages * _NOT_FULL) if pages > 1 else 1
    return Estimate(round(objects), requests + len(taken.windows) - 1 + taken.empty_parts(), taken.exact)


def of_children(taken: Sample, child: ObjectType) -> Estimate:
    """The estimate for the children embedded in the sampled objects; each truncated list costs requests."""
    numbers = [_children(obj.get(f"{child.embedded_in}")) for obj in taken.objects.values()]
    share = taken.count(taken.windows) / len(numbers) if numbers else 0.0
    objects = sum(number for number, _ in numbers) * share
    requests = sum(math.ceil(number / MAX_LIMIT) for number, cut in numbers if cut) * share
    return Estimate(round(objects), round(requests), taken.exact)


def _children(embedded: Any) -> tuple[int, bool]:
    """How many children an object has, and whether it embeds only the first few."""
    if isinstance(embedded, dict):
        found, total = embedded.get("data"), embedded.get("total_count")
        number = len(found) if isinstance(found, list) else 0
        return (total if isinstance(total, int) else number), embedded.get("has_more") is not False
    return (len(embedded) if isinstance(embedded, list) else 0), False


def _common(gap: _Gap, windows: Sequence[Window]) -> int:
    """Seconds of a gap that lie within the windows."""
    return sum(max(0, min(gap.end, end) - max(gap.start, start)) for start, end in windows)


def _lies_in(created: int, windows: Sequence[Window]) -> bool:
    return any(start <= created < end for start, end in windows)
