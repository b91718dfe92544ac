"""How a load finds the stored rows that it replaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.warehouse import merge
from stripe_pipeline.warehouse.warehouse import Warehouse
from tests.warehouse.test_warehouse import DAY, NOON, batch_of, customer, names


@pytest.mark.parametrize("together", [False, True], ids=["two loads", "one load"])
@pytest.mark.parametrize(
    "read", [(1,), (0, 7), (3, 4, 5), (0, 2, 4, 6)], ids=["one row", "few rows", "few places", "many places"]
)
def test_changed_rows_are_replaced_wherever_they_are(
    folder: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: tuple[int, ...], together: bool
) -> None:
    monkeypatch.setattr(merge, "_FEW", 2)
    monkeypatch.setattr(merge, "_NEAR", 2)
    warehouse, changed = Warehouse(folder), {n for n in read if n != 4}
    first = batch_of(tmp_path, *(customer(f"{n} old", object_id=f"cus_{n}") for n in range(8)), at=NOON)
    again = (customer(f"{n} {'new' if n in changed else 'old'}", object_id=f"cus_{n}") for n in read)
    second = batch_of(tmp_path, *again, at=NOON + 10)
    loads = [[first, second]] if together else [[first], [second]]
    for batches in loads:
        loaded = warehouse.load(batches)
    assert loaded.changes["customers"].updated == {DAY: len(changed)}
    assert names(warehouse) == [f"{n} {'new' if n in changed else 'old'}" for n in range(8)]
