"""A shop that keeps trading, processes of the pipeline beside it, and the comparison at the end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

from stripe_emulator import Server, Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.objects import DEFAULT_TYPES
from tests.lake import variables
from tests.receiving import receiving
from tests.stripe_state import assert_equal_to_stripe

DAYS = 12


@contextmanager
def trading(every: float, folder: DataFolder) -> Iterator[tuple[Server, threading.Event]]:
    """An emulator whose shop trades every so many seconds until the event is set; its webhooks go to the inbox of the
    data folder."""
    shop = Shop()
    shop.seed_history(DAYS - 2)
    closed = threading.Event()

    def trade() -> None:
        while not closed.wait(every):
            shop.trade()

    with Server(shop, webhook_backoff=0.001) as server, receiving(server, folder):
        thread = threading.Thread(target=trade)
        thread.start()
        try:
            yield server, closed
        finally:
            closed.set()
            thread.join()


def start(server: Server, folder: DataFolder, work: str, *options: str) -> subprocess.Popen[bytes]:
    """`soak.runs` against this server."""
    first = datetime.now(UTC).date() - timedelta(days=DAYS)
    arguments = ["--url", server.url, "--data", str(folder.root), "--history", first.isoformat(), *options]
    return subprocess.Popen(
        [sys.executable, "-m", "soak.runs", work, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | variables(folder),
    )


def output_of(process: subprocess.Popen[bytes]) -> bytes:
    """The last line of a process that ended successfully."""
    output, errors = process.communicate(b"stop\n" if process.stdin else None)
    assert process.returncode == 0, errors.decode()
    return output.splitlines()[-1]


def run_once(server: Server, folder: DataFolder) -> None:
    """One sync that nothing disturbs."""
    output_of(start(server, folder, "sync", "--seconds", "0.001"))


def version_of(published: Path) -> int:
    """The version that readers see."""
    with duckdb.connect(str(published), read_only=True) as connection:
        [(version,)] = connection.execute("SELECT version FROM pipeline.published").fetchall()
        return int(version)


def assert_whole(published: Path) -> None:
    """Check that the published file opens and is consistent: no row twice, children with their parents."""
    with duckdb.connect(str(published), read_only=True) as connection:
        for object_type in DEFAULT_TYPES.values():
            key = ", ".join(object_type.key)
            sql = f"SELECT count(*), count(DISTINCT ({key})) FROM raw.{object_type.name}"
            [(rows, keys)] = connection.execute(sql).fetchall()
            assert rows == keys, object_type.name
        torn = connection.execute(
            "SELECT id FROM raw.balance_transactions b WHERE json_array_length(fee_details)"
            " <> (SELECT count(*) FROM raw.fee_details f WHERE f.balance_transaction = b.id)"
        ).fetchall()
        assert torn == []


def assert_equal_in_the_end(server: Server, closed: threading.Event, folder: DataFolder) -> None:
    """Close the shop, sync once, and compare everything."""
    closed.set()
    run_once(server, folder)
    assert_whole(folder.published)
    assert_equal_to_stripe(server.shop, folder.published)
