"""A backfill of 30 days of the emulator: objects, requests, seconds, CPU an object, peak memory.

The emulator runs in a process of its own, so that only the pipeline's CPU and memory are counted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY, today
from stripe_pipeline.emulator import Server, Shop
from stripe_pipeline.settings import Settings, load_keys
from stripe_pipeline.sync import Pipeline

DAYS = 30


def serve(pipe: Connection, payments: int, latency_ms: float) -> None:
    """The emulator: the seeded shop, and so many payments a day besides."""
    shop = Shop()
    shop.seed_history(DAYS)
    start = int(shop.clock.now()) - DAYS * DAY
    for day in range(DAYS):
        for n in range(payments):
            shop.create_payment(livemode=True, created=start + day * DAY + n * DAY // payments, announce=False)
    with Server(shop, latency_ms=latency_ms) as server:
        pipe.send(server.url)
        pipe.recv()


def main() -> None:
    """Measure a first backfill and a second one, which changes nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--payments", type=int, default=1000, help="a day, besides the seeded shop's")
    parser.add_argument("--latency-ms", type=float, default=0.0)
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    emulator = multiprocessing.get_context("spawn").Process(
        target=serve, args=(theirs, options.payments, options.latency_ms), daemon=True
    )
    emulator.start()
    url = ours.recv()
    days = [today() - timedelta(days=n) for n in range(DAYS)]
    with tempfile.TemporaryDirectory() as folder:
        pipeline = Pipeline(
            settings=Settings.model_validate({"history": days[-1], "rate": {"share": 1.0}}),
            keys=load_keys({"STRIPE_API_KEY": "sk_live_of_the_benchmark"}),
            folder=DataFolder(Path(folder)),
            base_url=url,
        )
        with pipeline:
            for run in ("first", "second"):
                cpu, wall = cpu_seconds(), time.monotonic()
                report = pipeline.backfill(days)
                wall, cpu = time.monotonic() - wall, cpu_seconds() - cpu
                rows = sum(sum(changes.rows.values()) for changes in report.changes.values())
                changed = sum(changes.inserted.total() + changes.updated.total() for changes in report.changes.values())
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                print(
                    f"{run}: {rows:,} rows, {changed:,} changed, {report.requests.total():,} requests, {wall:.1f} s,"
                    f" {cpu / rows * 1e6:.0f} µs CPU a row, peak {peak:.0f} MB"
                )
    ours.send(None)
    emulator.join()


def cpu_seconds() -> float:
    """CPU time of this process so far, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
