"""Wrong clocks, Stripe's, a proxy's or the machine's: the stored times, and the changes that arrive afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import duckdb
import pytest

from stripe_emulator import Fault, Server, Shop
from stripe_emulator.faults import ahead, joined, twice, without_zone
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY, day_of
from stripe_pipeline.inbox.notification import notifications_of
from stripe_pipeline.objects import DEFAULT_TYPES
from stripe_pipeline.sync.pipeline import Pipeline
from stripe_pipeline.warehouse.bookkeeping import says_more
from tests.conftest import MakePipeline
from tests.stripe_state import ask, assert_equal_to_stripe, days_ago
from tests.variants import varied

LIVE_KEY = {"STRIPE_API_KEY": "sk_live_of_the_tests"}
TIMES = {
    "pipeline.cursors": "read_until",
    "pipeline.coverage": "listed_at",
    "pipeline.backfills": "began",
    "pipeline.gone": "found_at",
    "pipeline.balances": "read_at",
    "pipeline.proof": "checked_at",
} | {f"raw.{table}": "_fetched_at" for table in DEFAULT_TYPES}


def assert_no_time_in_the_future(shop: Shop, folder: DataFolder) -> None:
    latest = " UNION ALL ".join(
        f"SELECT '{table}' AS place, epoch_us(max({column})) / 1e6 AS latest FROM {table}"
        for table, column in TIMES.items()
    )
    assert not ask(folder.private, f"FROM ({latest}) WHERE latest > {shop.clock.now() + 5}")
    [(lowest, highest)] = ask(folder.private, "SELECT lowest, highest FROM pipeline.clock")
    assert lowest <= shop.clock.now() - time.time() <= highest


@pytest.mark.parametrize(
    ("bounds", "known", "expected"),
    [
        ((-0.5, 0.5), None, True),
        ((-0.5, 0.5), (-0.5, 0.5), False),
        ((-2.0, 2.0), (-0.5, 0.5), False),
        ((-0.49, 2.0), (-0.5, 0.5), False),
        ((-0.3, 0.5), (-0.5, 0.5), True),
        ((0.1, 0.5), (-0.5, 0.5), True),
        ((-0.5, -0.01), (-0.5, 0.5), True),
        ((3.0, 4.0), (-0.5, 0.5), True),
        ((-0.5, 0.5), (3.0, 4.0), True),
    ],
)
def test_bounds_of_the_clock_are_stored_if_they_say_more_than_those_known(
    bounds: tuple[float, float], known: tuple[float, float] | None, expected: bool
) -> None:
    assert says_more(bounds, known) is expected


def trade(shop: Shop) -> None:
    shop.create_payment(livemode=True)
    shop.create_customer(livemode=True)
    for _ in range(5):
        shop.trade(True)


@pytest.fixture
def pipeline(make_pipeline: MakePipeline, shop: Shop) -> Pipeline:
    """A pipeline of the live mode, with a history of three days."""
    for days in (0.01, 1, 2):
        shop.create_payment(livemode=True, created=days_ago(shop, days))
    return make_pipeline(LIVE_KEY, history=day_of(days_ago(shop, 3)))


@pytest.mark.parametrize("seconds", varied([DAY, -DAY]))
@pytest.mark.parametrize("path", varied(["", "^/v1/events$", "^/v1/balance_transactions$", "^/v1/charges$"]))
@pytest.mark.parametrize("loaded", [False, True])
def test_trap_33_one_answer_with_a_wrong_date_loses_nothing(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder, path: str, seconds: float, loaded: bool
) -> None:
    if loaded:
        pipeline.sync()
        trade(shop)
    server.faults.append(Fault(path=path, date=ahead(seconds)))
    pipeline.sync([day_of(days_ago(shop, 1))])
    assert server.faults[0].hits
    assert_no_time_in_the_future(shop, folder)
    assert_equal_to_stripe(shop, folder.published)
    trade(shop)
    pipeline.sync()
    assert_no_time_in_the_future(shop, folder)
    assert_equal_to_stripe(shop, folder.published)


@pytest.mark.parametrize("nth", varied([1, 2, 4]))
def test_trap_33_a_wrong_date_amid_a_backfill_loses_nothing(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder, nth: int
) -> None:
    pipeline.sync()
    days = [day_of(days_ago(shop, n)) for n in range(4)]
    server.faults.append(Fault(nth=nth, date=ahead(DAY)))
    pipeline.backfill(days)
    assert_no_time_in_the_future(shop, folder)
    trade(shop)
    pipeline.backfill(days)
    assert_equal_to_stripe(shop, folder.published)


@pytest.fixture(params=varied(["America/Los_Angeles", "Asia/Tokyo"]))
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The time zone of the machine."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize("date", [twice, joined, without_zone])
def test_trap_33_dates_that_are_sent_twice_or_without_a_zone_are_understood(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder, date: Callable[[float], Sequence[str]]
) -> None:
    server.faults.append(Fault(date=date, times=None))
    for _ in range(3):
        pipeline.sync()
        assert_no_time_in_the_future(shop, folder)
        assert_equal_to_stripe(shop, folder.published)
        trade(shop)


def test_a_wrong_date_costs_an_idle_sync_one_request(pipeline: Pipeline, server: Server) -> None:
    pipeline.sync()
    pipeline.sync()
    server.requests.clear()
    server.faults.append(Fault(date=ahead(DAY)))
    report = pipeline.sync()
    assert [request.path for request in server.requests] == [
        "/v1/events",
        "/v1/balance_transactions",
        "/v1/balance_transactions",
    ]
    assert not report.notes


@pytest.mark.parametrize("seconds", varied([7 * 3600, 600, -600, DAY]))
@pytest.mark.parametrize("path", varied(["^/v1/events$", "^/v1/balance_transactions$"]))
def test_an_endpoint_whose_dates_are_always_wrong_hides_no_change(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder, path: str, seconds: float
) -> None:
    pipeline.sync()
    server.faults.append(Fault(path=path, times=None, date=ahead(seconds)))
    for _ in range(3):
        trade(shop)
        assert not pipeline.sync().notes
        assert_equal_to_stripe(shop, folder.published)
        assert_no_time_in_the_future(shop, folder)


def damage(folder: DataFolder, by: str) -> None:
    """Move all stored times ahead, as a wrong estimate of Stripe's clock does."""
    with duckdb.connect(str(folder.private)) as connection:
        for table, column in TIMES.items():
            connection.execute(f"UPDATE {table} SET {column} = {column} + INTERVAL {by}")
        connection.execute("UPDATE pipeline.clock SET lowest = lowest + 86400, highest = highest + 86400")
        # The present day by such a clock.
        connection.execute(
            f"INSERT INTO pipeline.coverage SELECT * REPLACE ((day + INTERVAL {by})::DATE AS day)"
            " FROM pipeline.coverage WHERE day = (SELECT max(day) FROM pipeline.coverage)"
        )


@pytest.mark.parametrize("by", varied(["1 DAY", "300 DAYS"]))
@pytest.mark.parametrize("first", varied(["sync", "backfill"]))
def test_a_file_with_times_in_the_future_is_corrected_with_a_note(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder, by: str, first: str
) -> None:
    old = shop.create_customer(livemode=True, created=days_ago(shop, 2))["id"]
    deleted = shop.create_customer(livemode=True, created=days_ago(shop, 2))["id"]
    pipeline.sync()
    damage(folder, by)
    trade(shop)
    shop.update("customers", old, name="changed meanwhile")
    shop.delete_customer(deleted)
    report = pipeline.sync() if first == "sync" else pipeline.backfill([day_of(days_ago(shop, 1))])
    assert [note for note in report.notes if "ahead of Stripe's clock" in note]
    assert_no_time_in_the_future(shop, folder)
    pipeline.sync()
    assert_equal_to_stripe(shop, folder.published)
    server.requests.clear()
    report = pipeline.sync()
    assert not report.notes
    assert len(server.requests) == 2


def test_if_only_rows_have_times_in_the_future_they_are_read_again_at_their_next_change(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    customer = shop.create_customer(livemode=True, created=days_ago(shop, 2))["id"]
    shop.create_customer(livemode=True, created=days_ago(shop, 2), name="unchanged")
    pipeline.sync()
    with duckdb.connect(str(folder.private)) as connection:
        connection.execute("UPDATE raw.customers SET _fetched_at = _fetched_at + INTERVAL 1 YEAR")
    shop.update("customers", customer, name="changed")
    assert pipeline.sync().notes
    assert_equal_to_stripe(shop, folder.published)
    assert_no_time_in_the_future(shop, folder)


def test_notifications_do_not_wait_for_a_clock_that_was_set_back(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    customer = shop.create_customer(livemode=True)["id"]
    pipeline.sync()
    shop.update("customers", customer, name="changed")
    notifications = [notification for event in shop.events(True)[:1] for notification in notifications_of(event)]
    pipeline.inbox.add(notifications)
    pipeline.inbox.defer(notifications, "before the clock was set back", now=time.time() + 3 * 3600)
    assert pipeline.has_due_notifications()
    assert pipeline.drain(most=10).applied == 1
    pipeline.publish()
    assert_equal_to_stripe(shop, folder.published)
