"""Notifications that wait in the inbox: which objects they want to be read, and how each fared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from stripe_pipeline.errors import (
    OutOfTime,
    StripePipelineError,
)
from stripe_pipeline.inbox.notification import Poke
from stripe_pipeline.objects import BY_STRIPE_OBJECT
from stripe_pipeline.sync.context import Context
from stripe_pipeline.sync.loading import Loading
from stripe_pipeline.sync.plan import (
    BALANCE_TRANSACTIONS,
)
from stripe_pipeline.sync.unread import UnreadObjects


class Notifications:
    """The notifications of one run with one key."""

    def __init__(self, context: Context, unread: UnreadObjects, loading: Loading) -> None:
        self._context = context
        self._unread = unread
        self._loading = loading
        self._mode = context.mode
        self._inbox = context.inbox
        self._report = context.report
        self._readers = context.readers

    def waiting(self, *, due: float = math.inf, most: int | None = None) -> dict[str, list[Poke]]:
        """Pokes by table name: all that wait, or those that may be tried at `due` (Unix seconds), of `most` objects."""
        waiting: dict[str, list[Poke]] = {}
        objects: set[tuple[str, str]] = set()
        for poke in self._inbox.waiting(self._mode, now=due):
            it = (poke.object, poke.object_id)
            if most is None or it in objects or len(objects) < most:
                objects.add(it)
                waiting.setdefault(BY_STRIPE_OBJECT[poke.object].name, []).append(poke)
        return waiting

    def wanted(
        self, pokes: Mapping[str, Sequence[Poke]], due: Iterable[tuple[str, int]], oldest: Mapping[str, int]
    ) -> dict[str, dict[str, int | None]]:
        """The objects to read again, with their `created` where it is known: those that pokes name, and balance
        transactions that are `due`. What was made before the `oldest` of its type, Unix seconds, is left out: a change
        does not bring it in."""
        wanted: dict[str, dict[str, int | None]] = {
            name: {
                poke.object_id: poke.object_created
                for poke in pokes.get(name, ())
                if poke.object_created is None or poke.object_created >= first
            }
            for name, first in oldest.items()
        }
        if BALANCE_TRANSACTIONS in wanted:
            wanted[BALANCE_TRANSACTIONS] |= dict(due)
        return wanted

    def acknowledge(
        self,
        pokes: Mapping[str, Sequence[Poke]],
        failed: Mapping[str, StripePipelineError],
        bad: Mapping[str, Mapping[str, StripePipelineError]],
    ) -> None:
        """Tell the inbox how its pokes fared.

        What was read for a poke and then taken for older than what is known goes on waiting: another run may have read
        the object before it changed and yet a moment later by its idea of Stripe's clock.
        """
        done: list[Poke] = []
        for name in {**self._readers, **pokes}:
            them = pokes.get(name, ())
            if name in failed:
                # Nothing is wrong with what they name: they wait for as long as it takes.
                self._inbox.defer(them, failed[name])
            problems = {} if name in failed else dict(bad.get(name, {}))
            problems |= {object_id: it.error for object_id, it in self._unread.of(name).items()}
            late = {object_id: error for object_id, error in problems.items() if isinstance(error, OutOfTime)}
            problems = {object_id: error for object_id, error in problems.items() if object_id not in late}
            naming: dict[str, list[Poke]] = {}
            for poke in (*them, *self._unread.notifications(name)):
                naming.setdefault(poke.object_id, []).append(poke)
            for object_id, error in problems.items():
                self._inbox.failed(naming.get(object_id, ()), error)
            for object_id, error in late.items():
                self._inbox.defer(naming.get(object_id, ()), error)
                self._context.fail(self._readers[name], error)
            if name not in failed:
                again = problems.keys() | late.keys() | self._loading.refused.get(name, set())
                done += [poke for poke in them if poke.object_id not in again]
            if name in self._readers:
                self._unread.report(name, problems)
        self._inbox.applied(done, revision=self._loading.revision)
        self._report.applied += len(done)
