"""What `check` says about the file system that versions are published on."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.preflight.copying import Copying, try_copying
from stripe_pipeline.warehouse.warehouse import Warehouse
from tests.warehouse.test_warehouse import NOON, batch_of, customer


@pytest.fixture
def published(folder: DataFolder, tmp_path: Path) -> DataFolder:
    """The data folder of a warehouse with one row."""
    load(folder, tmp_path)
    return folder


def load(folder: DataFolder, tmp_path: Path) -> None:
    """Store and publish a row."""
    warehouse = Warehouse(folder)
    warehouse.load([batch_of(tmp_path, customer("Ada"), at=NOON)])
    warehouse.publish()
    warehouse.close()


def test_a_copy_is_timed_and_leaves_nothing(published: DataFolder) -> None:
    before = sorted(published.root.rglob("*"))
    tried = try_copying(published)
    assert sorted(published.root.rglob("*")) == before
    assert tried is not None
    assert (tried.size, tried.problem) == (published.private.stat().st_size, "")
    if tried.rate is None:
        assert "clones files" in str(tried)
    else:
        assert tried.rate > 1_000_000
        assert "no clones" in str(tried)


def test_nothing_is_created_before_the_first_load(folder: DataFolder) -> None:
    assert try_copying(folder) is None
    assert not folder.root.exists()


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (Copying(400_000_000, rate=400e6), "copies 400 MB/s: a new version of 400 MB takes about 1.0 s"),
        (Copying(400_000_000, rate=400e6), "visible within about 11 s. On a file system with clones (XFS, Btrfs)"),
        (Copying(40_000_000, rate=400e6), "a new version of 40 MB takes about 0.1 s"),
        (Copying(4_000_000, rate=400e6), "a new version of 4 MB takes less than 0.1 s"),
        (
            Copying(800_000, rate=400e6),
            "changes that webhooks announce are visible within about 2 s.",
        ),
        (Copying(4_000_000_000), "clones files, so a new version takes no time, whatever its size (now 4,000 MB)"),
    ],
)
def test_the_size_and_the_rate_say_how_fresh_the_file_is(of: Copying, said: str) -> None:
    assert said in str(of)
    assert ("Btrfs" in str(of)) == (of.size == 400_000_000)


def test_a_folder_that_cannot_be_written_is_not_called_good(
    published: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert str(try_copying(published)) == "how fast files are copied could not be tried (No space left on device)."


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system with clones."""
    image, place = tmp_path / "image", tmp_path / "mount"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(400_000_000)
    for command in (["mkfs.xfs", "-q", "-m", "reflink=1", f"{image}"], ["mount", "-o", "loop", f"{image}", f"{place}"]):
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip(f"{command[0]} is missing, or not allowed here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_file_system_with_clones_is_recognized_and_used(mount: Path, tmp_path: Path) -> None:
    folder = DataFolder(mount / "data")
    load(folder, tmp_path)
    tried = try_copying(folder)
    assert tried is not None
    assert tried.rate is None
    extents = subprocess.run(["xfs_io", "-rc", "fiemap -v", folder.published.resolve()], capture_output=True, text=True)
    assert "0x2000" in extents.stdout or "0x2001" in extents.stdout, "the blocks are not shared with the private file"
