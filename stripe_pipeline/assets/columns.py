"""The columns of tables and views as asset pages show them: type, unit, what they name, what the settings do to them.

The columns that a table has follow from `settings`, those that a view adds from `views.one_type`.
"""

from collections.abc import Iterator

import dagster as dg

from stripe_pipeline.objects import Column, Kind, ObjectType
from stripe_pipeline.settings.model import CustomField, CustomType, Settings

SCHEMA = "dagster/column_schema"
_DECIMAL = "DECIMAL(23,3)"
_CUSTOM_TYPES = {
    CustomType.TEXT: "VARCHAR",
    CustomType.INTEGER: "BIGINT",
    CustomType.NUMBER: "DOUBLE",
    CustomType.BOOLEAN: "BOOLEAN",
    CustomType.TIMESTAMP: "TIMESTAMPTZ",
    CustomType.JSON: "JSON",
}


def of_table(object_type: ObjectType, settings: Settings) -> dg.TableSchema:
    """The columns of the base table."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                column.kind.sql_type,
                description=". ".join(_said_of(column, object_type, settings)) or None,
                constraints=dg.TableColumnConstraints(nullable=column.name not in (*object_type.key, "created")),
            )
            for column in object_type.table_columns
        ]
    )


def of_view(object_type: ObjectType, settings: Settings) -> dg.TableSchema:
    """The columns of the views: the table's, and what they add."""
    kept = [column for column in of_table(object_type, settings).columns if column.name != "_deleted_at"]
    kept += [
        dg.TableColumn("default_date", "TIMESTAMPTZ", description=f"`{object_type.date_field}`"),
        dg.TableColumn("default_day", "DATE", description=f"UTC day of `{object_type.date_field}`"),
    ]
    if "currency" in {column.name for column in object_type.columns}:
        kept += [
            dg.TableColumn(f"{it.name}_decimal", _DECIMAL, description=f"`{it.name}` in major units of `currency`")
            for it in object_type.columns
            if it.kind is Kind.AMOUNT
        ]
    kinds = {column.name: column.kind for column in object_type.table_columns}
    kept += [
        dg.TableColumn(name, _type_of(custom, kinds[str(custom.steps[0])]), description=f"Custom: `{custom.path}`")
        for name, custom in settings.custom_fields(object_type).items()
    ]
    return dg.TableSchema(columns=kept)


def _type_of(custom: CustomField, root: Kind) -> str:
    if custom.type is None:
        return "VARCHAR" if custom.steps[1:] else root.sql_type
    return _CUSTOM_TYPES[custom.type]


def _said_of(column: Column, object_type: ObjectType, settings: Settings) -> Iterator[str]:
    if column.description:
        yield column.description
    targets = [f"`{it.target}`" for it in object_type.references if it.column == column.name]
    named = " or ".join(filter(None, [", ".join(targets[:-1]), *targets[-1:]]))
    if named:
        yield f"Names rows of {named}" if column.kind is Kind.NESTED else f"Id of a row of {named}"
    rules = settings.rules(object_type)
    for path in sorted(rules.exclude):
        if path[0] == column.name:
            yield f"Without `{'.'.join(path[1:])}`"
    for path in sorted(rules.hash):
        if path[0] == column.name:
            yield f"`{'.'.join(path[1:])}` is hashed" if path[1:] else "Hashed"
