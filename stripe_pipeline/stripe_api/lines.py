"""One object with its children as lines of NDJSON: truncated lists are completed, excluded fields are removed.

This module decides which parts make up an object. The columns of a line belong to `rows`, the choice of fields to
`fields`, the choice of objects to `reader`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from stripe_pipeline import odd_json
from stripe_pipeline.batch import Mode
from stripe_pipeline.errors import BadObject, CursorLost, NotFound
from stripe_pipeline.fields import FieldFilter
from stripe_pipeline.objects import UNDATED, ObjectType
from stripe_pipeline.rows import LEFT_OUT, Surprises, created_of, id_of, shape
from stripe_pipeline.stripe_api.client import Params, StripeApi
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

    def of(
        self,
        obj: dict[str, Any],
        sent_at: float,
        surprises: Surprises,
        *,
        repaired: bool,
        children: Sequence[ObjectType] | None = None,
    ) -> LinesByTable | None:
        """The lines of an object and its children, by default of all child types, by table; None if the object has
        since been deleted.

        Raises `BadObject`, and as `StripeApi.get` does.
        """
        try:
            of_types = self._children if children is None else children
            children_by_type = {child.name: self._children_in(child, obj) for child in of_types}
            self._take_out_requested(obj, children_by_type)
            self._complete_included(obj)
        except NotFound as error:
            if isinstance(error, CursorLost) or error.code != RESOURCE_MISSING:
                raise  # the error is about a line or about the address, so the object itself may exist
            return None
        if repaired:
            _note_replaced(self._object_type, obj, surprises)
        try:
            return self._shaped(obj, children_by_type, sent_at, surprises)
        except RecursionError:
            raise BadObject(f"The object {id_of(obj)!r} is nested too deeply", LEFT_OUT) from None

    def _children_in(self, child: ObjectType, obj: dict[str, Any]) -> list[dict[str, Any]]:
        """All children of an object: the embedded ones or, if Stripe truncated them, the whole list."""
        embedded = obj.get(child.embedded_in or "")
        if child.child_list and any(obj.get(field) != value for field, value in child.child_list.only_if.items()):
            return []
        if child.plain:
            children = [] if child.on_request else embedded or []  # see `_take_out_requested`
        elif isinstance(embedded, dict) and embedded.get("has_more") is False:
            children = embedded.get("data")
        else:
            path, params = self._list_of(child, id_of(obj))
            children = everything(self._api, path, params)
            self._probe.answered(path)
            return children
        if not isinstance(children, list) or not all(isinstance(entry, dict) for entry in children):
            raise BadObject(
                f"Stripe sent the {self._object_type.object} {id_of(obj)}, whose {child.embedded_in} are not objects",
                LEFT_OUT,
            )
        return children

    def _list_of(self, child: ObjectType, parent_id: str) -> tuple[str, Params]:
        """The path and parameters of the list of all children of a parent."""
        params: dict[str, str | int | Sequence[str]] = {}
        # What these children carry is requested with the parent, and here, too.
        if carried := [other for other in self._children if other.also_in and other.also_in == child.embedded_in]:
            params["expand"] = [f"data.{other.embedded_in}" for other in carried]
        if child.child_list is None:
            return object_path(f"{self._object_type.endpoint}", parent_id, f"{child.embedded_in}"), params
        if child.child_list.parameter:
            return child.child_list.path, params | {child.child_list.parameter: parent_id}
        before, after = child.child_list.path.split("/{id}")
        return f"{object_path(before, parent_id)}{after}", params

    def _take_out_requested(self, obj: dict[str, Any], children: dict[str, list[dict[str, Any]]]) -> None:
        """Restore the object, and its children of other types, to the form without the children that Stripe sends only
        on request; adds those that lie deeper to `children`."""
        for child in self._children:
            if not child.on_request:
                continue
            field = f"{child.embedded_in}"
            if not child.plain:
                obj.pop(field, None)
                continue
            by_id: dict[str, dict[str, Any]] = {}
            for holder in [obj, *self._listed_in(obj, child.also_in, children)]:
                carried = holder.get(field)
                if isinstance(carried, list):
                    by_id |= {id_of(entry): entry for entry in carried if isinstance(entry, dict)}
                    holder[field] = [entry.get("id") if isinstance(entry, dict) else entry for entry in carried]
            if child.name in children:
                children[child.name] = list(by_id.values())

    def _listed_in(
        self, obj: dict[str, Any], field: str | None, children: dict[str, list[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        """The objects of an object's list: those that it embeds, and those that were read as its children."""
        embedded = obj.get(field or "")
        listed = list(embedded.get("data") or []) if isinstance(embedded, dict) else []
        for other in self._children:
            if field and other.embedded_in == field:
                listed += children.get(other.name, [])
        return listed

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

        lines = {self._object_type.name: [line(self._object_type, obj, _added_to(self._object_type, obj, sent_at))]}
        livemode = obj.get("livemode")
        for child in self._children:
            if child.name not in children:
                continue
            assert child.parent_key is not None
            inherited: dict[str, Any] = {child.parent_key: id_of(obj)}
            if not child.dated_apart:
                inherited["created"] = created_of(obj) if self._object_type.dated else UNDATED
            if isinstance(livemode, bool):
                inherited["livemode"] = livemode
            lines[child.name] = [
                line(child, *_own(child, child_obj, n, inherited)) for n, child_obj in enumerate(children[child.name])
            ]
        return lines


def _own(
    child: ObjectType, obj: dict[str, Any], position: int, inherited: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a child that are stored, and the values of the columns that the pipeline adds."""
    if child.link:
        return {}, inherited | {child.link: id_of(obj)}
    return obj, inherited | ({"position": position} if "position" in child.key else {})


def _added_to(object_type: ObjectType, obj: dict[str, Any], sent_at: float) -> dict[str, Any]:
    """The values of the columns that the pipeline adds to an object of a listed type."""
    added: dict[str, Any] = {}
    if not object_type.dated:
        added["created"] = UNDATED
    if object_type.singleton:
        added["created"] = int(sent_at)
        if "id" not in obj:
            added["id"] = object_type.object
    for column, path in object_type.derived:
        value: Any = obj
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, str):
            added[column] = value
    return added


def _note_replaced(object_type: ObjectType, obj: dict[str, Any], surprises: Surprises) -> None:
    """Count the object's fields with replaced text."""
    for name, value in obj.items():
        if odd_json.REPLACEMENT in str(value):
            surprises.add(object_type.name, f"{name} (invalid Unicode, replaced)", id_of(obj))
