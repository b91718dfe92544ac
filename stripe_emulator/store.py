"""Objects of one type and mode in list order: insertion at any time, paging by cursor, cached JSON.

The meaning and rendering of objects belong to `shop`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


def reference(value: Any) -> Any:
    """Returns the id from a field that holds an id or an expanded object."""
    return value.get("id") if isinstance(value, dict) else value


@dataclass(frozen=True)
class Window:
    """The requested part of a list: `since <= created < until`, and the position of a cursor."""

    since: int | None = None
    until: int | None = None
    starting_after: str | None = None
    ending_before: str | None = None
    limit: int = 10


class Collection:
    """Objects by id, ordered by `created`, then by time of insertion."""

    INDEXED = (
        *(
            "charge",
            "checkout_session",
            "credit_note",
            "customer",
            "email",
            "fee",
            "invoice",
            "payment_intent",
            "source",
        ),
        *("subscription", "transfer"),
    )
    """Indexed fields: finding objects by their values needs no full scan."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.rendered: dict[str, bytes] = {}
        """Cached JSON of objects read since their last change."""
        self._places: dict[str, tuple[int, int, str]] = {}
        self._order: list[tuple[int, int, str]] = []
        self._late: list[tuple[int, int, str]] = []
        """Positions not yet sorted in, so that adding many objects at any times costs one sort."""
        self._index: dict[tuple[str, object], set[str]] = {}
        self._added = 0

    def __len__(self) -> int:
        return len(self.objects)

    def __contains__(self, object_id: str) -> bool:
        return object_id in self.objects

    def __iter__(self) -> Iterator[str]:
        """Iterates over ids, newest first."""
        return (place[2] for place in reversed(self._sorted()))

    def put(self, object_id: str, obj: Json, created: int) -> None:
        """Add or replace an object; a replaced object keeps its position unless `created` differs."""
        place = self._places.get(object_id)
        if place is not None:
            self._unindex(object_id)
        if place is None or place[0] != created:
            if place is not None:
                self._leave(place)
            self._added += 1
            place = self._places[object_id] = (created, self._added, object_id)
            in_order = not self._order or self._order[-1] < place
            (self._order if in_order else self._late).append(place)
        self.objects[object_id] = obj
        self.rendered.pop(object_id, None)
        for name in self.INDEXED:
            if name in obj:
                self._index.setdefault((name, reference(obj[name])), set()).add(object_id)

    def change(self, object_id: str, obj: Json) -> None:
        """Replace an object in its position."""
        self.put(object_id, obj, self._places[object_id][0])

    def remove(self, object_id: str) -> Json:
        """Remove and return an object."""
        self._unindex(object_id)
        self._leave(self._places.pop(object_id))
        self.rendered.pop(object_id, None)
        return self.objects.pop(object_id)

    def created(self, object_id: str) -> int:
        """Returns the object's list time, in Unix seconds."""
        return self._places[object_id][0]

    def with_value(self, name: str, value: object) -> Iterable[str]:
        """Returns ids of objects whose field `name` (one of `INDEXED`) is `value` or an object with that id."""
        return self._index.get((name, value), ())

    def page(
        self,
        window: Window,
        wanted: Callable[[str, Json], bool] | None = None,
        among: Iterable[str] | None = None,
    ) -> tuple[list[str], bool]:
        """Returns the ids of one page, newest first, and whether more ids follow in the paging direction.

        `among` narrows the list before `wanted` is called. A cursor outside the window gives an empty page, the
        strictest behaviour that Stripe's documentation allows for a cursor from another window.
        """
        order = self._sorted() if among is None else sorted(self._places[object_id] for object_id in among)
        low = 0 if window.since is None else bisect_left(order, (window.since,))
        high = len(order) if window.until is None else bisect_left(order, (window.until,))
        cursor = window.starting_after or window.ending_before
        backwards = window.starting_after is None and window.ending_before is not None
        if cursor is not None:
            place = self._places[cursor]
            if (window.since is not None and place[0] < window.since) or (
                window.until is not None and place[0] >= window.until
            ):
                return [], False
            low, high = (bisect_right(order, place), high) if backwards else (low, bisect_left(order, place))
        ids: list[str] = []
        for at in range(low, high) if backwards else range(high - 1, low - 1, -1):
            object_id = order[at][2]
            if wanted is None or wanted(object_id, self.objects[object_id]):
                ids.append(object_id)
                if len(ids) > window.limit:
                    break
        more = len(ids) > window.limit
        ids = ids[: window.limit]
        return (ids[::-1] if backwards else ids), more

    def _sorted(self) -> list[tuple[int, int, str]]:
        if len(self._late) > 50:
            self._order += self._late
            self._order.sort()
        else:
            for place in self._late:
                insort(self._order, place)
        self._late = []
        return self._order

    def _leave(self, place: tuple[int, int, str]) -> None:
        order = self._sorted()
        del order[bisect_left(order, place)]

    def _unindex(self, object_id: str) -> None:
        obj = self.objects[object_id]
        for name in self.INDEXED:
            if name in obj:
                self._index[(name, reference(obj[name]))].discard(object_id)
