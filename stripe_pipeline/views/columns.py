"""Descriptions of the columns of base tables and their views: unit, referenced object, effect of the settings.

Columns of a view that combines tables are declared in its own module.
"""

from __future__ import annotations

from collections.abc import Iterator

from stripe_pipeline.objects import Column, Kind, ObjectType
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
