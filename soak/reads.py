"""A process that reads the published file as analysts do, until it is told to stop: `python -m soak.reads FILE HOLD`.

Runs as a separate process, because DuckDB shares one open file among all connections of a process.
"""

from __future__ import annotations

import json
import select
import sys
import time
from pathlib import Path

import duckdb

COUNT = "SELECT count(*), max(_fetched_at)::VARCHAR FROM raw.charges"


def main() -> None:
    """Open, count, hold the connection, count again; prints how long opening and counting took at the end."""
    published, hold = Path(sys.argv[1]), float(sys.argv[2])
    reads = []
    while not _told_to_stop(0.05):
        if not published.exists():
            continue
        started = time.monotonic()
        with duckdb.connect(str(published), read_only=True) as connection:
            before = connection.execute(COUNT).fetchall()
            reads.append(time.monotonic() - started)
            _told_to_stop(hold)
            assert connection.execute(COUNT).fetchall() == before
    print(json.dumps(reads))


def _told_to_stop(seconds: float) -> bool:
    return bool(select.select([sys.stdin], [], [], seconds)[0])


if __name__ == "__main__":
    main()
