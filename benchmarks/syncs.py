"""Syncs: one without changes, and one with a hundred changes in a small and in a large table."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks import large
from benchmarks.backfill import backfill, finished_days, pipeline_of
from benchmarks.bulk import KEY, Serving, object_id, serving
from benchmarks.measuring import Options, Row, Spent, apart, new_folder
from stripe_pipeline.warehouse.keys import Keys
from stripe_pipeline.warehouse.queries import RowQueries
from stripe_pipeline.warehouse.state import State
from stripe_pipeline.warehouse.warehouse import Warehouse

CHANGES = 100
TRIES = 3
SMALL = 100_000


def idle(options: Options) -> list[Row]:
    """A sync that finds no changes, as Dagster runs it."""
    spans = large.spans(2_000)
    with serving(Serving(spans)) as stripe, new_folder(options) as folder:
        apart(backfill, stripe.url, folder / "data", *finished_days(large.DAYS), list(spans), limits=True)
        apart(_sync, stripe.url, folder)  # today is listed
        stripe.requests()
        _, inside, inside_pipeline = apart(_sync, stripe.url, folder)
        paths = [path for _, path, _ in stripe.requests()]
    return [
        Row(
            f"idle sync ({large.DAYS} days of history)",
            "≤ 2 requests, ≤ 1 CPU second inside the run",
            f"{len(paths)} requests, {inside:.2f} CPU s in Dagster's run, {inside_pipeline:.2f} of them in the sync",
            len(paths) <= 2 and inside <= 1,
        )
    ]


def _sync(url: str, folder: Path) -> tuple[float, float, float]:
    """Seconds and CPU seconds of Dagster's run of the job `sync`, and the CPU seconds of `Pipeline.sync` in it."""
    config = folder / "stripe_pipeline.yaml"
    config.write_text(f"history: {finished_days(large.DAYS)[0]}\n")
    os.environ.update(
        STRIPE_API_KEY=KEY,
        STRIPE_API_BASE=url,
        STRIPE_PIPELINE_DATA=str(folder / "data"),
        STRIPE_PIPELINE_CONFIG=str(config),
    )
    import dagster as dg

    from stripe_pipeline.days import today
    from stripe_pipeline.definitions import build_defs
    from stripe_pipeline.sync.pipeline import Pipeline

    inner_spent = Spent()
    inner = Pipeline.sync

    @wraps(inner)
    def timed(self: Pipeline, *args: Any) -> Any:
        with inner_spent:
            return inner(self, *args)

    (folder / "dagster").mkdir(exist_ok=True)
    with dg.DagsterInstance.local_temp(
        str(folder / "dagster"), overrides={"telemetry": {"enabled": False}}
    ) as instance:
        job = build_defs().resolve_job_def("sync")
        with mock.patch.object(Pipeline, "sync", timed), Spent() as spent:
            result = job.execute_in_process(
                instance=instance,
                partition_key=f"{today()}",
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )
    assert result.success
    return spent.seconds, spent.cpu, inner_spent.cpu


@dataclass(frozen=True, kw_only=True)
class Synced:
    """Seconds of a sync's parts."""

    loading: float
    """In the warehouse, without publishing."""
    total: float
    applied: int


def changes(options: Options) -> list[Row]:
    """A sync with a hundred changes of charges, in a small table and in a large one."""
    small, big = options.scaled(SMALL, SMALL // 10, SMALL // 20), options.rows
    took = {charges: _syncs(options, charges) for charges in (small, big)}
    rows = []
    for how in _HOW:
        few, many = took[small][how], took[big][how]
        ratio = many.loading / few.loading
        rows.append(
            Row(
                f"sync with {CHANGES} changes {how}, loading: {big:,} rows ÷ {small:,} rows",
                "≤ 1.5",
                f"{ratio:.2f} ({many.loading:.2f} s, {few.loading:.2f} s)",
                ratio <= 1.5,
            )
        )
    return rows


_HOW = {"of the last days": 7, "spread over two years": None}
"""Where the changed objects lie: how many objects lie from one of them to the next; None to spread them evenly."""


def _syncs(options: Options, charges: int) -> dict[str, Synced]:
    took = {}
    folder = large.folder(options, charges)
    with serving(Serving(large.spans(charges), latency_ms=0, limits=False, empty=True)) as stripe:
        for how, step in _HOW.items():
            tries = []
            for n in range(TRIES):
                apart_by = step or charges // CHANGES
                ids = [object_id("charges", charges - 1 - n - m * apart_by) for m in range(CHANGES)]
                stripe.change("charges", ids, description=f"changed {how}, {n}")
                tries.append(apart(sync, stripe.url, folder))
            assert all(synced.applied == CHANGES for synced in tries), tries
            took[how] = sorted(tries, key=lambda synced: synced.loading)[TRIES // 2]
    return took


def sync(url: str, folder: Path) -> Synced:
    """A sync; to be called in a process of its own, like the schedule's."""
    loading = 0.0

    def timed(work: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any, **kwargs: Any) -> Any:
            nonlocal loading
            with Spent() as spent:
                result = work(*args, **kwargs)
            loading += spent.seconds
            return result

        return measured

    with ExitStack() as patches:
        for owner, name in (
            (Keys, "all"),
            *((State, name) for name in ("clock", "coverage", "cursors")),
            (RowQueries, "pending_balance_transactions"),
            (Warehouse, "load"),
        ):
            patches.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name))))
        with pipeline_of(url, folder, finished_days(large.DAYS)[0]) as pipeline, Spent() as total:
            report = pipeline.sync()
    if report.failures:
        raise RuntimeError(f"the sync failed: {report.failures}")
    return Synced(loading=loading, total=total.seconds, applied=report.applied)
