"""How a declared table of Fivetran's becomes a view on our tables. `tables` has the declarations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from stripe_pipeline.days import local_time
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.columns import Source, rules_on, selectable
from stripe_pipeline.views.invoices import invoice_of_payment
from stripe_pipeline.views.view import FIVETRAN, DescribedColumn, View

_SYNCED = "_fivetran_synced"
_PATH = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*", re.ASCII)
_WORD = re.compile(r"\bt\.(\w+)", re.ASCII)
_TABLE = re.compile(r"\{(\w+): [^}\"]*\}", re.ASCII)
_NAMED = re.compile(r"\{(\w+): ([^}\"]*)\}", re.ASCII)
_INVOICE = "{invoice_of_payment}"
_TYPES = {"bigint", "boolean", "double", "timestamp", "varchar"}


@dataclass(frozen=True)
class Column:
    """A column of Fivetran's: its name, its type in lower case, and the value."""

    name: str
    sql_type: str
    value: str
    """A column of our table, or a dotted path below one; SQL if it is neither, over `t`, the row of our table; empty
    for a column that Stripe has no value for, which is null."""


@dataclass(frozen=True)
class FivetranTable:
    """A table of Fivetran's Stripe connector."""

    name: str
    ours: str
    """The name of our table."""
    text: str
    """The columns, a line each: name, type, and the value if that is not our column of the same name; `-` for null."""
    joins: Mapping[str, str] = field(default_factory=dict)
    """Tables to join, by alias: SQL after LEFT JOIN, in which {table: columns} stands for rows of one of our tables,
    and {invoice_of_payment} for the invoice that each payment pays."""
    only: str = ""
    """Which of our rows are shown: a WHERE or QUALIFY over `t`, with rows of other tables as in `joins`; all if
    empty."""
    also: FivetranTable | None = None
    """Rows of another of our tables, after those of `ours`. Its columns have the same names and types."""

    @property
    def columns(self) -> list[Column]:
        """The declared columns, after the time of reading."""
        return [
            Column(_SYNCED, "timestamp", "_fetched_at"),
            *map(_column, self.text.strip().replace("\n    ", " ").splitlines()),
        ]


def _column(line: str) -> Column:
    name, sql_type, *value = line.split(None, 2)
    if sql_type not in _TYPES:
        raise ValueError(f"{line!r} has no type")
    return Column(name, sql_type, {"-": ""}.get(value[0], value[0]) if value else name)


def view_of(table: FivetranTable, settings: Settings) -> View:
    """The view with a null in every column whose value the settings leave out; without rows if our table is off."""
    columns = selectable(settings)
    parts = _parts(table)

    def select(schema: str) -> str:
        return "\nUNION ALL\n".join(_select(part, Source(FIVETRAN[schema], columns)) for part in parts)

    further = f", and per {parts[1].name} that only `{parts[1].ours}` has" if parts[1:] else ""
    return View(
        name=table.name,
        title=f"{table.name} as Fivetran has it",
        description=f"One row per row of `{table.ours}`{further}, with the columns of Fivetran's Stripe connector.",
        describe=lambda: tuple(
            _described({part.ours: column for part, column in zip(parts, of_parts, strict=True)}, settings)
            for of_parts in zip(*(part.columns for part in parts), strict=True)
        ),
        tables=tuple(dict.fromkeys(name for part in parts for name in (part.ours, *_joined(part)))),
        rows_of=None if table.only or table.also else table.ours,
        select=select,
        schemas=tuple(FIVETRAN),
    )


def _parts(table: FivetranTable) -> list[FivetranTable]:
    return [table, table.also] if table.also else [table]


def _joined(table: FivetranTable) -> Iterator[str]:
    """The names of our tables that a table needs besides `ours`."""
    for sql in (*table.joins.values(), table.only):
        yield from _TABLE.findall(sql)
        if _INVOICE in sql:
            yield "invoices"


def _described(columns: Mapping[str, Column], settings: Settings) -> DescribedColumn:
    """A column of a view; `columns`: its declaration by our table."""
    paths = [(ours, path) for ours, column in columns.items() for path in _paths(column.value, ours)]
    values = [
        (f"`{column.value}`" if _is_path(column.value, ours) else "Computed")
        + (f" of `{ours}`" if len(columns) > 1 else "")
        for ours, column in columns.items()
        if column.value
    ]
    column = next(iter(columns.values()))
    text = ", or ".join(values) or "Always null: Stripe's API has no such field"
    return DescribedColumn(
        column.name,
        column.sql_type.upper(),
        text,
        sources=tuple(dict.fromkeys((ours, path[0]) for ours, path in paths)),
        rules=frozenset().union(*(rules_on(OBJECT_TYPES[ours], path, settings) for ours, path in paths)),
    )


def _paths(value: str, ours: str) -> Iterator[list[str]]:
    """The columns of our table, or paths below one, that a value is computed from."""
    flat = {column.name: column.path for column in OBJECT_TYPES[ours].flat}
    if _is_path(value, ours):
        yield flat.get(value, value).split(".")
    else:
        yield from (flat.get(name, name).split(".") for name in _WORD.findall(value))


def _is_path(value: str, ours: str) -> bool:
    """Whether the value is a column of our table or a path below one, and not SQL."""
    names = {column.name for column in OBJECT_TYPES[ours].table_columns} | {
        flat.name for flat in OBJECT_TYPES[ours].flat
    }
    return _PATH.fullmatch(value) is not None and value.partition(".")[0] in names


def _select(table: FivetranTable, source: Source) -> str:
    used = dict.fromkeys(_used(table))
    shown = ",\n    ".join(f'{_value(column, table.ours)} AS "{column.name}"' for column in table.columns)

    def with_rows(sql: str) -> str:
        named = _NAMED.sub(lambda named: _rows(source, named[1], named[2].split()), sql)
        return named.replace(_INVOICE, invoice_of_payment(source, "id"))

    joins = "".join(f"\nLEFT JOIN {with_rows(sql)}" for sql in table.joins.values())
    rows = _rows(source, table.ours, [*used])
    return f"SELECT\n    {shown}\nFROM {rows} t{joins}\n{with_rows(table.only)}".strip()


def _used(table: FivetranTable) -> Iterator[str]:
    """The columns of our table that the view reads, its key first."""
    yield OBJECT_TYPES[table.ours].key[0]
    for column in table.columns:
        if _is_path(column.value, table.ours):
            yield column.value.partition(".")[0]
        else:
            yield from _WORD.findall(column.value)
    for sql in (*table.joins.values(), table.only):
        yield from _WORD.findall(sql)


def _rows(source: Source, table: str, names: list[str]) -> str:
    """The SELECT of these columns; those that the settings leave out are null, and without the first there are no
    rows."""
    types = {column.name: column.kind.sql_type for column in OBJECT_TYPES[table].table_columns}
    types |= {flat.name: "VARCHAR" for flat in OBJECT_TYPES[table].flat}
    there = source.has(table, names[0])
    listed = ", ".join(
        f'"{name}"'
        if there and (name.startswith("_") or source.has(table, name))
        else f'NULL::{types[name]} AS "{name}"'
        for name in names
    )
    return f"(SELECT {listed} FROM {source.schema}.{table})" if there else f"(SELECT {listed} WHERE false)"


def _value(column: Column, ours: str) -> str:
    """The SQL of a column's value in the column's type."""
    if not column.value:
        return f"NULL::{column.sql_type.upper()}"
    if not _is_path(column.value, ours):
        return f"({column.value})::{column.sql_type.upper()}"
    first, _, below = column.value.partition(".")
    root = f't."{first}"'
    if below:
        path = "".join(f'."{step}"' for step in below.split("."))
        return _of_text(f"json_extract_string({root}, '${path}')", column.sql_type)
    times = {known.name for known in OBJECT_TYPES[ours].table_columns if known.kind.is_time}
    return local_time(root, "UTC") if first in times else f"{root}::{column.sql_type.upper()}"


def _of_text(text: str, sql_type: str) -> str:
    """The value of a JSON text; null if it is of another type."""
    match sql_type:
        case "varchar":
            return text
        case "timestamp":  # Stripe's times are Unix seconds
            return f"make_timestamp(TRY_CAST({text} AS BIGINT) * 1000000)"
        case other:
            return f"TRY_CAST({text} AS {other.upper()})"
