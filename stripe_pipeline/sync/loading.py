"""Lists days in parallel and loads them as they arrive; rereads single objects.

This module connects the readers to the warehouse. `plan` decides which days and objects to read, and `warehouse.load`
writes the rows.
"""

from __future__ import annotations

import gc
import queue
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from types import MappingProxyType

from stripe_pipeline.batch import Batch, Mode
from stripe_pipeline.days import DAY, day_start
from stripe_pipeline.errors import (
    StripePipelineError,
    Unavailable,
)
from stripe_pipeline.stripe_api.day_files import DayRead
from stripe_pipeline.stripe_api.left_out import Unread
from stripe_pipeline.stripe_api.reader import Reader
from stripe_pipeline.sync.context import CLOCK_ERROR, Context
from stripe_pipeline.sync.plan import SWEEP, Plan, add_day, followed_since
from stripe_pipeline.sync.unread import UnreadObjects
from stripe_pipeline.warehouse.bookkeeping import Covered
from stripe_pipeline.warehouse.drift import SAMPLE
from stripe_pipeline.warehouse.load import NO_CURSORS, Cursors

THREADS = 6  # per listed type: 25 requests a second per endpoint, at 100 to 240 ms each
_ROWS_A_LOAD = 10_000
_SECONDS_A_LOAD = 3.0
_OBJECTS_A_COLLECTION = 5000  # Python objects made between two runs of the garbage collector


@contextmanager
def _few_collections() -> Iterator[None]:
    """Run Python's garbage collector less often: Stripe's objects have no cycles, and collections take CPU
    (docs/decisions/0013-hand-written-code.md)."""
    threshold, *others = gc.get_threshold()
    gc.set_threshold(max(threshold, _OBJECTS_A_COLLECTION), *others)
    try:
        yield
    finally:
        gc.set_threshold(threshold, *others)


class Loading:
    """The loads of one run with one key."""

    def __init__(self, context: Context, unread: UnreadObjects) -> None:
        self._context = context
        self._unread = unread
        self._api = context.api
        self._warehouse = context.warehouse
        self._report = context.report
        self._progress = context.progress
        self._readers = context.readers
        self.revision = context.identity.revision
        """The warehouse's after the last load."""
        self.refused: dict[str, set[str]] = {}
        """Ids, by table name, of objects not stored because a newer version is known."""
        self.coverage: Mapping[tuple[str, date], Covered] = {}
        """The coverage before days are listed; it tells since when events have announced all changes, and how many
        objects the days of the past hold."""

    def _expected(self, name: str, days: Iterable[date]) -> dict[date, int]:
        """How many objects each of the days held when it was listed after its end."""
        known = ((day, self.coverage.get((name, day))) for day in days)
        return {day: of.listed for day, of in known if of is not None and of.listed_at >= day_start(day) + DAY}

    @_few_collections()
    def list_days(self, days: Mapping[str, Mapping[date, str]]) -> dict[str, StripePipelineError]:
        """List these days of these types in parallel and load them as they arrive; returns the failed types.

        `days`: why each day is listed, by table name and day.
        """
        days_read: queue.Queue[tuple[str, DayRead | Exception | None]] = queue.Queue()
        until = int(self._api.now()) + 1 + CLOCK_ERROR
        open_lists = set()
        followed = followed_since(self.coverage) if any(days.values()) else {}
        for name, wanted in days.items():
            if wanted:
                open_lists.add(name)
                self._readers[name].list_days(
                    wanted,
                    until=until,
                    swept={day for day, how in wanted.items() if how == SWEEP},
                    expected=self._expected(name, wanted),
                    read=lambda day, name=name: days_read.put((name, day)),  # type: ignore[misc]
                    done=lambda error, name=name: days_read.put((name, error)),  # type: ignore[misc]
                )
        totals = {name: len([day for day in wanted if day_start(day) < until]) for name, wanted in days.items()}
        rows: Counter[str] = Counter()
        done: Counter[str] = Counter()
        failed: dict[str, StripePipelineError] = {}
        batches: dict[tuple[str, bool], Batch] = {}
        """By type, and whether the days were swept."""
        began = loaded_at = time.monotonic()
        held = 0
        while open_lists or batches:
            if open_lists:
                try:
                    name, item = days_read.get(timeout=_SECONDS_A_LOAD)
                except queue.Empty:
                    pass
                else:
                    if isinstance(item, DayRead):
                        how = days[name][item.listed.day]
                        swept = how == SWEEP
                        if (name, swept) not in batches:
                            batches[name, swept] = self._readers[name].batch(swept=swept)
                            batches[name, swept].followed_since = followed.get(name)
                        add_day(batches[name, swept], item, how=how)
                        rows[name] += item.rows
                        done[name] += 1
                        held += item.rows
                        if self._progress:
                            self._progress.listed(
                                name,
                                days=done[name],
                                of=totals[name],
                                rows=rows[name],
                                seconds=time.monotonic() - began,
                            )
                    else:
                        open_lists.discard(name)
                        if item is not None:
                            failed[name] = self._context.fail(self._readers[name], item)
                            if not isinstance(item, Unavailable):
                                # Refused half-way: its rows stay as they were. A late batch is kept.
                                for swept in (True, False):
                                    batches.pop((name, swept), None)
            if batches and (not open_lists or held >= _ROWS_A_LOAD or time.monotonic() - loaded_at >= _SECONDS_A_LOAD):
                self.load(list(batches.values()))
                self._warehouse.publish(force=False)
                batches, held, loaded_at = {}, 0, time.monotonic()
        return failed

    def load(self, batches: Sequence[Batch], cursors: Cursors | Callable[[], Cursors] = NO_CURSORS) -> bool:
        """Load; then check whether each object missing from a complete list is deleted, and load the result.

        `cursors`: as for `Loader.load`; returns whether a function was called.
        """
        batches = [batch for batch in batches if batch.files or batch.days or batch.tombstones]
        if not batches and not cursors:
            return False
        for batch in batches:
            if batch.days:
                self._unread.note(batch.object_type.name)
                batch.kept_out = frozenset(self._unread.of(batch.object_type.name))
        loaded = self._warehouse.load(batches, cursors=cursors, clock=self._api.clock.read())
        self._report.add(loaded)
        self.revision = loaded.revision
        for name, refused in loaded.refused.items():
            self.refused.setdefault(name, set()).update(refused)
        for batch in batches:
            for table in batch.tables:
                self._report.listed.setdefault(table.name, set()).update(day.day for day in batch.days)
            for files in batch.files.values():
                for file in files:
                    file.unlink(missing_ok=True)
        for batch, changed in loaded.changed:
            # No event may have announced the change, so that nothing else reads the children.
            if again := self.read_again(batch.object_type.name, changed):
                self.load([again])
        for batch, missing in loaded.missing:
            ids = [object_id for of_day in missing.values() for object_id in of_day]
            # Whether objects that cannot be read are gone is unknown: their rows stay.
            created = {object_id: day_start(day) for day, of_day in missing.items() for object_id in of_day}
            again = self.read_again(batch.object_type.name, ids, created=created)
            if again is None:
                continue
            again.days = [listed for listed in batch.days if listed.day in missing]
            again.skip_missing_check = True
            again.followed_since = batch.followed_since
            self.load([again])
        return callable(cursors) and loaded.is_complete

    def read_again(
        self, name: str, ids: Iterable[str], *, since: int = 0, created: Mapping[str, int] = MappingProxyType({})
    ) -> Batch | None:
        """Read these objects of a listed type, created since `since`, with all their children; None if the type failed.

        The inbox retries objects that cannot be read. `created`: the times of creation that are known, Unix seconds.
        """
        reader = self._readers[name]
        try:
            batch, bad = reader.read_again(ids, since=since)
        except Exception as error:
            self._context.fail(reader, error)
            return None
        self._unread.note(
            name, {object_id: Unread(object_id, created.get(object_id), error) for object_id, error in bad.items()}
        )
        return batch

    def sample(self, name: str, ids: Collection[str]) -> int:
        """Read these objects of a listed type again and load them, to compare their rows with Stripe; returns how many
        were compared."""
        batch = self.read_again(name, ids)
        if batch is None:
            return 0
        batch.compared = SAMPLE
        self.load([batch])
        return len(set(ids) - self._unread.of(name).keys())

    def read_singletons(self, names: Iterable[str], cursors: dict[tuple[Mode, str], float]) -> None:
        """Read these types, of which there is one object each, and load the readings; moves the cursor of each type
        that was read to the present."""
        for name in names:
            reader = self._readers[name]
            try:
                batch = reader.read_singleton()
            except Exception as error:
                self._context.fail(reader, error)
            else:
                self.load([batch])
                cursors[self._context.mode, name] = self._api.now()

    def read(
        self, reader: Reader, plan: Plan, made_since: float | None, oldest: int, *, notified: bool
    ) -> tuple[list[Batch], dict[str, StripePipelineError]]:
        """Lists all objects made since `made_since` or the plan's start, and reads the rest one by one."""
        batches = []
        bad: dict[str, StripePipelineError] = {}
        ids = plan.ids
        starts = [int(start) for start in (plan.list_since, made_since) if start is not None]
        if starts:
            batch, listed = reader.list_since(min(starts))
            batch.read_again = notified
            batches.append(batch)
            # Wanted but not listed: since deleted, or older than announced.
            ids = ids - listed
        if ids:
            batch, bad = reader.read_again(ids, since=oldest)
            batches.append(batch)
        return batches, bad
