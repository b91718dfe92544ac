"""SQL for all modules of the warehouse: starting DuckDB, attaching files and writing values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import duckdb

from stripe_pipeline.data_folder import CATALOG
from stripe_pipeline.objects import OBJECT_TYPES, Column, ObjectType, children_of

_NO_OPTIONS: Mapping[str, str] = MappingProxyType({})

ROW_GROUP = 10_240
"""How many rows DuckDB compresses and writes together: about as many as a backfill loads at once. With DuckDB's default
of 122,880, an incomplete group stays in memory and is compressed again with each load."""


def stored_types(
    connection: duckdb.DuckDBPyConnection, types: Mapping[str, ObjectType] = OBJECT_TYPES
) -> dict[str, ObjectType]:
    """Those of `types` that have a table in the attached file, by table name, in the order of `types`.

    Whatever sweeps stored rows goes over these: the file may lack the table of an optional type, and may hold the table
    of an optional type that was switched off.
    """
    tables = connection.execute(
        f"SELECT table_name FROM duckdb_tables() WHERE database_name = '{CATALOG}' AND schema_name = 'raw'"
    ).fetchall()
    return {name: object_type for name, object_type in types.items() if (name,) in tables}


def stored_children(connection: duckdb.DuckDBPyConnection, parent: ObjectType) -> tuple[ObjectType, ...]:
    """The child types of `parent` that have a table in the attached file."""
    children = children_of(parent)
    if not any(child.optional for child in children):
        return children  # their tables come with the parent's
    stored = stored_types(connection)
    return tuple(child for child in children if child.name in stored)


def exists(connection: duckdb.DuckDBPyConnection, object_type: ObjectType, column: Column, text: str) -> bool:
    """Whether any row has this text in the column."""
    [(any_row,)] = connection.execute(
        f'SELECT EXISTS (FROM raw.{object_type.name} WHERE contains("{column.name}"::VARCHAR, {literal(text)}))'
    ).fetchall()
    return bool(any_row)


def start_duckdb(spill: Path, options: Mapping[str, str] = _NO_OPTIONS) -> duckdb.DuckDBPyConnection:
    """Starts DuckDB with nothing attached; data that exceeds memory goes into the folder `spill`. `options`: of DuckDB,
    which can only be set at the start.

    One instance serves all reads and loads of a process: starting it takes 16 ms, attaching a file 1 ms.
    """
    connection = duckdb.connect(":memory:", config=dict(options))
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET preserve_insertion_order = false")
    connection.execute("SET enable_progress_bar = false")  # it would go into logs
    connection.execute(f"SET temp_directory = {literal(str(spill))}")
    return connection


def attach(connection: duckdb.DuckDBPyConnection, path: Path, catalog: str = CATALOG) -> None:
    """Attaches the file, created if missing, in a format that DuckDB 1.4 to 2.0 can read."""
    of_new_file = "" if path.exists() else ", STORAGE_VERSION 'v1.4.0'"
    connection.execute(
        f"ATTACH {literal(str(path))} AS {catalog} (TYPE duckdb, ROW_GROUP_SIZE {ROW_GROUP}{of_new_file})"
    )


def literal(text: str) -> str:
    """`text` as an SQL literal. Binding a parameter makes DuckDB's client import pandas, which takes 0.3 s, so syncs
    and loads write values into the statement."""
    return "'" + text.replace("'", "''") + "'"


def start_of_day(day: str) -> str:
    """SQL for the first moment of a UTC day, a DATE."""
    return f"make_timestamptz(epoch_us({day}::TIMESTAMP))"


def qualified(table: str, columns: Iterable[str]) -> str:
    return ", ".join(f"{table}.{column}" for column in columns)
