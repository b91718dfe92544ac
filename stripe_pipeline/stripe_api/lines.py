"""One object with its children as lines of NDJSON: truncated lists are completed, excluded fields are removed.

This module decides which parts make up an object. The columns of a line belong to `rows`, the choice of fields to
`fields`, the choice of objects to `reader`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from stripe_pipeline import odd_json
from stripe_pipeline.batch import Mode
from stripe_pipeline.errors import BadObject, CursorLost, NotFound
from stripe_pipeline.fields import FieldFilter
from stripe_pipeline.objects import ObjectType
from stripe_pipeline.rows import LEFT_OUT, Surprises, created_of, id_of, shape
from stripe_pipeline.stripe_api.client import StripeApi
from stripe_pipeline.stripe_api.day_files import LinesByTable
from stripe_pipeline.stripe_api.listing import everything
from stripe_pipeline.stripe_api.paths import object_path
from stripe_pipeline.stripe_api.probe import Probe
from stripe_pipeline.stripe_api.refusals import RESOURCE_MISSING


class Lines:
    """Completes objects of one type with their `children` and builds their lines; thread-safe.

    `probe` learns which requests were answered.
    """

    def __init__(
        self,
        api: StripeApi,
        object_type: ObjectType,
        children: tuple[ObjectType, ...],
        mode: Mode,
        fields: FieldFilter,
        probe: Probe,
    ) -> None:
        self._api = api
        self._object_type = object_type
        self._children = children
        self._mode = mode
        self._fields = fields
        self._probe = probe

    def of(self, obj: dict[str, Any], sent_at: float, surprises: Surprises, *, repaired: bool) -> LinesByTable | None:
        """The lines of an object and its children by table; None if the object has since been deleted.

        Raises `BadObject`, and as `StripeApi.get` does.
        """
        try:
            children = {child.name: self._children_in(child, obj) for child in self._children}
            self._complete_included(obj)
        except NotFound as error:
            if isinstance(error, CursorLost) or error.code != RESOURCE_MISSING:
                raise  # the error is about a line or about the address, so the object itself may exist
            return None
        if repaired:
            _note_replaced(self._object_type, obj, surprises)
        try:
            return self._shaped(obj, children, sent_at, surprises)
        except RecursionError:
            raise BadObject(f"The object {id_of(obj)!r} is nested too deeply", LEFT_OUT) from None

    def _children_in(self, child: ObjectType, obj: dict[str, Any]) -> list[dict[str, Any]]:
        """All children of an object: the embedded ones or, if Stripe truncated them, the whole list."""
        embedded = obj.get(child.embedded_in or "")
        if "position" in child.key:  # no list endpoint: all children are embedded
            children = embedded or []
        elif isinstance(embedded, dict) and embedded.get("has_more") is False:
            children = embedded.get("data")
        else:
            path = object_path(f"{self._object_type.endpoint}", id_of(obj), f"{child.embedded_in}")
            children = everything(self._api, path)
            self._probe.answered(path)
            return children
        if not isinstance(children, list) or not all(isinstance(entry, dict) for entry in children):
            raise BadObject(
                f"Stripe sent the {self._object_type.object} {id_of(obj)}, whose {child.embedded_in} are not objects",
                LEFT_OUT,
            )
        return children

    def _complete_included(self, obj: dict[str, Any]) -> None:
        """Complete the included lists that Stripe truncated."""
        for included in self._object_type.include:
            truncated = obj.get(included.column)
            if isinstance(truncated, dict) and truncated.get("has_more") is True:
                data = everything(self._api, included.endpoint, {included.parameter: id_of(obj)})
                self._probe.answered(included.endpoint)
                obj[included.column] = truncated | {"data": data, "has_more": False}

    def _shaped(
        self,
        obj: dict[str, Any],
        children: dict[str, list[dict[str, Any]]],
        sent_at: float,
        surprises: Surprises,
    ) -> LinesByTable:
        row = partial(
            shape, account=self._mode.account, livemode=self._mode.livemode, fetched_at=sent_at, surprises=surprises
        )

        def line(object_type: ObjectType, of: dict[str, Any], inherited: dict[str, Any] | None = None) -> bytes:
            fields = self._fields.apply(object_type, of)
            return self._fields.without_secrets(object_type, row(object_type, fields, from_parent=inherited))

        lines = {self._object_type.name: [line(self._object_type, obj)]}
        livemode = obj.get("livemode")
        for child in self._children:
            assert child.parent_key is not None
            inherited: dict[str, Any] = {child.parent_key: id_of(obj), "created": created_of(obj)}
            if isinstance(livemode, bool):
                inherited["livemode"] = livemode
            lines[child.name] = [
                line(child, child_obj, inherited | ({"position": n} if "position" in child.key else {}))
                for n, child_obj in enumerate(children[child.name])
            ]
        return lines


def _note_replaced(object_type: ObjectType, obj: dict[str, Any], surprises: Surprises) -> None:
    """Count the object's fields with replaced text."""
    for name, value in obj.items():
        if odd_json.REPLACEMENT in str(value):
            surprises.add(object_type.name, f"{name} (invalid Unicode, replaced)", id_of(obj))
