"""A warehouse in a lake: what differs from one in a file. The tests of everything else run on a lake, too
(`make test-ducklake`)."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest

from stripe_emulator import Fault, Server, Shop
from stripe_pipeline.batch import Batch
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import day_of
from stripe_pipeline.errors import SettingsError, WarehouseError
from stripe_pipeline.fields import load_hash_key
from stripe_pipeline.inbox.notification import notifications_of
from stripe_pipeline.lake import Lake, lake_of
from stripe_pipeline.settings.configuration import Configuration
from stripe_pipeline.sync.pipeline import Pipeline
from stripe_pipeline.warehouse import lake_catalog, load, merge
from stripe_pipeline.warehouse.extensions import load_extensions
from stripe_pipeline.warehouse.lake_catalog import LakeCatalog
from stripe_pipeline.warehouse.readers import open_published
from tests.cli.test_cli import Project, Run, api, environment, project, run  # noqa: F401 - the command line's fixtures
from tests.conftest import TEST_KEY, MakePipeline
from tests.lake import IN_LAKE, lake_folder
from tests.stripe_state import ask, assert_equal_to_stripe, days_ago
from tests.warehouse.test_bucket import content, keys, s3, s3_server  # noqa: F401 - fixtures

WAITING = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"

in_lake = pytest.mark.skipif(not IN_LAKE, reason="needs DuckDB's extension for lakes: make test-ducklake")


def lake(folder: DataFolder) -> Lake:
    """The lake of a folder that has one."""
    assert folder.lake
    return folder.lake


def files(folder: DataFolder) -> list[Path]:
    """The Parquet files of a lake in a folder."""
    return sorted(Path(lake(folder).data).rglob("*.parquet"))


def catalog(folder: DataFolder, sql: str) -> list[tuple[object, ...]]:
    """The result of `sql` in the catalog's database."""
    with psycopg.connect(lake(folder).catalog, autocommit=True) as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.parametrize(
    ("warehouse", "data", "expected"),
    [
        ("postgresql://u:hidden@h/d", "/srv/lake", "STRIPE_PIPELINE_WAREHOUSE is not the address of a warehouse"),
        ("ducklake:sqlite:hidden.db", "/srv/lake", "STRIPE_PIPELINE_WAREHOUSE is not the address of a warehouse"),
        ("ducklake:postgresql://u:hidden@h/d", "", "STRIPE_PIPELINE_WAREHOUSE_DATA does not name the place"),
        ("ducklake:postgres:dbname=d", "lake", "STRIPE_PIPELINE_WAREHOUSE_DATA does not name the place"),
        ("ducklake:postgres:dbname=d", "gs://bucket", "STRIPE_PIPELINE_WAREHOUSE_DATA does not name the place"),
    ],
)
def test_an_address_that_names_no_lake_is_refused(warehouse: str, data: str, expected: str) -> None:
    with pytest.raises(SettingsError) as refused:
        lake_of({"STRIPE_PIPELINE_WAREHOUSE": warehouse, "STRIPE_PIPELINE_WAREHOUSE_DATA": data})
    assert expected in str(refused.value)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("warehouse", "catalog_address"),
    [
        ("ducklake:postgresql://u:p@h/d", "postgresql://u:p@h/d"),
        ("ducklake:postgres://u:p@h/d", "postgres://u:p@h/d"),
        ("ducklake:postgres:postgresql://u:p@h/d", "postgresql://u:p@h/d"),
        ("ducklake:postgres:dbname=d host=h", "dbname=d host=h"),
    ],
)
def test_the_address_of_a_catalog_is_a_url_or_what_postgres_clients_accept(
    warehouse: str, catalog_address: str
) -> None:
    of = {"STRIPE_PIPELINE_WAREHOUSE": warehouse, "STRIPE_PIPELINE_WAREHOUSE_DATA": "s3://bucket/prefix"}
    assert lake_of(of) == Lake(catalog_address, "s3://bucket/prefix/")
    assert ":p@" not in repr(lake_of(of))


def test_a_lake_and_a_bucket_for_published_files_exclude_each_other(tmp_path: Path) -> None:
    both = {
        "STRIPE_PIPELINE_WAREHOUSE": "ducklake:postgres:dbname=d",
        "STRIPE_PIPELINE_WAREHOUSE_DATA": "/srv/lake",
        "STRIPE_PIPELINE_PUBLISH": "s3://bucket/prefix",
    }
    with pytest.raises(SettingsError, match="no file is published") as refused:
        DataFolder.at(tmp_path, both)
    assert "Unset STRIPE_PIPELINE_PUBLISH" in refused.value.remedy
    del both["STRIPE_PIPELINE_PUBLISH"]
    assert DataFolder.at(tmp_path, both).lake


def test_hosts_that_share_a_lake_must_share_the_key_that_fields_are_hashed_with(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path, lake=Lake("dbname=d", "/srv/lake/"))
    with pytest.raises(SettingsError, match="STRIPE_PIPELINE_HASH_KEY is not set"):
        load_hash_key(folder)
    assert list(tmp_path.iterdir()) == []
    assert load_hash_key(DataFolder(tmp_path, lake=Lake("dbname=d", "/srv/lake/", "a key"))) == b"a key"


def test_clean_leaves_a_lake_alone(project: Project, run: Run) -> None:  # noqa: F811
    named = {"STRIPE_PIPELINE_WAREHOUSE": "ducklake:postgres:dbname=d", "STRIPE_PIPELINE_WAREHOUSE_DATA": "/srv/lake"}
    result = run("clean", "--yes", **named)
    assert result.status == 2
    assert "The warehouse is in a lake" in result.err


@pytest.mark.skipif(IN_LAKE, reason="the extension is there")
def test_without_duckdbs_extension_the_message_says_how_to_get_it(tmp_path: Path) -> None:
    with duckdb.connect(":memory:") as connection:
        connection.execute(f"SET extension_directory = '{tmp_path}'")
        connection.execute(f"SET custom_extension_repository = '{tmp_path / 'nothing'}'")
        with pytest.raises(WarehouseError) as missing:
            load_extensions(connection, ["ducklake"])
    assert f"duckdb-extension-ducklake=={duckdb.__version__}" in str(missing.value)


@in_lake
def test_rows_are_only_in_the_lake_and_readers_see_them_without_a_copy(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.create_customer(created=days_ago(shop, 3), name="Ada")
    with pytest.raises(WarehouseError, match="holds no data yet"), open_published(folder):
        pass
    make_pipeline().sync()
    assert not folder.private.exists()
    assert not folder.published.exists()
    with open_published(folder) as reading:
        assert reading.execute("SELECT name FROM test.customers").fetchall() == [("Ada",)]
        with pytest.raises(duckdb.Error, match="read-only"):
            reading.execute("DELETE FROM raw.customers")
        shop.create_customer(name="Grace")
        make_pipeline().sync()
        assert reading.execute("SELECT count(*) FROM test.customers").fetchall() == [(2,)]
        current = "SELECT version = revision FROM pipeline.published, pipeline.meta"
        assert reading.execute(current).fetchall() == [(True,)]
    assert make_pipeline().warehouse.file.exists()


@in_lake
def test_another_host_continues_where_the_first_one_stopped(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder, tmp_path: Path
) -> None:
    shop.create_customer(created=days_ago(shop, 3), name="Ada")
    make_pipeline().sync()
    requests = len(server.requests)
    shop.create_customer(name="Grace")
    other = make_pipeline(folder=DataFolder(tmp_path / "other", lake=folder.lake))
    other.sync()
    assert len(server.requests) - requests < 12  # a first load takes more than 60
    assert_equal_to_stripe(shop, folder.published)


@in_lake
def test_runs_on_any_host_share_a_lake_and_an_inbox(
    server: Server,
    shop: Shop,
    folder: DataFolder,
    tmp_path: Path,
    inbox_in_postgres: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop.create_customer(created=days_ago(shop, 3), name="Ada")
    of_both = {
        "STRIPE_PIPELINE_WAREHOUSE": f"ducklake:{lake(folder).catalog}",
        "STRIPE_PIPELINE_WAREHOUSE_DATA": lake(folder).data,
        "STRIPE_PIPELINE_INBOX": inbox_in_postgres,
        "STRIPE_API_BASE": server.url,
        **TEST_KEY,
    }
    for name, value in of_both.items():
        monkeypatch.setenv(name, value)
    for number in range(4):
        # A host without anything, as a new pod.
        monkeypatch.setenv("STRIPE_PIPELINE_DATA", str(tmp_path / f"host {number}"))
        named = shop.create_customer(name=f"Grace {number}")["id"]
        with Pipeline.from_environment() as pipeline:
            if number % 2:
                pipeline.inbox.add([of for event in shop.events(False) for of in notifications_of(event)])
                pipeline.drain(most=100)
                assert ask(folder.published, f"SELECT count(*) FROM test.customers WHERE id = '{named}'") == [(1,)]
            else:
                assert not pipeline.sync().failures
    assert_equal_to_stripe(shop, folder.published)


@in_lake
@pytest.mark.parametrize("times", [2, 9])
def test_a_load_of_a_process_that_has_lost_its_lock_is_done_again_and_given_up_in_the_end(
    make_pipeline: MakePipeline,
    shop: Shop,
    folder: DataFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    times: int,
) -> None:
    first, second = make_pipeline(), make_pipeline(folder=DataFolder(tmp_path / "other", lake=folder.lake))
    first.sync()
    second.sync()
    ada = shop.create_customer(name="Ada")["id"]
    tries: list[Batch] = []

    def overtaken(connection: duckdb.DuckDBPyConnection, batch: Batch, *others: Any, **options: Any) -> None:
        merge.merge_batch(connection, batch, *others, **options)
        if connection is first.warehouse.file.duckdb_of_ours() and batch.object_type.name == "customers":
            tries.append(batch)
            if len(tries) <= times:
                catalog(folder, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
                shop.update("customers", ada, name=f"Ada {len(tries)}")
                second.sync()

    monkeypatch.setattr(load, "merge_batch", overtaken)
    if times == 2:
        assert not first.sync().failures
        assert len(tries) == 3
    else:
        with pytest.raises(WarehouseError, match="Another process has written at the same time"):
            first.sync()
        assert len(tries) == 4
    monkeypatch.undo()
    first.sync()
    assert_equal_to_stripe(shop, folder.published)


@in_lake
def test_a_lake_in_s3_is_read_written_cleaned_and_erased_from(
    make_pipeline: MakePipeline,
    shop: Shop,
    s3: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    mark = f"zz{secrets.token_hex(8)}"
    with lake_folder(tmp_path / "data of a lake in S3", bucket="s3://shop") as folder:
        erased = shop.create_customer(created=days_ago(shop, 3), name=mark)["id"]
        shop.create_payment(shop.create_customer(created=days_ago(shop, 3), name="Grace")["id"])
        make_pipeline(folder=folder).sync()
        assert keys(s3) == []  # few rows are in the catalog
        make_pipeline(folder=folder).warehouse.prune()
        assert any(mark.encode() in content(s3, key) for key in keys(s3))
        shop.create_payment(shop.create_customer(name="Ada")["id"])
        pipeline = make_pipeline(folder=folder)
        pipeline.sync()
        assert_equal_to_stripe(shop, folder.published)
        pipeline.warehouse.erase([erased])
        assert [key for key in keys(s3) if mark.encode() in content(s3, key)] == []
        with open_published(folder) as reading:
            named = reading.execute("SELECT name FROM test.customers WHERE name <> '' ORDER BY name").fetchall()
        assert named == [("Ada",), ("Grace",)]


@in_lake
def test_erased_values_are_neither_in_files_nor_in_the_catalog_and_rows_are_still_found(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    mark = f"zz{secrets.token_hex(8)}"
    customer = shop.create_customer(created=days_ago(shop, 3), name=mark, email=mark)["id"]
    shop.create_customer(created=days_ago(shop, 3), name="Grace")
    pipeline = make_pipeline()
    pipeline.sync()

    def in_catalog() -> bool:
        tables = catalog(folder, "SELECT relname FROM pg_class WHERE relname LIKE 'ducklake%' AND relkind = 'r'")
        texts = [catalog(folder, f'SELECT t::text FROM "{table}" t') for (table,) in tables]
        [(pages,)] = catalog(folder, "SELECT setting FROM pg_settings WHERE name = 'data_directory'")
        [(number,)] = catalog(folder, "SELECT oid FROM pg_database WHERE datname = current_database()")
        catalog(folder, "SELECT 1 FROM pg_class LIMIT 1")
        with psycopg.connect(lake(folder).catalog, autocommit=True) as connection:
            connection.execute("CHECKPOINT")
        on_disk = any(mark.encode() in page.read_bytes() for page in Path(str(pages), "base", str(number)).iterdir())
        return mark in str(texts) or on_disk

    with psycopg.connect(lake(folder).catalog, autocommit=True) as connection:
        connection.execute("ANALYZE")  # as autovacuum does: Postgres's own statistics have values, too
    assert in_catalog()
    pipeline.warehouse.erase([customer])
    assert not in_catalog()
    assert [file for file in files(folder) if mark.encode() in file.read_bytes()] == []
    shop.create_customer(name="zzz")  # a load whose values are not those of the whole table
    make_pipeline().sync()
    assert ask(folder.published, "SELECT count(*) FROM test.customers WHERE name = 'Grace'") == [(1,)]
    assert ask(folder.published, "SELECT count(*) FROM test.customers WHERE name < 'H'") == [(1,)]


@in_lake
def test_the_nightly_cleaning_writes_files_and_keeps_replaced_ones_for_a_day(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    for _ in range(3):
        shop.create_customer(name="Ada")
        make_pipeline().sync()
    pipeline = make_pipeline()
    pipeline.warehouse.prune()
    kept = files(folder)
    assert any("customers" in str(file) for file in kept)
    [(snapshots,)] = catalog(folder, "SELECT count(*) FROM ducklake_snapshot")
    pipeline.warehouse.prune()
    assert set(kept) <= set(files(folder))
    catalog(folder, "UPDATE ducklake_snapshot SET snapshot_time = snapshot_time - INTERVAL '2 days' RETURNING 1")
    pipeline.warehouse.prune()
    assert catalog(folder, "SELECT count(*) FROM ducklake_snapshot") < [(snapshots,)]
    assert_equal_to_stripe(shop, folder.published)


@in_lake
def test_a_lake_that_cannot_be_used_is_named_without_its_password(
    make_pipeline: MakePipeline, folder: DataFolder, tmp_path: Path
) -> None:
    make_pipeline().sync()
    elsewhere = DataFolder(tmp_path / "other", lake=Lake(lake(folder).catalog, f"{tmp_path}/elsewhere/"))
    with pytest.raises(WarehouseError, match="Set STRIPE_PIPELINE_WAREHOUSE_DATA to the place"):
        make_pipeline(folder=elsewhere).sync()
    for address in ("postgresql://user:hidden@127.0.0.1:1/shop", "host=127.0.0.1 port=1 dbname=shop password=hidden"):
        away = DataFolder(tmp_path / "other", lake=Lake(address, f"{tmp_path}/elsewhere/"))
        with pytest.raises(WarehouseError, match=r"The lake shop on 127\.0\.0\.1 cannot be reached") as refused:
            make_pipeline(folder=away).sync()
        assert "hidden" not in str(refused.value)


@in_lake
def test_times_ahead_of_stripes_clock_are_corrected(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.create_customer(created=days_ago(shop, 3), name="Ada")
    assert make_pipeline().sync().notes == []
    assert make_pipeline().sync().notes == []
    ahead = "UPDATE raw.customers SET _fetched_at = now() + INTERVAL 2 DAY"
    pipeline = make_pipeline()
    pipeline.warehouse.file.write(lambda connection: connection.execute(ahead))
    [note] = pipeline.sync().notes
    assert "ahead of Stripe's clock" in note
    assert ask(folder.published, "SELECT count(*) FROM raw.customers WHERE _fetched_at > now()") == [(0,)]


@in_lake
def test_a_sync_without_changes_takes_few_statements_of_the_catalog(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.create_customer(created=days_ago(shop, 3))
    make_pipeline().sync()
    make_pipeline().sync()
    [(name,)] = catalog(folder, "SELECT current_database()")
    with psycopg.connect(lake(folder).catalog, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET log_statement = 'all'")
    [(place,)] = catalog(folder, "SELECT setting FROM pg_settings WHERE name = 'data_directory'")
    log = Path(str(place), "log")
    began = log.stat().st_size
    make_pipeline().sync()
    logged = log.read_bytes()[began:].decode()
    assert 100 < logged.count("LOG:  statement:") + logged.count("LOG:  execute") <= 168


@in_lake
def test_a_sync_without_changes_stores_its_cursors_and_names_the_version_in_one_transaction(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.create_customer(created=days_ago(shop, 3))
    make_pipeline().sync()
    make_pipeline().sync()
    current = "SELECT version = revision, epoch_us(published_at) FROM pipeline.published, pipeline.meta"
    [(_, before)] = ask(folder.published, current)
    [(snapshots,)] = catalog(folder, "SELECT count(*) FROM ducklake_snapshot")
    make_pipeline().sync()
    assert catalog(folder, "SELECT count(*) FROM ducklake_snapshot") == [(int(str(snapshots)) + 1,)]
    [(is_current, after)] = ask(folder.published, current)
    assert (is_current, after > before) == (True, True)


@in_lake
def test_a_session_reads_again_what_it_has_read_before_it_wrote(make_pipeline: MakePipeline, shop: Shop) -> None:
    shop.create_customer(created=days_ago(shop, 3))
    pipeline = make_pipeline()
    pipeline.sync()
    with pipeline.warehouse.session():
        before = pipeline.warehouse.state.identity().revision
        assert pipeline.warehouse.load([]).revision == before + 1
        assert pipeline.warehouse.state.identity().revision == before + 1


@in_lake
def test_what_was_looked_up_is_looked_up_again_once_another_process_has_stored(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, tmp_path: Path
) -> None:
    shop.create_customer(created=days_ago(shop, 3))
    first, second = make_pipeline(), make_pipeline(folder=DataFolder(tmp_path / "other", lake=folder.lake))
    first.sync()
    seen = first.warehouse.state.identity().revision
    assert second.warehouse.state.identity().revision == seen
    assert second.warehouse.load([]).revision == seen + 1
    assert first.warehouse.state.identity().revision == seen + 1
    assert second.warehouse.load([]).revision == seen + 2
    assert first.warehouse.load([]).revision == seen + 3


@in_lake
@pytest.mark.comments_of_columns
def test_comments_are_written_with_the_tables_whose_schema_stays_that_of_rows_in_the_catalog(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.create_customer(created=days_ago(shop, 3))
    make_pipeline().sync()
    schemas = "SELECT schema_version FROM ducklake_inlined_data_tables UNION SELECT schema_version FROM "
    current = "ducklake_snapshot WHERE snapshot_id = (SELECT max(snapshot_id) FROM ducklake_snapshot)"
    assert len(catalog(folder, schemas + current)) == 1
    commented = "SELECT count(*), count(comment) FROM duckdb_tables() WHERE schema_name = 'raw'"
    [(tables, comments)] = ask(folder.published, commented)
    assert tables == comments > 0


@in_lake
def test_what_waits_in_the_inbox_is_shown_and_holds_the_moment_back(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    charge = shop.create_payment(created=days_ago(shop, 1))["latest_charge"]
    make_pipeline().sync()
    make_pipeline().sync()
    shown = "SELECT p.test_read_until, i.received_at FROM pipeline.published p LEFT JOIN pipeline.inbox i ON true"
    [(first, received)] = ask(folder.published, shown)
    assert received is None
    server.faults.append(refused := Fault(path="^/v1/charges", status=403, times=None))
    shop.update("charges", charge, metadata={"a": "b"})
    for _ in range(2):
        make_pipeline().sync()
        [(held_back, received)] = ask(folder.published, shown)
        assert first < held_back <= received
    server.faults.remove(refused)
    make_pipeline().sync()
    [(last, received)] = ask(folder.published, shown)
    assert received is None
    assert last > held_back


@contextmanager
def writing(folder: DataFolder) -> Iterator[None]:
    """Another process writes: it holds the lock of the lake."""
    other = LakeCatalog(lake(folder))
    other.lock()
    try:
        yield
    finally:
        other.close()


@in_lake
def test_a_server_that_ends_idle_sessions_leaves_the_lock_to_its_holder(folder: DataFolder) -> None:
    held = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted"
    [(name,)] = catalog(folder, "SELECT current_database()")
    with psycopg.connect(lake(folder).catalog, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET idle_session_timeout = '200ms'")
    with writing(folder):
        time.sleep(1)
        assert catalog(folder, held) == [(1,)]


@in_lake
def test_a_drain_reads_while_another_process_writes_and_waits_only_to_store(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    shop.create_customer(created=days_ago(shop, 3), name="Ada")
    make_pipeline().sync()
    grace = shop.create_customer(name="Grace")["id"]
    pipeline = make_pipeline()
    pipeline.inbox.add([of for event in shop.events(False) for of in notifications_of(event)])
    with ThreadPoolExecutor(1) as threads:
        with writing(folder):
            before = len(server.requests)
            drain = threads.submit(pipeline.drain, most=100)
            while not (waiting := catalog(folder, WAITING)) and not drain.done():
                time.sleep(0.001)
            asked = [request.path for request in server.requests[before:]]
            assert waiting
            assert f"/v1/customers/{grace}" in asked
            assert ask(folder.published, "SELECT name FROM test.customers") == [("Ada",)]
        assert not drain.result().failures
    assert ask(folder.published, "SELECT count(*) FROM test.customers") == [(2,)]


@in_lake
def test_what_another_process_stores_is_read_without_the_lock_at_once(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lake_catalog, "LOCK_TIMEOUT", 1)
    first, second = make_pipeline(), make_pipeline(folder=DataFolder(tmp_path / "other", lake=folder.lake))
    first.sync()
    for expected in (1, 2, 3):
        shop.create_customer(created=days_ago(shop, 3))
        first.sync([day_of(days_ago(shop, 3))])
        with writing(folder):
            assert second.warehouse.ask("SELECT count(*) FROM test.customers") == [(expected,)]
            with second.warehouse.session(only_reads=True):
                assert second.warehouse.ask("SELECT count(*) FROM raw.customers") == [(expected,)]
            with pytest.raises(WarehouseError, match="Another process has been writing"):
                second.warehouse.load([])


@in_lake
def test_a_lake_that_does_not_follow_the_settings_yet_is_not_read_without_the_lock(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.create_customer(created=days_ago(shop, 3), name="Ada")
    make_pipeline().sync()
    monkeypatch.setattr(lake_catalog, "LOCK_TIMEOUT", 1)
    changed = make_pipeline(objects={"customers": {"fields": {"exclude": ["name"]}}})
    with writing(folder), pytest.raises(WarehouseError, match="Another process has been writing"):
        changed.warehouse.ask("SELECT count(*) FROM raw.customers")
    assert changed.warehouse.ask("SELECT count(*) FROM raw.customers") == [(1,)]
    columns = ask(folder.published, "SELECT column_name FROM (DESCRIBE raw.customers)")
    assert ("id",) in columns
    assert ("name",) not in columns


SYNC = """
import sys
from pathlib import Path
from datetime import date
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.lake import Lake
from stripe_pipeline.settings.environment import load_keys
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.settings.configuration import Configuration
from stripe_pipeline.sync.pipeline import Pipeline

url, root, catalog, data, key, first = sys.argv[1:]
folder = DataFolder(Path(root), lake=Lake(catalog, data))
settings = Settings.model_validate({"history": date.fromisoformat(first)})
with Pipeline(settings=settings, keys=load_keys({"STRIPE_TEST_API_KEY": key}), folder=folder, base_url=url) as pipeline:
    pipeline.sync()
"""


@in_lake
def test_of_runs_that_are_killed_nothing_is_lost_or_doubled(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    first = str((make_pipeline().settings).history)
    arguments = (server.url, str(folder.root), lake(folder).catalog, lake(folder).data, TEST_KEY["STRIPE_TEST_API_KEY"])
    held = "SELECT 1 FROM pg_locks JOIN pg_database d ON d.oid = database WHERE locktype = 'advisory' AND datname = "
    for locks, longer in ((2, 0.0), (3, 0.05), (3, 0.1), (4, 0.2)):
        for _ in range(5):
            shop.create_payment(shop.create_customer()["id"])
        process = subprocess.Popen([sys.executable, "-c", SYNC, *arguments, first])
        for _ in range(locks):  # of which the first one is for what was stored
            for expected in ([(1,)], []):
                while process.poll() is None and catalog(folder, f"{held} current_database()") != expected:
                    time.sleep(0.001)
        time.sleep(longer)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    make_pipeline().sync()
    assert_equal_to_stripe(shop, folder.published)


@in_lake
def test_a_host_that_does_not_know_the_lake_is_told_which_variables_it_lacks(
    server: Server, folder: DataFolder, tmp_path: Path, inbox_in_postgres: str
) -> None:
    of_all = {"STRIPE_PIPELINE_INBOX": inbox_in_postgres, "STRIPE_API_BASE": server.url, **TEST_KEY}
    of_lake = {
        "STRIPE_PIPELINE_WAREHOUSE": f"ducklake:{lake(folder).catalog}",
        "STRIPE_PIPELINE_WAREHOUSE_DATA": lake(folder).data,
    }
    knowing = Configuration(data_folder=tmp_path / "knowing", given_variables=of_all | of_lake)
    with Pipeline.from_environment(sources=knowing) as pipeline:
        assert not pipeline.sync().failures
    refused = rf"belongs to the warehouse in the lake with files in {lake(folder).data}, and .* holds no warehouse"
    with pytest.raises(WarehouseError, match=rf"{refused}. Set STRIPE_PIPELINE_WAREHOUSE and"):
        Pipeline.from_environment(sources=Configuration(data_folder=tmp_path / "other", given_variables=of_all))
