"""A process that runs the pipeline over and over, for tests to kill or to run beside others: `python -m soak.runs`.

The module does not import Dagster, so that the process works within a second.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from stripe_pipeline.batch import Loaded
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import OutOfTime
from stripe_pipeline.lake import lake_of
from stripe_pipeline.settings.environment import load_keys
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.sync.pipeline import Pipeline
from stripe_pipeline.sync.report import Report
from stripe_pipeline.warehouse.warehouse import Warehouse


class Timed(Warehouse):
    """A warehouse that records how long its loads and publishes took, including the wait for its turn."""

    def __init__(self, folder: DataFolder) -> None:
        super().__init__(folder)
        self.loads: list[float] = []
        self.publishes: list[float] = []

    @contextmanager
    def session(self, *, only_reads: bool = False) -> Iterator[None]:
        """As `Warehouse.session`; a load in it no longer waits."""
        started = time.monotonic()
        with super().session(only_reads=only_reads):
            if not only_reads:
                self.loads.append(time.monotonic() - started)
            yield

    def load(self, batches: object, **options: object) -> Loaded:
        """As `Warehouse.load`."""
        started = time.monotonic()
        loaded = super().load(batches, **options)  # type: ignore[arg-type]
        self.loads.append(time.monotonic() - started)
        return loaded

    def publish(self, **options: object) -> bool:
        """As `Warehouse.publish`."""
        started = time.monotonic()
        before = self.publisher.published_revision()
        published = super().publish(**options)  # type: ignore[arg-type]
        if self.publisher.published_revision() != before:
            self.publishes.append(time.monotonic() - started)
        return published


def _drain(pipeline: Pipeline) -> Report:
    """On a busy machine a drain may run out of time, in a lake also before its first request: what it has not read
    waits for the next drain."""
    try:
        report = pipeline.drain(most=200)
    except OutOfTime:
        return Report()
    for name in [name for name, error in report.failures.items() if isinstance(error, OutOfTime)]:
        del report.failures[name]
    return report


def main() -> None:
    """Run until the time is up, and at least as often as asked, and print the counts and times as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=("sync", "drain", "backfill", "prune"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--history", type=date.fromisoformat, required=True)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--least", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument(
        "--keys", nargs="+", default=["STRIPE_API_KEY=sk_live_soak_1", "STRIPE_TEST_API_KEY=sk_test_soak_1"]
    )
    options = parser.parse_args()
    days = [options.history + timedelta(days=n) for n in range((datetime.now(UTC).date() - options.history).days + 1)]
    pipeline = Pipeline(
        settings=Settings(history=options.history),
        keys=load_keys(dict(key.split("=") for key in options.keys)),
        folder=DataFolder(options.data, lake=lake_of()),
        base_url=options.url,
    )
    pipeline.warehouse = warehouse = Timed(pipeline.folder)
    print("at work", flush=True)
    runs = 0
    until = time.monotonic() + options.seconds
    with pipeline:
        while runs < options.least or time.monotonic() < until:
            if options.work == "prune":
                pipeline.prune()
                report = Report()
            elif options.work == "sync":
                report = pipeline.sync()
            elif options.work == "backfill":
                report = pipeline.backfill(days[runs % 3 :: 3])
            else:
                report = _drain(pipeline)
                if warehouse.publisher.due():
                    pipeline.publish()
            assert not report.failures, report.failures
            runs += 1
            time.sleep(options.pause)
    print(json.dumps({"runs": runs, "loads": warehouse.loads, "publishes": warehouse.publishes}))


if __name__ == "__main__":
    main()
