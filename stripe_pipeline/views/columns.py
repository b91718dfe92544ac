"""Descriptions of the columns of base tables and the views on them: unit, referenced object, effect of the settings.

Also the columns that a view on several tables may select. The columns of such a view are declared in its own module.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from stripe_pipeline.objects import OBJECT_TYPES, Column, Kind, ObjectType
from stripe_pipeline.objects.descriptions import description_of
from stripe_pipeline.settings.model import CustomField, CustomType, Settings
from stripe_pipeline.views.money import MAJOR_UNITS
from stripe_pipeline.views.view import DescribedColumn

_CUSTOM_TYPES = {
    CustomType.TEXT: "VARCHAR",
    CustomType.INTEGER: "BIGINT",
    CustomType.NUMBER: "DOUBLE",
    CustomType.BOOLEAN: "BOOLEAN",
    CustomType.TIMESTAMP: "TIMESTAMPTZ",
    CustomType.JSON: "JSON",
}


def of_table(object_type: ObjectType, settings: Settings) -> tuple[DescribedColumn, ...]:
    """The columns of the base table."""
    return tuple(
        DescribedColumn(
            column.name,
            column.kind.sql_type,
            ". ".join(_texts(OBJECT_TYPES[object_type.name], column, settings)),
            nullable=column.name not in (*object_type.key, "created"),
            rules=rules_on(object_type, [column.name], settings),
        )
        for column in object_type.table_columns
    )


def rules_on(object_type: ObjectType, steps: Sequence[str | int], settings: Settings) -> frozenset[str]:
    """What the settings do to the values at a path, such as a column, as in `DescribedColumn.rules`."""
    names = tuple(step for step in steps if isinstance(step, str))
    rules = settings.rules(object_type)
    effects = (("excluded", rules.exclude), ("hashed", rules.hash))
    return frozenset(
        effect for effect, paths in effects if any(path[: len(names)] == names[: len(path)] for path in paths)
    )


def of_view(object_type: ObjectType, settings: Settings) -> tuple[DescribedColumn, ...]:
    """The columns of the view on one base table: the table's, and those that the view adds."""
    table = object_type.name

    def added(name: str, sql_type: str, description: str, *sources: str) -> DescribedColumn:
        return DescribedColumn(name, sql_type, description, sources=tuple((table, source) for source in sources))

    columns = [
        replace(column, sources=((table, column.name),))
        for column in of_table(object_type, settings)
        if column.name != "_deleted_at"
    ]
    date = object_type.date_field
    columns += [
        added("default_date", "TIMESTAMPTZ", f"`{date}`", date),
        added("default_day", "DATE", f"Day of `{date}` ({settings.time_zone})", date),
    ]
    columns += [
        added(f"{name}_decimal", MAJOR_UNITS, f"`{name}` in major units of `currency`", name, "currency")
        for name in with_decimal(object_type)
    ]
    kinds = {column.name: column.kind for column in object_type.table_columns}
    at_paths = [
        ("VARCHAR", flat.description, flat.name, CustomField(path=flat.path))
        for flat in settings.flat_columns(object_type)
    ]
    at_paths += [
        (_type_of(custom, kinds[str(custom.steps[0])]), "Custom", name, custom)
        for name, custom in settings.custom_fields(object_type).items()
    ]
    for sql_type, text, name, custom in at_paths:
        column = added(name, sql_type, f"{text}: `{custom.path}`", str(custom.steps[0]))
        columns.append(replace(column, rules=rules_on(object_type, custom.steps, settings)))
    return tuple(columns)


def with_decimal(object_type: ObjectType) -> list[str]:
    """The amounts to which the view on one table adds a column in major units: none without `currency`, and none whose
    column would have the name of one of Stripe's fields, such as `unit_amount_decimal`."""
    if "currency" not in object_type.column_names:
        return []
    taken = OBJECT_TYPES[object_type.name].column_names
    return [c.name for c in object_type.columns if c.kind.in_minor_units and f"{c.name}_decimal" not in taken]


def _type_of(custom: CustomField, root: Kind) -> str:
    if custom.type is None:
        return "VARCHAR" if custom.steps[1:] else root.sql_type
    return _CUSTOM_TYPES[custom.type]


def _texts(object_type: ObjectType, column: Column, settings: Settings) -> Iterator[str]:
    """The column's meaning, the tables whose rows it names, and what the settings do to it."""
    text = description_of(object_type, column)
    targets = [f"`{reference.target}`" for reference in object_type.references if reference.column == column.name]
    if named := " or ".join(filter(None, [", ".join(targets[:-1]), *targets[-1:]])):
        yield f"{text}; {'names rows' if column.kind.is_nested else 'a row'} of {named}"
    else:
        yield text
    rules = settings.rules(object_type)
    for path in sorted(rules.exclude):
        if path[0] == column.name:
            yield f"Without `{'.'.join(path[1:])}`"
    for path in sorted(rules.hash):
        if path[0] == column.name:
            yield f"`{'.'.join(path[1:])}` is hashed" if path[1:] else "Hashed"


def selectable(settings: Settings) -> dict[str, list[str]]:
    """The columns that a view can rely on, by table name: those that the settings keep, without hashed references,
    which do not name a row, and the flat columns."""
    return {object_type.name: _naming(object_type, settings) for object_type in settings.enabled}


def _naming(object_type: ObjectType, settings: Settings) -> list[str]:
    hashed = settings.rules(object_type).hash
    return [
        *(
            column.name
            for column in object_type.columns
            if not column.kind.names_object or (column.name,) not in hashed
        ),
        *(flat.name for flat in settings.flat_columns(object_type)),
    ]


@dataclass(frozen=True)
class Source:
    """The views on single tables in one schema, from which a view that combines tables selects."""

    schema: str
    columns: Mapping[str, Collection[str]]
    """The columns of `selectable`; a table that is not kept is missing."""

    def has(self, table: str, *names: str) -> bool:
        """Whether a table has these columns."""
        return set(names) <= set(self.columns.get(table, ()))

    def rows(self, table: str, names: str) -> str:
        """The SELECT of these columns, null if missing; no rows if the first column, the key here, is missing."""
        wanted = names.split()
        types = {column.name: column.kind.sql_type for column in OBJECT_TYPES[table].columns}
        types |= {flat.name: "VARCHAR" for flat in OBJECT_TYPES[table].flat}
        existing = {name for name in wanted if self.has(table, wanted[0], name)}
        listed = ", ".join(f'"{name}"' if name in existing else f'NULL::{types[name]} AS "{name}"' for name in wanted)
        return f"(SELECT {listed}" + (f" FROM {self.schema}.{table})" if existing else " WHERE false)")
