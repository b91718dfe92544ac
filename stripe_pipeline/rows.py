"""Between a Stripe object and its row: shaping for the load, restoring for a reader.

This module decides which value goes into which column and which values `_extra` keeps. `warehouse` holds the SQL,
`stripe_api.reader` reads objects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import orjson

from stripe_pipeline.errors import BadObject, shown
from stripe_pipeline.objects import KINDS, OBJECT_TYPES, ObjectType

_OBJECT = re.compile(r"[a-z_.]{1,60}")

LONGEST_ROW = 16_000_000
"""Bytes; DuckDB reads at most 16 MiB of JSON as one object."""
_SHOWN = 80  # characters of an id in a message
LEFT_OUT = "The object is left out; the others of its type are stored. If later runs show this message again, report it"
"""The remedy of a `BadObject`."""
# Shops may choose the ids of their customers. Percent-encoded, an id of this length still fits into a URL.
_ID = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,500}")


@dataclass
class Surprises:
    """Values of an unexpected type, counted by `table.field` with the id of one object that has it."""

    seen: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, table: str, name: str, object_id: str) -> None:
        """Count one value of field `name` of `table`, which `object_id` has."""
        count, example = self.seen.get(f"{table}.{name}", (0, object_id))
        self.seen[f"{table}.{name}"] = (count + 1, example)

    def update(self, other: Surprises) -> None:
        """Add the counts of `other`."""
        for where, (count, example) in other.seen.items():
            mine, first = self.seen.get(where, (0, example))
            self.seen[where] = (mine + count, first)

    def __str__(self) -> str:
        return "; ".join(f"{where}: {count} (e.g. {example})" for where, (count, example) in sorted(self.seen.items()))


_Call = Callable[[Any], Any]


@cache
def _fields(table: str) -> Mapping[str, tuple[type | None, _Call | None, _Call | None]]:
    """By field name, the parts of `Kind` that decide where a value goes: a tuple is faster to read than the object."""
    kinds = {column.name: column.kind for column in OBJECT_TYPES[table].columns}
    return {name: (kind.python_type, kind.fits, kind.convert) for name, kind in kinds.items()}


@cache
def _added(table: str) -> frozenset[str]:
    return frozenset(column.name for column in OBJECT_TYPES[table].columns if column.added)


def shape(
    object_type: ObjectType,
    obj: Mapping[str, Any],
    *,
    account: str,
    livemode: bool,
    fetched_at: float,
    surprises: Surprises,
    from_parent: Mapping[str, Any] | None = None,
) -> bytes:
    """One line of NDJSON for the load: `obj` as a row of `object_type`'s table.

    `livemode` is the key's mode, used if the object has none. `fetched_at`: when the request was sent, seconds on
    Stripe's clock. `from_parent`: values of columns that come from the parent instead of the object. Null fields are
    left out; an expanded reference becomes its id; unknown fields, expanded references and values of an unexpected type
    are kept in `_extra` as received. Timestamps stay Unix seconds, `_fetched_at` is in microseconds: the load converts
    both.

    Raises `BadObject` if a key column or `created` is missing or of the wrong type, and for values that DuckDB would
    not read.
    """
    fields, added = _fields(object_type.name), _added(object_type.name)
    row: dict[str, Any] = {"livemode": livemode}
    extra: dict[str, Any] = {}
    from_parent = from_parent or {}
    for name, value in obj.items():
        if value is None:
            continue
        known = fields.get(name)
        if known is None:
            extra[name] = value
            continue
        if name in added:
            # The pipeline fills this column. If Stripe has begun to send the field, its value goes to `_extra`.
            extra[name] = value
        if name in from_parent:
            if value != from_parent[name]:
                extra[name] = value
            continue
        python_type, fits, convert = known
        if (python_type is None or value.__class__ is python_type) and (fits is None or fits(value)):
            row[name] = value
        elif convert is not None and (converted := convert(value)) is not None:
            row[name] = converted
            if converted is not value:
                extra[name] = value
        else:
            extra[name] = value
            surprises.add(object_type.name, name, str(obj.get("id")))
    row.update(from_parent)
    for name in (*object_type.key, "created"):
        if name not in row:
            raise _bad(obj, name)
    row["_account"] = account
    row["_fetched_at"] = microseconds(fetched_at)
    if extra:
        row["_extra"] = extra
    return _line(row, obj)


def _line(row: Mapping[str, Any], obj: Mapping[str, Any]) -> bytes:
    """The row of `obj` as a line of JSON; raises `BadObject` for values that DuckDB would not read."""
    try:
        line = orjson.dumps(row) + b"\n"
    except TypeError as error:  # nested deeper than 254 levels, most likely
        raise BadObject(f"Stripe sent {_name(obj)}, which cannot be written as JSON ({error})", LEFT_OUT) from None
    if len(line) > LONGEST_ROW:
        raise BadObject(
            f"Stripe sent {_name(obj)} with {len(line):,} bytes, more than the {LONGEST_ROW:,} of a row", LEFT_OUT
        )
    return line


def is_id(value: object) -> bool:
    """Whether `value` can be the id of an object."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def id_of(obj: Mapping[str, Any]) -> str:
    """The id of `obj`; raises `BadObject` if it has none."""
    object_id = obj.get("id")
    if not is_id(object_id):
        raise _bad(obj, "id")
    return str(object_id)


def created_of(obj: Mapping[str, Any]) -> int:
    """When `obj` was created, Unix seconds; raises `BadObject` if `obj` does not have a valid time."""
    created: Any = obj.get("created")
    if not KINDS["timestamp"].accepts(created):
        raise _bad(obj, "created")
    return int(created)


def check(obj: Mapping[str, Any], object_type: ObjectType, *, livemode: bool) -> None:
    """Raise `BadObject` unless `obj` is one of `object_type` in this mode, with an id and, if the type is dated, a
    creation time."""
    id_of(obj)
    if object_type.dated:
        created_of(obj)
    if obj.get("object", object_type.object) != object_type.object:
        raise BadObject(f"Stripe sent {_name(obj)} where {object_type.name} were requested", LEFT_OUT)
    if isinstance(obj.get("livemode"), bool) and obj["livemode"] is not livemode:
        of_key, of_object = ("live", "test") if livemode else ("test", "live")
        raise BadObject(f"Stripe sent {_name(obj)}, which is {of_object} data, to a {of_key} key", LEFT_OUT)


def _bad(obj: Mapping[str, Any], name: str) -> BadObject:
    # The value may hold fields that the settings leave out.
    return BadObject(f"Stripe sent {_name(obj)} whose {name} is {shown(obj.get(name))}", LEFT_OUT)


def _name(obj: Mapping[str, Any]) -> str:
    """The name of an object in messages."""
    kind, object_id = obj.get("object"), obj.get("id")
    kind = kind if isinstance(kind, str) and _OBJECT.fullmatch(kind) else "object"
    return f"a {kind} ({object_id[:_SHOWN] if isinstance(object_id, str) else shown(object_id)})"


def microseconds(seconds: float) -> int:
    """Unix seconds as whole microseconds, the unit of DuckDB's timestamps."""
    return round(seconds * 1_000_000)


def restore(object_type: ObjectType, row: Mapping[str, Any]) -> dict[str, Any]:
    """The Stripe object that a base row (column name → value, as DuckDB's Python client returns it) was made from.

    Fields that were null, and those that the settings leave out, come back absent; everything else equals what Stripe
    sent.
    """
    obj: dict[str, Any] = {}
    for column in object_type.columns:
        value = row.get(column.name)
        if value is not None and not column.added:
            obj[column.name] = column.kind.restore(value) if column.kind.restore else value
    if row["_extra"] is not None:
        obj.update(json.loads(row["_extra"]))
    return obj
