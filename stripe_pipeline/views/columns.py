"""Descriptions of the columns of base tables and the views on them: unit, referenced object, effect of the settings.

Also the columns that a view on several tables may select. The columns of such a view are declared in its own module.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from stripe_pipeline.objects import OBJECT_TYPES, Column, Kind, ObjectType
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
            ". ".join(_texts(column, object_type, settings)),
            nullable=column.name not in (*object_type.key, "created"),
        )
        for column in object_type.table_columns
    )


def of_view(object_type: ObjectType, settings: Settings) -> tuple[DescribedColumn, ...]:
    """The columns of the view on one base table: the table's, and those that the view adds."""
    columns = [column for column in of_table(object_type, settings) if column.name != "_deleted_at"]
    columns += [
        DescribedColumn("default_date", "TIMESTAMPTZ", f"`{object_type.date_field}`"),
        DescribedColumn("default_day", "DATE", f"UTC day of `{object_type.date_field}`"),
    ]
    if "currency" in {column.name for column in object_type.columns}:
        columns += [
            DescribedColumn(f"{column.name}_decimal", MAJOR_UNITS, f"`{column.name}` in major units of `currency`")
            for column in object_type.columns
            if column.kind.in_minor_units
        ]
    columns += [
        DescribedColumn(flat.name, "VARCHAR", f"{flat.description}: `{flat.path}`")
        for flat in settings.flat_columns(object_type)
    ]
    kinds = {column.name: column.kind for column in object_type.table_columns}
    columns += [
        DescribedColumn(name, _type_of(custom, kinds[str(custom.steps[0])]), f"Custom: `{custom.path}`")
        for name, custom in settings.custom_fields(object_type).items()
    ]
    return tuple(columns)


def _type_of(custom: CustomField, root: Kind) -> str:
    if custom.type is None:
        return "VARCHAR" if custom.steps[1:] else root.sql_type
    return _CUSTOM_TYPES[custom.type]


def _texts(column: Column, object_type: ObjectType, settings: Settings) -> Iterator[str]:
    if column.description:
        yield column.description
    targets = [f"`{reference.target}`" for reference in object_type.references if reference.column == column.name]
    named = " or ".join(filter(None, [", ".join(targets[:-1]), *targets[-1:]]))
    if named:
        yield f"Names rows of {named}" if column.kind.is_nested else f"Id of a row of {named}"
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
        listed = ", ".join(name if name in existing else f"NULL::{types[name]} AS {name}" for name in wanted)
        return f"(SELECT {listed}" + (f" FROM {self.schema}.{table})" if existing else " WHERE false)")
