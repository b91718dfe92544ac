"""Servers that are slow, or never complete an answer: a run ends in time and loses nothing."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from stripe_emulator import Fault, Server, Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import day_of
from stripe_pipeline.errors import OutOfTime, Unavailable
from stripe_pipeline.inbox.notification import notifications_of
from stripe_pipeline.stripe_api import deadline
from stripe_pipeline.stripe_api.client import StripeApi
from stripe_pipeline.stripe_api.deadline import Deadline
from stripe_pipeline.stripe_api.keys import ApiKey
from stripe_pipeline.stripe_api.rate_limits import RateLimits
from stripe_pipeline.stripe_api.retries import Retries
from stripe_pipeline.sync.pipeline import Pipeline
from stripe_pipeline.warehouse import store
from tests.conftest import KEYS, MakePipeline
from tests.stripe_state import ask, assert_equal_to_stripe, days_ago
from tests.variants import varied

KEY = ApiKey.from_text(KEYS["STRIPE_API_KEY"])
LIVE_KEY = {"STRIPE_API_KEY": KEY.secret}
SLACK = 6.0  # more seconds that a busy machine may take


@contextmanager
def trickling(head: bytes) -> Iterator[str]:
    """The address of a server that answers with `head` and then one byte every 50 ms, forever."""
    ended = threading.Event()

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(head)
            while not ended.wait(0.05):
                connection.sendall(b"a")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Header: ",
    ],
    ids=["body", "body without a length", "header"],
)
@pytest.mark.timeout(30)
def test_trap_40_an_answer_that_trickles_is_cut_off(head: bytes) -> None:
    limits = RateLimits(account=1e6, endpoint=1e6)
    with trickling(head) as url:
        started = time.monotonic()
        with (
            StripeApi(KEY, base_url=url, limits=limits, retries=Retries(max_attempts=1, request_time=0.5)) as api,
            pytest.raises(Unavailable, match="not complete after"),
        ):
            api.get("/v1/charges")
    assert 0.4 < time.monotonic() - started < 0.5 + SLACK


def test_a_wait_that_would_outlast_the_deadline_is_not_begun(server: Server) -> None:
    limits = RateLimits(account=1, endpoint=0.05)
    with StripeApi(KEY, base_url=server.url, limits=limits, deadline=Deadline(5)) as api:
        api.get("/v1/charges")
        started = time.monotonic()
        with pytest.raises(OutOfTime):
            api.get("/v1/charges")
        assert time.monotonic() - started < 5
    server.faults.append(Fault(status=429, headers={"Retry-After": "30"}))
    with StripeApi(KEY, base_url=server.url, deadline=Deadline(5)) as api:
        started = time.monotonic()
        with pytest.raises(OutOfTime, match="429"):
            api.get("/v1/charges")
        assert time.monotonic() - started < 5


def add_events(pipeline: Pipeline, shop: Shop, *, livemode: bool = True) -> None:
    """Put all events into the inbox."""
    pipeline.inbox.add([notification for event in shop.events(livemode) for notification in notifications_of(event)])


def load_and_change_customers(pipeline: Pipeline, shop: Shop, number: int) -> None:
    """Load old customers, and change them afterwards."""
    customers = [shop.create_customer(livemode=True, created=days_ago(shop, 20 + n))["id"] for n in range(number)]
    pipeline.sync()
    for customer in customers:
        shop.update("customers", customer, name="changed")
    add_events(pipeline, shop)


@pytest.mark.parametrize("path", varied(["", "^/v1/customers/"]))
def test_trap_40_a_drain_ends_in_time_and_unread_notifications_wait(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder, path: str
) -> None:
    pipeline = make_pipeline(LIVE_KEY)
    load_and_change_customers(pipeline, shop, 4)
    server.faults.append(Fault(path=path, trickle=0.2, times=None))
    started = time.monotonic()
    report = pipeline.drain(most=200, within=2.0)
    assert time.monotonic() - started < 2 + SLACK
    assert "customers" in report.failures
    waiting = pipeline.inbox.rows()
    assert waiting
    assert {entry.attempts for entry in waiting} == {0}
    server.faults.clear()
    pipeline.drain(most=200, due=float("inf"))
    pipeline.publish()
    assert_equal_to_stripe(shop, folder.published)


def test_objects_that_a_drain_could_read_from_a_slow_api_are_stored(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    pipeline = make_pipeline(LIVE_KEY)
    load_and_change_customers(pipeline, shop, 40)
    server.faults.append(Fault(path="^/v1/customers/", delay=1.0, times=None))
    drains = 0
    while pipeline.has_due_notifications(float("inf")) and drains < 12:
        before = len(pipeline.inbox.rows())
        report = pipeline.drain(most=200, due=float("inf"), within=2.5)
        drains += 1
        assert len(pipeline.inbox.rows()) < before, report.failures
    assert drains > 1
    pipeline.publish()
    assert_equal_to_stripe(shop, folder.published)


@pytest.mark.both_modes
def test_a_key_whose_answers_trickle_leaves_time_to_the_other(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    pipeline = make_pipeline()
    load_and_change_customers(pipeline, shop, 2)
    person = shop.create_customer(created=days_ago(shop, 20))["id"]
    pipeline.sync()
    shop.update("customers", person, name="changed")
    add_events(pipeline, shop, livemode=False)
    customer = next(iter(shop.objects("customers", True).values()))["id"]
    shop.update("customers", customer, name="changed again")
    add_events(pipeline, shop)
    server.faults.append(Fault(livemode=True, trickle=0.2, times=None))
    started = time.monotonic()
    pipeline.drain(most=200, within=8.0)
    assert time.monotonic() - started < 8 + SLACK
    pipeline.publish()
    assert ask(folder.published, f"SELECT name FROM test.customers WHERE id = '{person}'") == [("changed",)]


@pytest.mark.both_modes
def test_a_sync_ends_in_time_and_the_next_one_goes_on(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    for n in range(12):
        shop.create_customer(livemode=True, created=days_ago(shop, n))
        shop.create_payment(livemode=True, created=days_ago(shop, n))
    pipeline = make_pipeline(LIVE_KEY, history=day_of(days_ago(shop, 20)))
    server.faults.append(Fault(path="^/v1/charges$", trickle=0.2, times=None))
    started = time.monotonic()
    report = pipeline.sync(within=5.0)
    assert time.monotonic() - started < 5 + 2 * SLACK
    assert "charges" in report.failures
    assert "customers" not in report.failures
    assert ask(folder.published, "SELECT count(*) >= 12 FROM live.customers") == [(True,)]
    server.faults.clear()
    assert not pipeline.sync().failures
    assert_equal_to_stripe(shop, folder.published)


class Monotonic:
    """The monotonic clock, which can be moved on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        """As `time.monotonic`."""
        return time.monotonic() + self.ahead


def test_waiting_for_another_writer_uses_up_no_time_of_a_drain(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a drain beside busy writers would never read anything."""
    clock = Monotonic()
    for module in (deadline, store):
        monkeypatch.setattr(module, "time", clock)
    make_pipeline().sync()
    shop.create_customer(created=days_ago(shop, 3), name="Ada")
    pipeline, other = make_pipeline(bi=True), make_pipeline()
    pipeline.inbox.add([of for event in shop.events(False) for of in notifications_of(event)])
    waits = threading.Event()
    turn = pipeline.warehouse.file._waiting

    @contextmanager
    def noticed() -> Iterator[None]:
        with turn():
            waits.set()
            yield

    monkeypatch.setattr(pipeline.warehouse.file, "_waiting", noticed)
    with ThreadPoolExecutor(1) as threads:
        with other.warehouse.session():
            drain = threads.submit(pipeline.drain, most=100, within=100.0)
            assert waits.wait(60)
            clock.ahead += 100
        assert not drain.result().failures
    pipeline.publish()
    assert ask(folder.published, "SELECT name FROM test.customers") == [("Ada",)]
