"""Stripe's time, estimated from answers whose dates are right, late, wrong, repeated or without a zone."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stripe_pipeline.days import DAY
from stripe_pipeline.stripe_api import clock as server_clock
from stripe_pipeline.stripe_api.clock import LOCAL_ERROR, ServerClock, http_dates

NOON = 1_700_000_000.0


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The machine's clocks: `wall` can be set, `passed` only grows."""
    clocks = SimpleNamespace(wall=NOON, passed=0.0)
    clocks.time, clocks.monotonic = lambda: clocks.wall + clocks.passed, lambda: clocks.passed
    monkeypatch.setattr(server_clock, "time", clocks)
    return clocks


def answer(clock: ServerClock, ahead: float = 0.0) -> None:
    """Learn from the answer of a server that is that many seconds ahead of the local clock."""
    date = float((clock.local() + ahead) // 1)
    clock.learn((date, date), clock.local(), clock.local() + 0.1)


@given(
    st.one_of(st.floats(-0.9, 0.9), st.floats(-2000, 2000)),
    st.lists(st.tuples(st.floats(0, 3), st.floats(0, 2), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30),
)
def test_the_estimate_holds_whatever_the_delays(ahead: float, rounds: list[tuple[float, float, float, float]]) -> None:
    """A round is: seconds since the last one, seconds of the trip, the part of it until the date was made, its age."""
    clock, now, offsets = ServerClock(), NOON, []
    for since, trip, looked, stale in rounds:
        sent = now + since
        now = sent + trip
        date = float((sent + trip * looked + ahead - stale) // 1)
        clock.learn((date, date), sent, now)
        offsets.append(clock.offset)
    tightest = min(trip for _, trip, _, _ in rounds)
    assert offsets[-1] == 0.0 or ahead - 2.001 - tightest <= offsets[-1] <= ahead + 0.001
    if len(rounds) >= server_clock.CONFIRMATIONS:
        assert abs(offsets[-1] - ahead) <= 2.001 + tightest
    if abs(ahead) <= 0.001:
        assert set(offsets) == {0.0}
    moved = [offset for offset in offsets if offset]
    assert moved == sorted(moved)


@pytest.mark.parametrize("assumed", [None, (-0.2, 0.5)])
@pytest.mark.parametrize("ahead", [DAY, -DAY, 300])
@pytest.mark.parametrize("before", [0, 1, 5])
def test_one_answer_that_contradicts_the_estimate_changes_nothing(
    local: SimpleNamespace, assumed: tuple[float, float] | None, ahead: float, before: int
) -> None:
    clock = ServerClock()
    if assumed:
        clock.assume(*assumed)
    for _ in range(before):
        answer(clock)
    answer(clock, ahead)
    assert clock.offset == 0.0
    assert clock.doubtful is (before < server_clock.CONFIRMATIONS)
    answer(clock)
    assert clock.offset == 0.0
    assert not clock.doubtful


@pytest.mark.parametrize("assumed", [None, (-0.2, 0.5), (DAY - 1.0, DAY + 1.0)])
def test_an_offset_that_three_answers_agree_on_is_adopted(
    local: SimpleNamespace, assumed: tuple[float, float] | None
) -> None:
    clock = ServerClock()
    if assumed:
        clock.assume(*assumed)
    before = clock.offset
    for _ in range(2):
        answer(clock, 600)
        assert clock.offset == before
    answer(clock, 600)
    assert clock.offset == pytest.approx(600, abs=2)
    assert not clock.doubtful


def test_one_wrong_server_of_several_is_never_followed(local: SimpleNamespace) -> None:
    clock = ServerClock()
    for n in range(300):
        answer(clock, 0.0 if n % 3 else DAY)
        assert clock.offset == 0.0
        local.passed += 1


@pytest.mark.parametrize("set_by", [3600, -3600])
def test_a_local_clock_that_is_set_in_a_run_changes_nothing(local: SimpleNamespace, set_by: float) -> None:
    clock = ServerClock()
    answer(clock, 600)
    answer(clock, 600)
    answer(clock, 600)
    before = clock.now()
    local.wall += set_by
    assert clock.now() == before
    answer(clock, 600)
    assert clock.now() == pytest.approx(before, abs=1)
    bounds = clock.read().bounds
    assert bounds is not None
    assert bounds[0] <= 600 - set_by <= bounds[1]
    following = ServerClock()
    following.assume(*bounds)
    assert following.now() == pytest.approx(before, abs=2)


def test_after_a_sleep_a_few_answers_correct_the_estimate(local: SimpleNamespace) -> None:
    """The monotonic clock of many machines stands still while they sleep."""
    clock = ServerClock()
    for _ in range(20):
        answer(clock)
    local.wall += 7200
    for _ in range(3):
        answer(clock, 7200)
    assert clock.now() == pytest.approx(local.time(), abs=2)


def test_the_latest_possible_time_has_a_bound(local: SimpleNamespace) -> None:
    clock = ServerClock()
    assert clock.read().bounds is None
    assert clock.read().latest == NOON + LOCAL_ERROR
    answer(clock, 10)
    reading = clock.read()
    assert clock.now() <= NOON + 10 <= reading.latest <= NOON + 12.1


ZONES = ["America/Los_Angeles", "Asia/Tokyo", "UTC"]
DATES = {
    "Tue, 14 Nov 2023 22:13:20 GMT": (NOON, NOON),
    "Tue, 14 Nov 2023 22:13:20": (NOON, NOON),
    "Tue, 14 Nov 2023 22:13:20 -0000": (NOON, NOON),
    "Tuesday, 14-Nov-23 22:13:20 GMT": (NOON, NOON),
    "Tue Nov 14 22:13:20 2023": (NOON, NOON),
    "Tue, 14 Nov 2023 22:13:20 GMT, Tue, 14 Nov 2023 22:13:21 GMT": (NOON, NOON + 1),
    "Tue, 14 Nov 2023 22:13:20 GMT|Tue, 14 Nov 2023 22:13:19 GMT": (NOON - 1, NOON),
    "Tue, 14 Nov 2023 22:13:20 GMT|Wed, 15 Nov 2023 22:13:20 GMT": None,
    "Tue, 14 Nov 2023 22:13:20 GMT, Tue, 14 Nov 2023 23:13:20 GMT": None,
    "Tue, 14 Nov 2023 22:13:20 GMT|yesterday": None,
    "yesterday": None,
    "": None,
    "Tue, 99 Nov 2023 99:13:20 GMT": None,
}


@pytest.mark.parametrize("zone", ZONES)
def test_dates_are_utc_in_any_time_zone(zone: str) -> None:
    read = (
        "import sys\nfrom stripe_pipeline.stripe_api.clock import http_dates\n"
        "for line in sys.stdin.read().splitlines(): print(http_dates(line.split('|')))"
    )
    completed = subprocess.run(
        [sys.executable, "-c", read],
        input="".join(f"{date}\n" for date in DATES),
        env=os.environ | {"TZ": zone},
        capture_output=True,
        text=True,
        check=True,
    )
    assert completed.stdout.splitlines() == [str(dates) for dates in DATES.values()]


def test_an_answer_without_a_date_is_ignored() -> None:
    assert http_dates([]) is None
