"""Estimates from a few pages how many objects a period has, and how many requests it takes to list them.

Stripe does not return counts: a page shows the density of a hundred objects, and the density between pages is
interpolated. Bursts, such as invoices that are all made on the first of a month, are easily missed.
docs/decisions/0014-about-how-long-a-load-takes.md has the precision. Deciding what to read belongs to `sync`, listing
to `stripe_api.listing`.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
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
_BURST = 10  # times as dense as most pages: a single burst, which says nothing about its surroundings
_FAR = 1000  # times the span of a page: too far to extrapolate
_NOT_FULL = 1.1  # `listing` splits long spans into windows, whose last pages are not full


@dataclass(frozen=True)
class Estimate:
    """The number of objects, and the cost of reading."""

    objects: int
    requests: int
    exact: bool
    """Whether `objects` is an exact count."""


@dataclass(frozen=True)
class _Page:
    """The time that one page covers."""

    start: int
    end: int
    density: float
    """Objects per second."""
    has_more: bool


@dataclass(frozen=True)
class _Gap:
    """A time that no page covers, with the density at both ends."""

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
        self._pages: list[_Page] = []

    def add(self, objects: Sequence[dict[str, Any]], *, before: int, has_more: bool) -> None:
        """Add the page of the newest objects made before `before` (Unix seconds)."""
        self.objects.update((id_of(obj), obj) for obj in objects)
        # The last second may have more objects.
        start = min(created_of(objects[-1]) + 1, before - 1) if has_more else self.windows[0][0]
        page = _Page(start, before, len(objects) / (before - start), has_more)
        self._pages = sorted([*self._pages, page], key=lambda page: page.end)

    def next_page(self) -> int | None:
        """The time (Unix seconds) before which another page would tell the most; None if no page is needed."""
        if not self._pages:
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
            span = MAX_LIMIT / gap.after
            if sum(page.has_more for page in self._pages) == 1 and length > _FAR * span:
                return gap.end - int(math.sqrt(length * span))
            middle = gap.end - length // 4
        if length < 2 * _WEEK:
            return middle
        aligned = self._pages[-1].end - len(self._pages) * _STEP
        return middle + (aligned - middle + _WEEK // 2) % _WEEK - _WEEK // 2

    def count(self) -> float:
        """The estimated number of objects in the windows."""
        seen = sum(any(start <= created_of(obj) < end for start, end in self.windows) for obj in self.objects.values())
        return seen + sum((gap.before + gap.after) / 2 * self._seconds(gap) for gap in self._gaps())

    @property
    def exact(self) -> bool:
        """Whether the pages cover everything."""
        return not any(self._seconds(gap) for gap in self._gaps())

    def _at_most(self, gap: _Gap) -> float:
        return max(gap.before, gap.after) * self._seconds(gap)

    def _seconds(self, gap: _Gap) -> int:
        """Seconds of the gap that lie within the windows."""
        return sum(max(0, min(gap.end, end) - max(gap.start, start)) for start, end in self.windows)

    def _gaps(self) -> list[_Gap]:
        usual = statistics.median_low([page.density for page in self._pages if page.has_more] or [0.0])
        ends = [(page.start, page.end, min(page.density, _BURST * usual)) for page in self._pages]
        # Further back than the oldest page, only the existence of more objects is known.
        first = self.windows[0][0]
        ends.insert(0, (first, first, ends[0][2]))
        return [
            _Gap(end, start, before, after)
            for (_, end, before), (start, _, after) in itertools.pairwise(ends)
            if end < start
        ]


def sample(
    api: StripeApi, object_type: ObjectType, windows: Sequence[Window], params: Mapping[str, str | int | Sequence[str]]
) -> Sample:
    """Read up to `MOST_PAGES` pages of objects made in `windows`, from the list with these `params`. Raises as
    `StripeApi.page` does."""
    taken = Sample(windows)
    for _ in range(MOST_PAGES):
        before = taken.next_page()
        if before is None:
            break
        window = {"created[gte]": windows[0][0], "created[lt]": before}
        page = api.page(f"{object_type.endpoint}", {**params, **window})
        taken.add(page.objects, before=before, has_more=page.has_more)
    return taken


def first_page(api: StripeApi, object_type: ObjectType) -> tuple[Estimate, list[dict[str, Any]]]:
    """The estimate for a type of which no window can be listed, from one page, and the objects of the page. Raises as
    `StripeApi.page` does."""
    if object_type.singleton:
        return Estimate(1, 1, True), [api.get(f"{object_type.endpoint}").data]
    page = api.page(f"{object_type.endpoint}", object_type.lists[0])
    return Estimate(len(page.objects), len(object_type.lists) + page.has_more, not page.has_more), page.objects


def of_type(taken: Sample) -> Estimate:
    """The estimate for the sampled type itself, from one of its lists."""
    objects = taken.count()
    pages = objects / MAX_LIMIT
    requests = math.ceil(pages * _NOT_FULL) if pages > 1 else 1
    return Estimate(round(objects), requests + len(taken.windows) - 1, taken.exact)


def of_children(taken: Sample, child: ObjectType) -> Estimate:
    """The estimate for the children of the sampled objects; each truncated list costs requests, and so does the list of
    each parent that carries no children, whose number is unknown."""
    if child.embedded_in is None:
        return Estimate(0, round(taken.count()), False)
    numbers = [_children(obj.get(f"{child.embedded_in}")) for obj in taken.objects.values()]
    share = taken.count() / len(numbers) if numbers else 0.0
    objects = sum(number for number, _ in numbers) * share
    requests = sum(math.ceil(number / MAX_LIMIT) for number, truncated in numbers if truncated) * share
    return Estimate(round(objects), round(requests), taken.exact)


def _children(embedded: Any) -> tuple[int, bool]:
    """How many children an object has, and whether it embeds only the first few."""
    if isinstance(embedded, dict):
        children, total = embedded.get("data"), embedded.get("total_count")
        number = len(children) if isinstance(children, list) else 0
        return (total if isinstance(total, int) else number), embedded.get("has_more") is not False
    return (len(embedded) if isinstance(embedded, list) else 0), False
