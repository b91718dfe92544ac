"""Publishing a file that is too large to be copied under the lock: others write meanwhile, and the copy is exact."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.warehouse import publisher
from stripe_pipeline.warehouse.file_copies import catch_up, clone, copy_file
from stripe_pipeline.warehouse.publisher import Publisher
from stripe_pipeline.warehouse.warehouse import Warehouse
from tests.stripe_state import rows
from tests.warehouse.test_files import files_up_to
from tests.warehouse.test_warehouse import NOON, batch_of, customer

MB = 1 << 20


@pytest.fixture
def warehouse(folder: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    """A warehouse with a published row, of which every file counts as large and none can be cloned."""
    monkeypatch.setattr(publisher, "_SMALL", 0)
    monkeypatch.setattr(publisher, "clone", lambda source, target: False)
    warehouse = Warehouse(folder)
    warehouse.load([batch_of(tmp_path, customer("Ada"), at=NOON)])
    warehouse.publish()
    return warehouse


def names_of(folder: DataFolder) -> set[str]:
    """The names of the published customers."""
    return {row["name"] for row in rows(folder.published, "test.customers")}


def while_copying(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object], times: int = 1) -> None:
    """Do this before the end of the next copies that are made without the lock."""
    copy_ahead = Publisher.copy_ahead
    done: list[object] = []

    def interrupted(self: Publisher) -> None:
        copy_ahead(self)
        if len(done) < times:
            done.append(work)
            work()

    monkeypatch.setattr(Publisher, "copy_ahead", interrupted)


def copy_into_half_of_the_space(self: Publisher) -> None:
    """`copy_ahead` on a disk without enough space for the copy."""
    with files_up_to(self.folder.private.stat().st_size // 2):
        copy_file(self.folder.private, self.folder.shared.unfinished / "stripe.duckdb")


@pytest.mark.parametrize("times", [1, 2, 5])
def test_others_load_while_a_large_file_is_copied(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    names = {"Ada", "Grace"}

    def load() -> None:
        other = Warehouse(warehouse.folder)
        for _ in range(3):
            names.add(f"loaded meanwhile {len(names)}")
            loaded = customer(f"loaded meanwhile {len(names) - 1}", object_id=f"cus_m{len(names)}")
            thread = threading.Thread(target=other.load, args=([batch_of(tmp_path, loaded, at=NOON)],))
            thread.start()
            thread.join(30)
            assert not thread.is_alive(), "the copy keeps others from writing"
        other.close()

    warehouse.load([batch_of(tmp_path, customer("Grace", object_id="cus_g"), at=NOON)])
    while_copying(monkeypatch, load, times)
    warehouse.publish()
    folder = warehouse.folder
    assert names_of(folder) == names
    assert folder.published.resolve().read_bytes() == folder.private.read_bytes()
    # The revision in the version's name is that of its content: there is nothing left to publish.
    version = folder.published.resolve()
    warehouse.publish()
    assert folder.published.resolve() == version


def test_what_is_erased_while_a_large_file_is_copied_is_in_no_version(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def erase() -> None:
        other = Warehouse(warehouse.folder)
        monkeypatch.setattr(other, "publish", lambda: True)  # which waits for its turn, as another process would
        other.erase(["cus_g"])
        other.close()

    warehouse.load([batch_of(tmp_path, customer("Grace Unforgettable", object_id="cus_g"), at=NOON)])
    while_copying(monkeypatch, erase)
    warehouse.publish()
    assert names_of(warehouse.folder) == {"Ada"}
    for file in warehouse.folder.versions.rglob("*.duckdb"):
        assert b"Unforgettable" not in file.read_bytes()


def test_one_publishes_at_a_time(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    others = []
    warehouse.load([batch_of(tmp_path, customer("Grace", object_id="cus_g"), at=NOON)])
    while_copying(monkeypatch, lambda: others.append(Warehouse(warehouse.folder).publish(force=False)))
    warehouse.folder.publishing.unlink()  # as if the last publish had been long ago
    warehouse.publish()
    assert others == [False]
    assert names_of(warehouse.folder) == {"Ada", "Grace"}


def test_a_disk_that_fills_up_during_either_pass_is_named_and_the_copy_removed(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = warehouse.folder
    before = folder.published.resolve()
    warehouse.load([batch_of(tmp_path, customer("Grace", object_id="cus_g"), at=NOON)])

    def grow() -> None:
        raise OSError(28, os.strerror(28))

    while_copying(monkeypatch, grow)
    with pytest.raises(WarehouseError, match=r"could not be renewed \(No space left.*holds the previous version"):
        warehouse.publish()
    with monkeypatch.context() as small:
        small.setattr(Publisher, "copy_ahead", copy_into_half_of_the_space)
        with pytest.raises(WarehouseError, match=r"too large.*ulimit"):
            warehouse.publish()
    assert folder.published.resolve() == before
    assert [*folder.versions.iterdir()] == [before.parent]
    warehouse.publish()
    assert names_of(folder) == {"Ada", "Grace"}


@pytest.mark.parametrize("killed_in", ["copy_ahead", "complete", "publish"])
def test_a_publish_that_is_killed_leaves_the_previous_version_and_the_next_one_removes_its_copy(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, killed_in: str
) -> None:
    folder = warehouse.folder
    before = folder.published.resolve()
    warehouse.load([batch_of(tmp_path, customer("Grace", object_id="cus_g"), at=NOON)])
    warehouse.close()
    if (child := os.fork()) == 0:
        monkeypatch.setattr(Publisher, "is_copied", lambda self: False)
        step = getattr(Publisher, killed_in)
        ended = lambda self, *args, **options: (  # noqa: E731
            step(self, *args, **options) if killed_in != "publish" else None,
            os._exit(9),
        )
        monkeypatch.setattr(Publisher, killed_in, ended)
        monkeypatch.setattr("stripe_pipeline.warehouse.warehouse._COPIES", 1)
        Warehouse(folder).publish()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert folder.shared.unfinished.is_dir()
    assert folder.published.resolve() == before
    assert names_of(folder) == {"Ada"}
    Warehouse(folder).publish()
    assert not folder.shared.unfinished.exists()
    assert names_of(folder) == {"Ada", "Grace"}


@pytest.mark.parametrize("size", [0, 1, 3 * MB - 1, 4 * MB, 4 * MB + 7])
@pytest.mark.parametrize("copied", [0, 1, 2 * MB, 4 * MB, 5 * MB + 3])
def test_a_copy_catches_up_with_every_byte(tmp_path: Path, size: int, copied: int) -> None:
    some = random.Random(size + copied)
    content = bytearray(some.randbytes(size))
    source, target = tmp_path / "source", tmp_path / "target"
    target.write_bytes((content + some.randbytes(copied))[:copied])
    for at in range(5, size, 700_001):
        content[at] ^= 1
    source.write_bytes(content)
    catch_up(source, target)
    assert target.read_bytes() == content
    assert catch_up(source, target) == 0


def test_values_that_change_places_are_noticed(tmp_path: Path) -> None:
    """DuckDB's checksum of a block is the same for both."""
    source, target = tmp_path / "source", tmp_path / "target"
    first, second = bytes(range(8)), bytes(range(8, 16))
    source.write_bytes(first + second + bytes(MB))
    target.write_bytes(second + first + bytes(MB))
    assert catch_up(source, target) == MB
    assert target.read_bytes() == source.read_bytes()


def test_a_file_system_without_clones_leaves_no_file(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"x" * 10_000)
    if clone(source, target):
        assert target.read_bytes() == source.read_bytes()
        pytest.skip("this file system has clones")
    assert not target.exists()
    copy_file(source, target)
    assert target.read_bytes() == source.read_bytes()
