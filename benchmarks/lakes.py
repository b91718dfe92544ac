"""Tables in a lake beside those in a file: CPU of syncs and questions, statements in the catalog's database, sizes.

The lake in S3 is on a server in place of S3. Where DuckDB's extensions, Postgres or that server are missing, nothing is
measured.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import duckdb

from benchmarks import large
from benchmarks.backfill import finished_days, pipeline_of
from benchmarks.bulk import Serving, object_id, server_process, serving
from benchmarks.dashboards import QUESTIONS
from benchmarks.measuring import Options, Row, Spent, apart, new_folder
from stripe_pipeline.data_folder import CATALOG, DataFolder
from stripe_pipeline.lake import Lake
from stripe_pipeline.sync.pipeline import Pipeline
from stripe_pipeline.warehouse.extensions import load_extensions
from stripe_pipeline.warehouse.readers import open_published
from stripe_pipeline.warehouse.sql import literal

if TYPE_CHECKING:
    import psycopg

SMALL, MIDDLE = 100_000, 1_000_000
"""Charges in the tables that are measured beside the large one."""
_MEMORY = "4GB"
_BUCKET = "benchmarks"
_JOINING = "payments by month"
"""The question to a view that joins tables, which is not one of the ten."""


@dataclass(frozen=True)
class Cost:
    """What some work took."""

    cpu: float
    """CPU seconds of the process, Postgres's and S3's not included."""
    postgres: float = 0.0
    """CPU seconds of Postgres, in 1/100 s for each connection; 0 for a file."""
    statements: int = 0
    """Statements that Postgres ran."""


@dataclass(frozen=True)
class Tables:
    """The same tables in one of the stores."""

    name: str
    folder: DataFolder

    def cost_of(self, work: Callable[..., float], *arguments: Any) -> Cost:
        """What some work on these tables takes in a process of its own; it returns its CPU seconds."""
        if not self.folder.lake:
            return Cost(apart(work, self.folder, *arguments))
        with _connected(self.folder.lake) as connection:
            [(name, place)] = connection.execute(
                "SELECT current_database(), setting FROM pg_settings WHERE name = 'data_directory'"
            ).fetchall()
            connection.execute(f"ALTER DATABASE {name} SET log_statement = 'all'")
            log, server = Path(place, "log"), Path(place, "postmaster.pid").read_text().split()[0]
            length, before = log.stat().st_size, _cpu_of_children(server)
            cpu = apart(work, self.folder, *arguments)
            # The CPU of a connection counts when its process has ended.
            others = "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            while connection.execute(others).fetchall():
                time.sleep(0.01)
            postgres = _cpu_of_children(server) - before
        with log.open("rb") as file:
            file.seek(length)
            logged = file.read()
        return Cost(cpu, postgres, logged.count(b"LOG:  statement:") + logged.count(b"LOG:  execute"))

    def size(self) -> str:
        """The size of the tables."""
        if not self.folder.lake:
            return f"{self.folder.private.stat().st_size / 1e6:,.1f} MB"
        with _connected(self.folder.lake) as connection:
            [(files, size, catalog)] = connection.execute(
                "SELECT count(*), sum(file_size_bytes)::BIGINT, pg_database_size(current_database())"
                " FROM ducklake_data_file WHERE end_snapshot IS NULL"
            ).fetchall()
        return f"{size / 1e6:,.1f} MB in {files} files, {catalog / 1e6:,.1f} MB of catalog"


@contextmanager
def _connected(lake: Lake) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the catalog's database."""
    import psycopg

    with psycopg.connect(lake.catalog, autocommit=True) as connection:
        yield connection


def _cpu_of_children(process: str) -> float:
    """CPU seconds of a process's children that have ended."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def lake(options: Options) -> list[Row]:
    """A file, a lake in a folder and a lake in S3, in several sizes."""
    with ExitStack() as servers:
        try:
            apart(_load_extensions)
            s3 = _start(servers)
        except Exception as error:
            reason, _, _ = str(error).partition(" (")  # without what DuckDB has tried
            return [Row("tables in a lake", "", f"not tried: {reason}")]
        servers.enter_context(mock.patch.dict(os.environ, s3))
        # DuckLake takes half a minute to inline nearly a thousand rows of many columns into the catalog.
        sizes = {options.rows // 10} if options.smoke else {SMALL, MIDDLE, options.rows}
        return [row for size in sorted(sizes) if size <= options.rows for row in _rows(options, size)]


def _load_extensions() -> None:
    with duckdb.connect() as connection:
        load_extensions(connection, ("postgres_scanner", "ducklake", "httpfs"))


def _start(servers: ExitStack) -> Mapping[str, str]:
    """Start Postgres and a server in place of S3 with an empty bucket; return the environment that names the latter."""
    import boto3

    from tests.lake import database_server, stop

    servers.callback(stop)
    database_server()
    address, _ = servers.enter_context(server_process(_serve_s3))
    s3 = {
        "AWS_ACCESS_KEY_ID": "an-id",
        "AWS_SECRET_ACCESS_KEY": "a-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address,
    }
    with mock.patch.dict(os.environ, s3):
        boto3.client("s3").create_bucket(Bucket=_BUCKET)
    return s3


def _serve_s3(pipe: Connection) -> None:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it names each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    pipe.send(f"http://{host}:{port}")
    pipe.poll(None)
    server.stop()


def _rows(options: Options, charges: int) -> list[Row]:
    """The costs in a table with so many charges."""
    from tests.lake import lake_folder

    filled = DataFolder(large.folder(options, charges))
    tries = options.scaled(2, 2, 1)
    with new_folder(options) as root, ExitStack() as lakes:
        stores = [Tables("file", filled)]
        for name, bucket in (("lake in a folder", ""), ("lake in S3", f"s3://{_BUCKET}")):
            folder = lakes.enter_context(lake_folder(root / name, bucket=bucket))
            apart(_fill, folder, filled)
            stores.append(Tables(name, folder))
        measured = {tables.name: _measured(tables, charges, tries) for tables in stores}
    return [
        Row(f"{what}, {charges:,} charges: {name}", "", texts[what])
        for what in measured["file"]
        for name, texts in measured.items()
    ]


def _fill(folder: DataFolder, filled: DataFolder) -> None:
    """Copy the rows of a data folder into an empty lake, which the pipeline keeps up to date from where the folder
    is."""

    def copy(connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute(f"SET memory_limit = '{_MEMORY}'")
        tables = connection.execute(
            "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = 'filled'"
        ).fetchall()
        for schema, table in tables:
            name = f"{schema}.{table}"
            # The lake has its own identity and layout.
            if name != "pipeline.meta":
                own = f"WHERE name NOT IN (SELECT name FROM {name})" if name == "pipeline.applied" else ""
                connection.execute(f"INSERT INTO {CATALOG}.{name} BY NAME SELECT * FROM filled.{name} {own}")
        connection.execute("UPDATE pipeline.meta SET revision = revision + 1")

    with _pipeline(folder) as pipeline:
        file = pipeline.warehouse.file
        file.duckdb_of_ours().execute(f"ATTACH {literal(str(filled.private))} AS filled (READ_ONLY)")
        file.write(copy)


def _measured(tables: Tables, charges: int, tries: int) -> dict[str, str]:
    """The costs by what is measured, as text."""
    with serving(Serving(large.spans(charges), latency_ms=0, limits=False, empty=True)) as stripe:
        first = tables.cost_of(_sync, stripe.url, None)
        texts = {
            "sync that lists today and reads the balance": _text([first]),
            "sync without changes": _text([tables.cost_of(_sync, stripe.url, 0) for _ in range(tries)]),
        }
        for what, count, apart_by in (
            ("3 changes of the last days", 3, charges // large.DAYS),
            ("100 changes spread over two years", 100, charges // 100),
        ):
            costs = []
            for n in range(tries):
                ids = [object_id("charges", charges - 1 - n - m * apart_by) for m in range(count)]
                stripe.change("charges", ids, description=f"{what}, {n}")
                costs.append(tables.cost_of(_sync, stripe.url, count))
            texts[f"sync after {what}"] = _text(costs)
    texts["ten questions of dashboards"] = _text([tables.cost_of(_ask) for _ in range(tries)])
    texts["nightly cleaning"] = _text([tables.cost_of(_clean)])
    return texts | {"size": tables.size()}


def _pipeline(folder: DataFolder, url: str = "") -> Pipeline:
    first, _ = finished_days(large.DAYS)
    return pipeline_of(url, folder.root, first, lake=folder.lake)


def _text(costs: Sequence[Cost]) -> str:
    """The costs of the same work, from the lowest to the highest."""
    text = f"{_range([cost.cpu for cost in costs], '.2f')} CPU s"
    if statements := [cost.statements for cost in costs if cost.statements]:
        text += (
            f", Postgres {_range([cost.postgres for cost in costs], '.2f')} s and {_range(statements, 'd')} statements"
        )
    return text


def _range(values: Sequence[float], form: str) -> str:
    return " to ".join(dict.fromkeys(format(value, form) for value in (min(values), max(values))))


def _sync(folder: DataFolder, url: str, expected: int | None) -> float:
    """CPU seconds of a sync that applies so many changes, or any number of them."""
    with Spent() as spent, _pipeline(folder, url) as pipeline:
        report = pipeline.sync()
    if report.failures or expected not in (None, report.applied):
        raise RuntimeError(f"the sync applied {report.applied} changes instead of {expected}: {report.failures}")
    return spent.cpu


def _ask(folder: DataFolder) -> float:
    """CPU seconds of the questions in one new connection, opening it included."""
    with Spent() as spent, open_published(folder) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, sql in QUESTIONS.items():
            if name != _JOINING:
                connection.execute(sql).fetchall()
    return spent.cpu


def _clean(folder: DataFolder) -> float:
    """CPU seconds of what the nightly run does to the tables."""
    with Spent() as spent, _pipeline(folder) as pipeline:
        pipeline.warehouse.prune()
    return spent.cpu
