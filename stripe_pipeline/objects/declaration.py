"""The parts of a declaration: kinds of columns, columns, references, lists, and the object type itself.

All that depends on a column's kind is declared in `KINDS`. The declarations are in the other modules of this package.
`rows` defines a row's JSON, `warehouse` the SQL.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, kw_only=True, eq=False)
class Kind:
    """The kind of a column's values: how a value is checked, stored, read and restored, and what it may be used for."""

    python_type: type | None
    """The type of a value in Stripe's JSON; None for any type."""
    fits: Callable[[Any], bool] | None = None
    """Whether the column can hold this value of `python_type`; by default it can hold every one."""
    convert: Callable[[Any], Any] | None = None
    """Returns the value to store in place of any other value; None if there is none, as by default."""
    sql_type: str
    """The column's DuckDB type."""
    storage: str = ""
    """What the column's definition says after the type."""
    line_type: str | None = None
    """The DuckDB type of the value in a line of NDJSON, if it is not `sql_type`."""
    read: str = "{}"
    """The SQL expression that turns a value from a line, `{}`, into one of `sql_type`."""
    restore: Callable[[Any], Any] | None = None
    """Returns Stripe's value for the value that DuckDB's Python client returns; by default both are equal."""
    is_nested: bool = False
    """Whether the values are objects and lists, as JSON."""
    is_time: bool = False
    """Whether the values are points in time, by which rows can be dated."""
    in_minor_units: bool = False
    """Whether the values are amounts in minor units of the row's `currency`."""
    names_object: bool = False
    """Whether the values are ids; Stripe may also send the object that the id names."""
    hashable: bool = False
    """Whether the settings may hash the values."""
    may_hold_secret: bool = False
    """Whether a value may contain a client secret."""

    def accepts(self, value: Any) -> bool:
        """Whether the column can hold `value` as it is."""
        return (self.python_type is None or value.__class__ is self.python_type) and (
            self.fits is None or self.fits(value)
        )


_BIGINT = range(-(2**63), 2**63)
_SECONDS = range(253_402_300_800)  # until the year 10000: the range of both DuckDB and Python ends before
_EXACT_IN_DOUBLE = range(-(2**53), 2**53 + 1)


def _id_of(value: Any) -> str | None:
    """The id of an expanded object."""
    object_id = value.get("id") if isinstance(value, dict) else None
    return object_id if isinstance(object_id, str) else None


def _whole_number(value: Any) -> int | None:
    """An integer that is equal to a floating-point number."""
    return value if value.__class__ is int and value in _EXACT_IN_DOUBLE else None


KINDS: Mapping[str, Kind] = {
    "text": Kind(python_type=str, sql_type="VARCHAR", hashable=True, may_hold_secret=True),
    "reference": Kind(python_type=str, convert=_id_of, sql_type="VARCHAR", names_object=True, hashable=True),
    "integer": Kind(python_type=int, fits=_BIGINT.__contains__, sql_type="BIGINT"),
    "amount": Kind(python_type=int, fits=_BIGINT.__contains__, sql_type="BIGINT", in_minor_units=True),
    "timestamp": Kind(
        python_type=int,  # Unix seconds
        fits=_SECONDS.__contains__,
        sql_type="TIMESTAMPTZ",
        line_type="BIGINT",
        read="make_timestamptz({} * 1000000)",
        restore=lambda moment: int(moment.timestamp()),
        is_time=True,
    ),
    "boolean": Kind(python_type=bool, sql_type="BOOLEAN"),
    "number": Kind(python_type=float, convert=_whole_number, sql_type="DOUBLE"),
    "decimal": Kind(python_type=str, sql_type="VARCHAR"),  # Stripe sends text, which is exact
    "nested": Kind(
        python_type=None,
        sql_type="JSON",
        storage="USING COMPRESSION zstd",  # a third of the space
        restore=json.loads,
        is_nested=True,
        may_hold_secret=True,
    ),
}
"""All kinds of columns by name."""


@dataclass(frozen=True)
class Column:
    """One field of an object type, or one column the pipeline adds."""

    name: str
    kind: Kind
    description: str = ""
    """Of a column that the pipeline adds to every table; `descriptions` has the others."""
    added: bool = False
    """Not a field of Stripe's object: filled from its parent or from the key's mode."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A column that names objects of another type."""

    column: str
    target: str
    """Table name of the named objects, for example `customers`."""
    path: str = ""
    """The JSON path of the ids in a nested column, with a wildcard for a list; empty if the column is the id."""
    prefixes: tuple[str, ...] = ()
    """Prefixes of the target's ids, for example `ch_`, if the column names objects of several types."""
    may_be_older: bool
    """Whether the named object may be created long before the row, and so before the history that is kept. Otherwise
    the object is created with the row, seconds before it, or later."""
    may_be_gone: bool = False
    """Whether Stripe's lists may omit the named object: deleted customers, and those on a test clock
    (docs/stripe.md#deletions)."""

    @property
    def of_list(self) -> bool:
        """Whether one row may name several objects."""
        return "*" in self.path

    @property
    def name(self) -> str:
        """The display name: the column, with the field of a nested one, for example `payments.payment_intent`."""
        field = self.path.rpartition(".")[2]
        return f"{self.column}.{field}" if field not in ("", "id") else self.column

    @property
    def label(self) -> str:
        """The name and the target, for example `source → charges`."""
        return f"{self.name} → {self.target}"


OF_CUSTOMER = Reference(column="customer", target="customers", may_be_older=True, may_be_gone=True)
"""The customer of an object, who may be deleted."""


@dataclass(frozen=True, kw_only=True)
class FlatColumn:
    """A column of the view on one table that shows a text from below a nested column."""

    name: str
    path: str
    """Names separated by dots, for example `outcome.risk_level`."""
    description: str


OF_PRICE = (
    FlatColumn(name="price_id", path="price.id", description="ID of the price"),
    FlatColumn(name="product", path="price.product", description="ID of the product"),
)
"""The columns of a view on objects that carry their price in the column `price`."""


@dataclass(frozen=True, kw_only=True)
class ChildList:
    """The list of an object's children, for objects that do not carry all of them."""

    path: str
    """The list's endpoint; `{id}` stands for the parent's id."""
    parameter: str = ""
    """The filter of the list that takes the parent's id, if the path does not contain the id."""
    only_if: Mapping[str, str | bool] = field(default_factory=dict, hash=False)
    """The values that fields of the parent have if it has such a list. Other parents have no children, and Stripe may
    refuse to list any."""


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """Events that carry another object, which names the object whose row they change."""

    object: str
    """Stripe's `data.object.object` of the events, for example `discount`."""
    fields: tuple[str, ...]
    """Where that object has the id, for a child the parent's: dotted paths, of which the first that is there counts.
    Where none is there, the events change no row of the type."""
    events: tuple[str, ...]
    """The event types."""


def of_discounts(*fields: str) -> Announcement:
    """The events of a discount, which has no row of its own; `fields` name the object that the discount belongs to.

    It is not documented that an event of that object comes with them (docs/stripe.md#events).
    """
    kinds = ("created", "deleted", "updated")
    return Announcement(object="discount", fields=fields, events=tuple(f"customer.discount.{kind}" for kind in kinds))


@dataclass(frozen=True, kw_only=True)
class Included:
    """A list in an object that Stripe omits unless requested, and then truncates to ten."""

    column: str
    endpoint: str
    """Endpoint of the whole list, for example `/v1/invoice_payments`."""
    parameter: str
    """The filter of that list that takes the object's id, for example `invoice`."""


@dataclass(frozen=True, kw_only=True)
class ObjectType:
    """One Stripe object type: its endpoint, its events and its table."""

    name: str
    """Table and asset name, for example `charges`."""
    object: str
    """Stripe's `object` value, by which events are routed, for example `charge`."""
    description: str
    columns: tuple[Column, ...]
    optional: bool = False
    """Loaded only where the settings switch the type on; has no table otherwise. A child that is not optional is loaded
    with its parent."""
    key: tuple[str, ...] = ("id",)
    """Columns that identify a row within its mode (docs/stripe.md#ids-and-secrets)."""
    endpoint: str | None = None
    """List endpoint, for example `/v1/charges`; none for children, which come with their parent. A singleton's only
    object is at its endpoint."""
    lists: tuple[Mapping[str, str], ...] = field(default=({},), hash=False)
    """The parameters of each list that must be read, besides paging and time, so that the lists together hold all
    objects: for example `{"status": "all"}`."""
    windowed: bool = True
    """Whether the list takes a window of `created`. If not, the list is read as a whole, once a day."""
    singleton: bool = False
    """Whether there is only one object of the type: each reading is a row of its own, `created` at the reading."""
    deletable: bool = False
    """Whether an object can be deleted in Stripe while others of its type stay (docs/stripe.md#deletions)."""
    lists_all: bool = True
    """Whether the lists hold every object. Of other types, an object that is missing from its list may exist."""
    listed_with: str | None = None
    """Of a type whose lists do not hold every object: the column that is null for the objects that the lists omit."""
    kept_days: int | None = None
    """For how many days Stripe lists the objects; None if forever."""
    generated: bool = False
    """Declared by `make objects` from Stripe's OpenAPI document, without traps, references and tests of its own."""
    events: tuple[str, ...] = ()
    """Event types that announce a change of this type, and carry its object."""
    announcements: tuple[Announcement, ...] = ()
    """Events that announce a change of this type, and carry another object."""
    announced_by: tuple[str, ...] = ()
    """Tables whose events announce new objects of this type, which has no events of its own."""
    parent: str | None = None
    """Table name of the parent whose objects carry these; their `created` is the parent's."""
    parent_key: str | None = None
    """Column that holds the parent's id."""
    embedded_in: str | None = None
    """Field of the parent that carries these objects, or the first of them; None if the parent carries none."""
    also_in: str | None = None
    """A list of the parent whose objects carry such objects, too, in a field of the same name: for example `lines`."""
    on_request: bool = False
    """Whether Stripe sends `embedded_in` only on request. The parent's row is stored without the objects."""
    link: str | None = None
    """Column that names the listed objects, which have rows of their own: nothing else is stored of each."""
    child_list: ChildList | None = None
    """Where to list all children of a parent that does not carry them all; by default at the parent's path, followed by
    `embedded_in`."""
    derived: tuple[tuple[str, str], ...] = ()
    """Added columns, each with the path of the text that fills the column, below a field that may be left out."""
    date_field: str = "created"
    """The timestamp that dates a row: `default_date` in the views, and the basis of retention."""
    include: tuple[Included, ...] = ()
    """The lists that Stripe is asked to send with each object."""
    flat: tuple[FlatColumn, ...] = ()
    """The columns that the view adds, so that common questions need no JSON paths."""
    references: tuple[Reference, ...] = ()
    """The columns that name objects of declared types."""
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """The values that Stripe's OpenAPI document names for text fields of a generated type, by field."""
    secrets: tuple[str, ...] = ()
    """Fields that Stripe says must not be stored: kept only where the settings name them."""
    personal: tuple[str, ...] = ()
    """Fields that identify a person or say how to reach one. They lose a value only if somebody wants it removed."""
    about_person: tuple[str, ...] = ()
    """Fields, or dotted paths below one, that may also hold data about a person: the shop's own text, payment methods,
    links to documents. They change in the normal course of a payment."""

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of Stripe's fields and the parent's columns, in table order."""
        return tuple(column.name for column in self.columns)

    @property
    def event_types(self) -> tuple[str, ...]:
        """All event types that announce a change of this type, in alphabetical order."""
        further = (event for announcement in self.announcements for event in announcement.events)
        return tuple(sorted({*self.events, *further}))

    @property
    def table_columns(self) -> tuple[Column, ...]:
        """All columns of the base table, in order."""
        return (*self.columns, *BOOKKEEPING)

    def kind_of(self, column: str) -> Kind:
        """The kind of one of the table's columns; raises `KeyError` for any other."""
        return {known.name: known.kind for known in self.table_columns}[column]

    @property
    def _has_created(self) -> bool:
        return any(column.name == "created" and not column.added for column in self.columns)

    @property
    def dated_apart(self) -> bool:
        """Whether these are children with a `created` of their own; in rows of other children, `created` is the
        parent's."""
        return self.parent is not None and self._has_created

    @property
    def dated(self) -> bool:
        """Whether rows have a time: of creation, of the parent's creation, or of the reading of a singleton. If not,
        `created` is `UNDATED` in all rows."""
        return self.parent is not None or self.singleton or self._has_created

    @property
    def carried_in(self) -> list[str]:
        """The paths below a parent at which it carries objects of this type."""
        if self.embedded_in is None:
            return []
        return [self.embedded_in, *([f"{self.also_in}.data.{self.embedded_in}"] if self.also_in else [])]

    @property
    def listed_if(self) -> str:
        """The condition (SQL) for rows whose objects are in the type's lists, as far as the columns tell."""
        if self.lists_all:
            return "true"
        return f'"{self.listed_with}" IS NOT NULL' if self.listed_with in self.column_names else "false"

    @property
    def plain(self) -> bool:
        """Whether a parent carries all its children of this type, in a list without pages."""
        return self.parent is not None and ("position" in self.key or (self.on_request and self.child_list is None))

    @property
    def whole(self) -> bool:
        """Whether the list is read as a whole: no part of it can be requested by `created`."""
        return not self.windowed or not self.dated

    @property
    def key_columns(self) -> frozenset[str]:
        """Columns that every row must have."""
        return frozenset({*self.key, "created", "livemode"} | ({self.parent_key} if self.parent_key else set()))


UNDATED = 0
"""The `created` of objects whose time of creation Stripe does not say, Unix seconds: 1970-01-01."""

BOOKKEEPING = (
    Column("_account", KINDS["text"], "Stripe account the row was read from"),
    Column("_fetched_at", KINDS["timestamp"], "When the request that brought this row was sent, on Stripe's clock"),
    Column("_deleted_at", KINDS["timestamp"], "When the object was found deleted in Stripe; null while it exists"),
    Column(
        "_extra", KINDS["nested"], "Fields this version does not know, and values of an unexpected type, as received"
    ),
)
"""Columns that every base table has besides Stripe's own."""


def columns(
    *,
    leading: tuple[str, ...] = ("id", "created", "livemode"),
    added: Mapping[str, str] = MappingProxyType({}),
    **fields: str,
) -> tuple[Column, ...]:
    """Columns from space-separated field names of each kind; `added` has the kinds of the columns that the pipeline
    adds to Stripe's fields."""
    kinds = {name: kind for kind, names in fields.items() for name in names.split()} | dict(added)
    ordered = [*leading, *sorted(kinds.keys() - set(leading))]
    return tuple(Column(name, KINDS[kinds[name]], added=name in added) for name in ordered)
