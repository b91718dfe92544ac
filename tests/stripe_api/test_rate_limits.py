"""Rate limits: the arithmetic of a bucket with given times, and the waiting of threads with a fake clock."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stripe_pipeline.errors import Cancelled
from stripe_pipeline.inbox.shared_rates import FileRates
from stripe_pipeline.stripe_api.rate_limits import LEFT, LONGEST, QUIET, Bucket, RateLimits, endpoint_of


class FakeTime:
    """A clock that moves only during waits, each of which takes exactly its timeout."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waits = 0

    def clock(self) -> float:
        return self.now

    def wait(self, event: threading.Event, timeout: float | None) -> bool:
        assert timeout is not None, "a single thread waits with a timeout"
        self.now += timeout
        self.waits += 1
        return event.is_set()


def limits_on(
    fake: FakeTime, *, account: float = 100, endpoint: float = 25, share: float = 0.8, shared: Path | None = None
) -> RateLimits:
    rates = FileRates(shared) if shared else None
    return RateLimits(account=account, endpoint=endpoint, share=share, shared=rates, clock=fake.clock, wait=fake.wait)


def send(bucket: Bucket, now: float) -> float:
    """Waits for a token and takes it; returns the time at which that happens."""
    while delay := bucket.wait(now):
        now += delay
    bucket.take(now)
    return now


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        ("/v1/charges", "/v1/charges"),
        ("/v1/charges/ch_1", "/v1/charges"),
        ("/v1/invoices/in_1/lines", "/v1/invoices/{id}/lines"),
        ("/v1/invoices/{id}/lines", "/v1/invoices/{id}/lines"),
        ("/v1/invoices/in_1/lines/il_1", "/v1/invoices/{id}/lines"),
        ("/v1/account", "/v1/account"),
    ],
)
def test_an_object_counts_for_its_list_and_a_nested_list_counts_by_itself(path: str, endpoint: str) -> None:
    assert endpoint_of(path) == endpoint


@given(st.lists(st.floats(0, 2), min_size=1, max_size=120), st.sampled_from([0.2, 0.5, 0.8, 1.0]))
def test_no_second_sees_more_than_stripe_allows(gaps: list[float], share: float) -> None:
    bucket, now = Bucket(25, share), 0.0
    sent = []
    for gap in gaps:
        now = send(bucket, now + gap)
        sent.append(now)
    for first in sent:
        assert sum(first <= time < first + 1 - 1e-6 for time in sent) <= 25


@pytest.mark.parametrize("limit", [10, 18])
def test_a_lower_limit_is_found_with_few_refusals_and_used(limit: int) -> None:
    bucket, now = Bucket(25, 1.0), 0.0
    passed: list[float] = []
    refused: list[float] = []
    answers: list[float] = []  # of refused requests, on their way for a tenth of a second
    while now < 120:
        while answers and answers[0] + 0.1 <= now:
            bucket.slow_down(answers[0] + 0.1, 0.0, answers.pop(0))
        if (delay := bucket.wait(now)) > 0:
            now += min(delay, 0.01)
            continue
        bucket.take(now)
        (answers if sum(now - 1 < time for time in passed[-limit:]) >= limit else passed).append(now)
        refused += [now] if now in answers else []
    assert len([time for time in passed if time >= 10]) / 110 > 0.9 * limit
    assert len(refused) / len(passed + refused) < 0.015


def test_a_request_that_is_refused_once_costs_little() -> None:
    bucket, now = Bucket(25, 1.0), 0.0
    for _ in range(60):
        now = send(bucket, now)
    bucket.slow_down(now + 0.1, 0.0, now)
    assert bucket.rate > 0.9 * bucket.full_rate
    assert bucket.wait(now + 0.1) < 0.3


@pytest.mark.parametrize("idle", [0.0, 3600.0])
def test_a_bucket_gives_a_small_burst_and_then_its_rate(idle: float) -> None:
    bucket = Bucket(25, 0.8)
    bucket.wait(-idle)
    now, times = 0.0, []
    for _ in range(105):
        now = send(bucket, now)
        times.append(now)
    assert times[:5] == [0.0] * 5
    assert times[-1] == pytest.approx(100 / 20)


def test_429_halves_the_rate_down_to_one_a_second_and_pauses() -> None:
    bucket, now = Bucket(25, 0.8), 0.0
    rates = []
    for _ in range(7):
        bucket.slow_down(now, pause=3.0)
        rates.append(bucket.rate)
        assert bucket.wait(now) == pytest.approx(3.0 + 1 / bucket.rate)
        now += 1.5
    assert rates == [10, 5, 2.5, 1.25, 1, 1, 1]


def test_simultaneous_429s_halve_the_rate_once_and_the_longest_pause_counts() -> None:
    bucket = Bucket(25, 0.8)
    for pause in (1.0, 4.0, 2.0):
        bucket.slow_down(0.5, pause)
    assert bucket.rate == 10
    assert bucket.wait(0.5) == pytest.approx(4.1)


def test_a_rate_below_one_a_second_is_not_raised_by_429() -> None:
    bucket = Bucket(25, 0.02)
    bucket.slow_down(0.0, 0.0)
    assert bucket.rate == 0.5


def test_without_429_the_rate_rises_step_by_step_up_to_the_full_rate() -> None:
    bucket = Bucket(25, 0.8)
    bucket.slow_down(0.0, pause=2.0)
    rates = {}
    for now in (2.0, 6.9, 7.1, 12.1, 26.0, 27.1, 500.0):
        bucket.wait(now)
        rates[now] = round(bucket.rate, 2)
    assert rates == {2.0: 10, 6.9: 10, 7.1: 10.3, 12.1: 10.92, 26.0: 15.16, 27.1: 20, 500.0: 20}
    bucket.slow_down(500.0, pause=0.0)
    bucket.wait(500.0 + QUIET - 0.1)
    assert bucket.rate == 10


def test_an_endpoint_keeps_to_its_rate_and_each_wait_is_long_enough() -> None:
    fake = FakeTime()
    limits = limits_on(fake)
    for _ in range(105):
        limits.acquire("/v1/charges")
    assert fake.now - 100 == pytest.approx(100 / 20)
    assert fake.waits <= 105


def test_endpoints_share_the_rate_of_the_account() -> None:
    fake = FakeTime()
    limits = limits_on(fake)
    for turn in range(420):
        limits.acquire(f"/v1/{turn % 10}")
    assert fake.now - 100 == pytest.approx((400 + LEFT) / 80)


def test_a_test_account_gets_a_quarter_of_a_live_one() -> None:
    live, test = (RateLimits.of_stripe(livemode=livemode, share=0.8) for livemode in (True, False))
    assert live._account.full_rate == 80
    assert test._account.full_rate == 20


def test_a_slow_endpoint_does_not_hold_up_another_but_a_slow_account_holds_up_all() -> None:
    fake = FakeTime()
    limits = limits_on(fake)
    limits.slow_down("/v1/charges", "endpoint-concurrency", 30.0)
    limits.acquire("/v1/refunds")
    assert fake.now == 100
    limits.slow_down("/v1/charges", "global-rate", 10.0)
    limits.acquire("/v1/refunds")
    assert fake.now == pytest.approx(110 + (1 + LEFT) / 40)
    limits.acquire("/v1/charges")
    assert fake.now == pytest.approx(130 + 1 / 10)


def test_an_object_lock_slows_nothing_down() -> None:
    fake = FakeTime()
    limits = limits_on(fake)
    limits.slow_down("/v1/charges", None, 30.0)
    limits.acquire("/v1/charges")
    assert fake.now == 100


@pytest.mark.parametrize("share", [0, -1, 1.01])
def test_a_share_is_part_of_the_limit(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        RateLimits(account=100, share=share)


def queued(limits: RateLimits, endpoint: str, count: int) -> None:
    """Waits until that many threads wait for `endpoint`."""
    deadline = time.monotonic() + 10
    while len(limits._queues.get(endpoint, ())) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_threads_get_their_turn_in_the_order_of_their_arrival_without_spinning(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = 0

    def wait(event: threading.Event, timeout: float | None) -> bool:
        nonlocal waits
        waits += 1
        return event.wait(timeout)

    limits = RateLimits(account=400, endpoint=200, wait=wait)
    limits.slow_down("/v1/charges", "endpoint-rate", 0.3)
    bucket = limits._bucket("/v1/charges")
    take, served = bucket.take, []

    def noted_take(now: float) -> None:
        served.append(threading.current_thread().name)
        take(now)

    monkeypatch.setattr(bucket, "take", noted_take)
    names = [f"thread {number}" for number in range(12)]
    threads = [threading.Thread(target=limits.acquire, args=("/v1/charges",), name=name, daemon=True) for name in names]
    for count, thread in enumerate(threads, start=1):
        thread.start()
        queued(limits, "/v1/charges", count)
    for thread in threads:
        thread.join(10)
    assert served == names
    assert waits <= 4 * len(threads)


def test_closing_ends_all_waiting_now_and_later() -> None:
    limits = RateLimits(account=100)
    limits.slow_down("/v1/charges", "endpoint-rate", 600.0)
    cancelled = []

    def wait_in_vain() -> None:
        with pytest.raises(Cancelled):
            limits.acquire("/v1/charges")
        cancelled.append(True)

    threads = [threading.Thread(target=wait_in_vain, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    queued(limits, "/v1/charges", len(threads))
    limits.close()
    for thread in threads:
        thread.join(10)
    assert len(cancelled) == len(threads)
    with pytest.raises(Cancelled):
        limits.acquire("/v1/refunds")


def test_processes_that_share_a_file_share_the_limits(tmp_path: Path) -> None:
    def took(*shared: Path) -> float:
        fake = FakeTime()
        began = fake.now
        processes = [limits_on(fake, shared=path) for path in shared]
        for _ in range(60):
            for limits in processes:
                limits.acquire("/v1/charges")
        return fake.now - began

    alone = took(tmp_path / "alone.json")
    assert took(tmp_path / "one.json", tmp_path / "other.json") == pytest.approx(alone, rel=0.05)
    assert took(tmp_path / "both.json", tmp_path / "both.json") == pytest.approx(2 * alone, rel=0.05)


def test_a_429_of_one_process_slows_down_all(tmp_path: Path) -> None:
    fake = FakeTime()
    one, other = (limits_on(fake, shared=tmp_path / "rates.json") for _ in range(2))
    one.slow_down("/v1/charges", "endpoint-rate", 30.0, sent=one.acquire("/v1/charges"))
    began = fake.now
    other.acquire("/v1/refunds")
    assert fake.now - began < 1
    other.acquire("/v1/charges")
    assert fake.now - began >= 30


def test_an_urgent_process_goes_first(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    patient, urgent = (
        RateLimits(account=100, endpoint=40, shared=FileRates(path), urgent=is_urgent) for is_urgent in (False, True)
    )
    served = 0

    def backfill() -> None:
        nonlocal served
        with suppress(Cancelled):
            while True:
                patient.acquire("/v1/charges")
                served += 1

    thread = threading.Thread(target=backfill, daemon=True)
    thread.start()
    while served < 10:
        time.sleep(0.001)
    before = served
    for _ in range(20):
        urgent.acquire("/v1/charges")
    meanwhile = served - before
    patient.close()
    thread.join(10)
    assert meanwhile <= 3


@pytest.mark.parametrize("text", ["", "[", "{}", '{"account": 1}', '{"account": {"filled_at": 1}}'])
def test_an_unreadable_shared_file_counts_as_empty(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rates.json"
    path.write_text(text)
    fake = FakeTime()
    limits_on(fake, shared=path).acquire("/v1/charges")
    assert fake.waits == 0


def test_a_clock_that_restarts_delays_no_request(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    before, after = FakeTime(), FakeTime()
    before.now += 1e6
    limits = limits_on(before, shared=path)
    limits.slow_down("/v1/charges", "endpoint-rate", 30.0, sent=limits.acquire("/v1/charges"))
    limits_on(after, shared=path).acquire("/v1/charges")
    assert after.waits == 0


def test_the_longest_lists_are_not_held_up_by_the_others() -> None:
    limits = RateLimits(account=50, endpoint=12.5)  # slow enough for a busy machine
    served = Counter[str]()

    def read(endpoint: str) -> None:
        with suppress(Cancelled):
            while True:
                limits.acquire(endpoint)
                served[endpoint] += 1

    others = [f"/v1/{number}" for number in range(4)]
    threads = [threading.Thread(target=read, args=(endpoint,), daemon=True) for endpoint in (*others, *LONGEST)]
    for thread in threads:
        thread.start()
    time.sleep(4)
    limits.close()
    for thread in threads:
        thread.join(10)
    assert min(served[path] for path in LONGEST) > 1.5 * max(served[path] for path in others) > 0
