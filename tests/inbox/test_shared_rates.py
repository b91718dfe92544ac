"""Stripe's limits shared by hosts through the inbox's database: how fast they are together, and what that costs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, suppress

import pytest

from stripe_emulator import Server, Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import Cancelled
from stripe_pipeline.inbox.shared_rates import PostgresRates, SharedRates, State, shared_rates
from stripe_pipeline.settings.environment import load_keys
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.stripe_api.rate_limits import RateLimits, requests_by_day
from stripe_pipeline.sync.pipeline import Pipeline
from tests.stripe_state import days_ago

OpenRates = Callable[[], SharedRates]


@pytest.fixture
def open_rates(inbox_in_postgres: str, folder: DataFolder) -> Iterator[OpenRates]:
    """The state as each of several hosts opens it."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(closing(shared_rates(folder, inbox_in_postgres, livemode=True)))


def sent_by(hosts: list[SharedRates], seconds: float, *, threads: int = 6) -> list[list[float]]:
    """When requests to one endpoint of 40 requests a second were sent, by host: each host has several lists under way,
    whose requests take 50 ms."""
    times: list[list[float]] = [[] for _ in hosts]

    def read(limits: RateLimits, sent: list[float]) -> None:
        with suppress(Cancelled):
            while True:
                limits.acquire("/v1/charges")
                sent.append(time.monotonic())
                time.sleep(0.05)

    limits = [RateLimits(account=400, endpoint=40, share=0.5, shared=host) for host in hosts]
    started = [
        threading.Thread(target=read, args=(host, sent), daemon=True)
        for host, sent in zip(limits, times, strict=True)
        for _ in range(threads)
    ]
    for thread in started:
        thread.start()
    time.sleep(seconds)
    for host in limits:
        host.close()
    for thread in started:
        thread.join(10)
    return times


def test_hosts_that_share_an_inbox_share_the_limits(open_rates: OpenRates) -> None:
    first, second = sent_by([open_rates(), open_rates()], 4)
    both = sorted(first + second)
    assert 4 * 20 * 0.6 < len(both) < 4 * 20 + 20, "some 20 a second, and what the bucket had saved"
    assert min(len(first), len(second)) > 0.1 * len(both)
    assert max(sum(at - 1 < other <= at for other in both) for at in both) <= 40


def test_most_requests_are_planned_by_the_exchange_of_an_earlier_one(
    open_rates: OpenRates, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchanges = 0
    exchange = PostgresRates.exchange

    def counted(self: PostgresRates) -> AbstractContextManager[State]:
        nonlocal exchanges
        exchanges += 1
        return exchange(self)

    monkeypatch.setattr(PostgresRates, "exchange", counted)
    rates = open_rates()
    [sent] = sent_by([rates], 3)
    assert exchanges < 0.7 * len(sent)
    [day] = requests_by_day(rates)
    assert len(sent) <= day.sent <= len(sent) + rates.at_once


def test_a_429_slows_down_the_other_host(open_rates: OpenRates) -> None:
    one, other = (RateLimits(account=400, endpoint=40, shared=open_rates()) for _ in range(2))
    one.slow_down("/v1/charges", "endpoint-rate", 1.5, sent=one.acquire("/v1/charges"))
    began = time.monotonic()
    other.acquire("/v1/refunds")
    assert time.monotonic() - began < 1
    other.acquire("/v1/charges")
    assert time.monotonic() - began > 1
    [day] = requests_by_day(open_rates())
    assert (day.sent, day.refused) == (3, 1)


def test_times_are_on_the_clock_of_the_database(open_rates: OpenRates, monkeypatch: pytest.MonkeyPatch) -> None:
    one = open_rates()
    RateLimits(account=400, endpoint=40, shared=one).acquire("/v1/charges")
    monkeypatch.setattr("stripe_pipeline.inbox.shared_rates.time.time", lambda: 0.0)  # a host whose clock is wrong
    other = open_rates()
    RateLimits(account=400, endpoint=40, shared=other).acquire("/v1/charges")
    assert abs(one.clock() - other.clock()) < 0.5


def test_a_sync_counts_its_requests_where_the_inbox_is(
    server: Server, shop: Shop, folder: DataFolder, inbox_in_postgres: str
) -> None:
    shop.create_customer(created=days_ago(shop, 5))
    with Pipeline(
        settings=Settings.model_validate({"history": "60 days"}),
        keys=load_keys({"STRIPE_API_KEY": "sk_test_of_the_tests"}),
        folder=folder,
        base_url=server.url,
        inbox_url=inbox_in_postgres,
    ) as pipeline:
        pipeline.sync()
    with closing(shared_rates(folder, inbox_in_postgres, livemode=False)) as rates:
        [day] = requests_by_day(rates)
    assert day.sent == len(server.requests)
    assert not folder.rates(livemode=False).exists()
