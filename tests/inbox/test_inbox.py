"""The inbox on both of its databases: stored, waiting and dead notifications, and concurrent use."""

from __future__ import annotations

import itertools
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from stripe_pipeline.batch import Mode
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import BadObject, SettingsError, WarehouseError
from stripe_pipeline.inbox.database import parse_url
from stripe_pipeline.inbox.inbox import Inbox
from stripe_pipeline.inbox.notification import Notification, State, Summary, notifications_of
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.sync.pipeline import Pipeline
from tests.conftest import MakePipeline

LIVE = Mode("acct_1", livemode=True)
TEST = Mode("acct_1", livemode=False)
NOW = 1_795_000_000
EVENT = {
    "id": "evt_1",
    "object": "event",
    "created": NOW,
    "livemode": False,
    "type": "charge.updated",
    "data": {"object": {"id": "ch_1", "object": "charge", "created": NOW - 60, "amount": 1000}},
}

Open = Callable[[], Inbox]


@pytest.fixture
def open_inbox(folder: DataFolder, url: str | None) -> Iterator[Open]:
    """Opens the test's inbox, which a test may do several times."""
    opened: list[Inbox] = []

    def open_one() -> Inbox:
        opened.append(Inbox(folder, url))
        return opened[-1]

    yield open_one
    for inbox in opened:
        inbox.close()


@pytest.fixture
def inbox(open_inbox: Open) -> Inbox:
    """The test's inbox."""
    return open_inbox()


def notification(number: int, mode: Mode = TEST, *, account: str | None = "acct_1", created: int = NOW) -> Notification:
    """A notification about a charge."""
    return Notification(f"evt_{number}", account, mode.livemode, "charge", f"ch_{number}", None, created)


def test_notifications_wait_in_the_order_of_their_events_until_they_are_applied(inbox: Inbox) -> None:
    late, early, same = notification(1, created=NOW + 5), notification(2), notification(3)
    assert inbox.add([late, early, late]) == 2
    assert inbox.add([late, same]) == 1
    assert inbox.add([]) == 0
    assert inbox.waiting(TEST) == [early, same, late]
    assert inbox.waiting(LIVE) == []
    inbox.applied([early, late])
    assert inbox.waiting(TEST) == [same]
    assert inbox.add([early]) == 0, "the same event again"
    assert inbox.waiting(TEST) == [same]


def test_notifications_of_an_unknown_account_wait_for_every_account(inbox: Inbox) -> None:
    unknown, other = notification(1, account=None), notification(2, account="acct_2")
    inbox.add([unknown, other, notification(3, LIVE)])
    assert inbox.waiting(TEST) == [unknown]
    assert inbox.waiting(Mode("acct_2", livemode=False)) == [unknown, other]


def test_a_notification_that_fails_waits_longer_each_time_and_is_dead_the_fifth_time(inbox: Inbox) -> None:
    failing, other = notification(1), notification(2)
    inbox.add([failing, other])
    inbox.applied([other])
    now = float(NOW)
    for pause in (10, 40, 160, 640):
        inbox.failed([failing, other], "not now", now=now)
        assert not inbox.has_due(now + pause - 1)
        assert inbox.waiting(TEST, now=now + pause - 1) == []
        now += pause
        assert inbox.has_due(now)
        assert inbox.waiting(TEST, now=now) == [failing]
    assert inbox.dead() == []
    inbox.failed([failing], "HTTP 500 for sk_live_0123456789abc", now=now)
    assert not inbox.has_due(now + 10**9)
    assert inbox.waiting(TEST, now=now + 10**9) == []
    [entry] = inbox.dead()
    assert (entry.notification, entry.attempts, entry.error, entry.state) == (
        failing,
        5,
        "HTTP 500 for sk_live_…",
        State.DEAD,
    )
    assert inbox.summary() == Summary(waiting=0, dead=1, oldest_waiting=None)


def test_dead_notifications_can_be_retried_all_or_some(inbox: Inbox) -> None:
    notifications = [notification(n) for n in range(4)]
    inbox.add(notifications)
    for _ in range(5):
        inbox.failed(notifications[:3], "no")
    assert inbox.retry(["evt_0", "evt_3", "evt_9"]) == 1, "only the dead one of these"
    assert inbox.waiting(TEST) == [notifications[0], notifications[3]]
    assert inbox.retry() == 2
    assert inbox.retry([]) == 0
    assert inbox.waiting(TEST) == notifications
    assert [(entry.attempts, entry.error) for entry in inbox.rows()] == [(0, None)] * 4


def test_rows_and_summary_show_notifications_that_were_not_applied(inbox: Inbox) -> None:
    assert inbox.summary() == Summary(0, 0, None)
    before = time.time()
    inbox.add([notification(1), notification(2), notification(3, LIVE, account=None)])
    inbox.applied([notification(2)])
    inbox.failed([notification(3)], WarehouseError("It is full", "Empty it"), now=before)
    first, third = inbox.rows()
    assert (first.notification, first.attempts, first.error, first.state) == (notification(1), 0, None, State.WAITING)
    assert (third.notification.account, third.notification.livemode, third.attempts) == (None, True, 1)
    assert third.error == "It is full. Empty it."
    assert third.not_before == before + 10
    assert before <= first.received_at <= time.time()
    assert inbox.summary() == Summary(waiting=2, dead=0, oldest_waiting=first.received_at)


def test_only_notifications_that_were_applied_long_ago_are_forgotten(inbox: Inbox) -> None:
    inbox.add([notification(1), notification(2)])
    inbox.applied([notification(1)])
    inbox.forget(applied_before=time.time() - 60)
    assert inbox.add([notification(1)]) == 0
    inbox.forget(applied_before=time.time() + 60)
    assert inbox.add([notification(1)]) == 1
    assert inbox.waiting(TEST) == [notification(1), notification(2)]


def test_notifications_of_a_mode_without_a_key_are_dropped(inbox: Inbox) -> None:
    inbox.add([notification(1), notification(2, LIVE), notification(3, LIVE)])
    inbox.applied([notification(3)])
    assert inbox.drop_modes({True, False}) == 0
    assert inbox.drop_modes({False}) == 1
    assert [entry.notification for entry in inbox.rows()] == [notification(1)]
    assert inbox.add([notification(3, LIVE)]) == 0
    assert inbox.drop_modes(set()) == 1


def test_thousands_at_once(inbox: Inbox) -> None:
    notifications = [notification(n) for n in range(3000)]
    assert inbox.add(notifications) == 3000
    assert inbox.add([*notifications, notification(5000)]) == 1
    inbox.failed(notifications[:1500], "no")
    assert len(inbox.waiting(TEST)) == 1501
    inbox.applied(notifications)
    assert inbox.waiting(TEST) == [notification(5000)]


def test_several_threads_may_create_and_use_an_inbox_at_once(open_inbox: Open) -> None:
    together = threading.Barrier(8)
    notifications = [notification(n) for n in range(200)]

    def use(number: int) -> int:
        together.wait()
        inbox = open_inbox()
        added = sum(inbox.add(notifications[start:] + notifications[:start]) for start in range(number, 200, 40))
        inbox.failed(notifications[number::2], "no")
        inbox.applied(notifications[::-1] if number % 2 else notifications)
        return added

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(use, range(8))) == 200
    assert open_inbox().rows() == []


def test_two_threads_that_add_the_same_events_in_opposite_orders_do_not_lock_each_other_out(open_inbox: Open) -> None:
    together = threading.Barrier(2, timeout=30)

    def use(step: int) -> int:
        inbox, added = open_inbox(), 0
        for start in range(0, 8000, 1000):
            notifications = [notification(n) for n in range(start, start + 1000)][::step]
            together.wait()
            added += inbox.add(notifications)
            inbox.applied(notifications)
        return added

    with ThreadPoolExecutor(2) as threads:
        assert sum(threads.map(use, (1, -1))) == 8000


_ADD = """
import sys
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.inbox.inbox import Inbox
from stripe_pipeline.inbox.notification import Notification
inbox = Inbox(DataFolder.from_environment(), sys.argv[1] or None)
for n in range(100):
    inbox.add([Notification(f"evt_{m}", None, True, "charge", "ch_1", None, m) for m in range(n, n + 20)])
    inbox.applied(inbox.waiting(type("Mode", (), {"account": "acct_1", "livemode": True}))[::2])
inbox.close()
"""


@pytest.mark.thorough
def test_several_processes_may_add_and_apply_at_once(folder: DataFolder, url: str | None, open_inbox: Open) -> None:
    environment = os.environ | {"STRIPE_PIPELINE_DATA": str(folder.root)}
    children = [
        subprocess.Popen([sys.executable, "-c", _ADD, url or ""], env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for child in children:
        _, problem = child.communicate(timeout=60)
        assert (child.returncode, problem) == (0, "")
    inbox = open_inbox()
    assert inbox.add([notification(n) for n in range(119)]) == 0
    assert inbox.add([notification(119)]) == 1


def test_has_due_costs_the_same_however_many_notifications_are_applied_or_dead(inbox: Inbox) -> None:
    def seconds() -> float:
        durations = []
        for _ in range(200):
            started = time.perf_counter()
            assert not inbox.has_due()
            durations.append(time.perf_counter() - started)
        return min(durations)  # other processes only slow a call down

    baseline = seconds()
    notifications = [notification(n) for n in range(20_000)]
    inbox.add(notifications)
    inbox.applied(notifications[:19_000])
    for _ in range(5):
        inbox.failed(notifications[19_000:], "no")
    # SQLite answers within a tenth of a millisecond; looking at all of these takes several times as long.
    assert any(seconds() < 3 * baseline + 0.0002 for _ in range(20)), "slow, not only while other processes run"


_OLD = """
CREATE TABLE pokes (
    event_id VARCHAR NOT NULL, account VARCHAR NOT NULL, livemode BOOLEAN NOT NULL, object VARCHAR NOT NULL,
    object_id VARCHAR NOT NULL, object_created BIGINT, event_created BIGINT NOT NULL, received_at FLOAT NOT NULL,
    applied_at FLOAT, PRIMARY KEY (event_id));
CREATE INDEX ix_pokes_applied_at ON pokes (applied_at);
INSERT INTO pokes VALUES ('evt_1', 'acct_1', 0, 'charge', 'ch_1', NULL, 1795000000, 1795000001.5, NULL);
INSERT INTO pokes VALUES ('evt_2', 'acct_1', 0, 'charge', 'ch_2', NULL, 1795000000, 1795000001.5, 1795000002.5);
"""


def test_an_inbox_of_an_older_version_is_upgraded(folder: DataFolder) -> None:
    folder.prepare()
    with sqlite3.connect(folder.inbox) as old:
        old.executescript(_OLD)
    old.close()
    together = threading.Barrier(8)

    def use(_: int) -> list[Notification]:
        together.wait()
        inbox = Inbox(folder)
        inbox.add([notification(3, account=None)])
        waiting = inbox.waiting(TEST)
        inbox.close()
        return waiting

    with ThreadPoolExecutor(8) as threads:
        for waiting in threads.map(use, range(8)):
            assert waiting == [notification(1), notification(3, account=None)]
    inbox = Inbox(folder)
    inbox.failed([notification(1)], "no")
    assert [entry.attempts for entry in inbox.rows()] == [1, 0]
    inbox.close()


def test_notifications_are_on_the_disk_when_add_returns(folder: DataFolder) -> None:
    """A test cannot cut the power. SQLite says whether commits wait for the disk (its page "PRAGMA synchronous")."""
    folder.prepare()
    inbox = Inbox(folder)
    levels = []

    def look(connection: Any, *_: object) -> None:
        levels.append(connection.exec_driver_sql("PRAGMA synchronous").scalar())

    sa.event.listen(inbox._database.engine, "commit", look)
    inbox.add([notification(1)])
    inbox.close()
    assert levels == [2]


def test_a_database_that_cannot_be_used_is_named_without_its_password(folder: DataFolder) -> None:
    folder.prepare()
    secret = "p@ss/w:rd"
    with pytest.raises(WarehouseError, match="inbox at postgresql") as refused:
        Inbox(folder, "postgresql://someone:p%40ss%2Fw%3Ard@127.0.0.1:1/inbox")
    shown = [str(refused.value)]
    for nonsense in (f"postgresql://someone:{secret}@127.0.0.1/x", f"mysql://someone:{secret}@h/x", secret, "sqlite"):
        with pytest.raises(SettingsError, match="not the address of a usable database") as refused_settings:
            Inbox(folder, nonsense)
        shown.append(str(refused_settings.value))
        [example] = re.findall(r"postgresql://\S+", refused_settings.value.remedy)
        assert parse_url(example).render_as_string() == "postgresql+psycopg://user:***@host/database"
    for text, part in itertools.product(shown, ("p@ss", "p%40ss", "w:rd")):
        assert part not in text


def test_a_file_that_is_not_an_inbox_is_named(folder: DataFolder) -> None:
    folder.prepare()
    folder.inbox.write_bytes(b"no database at all" * 100)
    with pytest.raises(WarehouseError, match=r"inbox\.sqlite is damaged .*not a database.* move it away"):
        Inbox(folder)


def test_each_failure_of_the_inbox_has_its_own_remedy(folder: DataFolder) -> None:
    folder.prepare()
    Inbox(folder).close()
    with Inbox(folder, f"sqlite:///{folder.inbox}", patience=0.1)._database.engine.connect() as other:
        other.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(
            WarehouseError, match=r"locked for over 0 seconds .*Stop a stripe-pipeline or Dagster process"
        ):
            Inbox(folder, patience=0.1).add([notification(1)])

    small = Inbox(folder)

    def fill(connection: Any, *_: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")

    small._database.engine.dispose()
    sa.event.listen(small._database.engine, "connect", fill)
    with pytest.raises(WarehouseError, match=r"no space left for the inbox .*\. Free disk space") as full:
        small.add([notification(n) for n in range(1000)])
    assert "damaged" not in str(full.value)
    small.close()

    folder.inbox.unlink()
    folder.inbox.mkdir()
    with pytest.raises(WarehouseError, match=r"cannot be opened or written .*Give this user write access"):
        Inbox(folder)


def test_an_inbox_that_cannot_be_written_says_so(folder: DataFolder) -> None:
    folder.prepare()
    inbox = Inbox(folder)
    inbox.check_writable()
    inbox.close()
    read_only = Inbox(folder, f"sqlite:///file:{folder.inbox}?mode=ro&uri=true")
    with pytest.raises(WarehouseError, match="readonly"):
        read_only.check_writable()
    with pytest.raises(WarehouseError, match="readonly"):
        read_only.add([notification(1)])
    read_only.close()


def test_an_event_makes_a_notification(folder: DataFolder) -> None:
    assert notifications_of(EVENT) == [Notification("evt_1", None, False, "charge", "ch_1", NOW - 60, NOW)]
    assert notifications_of(EVENT, LIVE) == [Notification("evt_1", "acct_1", True, "charge", "ch_1", NOW - 60, NOW)]
    assert notifications_of(EVENT | {"account": "acct_1"}, LIVE) == notifications_of(EVENT, LIVE)
    custom = {"id": "kunde@example.com", "object": "customer", "created": "2026"}
    assert notifications_of(EVENT | {"data": {"object": custom}}) == [
        Notification("evt_1", None, False, "customer", "kunde@example.com", None, NOW)
    ]


@pytest.mark.parametrize(
    ("carried", "named"),
    [
        (
            {"object": "discount", "customer": "cus_1", "subscription": "sub_1", "source": {"coupon": "50 %"}}
            | {"id": "di_1", "promotion_code": {"id": "promo_1"}, "created": NOW},
            {"coupon": "50 %", "customer": "cus_1", "promotion_code": "promo_1", "subscription": "sub_1"},
        ),
        (
            {"object": "discount", "customer": "cus_1", "subscription": None, "coupon": {"id": "50 %"}},
            {"coupon": "50 %", "customer": "cus_1"},
        ),
        (
            {"object": "invoice_payment", "id": "inpay_1", "invoice": "in_1"},
            {"invoice_payment": "inpay_1", "invoice": "in_1"},
        ),
        ({"object": "tax_id", "id": "txi_1", "customer": "cus_1"}, {"tax_id": "txi_1", "customer": "cus_1"}),
        ({"object": "card", "id": "card_1", "customer": "cus_1"}, {"customer": "cus_1"}),
        ({"object": "card", "id": "card_1", "account": "acct_1"}, {}),
        ({"object": "balance"}, {}),
        ({"object": "account", "id": "acct_1"}, {}),
    ],
)
def test_an_event_makes_a_notification_for_each_object_that_its_own_one_is_a_part_of(
    carried: dict[str, object], named: dict[str, str]
) -> None:
    notifications = notifications_of(EVENT | {"data": {"object": carried}})
    assert {notification.object: notification.object_id for notification in notifications} == named
    ids = [notification.event_id for notification in notifications]
    assert len({*ids}) == len(ids)
    assert all(event_id.startswith("evt_1") for event_id in ids)
    # Whichever tables are on, the same object has the same notification.
    for table in OBJECT_TYPES:
        of_table = notifications_of(EVENT | {"data": {"object": carried}}, tables=[table])
        assert {*of_table} <= {*notifications}, table


def _with(**fields: object) -> dict[str, object]:
    return EVENT | {"data": {"object": {"id": "ch_1", "object": "charge"} | fields}}


NOTHINGS: list[object] = [None, [], {}]


@pytest.mark.parametrize(
    "event",
    [
        *(None, 7, "evt", [], [EVENT], {}, {"id": "evt_1"}),
        *(EVENT | {"data": data} for data in (*NOTHINGS, "x", {"object": None}, {"object": "ch_1"})),
        *(EVENT | {"id": event_id} for event_id in (None, 7, "", "x" * 501, "evt\x00", "evt\ud800", ["evt"])),
        *(EVENT | {"created": created} for created in (None, "1", True, -1, 1.5, 2**70)),
        *(EVENT | {"livemode": livemode} for livemode in (None, 1, "true")),
        *(_with(object=name) for name in (*NOTHINGS, "line_item", "person", "CHARGE")),
        EVENT | {"object": "v2.core.event"},
        {"id": "evt_1", "object": "v2.core.event", "type": "v1.charge.updated", "related_object": {"id": "ch_1"}},
        EVENT | {"account": "acct_of_another"},
        {**_with(object="invoice", id=None), "type": "invoice.upcoming"},
    ],
)
def test_an_event_that_concerns_no_table_makes_no_notification(event: object) -> None:
    assert notifications_of(event) == []


@pytest.mark.parametrize("object_id", ["user 42", "a/b", "../x", "50%off", "é", "x" * 300, ".."])
def test_an_object_may_have_an_id_of_the_shops_own(object_id: str) -> None:
    [parsed] = notifications_of(_with(object="customer", id=object_id))
    assert parsed.object_id == object_id


@pytest.mark.parametrize("object_id", [None, 7, "", "ch\n1", "ch\x00", "\ud800", "x" * 501, {"id": 1}])
def test_an_event_whose_object_has_no_valid_id_is_an_error_that_names_the_event(object_id: object) -> None:
    with pytest.raises(BadObject, match="evt_1 names an object of type charge"):
        notifications_of(_with(id=object_id))


@pytest.mark.both_modes
def test_a_sync_applies_notifications_of_an_unknown_account(pipeline: Pipeline, folder: DataFolder) -> None:
    inbox = Inbox(folder)
    pipeline.sync()
    inbox.add(
        [notification(1, account=None), notification(2, LIVE, account=None), notification(3, account="acct_of_another")]
    )
    pipeline.sync()
    assert [entry.notification.event_id for entry in inbox.rows()] == ["evt_3"]
    inbox.close()


@pytest.mark.parametrize("work", ["sync", "prune"])
def test_applied_notifications_are_kept_for_the_days_of_the_settings(
    make_pipeline: MakePipeline, folder: DataFolder, work: str
) -> None:
    make_pipeline(inbox={"keep_days": 2}).sync()
    old, young = notification(1), notification(2)
    inbox = Inbox(folder)
    inbox.add([old, young])
    inbox.applied([old, young])
    with sqlite3.connect(folder.inbox) as connection:
        connection.execute("UPDATE pokes SET applied_at = applied_at - 86400 * 3 WHERE event_id = 'evt_1'")
    connection.close()
    getattr(make_pipeline(inbox={"keep_days": 2}), work)()
    assert inbox.add([old, young]) == 1
    inbox.close()


def test_a_pipeline_may_have_its_inbox_elsewhere(
    folder: DataFolder, open_inbox: Open, url: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if url is None:
        url = f"sqlite:///{folder.inbox}"
    monkeypatch.setenv("STRIPE_PIPELINE_INBOX", url)
    monkeypatch.setenv("STRIPE_PIPELINE_DATA", str(tmp_path / "other"))
    monkeypatch.setenv("STRIPE_API_KEY", "sk_test_of_the_tests")
    with Pipeline.from_environment() as pipeline:
        assert open_inbox().rows() == []
        assert not pipeline.folder.inbox.exists()
