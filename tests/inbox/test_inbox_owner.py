"""The owner of an inbox: of one that was lost, of one that two warehouses name, of one whose warehouse was restored."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pytest

from stripe_emulator import Fault, Server, Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY, today
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.inbox.inbox import Inbox
from stripe_pipeline.inbox.notification import notifications_of
from stripe_pipeline.settings.environment import load_keys
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.sync.pipeline import Pipeline
from tests.stripe_state import ask, assert_equal_to_stripe, days_ago

KEY = {"STRIPE_API_KEY": "sk_test_of_the_tests"}
RESCANNED = "The inbox was new: Stripe's events of the last 30 days were read again"

OpenPipeline = Callable[..., Pipeline]


@pytest.fixture
def open_pipeline(server: Server) -> Iterator[OpenPipeline]:
    """Opens the pipeline of a data folder, with an inbox in the folder or at a URL."""
    opened: list[Pipeline] = []

    def open_one(folder: DataFolder, url: str | None = None) -> Pipeline:
        opened.append(
            Pipeline(
                settings=Settings.model_validate({"history": "60 days"}),
                keys=load_keys(KEY),
                folder=folder,
                base_url=server.url,
                inbox_url=url,
            )
        )
        return opened[-1]

    yield open_one
    for pipeline in opened:
        pipeline.__exit__()


@pytest.fixture
def shared_url(url: str | None, tmp_path: Path) -> str:
    """The address of an inbox outside the data folders."""
    return url or f"sqlite:///{tmp_path / 'shared.sqlite'}"


def lose(folder: DataFolder) -> None:
    """Move a damaged inbox away."""
    for file in folder.root.glob("inbox.sqlite*"):
        file.rename(folder.root.parent / file.name)


def add_events(pipeline: Pipeline, shop: Shop) -> None:
    """Put all events into the inbox, as the receiver does."""
    pipeline.inbox.add([notification for event in shop.events(False) for notification in notifications_of(event)])


def names(folder: DataFolder) -> list[str]:
    """The customers' names that analysts see."""
    return [name for (name,) in ask(folder.published, "SELECT name FROM test.customers ORDER BY name")]


def changed_customer_that_may_not_be_read(
    open_pipeline: OpenPipeline, folder: DataFolder, shop: Shop, server: Server
) -> str:
    """The id of a customer that was loaded and has changed since, while the key has lost the permission."""
    customer = str(shop.create_customer(created=days_ago(shop, 40), name="before")["id"])
    open_pipeline(folder).sync()
    shop.update("customers", customer, name="after")
    server.faults.append(Fault(path="/v1/customers", status=403, times=None))
    return customer


def test_changes_that_only_a_lost_inbox_named_are_read_again(
    open_pipeline: OpenPipeline, folder: DataFolder, shop: Shop, server: Server
) -> None:
    changed_customer_that_may_not_be_read(open_pipeline, folder, shop, server)
    for _ in range(2):
        open_pipeline(folder).sync()  # the scan of the second sync begins after the event
        shop.clock.advance(3600)
    server.faults.clear()
    lose(folder)
    assert RESCANNED in open_pipeline(folder).sync().notes
    assert names(folder) == ["after"]
    assert_equal_to_stripe(shop, folder.published)
    server.requests.clear()
    assert open_pipeline(folder).sync().notes == []
    assert len(server.requests) <= 3, "the events are read again once"


def test_notifications_that_failed_for_longer_than_stripe_keeps_events_are_tried_again(
    open_pipeline: OpenPipeline, folder: DataFolder, shop: Shop, server: Server
) -> None:
    customer = changed_customer_that_may_not_be_read(open_pipeline, folder, shop, server)
    open_pipeline(folder).sync()
    shop.clock.advance(20 * DAY)
    open_pipeline(folder).sync()
    shop.clock.advance(20 * DAY)
    lose(folder)
    # An event arrives before the sync. The sensor's publish must not hide the notification that failed.
    charge = shop.create_payment()["latest_charge"]
    sensor = open_pipeline(folder)
    sensor.inbox.add([notification for event in shop.events(False)[:1] for notification in notifications_of(event)])
    sensor.drain(most=10)
    sensor.publish()
    assert ask(folder.published, "SELECT object_id FROM pipeline.inbox") == [(customer,)]
    server.faults.clear()
    [note] = [note for note in open_pipeline(folder).sync().notes if note.startswith(RESCANNED)]
    assert "1 older notifications that had failed are tried again" in note
    assert names(folder) == ["after"]
    assert ask(folder.published, "SELECT count(*) FROM test.charges") == [(1,)], charge
    assert ask(folder.published, "SELECT object_id FROM pipeline.inbox") == []


def test_a_sync_that_is_killed_while_it_reads_the_events_again_leaves_that_to_the_next_one(
    open_pipeline: OpenPipeline, folder: DataFolder, shop: Shop, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_customer_that_may_not_be_read(open_pipeline, folder, shop, server)
    open_pipeline(folder).sync()
    server.faults.clear()
    lose(folder)
    killed = open_pipeline(folder)

    def kill(_: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(killed.inbox, "completed", kill)
    with pytest.raises(KeyboardInterrupt):
        killed.sync()
    assert RESCANNED in open_pipeline(folder).sync().notes
    assert_equal_to_stripe(shop, folder.published)


def test_an_upgrade_reads_no_events_again(
    open_pipeline: OpenPipeline, folder: DataFolder, shop: Shop, server: Server
) -> None:
    open_pipeline(folder).sync()
    shop.create_customer()
    old = open_pipeline(folder)
    old.sync()
    old.__exit__()
    with sqlite3.connect(folder.inbox) as inbox:
        inbox.execute("DROP TABLE poke_owners")
        inbox.execute("ALTER TABLE pokes DROP COLUMN applied_revision")
    inbox.close()
    with duckdb.connect(str(folder.private)) as warehouse:
        warehouse.execute("ALTER TABLE pipeline.meta DROP COLUMN id")
        warehouse.execute("UPDATE pipeline.applied SET value = 'that of the earlier version' WHERE name = 'layout'")
    server.requests.clear()
    assert open_pipeline(folder).sync().notes == []
    assert len(server.requests) <= 3
    [scan] = [request for request in server.requests if request.path == "/v1/events"]
    assert int(scan.params["created"]["gte"]) > shop.clock.now() - DAY


def test_the_inbox_of_one_data_folder_is_refused_to_another_one_until_it_is_handed_over(
    open_pipeline: OpenPipeline, folder: DataFolder, shop: Shop, server: Server, shared_url: str, tmp_path: Path
) -> None:
    customer = shop.create_customer(created=days_ago(shop, 5), name="before")["id"]
    open_pipeline(folder, shared_url).sync()
    shop.update("customers", customer, name="after")
    add_events(open_pipeline(folder, shared_url), shop)
    other = open_pipeline(DataFolder(tmp_path / "other"), shared_url)
    refused = (
        rf"belongs to the warehouse in {folder.root}( on host \S+)?. Name another database .*"
        " `stripe-pipeline webhooks adopt`"
    )

    for work in (
        lambda: other.drain(most=10),
        other.sync,
        lambda: other.backfill([today()]),
        other.prune,
    ):
        with pytest.raises(WarehouseError, match=refused):
            work()
    owner = open_pipeline(folder, shared_url)
    assert owner.drain(most=10).applied > 0
    owner.publish()
    assert names(folder) == ["after"]

    assert other.adopt_inbox() > 0
    other.sync()
    assert_equal_to_stripe(shop, other.folder.published)
    with pytest.raises(WarehouseError, match=rf"belongs to the warehouse in {other.folder.root}"):
        open_pipeline(folder, shared_url).sync()


def test_a_run_that_goes_on_while_its_inbox_is_handed_over_marks_no_notification(
    open_pipeline: OpenPipeline, folder: DataFolder, shop: Shop, shared_url: str, tmp_path: Path
) -> None:
    first = open_pipeline(folder, shared_url)
    first.sync()
    shop.create_customer(name="new")
    add_events(first, shop)
    notifications = [entry.notification for entry in first.inbox.rows()]
    open_pipeline(DataFolder(tmp_path / "other"), shared_url).adopt_inbox()
    for mark in (
        first.inbox.applied,
        lambda entries: first.inbox.defer(entries, "no"),
        lambda entries: first.inbox.failed(entries, "no"),
        lambda _: first.inbox.drop_modes({True}),
        lambda _: first.inbox.forget(applied_before=0),
    ):
        with pytest.raises(WarehouseError, match="was taken over by the warehouse in"):
            mark(notifications)
    assert [(entry.notification, entry.error) for entry in first.inbox.rows()] == [
        (notification, None) for notification in notifications
    ]


def test_two_new_data_folders_cannot_both_have_an_inbox(
    open_pipeline: OpenPipeline, folder: DataFolder, shop: Shop, shared_url: str, tmp_path: Path
) -> None:
    first, second = open_pipeline(folder, shared_url), open_pipeline(DataFolder(tmp_path / "other"), shared_url)
    shop.create_customer()
    add_events(first, shop)
    assert first.drain(most=10).applied == 1, "nothing was listed yet"
    with pytest.raises(WarehouseError, match=f"belongs to the warehouse in {folder.root}"):
        second.drain(most=10)


def restore(folder: DataFolder, copy: Path) -> None:
    """Put an older copy in the private file's place."""
    shutil.copyfile(copy, folder.private)


def test_a_restored_warehouse_gets_the_changes_that_were_applied_since(
    open_pipeline: OpenPipeline, folder: DataFolder, shop: Shop, server: Server, tmp_path: Path
) -> None:
    customer = shop.create_customer(created=days_ago(shop, 40), name="before")["id"]
    open_pipeline(folder).sync()
    copy = tmp_path / "copy.duckdb"
    shutil.copyfile(folder.private, copy)
    shop.update("customers", customer, name="after")
    later = open_pipeline(folder)
    add_events(later, shop)
    later.drain(most=10)
    later.sync()
    restore(folder, copy)
    report = open_pipeline(folder).sync()
    assert ask(folder.private, "SELECT name FROM raw.customers") == [("after",)]
    assert any("or to a later state of this one" in note for note in report.notes)
    assert_equal_to_stripe(shop, folder.published)
    server.requests.clear()
    assert open_pipeline(folder).sync().notes == []
    assert len(server.requests) <= 3


def test_a_copy_of_a_data_folder_is_refused_the_inbox_outside(
    open_pipeline: OpenPipeline, folder: DataFolder, shop: Shop, shared_url: str, tmp_path: Path
) -> None:
    customer = shop.create_customer(created=days_ago(shop, 40), name="before")["id"]
    open_pipeline(folder, shared_url).sync()
    copy = DataFolder(tmp_path / "copy")
    copy.prepare()
    shutil.copyfile(folder.private, copy.private)
    shop.update("customers", customer, name="after")
    open_pipeline(folder, shared_url).sync()
    with pytest.raises(WarehouseError, match="warehouse is a copy, or was restored from one"):
        open_pipeline(copy, shared_url).sync()
    open_pipeline(copy, shared_url).adopt_inbox()
    open_pipeline(copy, shared_url).sync()
    assert_equal_to_stripe(shop, copy.published)


def test_the_inbox_in_the_data_folder_follows_the_warehouse_beside_it(
    open_pipeline: OpenPipeline, folder: DataFolder, shop: Shop, server: Server
) -> None:
    open_pipeline(folder).sync()
    shop.update("customers", shop.create_customer(name="before")["id"], name="after")
    open_pipeline(folder).sync()
    shutil.rmtree(folder.private.parent)
    shutil.rmtree(folder.versions)  # or the warehouse would be restored
    report = open_pipeline(folder).sync()
    assert any("notifications are applied again" in note for note in report.notes)
    assert_equal_to_stripe(shop, folder.published)


def test_a_running_pipeline_whose_inbox_is_moved_away_goes_on_with_a_new_one(
    open_pipeline: OpenPipeline, folder: DataFolder, shop: Shop
) -> None:
    pipeline = open_pipeline(folder)
    pipeline.sync()
    lose(folder)
    shop.create_customer(name="new")
    add_events(pipeline, shop)
    inbox = Inbox(folder)
    assert inbox.summary().waiting == 1
    inbox.close()
    assert RESCANNED in pipeline.sync().notes
    assert names(folder) == ["new"]
    assert_equal_to_stripe(shop, folder.published)


def test_files_left_of_an_inbox_that_was_moved_away_are_not_used_by_the_new_one(folder: DataFolder) -> None:
    folder.prepare()
    old = Inbox(folder)
    old.check_writable()
    folder.inbox.rename(folder.root / "moved away")
    new = Inbox(folder)
    assert new.summary().waiting == 0
    new.check_writable()
    assert old.summary().waiting == 0
    old.close()
    new.close()
    with sqlite3.connect(folder.inbox) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
