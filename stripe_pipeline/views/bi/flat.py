"""Views whose columns are single values: fields of a table, values below nested fields, and fields of named rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from stripe_pipeline.objects import OBJECT_TYPES, Kind, ObjectType
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.columns import Source, of_table, rules_on, selectable
from stripe_pipeline.views.money import MAJOR_UNITS, major_units
from stripe_pipeline.views.view import BI, DescribedColumn, View

FRACTION = "DECIMAL(28,12)"
"""The SQL type of a number that Stripe sends with fractions."""


@dataclass(frozen=True)
class Flat:
    """One column of a view."""

    name: str
    source: str
    """Table and column, for example `charges.status`, with the path below a nested column, for example
    `charges.outcome.risk_score`."""
    description: str = ""
    """By default that of the table's column."""
    sql_type: str = "VARCHAR"
    """The type of a value below a nested column; a field has the type that fits its kind."""
    currency: str = ""
    """Of an amount below a nested column: where its currency is, as in `source`."""

    @property
    def table(self) -> str:
        """The name of the object type."""
        return self.source.split(".")[0]

    @property
    def steps(self) -> list[str]:
        """The column, and the names in the path below it."""
        return self.source.split(".")[1:]

    @property
    def kind(self) -> Kind | None:
        """The kind of the column; None for a value below a nested one."""
        return OBJECT_TYPES[self.table].kind_of(self.steps[0]) if len(self.steps) == 1 else None

    @property
    def in_currency(self) -> Flat | None:
        """The currency of an amount; None for any other value."""
        if self.kind and self.kind.in_minor_units:
            return Flat("", f"{self.table}.currency")
        return Flat("", self.currency) if self.currency else None


OF_CUSTOMER = (
    Flat("customer_name", "customers.name", "The customer's `name`; null if the customer was deleted"),
    Flat("customer_email", "customers.email", "The customer's `email`; null if the customer was deleted"),
)
"""Columns of a view that joins `customers`."""


@dataclass(frozen=True)
class Join:
    """A table whose row is named by another of the view's tables."""

    table: str
    on: str
    """Where the id of the row is, as the source of a column: for example `charges.customer`."""


def fields(table: str, names: str, *, prefix: str = "") -> tuple[Flat, ...]:
    """Fields of a table and flat columns of its view, each as a column of its name after the prefix."""
    flat = {column.name: column for column in OBJECT_TYPES[table].flat}
    return tuple(
        Flat(f"{prefix}{name}", f"{table}.{flat[name].path}", flat[name].description)
        if name in flat
        else Flat(f"{prefix}{name}", f"{table}.{name}")
        for name in names.split()
    )


def address(table: str, column: str, prefix: str, whose: str) -> tuple[Flat, ...]:
    """The parts of the postal address below a nested column."""
    parts = {
        "line1": "First line of",
        "line2": "Second line of",
        "postal_code": "Postal code of",
        "city": "City of",
        "state": "State or province of",
        "country": "Country, as two letters, of",
    }
    return tuple(Flat(f"{prefix}{part}", f"{table}.{column}.{part}", f"{text} {whose}") for part, text in parts.items())


def flat_view(
    settings: Settings, *, name: str, title: str, description: str, columns: Sequence[Flat], joins: Sequence[Join] = ()
) -> View:
    """The view with a row for each row of the table that the first column is of."""
    main = columns[0].table
    kept = selectable(settings)
    return View(
        name=name,
        title=title,
        description=description,
        describe=lambda: tuple(described(columns, settings)),
        tables=tuple(dict.fromkeys(column.table for column in columns)),
        rows_of=main,
        select=lambda schema: _select(Source(BI[schema], kept), columns, joins),
        schemas=tuple(BI),
    )


def described(columns: Sequence[Flat], settings: Settings) -> Iterator[DescribedColumn]:
    """The columns as people see them, each amount followed by the one in major units."""
    texts = {
        table: {column.name: column.description for column in of_table(OBJECT_TYPES[table], settings)}
        for table in {column.table for column in columns}
    }
    for column in columns:
        object_type = OBJECT_TYPES[column.table]
        sources = ((column.table, column.steps[0]),)
        rules = rules_on(object_type, column.steps, settings)
        text = column.description or texts[column.table].get(column.steps[0], "Left out by the settings")
        if column.description:
            text += _effect(object_type, column, settings)
        yield DescribedColumn(column.name, _type_of(column), text, sources=sources, rules=rules)
        if column.in_currency:
            text = f"`{column.name}` in major units"
            yield DescribedColumn(f"{column.name}_decimal", MAJOR_UNITS, text, sources=sources, rules=rules)


def value_of(column: Flat) -> str:
    """The SQL of the column's value, from its table."""
    of_table = f'{column.table}."{column.steps[0]}"'
    if column.kind is None:
        text = f"({of_table}->>'$.{'.'.join(column.steps[1:])}')"
        if column.sql_type == "TIMESTAMP":
            return f"make_timestamp(TRY_CAST({text} AS BIGINT) * 1000000)"
        return text if column.sql_type == "VARCHAR" else f"TRY_CAST({text} AS {column.sql_type})"
    if column.kind.is_time:
        return f"({of_table} AT TIME ZONE 'UTC')"
    return f"TRY_CAST({of_table} AS {FRACTION})" if _type_of(column) == FRACTION else of_table


def _type_of(column: Flat) -> str:
    kind = column.kind
    if kind is None:
        return column.sql_type
    if kind.is_time:
        return "TIMESTAMP"
    # Numbers with fractions are DOUBLE or exact text in the table.
    return FRACTION if kind.sql_type == "DOUBLE" or column.steps[0].endswith("_decimal") else kind.sql_type


def _effect(object_type: ObjectType, column: Flat, settings: Settings) -> str:
    """What the settings do to the values of the column, in words that follow its description."""
    effects = rules_on(object_type, column.steps, settings)
    return "".join(
        words
        for effect, words in (("excluded", ". Left out by the settings"), ("hashed", ". Hashed"))
        if effect in effects
    )


def _select(source: Source, columns: Sequence[Flat], joins: Sequence[Join]) -> str:
    needed: Mapping[str, dict[str, None]] = {join.table: {"id": None} for join in joins}
    needed = {columns[0].table: {columns[0].steps[0]: None}, **needed}
    ids = {join.table: Flat("", join.on) for join in joins}
    for value in (*columns, *(column.in_currency for column in columns), *ids.values()):
        if value:
            needed[value.table][value.steps[0]] = None
    shown = []
    for column in columns:
        shown.append(f'{value_of(column)} AS "{column.name}"')
        if currency := column.in_currency:
            shown.append(f'{major_units(value_of(column), value_of(currency))} AS "{column.name}_decimal"')
    tables = [f"FROM {source.rows(columns[0].table, ' '.join(needed[columns[0].table]))} {columns[0].table}"]
    for join in joins:
        rows = source.rows(join.table, " ".join(needed[join.table]))
        tables.append(f"LEFT JOIN {rows} {join.table} ON {join.table}.id = {value_of(ids[join.table])}")
    return "\n".join([f"SELECT {', '.join(shown)}", *tables])
