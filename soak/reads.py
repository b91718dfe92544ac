"""A process that reads the published file or the lake as analysts do, until it is told to stop: `python -m soak.reads
FOLDER HOLD`.

Runs as a separate process, because DuckDB shares one open file among all connections of a process.
"""

from __future__ import annotations

import json
import select
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.lake import lake_of
from stripe_pipeline.warehouse.readers import open_published

COUNT = "SELECT count(*), max(_fetched_at)::VARCHAR FROM raw.charges"


def main() -> None:
    """Open, count, hold the connection, count again. Prints a line after the first count, and at the end the seconds
    that opening and counting took."""
    folder, hold = DataFolder(Path(sys.argv[1]), lake=lake_of()), float(sys.argv[2])
    reads: list[float] = []
    pause = 0.05
    while not _told_to_stop(pause):
        started = time.monotonic()
        with ExitStack() as ends:
            try:
                connection = ends.enter_context(open_published(folder))
            except WarehouseError:
                if reads:
                    raise
                continue  # nothing was published yet
            connection.execute("BEGIN")  # in a lake, only the reads of a transaction belong together
            before = connection.execute(COUNT).fetchall()
            reads.append(time.monotonic() - started)
            # Opening a lake takes half a second of CPU: four readers must not take both cores from those that write.
            pause = max(0.05, 3 * reads[-1])
            if len(reads) == 1:
                print("reading", flush=True)
            _told_to_stop(hold)
            assert connection.execute(COUNT).fetchall() == before
    print(json.dumps(reads))


def _told_to_stop(seconds: float) -> bool:
    return bool(select.select([sys.stdin], [], [], seconds)[0])


if __name__ == "__main__":
    main()
