"""Reading windows of `created` from a list endpoint, in parallel, each object once.

Storing the objects belongs to `reader`; reading a single page belongs to `client`.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import date
from types import MappingProxyType
from typing import Any

from stripe_pipeline.days import DAY, day_of, day_start, days_between
from stripe_pipeline.errors import BadObject, CursorLost, Unavailable
from stripe_pipeline.rows import created_of, id_of, is_id
from stripe_pipeline.stripe_api.client import MAX_LIMIT, Page, Params, StripeApi
from stripe_pipeline.stripe_api.refusals import odd_answer

_WORTH_SPLITTING = 8  # pages that must remain to justify another window, with its perhaps half-empty last page
_MAX_PARTS = 8
_ENOUGH = 12  # windows at once, twice the number of threads: each additional window ends with a half-empty page
_SPLITS = 40  # of windows that Stripe does not list; if there are more, the cause is not single days
_NOTHING_REQUESTED = "says that more objects follow, but holds none of the requested ones"
_RESTARTS = 4  # without progress, of a list that changes faster than it can be read


@dataclass(frozen=True)
class Listed:
    """One page's objects, and the span of `created` that the page lists completely."""

    objects: list[dict[str, Any]]
    odd: list[tuple[dict[str, Any], BadObject]]
    """Objects that do not belong in the list, and why."""
    start: int
    """Inclusive, Unix seconds; `end` is exclusive. Equal if the page lies within one second."""
    end: int
    sent_at: float
    repaired: bool = False
    """As in `Page`."""
    request_id: str | None = None
    """As in `Page`."""
    last_request: str | None = None
    """The id of the last request, if the list took several."""

    @property
    def receipts(self) -> tuple[str | None, str | None]:
        """The ids of the requests for the newest and for the oldest objects."""
        return self.request_id, self.last_request or self.request_id


class Listing:
    """One type's lists over some windows. `emit` is called from several threads, once per page.

    A window is read from its newest object on. If a page shows that many objects are left while few windows are open,
    the rest is split into smaller windows that are read in parallel; a window always ends on a whole second, and
    objects of a page's last second are not emitted twice. `include`: fields that Stripe sends only on request.
    `params`: further parameters of the list. `expected`: how many objects days of the past hold, as far as earlier
    lists tell: one page alone is misleading where objects come in bursts.
    `check` raises `BadObject` for an object that does not belong in the list. `give_up` gets a span (start, end) of
    at most a day that Stripe does not list, and the error; it says whether the others can go on.
    """

    def __init__(
        self,
        api: StripeApi,
        endpoint: str,
        *,
        emit: Callable[[Listed], None],
        done: Callable[[Exception | None], None],
        include: Sequence[str] = (),
        params: Mapping[str, str] = MappingProxyType({}),
        check: Callable[[dict[str, Any]], object] = created_of,
        expected: Mapping[date, int] = MappingProxyType({}),
        give_up: Callable[[int, int, Unavailable], None] | None = None,
        works: Callable[[Unavailable], bool] = lambda _: False,
    ) -> None:
        self._api = api
        self._endpoint = endpoint
        self._check = check
        self._expected = expected
        self._give_up = give_up
        self._works = works
        self._splits = 0
        self._asked = {**expand(include), **params}
        self._emit = emit
        self._done = done
        self._lock = threading.Lock()
        self._open = 0
        self._error: Exception | None = None
        self._shown: dict[int, set[str]] = {}

    def start(self, windows: Iterable[tuple[int, int]], executor: Executor) -> None:
        """Read `windows` (start inclusive, end exclusive, Unix seconds); `done` is called once, at the end.

        After an error no more requests are sent, and `done` gets the first error.
        """
        windows = list(windows)
        with self._lock:
            self._open += len(windows)
        for window in windows:
            executor.submit(self._run, window, executor)

    def _run(self, window: tuple[int, int], executor: Executor) -> None:
        try:
            if self._error is None:
                self._walk(*window, executor)
        except Exception as error:
            with self._lock:
                self._error = self._error or error
        with self._lock:
            self._open -= 1
            last = self._open == 0
        if last:
            self._done(self._error)

    def _walk(self, start: int, end: int, executor: Executor) -> None:
        window = (start, end)
        cursor: str | None = None
        left = end  # exclusive upper bound of the unlisted rest
        tail: set[str] = set()  # ids of the last page's final second
        before: set[str] = set()  # ids on the last page
        futile = 0  # restarts since the last object that was new
        while self._error is None:
            try:
                bounds = {"created[gte]": window[0], "created[lt]": window[1]}
                page = self._api.page(self._endpoint, self._asked | bounds, starting_after=cursor)
            except CursorLost:
                # The object before the page is gone. Continue from its second, as a new window.
                if futile == _RESTARTS:
                    raise
                futile += 1
                self._remember(left - 1, tail)
                window, cursor = (start, left), None
                continue
            except Unavailable as error:
                self._remember(left - 1, tail)
                self._isolate(start, left, error, executor)
                return
            good, odd = self._sorted_out(page.objects, start, end)
            objects = self._unseen([obj for obj in good if obj["id"] not in before])
            before = {obj["id"] for obj in good}
            futile = 0 if objects else futile
            if not page.has_more:
                self._emit(Listed(objects, odd, start, left, page.sent_at, page.repaired, page.request_id))
                return
            oldest = min(left - 1, created_of(good[-1])) if good else left - 1
            self._emit(Listed(objects, odd, oldest + 1, left, page.sent_at, page.repaired, page.request_id))
            if not good:
                self._remember(left - 1, tail)
                nothing = odd_answer(self._endpoint, _NOTHING_REQUESTED)
                self._isolate(start, left, nothing, executor)
                return
            # Not an odd object: after an object outside the window, a page may be empty
            # (docs/stripe.md#lists).
            cursor = good[-1]["id"]
            at_oldest = {obj["id"] for obj in good if created_of(obj) == oldest}
            tail = tail | at_oldest if oldest + 1 == left else at_oldest
            listed_span = left - oldest
            left = oldest + 1
            if 2 * len(tail) > len(page.objects):
                continue  # A crowded second: a split would read it again, and it says nothing about the rest.
            parts = self._parts(start, left, listed_span)
            if len(parts) > 1:
                self._remember(oldest, tail)
                self.start(parts, executor)
                return

    def _sorted_out(
        self, objects: Iterable[dict[str, Any]], start: int, end: int
    ) -> tuple[list[dict[str, Any]], list[tuple[dict[str, Any], BadObject]]]:
        """The objects in a window, and the odd ones."""
        good, odd = [], []
        for obj in objects:
            try:
                self._check(obj)
                id_of(obj)
                if not start <= created_of(obj) < end:
                    raise outside(obj, start, end)
            except BadObject as error:
                odd.append((obj, error))
            else:
                good.append(obj)
        return good, odd

    def _isolate(self, start: int, end: int, error: Unavailable, executor: Executor) -> None:
        """Halve a window that Stripe does not list, down to a day, if Stripe answers other requests."""
        if self._give_up is None or self._splits >= _SPLITS or not self._works(error):
            raise error
        middle = day_start(day_of((start + end) // 2))
        middle = middle if middle > start else middle + DAY
        if middle >= end:
            self._give_up(start, end, error)
            return
        with self._lock:
            self._splits += 1
        self.start([(start, middle), (middle, end)], executor)

    def _parts(self, start: int, left: int, listed_span: int) -> Sequence[tuple[int, int]]:
        """Splits the rest of a window into parts worth reading in parallel, judged by the span of one page and by the
        number of objects expected."""
        pages_left = (left - start) / max(1, listed_span)
        if self._expected and pages_left >= _WORTH_SPLITTING:
            days = days_between(day_of(start), day_of(left - 1))
            pages_left = min(pages_left, sum(self._expected.get(day, math.inf) for day in days) / MAX_LIMIT)
        with self._lock:
            room = _ENOUGH - self._open + 1  # this one closes
        number = min(_MAX_PARTS, room, int(pages_left // (_WORTH_SPLITTING / 2)), left - start)
        if pages_left < _WORTH_SPLITTING or number < 2:
            return [(start, left)]
        edges = [start + (left - start) * n // number for n in range(number + 1)]
        return list(itertools.pairwise(edges))

    def _remember(self, second: int, ids: set[str]) -> None:
        with self._lock:
            self._shown.setdefault(second, set()).update(ids)

    def _unseen(self, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
        with self._lock:
            if not self._shown:
                return objects
            return [obj for obj in objects if id_of(obj) not in self._shown.get(created_of(obj), ())]


class WholeListing:
    """One type's list of which no window can be requested; used as `Listing` is, except that objects outside the
    windows are left out.

    `created` returns the `created` of an object's row. The list may be long, so that each page is emitted as it is
    read. If the list must be started over, an object that was deleted meanwhile counts as listed: its event, or the
    next list, reports the deletion.
    """

    def __init__(
        self,
        api: StripeApi,
        endpoint: str,
        *,
        emit: Callable[[Listed], None],
        done: Callable[[Exception | None], None],
        include: Sequence[str],
        params: Mapping[str, str],
        check: Callable[[dict[str, Any]], object],
        created: Callable[[dict[str, Any]], int],
    ) -> None:
        self._api = api
        self._endpoint = endpoint
        self._emit = emit
        self._done = done
        self._params = {**expand(include), **params}
        self._check = check
        self._created = created

    def start(self, windows: Sequence[tuple[int, int]], executor: Executor) -> None:
        """Read the list and emit its objects in `windows` (start inclusive, end exclusive, Unix seconds); `done` is
        called once, at the end, with the error, if any."""
        executor.submit(self._run, windows)

    def _run(self, windows: Sequence[tuple[int, int]]) -> None:
        try:
            self._read(windows)
        except Exception as error:
            self._done(error)
        else:
            self._done(None)

    def _read(self, windows: Sequence[tuple[int, int]]) -> None:
        began = math.inf
        requests: list[str | None] = []
        all_odd: list[tuple[dict[str, Any], BadObject]] = []
        for page in self._pages():
            began = min(began, page.sent_at)
            requests.append(page.request_id)
            good = []
            for obj in page.objects:
                try:
                    self._check(obj)
                    created = self._created(obj)
                except BadObject as error:
                    all_odd.append((obj, error))
                else:
                    if any(start <= created < end for start, end in windows):
                        good.append(obj)
            self._emit(Listed(good, [], 0, 0, page.sent_at, page.repaired))
        for start, end in windows:
            odd = all_odd if end == windows[-1][1] else []
            self._emit(Listed([], odd, start, end, began, request_id=requests[0], last_request=requests[-1]))

    def _pages(self) -> Iterator[Page]:
        """The pages of the list, each object once."""
        shown: set[str] = set()
        for attempt in range(_RESTARTS + 1):
            try:
                for page in self._api.pages(self._endpoint, self._params):
                    yield _without(page, shown)
                return
            except CursorLost:
                if attempt == _RESTARTS:
                    raise


def at_last(lists: int, done: Callable[[Exception | None], None]) -> Callable[[Exception | None], None]:
    """A function to be called at the end of each of so many `lists`, from any thread: the last call passes the first
    error to `done`."""
    lock = threading.Lock()
    ended: list[Exception | None] = []

    def end(error: Exception | None) -> None:
        with lock:
            ended.append(error)
            last = len(ended) == lists
        if last:
            done(next(filter(None, ended), None))

    return end


def newest_first(
    api: StripeApi,
    endpoint: str,
    *,
    since: int,
    include: Sequence[str] = (),
    params: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Page]:
    """The pages of objects created since `since` (Unix seconds, inclusive), each object once.

    `include`: fields that Stripe sends only on request. `params`: further parameters of the list.
    Continues at the same point if the object that a page should start after vanishes; raises `CursorLost` if this
    repeats without progress, otherwise as `StripeApi.page` does.
    """
    window = left = {**expand(include), **params, "created[gte]": since}
    shown: set[str] = set()
    futile = 0
    cursor: str | None = None
    while True:
        try:
            page = api.page(endpoint, window, starting_after=cursor)
        except CursorLost:
            if futile == _RESTARTS:
                raise
            futile += 1
            window, cursor = left, None
            continue
        fresh = _without(page, shown)
        futile = 0 if fresh.objects else futile
        yield fresh
        if not page.has_more:
            return
        inside = [
            obj
            for obj in page.objects
            if is_id(obj.get("id")) and (created := _valid_created(obj)) is not None and created >= since
        ]
        if not inside or inside[-1]["id"] == cursor:
            raise odd_answer(endpoint, _NOTHING_REQUESTED)
        cursor = inside[-1]["id"]
        left = left | {"created[lt]": created_of(inside[-1]) + 1}


def _without(page: Page, shown: set[str]) -> Page:
    """The page without the objects whose ids are among `shown`; adds the ids of the others."""
    objects = [obj for obj in page.objects if not is_id(obj.get("id")) or obj["id"] not in shown]
    shown.update(obj["id"] for obj in objects if is_id(obj.get("id")))
    return replace(page, objects=objects)


def _valid_created(obj: dict[str, Any]) -> int | None:
    """The `created` of an object; None if it is not valid."""
    try:
        return created_of(obj)
    except BadObject:
        return None


def outside(obj: dict[str, Any], start: int, end: float) -> BadObject:
    """The error for an object that was not created in the requested window."""
    return BadObject(
        f"Stripe listed {obj['id']!r}, created at {obj['created']}, although objects from {start} until {end} were"
        " requested (Unix seconds)",
        "The object is read by its id instead",
    )


def everything(api: StripeApi, path: str, params: Params | None = None) -> list[dict[str, Any]]:
    """All objects of a list without a window, newest first, as of one moment.

    Starts over if the object that a page should start after vanishes; raises `CursorLost` if this keeps happening,
    otherwise as `StripeApi.page` does.
    """
    for attempt in range(_RESTARTS + 1):
        try:
            return [obj for page in api.pages(path, params) for obj in page.objects]
        except CursorLost:
            if attempt == _RESTARTS:
                raise
    raise AssertionError("unreachable")


def expand(include: Sequence[str]) -> dict[str, str | int | Sequence[str]]:
    """The list parameter that requests fields of the objects."""
    return {"expand": [f"data.{field}" for field in include]} if include else {}
