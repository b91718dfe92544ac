"""Reading objects with their children from Stripe into files that the warehouse loads.

One reader serves a first load, a backfill, a seal and a poke: all give the same `Batch`. How windows are walked
belongs to `listing`, what to read to `sync`.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from stripe_pipeline import odd_json
from stripe_pipeline.batch import Batch, ListedDay, Mode, Tombstone
from stripe_pipeline.days import DAY, day_of, day_start, days_between, stretches
from stripe_pipeline.errors import (
    AuthenticationFailed,
    BadObject,
    Cancelled,
    CursorLost,
    NotFound,
    OutOfTime,
    RequestRefused,
    StripePipelineError,
    Unavailable,
)
from stripe_pipeline.fields import FieldFilter
from stripe_pipeline.objects import ObjectType
from stripe_pipeline.rows import Surprises, check, created_of, id_of, is_id, shape
from stripe_pipeline.stripe_api.client import StripeApi, is_addressable, object_path, odd_answer
from stripe_pipeline.stripe_api.keys import NAMELESS
from stripe_pipeline.stripe_api.listing import Listed, Listing, everything, newest_first, outside
from stripe_pipeline.stripe_api.rate_limits import endpoint_of

_GONE = "resource_missing"
"""Stripe's error code for an object that is not there; a 404 without it is about the address."""
_OTHERS = 3  # objects that are tried before a request is taken to fail for all


@dataclass(frozen=True)
class DayRead:
    """One complete day of a type, in files."""

    listed: ListedDay
    files: dict[str, Path]
    rows: int
    """Objects in the type's own file."""
    span: tuple[int, int]
    """The smallest and largest `created` in it, Unix seconds."""


@dataclass(frozen=True)
class Unread:
    """An object that was met in a list, or looked for, and could not be read."""

    id: str
    """Its id; `NAMELESS` and the day where Stripe sent none."""
    created: int | None
    """Unix seconds, where that is known and right."""
    error: StripePipelineError


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
        self._unread: dict[str, Unread] = {}
        self.unlisted: dict[date, StripePipelineError] = {}
        """Days that Stripe does not list, while it lists others."""
        self._works: dict[str, bool] = {}
        self._probing = threading.Lock()
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

    @property
    def unread(self) -> dict[str, Unread]:
        """What could not be read of lists so far, by id.

        Its day counts as listed all the same: whoever loads that day must see to it that the object is not forgotten.
        """
        with self._lock:
            return dict(self._unread)

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

        listing = Listing(
            self._api,
            self._endpoint,
            emit=emit,
            done=done,
            include=self._include,
            check=self._check,
            give_up=self._give_up,
            works=lambda error: self._is_special(error, None),
        )
        listing.start(windows, self._executor)

    def _check(self, obj: dict[str, Any]) -> None:
        check(obj, self.object_type, livemode=self.mode.livemode)

    def _give_up(self, start: int, end: int, error: Unavailable) -> None:
        """Stripe does not list this span: its days are not complete."""
        with self._lock:
            for day in days_between(day_of(start), day_of(end - 1)):
                self.unlisted.setdefault(day, error)

    def _store(self, listed: Listed) -> list[DayRead]:
        """Write a page's objects to their days' files; the days that are complete with it."""
        whole = self._with_children(listed.objects, listed.sent_at, repaired=listed.repaired)
        by_day: dict[date, list[tuple[int, dict[str, list[bytes]]]]] = {}
        for obj, lines in whole:
            created = created_of(obj)
            by_day.setdefault(day_of(created), []).append((created, lines))
        for obj, error in listed.odd:
            self._keep_out(obj, error, (listed.start, listed.end))
        complete = []
        with self._lock:
            for day, objects in by_day.items():
                if day in self._days:
                    self._append(day, objects, listed.sent_at)
                else:  # out of order: its day was complete
                    for obj, _ in whole:
                        if day_of(created_of(obj)) == day:
                            self._unread[id_of(obj)] = Unread(id_of(obj), None, outside(obj, listed.start, listed.end))
            covered = days_between(day_of(listed.start), day_of(listed.end - 1)) if listed.end > listed.start else []
            for day in covered:
                found = self._days[day]
                start = day_start(day)
                found.left -= min(listed.end, start + DAY) - max(listed.start, start)
                found.listed_at = min(found.listed_at, listed.sent_at)
                if found.left == 0:
                    complete.append(self._finish(day))
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

    def _finish(self, day: date) -> DayRead:
        found = self._days.pop(day)
        listed = ListedDay(day, found.listed_at, found.until, objects=found.objects)
        return DayRead(listed, found.files, found.objects[self.object_type.name], (found.first, found.last))

    def _with_children(
        self, objects: Sequence[dict[str, Any]], sent_at: float, *, repaired: bool
    ) -> list[tuple[dict[str, Any], dict[str, list[bytes]]]]:
        """Each object with its own and its children's lines by table; one that vanished meanwhile is left out, and one
        that cannot be read is kept out."""
        whole = []
        surprises = Surprises()
        for obj in objects:
            try:
                lines = self._complete(obj, sent_at, surprises, repaired=repaired)
            except StripePipelineError as error:
                self._keep_out(obj, self._blame(error, id_of(obj)), (0, 0))
            else:
                if lines is not None:  # else a complete list of its day will find it missing
                    whole.append((obj, lines))
        with self._lock:
            self.surprises.update(surprises)
        return whole

    def _complete(
        self, obj: dict[str, Any], sent_at: float, surprises: Surprises, *, repaired: bool
    ) -> dict[str, list[bytes]] | None:
        """The lines of an object and its children by table; None if it was deleted since it was read.

        Raises `BadObject`, and what `StripeApi.get` raises.
        """
        try:
            children = {child.name: self._children_in(child, obj) for child in self.children}
            self._complete_included(obj)
        except NotFound as error:
            if isinstance(error, CursorLost) or error.code != _GONE:
                raise  # the error is about a line or about the address, so the object itself may exist
            return None
        if repaired:
            _note_replaced(self.object_type, obj, surprises)
        try:
            return self._lines(obj, children, sent_at, surprises)
        except RecursionError:
            raise BadObject(
                f"The object {id_of(obj)!r} is nested too deeply",
                "It is kept out and the others of its type go on; report it with this message if it stays so",
            ) from None

    def _keep_out(self, obj: dict[str, Any], error: StripePipelineError, span: tuple[int, int]) -> None:
        """Note an object of a list that cannot be stored; `span` is the part of the list that it was met in."""
        try:
            created: int | None = created_of(obj)
        except BadObject:
            created = None
        if span != (0, 0) and not (created is not None and span[0] <= created < span[1]):
            created = None
        object_id = obj.get("id")
        with self._lock:
            if is_id(object_id):
                self._unread[str(object_id)] = Unread(str(object_id), created, error)
            else:
                # Without an id only the list of its day can bring it in.
                near = max(span[0], span[1] - 1) if created is None else created
                name = f"{NAMELESS}{day_of(near)}"
                self._unread[name] = Unread(name, near, error)
            if created is not None and day_of(created) in self._days:
                self._days[day_of(created)].objects[self.object_type.name] += 1

    def _blame(self, error: StripePipelineError, object_id: str) -> StripePipelineError:
        """`error`, if it is about this object alone; raises it if it is about the type, the key or all of Stripe."""
        if isinstance(error, BadObject) or self._is_special(error, object_id):
            return error
        raise error

    def _is_special(self, error: StripePipelineError, object_id: str | None) -> bool:
        """Whether what was refused works for other objects, or for a list of other days where there is no `object_id`.

        Asked of Stripe at most once a run for each kind of request, and only if no other one was answered.
        """
        if not isinstance(error, (NotFound, RequestRefused, Unavailable)) or (
            isinstance(error, Unavailable) and error.status in (None, 429)
        ):
            return False
        kind = self._kind(error.path)
        with self._probing:
            if kind not in self._works:
                self._works[kind] = self._probe(kind, object_id)
            return self._works[kind]

    def _kind(self, path: str) -> str:
        """What requests to `path` are alike to: those for single objects are not like those for their list."""
        return f"{self._endpoint}/{{id}}" if path.rpartition("/")[0] == self._endpoint else endpoint_of(path)

    def _probe(self, kind: str, object_id: str | None) -> bool:
        """Whether Stripe answers a request of this kind for another object."""
        one_below = kind.removeprefix(f"{self._endpoint}/{{id}}").strip("/")
        try:
            page = self._api.page(kind if "{id}" not in kind else self._endpoint, limit=1 + _OTHERS)
        except (AuthenticationFailed, Cancelled):
            raise
        except StripePipelineError:
            return False
        others = [it["id"] for it in page.objects if is_id(it.get("id")) and it["id"] != object_id]
        others = [it for it in others if is_addressable(it)][:_OTHERS]
        if "{id}" not in kind or not others:
            return True
        for other in others:
            below = (one_below,) if one_below else ()
            try:
                self._api.get(object_path(self._endpoint, other, *below))
            except (AuthenticationFailed, Cancelled):
                raise
            except NotFound as error:
                if error.code == _GONE:
                    return True
            except StripePipelineError:
                continue
            else:
                return True
        return False

    def _answered(self, path: str) -> None:
        self._works[self._kind(path)] = True

    def _children_in(self, child: ObjectType, obj: dict[str, Any]) -> list[dict[str, Any]]:
        """All of an object's children: what it embeds, or, where Stripe cut that off, the whole list."""
        embedded = obj.get(child.embedded_in or "")
        if "position" in child.key:  # without a list of their own: all are embedded
            found = embedded or []
        elif isinstance(embedded, dict) and embedded.get("has_more") is False:
            found = embedded.get("data")
        else:
            path = object_path(self._endpoint, id_of(obj), f"{child.embedded_in}")
            found = everything(self._api, path)
            self._answered(path)
            return found
        if not isinstance(found, list) or not all(isinstance(it, dict) for it in found):
            raise BadObject(
                f"Stripe sent a {self.object_type.object} ({id_of(obj)}) whose {child.embedded_in} are no objects",
                "It is kept out and the others of its type go on; report it with this message if it stays so",
            )
        return found

    def _complete_included(self, obj: dict[str, Any]) -> None:
        """Put the whole list where Stripe cut off one that it was asked to include."""
        for included in self.object_type.include:
            found = obj.get(included.column)
            if isinstance(found, dict) and found.get("has_more") is True:
                data = everything(self._api, included.endpoint, {included.parameter: id_of(obj)})
                self._answered(included.endpoint)
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
        """Retrieve each id, with its children; and why, for those that are refused or bad while the others are not, or
        that there was no time for.

        What Stripe says is gone comes back as a tombstone; what turns out to be made before `since` (Unix seconds) is
        left out. Raises what `StripeApi.get` raises where that is not about single objects, and `OSError`.
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

        Raises as `StripeApi.page` does, and `OSError`.
        """
        batch = self.batch()
        ids: set[str] = set()
        self._folder.mkdir(parents=True, exist_ok=True)
        stem = f"since-{next(self._batches)}"
        for page in newest_first(self._api, self._endpoint, since=since, include=self._include):
            good = []
            for it in page.objects:
                try:
                    self._check(it)
                    if created_of(it) < since:
                        raise outside(it, since, math.inf)
                except BadObject as error:
                    self._keep_out(it, error, (since, int(page.sent_at) + 1))
                else:
                    good.append(it)
            for obj, lines in self._with_children(good, page.sent_at, repaired=page.repaired):
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
        surprises = Surprises()
        try:
            path = object_path(self._endpoint, object_id)
            try:
                reply = self._api.get(path, {"expand": self._include})
            except NotFound as error:
                if error.code != _GONE:
                    raise
                self._answered(path)
                return Tombstone(object_id, asked_at)
            obj = reply.data
            if obj.get("id") != object_id or obj.get("object", self.object_type.object) != self.object_type.object:
                raise odd_answer(path, f"is not the {self.object_type.object} that was asked for")
            self._answered(path)
            if obj.get("deleted"):
                return Tombstone(object_id, reply.sent_at)
            self._check(obj)
            lines = self._complete(obj, reply.sent_at, surprises, repaired=reply.repaired)
        except OutOfTime as error:
            return error
        except StripePipelineError as error:
            return self._blame(error, object_id)
        if lines is None:
            return Tombstone(object_id, reply.sent_at)
        with self._lock:
            self.surprises.update(surprises)
        return created_of(obj), lines


def _note_replaced(object_type: ObjectType, obj: dict[str, Any], surprises: Surprises) -> None:
    """Count the fields of an object that hold replaced text."""
    for name, value in obj.items():
        if odd_json.REPLACEMENT in str(value):
            surprises.add(object_type.name, f"{name} (invalid Unicode, replaced)", id_of(obj))
