"""The listed objects that cannot be stored, each with the reason.

This module records them. Whether an error is about one object belongs to `probe`, retrying the objects to `sync`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stripe_pipeline.days import day_of
from stripe_pipeline.errors import BadObject, StripePipelineError
from stripe_pipeline.rows import is_id
from stripe_pipeline.stripe_api.day_files import DayFiles
from stripe_pipeline.stripe_api.paths import NAMELESS


@dataclass(frozen=True)
class Unread:
    """A listed or requested object that could not be read."""

    id: str
    """The id, or `NAMELESS` and the day if Stripe sent none."""
    created: int | None
    """Unix seconds, if known and valid."""
    error: StripePipelineError


class LeftOut:
    """The objects of one type that were listed and cannot be stored; thread-safe with `lock`, which guards `days`.

    `created` returns the `created` of an object's row, or raises `BadObject`.
    """

    def __init__(self, days: DayFiles, lock: threading.Lock, created: Callable[[dict[str, Any]], int]) -> None:
        self._days = days
        self._lock = lock
        self._created = created
        self._unread: dict[str, Unread] = {}

    @property
    def unread(self) -> dict[str, Unread]:
        """The objects so far, by id."""
        with self._lock:
            return dict(self._unread)

    def put(self, unread: Unread) -> None:
        """Record an object. The caller holds the lock."""
        self._unread[unread.id] = unread

    def add(self, obj: dict[str, Any], error: StripePipelineError, span: tuple[int, int]) -> None:
        """Record a listed object; `span` is the part of the list that contained the object."""
        try:
            created: int | None = self._created(obj)
        except BadObject:
            created = None
        if span != (0, 0) and not (created is not None and span[0] <= created < span[1]):
            created = None
        object_id = obj.get("id")
        with self._lock:
            if is_id(object_id):
                self.put(Unread(str(object_id), created, error))
            else:
                # Without an id, only a list of the day can read the object.
                near = max(span[0], span[1] - 1) if created is None else created
                self.put(Unread(f"{NAMELESS}{day_of(near)}", near, error))
            if created is not None and day_of(created) in self._days:
                self._days.count(day_of(created))
