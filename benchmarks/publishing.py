"""Publishing: how long a publish takes and holds the writer's lock, with and without clones, by the file's size."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest import mock

from benchmarks import large
from benchmarks.backfill import finished_days, pipeline_of
from benchmarks.measuring import Options, Row, Spent, apart
from benchmarks.volumes import xfs
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.warehouse import publisher
from stripe_pipeline.warehouse.private_file import PrivateFile

TRIES = 3
SMALL = 1_000_000


def publishing(options: Options) -> list[Row]:
    """Publishes of a file of 0.4 GB and of a large one: copied, and cloned where XFS may be mounted."""
    rows = []
    for charges in (options.scaled(SMALL, SMALL // 10, SMALL // 200), options.rows):
        folder = large.folder(options, charges)
        rows.append(_row(folder, clones=False))
        private = DataFolder(folder).private
        with xfs(options.folder, 2 * private.stat().st_size) as (volume, reason):
            if not volume:
                rows.append(Row("publish of it, cloned", "", f"not tried: {reason}"))
                continue
            copy = DataFolder(volume / "data")
            copy.private.parent.mkdir(parents=True)
            shutil.copy(private, copy.private)
            rows.append(_row(copy.root, clones=True))
    return rows


def _row(folder: Path, *, clones: bool) -> Row:
    tries = sorted(apart(_publish, folder, clones=clones) for _ in range(TRIES))
    seconds, locked = tries[TRIES // 2]
    size = DataFolder(folder).private.stat().st_size / 1e6
    return Row(
        f"publish of a file of {size:,.0f} MB, {'cloned' if clones else 'copied'}",
        "≤ 0.5 s" if clones else "by file size",
        f"{seconds:.2f} s, the writer's lock {locked:.2f} s",
        seconds <= 0.5 if clones else None,
    )


def _publish(folder: Path, *, clones: bool) -> tuple[float, float]:
    """Seconds of a publish, and those in which nobody else could write."""
    locked = 0.0
    lock = PrivateFile.locked

    @contextmanager
    def measured(self: PrivateFile, *, look: bool = False) -> Iterator[None]:
        nonlocal locked
        with lock(self, look=look), Spent() as spent:
            yield
        locked += spent.seconds

    copied = nullcontext() if clones else mock.patch.object(publisher, "clone", return_value=False)
    with pipeline_of("", folder, finished_days(large.DAYS)[0]) as pipeline:
        pipeline.warehouse.load([])  # a new version
        with copied, mock.patch.object(PrivateFile, "locked", measured), Spent() as spent:
            pipeline.warehouse.publish()
    return spent.seconds, locked
