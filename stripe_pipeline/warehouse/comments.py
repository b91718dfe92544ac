"""The comments of the file's tables, views and columns, so that every SQL client shows what they mean.

The texts come from the declarations of object types, views and pipeline tables, as those of the asset pages do. DuckDB
stores no comments on schemas.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import duckdb

from stripe_pipeline.data_folder import CATALOG
from stripe_pipeline.objects import ObjectType, descriptions
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.catalog import views
from stripe_pipeline.views.columns import of_table
from stripe_pipeline.views.view import SCHEMAS
from stripe_pipeline.warehouse.pipeline_tables import PIPELINE_TABLES
from stripe_pipeline.warehouse.sql import literal

_Name = tuple[str, str, str | None]
"""Schema, table or view, and column; without a column, the table or view itself."""


def of_relations(settings: Settings, types: Iterable[ObjectType]) -> Iterator[tuple[_Name, str]]:
    """The comments of tables and views in a file with the tables of these types."""
    for name, table in PIPELINE_TABLES.items():
        yield ("pipeline", name, None), table.description
    for view in views(settings, types):
        text = f"{view.title}. {view.description}"
        if view.on_one_table:
            yield ("raw", view.name, None), text
        for schema in view.schemas:
            mode = "Live" if SCHEMAS[schema] else "Test"
            yield (schema, view.name, None), f"{text} {mode} mode only, without deleted objects."


def of_columns(settings: Settings, types: Iterable[ObjectType]) -> Iterator[tuple[_Name, str]]:
    """The comments of the columns of these tables and views."""
    types = list(types)
    for name, table in PIPELINE_TABLES.items():
        for column_name, (_, description) in table.columns.items():
            yield ("pipeline", name, column_name), description
    for object_type in types:
        for column in of_table(object_type, settings):
            yield ("raw", object_type.name, column.name), column.description
    for view in views(settings, types):
        for column in view.columns:
            for schema in view.schemas:
                yield (schema, view.name, column.name), column.description


def signature(settings: Settings, types: Iterable[ObjectType]) -> list[object]:
    """A value, equal for equal comments as far as the settings' rules for fields and the views' SQL do not tell.

    Every sync needs it, so it has the source of the texts on tables rather than the texts.
    """
    types = list(types)
    of_pipeline = [list(table.columns.values()) for table in PIPELINE_TABLES.values()]
    of_views = [
        [(column.name, column.description) for column in view.columns]
        for view in views(settings, types)
        if not view.on_one_table
    ]
    return [descriptions.digest(), of_pipeline, of_views, list(of_relations(settings, types))]


def write_comments(
    connection: duckdb.DuckDBPyConnection,
    settings: Settings,
    types: Iterable[ObjectType],
    *,
    on_view_columns: bool = True,
) -> None:
    """Writes those comments of the attached file that differ, in the open transaction.

    Creating a view anew removes its comments. A thousand comments take half a second.
    """
    types = list(types)
    texts = dict((*of_relations(settings, types), *of_columns(settings, types)))
    stored = connection.execute(
        f"""
        SELECT kind, schema_name, name, column_name, comment FROM (
            SELECT *, 'TABLE' AS kind, table_name AS name, NULL AS column_name FROM duckdb_tables()
            UNION ALL BY NAME SELECT *, 'VIEW' AS kind, view_name AS name, NULL AS column_name FROM duckdb_views()
            UNION ALL BY NAME SELECT *, 'COLUMN' AS kind, table_name AS name FROM duckdb_columns()
        )
        WHERE database_name = '{CATALOG}'
        """
    ).fetchall()
    views = {(schema, name) for kind, schema, name, _, _ in stored if kind == "VIEW"}
    differing = [
        (kind, (schema, name, column))
        for kind, schema, name, column, comment in stored
        if texts.get((schema, name, column), comment) != comment
        and (on_view_columns or column is None or (schema, name) not in views)
    ]
    # Half of a statement's time would go into optimizing it and into waking threads, and a third into a call for each.
    connection.execute("PRAGMA disable_optimizer")
    connection.execute("SET threads = 1")
    try:
        connection.execute("".join(_statement(kind, of, texts[of]) for kind, of in differing))
    finally:
        connection.execute("RESET threads")
        connection.execute("PRAGMA enable_optimizer")


def _statement(kind: str, of: _Name, text: str) -> str:
    name = ".".join(f'"{part}"' for part in of if part is not None)
    return f"COMMENT ON {kind} {name} IS {literal(text)};\n"
