"""Reading objects with their children from Stripe into files that the warehouse loads.

One reader serves a first load, a backfill, a seal and a poke: all give the same `Batch`. How windows are walked
belongs to `listing`, what to read to `sync`.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from stripe_pipeline.days import DAY, day_of, day_start, days_between, stretches
from stripe_pipeline.errors import BadObject, CursorLost, NotFound, RequestRefused, StripePipelineError
from stripe_pipeline.fields import FieldFilter
from stripe_pipeline.objects import ObjectType
from stripe_pipeline.resources.listing import Listed, Listing, everything, newest_first
from stripe_pipeline.resources.stripe_api import StripeApi, object_path
from stripe_pipeline.resources.warehouse import Batch, ListedDay, Mode, Tombstone
from stripe_pipeline.rows import Surprises, created_of, id_of, shape


@dataclass(frozen=True)
class DayRead:
    """One complete day of a type, in files."""

    listed: ListedDay
    files: dict[str, Path]
    rows: int
    """Objects in the type's own file."""
    span: tuple[int, int]
    """The smallest and largest `created` in it, Unix seconds."""


@dataclass
class _Day:
    """A day that is being listed."""

    left: int
    """Seconds of it that no list has covered yet."""
    until: int
    listed_at: float = float("inf")
    files: dict[str, Path] = field(default_factory=dict)
    objects: Counter[str] = field(default_factory=Counter)
    """How many objects the files hold, by table name."""
    first: int = 2**62
    last: int = -1


class Reader:
    """Reads one type and `children` with one key, in the threads of `executor`; its files lie in `folder`."""

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
        self.mode = mode
        self.surprises = Surprises()
        self._api = api
        self._fields = fields
        self._folder = folder
        self._executor = executor
        self._lock = threading.Lock()
        self._days: dict[date, _Day] = {}
        self._batches = itertools.count()
        assert object_type.endpoint is not None
        self._endpoint: str = object_type.endpoint
        self._include = [included.column for included in object_type.include]

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of the tables that what is read goes to."""
        return (self.object_type.name, *(child.name for child in self.children))

    def batch(self) -> Batch:
        """An empty batch for what this reader reads."""
        return Batch(self.object_type, self.children, self.mode)

    def list_days(
        self,
        days: Iterable[date],
        *,
        until: int,
        read: Callable[[DayRead], None],
        done: Callable[[Exception | None], None],
    ) -> None:
        """List `days` completely, up to `until` (exclusive, Unix seconds), in the background.

        `read` is called once for each day as it is complete, from several threads; `done` once at the end, with the
        first error if there was one.
        """
        begun = {day for day in days if day_start(day) < until}
        for day in begun:
            end = min(day_start(day) + DAY, until)
            self._days[day] = _Day(left=end - day_start(day), until=end)
        windows = [(day_start(first), min(day_start(last) + DAY, until)) for first, last in stretches(begun)]
        if not windows:
            done(None)
            return
        self._folder.mkdir(parents=True, exist_ok=True)

        def emit(listed: Listed) -> None:
            for day in self._store(listed):
                read(day)

        listing = Listing(self._api, self._endpoint, emit=emit, done=done, include=self._include)
        listing.start(windows, self._executor)

    def _store(self, listed: Listed) -> list[DayRead]:
        """Write a page's objects to their days' files; the days that are complete with it."""
        whole = self._with_children(listed.objects, listed.sent_at)
        by_day: dict[date, list[tuple[int, dict[str, list[bytes]]]]] = {}
        for obj, lines in whole:
            created = created_of(obj)
            by_day.setdefault(day_of(created), []).append((created, lines))
        complete = []
        with self._lock:
            for day, objects in by_day.items():
                self._append(day, objects, listed.sent_at)
            covered = days_between(day_of(listed.start), day_of(listed.end - 1)) if listed.end > listed.start else []
            for day in covered:
                found = self._days[day]
                start = day_start(day)
                found.left -= min(listed.end, start + DAY) - max(listed.start, start)
                found.listed_at = min(found.listed_at, listed.sent_at)
                if found.left == 0:
                    complete.append(self._complete(day))
        return complete

    def _append(self, day: date, objects: Sequence[tuple[int, dict[str, list[bytes]]]], sent_at: float) -> None:
        found = self._days[day]
        found.listed_at = min(found.listed_at, sent_at)
        for created, _ in objects:
            found.first, found.last = min(found.first, created), max(found.last, created)
        for table in objects[0][1]:
            found.objects[table] += sum(len(lines[table]) for _, lines in objects)
            path = found.files.setdefault(table, self._folder / f"{table}-{day}.ndjson")
            with path.open("ab") as file:
                file.writelines(line for _, lines in objects for line in lines[table])

    def _complete(self, day: date) -> DayRead:
        found = self._days.pop(day)
        listed = ListedDay(day, found.listed_at, found.until, objects=found.objects)
        return DayRead(listed, found.files, found.objects[self.object_type.name], (found.first, found.last))

    def _with_children(
        self, objects: Sequence[dict[str, Any]], sent_at: float
    ) -> list[tuple[dict[str, Any], dict[str, list[bytes]]]]:
        """Each object with its own and its children's lines by table; one that vanished meanwhile is left out."""
        whole = []
        surprises = Surprises()
        for obj in objects:
            try:
                children = {child.name: self._children_in(child, obj) for child in self.children}
                self._complete_included(obj)
            except CursorLost:
                raise  # A line is gone, not the invoice.
            except NotFound as error:
                _check_gone(error)
                # Deleted between its page and its lines: a complete list of its day will find it missing.
                continue
            whole.append((obj, self._lines(obj, children, sent_at, surprises)))
        with self._lock:
            self.surprises.update(surprises)
        return whole

    def _children_in(self, child: ObjectType, obj: dict[str, Any]) -> list[dict[str, Any]]:
        """All of an object's children: what it embeds, or, where Stripe cut that off, the whole list."""
        embedded = obj.get(child.embedded_in or "")
        if "position" in child.key:  # without a list of their own: all are embedded
            found = embedded or []
        elif isinstance(embedded, dict) and embedded.get("has_more") is False:
            found = embedded.get("data")
        else:
            return everything(self._api, object_path(self._endpoint, id_of(obj), f"{child.embedded_in}"))
        if not isinstance(found, list) or not all(isinstance(it, dict) for it in found):
            raise BadObject(
                f"Stripe sent a {self.object_type.object} ({id_of(obj)}) whose {child.embedded_in} are no objects",
                "Nothing of this type was stored in this run; if it happens again, report it with this message",
            )
        return found

    def _complete_included(self, obj: dict[str, Any]) -> None:
        """Put the whole list where Stripe cut off one that it was asked to include."""
        for included in self.object_type.include:
            found = obj.get(included.column)
            if isinstance(found, dict) and found.get("has_more") is True:
                data = everything(self._api, included.endpoint, {included.parameter: id_of(obj)})
                obj[included.column] = found | {"data": data, "has_more": False}

    def _lines(
        self,
        obj: dict[str, Any],
        children: dict[str, list[dict[str, Any]]],
        sent_at: float,
        surprises: Surprises,
    ) -> dict[str, list[bytes]]:
        row = partial(
            shape, account=self.mode.account, livemode=self.mode.livemode, fetched_at=sent_at, surprises=surprises
        )

        def line(object_type: ObjectType, of: dict[str, Any], given: dict[str, Any] | None = None) -> bytes:
            kept = self._fields.apply(object_type, of)
            return self._fields.without_secrets(object_type, row(object_type, kept, given=given))

        lines = {self.object_type.name: [line(self.object_type, obj)]}
        livemode = obj.get("livemode")
        for child in self.children:
            assert child.parent_key is not None
            given: dict[str, Any] = {child.parent_key: id_of(obj), "created": created_of(obj)}
            if isinstance(livemode, bool):
                given["livemode"] = livemode
            lines[child.name] = [
                line(child, it, given | ({"position": n} if "position" in child.key else {}))
                for n, it in enumerate(children[child.name])
            ]
        return lines

    def read_again(self, ids: Iterable[str], *, since: int = 0) -> tuple[Batch, dict[str, StripePipelineError]]:
        """Retrieve each id, with its children; and why, for those that are refused or bad while the others are not.

        What Stripe says is gone comes back as a tombstone; what turns out to be made before `since` (Unix seconds) is
        left out. Raises what `StripeApi.get` raises, but for `NotFound` and `RequestRefused`.
        """
        batch = self.batch()
        batch.read_again = True
        bad: dict[str, StripePipelineError] = {}
        self._folder.mkdir(parents=True, exist_ok=True)
        stem = f"again-{next(self._batches)}"
        asked = sorted(set(ids))
        for object_id, objects in zip(asked, self._executor.map(self._retrieve, asked), strict=True):
            if isinstance(objects, StripePipelineError):
                bad[object_id] = objects
            elif isinstance(objects, Tombstone):
                batch.tombstones.append(objects)
            else:
                created, lines = objects
                if created >= since:
                    batch.first, batch.last = min(batch.first, created), max(batch.last, created)
                    self._write(batch, stem, lines)
        return batch, bad

    def list_since(self, since: int) -> tuple[Batch, set[str]]:
        """List what was made since `since` (Unix seconds, inclusive), with children; and the ids that were listed.

        Raises as `StripeApi.page` does.
        """
        batch = self.batch()
        ids: set[str] = set()
        self._folder.mkdir(parents=True, exist_ok=True)
        stem = f"since-{next(self._batches)}"
        for page in newest_first(self._api, self._endpoint, since=since, include=self._include):
            for obj, lines in self._with_children(page.objects, page.sent_at):
                created = created_of(obj)
                ids.add(id_of(obj))
                batch.first, batch.last = min(batch.first, created), max(batch.last, created)
                self._write(batch, stem, lines)
        return batch, ids

    def _write(self, batch: Batch, stem: str, lines: dict[str, list[bytes]]) -> None:
        for table, rows in lines.items():
            path = self._folder / f"{table}-{stem}.ndjson"
            with path.open("ab") as file:
                file.writelines(rows)
            batch.files[table] = [path]

    def _retrieve(self, object_id: str) -> Tombstone | StripePipelineError | tuple[int, dict[str, list[bytes]]]:
        asked_at = self._api.now()
        try:
            reply = self._api.get(object_path(self._endpoint, object_id), {"expand": self._include})
        except NotFound as error:
            _check_gone(error)
            return Tombstone(object_id, asked_at)
        except (BadObject, RequestRefused) as error:
            return error
        if reply.data.get("deleted"):
            return Tombstone(object_id, reply.sent_at)
        try:
            whole = self._with_children([reply.data], reply.sent_at)
        except BadObject as error:
            return error
        if not whole:
            return Tombstone(object_id, reply.sent_at)
        [(obj, lines)] = whole
        return created_of(obj), lines


def _check_gone(error: NotFound) -> None:
    """Raise `error` again if it does not say that the object is gone, but that there is no such address."""
    if error.code != "resource_missing":
        raise error
