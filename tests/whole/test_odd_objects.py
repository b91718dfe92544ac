"""An object that Stripe cannot show, or shows wrongly, waits, is counted and named, and does not stop its type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pytest

from stripe_emulator import Fault, Server, Shop
from stripe_pipeline.assets.checks import dead_by_table
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY, day_of, day_start
from stripe_pipeline.errors import ObjectsUnread, PermissionMissing, Unavailable
from stripe_pipeline.inbox.inbox import Inbox
from stripe_pipeline.inbox.notification import notifications_of
from stripe_pipeline.inbox.tables import MAX_ATTEMPTS
from stripe_pipeline.stripe_api.retries import Retries
from stripe_pipeline.sync.pipeline import Pipeline
from stripe_pipeline.sync.report import Report
from tests.conftest import MakePipeline
from tests.stripe_state import ask, assert_equal_to_stripe, days_ago
from tests.variants import varied
from tests.whole.test_traps import TEST_KEY

ODD_ANSWERS: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "502 of a proxy": {"status": 502, "body": "<html>Bad Gateway</html>"},
    "404 without resource_missing": {"status": 404, "body": {"error": {"message": "Unrecognized request URL"}}},
    "404 of a proxy": {"status": 404, "body": "<html>Not here</html>"},
    "400": {"status": 400},
    "not JSON": {"body": "<html>hello</html>"},
    "a list": {"body": {"object": "list", "data": [], "has_more": False}},
    "an empty object": {"body": {}},
    "another id": {"body": {"id": "cus_another", "object": "customer", "created": 1_790_000_000, "livemode": False}},
    "another object": {"body": {"id": "ID", "object": "charge", "created": 1_790_000_000, "livemode": False}},
    "no created": {"body": {"id": "ID", "object": "customer", "livemode": False}},
    "another mode": {"body": {"id": "ID", "object": "customer", "created": 1_790_000_000, "livemode": True}},
}


@pytest.fixture
def pipeline(make_pipeline: MakePipeline) -> Pipeline:
    """A pipeline of the test mode that does not wait long between attempts and does not sweep."""
    return make_pipeline(TEST_KEY, retries=Retries(max_attempts=2, first_pause=0.01), sweep={"requests_a_month": 0})


def names(folder: DataFolder) -> dict[str, str]:
    """The names that analysts see, by customer."""
    return dict(ask(folder.published, "SELECT id, name FROM test.customers"))


def waiting(folder: DataFolder) -> list[tuple[Any, ...]]:
    """The notifications of unread objects, as analysts see them."""
    return ask(folder.published, "SELECT object_id, attempts, state FROM pipeline.inbox ORDER BY ALL")


def listed(folder: DataFolder, table: str, day: Any) -> list[tuple[Any, ...]]:
    """Rows and listed objects of a day that counts as complete."""
    return ask(
        folder.published, f"SELECT rows, listed FROM pipeline.coverage WHERE object_type = '{table}' AND day = '{day}'"
    )


def for_object(fault: Mapping[str, Any], object_id: str) -> dict[str, Any]:
    """The fault with this id where it says ID."""
    body = fault.get("body")
    if isinstance(body, dict):
        body = {name: object_id if value == "ID" else value for name, value in body.items()}
    return {**fault, "body": body}


def give_up(pipeline: Pipeline) -> list[Report]:
    """Let a notification that failed once fail until it is dead."""
    return [pipeline.sync() for _ in range(MAX_ATTEMPTS - 1)]


@pytest.mark.parametrize("how", varied(ODD_ANSWERS, quick=3))
def test_trap_34_an_object_that_cannot_be_read_alone_waits_and_is_given_up(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder, how: str
) -> None:
    bad, good = (shop.create_customer(name="before", created=days_ago(shop, n))["id"] for n in (3, 5))
    pipeline.sync()
    for customer in (bad, good):
        shop.update("customers", customer, name="after")
    server.faults.append(Fault(path=f"/v1/customers/{bad}$", times=None, **for_object(ODD_ANSWERS[how], bad)))
    report = pipeline.sync()
    assert isinstance(report.failures["customers"], ObjectsUnread)
    assert bad in str(report.failures["customers"])
    assert report.failures.keys() == {"customers"}
    assert names(folder) == {bad: "before", good: "after"}
    assert waiting(folder) == [(bad, 1, "waiting")]

    shop.update("customers", good, name="after that")
    assert all(report.failures for report in give_up(pipeline))
    assert names(folder) == {bad: "before", good: "after that"}
    assert waiting(folder) == [(bad, MAX_ATTEMPTS, "dead")]
    assert dead_by_table(pipeline.inbox).keys() == {"customers"}
    assert not pipeline.sync().failures

    server.faults.clear()
    pipeline.inbox.retry()
    assert not pipeline.sync().failures
    assert names(folder) == {bad: "after", good: "after that"}
    assert waiting(folder) == []


def changed_customer_that_answers_500(pipeline: Pipeline, server: Server, shop: Shop) -> str:
    """The id of a customer that was loaded, has changed since, and cannot be read again."""
    customer = str(shop.create_customer(name="before", created=days_ago(shop, 3))["id"])
    pipeline.sync()
    shop.update("customers", customer, name="after")
    server.faults.append(Fault(path=f"/v1/customers/{customer}$", times=None, status=500))
    return customer


def test_the_only_object_of_its_type_is_compared_with_the_list(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    only = changed_customer_that_answers_500(pipeline, server, shop)
    server.requests.clear()
    pipeline.sync()
    assert waiting(folder) == [(only, 1, "waiting")]
    assert len([request for request in server.requests if request.path == "/v1/customers"]) == 1


@pytest.mark.parametrize("down", varied(["/v1/customers", "/v1/customers/", "/v1/"]))
def test_while_stripe_is_down_no_attempt_is_counted(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder, down: str
) -> None:
    customers = [shop.create_customer(name="before", created=days_ago(shop, n))["id"] for n in range(2, 9)]
    pipeline.sync()
    for customer in customers[:3]:
        shop.update("customers", customer, name="after")
    # The events arrive as webhooks.
    inbox = Inbox(folder)
    inbox.add([notification for event in shop.events(False) for notification in notifications_of(event)])
    inbox.close()
    server.faults.append(Fault(path=down, times=None, status=500))
    for _ in range(MAX_ATTEMPTS + 1):
        report = pipeline.drain(most=100, due=float("inf"))
        assert isinstance(report.failures["customers"], Unavailable)
    pipeline.publish()
    assert {attempts for _, attempts, _ in waiting(folder)} == {0}
    server.faults.clear()
    pipeline.drain(most=100, due=float("inf"))
    pipeline.publish()
    assert list(names(folder).values()).count("after") == 3


@pytest.mark.parametrize("status", [403, 429])
def test_a_refused_permission_and_a_rate_limit_count_against_the_type(
    make_pipeline: MakePipeline,
    server: Server,
    shop: Shop,
    folder: DataFolder,
    status: int,
) -> None:
    pipeline = make_pipeline(TEST_KEY, retries=Retries(patience=0.2), sweep={"requests_a_month": 0})
    bad = shop.create_customer(created=days_ago(shop, 3))["id"]
    pipeline.sync()
    shop.update("customers", bad, name="after")
    server.faults.append(Fault(path=f"/v1/customers/{bad}$", times=None, status=status))
    report = pipeline.sync()
    assert isinstance(report.failures["customers"], PermissionMissing if status == 403 else Unavailable)
    assert waiting(folder) == [(bad, 0, "waiting")]


def test_a_further_notification_of_a_dead_object_tries_again(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    bad = changed_customer_that_answers_500(pipeline, server, shop)
    pipeline.sync()
    give_up(pipeline)
    server.faults.clear()
    shop.update("customers", bad, name="after that")
    assert not pipeline.sync().failures
    assert (names(folder), waiting(folder)) == ({bad: "after that"}, [])


@pytest.mark.parametrize("where", varied(["lines", "payments"]))
def test_an_invoice_whose_lines_or_payments_cannot_be_read_is_left_out_of_its_days_list(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder, where: str
) -> None:
    created = days_ago(shop, 5)
    lines = 12 if where == "lines" else 1
    bad, good = (shop.create_invoice(created=created, n_lines=lines)["id"] for _ in range(2))
    other = shop.create_invoice(n_lines=1, created=created)["id"]
    if where == "lines":
        fault = Fault(path=f"/v1/invoices/{bad}/lines$", times=None, status=500)
    else:
        cut = {"object": "list", "data": [], "has_more": True, "url": "/v1/invoice_payments"}
        shop.update("invoices", bad, announce=False, payments=cut)
        fault = Fault(path="/v1/invoice_payments$", nth=1, times=None, status=500)
        server.faults.append(
            Fault(path="/v1/invoice_payments$", nth=1, times=None, before=lambda request: request.params)
        )
    server.faults.append(fault)
    report = pipeline.sync()
    if where == "payments":  # all requests for payments fail, which does not count against the invoice
        assert isinstance(report.failures["invoices"], Unavailable)
        return
    assert report.failures.keys() == {"invoices", "invoice_lines"}
    assert bad in str(report.failures["invoices"])
    invoices = "SELECT id FROM test.invoices ORDER BY id"
    assert ask(folder.published, invoices) == sorted([(good,), (other,)])
    assert waiting(folder) == [(bad, 1, "waiting")]
    assert listed(folder, "invoices", day_of(created)) == [(2, 3)]

    server.requests.clear()
    give_up(pipeline)
    assert waiting(folder) == [(bad, MAX_ATTEMPTS, "dead")]
    assert not [
        request for request in server.requests if request.path == "/v1/invoices" and "created" in request.params
    ]
    assert not pipeline.sync().failures

    # A list that has the invoice again names it, and neither fails nor removes the notification.
    again = pipeline.backfill([day_of(created)], ["invoices"])
    assert not again.failures
    assert [note for note in again.notes if bad in note]
    assert waiting(folder) == [(bad, MAX_ATTEMPTS, "dead")]

    server.faults.clear()
    pipeline.inbox.retry()
    assert not pipeline.sync().failures
    assert ask(folder.published, invoices) == sorted([(good,), (other,), (bad,)])
    assert_equal_to_stripe(shop, folder.published)


def test_a_stored_object_that_a_list_cannot_complete_keeps_its_row(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    created = days_ago(shop, 5)
    bad = shop.create_invoice(n_lines=12, created=created)["id"]
    shop.create_invoice(n_lines=12, created=created)
    pipeline.sync()
    server.faults.append(Fault(path=f"/v1/invoices/{bad}/lines$", times=None, status=500))
    report = pipeline.backfill([day_of(created)], ["invoices"])
    assert bad in str(report.failures["invoices"])
    assert ask(folder.published, "SELECT count(*) FROM test.invoices") == [(2,)]
    assert waiting(folder) == [(bad, 1, "waiting")]


def test_an_object_that_a_list_lacks_and_that_cannot_be_read_keeps_its_row_and_its_day_is_complete(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    created = days_ago(shop, 5)
    left_out, other = (shop.create_customer(name="before", created=created)["id"] for _ in range(2))
    pipeline.sync()
    shop.vanish("customers", left_out)
    shop.update("customers", other, announce=False, name="after")
    server.faults.append(Fault(path=f"/v1/customers/{left_out}$", times=None, status=500))
    report = pipeline.backfill([day_of(created)], ["customers"])
    assert left_out in str(report.failures["customers"])
    assert names(folder) == {left_out: "before", other: "after"}
    assert waiting(folder) == [(left_out, 1, "waiting")]
    server.requests.clear()
    pipeline.sync()
    assert not [
        request for request in server.requests if request.path == "/v1/customers" and "created" in request.params
    ]
    server.faults.clear()
    pipeline.sync()
    assert names(folder) == {other: "after"}


def spoil(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[bytes], bytes]:
    """A function that changes the objects of a page."""

    def spoiled(body: bytes) -> bytes:
        page = orjson.loads(body)
        change(page["data"])
        return orjson.dumps(page)

    return spoiled


def _of(data: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next((obj for obj in data if obj.get("name") == name), {})


ODD_IN_LISTS: dict[str, Callable[[list[dict[str, Any]]], object]] = {
    "made before the window": lambda data: _of(data, "bad").update(created=1_000_000_000),
    "made after the window": lambda data: _of(data, "bad").update(created=4_000_000_000),
    "of another type": lambda data: _of(data, "bad").update(object="charge"),
    "of the other mode": lambda data: _of(data, "bad").update(livemode=True),
    "without created": lambda data: _of(data, "bad").pop("created", None),
    "with a created that is text": lambda data: _of(data, "bad").update(created="yesterday"),
    "with a control character in its id": lambda data: _of(data, "bad").update(id="a\nb"),
    "without an id": lambda data: _of(data, "bad").pop("id", None),
    "with an empty id": lambda data: _of(data, "bad").update(id=""),
    "not an object": lambda data: [data.__setitem__(n, 7) for n, obj in enumerate(data) if obj.get("name") == "bad"],  # type: ignore[call-overload]
}


@pytest.mark.parametrize("how", varied(ODD_IN_LISTS, quick=3))
def test_trap_39_an_odd_object_in_a_list_is_left_out_named_and_read_later(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder, how: str
) -> None:
    created = days_ago(shop, 5)
    for n in range(230):
        shop.create_customer(name=f"{n}", created=created + n, announce=False)
    bad = shop.create_customer(name="bad", created=created + 115, announce=False)["id"]
    server.faults.append(Fault(path="/v1/customers$", times=None, change=spoil(ODD_IN_LISTS[how])))
    report = pipeline.sync()
    assert report.failures.keys() == {"customers"}
    assert isinstance(report.failures["customers"], ObjectsUnread)
    assert len(names(folder)) == 230
    assert ask(folder.published, "SELECT count(*) FROM raw.customers WHERE object <> 'customer'") == [(0,)]
    [(object_id, attempts, state)] = waiting(folder)
    assert (attempts, state) == (1, "waiting")
    assert object_id in (bad, f"(no id) {day_of(created)}")

    if object_id == bad:  # the object is right where it is read by its id
        assert not pipeline.sync().failures
    else:  # its day is listed again
        server.requests.clear()
        assert pipeline.sync().failures
        windows = [request.params["created"] for request in server.requests if request.path == "/v1/customers"]
        assert {day_of(int(window["gte"])) for window in windows} == {day_of(created)}
        give_up(pipeline)
        assert [state for _, _, state in waiting(folder)] == ["dead"]
        assert not pipeline.sync().failures
        server.faults.clear()
        pipeline.inbox.retry()
        assert not pipeline.sync().failures
    assert waiting(folder) == []
    assert_equal_to_stripe(shop, folder.published)


@pytest.mark.parametrize("last", varied([True, False]))
def test_trap_39_an_odd_object_may_be_the_last_of_its_page(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder, last: bool
) -> None:
    created = days_ago(shop, 5)
    for n in range(250):
        bad = n == (150 if last else 149)  # newest first: the hundredth is the last of the first page
        shop.create_customer(name="bad" if bad else f"{n}", created=created + n, announce=False)
    server.faults.append(Fault(path="/v1/customers$", times=None, change=spoil(ODD_IN_LISTS["made before the window"])))
    assert pipeline.sync().failures.keys() == {"customers"}
    assert not pipeline.sync().failures
    assert_equal_to_stripe(shop, folder.published)


def test_an_object_on_two_pages_is_stored_and_counted_once(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    created = day_start(day_of(days_ago(shop, 5)))  # so that the rest of the day is not split into windows
    for n in range(230):
        shop.create_customer(name=f"{n}", created=created + n, announce=False)
    first: list[dict[str, Any]] = []

    def repeat(data: list[dict[str, Any]]) -> None:
        if first:
            data.insert(0, first[-1])
        first.extend(data[-1:])

    server.faults.append(Fault(path="/v1/customers$", times=None, change=spoil(repeat)))
    assert not pipeline.backfill([day_of(created)], ["customers"]).failures
    assert listed(folder, "customers", day_of(created)) == [(230, 230)]
    assert_equal_to_stripe(shop, folder.published)


def test_trap_39_half_a_surrogate_pair_is_replaced_and_named(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    odd = shop.create_customer(name="HALF", metadata={"note": "HALF"}, created=days_ago(shop, 3), announce=False)["id"]
    other = shop.create_customer(name="whole 🎉", created=days_ago(shop, 3), announce=False)["id"]

    def halve(body: bytes) -> bytes:
        return body.replace(b"HALF", b"a\\ud83dz")

    server.faults.append(Fault(path="/v1/", times=None, change=halve))
    report = pipeline.sync()
    assert not report.failures
    assert names(folder) == {odd: "a\ufffdz", other: "whole 🎉"}
    assert f"customers.name (invalid Unicode, replaced): 1 (e.g. {odd})" in str(report.surprises)
    assert ask(folder.published, f"SELECT metadata->>'note' FROM test.customers WHERE id = '{odd}'") == [("a\ufffdz",)]

    shop.update("customers", odd, description="told by an event that holds it, and read by its id")
    report = pipeline.sync()
    assert not report.failures
    assert odd in str(report.surprises)
    assert names(folder)[odd] == "a\ufffdz"


ODD_VALUES: dict[str, bytes] = {
    "bytes that are not UTF-8": b'"a\xff\xfeb"',
    "NUL": b'"a\\u0000b"',
    "10 MB": b'"' + b"x" * 10_000_000 + b'"',
    "a number beyond BIGINT": b"99999999999999999999999999",
    "a number beyond a double": b"1e999",
    "an empty key": b'{"": {"": 1}}',
    "the same key twice": b'{"a": 1, "a": 2}',
    "2,000 levels": b"[" * 2000 + b"]" * 2000,
}


@pytest.mark.parametrize("how", ODD_VALUES)
def test_an_odd_value_does_not_fail_a_sync(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder, how: str
) -> None:
    places: list[dict[str, Any]] = [{where: "ODD VALUE"} for where in ("name", "balance", "metadata", "unknown")]
    odd = {shop.create_customer(created=days_ago(shop, 3), announce=False, **place)["id"] for place in places}
    other = shop.create_customer(name="fine", created=days_ago(shop, 3), announce=False)["id"]
    server.faults.append(
        Fault(path="/v1/", times=None, change=lambda body: body.replace(b'"ODD VALUE"', ODD_VALUES[how]))
    )
    assert not pipeline.sync().failures
    assert names(folder).keys() == odd | {other}


@pytest.mark.parametrize("value", [b'"' + b"x" * 40_000_000 + b'"', b"[" * 400 + b"]" * 400])
def test_a_row_that_cannot_be_loaded_is_left_out(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder, value: bytes
) -> None:
    odd = shop.create_customer(name="ODD", created=days_ago(shop, 3), announce=False)["id"]
    other = shop.create_customer(name="fine", created=days_ago(shop, 3), announce=False)["id"]
    server.faults.append(Fault(path="/v1/", times=None, change=lambda body: body.replace(b'"ODD"', value)))
    report = pipeline.sync()
    assert odd in str(report.failures["customers"])
    assert len(str(report.failures["customers"])) < 2000
    assert names(folder).keys() == {other}
    assert waiting(folder) == [(odd, 1, "waiting")]


def test_trap_39_a_day_that_is_not_listed_to_its_end_is_named_and_the_others_are_loaded(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    for n in range(40):
        shop.create_customer(created=days_ago(shop, n), announce=False)
    created = days_ago(shop, 20)

    def includes_the_day(request: Any) -> bool:
        window = request.params.get("created", {})
        return bool(window) and int(window["gte"]) <= created < int(window.get("lt", 1e12))

    empty = {"object": "list", "data": [], "has_more": True, "url": "/v1/customers"}
    server.faults.append(Fault(path="/v1/customers$", times=None, where=includes_the_day, body=empty))
    report = pipeline.sync()
    assert str(day_of(created)) in str(report.failures["customers"])
    assert len(names(folder)) == 39
    assert listed(folder, "customers", day_of(created)) == []
    assert listed(folder, "customers", day_of(created - DAY)) == [(1, 1)]

    customer = next(iter(names(folder)))
    shop.update("customers", customer, name="after")
    assert pipeline.sync().failures, "a sync with an incomplete day fails"
    assert names(folder)[customer] == "after"
    server.faults.clear()
    assert not pipeline.sync().failures
    assert_equal_to_stripe(shop, folder.published)
