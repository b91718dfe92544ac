"""Reading objects with their children from Stripe into files that the warehouse loads.

One reader serves a first load, a backfill, a seal and a notification: all yield the same `Batch`. Reading windows
belongs to `listing`, the parts of an object to `lines`, the completeness of days to `day_files`, whether an error is
about one object to `probe`, deciding what to read to `sync`.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any

from stripe_pipeline.batch import Batch, Mode, Tombstone
from stripe_pipeline.days import DAY, day_of, day_start, days_between, stretches
from stripe_pipeline.errors import BadObject, StripePipelineError, Unavailable
from stripe_pipeline.fields import FieldFilter
from stripe_pipeline.objects import UNDATED, ObjectType
from stripe_pipeline.rows import Surprises, check, created_of, id_of
from stripe_pipeline.stripe_api.client import Page, StripeApi
from stripe_pipeline.stripe_api.day_files import DayFiles, DayRead, LinesByTable, append
from stripe_pipeline.stripe_api.left_out import LeftOut, Unread
from stripe_pipeline.stripe_api.lines import Lines
from stripe_pipeline.stripe_api.listing import Listed, Listing, WholeListing, at_last, newest_first, outside
from stripe_pipeline.stripe_api.probe import Probe
from stripe_pipeline.stripe_api.retrieval import Retrieval


class Reader:
    """Reads one type and `children` with one key, in the threads of `executor`; writes files to `folder`."""

    def __init__(
        self,
        api: StripeApi,
        object_type: ObjectType,
        children: tuple[ObjectType, ...],
        mode: Mode,
        fields: FieldFilter,
        *,
        folder: Path,
        executor: Executor,
    ) -> None:
        self.object_type = object_type
        self.children = children
        self._carried = tuple(child for child in children if child.embedded_in)
        """The children that can be read without a request for each parent."""
        self.mode = mode
        self.surprises = Surprises()
        self.unlisted: dict[date, StripePipelineError] = {}
        """Days that Stripe does not list, although it lists others."""
        self._api = api
        self._folder = folder
        self._executor = executor
        self._lock = threading.Lock()
        self._days = DayFiles(folder, object_type.name)
        self._left_out = LeftOut(self._days, self._lock, self._created)
        self._swept: frozenset[date] = frozenset()
        self._batches = itertools.count()
        assert object_type.endpoint is not None
        self._endpoint: str = object_type.endpoint
        self._include = included_paths(object_type, children)
        self._probe = Probe(api, self._endpoint)
        self._lines = Lines(api, object_type, children, mode, fields, self._probe)
        self._retrieval = Retrieval(api, object_type, self._lines, self._probe, self._check, self._include)

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of the tables for the objects read."""
        return (self.object_type.name, *(child.name for child in self.children))

    @property
    def unread(self) -> dict[str, Unread]:
        """The listed objects that could not be read so far, by id.

        Their days count as listed all the same: callers that load such a day must make sure to retry the object.
        """
        return self._left_out.unread

    def batch(self, *, swept: bool = False) -> Batch:
        """An empty batch for this reader's objects; `swept`: for those of days that `list_days` sweeps."""
        children = self._carried if swept else self.children
        return Batch(
            self.object_type,
            children,
            self.mode,
            number=next(self._batches),
            without_children=len(children) < len(self.children),
        )

    def list_days(
        self,
        days: Iterable[date],
        *,
        until: int,
        read: Callable[[DayRead], None],
        done: Callable[[Exception | None], None],
        swept: Collection[date] = (),
        expected: Mapping[date, int] = MappingProxyType({}),
    ) -> None:
        """List `days` completely, up to `until` (exclusive, Unix seconds), in the background.

        Of `swept` days, children that take a request for each parent are not read. `expected`: how many objects a day
        held when it was listed after its end. `read` is called once for each day when it is complete, from several
        threads; `done` once at the end, with the first error, if any.
        """
        begun = {day for day in days if day_start(day) < until}
        lists, self._swept = self.object_type.lists, frozenset(swept)
        self._days.begin(begun, until=until, lists=len(lists))
        windows = [(day_start(first), min(day_start(last) + DAY, until)) for first, last in stretches(begun)]
        if not windows:
            done(None)
            return
        self._folder.mkdir(parents=True, exist_ok=True)

        def emit(listed: Listed) -> None:
            for day in self._store(listed):
                read(day)

        end = at_last(len(lists), done)
        for params in lists:
            listing: Listing | WholeListing
            if self.object_type.whole:
                listing = WholeListing(
                    self._api,
                    self._endpoint,
                    emit=emit,
                    done=end,
                    include=self._include,
                    params=params,
                    check=self._check,
                    created=self._created,
                )
            else:
                listing = Listing(
                    self._api,
                    self._endpoint,
                    emit=emit,
                    done=end,
                    include=self._include,
                    params=params,
                    check=self._check,
                    expected=expected,
                    give_up=self._give_up,
                    works=lambda error: self._probe.is_special(error, None),
                )
            listing.start(windows, self._executor)

    def _created(self, obj: dict[str, Any]) -> int:
        """The `created` of the object's row, Unix seconds; raises `BadObject` if Stripe sent no valid time."""
        return created_of(obj) if self.object_type.dated else UNDATED

    def _check(self, obj: dict[str, Any]) -> None:
        check(obj, self.object_type, livemode=self.mode.livemode)

    def _give_up(self, start: int, end: int, error: Unavailable) -> None:
        """Stripe does not list this span: its days are not complete."""
        with self._lock:
            for day in days_between(day_of(start), day_of(end - 1)):
                self.unlisted.setdefault(day, error)

    def _store(self, listed: Listed) -> list[DayRead]:
        """Write a page's objects to their days' files; returns the days completed by the page."""
        completed = self._with_children(listed.objects, listed.sent_at, repaired=listed.repaired)
        by_day: dict[date, list[tuple[int, LinesByTable]]] = {}
        for obj, lines in completed:
            created = self._created(obj)
            by_day.setdefault(day_of(created), []).append((created, lines))
        for obj, error in listed.odd:
            self._left_out.add(obj, error, (listed.start, listed.end))
        with self._lock:
            for day, objects in by_day.items():
                if day in self._days:
                    self._days.append(day, objects, listed.sent_at)
                else:  # out of order: the day was complete
                    for obj, _ in completed:
                        if day_of(self._created(obj)) == day:
                            self._left_out.put(Unread(id_of(obj), None, outside(obj, listed.start, listed.end)))
            return self._days.cover(listed.start, listed.end, listed.sent_at, listed.receipts)

    def _with_children(
        self, objects: Sequence[dict[str, Any]], sent_at: float, *, repaired: bool
    ) -> list[tuple[dict[str, Any], LinesByTable]]:
        """Each object with its own and its children's lines by table; objects that were deleted since are omitted, and
        unreadable objects are kept out (`LeftOut`)."""
        completed = []
        surprises = Surprises()
        for obj in objects:
            try:
                swept = self._swept and day_of(self._created(obj)) in self._swept
                children = self._carried if swept else self.children
                lines = self._lines.of(obj, sent_at, surprises, repaired=repaired, children=children)
            except StripePipelineError as error:
                self._left_out.add(obj, self._probe.blame(error, id_of(obj)), (0, 0))
            else:
                if lines is not None:  # else a complete list of the day detects the deletion
                    completed.append((obj, lines))
        with self._lock:
            self.surprises.update(surprises)
        return completed

    def read_again(self, ids: Iterable[str], *, since: int = 0) -> tuple[Batch, dict[str, StripePipelineError]]:
        """Retrieve each id, with its children; also returns the errors of single objects that are refused or bad while
        others are not, or for which time ran out.

        Objects that Stripe reports as deleted become tombstones; objects created before `since` (Unix seconds) are
        left out. Raises the errors of `StripeApi.get` that do not concern single objects, and `OSError`.
        """
        batch = self.batch()
        batch.read_again = True
        bad: dict[str, StripePipelineError] = {}
        self._folder.mkdir(parents=True, exist_ok=True)
        wanted = sorted(set(ids))
        for object_id, result in zip(wanted, self._executor.map(self._retrieval.retrieve, wanted), strict=True):
            if isinstance(result, StripePipelineError):
                bad[object_id] = result
            elif isinstance(result, Tombstone):
                batch.tombstones.append(result)
            else:
                created = self._created(result.obj)
                with self._lock:
                    self.surprises.update(result.surprises)
                if created >= since:
                    self._add(batch, created, result.lines)
        return batch, bad

    def list_since(self, since: int) -> tuple[Batch, set[str]]:
        """List the objects created since `since` (Unix seconds, inclusive), with children; also returns the listed ids.

        Raises as `StripeApi.page` does, and `OSError`.
        """
        batch = self.batch()
        ids: set[str] = set()
        for params in self.object_type.lists:
            for page in newest_first(self._api, self._endpoint, since=since, include=self._include, params=params):
                ids |= self.take(page, batch, since=since)
        return batch, ids

    def take(self, page: Page, batch: Batch, *, since: int) -> set[str]:
        """Add a page of objects created since `since` (Unix seconds, inclusive) to `batch`; returns the ids.

        Raises as `StripeApi.page` does, and `OSError`.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        span = (since, int(page.sent_at) + 1)
        good = []
        for obj in page.objects:
            try:
                self._check(obj)
                if created_of(obj) < since:
                    raise outside(obj, since, math.inf)
            except BadObject as error:
                self._left_out.add(obj, error, span)
            else:
                good.append(obj)
        ids = set()
        for obj, lines in self._with_children(good, page.sent_at, repaired=page.repaired):
            ids.add(id_of(obj))
            self._add(batch, created_of(obj), lines)
        return ids

    def read_singleton(self) -> Batch:
        """Read the only object of the type, with the time of the reading. Raises as `StripeApi.get` does, `BadObject`,
        and `OSError`."""
        batch = self.batch()
        batch.read_again = True
        self._folder.mkdir(parents=True, exist_ok=True)
        reply = self._api.get(self._endpoint)
        lines = self._lines.of(reply.data, reply.sent_at, self.surprises, repaired=reply.repaired)
        if lines is not None:
            self._add(batch, int(reply.sent_at), lines)
        return batch

    def _add(self, batch: Batch, created: int, lines: LinesByTable) -> None:
        """Write the lines of an object to the batch's files."""
        batch.first, batch.last = min(batch.first, created), max(batch.last, created)
        for table, rows in lines.items():
            batch.files[table] = [append(self._folder, f"{table}-batch{batch.number}", rows)]


def endpoint_of_children(parent: ObjectType, child: ObjectType) -> str:
    """The endpoint of the list of all children of a parent; `id` stands for the parent's."""
    return child.child_list.path.format(id="id") if child.child_list else f"{parent.endpoint}/id/{child.embedded_in}"


def included_paths(object_type: ObjectType, children: Iterable[ObjectType]) -> list[str]:
    """The fields of an object that Stripe is asked to send."""
    paths = [included.column for included in object_type.include]
    for child in children:
        if child.on_request:
            paths += child.carried_in
    return paths
