"""The folder to share: what is in it, how an earlier release's folder follows, and what `pipeline.published` says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import duckdb
import pytest

from stripe_emulator import Fault, Server, Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY, day_of, day_start
from stripe_pipeline.errors import SettingsError
from stripe_pipeline.published_folder import PublishedFolder
from stripe_pipeline.warehouse.publisher import Pace
from tests.conftest import KEYS, MakePipeline
from tests.stripe_state import ask, days_ago, rows

REPOSITORY = Path(__file__).parents[2]
AT_ONCE = Pace(pause=0, keep=0)


def names_of(file: Path) -> list[str]:
    """The names of the published customers."""
    return sorted(row["name"] for row in rows(file, "test.customers"))


def made_by_an_earlier_release(folder: DataFolder) -> None:
    """Move what is published to where releases before 0.2 kept it."""
    shared = folder.shared
    shared.versions.rename(folder.root / "versions")
    shared.certificates.rename(folder.root / "certificates")
    version = shared.newest.readlink()
    shutil.rmtree(shared.root)
    folder.published.unlink()
    folder.published.symlink_to(version)


@contextmanager
def read_all_the_time(folder: DataFolder) -> Iterator[list[float]]:
    """Other processes that open the published file again and again during the block; fails if one of them could not.
    The list has the seconds of each read at the end."""
    command = [sys.executable, "-m", "soak.reads", str(folder.root), "0.01"]
    readers = [
        subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    reads: list[float] = []
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reading\n"
    yield reads
    for reader in readers:
        out, err = reader.communicate("stop")
        assert reader.returncode == 0, err
        reads += json.loads(out)


def test_the_published_folder_holds_what_may_be_shared_and_no_secret(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.create_customer(created=days_ago(shop, 1), name="Ada")
    pipeline = make_pipeline(objects={"customers": {"fields": {"hash": ["email"]}}})
    pipeline.sync()
    assert {path.name for path in folder.shared.root.iterdir()} == {"stripe.duckdb", "versions", "certificates"}
    assert folder.shared.root == folder.root / "published"
    assert names_of(folder.shared.newest) == names_of(folder.published) == ["Ada"]
    assert folder.published.readlink() == Path("published/stripe.duckdb")
    hash_key = folder.hash_key.read_bytes().strip()
    assert hash_key
    for file in folder.shared.root.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert hash_key not in content, file
            assert not [name for name, key in KEYS.items() if key.encode() in content], file


def test_a_folder_of_an_earlier_release_follows_without_failing_a_reader(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.create_customer(created=days_ago(shop, 1), name="Ada")
    pipeline = make_pipeline(pace=AT_ONCE)
    pipeline.sync()
    (folder.shared.certificates / "2026-10-test.json").write_text("{}")
    (folder.shared.certificates / "2026-10-test.html").write_text("<p>")
    made_by_an_earlier_release(folder)
    with (
        duckdb.connect(str(folder.published), read_only=True) as opened,
        read_all_the_time(folder) as reads,
    ):
        shop.create_customer(name="Grace")
        later = make_pipeline(pace=Pace(pause=0, keep=30))
        later.sync()
        assert folder.published.readlink() == Path("published/stripe.duckdb")
        assert [*(folder.root / "versions").glob("*/*")], "readers that have resolved the link may be opening the file"
        assert names_of(folder.shared.newest) == ["Ada", "Grace"]
        assert opened.execute("SELECT name FROM test.customers").fetchall() == [("Ada",)]
        for _ in range(5):
            shop.create_customer(name="Edith")
            later.sync()
    assert len(reads) > 10
    assert {path.name for path in folder.shared.certificates.iterdir()} == {"2026-10-test.json", "2026-10-test.html"}
    assert not (folder.root / "certificates").exists()
    shop.create_customer(name="Hedy")
    make_pipeline(pace=AT_ONCE).sync()
    shop.create_customer(name="Hedy")
    make_pipeline(pace=AT_ONCE).sync()
    assert not (folder.root / "versions").exists()
    assert names_of(folder.published) == names_of(folder.shared.newest)


def test_a_warehouse_is_restored_from_a_version_of_an_earlier_release(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.create_customer(created=days_ago(shop, 1), name="Ada")
    make_pipeline().sync()
    made_by_an_earlier_release(folder)
    folder.private.unlink()
    [note] = make_pipeline().sync().notes
    assert "was restored from the version published at" in note
    assert names_of(folder.published) == ["Ada"]


def test_erased_data_leaves_the_versions_of_an_earlier_release_at_once(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    customer = shop.create_customer(created=days_ago(shop, 1), name="Ada")["id"]
    make_pipeline().sync()
    made_by_an_earlier_release(folder)
    make_pipeline().warehouse.erase([customer])
    assert not [*(folder.root / "versions").glob("*")]
    assert names_of(folder.published) == []


def test_the_folder_can_be_elsewhere_and_moved(
    make_pipeline: MakePipeline,
    shop: Shop,
    folder: DataFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STRIPE_PIPELINE_DATA", str(folder.root))
    shop.create_customer(created=days_ago(shop, 1), name="Ada")
    make_pipeline().sync()
    (folder.shared.certificates / "2026-10-test.json").write_text("{}")
    places = [folder.shared.root, tmp_path / "a place", tmp_path / "another", folder.shared.root]
    for before, place in pairwise(places):
        monkeypatch.setenv("STRIPE_PIPELINE_PUBLISH", str(place))
        moved = DataFolder.from_environment()
        shop.create_customer(name="Ada")
        pipeline = make_pipeline(folder=moved)
        pipeline.sync()
        count = len(names_of(moved.shared.newest))
        assert moved.shared == PublishedFolder(place)
        assert [path.name for path in moved.shared.certificates.iterdir()] == ["2026-10-test.json"]
        assert count == len(names_of(folder.published)) == len(names_of(before / "stripe.duckdb"))
        assert not (before / "versions").exists(), "a version there would not be erased"
    assert count == 4
    (tmp_path / "another" / "notes.txt").touch()
    assert moved.clear() == []
    assert not folder.root.exists()


@pytest.mark.parametrize("named", ["s3://user:password@bucket/stripe", "https://example.com/x", "S3:/x"])
def test_an_address_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("STRIPE_PIPELINE_PUBLISH", named)
    with pytest.raises(SettingsError, match="only a folder of this machine") as refused:
        DataFolder.from_environment()
    assert "password" not in str(refused.value)


@pytest.mark.parametrize("named", ["data", ".", "data/private", "data/published/more"])
def test_a_folder_with_private_files_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STRIPE_PIPELINE_PUBLISH", named)
    with pytest.raises(SettingsError, match="private files of the data folder"):
        DataFolder.from_environment()
    monkeypatch.setenv("STRIPE_PIPELINE_PUBLISH", "data/published")
    assert DataFolder.from_environment().shared == DataFolder(tmp_path / "data").shared


# pipeline.published


def published(connection: Path) -> tuple[int, datetime, datetime | None, datetime | None]:
    """The row of `pipeline.published`."""
    [row] = ask(connection, "SELECT version, published_at, live_read_until, test_read_until FROM pipeline.published")
    return row


def test_a_reader_that_keeps_its_connection_sees_an_older_version(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.create_customer(created=days_ago(shop, 1))
    pipeline = make_pipeline()
    pipeline.sync()
    with duckdb.connect(str(folder.published), read_only=True) as kept:
        shop.create_customer()
        pipeline.sync()
        [(version, published_at)] = kept.execute("SELECT version, published_at FROM pipeline.published").fetchall()
    later, later_at, live, test = published(folder.published)
    assert (version < later, published_at < later_at) == (True, True)
    assert live is None
    assert test is not None
    assert abs(test.timestamp() - shop.clock.now()) < 10


def test_the_time_read_until_waits_for_the_last_type(
    make_pipeline: MakePipeline, shop: Shop, server: Server, folder: DataFolder
) -> None:
    shop.create_payment(created=days_ago(shop, 2))
    refused = Fault(path="^/v1/refunds", status=403, times=None)
    server.faults.append(refused)
    pipeline = make_pipeline()
    pipeline.sync()
    assert published(folder.published)[3] is None, "refunds were never read"
    server.faults.remove(refused)
    pipeline.sync()
    first = published(folder.published)[3]
    assert first is not None
    assert abs(first.timestamp() - shop.clock.now()) < 10

    # A type whose day cannot be sealed holds the time back, until the day is listed.
    shop.clock.advance(DAY)
    shop.create_payment()
    refused = Fault(path="^/v1/charges$", status=403, times=None)
    server.faults.append(refused)
    pipeline.sync()
    yesterday = day_of(shop.clock.now() - DAY)
    assert published(folder.published)[3] == datetime.fromtimestamp(day_start(yesterday), UTC)
    server.faults.remove(refused)
    pipeline.sync()
    sealed = published(folder.published)[3]
    assert sealed is not None
    assert abs(sealed.timestamp() - shop.clock.now()) < 10

    # So do notifications of a type that cannot be read.
    charge = shop.create_payment(created=days_ago(shop, 1))["latest_charge"]
    pipeline.sync()
    refused = Fault(path="^/v1/charges", status=403, times=None)
    server.faults.append(refused)
    before = datetime.now(UTC) - timedelta(seconds=1)
    shop.update("charges", charge, metadata={"a": "b"})
    pipeline.sync()
    held_back = published(folder.published)[3]
    pipeline.sync()
    assert published(folder.published)[3] == held_back
    assert held_back is not None
    assert held_back < before + timedelta(days=2)


def test_every_type_may_be_enabled(make_pipeline: MakePipeline, shop: Shop, folder: DataFolder) -> None:
    shop.create_payment(created=days_ago(shop, 2))
    pipeline = make_pipeline(objects="all")
    assert not pipeline.sync().failures
    for hours in (1, 24, 1):
        shop.clock.advance(hours * 3600)
        pipeline.sync()
        until = published(folder.published)[3]
        assert until is not None
        assert abs(until.timestamp() - shop.clock.now()) < 60
