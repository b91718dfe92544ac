"""A warehouse in a lake for the tests.

With the variable `TESTS_IN_LAKE`, the tests that use the fixture `folder`, and random histories, keep their tables
there, and so do the soak tests. `make test-ducklake` sets it.

What the tests read from the published file is then read from the lake.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import psycopg

from stripe_pipeline.data_folder import CATALOG, DataFolder
from stripe_pipeline.lake import DATA_VARIABLE, VARIABLE, Lake
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.warehouse.ducklake import attach_lake
from stripe_pipeline.warehouse.warehouse import Warehouse
from tests.postgres_server import postgres_server

IN_LAKE = bool(os.environ.get("TESTS_IN_LAKE"))
"""Whether the tests keep their tables in a lake."""
HASH_KEY = "the same on all hosts"

_lakes: dict[str, Lake] = {}
"""By path of the published file that a folder would have."""
_servers = ExitStack()
_numbers = count()
_connect = duckdb.connect


@cache
def database_server() -> str:
    """The URL of the Postgres server of this process, without the name of a database. Nothing survives a crash of it,
    which makes it fast."""
    url = _servers.enter_context(postgres_server())
    with psycopg.connect(url, autocommit=True) as connection:
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(f"ALTER SYSTEM SET {name} = off")
        connection.execute("SELECT pg_reload_conf()")
    return url


def stop() -> None:
    """Ends the Postgres server: a worker of pytest-xdist does not end it at its exit."""
    _servers.close()
    database_server.cache_clear()
    _template.cache_clear()


def _url_of(database: str) -> str:
    return database_server().replace("/postgres?", f"/{database}?")


def _run(sql: str) -> None:
    with psycopg.connect(database_server(), autocommit=True) as connection:
        connection.execute(sql)


@cache
def _template(types: tuple[str, ...]) -> str:
    """A database with the catalog of an empty lake: creating the schema takes longer than most tests."""
    name = f"template_{next(_numbers)}"
    _run(f"CREATE DATABASE {name}")
    settings = Settings.model_validate({"objects": {of_type: {"enabled": True} for of_type in types}})
    with tempfile.TemporaryDirectory() as root:
        lake = Lake(_url_of(name), f"{root}/files/", HASH_KEY)
        warehouse = Warehouse(DataFolder(Path(root), lake=lake), settings)
        warehouse.state.identity()
        warehouse.close()
    return name


@contextmanager
def lake_folder(root: Path, types: Iterable[str] = (), bucket: str = "") -> Iterator[DataFolder]:
    """A data folder whose warehouse is in a lake of its own, empty; `types` are on beside the usual ones. The lake's
    files are in a folder, or in a `bucket` such as `s3://bucket`."""
    name, files = f"lake_{next(_numbers)}", Path(tempfile.mkdtemp(prefix="lake"))
    _run(f"CREATE DATABASE {name} TEMPLATE {_template(tuple(types))}")
    lake = Lake(_url_of(name), f"{bucket}/{name}/" if bucket else f"{files}/", HASH_KEY)
    with psycopg.connect(lake.catalog, autocommit=True) as connection:
        connection.execute("UPDATE ducklake_metadata SET value = %s WHERE key = 'data_path'", [lake.data])
    folder = replace(DataFolder(root), lake=lake)
    paths = (str(folder.published), str(folder.shared.newest))
    _lakes.update(dict.fromkeys(paths, lake))
    try:
        yield folder
    finally:
        for path in paths:
            del _lakes[path]
        _run(f"DROP DATABASE {name} WITH (FORCE)")
        shutil.rmtree(files)


@contextmanager
def readable() -> Iterator[None]:
    """Lets `duckdb.connect` open lakes in place of published files, if the tests keep their tables in lakes."""
    duckdb.connect = connect if IN_LAKE else _connect
    try:
        yield
    finally:
        duckdb.connect = _connect


def variables(folder: DataFolder) -> dict[str, str]:
    """The environment that names the lake of a data folder; nothing for a folder without one."""
    if folder.lake is None:
        return {}
    return {
        VARIABLE: f"ducklake:{folder.lake.catalog}",
        DATA_VARIABLE: folder.lake.data,
        "STRIPE_PIPELINE_HASH_KEY": HASH_KEY,
    }


def connect(database: str | Path = ":memory:", *arguments: Any, **options: Any) -> duckdb.DuckDBPyConnection:
    """As `duckdb.connect`; opens the lake in place of a file that is not published because its tables are in it."""
    if lake := _lakes.get(str(database)):
        connection = _connect(":memory:")
        attach_lake(connection, lake, read_only=True)
        connection.execute(f"USE {CATALOG}")
        return connection
    return _connect(database, *arguments, **options)
