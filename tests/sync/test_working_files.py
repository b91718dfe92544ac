"""The files in which a run keeps rows on their way to the warehouse."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from stripe_emulator import Fault, LoggedRequest, Server, Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY, day_of
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.sync.pipeline import Pipeline
from tests.conftest import MakePipeline
from tests.stripe_state import ask, assert_equal_to_stripe, days_ago
from tests.whole.test_traps import TEST_KEY


def age(folder: DataFolder, days: float) -> None:
    """Make the files in the spool look as if they were last changed that many days ago."""
    then = time.time() - days * DAY
    for path in folder.spool.rglob("*"):
        os.utime(path, (then, then))


@pytest.mark.parametrize("old", [2, 30])
def test_a_run_that_lasts_for_days_keeps_its_files_while_others_begin_and_end(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder, old: int
) -> None:
    for n in range(250):
        shop.create_customer(created=days_ago(shop, 3) + n, announce=False)
    make_pipeline(TEST_KEY).sync()

    reached, released = threading.Event(), threading.Event()

    def held(_: LoggedRequest) -> None:
        reached.set()
        assert released.wait(60)

    server.faults.append(Fault(path="/v1/customers$", nth=3, before=held))
    days = [day_of(days_ago(shop, 3)), day_of(days_ago(shop, 3) + 250)]
    with ThreadPoolExecutor(1) as beside:
        lasting = beside.submit(make_pipeline(TEST_KEY).backfill, days, ["customers"])
        assert reached.wait(30)
        assert list(folder.spool.rglob("*.ndjson"))
        age(folder, old)
        make_pipeline(TEST_KEY).sync()
        assert not lasting.done()
        released.set()
        assert not lasting.result().failures
    assert_equal_to_stripe(shop, folder.published)
    assert list(folder.spool.iterdir()) == []


def test_files_that_a_killed_run_has_left_are_removed_by_the_next_one(
    make_pipeline: MakePipeline, folder: DataFolder
) -> None:
    folder.prepare()
    for name in ("killed", "tmp_of_an_older_version"):
        (folder.spool / name / "test").mkdir(parents=True)
        (folder.spool / name / "test" / "charges.ndjson").write_text("{}")
    (folder.spool / "killed.lock").touch()
    age(folder, 2)
    make_pipeline(TEST_KEY).sync()
    assert list(folder.spool.iterdir()) == []


def _remove(folder: DataFolder) -> None:
    for path in folder.spool.iterdir():
        shutil.rmtree(path, ignore_errors=True)


def _make_unwritable(folder: DataFolder) -> None:
    # A file stands where the run wants to create a folder. Permissions would not stop root.
    [run] = [path for path in folder.spool.iterdir() if path.is_dir()]
    while not run.is_file():  # another thread may create the folder again
        shutil.rmtree(run, ignore_errors=True)
        with contextlib.suppress(FileExistsError):
            run.touch(exist_ok=False)


@pytest.mark.parametrize(
    ("spoil", "remedy"),
    [
        (_remove, "removed the run's working files.*run again"),
        (_make_unwritable, "Run again; if it fails again, please report it"),
    ],
)
def test_an_object_that_cannot_be_written_to_a_working_file_ends_the_run_with_a_remedy(
    make_pipeline: MakePipeline,
    server: Server,
    shop: Shop,
    folder: DataFolder,
    spoil: Callable[[DataFolder], None],
    remedy: str,
) -> None:
    pipeline: Pipeline = make_pipeline(TEST_KEY)
    customer = shop.create_customer(name="before", created=days_ago(shop, 3))["id"]
    pipeline.sync()
    shop.update("customers", customer, name="after")

    def spoiled(_: LoggedRequest) -> None:
        spoil(folder)

    server.faults.append(Fault(path=f"/v1/customers/{customer}$", before=spoiled))
    with pytest.raises(WarehouseError, match=f"working files of this run.*{remedy}"):
        pipeline.sync()
    for path in folder.spool.iterdir():
        path.unlink()
    assert not pipeline.sync().failures
    assert ask(folder.published, "SELECT name FROM test.customers") == [("after",)]
