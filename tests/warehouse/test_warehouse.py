"""The warehouse and the published file by themselves: versions of rows, publishing, files that are not ours."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from stripe_pipeline.batch import Batch, ListedDay, Mode, Tombstone
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.inbox.inbox import Inbox
from stripe_pipeline.objects import CUSTOMERS, DEFAULT_TYPES, INVOICES, ObjectType
from stripe_pipeline.rows import Surprises, shape
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.warehouse.bookkeeping import StoppedBackfill
from stripe_pipeline.warehouse.publisher import Pace, Publisher
from stripe_pipeline.warehouse.warehouse import Warehouse
from tests.stripe_state import all_columns, rows

TEST = Mode("acct_1", False)
DAY = date(2026, 1, 15)
NOON = int(datetime(2026, 1, 15, 12, tzinfo=UTC).timestamp())


def customer(name: str, *, object_id: str = "cus_1", created: int = NOON) -> dict[str, Any]:
    """A customer as the API shows it."""
    return {"id": object_id, "object": "customer", "created": created, "livemode": False, "name": name}


def batch_of(
    tmp_path: Path, *objects: dict[str, Any], at: float, of: ObjectType = CUSTOMERS, mode: Mode = TEST, **fields: Any
) -> Batch:
    """The batch of one request, which was sent at `at`, in Unix seconds."""
    batch = Batch(of, (), mode, **fields)
    for obj in objects:
        line = shape(of, obj, account="acct_1", livemode=mode.livemode, fetched_at=at, surprises=Surprises())
        path = tmp_path / f"{time.monotonic_ns()}.ndjson"
        path.write_bytes(line)
        batch.files.setdefault(of.name, []).append(path)
        batch.first, batch.last = min(batch.first, obj["created"]), max(batch.last, obj["created"])
    return batch


def listed(at: float) -> Any:
    """Arguments of `batch_of` for a complete list of the day, sent at `at`."""
    return {"days": [ListedDay(DAY, at, NOON + 43_200, "test")]}


@pytest.fixture
def warehouse(folder: DataFolder) -> Warehouse:
    """An empty warehouse."""
    return Warehouse(folder)


def names(warehouse: Warehouse) -> list[str]:
    """The customers' names that analysts see."""
    warehouse.publish()
    return sorted(row["name"] for row in rows(warehouse.folder.published, "test.customers"))


def test_a_row_is_replaced_by_later_requests_only(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.load([batch_of(tmp_path, customer("second"), at=NOON + 20)])
    late = warehouse.load([batch_of(tmp_path, customer("first"), at=NOON + 10)])
    assert names(warehouse) == ["second"]
    assert not late.changes["customers"].days
    warehouse.load([batch_of(tmp_path, customer("third"), at=NOON + 30)])
    assert names(warehouse) == ["third"]


def test_an_object_requested_before_a_complete_list_of_its_day_is_older_than_the_list(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    warehouse.load([batch_of(tmp_path, customer("old"), at=NOON)])
    # The list has the same object: the row does not change, and counts as read by the list.
    warehouse.load([batch_of(tmp_path, customer("old"), at=NOON + 30, **listed(NOON + 30))])
    warehouse.load([batch_of(tmp_path, customer("in between"), at=NOON + 20)])
    warehouse.load([batch_of(tmp_path, customer("never listed", object_id="cus_2"), at=NOON + 20)])
    assert names(warehouse) == ["old"]


def test_an_object_created_after_a_lists_bound_is_not_older_than_the_list(warehouse: Warehouse, tmp_path: Path) -> None:
    today = [ListedDay(DAY, NOON + 30, NOON + 10, "test")]
    warehouse.load([batch_of(tmp_path, customer("listed"), at=NOON + 30, days=today)])
    young = customer("made meanwhile", object_id="cus_2", created=NOON + 20)
    warehouse.load([batch_of(tmp_path, young, at=NOON + 25)])
    assert names(warehouse) == ["listed", "made meanwhile"]


def test_an_object_that_was_read_again_for_a_notification_has_the_time_of_that_request(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    warehouse.load([batch_of(tmp_path, customer("same"), at=NOON)])
    again = warehouse.load([batch_of(tmp_path, customer("same"), at=NOON + 30, read_again=True)])
    assert not again.changes["customers"].days
    warehouse.load([batch_of(tmp_path, customer("flip"), at=NOON + 20)])
    assert names(warehouse) == ["same"]


def test_an_object_that_a_complete_list_lacks_is_named_before_its_day_counts_as_listed(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    warehouse.load([batch_of(tmp_path, customer("kept"), customer("gone", object_id="cus_2"), at=NOON)])
    loaded = warehouse.load([batch_of(tmp_path, customer("kept"), at=NOON + 30, **listed(NOON + 30))])
    assert [missing for _, missing in loaded.missing] == [{DAY: ["cus_2"]}]
    assert warehouse.state.coverage(TEST) == {}
    assert names(warehouse) == ["gone", "kept"]
    complete = Batch(
        CUSTOMERS, (), TEST, tombstones=[Tombstone("cus_2", NOON + 40)], skip_missing_check=True, **listed(NOON + 30)
    )
    assert not warehouse.load([complete]).missing
    assert names(warehouse) == ["kept"]
    assert warehouse.state.coverage(TEST)["customers", DAY].rows == 1


def test_a_deleted_object_stays_deleted_when_an_older_answer_arrives(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.load([batch_of(tmp_path, customer("Ada"), at=NOON)])
    buried = warehouse.load([Batch(CUSTOMERS, (), TEST, tombstones=[Tombstone("cus_1", NOON + 30)])])
    assert buried.changes["customers"].deleted.total() == 1
    warehouse.load([batch_of(tmp_path, customer("late change"), at=NOON + 20)])
    assert names(warehouse) == []
    assert [row["name"] for row in rows(warehouse.folder.published, "raw.customers")] == ["Ada"]


@pytest.mark.parametrize("first_list", [False, True])
def test_an_object_that_was_deleted_before_it_was_stored_is_not_stored_by_an_older_answer(
    warehouse: Warehouse, tmp_path: Path, first_list: bool
) -> None:
    warehouse.load([Batch(CUSTOMERS, (), TEST, tombstones=[Tombstone("cus_1", NOON + 30)])])
    how = listed(NOON + 20) if first_list else {}
    late = warehouse.load([batch_of(tmp_path, customer("on its way"), at=NOON + 20, **how)])
    assert names(warehouse) == []
    assert late.refused == {"customers": {"cus_1"}}


def test_an_object_that_a_later_list_lacks_is_not_stored_by_an_older_list(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.load([Batch(CUSTOMERS, (), TEST, **listed(NOON + 30))])
    warehouse.load([batch_of(tmp_path, customer("on its way"), at=NOON + 20, **listed(NOON + 20))])
    assert names(warehouse) == []
    assert warehouse.state.coverage(TEST)["customers", DAY].rows == 0


def test_a_day_that_is_listed_for_the_first_time_is_stored_beside_other_days(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    for day in (1, 3, 2):
        moment = NOON + day * 86_400
        days = [ListedDay(DAY + timedelta(days=day), moment, moment + 43_200, "test")]
        versions = [customer(f"{day}-{n}", object_id=f"cus_{day}", created=moment) for n in (1, 2)]
        batch, other = (batch_of(tmp_path, version, at=moment + n, days=days) for n, version in enumerate(versions))
        batch.files["customers"] += other.files["customers"]
        changes = warehouse.load([batch]).changes["customers"]
        assert changes.inserted == {days[0].day: 1}
        assert changes.rows == {days[0].day: 1}
    assert names(warehouse) == ["1-2", "2-2", "3-2"]


def test_refused_objects_are_named_so_that_they_can_be_read_again(warehouse: Warehouse, tmp_path: Path) -> None:
    assert warehouse.load([batch_of(tmp_path, customer("Ada"), at=NOON + 30)]).refused == {"customers": set()}
    older = warehouse.load([batch_of(tmp_path, customer("older"), at=NOON)])
    assert older.refused == {"customers": {"cus_1"}}
    deleted = warehouse.load([Batch(CUSTOMERS, (), TEST, tombstones=[Tombstone("cus_1", NOON)])])
    assert deleted.refused == {"customers": {"cus_1"}}
    assert names(warehouse) == ["Ada"]


def test_a_list_that_is_stored_late_does_not_replace_a_later_one(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.load([batch_of(tmp_path, customer("Ada"), at=NOON + 50, **listed(NOON + 50))])
    warehouse.load([batch_of(tmp_path, customer("Ada"), at=NOON + 30, **listed(NOON + 30))])
    assert warehouse.state.coverage(TEST)["customers", DAY].listed_at == NOON + 50
    warehouse.load([batch_of(tmp_path, customer("in between", object_id="cus_2"), at=NOON + 40)])
    assert names(warehouse) == ["Ada"]


@pytest.mark.parametrize("first_list", [False, True])
def test_a_key_that_was_read_twice_is_one_row(warehouse: Warehouse, tmp_path: Path, first_list: bool) -> None:
    twice = batch_of(tmp_path, customer("early"), at=NOON, **(listed(NOON) if first_list else {}))
    later = batch_of(tmp_path, customer("late"), at=NOON + 1)
    twice.files["customers"] += later.files["customers"]
    warehouse.load([twice])
    assert names(warehouse) == ["late"]


KEPT_FROM = date(2014, 1, 3)
BY_DUE_DATE = Settings.model_validate(
    {
        "objects": {
            "invoices": {
                "date_field": "due_date",
                "retention": f"{(datetime.now(UTC).date() - KEPT_FROM).days} days",
            }
        }
    }
)


def due(day: int) -> dict[str, Any]:
    """An invoice that is due on that day of January 2014; the settings above keep it from the third on."""
    at = int(datetime(2014, 1, day, tzinfo=UTC).timestamp())
    return {"id": "in_1", "object": "invoice", "created": NOON, "due_date": at, "number": f"due {day}"}


@pytest.mark.parametrize("first_list", [False, True])
@pytest.mark.parametrize(("earlier", "later", "numbers"), [(5, 2, []), (2, 5, ["due 5"])])
def test_the_later_of_two_answers_decides_whether_an_object_is_too_old(
    folder: DataFolder, tmp_path: Path, first_list: bool, earlier: int, later: int, numbers: list[str]
) -> None:
    invoices_by_due_date, invoices = Warehouse(folder, BY_DUE_DATE), BY_DUE_DATE.types["invoices"]
    how: Any = listed(NOON) if first_list else {}
    twice = batch_of(tmp_path, due(earlier), at=NOON, of=invoices, **how)
    twice.files["invoices"] += batch_of(tmp_path, due(later), at=NOON + 1, of=invoices).files["invoices"]
    changes = invoices_by_due_date.load([twice]).changes["invoices"]
    assert invoices_by_due_date.ask("SELECT number FROM raw.invoices") == [(number,) for number in numbers]
    assert changes.inserted.total() == len(numbers)
    assert sum(changes.rows.values()) == len(numbers)


@pytest.mark.parametrize("first_list", [False, True])
def test_an_object_that_was_too_old_is_not_stored_by_an_older_answer(
    folder: DataFolder, tmp_path: Path, first_list: bool
) -> None:
    invoices_by_due_date, invoices = Warehouse(folder, BY_DUE_DATE), BY_DUE_DATE.types["invoices"]
    invoices_by_due_date.load([batch_of(tmp_path, due(2), at=NOON + 30, of=invoices)])
    how = listed(NOON + 20) if first_list else {}
    invoices_by_due_date.load([batch_of(tmp_path, due(5), at=NOON + 20, of=invoices, **how)])
    assert invoices_by_due_date.ask("SELECT number FROM raw.invoices") == []
    invoices_by_due_date.load([batch_of(tmp_path, due(6), at=NOON + 40, of=invoices)])
    assert invoices_by_due_date.ask("SELECT number FROM raw.invoices") == [("due 6",)]


def test_a_mode_that_is_listed_later_is_stored_beside_the_other(warehouse: Warehouse, tmp_path: Path) -> None:
    inserted = []
    for livemode in (True, False, False):
        name, mode = f"of {livemode}", Mode("acct_1", livemode)
        twice = [customer(name, object_id=f"cus_{livemode}") | {"livemode": livemode}] * 2
        loaded = warehouse.load([batch_of(tmp_path, *twice, at=NOON + 50, mode=mode, **listed(NOON + 50))])
        assert loaded.missing == []
        inserted.append(loaded.changes["customers"].inserted.total())
    assert inserted == [1, 1, 0]
    assert warehouse.ask("SELECT name FROM raw.customers ORDER BY ALL") == [("of False",), ("of True",)]
    assert warehouse.ask("SELECT name FROM live.customers") == [("of True",)]
    assert warehouse.state.coverage(Mode("acct_1", True))["customers", DAY].rows == 1
    assert warehouse.state.coverage(TEST)["customers", DAY].rows == 1


def test_a_cursor_never_moves_back(warehouse: Warehouse) -> None:
    warehouse.load([], cursors={(TEST, "events"): NOON + 10.5})
    warehouse.load([], cursors={(TEST, "events"): NOON})
    assert warehouse.state.cursors(TEST) == {"events": NOON + 10.5}


def test_a_load_that_fails_writes_nothing(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.load([batch_of(tmp_path, customer("Grace", object_id="cus_2"), at=NOON)])
    broken = batch_of(tmp_path, customer("x"), at=NOON)
    broken.files["customers"][0].write_text('{"id": 12.5, "created": "no"}\nnot json\n')
    with pytest.raises(WarehouseError, match="Nothing of this load was stored"):
        warehouse.load([batch_of(tmp_path, customer("Ada"), at=NOON), broken], cursors={(TEST, "events"): NOON})
    assert names(warehouse) == ["Grace"]
    assert warehouse.state.cursors(TEST) == {}


def test_the_published_file_is_an_immutable_version_behind_a_link(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.load([batch_of(tmp_path, customer("Ada"), at=NOON)])
    warehouse.publish()
    published = warehouse.folder.published
    assert published.is_symlink()
    version = published.resolve()
    assert version.parent.parent == warehouse.folder.versions.resolve()
    assert version.name == "stripe.duckdb"
    assert version.stat().st_mode & 0o777 == 0o400
    assert [path.name for path in version.parent.iterdir()] == ["stripe.duckdb"]
    with duckdb.connect(str(published), read_only=True) as reader:
        tags = reader.execute("SELECT tags FROM duckdb_databases() WHERE database_name = 'stripe'").fetchall()
        assert "v1.4" in str(tags)
        # A reader keeps its version while newer ones come.
        warehouse.load([batch_of(tmp_path, customer("Grace", object_id="cus_2"), at=NOON)])
        warehouse.publish()
        assert reader.execute("SELECT count(*) FROM test.customers").fetchall() == [(1,)]
    assert names(warehouse) == ["Ada", "Grace"]


def test_without_changes_nothing_is_published_again(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.load([batch_of(tmp_path, customer("Ada"), at=NOON)])
    warehouse.publish()
    version = warehouse.folder.published.resolve()
    warehouse.publish()
    Warehouse(warehouse.folder).publish()
    assert warehouse.folder.published.resolve() == version


def slow_copies(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[float]:
    """Make each publish take at least that many seconds; return a list to which each copy adds its start."""
    copies = []

    def copy(self: Publisher) -> bool:
        copies.append(time.time())
        time.sleep(seconds)
        return make_copy(self)

    make_copy = Publisher.copy
    monkeypatch.setattr(Publisher, "copy", copy)
    return copies


def test_publishing_keeps_to_its_share_of_the_time_across_processes(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = slow_copies(monkeypatch, seconds=0.5)
    warehouse.load([batch_of(tmp_path, customer("a"), at=NOON)])
    assert warehouse.publish(force=False)
    ended = time.time()
    warehouse.load([batch_of(tmp_path, customer("b"), at=NOON + 1)])
    for later in (0, 2.5, 4.5):
        monkeypatch.setattr(time, "time", lambda later=later: ended + later)
        assert not Warehouse(warehouse.folder).publish(force=False)
    assert len(copies) == 1
    assert warehouse.folder.publishing.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(time, "time", lambda: ended + 3600)
    assert Warehouse(warehouse.folder).publish(force=False)
    assert len(copies) == 2
    warehouse.load([batch_of(tmp_path, customer("c"), at=NOON + 2)])
    # By a clock that was set back.
    monkeypatch.setattr(time, "time", lambda: ended - 3600)
    assert Warehouse(warehouse.folder).publish(force=False)
    assert len(copies) == 3


@pytest.mark.parametrize(
    "noted", [b"", b"{", b"[]", b'{"ended": "now", "seconds": 1}', b'{"ended": 1, "seconds": 1e300}', None]
)
def test_the_time_of_the_last_publish_may_be_unreadable(
    warehouse: Warehouse, tmp_path: Path, noted: bytes | None
) -> None:
    warehouse.load([batch_of(tmp_path, customer("a"), at=NOON)])
    warehouse.publish()
    file = warehouse.folder.publishing
    file.unlink()
    if noted is None:
        file.mkdir()  # so that it cannot be written either
    else:
        file.write_bytes(noted)
    warehouse.load([batch_of(tmp_path, customer("b"), at=NOON + 1)])
    assert Warehouse(warehouse.folder).publish(force=False)
    assert [row["name"] for row in rows(warehouse.folder.published, "test.customers")] == ["b"]


def test_old_versions_are_removed_once_no_reader_can_be_opening_them(folder: DataFolder, tmp_path: Path) -> None:
    def publish(name: str, pace: Pace | None = None) -> Path:
        warehouse = Warehouse(folder, pace=pace)
        warehouse.load([batch_of(tmp_path, customer(name), at=NOON + len(name))])
        warehouse.publish()
        warehouse.close()
        return folder.published.resolve().parent

    first = publish("a")
    second = publish("bb")
    assert first.exists()
    time.sleep(0.05)
    third = publish("ccc", Pace(keep=0))
    assert [first.exists(), second.exists(), third.exists()] == [False, True, True]


@pytest.mark.thorough
def test_readers_and_writers_never_meet(warehouse: Warehouse, tmp_path: Path) -> None:
    """Loads and publishing go on while four threads open, read and close the published file."""
    warehouse.load([batch_of(tmp_path, customer("0"), at=NOON)])
    warehouse.publish()
    stop = threading.Event()
    problems: list[Exception] = []

    def read() -> None:
        while not stop.is_set():
            try:
                assert len(rows(warehouse.folder.published, "test.customers")) == 1
            except Exception as problem:
                problems.append(problem)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for n in range(15):
        warehouse.load([batch_of(tmp_path, customer(str(n)), at=NOON + n)])
        warehouse.publish()
    stop.set()
    for reader in readers:
        reader.join()
    assert problems == []
    assert names(warehouse) == ["14"]


@pytest.mark.thorough
def test_several_processes_take_turns(folder: DataFolder) -> None:
    """Four processes move cursors at once; none gets a lock error and none of the cursors is lost."""
    program = (
        "import sys; from pathlib import Path; from stripe_pipeline.data_folder import DataFolder\n"
        "from stripe_pipeline.batch import Mode\n"
        "from stripe_pipeline.warehouse.warehouse import Warehouse\n"
        "warehouse = Warehouse(DataFolder(Path(sys.argv[1])))\n"
        "for n in range(8):\n"
        "    warehouse.load([], cursors={(Mode('acct_1', False), f'{sys.argv[2]}-{n}'): n})\n"
        "    warehouse.publish()\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(folder.root), str(number)], stderr=subprocess.PIPE)
        for number in range(4)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, b"")
    assert len(Warehouse(folder).state.cursors(TEST)) == 32


def test_a_file_of_another_program_is_left_alone(folder: DataFolder) -> None:
    folder.prepare()
    with duckdb.connect(str(folder.private)) as connection:
        connection.execute("CREATE TABLE precious AS SELECT 42 AS answer")
    with pytest.raises(WarehouseError, match="another program"):
        Warehouse(folder).state.cursors(TEST)
    with duckdb.connect(str(folder.private)) as connection:
        assert connection.execute("SELECT * FROM precious").fetchall() == [(42,)]
        assert connection.execute("SELECT count(*) FROM duckdb_tables()").fetchall() == [(1,)]


def test_a_damaged_file_is_named_with_a_remedy(folder: DataFolder) -> None:
    folder.prepare()
    folder.private.write_bytes(b"no database " * 1000)
    with pytest.raises(WarehouseError, match=r"is damaged .*`stripe-pipeline clean`") as problem:
        Warehouse(folder).state.cursors(TEST)
    assert str(folder.private) in str(problem.value)


def test_a_file_of_a_newer_version_is_left_alone(warehouse: Warehouse) -> None:
    warehouse.load([], cursors={(TEST, "events"): NOON})
    with duckdb.connect(str(warehouse.folder.private)) as connection:
        connection.execute("UPDATE pipeline.meta SET format = 99")
    with pytest.raises(WarehouseError, match="newer stripe_pipeline"):
        Warehouse(warehouse.folder).state.cursors(TEST)


def test_a_column_declared_later_is_added_to_tables_and_views(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.load([batch_of(tmp_path, customer("Ada"), at=NOON)])
    with duckdb.connect(str(warehouse.folder.private)) as connection:
        connection.execute("DROP VIEW live.customers; DROP VIEW test.customers")
        connection.execute("ALTER TABLE raw.customers DROP COLUMN tax_exempt")
        connection.execute("UPDATE pipeline.applied SET value = 'that of the earlier version' WHERE name = 'layout'")
    upgraded = Warehouse(warehouse.folder)
    upgraded.load([batch_of(tmp_path, customer("Grace") | {"tax_exempt": "none"}, at=NOON + 1)])
    upgraded.publish()
    assert [row["tax_exempt"] for row in rows(upgraded.folder.published, "test.customers")] == ["none"]
    assert set(rows(upgraded.folder.published, "raw.customers")[0]) == set(all_columns(CUSTOMERS))


def test_nothing_is_published_before_anything_was_loaded(warehouse: Warehouse) -> None:
    assert warehouse.state.cursors(TEST) == {}
    warehouse.publish()
    assert not warehouse.folder.published.exists()


def test_every_table_has_its_views_and_bookkeeping(warehouse: Warehouse) -> None:
    warehouse.load([])
    warehouse.publish()
    with duckdb.connect(str(warehouse.folder.published), read_only=True) as connection:
        declared = connection.execute(
            "SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns"
        ).fetchall()
    columns = {(schema, table, column): kind for schema, table, column, kind in declared}
    for object_type in DEFAULT_TYPES.values():
        for schema in ("raw", "live", "test"):
            for column in set(all_columns(object_type)) - {"_deleted_at"}:
                assert (schema, object_type.name, column) in columns
        assert columns["raw", object_type.name, "_deleted_at"] == "TIMESTAMP WITH TIME ZONE"
        assert columns["raw", object_type.name, "created"] == "TIMESTAMP WITH TIME ZONE"
        assert columns["raw", object_type.name, "livemode"] == "BOOLEAN"
    assert columns["raw", INVOICES.name, "total"] == "BIGINT"
    assert {table for schema, table, _ in columns if schema == "pipeline"} >= {"coverage", "cursors"}


def test_an_inbox_may_be_created_by_several_threads_at_once(folder: DataFolder) -> None:
    folder.prepare()
    together = threading.Barrier(8)

    def make(_: int) -> int:
        together.wait()
        inbox = Inbox(folder)
        waiting = len(inbox.waiting(TEST))
        inbox.close()
        return waiting

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(make, range(8))) == [0] * 8


def test_a_stopped_backfill_is_known_until_it_has_ended(warehouse: Warehouse) -> None:
    assert warehouse.state.stopped_backfill(TEST, "all") is None
    warehouse.state.begin_backfill(TEST, "all", NOON)
    warehouse.state.begin_backfill(TEST, "others", NOON + 20)
    assert warehouse.state.stopped_backfill(TEST, "all") == StoppedBackfill(NOON, NOON)
    warehouse.state.begin_backfill(TEST, "all", NOON + 10)
    assert warehouse.state.stopped_backfill(TEST, "all") == StoppedBackfill(NOON + 10, NOON + 10)
    warehouse.state.end_backfill(TEST, "all")
    assert warehouse.state.stopped_backfill(TEST, "all") is None
    assert warehouse.state.stopped_backfill(TEST, "others") is not None
