"""Objects of one type and mode in list order: adding anywhere in time, paging by cursor, cached JSON.

What an object means, and how it is rendered, belongs to `shop`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Window:
    """The part of a list that is asked for: `since <= created < until`, and the place of a cursor in it."""

    since: int | None = None
    until: int | None = None
    starting_after: str | None = None
    ending_before: str | None = None
    limit: int = 10


class Collection:
    """Objects by id, ordered by `created` and then by when they were added."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.rendered: dict[str, bytes] = {}
        """JSON of objects that have been read since they last changed."""
        self._places: dict[str, tuple[int, int, str]] = {}
        self._order: list[tuple[int, int, str]] = []
        self._added = 0

    def __len__(self) -> int:
        return len(self.objects)

    def __contains__(self, object_id: str) -> bool:
        return object_id in self.objects

    def __iter__(self) -> Iterator[str]:
        """Ids, newest first."""
        return (place[2] for place in reversed(self._order))

    def put(self, object_id: str, obj: Json, created: int) -> None:
        """Add an object, or replace it; a replaced one keeps its place unless `created` differs."""
        place = self._places.get(object_id)
        if place is None or place[0] != created:
            if place is not None:
                self._leave(place)
            self._added += 1
            place = (created, self._added, object_id)
            self._places[object_id] = place
            if self._order and place < self._order[-1]:
                insort(self._order, place)
            else:
                self._order.append(place)
        self.objects[object_id] = obj
        self.rendered.pop(object_id, None)

    def change(self, object_id: str, obj: Json) -> None:
        """Replace an object where it is."""
        self.put(object_id, obj, self._places[object_id][0])

    def remove(self, object_id: str) -> Json:
        """Take an object out and return it."""
        self._leave(self._places.pop(object_id))
        self.rendered.pop(object_id, None)
        return self.objects.pop(object_id)

    def created(self, object_id: str) -> int:
        """The second under which the object is listed."""
        return self._places[object_id][0]

    def page(self, window: Window, wanted: Callable[[str, Json], bool] | None = None) -> tuple[list[str], bool]:
        """The ids of one page, newest first, and whether more follow in the direction of paging.

        A cursor outside the window gives an empty page, the harshest thing Stripe's documentation allows for one
        that is used with another window.
        """
        low = 0 if window.since is None else bisect_left(self._order, (window.since,))
        high = len(self._order) if window.until is None else bisect_left(self._order, (window.until,))
        cursor = window.starting_after or window.ending_before
        backwards = window.starting_after is None and window.ending_before is not None
        if cursor is not None:
            at = bisect_left(self._order, self._places[cursor])
            if not low <= at < high:
                return [], False
            low, high = (at + 1, high) if backwards else (low, at)
        found: list[str] = []
        for at in range(low, high) if backwards else range(high - 1, low - 1, -1):
            object_id = self._order[at][2]
            if wanted is None or wanted(object_id, self.objects[object_id]):
                found.append(object_id)
                if len(found) > window.limit:
                    break
        more = len(found) > window.limit
        found = found[: window.limit]
        return (found[::-1] if backwards else found), more

    def _leave(self, place: tuple[int, int, str]) -> None:
        del self._order[bisect_left(self._order, place)]
