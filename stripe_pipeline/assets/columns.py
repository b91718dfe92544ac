"""Columns as asset pages show them: types, meanings, tags and lineage. `views` decides which columns there are."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import dagster as dg

from stripe_pipeline.objects import ObjectType
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.view import DescribedColumn

SCHEMA = "dagster/column_schema"
LINEAGE = "dagster/column_lineage"
PERSONAL = "pii"
"""The tag of columns and assets whose personal data the settings leave out or hash."""


def of_relation(name: str, schema: dg.TableSchema) -> dict[str, Any]:
    """The metadata of a table or view in the file, for example `raw.charges`."""
    return {"dagster/table_name": name, "dagster/storage_kind": "duckdb", SCHEMA: schema}


def table_schema(columns: Iterable[DescribedColumn]) -> dg.TableSchema:
    """The columns of a table or view."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                column.sql_type,
                description=column.description or None,
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
                tags=_tags(column.rules or ()),
            )
            for column in columns
        ]
    )


def lineage(
    columns: Iterable[DescribedColumn], key_of_table: Callable[[str], dg.AssetKey | None]
) -> dg.TableColumnLineage | None:
    """From which columns of other assets each column is computed, as far as this is declared; None if for no column.

    `key_of_table` returns the asset of a table's name, or None for a table that is not loaded.
    """
    deps: dict[str, Sequence[dg.TableColumnDep]] = {}
    for column in columns:
        keys = [(key_of_table(table), name) for table, name in column.sources]
        if of_column := [dg.TableColumnDep(key, name) for key, name in keys if key]:
            deps[column.name] = of_column
    return dg.TableColumnLineage(deps) if deps else None


def tags_of(types: Iterable[ObjectType], settings: Settings) -> Mapping[str, str]:
    """The tags of an asset that shows these types: whether the settings leave out or hash any of their fields."""
    rules = [(object_type.secrets, settings.rules(object_type)) for object_type in types]
    # Stripe's secrets are always left out; they are not about persons.
    excluded = {"excluded" for secrets, of_type in rules if of_type.exclude - {(name,) for name in secrets}}
    return _tags(excluded | {"hashed" for _, of_type in rules if of_type.hash})


def _tags(effects: Iterable[str]) -> Mapping[str, str]:
    named = "_and_".join(sorted(effects))
    return {PERSONAL: named} if named else {}
