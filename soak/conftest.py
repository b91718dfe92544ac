"""Fixtures that the soak tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from stripe_pipeline.data_folder import DataFolder
from tests import lake


@pytest.fixture(scope="session", autouse=True)
def lake_in_place_of_the_file() -> Iterator[None]:
    """With `TESTS_IN_LAKE`, read lakes in place of published files."""
    with lake.readable():
        yield
    lake.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DataFolder]:
    """An empty data folder."""
    with lake.lake_folder(tmp_path / "data") if lake.IN_LAKE else nullcontext(DataFolder(tmp_path / "data")) as empty:
        yield empty
