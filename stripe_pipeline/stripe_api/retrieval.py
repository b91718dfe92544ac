"""Reading one object by its id, with its children.

This module decides whether an answer is the object, a deletion or an error of this one object. The choice of objects
belongs to `reader`, the parts of an object to `lines`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stripe_pipeline.batch import Tombstone
from stripe_pipeline.errors import NotFound, OutOfTime, StripePipelineError
from stripe_pipeline.objects import ObjectType
from stripe_pipeline.rows import Surprises
from stripe_pipeline.stripe_api.client import StripeApi
from stripe_pipeline.stripe_api.day_files import LinesByTable
from stripe_pipeline.stripe_api.lines import Lines
from stripe_pipeline.stripe_api.paths import object_path
from stripe_pipeline.stripe_api.probe import Probe
from stripe_pipeline.stripe_api.refusals import RESOURCE_MISSING, odd_answer


@dataclass(frozen=True)
class Retrieved:
    """An object as Stripe sent it, its lines and those of its children."""

    obj: dict[str, Any]
    lines: LinesByTable
    surprises: Surprises


class Retrieval:
    """Reads single objects of one type; thread-safe. `check` raises `BadObject` for an object of another type or mode,
    `include` are the fields that Stripe is asked to send."""

    def __init__(
        self,
        api: StripeApi,
        object_type: ObjectType,
        lines: Lines,
        probe: Probe,
        check: Callable[[dict[str, Any]], None],
        include: Sequence[str],
    ) -> None:
        self._api = api
        self._object_type = object_type
        self._lines = lines
        self._probe = probe
        self._check = check
        self._include = include

    def retrieve(self, object_id: str) -> Tombstone | StripePipelineError | Retrieved:
        """The object; a tombstone if Stripe says that the object is deleted; or the error, if others of its type can be
        read.

        Raises the errors of `StripeApi.get` that do not concern single objects.
        """
        asked_at = self._api.now()
        surprises = Surprises()
        try:
            path = object_path(f"{self._object_type.endpoint}", object_id)
            try:
                reply = self._api.get(path, {"expand": self._include})
            except NotFound as error:
                if error.code != RESOURCE_MISSING:
                    raise
                self._probe.answered(path)
                return Tombstone(object_id, asked_at)
            obj = reply.data
            if obj.get("id") != object_id or obj.get("object", self._object_type.object) != self._object_type.object:
                raise odd_answer(path, f"is not the requested {self._object_type.object}")
            self._probe.answered(path)
            if obj.get("deleted"):
                return Tombstone(object_id, reply.sent_at)
            self._check(obj)
            lines = self._lines.of(obj, reply.sent_at, surprises, repaired=reply.repaired)
        except OutOfTime as error:
            return error
        except StripePipelineError as error:
            return self._probe.blame(error, object_id)
        if lines is None:
            return Tombstone(object_id, reply.sent_at)
        return Retrieved(obj, lines, surprises)
