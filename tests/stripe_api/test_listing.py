"""A list that is read in parallel equals the same list read serially, whatever happens between two pages."""

from __future__ import annotations

import json
import math
import queue
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from types import MappingProxyType

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stripe_emulator import Fault, LoggedRequest, Server, Shop
from stripe_pipeline.batch import Mode
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import CursorLost
from stripe_pipeline.fields import FieldFilter
from stripe_pipeline.objects import CUSTOMERS
from stripe_pipeline.stripe_api.client import StripeApi
from stripe_pipeline.stripe_api.day_files import DayRead
from stripe_pipeline.stripe_api.keys import ApiKey
from stripe_pipeline.stripe_api.listing import Listed, Listing
from stripe_pipeline.stripe_api.rate_limits import RateLimits
from stripe_pipeline.stripe_api.reader import Reader
from tests.conftest import MakePipeline
from tests.stripe_state import assert_equal_to_stripe, rows

DAY = 86_400
FIRST = date(2026, 3, 1)
START = int(datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=UTC).timestamp())
KEY = "sk_test_of_the_tests"
MODE = Mode("acct_1DemoShop0000000", livemode=False)
TEST_KEYS = {"STRIPE_TEST_API_KEY": KEY}


def _api(server: Server) -> StripeApi:
    """A client without rate limits, which are not tested here."""
    return StripeApi(ApiKey.from_text(KEY), base_url=server.url, limits=RateLimits(account=1e6, endpoint=1e6))


def _fill(shop: Shop, seconds: Iterable[int], *, after: int = START) -> list[str]:
    """Put a customer into each of these seconds, and return their ids."""
    ids = []
    for number, second in enumerate(seconds):
        ids.append(f"cus_{number}")
        shop.put({"id": ids[-1], "object": "customer", "created": after + second, "livemode": False})
    return ids


def _serially(server: Server, start: int, end: int) -> list[str]:
    with _api(server) as api:
        pages = list(api.pages("/v1/customers", {"created[gte]": start, "created[lt]": end}))
    return [obj["id"] for page in pages for obj in page.objects]


@dataclass
class Walk:
    """The result of walking windows in parallel."""

    pages: list[Listed] = field(default_factory=list)
    """In the order of their arrival."""
    errors: list[Exception | None] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        return [obj["id"] for page in self.pages for obj in page.objects]

    def assert_covers_once(self, windows: Sequence[tuple[int, int]]) -> None:
        """Fail unless each second of the windows was reported as listed once, and only after all its objects."""
        spans = sorted((page.start, page.end) for page in self.pages if page.start != page.end)
        assert all(start < end for start, end in spans)
        assert _joined(spans) == _joined(sorted(windows))
        covered_by = {second: n for n, page in enumerate(self.pages) for second in _seconds_with_objects(page, self)}
        for number, page in enumerate(self.pages):
            for obj in page.objects:
                assert number <= covered_by[obj["created"]], f"{obj['id']} came after its second was taken for complete"


def _seconds_with_objects(page: Listed, walk: Walk) -> list[int]:
    seconds = {obj["created"] for other in walk.pages for obj in other.objects}
    return [second for second in seconds if page.start <= second < page.end]


def _joined(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans, with adjacent ones joined; fails where two overlap."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        assert not joined or joined[-1][1] <= start, f"seconds from {start} on were reported twice"
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _walk(server: Server, *windows: tuple[int, int]) -> Walk:
    walk = Walk()
    ended: queue.Queue[Exception | None] = queue.Queue()
    with _api(server) as api, ThreadPoolExecutor(8) as executor:
        Listing(api, "/v1/customers", emit=walk.pages.append, done=ended.put).start(windows, executor)
        walk.errors.append(ended.get(timeout=60))
    assert ended.empty()
    return walk


@dataclass
class Days:
    """The result of reading some days."""

    days: dict[date, DayRead] = field(default_factory=dict)
    error: Exception | None = None

    def ids(self, table: str = "customers") -> list[str]:
        return [line["id"] for day in self.days.values() for line in self.lines(day, table)]

    def lines(self, day: DayRead, table: str) -> list[dict[str, str]]:
        file = day.files.get(table)
        return [json.loads(line) for line in file.read_bytes().splitlines()] if file else []


def _read_days(
    server: Server,
    folder: Path,
    days: Iterable[date],
    *,
    until: int = 2**40,
    expected: Mapping[date, int] = MappingProxyType({}),
) -> Days:
    read = Days()
    days_read: queue.Queue[DayRead] = queue.Queue()
    ended: queue.Queue[Exception | None] = queue.Queue()
    with _api(server) as api, ThreadPoolExecutor(8) as executor:
        reader = Reader(api, CUSTOMERS, (), MODE, FieldFilter({}), folder=folder, executor=executor)
        reader.list_days(days, until=until, read=days_read.put, done=ended.put, expected=expected)
        read.error = ended.get(timeout=60)
    assert ended.empty()
    while not days_read.empty():
        day = days_read.get()
        assert day.listed.day not in read.days, f"{day.listed.day} was reported twice"
        read.days[day.listed.day] = day
    return read


def _days(count: int) -> list[date]:
    return [FIRST + timedelta(days=n) for n in range(count)]


@pytest.mark.parametrize("objects", [150, 2_000, 6_000])
def test_evenly_spread_objects_cost_few_more_requests_than_pages(server: Server, objects: int) -> None:
    ids = _fill(server.shop, (n * 30 * DAY // objects for n in range(objects)))

    walk = _walk(server, (START, START + 30 * DAY))

    assert walk.errors == [None]
    assert sorted(walk.ids) == sorted(ids)
    walk.assert_covers_once([(START, START + 30 * DAY)])
    assert len(server.requests) <= objects / 100 * 1.5 + 30


@pytest.mark.parametrize(
    ("expected", "requests"), [({}, 7), (dict.fromkeys((FIRST, FIRST + timedelta(days=1)), 250), 5)]
)
def test_days_that_are_known_to_hold_few_objects_are_not_split_after_a_burst(
    server: Server, tmp_path: Path, expected: dict[date, int], requests: int
) -> None:
    ids = _fill(server.shop, (day * DAY + n * 60 for day in range(2) for n in range(250)))

    read = _read_days(server, tmp_path, _days(2), expected=expected)

    assert read.error is None
    assert sorted(read.ids()) == sorted(ids)
    assert len(server.requests) == requests


def test_two_years_with_objects_on_the_last_day_only_cost_few_requests(server: Server) -> None:
    random = Random(1)
    ids = _fill(server.shop, (729 * DAY + random.randrange(DAY) for _ in range(2_000)))

    walk = _walk(server, (START, START + 730 * DAY))

    assert sorted(walk.ids) == sorted(ids)
    assert len(server.requests) <= 2_000 / 100 * 1.5 + 60


def test_the_pages_of_a_long_window_are_read_in_parallel(server: Server) -> None:
    _fill(server.shop, (n * 60 for n in range(3_000)))
    under_way = Counter[str]()
    most = 0

    def wait(request: LoggedRequest) -> None:
        nonlocal most
        under_way["requests"] = sum(not logged.status for logged in server.requests)
        most = max(most, under_way["requests"])

    server.faults += [Fault(path="/v1/customers$", times=None, delay=0.05), Fault(times=None, before=wait)]
    walk = _walk(server, (START, START + 3_000 * 60))

    assert len(walk.ids) == 3_000
    assert most >= 4


def test_a_thousand_objects_in_one_second_are_listed_once_each(server: Server) -> None:
    second = 12 * 3600
    crowd = [second] * 1_000
    around = [second - 1] * 40 + [second + 1] * 40 + [n * 600 for n in range(300)]
    ids = _fill(server.shop, [*crowd, *around])
    window = (START, START + 3 * DAY)

    walk = _walk(server, window)

    assert sorted(walk.ids) == sorted(ids) == sorted(_serially(server, *window))
    walk.assert_covers_once([window])


def test_a_window_of_one_crowded_second_ends_after_its_last_page(server: Server) -> None:
    ids = _fill(server.shop, [0] * 1_000)
    walk = _walk(server, (START, START + 1))
    assert sorted(walk.ids) == sorted(ids)
    walk.assert_covers_once([(START, START + 1)])
    assert len(server.requests) == 10


EDGES = (0, 1, DAY - 1, DAY, 2 * DAY - 1, 2 * DAY, 3 * DAY - 1)
OUTSIDE = (-1, 3 * DAY)

layouts = st.lists(
    st.tuples(
        st.one_of(st.sampled_from(EDGES), st.integers(0, 3 * DAY - 1)),  # where a cluster begins
        st.sampled_from([1, 3, 99, 100, 101, 102, 230]),  # how many objects it has
        st.sampled_from([0, 0, 1, 7, 600, 7_200]),  # seconds between two of them
    ),
    min_size=1,
    max_size=6,
)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(layout=layouts, several_windows=st.booleans())
@example(layout=[(edge, 101, 0) for edge in EDGES], several_windows=False)
@example(layout=[(edge, 100, 0) for edge in EDGES], several_windows=True)
@example(layout=[(3 * DAY - 230, 230, 1), (0, 230, 0)], several_windows=False)
def test_parallel_equals_serial_for_any_layout(
    tmp_path_factory: pytest.TempPathFactory, layout: list[tuple[int, int, int]], several_windows: bool
) -> None:
    seconds = [(at + n * step) % (3 * DAY) for at, count, step in layout for n in range(count)]
    inside = [*seconds, *EDGES]
    windows = [(START + n * DAY, START + (n + 1) * DAY) for n in range(3)]
    if not several_windows:
        windows = [(START, START + 3 * DAY)]
    with Server(Shop()) as server:
        ids = _fill(server.shop, [*inside, *OUTSIDE])[: len(inside)]
        serial = _serially(server, START, START + 3 * DAY)
        server.requests.clear()
        walk = _walk(server, *windows)
        requests = len(server.requests)
        read = _read_days(server, tmp_path_factory.mktemp("spool"), _days(3))

    assert walk.errors == [None]
    assert sorted(walk.ids) == sorted(serial) == sorted(ids)
    walk.assert_covers_once(windows)
    assert requests <= len(ids) / 100 * 3 + 30

    assert read.error is None
    assert sorted(read.days) == _days(3)
    by_day = Counter(_days(3)[second // DAY] for second in inside)
    for day, day_read in read.days.items():
        created = _created(read, day_read)
        assert len(created) == day_read.rows == by_day[day]
        assert {(second - START) // DAY for second in created} == {(day - FIRST).days}
        assert day_read.span == (min(created), max(created))
        assert day_read.listed.until == START + ((day - FIRST).days + 1) * DAY
    assert sorted(read.ids()) == sorted(ids)


def _created(read: Days, day: DayRead) -> list[int]:
    return [int(line["created"]) for line in read.lines(day, "customers")]


def test_separate_days_and_a_day_that_is_not_over_are_complete_up_to_their_bounds(
    server: Server, tmp_path: Path
) -> None:
    ids = _fill(server.shop, [0, DAY - 1, DAY, 2 * DAY - 1, 2 * DAY, 3 * DAY, 3 * DAY + 99, 3 * DAY + 100])
    until = START + 3 * DAY + 100

    read = _read_days(server, tmp_path, [FIRST, FIRST + timedelta(days=2), FIRST + timedelta(days=3)], until=until)

    assert sorted(read.ids()) == sorted([*ids[:2], *ids[4:7]])
    assert {day: day_read.listed.until for day, day_read in read.days.items()} == {
        FIRST: START + DAY,
        FIRST + timedelta(days=2): START + 3 * DAY,
        FIRST + timedelta(days=3): until,
    }


def test_a_day_without_objects_is_complete_and_a_day_in_the_future_is_not_requested(
    server: Server, tmp_path: Path
) -> None:
    read = _read_days(server, tmp_path, _days(3), until=START + 2 * DAY)
    assert sorted(read.days) == _days(2)
    assert all((day.rows, day.files) == (0, {}) for day in read.days.values())
    assert len(server.requests) == 1


def _delete_cursors(shop: Shop, times: int) -> tuple[Callable[[LoggedRequest], None], list[str]]:
    """A callback that deletes the object that a page starts after before that page is answered; and the deleted ids."""
    deleted: list[str] = []

    def delete(request: LoggedRequest) -> None:
        cursor = request.params.get("starting_after")
        if cursor and len(deleted) < times:
            shop.delete_customer(cursor)
            deleted.append(cursor)

    return delete, deleted


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param([0] * 650, id="one second"),
        pytest.param([n // 130 for n in range(650)], id="few seconds"),
        pytest.param([n * 400 for n in range(650)], id="spread out"),
        pytest.param([n if n < 325 else DAY + n for n in range(650)], id="two crowds"),
    ],
)
def test_the_object_that_a_page_starts_after_is_deleted_between_pages(
    server: Server, tmp_path: Path, seconds: list[int]
) -> None:
    ids = _fill(server.shop, seconds)
    delete, deleted = _delete_cursors(server.shop, times=4)
    server.faults.append(Fault(path="/v1/customers$", times=None, before=delete))
    window = (START, START + 4 * DAY)

    walk = _walk(server, window)

    assert walk.errors == [None]
    assert len(deleted) == 4
    # Each deleted object was on the page before.
    assert sorted(walk.ids) == sorted(ids)
    walk.assert_covers_once([window])

    delete, more = _delete_cursors(server.shop, times=3)
    server.faults[:] = [Fault(path="/v1/customers$", times=None, before=delete)]
    read = _read_days(server, tmp_path, _days(4))
    assert read.error is None
    assert len(more) == 3
    assert sorted(read.ids()) == sorted(set(ids) - set(deleted))
    assert sorted(read.days) == _days(4)


def test_a_deleted_cursor_does_not_end_the_list_of_new_objects(server: Server, tmp_path: Path) -> None:
    ids = _fill(server.shop, [n // 130 for n in range(650)])
    delete, deleted = _delete_cursors(server.shop, times=3)
    server.faults.append(Fault(path="/v1/customers$", times=None, before=delete))

    with _api(server) as api, ThreadPoolExecutor(1) as executor:
        batch, listed = Reader(
            api, CUSTOMERS, (), MODE, FieldFilter({}), folder=tmp_path, executor=executor
        ).list_since(START)

    assert len(deleted) == 3
    assert sorted(listed) == sorted(ids)
    lines = [json.loads(line)["id"] for file in batch.files["customers"] for line in file.read_bytes().splitlines()]
    assert sorted(lines) == sorted(ids)
    assert (batch.first, batch.last) == (START, START + 4)


def test_a_server_that_knows_no_cursor_is_given_up(server: Server, tmp_path: Path) -> None:
    _fill(server.shop, [0] * 150)

    def forget_the_next(request: LoggedRequest) -> None:
        if "starting_after" not in request.params:
            server.faults.append(Fault(path="/v1/customers$", status=404))

    server.faults.append(Fault(path="/v1/customers$", times=None, before=forget_the_next))
    walk = _walk(server, (START, START + DAY))
    assert isinstance(walk.errors[0], CursorLost)

    with _api(server) as api, ThreadPoolExecutor(1) as executor, pytest.raises(CursorLost):
        Reader(api, CUSTOMERS, (), MODE, FieldFilter({}), folder=tmp_path, executor=executor).list_since(START)


TROUBLES = {
    "cut body": Fault(path="/v1/customers$", nth=3, times=2, cut=0.6),
    "short body": Fault(path="/v1/customers$", nth=3, times=2, truncate=0.5),
    "dropped connection": Fault(path="/v1/customers$", nth=3, times=2, drop=True),
    "429 with Retry-After": Fault(path="/v1/customers$", nth=3, times=2, status=429, headers={"Retry-After": "1"}),
    "500": Fault(path="/v1/customers$", nth=3, times=2, status=500),
    "HTML 502": Fault(path="/v1/customers$", nth=3, times=2, status=502, body="<html>Bad Gateway</html>"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_fault_in_the_middle_of_a_list_leaves_no_day_incomplete(server: Server, tmp_path: Path, trouble: str) -> None:
    ids = _fill(server.shop, [*(n * 300 for n in range(700)), *[DAY] * 150])
    server.faults.append(TROUBLES[trouble])

    read = _read_days(server, tmp_path, _days(3))

    assert server.faults[0].hits == 2
    assert read.error is None
    assert sorted(read.ids()) == sorted(ids)
    assert sorted(read.days) == _days(3)


def test_a_refusal_in_the_middle_of_a_list_reports_no_incomplete_day(server: Server, tmp_path: Path) -> None:
    _fill(server.shop, (n * 60 for n in range(3_000)))
    server.faults.append(Fault(path="/v1/customers$", nth=6, times=None, status=403))

    read = _read_days(server, tmp_path, _days(3))

    assert read.error is not None
    expected = Counter(n * 60 // DAY for n in range(3_000))
    assert len(read.days) < 3
    for day, day_read in read.days.items():
        assert day_read.rows == len(_created(read, day_read)) == expected[(day - FIRST).days]


# Invoices and their lines


@pytest.mark.parametrize("known", [False, True])
def test_an_invoice_is_deleted_between_its_page_and_its_lines(
    server: Server, make_pipeline: MakePipeline, folder: DataFolder, known: bool
) -> None:
    today = datetime.fromtimestamp(server.shop.clock.now(), UTC).date()
    remaining = server.shop.create_invoice(n_lines=40)
    draft = server.shop.create_invoice(n_lines=40, draft=True)
    pipeline = make_pipeline(TEST_KEYS, history=today)
    if known:
        pipeline.sync()
        assert len(rows(folder.published, "test.invoice_lines")) == 80
    deletes = Fault(
        path=f"/v1/invoices/{draft['id']}/lines$",
        before=lambda request: server.shop.delete_invoice(draft["id"], announce=False),
    )
    server.faults.append(deletes)

    report = pipeline.sync([today])

    assert report.failures == {}
    assert deletes.hits == 1
    assert [row["id"] for row in rows(folder.published, "test.invoices")] == [remaining["id"]]
    assert_equal_to_stripe(server.shop, folder.published)


@pytest.mark.parametrize("n_lines", [40, 230])
def test_an_invoice_changes_its_lines_while_they_are_read(
    server: Server, make_pipeline: MakePipeline, folder: DataFolder, n_lines: int
) -> None:
    shop = server.shop
    invoice = shop.create_invoice(n_lines=n_lines, draft=True)["id"]
    lines = [line["id"] for line in shop.lines(invoice, False)]
    changes = 0

    def change(request: LoggedRequest) -> None:
        nonlocal changes
        changes += 1
        shop.remove_invoice_line(invoice, request.params.get("starting_after", lines[20]))
        shop.update_invoice_line(invoice, lines[30], amount=12_300 + changes)
        shop.add_invoice_line(invoice, amount=777)

    server.faults.append(Fault(path="/lines$", times=1 if n_lines == 40 else 2, before=change))
    pipeline = make_pipeline(TEST_KEYS, history=datetime.fromtimestamp(shop.clock.now(), UTC).date())
    report = pipeline.sync()
    assert report.failures == {}
    assert changes == (1 if n_lines == 40 else 2)
    # The lines are those of one moment, even if their invoice was read before one of the changes.
    line_ids = {row["id"] for row in rows(folder.published, "test.invoice_lines")}
    assert line_ids == {line["id"] for line in shop.lines(invoice, False)}

    server.faults.clear()
    pipeline.sync()
    assert_equal_to_stripe(shop, folder.published)


def test_lines_that_change_faster_than_they_can_be_read_fail_their_type_and_keep_its_rows(
    server: Server, make_pipeline: MakePipeline, folder: DataFolder
) -> None:
    shop = server.shop
    today = datetime.fromtimestamp(shop.clock.now(), UTC).date()
    invoice = shop.create_invoice(n_lines=130, draft=True)["id"]
    pipeline = make_pipeline(TEST_KEYS, history=today)
    pipeline.sync()

    def remove(request: LoggedRequest) -> None:
        if cursor := request.params.get("starting_after"):
            shop.remove_invoice_line(invoice, cursor, announce=False)

    server.faults.append(Fault(path="/lines$", times=None, before=remove))
    shop.create_customer()
    report = pipeline.sync([today])
    assert set(report.failures) == {"invoices", "invoice_lines"}
    assert len(rows(folder.published, "test.invoice_lines")) == 130

    server.faults.clear()
    assert pipeline.sync().failures == {}
    assert_equal_to_stripe(shop, folder.published)


def test_the_lines_of_an_invoice_that_embeds_none_are_read(
    server: Server, make_pipeline: MakePipeline, folder: DataFolder
) -> None:
    shop = server.shop
    invoice = shop.create_invoice(n_lines=3)
    shop.put({name: value for name, value in invoice.items() if name != "lines"})
    pipeline = make_pipeline(TEST_KEYS, history=datetime.fromtimestamp(shop.clock.now(), UTC).date())
    pipeline.sync()
    assert len(rows(folder.published, "test.invoice_lines")) == 3


def test_pages_may_end_on_the_bounds_of_parts(server: Server) -> None:
    """Every split falls on a second with many objects."""
    seconds = [second for second in range(0, 3 * DAY, 2_700) for _ in range(17)]
    ids = _fill(server.shop, seconds)
    walk = _walk(server, (START, START + 3 * DAY))
    assert sorted(walk.ids) == sorted(ids)
    walk.assert_covers_once([(START, START + 3 * DAY)])
    assert len(server.requests) <= math.ceil(len(ids) / 100) * 1.5 + 30
