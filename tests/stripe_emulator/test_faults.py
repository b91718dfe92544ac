"""Faults between a client and the shop."""

from __future__ import annotations

import asyncio
import threading
import time

import httpx
import pytest

from stripe_emulator import LOCK_TIMEOUT, Fault, Server, Shop, create_app
from stripe_emulator.faults import LoggedRequest
from tests.stripe_emulator.conftest import LIVE_KEY, TEST_KEY, Get, error, ids


@pytest.fixture
def charge(shop: Shop) -> str:
    """The id of the shop's only charge."""
    return str(shop.create_payment()["latest_charge"])


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, "invalid_request_error", None),
        (401, "invalid_request_error", None),
        (403, "invalid_request_error", None),
        (404, "invalid_request_error", "resource_missing"),
        (409, "idempotency_error", "idempotency_key_in_use"),
        (429, "invalid_request_error", "rate_limit"),
        (500, "api_error", None),
        (503, "api_error", None),
    ],
)
def test_a_fault_with_a_status_answers_with_stripes_error_of_that_status(
    charge: str, server: Server, get: Get, status: int, kind: str, code: str | None
) -> None:
    server.faults.append(Fault(status=status, headers={"Retry-After": "2"}))
    answer = get("/v1/charges")
    details = error(answer, status)
    assert (details["type"], details.get("code")) == (kind, code)
    assert answer.headers["retry-after"] == "2"
    assert ("stripe-rate-limited-reason" in answer.headers) is (status == 429)
    assert server.requests[-1].status == status
    assert ids(get("/v1/charges")) == [charge]


def test_a_lock_is_a_429_without_a_reason(server: Server, get: Get) -> None:
    server.faults.append(Fault(status=429, body=LOCK_TIMEOUT))
    answer = get("/v1/charges")
    assert error(answer, 429)["code"] == "lock_timeout"
    assert "stripe-rate-limited-reason" not in answer.headers


def test_html_where_json_is_expected(server: Server, get: Get) -> None:
    server.faults += [Fault(status=502), Fault(body="<html>maintenance</html>"), Fault(status=500, body={"odd": 1})]
    answer = get("/v1/charges")
    assert (answer.status_code, answer.headers["content-type"]) == (502, "text/html")
    assert "Bad Gateway" in answer.text
    answer = get("/v1/charges")
    assert (answer.status_code, answer.text) == (200, "<html>maintenance</html>")
    assert get("/v1/charges").json() == {"odd": 1}


def test_a_body_cut_short(charge: str, server: Server, get: Get) -> None:
    server.faults += [Fault(cut=0.5), Fault(cut=0.0)]
    for _ in range(2):
        with pytest.raises(httpx.RemoteProtocolError, match="complete message body"):
            get("/v1/charges")
    assert ids(get("/v1/charges")) == [charge]


def test_truncated_json_in_a_complete_answer(charge: str, server: Server, get: Get) -> None:
    server.faults.append(Fault(truncate=0.5))
    answer = get("/v1/charges")
    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) == len(answer.content)
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        answer.json()
    assert ids(get("/v1/charges")) == [charge]


def test_a_dropped_connection(charge: str, server: Server, get: Get) -> None:
    server.faults.append(Fault(drop=True))
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        get("/v1/charges")
    assert server.requests[-1].status == 0
    assert ids(get("/v1/charges")) == [charge]


def test_a_delay_holds_up_only_its_own_request(charge: str, server: Server, get: Get) -> None:
    server.faults.append(Fault(path="charges", delay=0.4))
    slow = threading.Thread(target=get, args=("/v1/charges",))
    started = time.monotonic()
    slow.start()
    get("/v1/refunds")
    assert time.monotonic() - started < 0.4
    slow.join()
    assert time.monotonic() - started >= 0.4
    assert server.requests[0].status == 200


def test_stopping_does_not_wait_for_a_delay(shop: Shop) -> None:
    with Server(shop, faults=[Fault(delay=30)]) as server:
        answers: list[type[Exception]] = []

        def wait() -> None:
            try:
                httpx.get(f"{server.url}/v1/charges", auth=(TEST_KEY, ""), timeout=30)
            except httpx.HTTPError as broken:
                answers.append(type(broken))

        waiting = threading.Thread(target=wait)
        waiting.start()
        while not server.requests:
            time.sleep(0.01)
        started = time.monotonic()
    assert time.monotonic() - started < 1
    waiting.join()
    assert answers == [httpx.RemoteProtocolError]


def test_before_changes_the_shop_between_pages(shop: Shop, server: Server, get: Get) -> None:
    customers = [shop.create_customer()["id"] for _ in range(4)][::-1]
    requests: list[LoggedRequest] = []

    def change(request: LoggedRequest) -> None:
        requests.append(request)
        shop.delete_customer(customers[2])

    server.faults.append(Fault(path="^/v1/customers$", nth=2, before=change))
    assert ids(get("/v1/customers?limit=2")) == customers[:2]
    assert ids(get(f"/v1/customers?limit=2&starting_after={customers[1]}")) == [customers[3]]
    assert [request.params for request in requests] == [{"limit": "2", "starting_after": customers[1]}]


def test_which_requests_a_fault_applies_to(server: Server, get: Get) -> None:
    def statuses(path: str, count: int, key: str = TEST_KEY) -> list[int]:
        return [get(path, key).status_code for _ in range(count)]

    server.faults[:] = [Fault(path="/v1/charges$", nth=2, times=2, status=500)]
    assert statuses("/v1/charges/ch_x", 1) == [404]
    assert statuses("/v1/charges", 5) == [200, 500, 500, 200, 200]
    assert server.faults[0].hits == 2
    server.faults[:] = [Fault(livemode=True, times=None, status=500)]
    assert statuses("/v1/charges", 2) == [200, 200]
    assert statuses("/v1/charges", 3, LIVE_KEY) == [500, 500, 500]
    server.faults[:] = [Fault(method="POST", status=500)]
    assert statuses("/v1/charges", 1) == [200]
    server.faults[:] = [Fault(status=500), Fault(status=503)]
    assert statuses("/v1/charges", 3) == [500, 503, 200]
    server.faults[:] = [Fault(delay=0.01, times=None), Fault(status=503)]
    assert statuses("/v1/charges", 2) == [503, 200]


def test_chance_is_drawn_from_a_seed(server: Server, get: Get) -> None:
    drawn = []
    for seed in (1, 1, 2):
        server.faults[:] = [Fault(probability=0.5, seed=seed, times=None, status=500)]
        drawn.append([get("/v1/charges").status_code for _ in range(20)])
    assert drawn[0] == drawn[1] != drawn[2]
    assert set(drawn[0]) == {200, 500}


def test_an_app_without_a_server_cannot_break_connections(shop: Shop) -> None:
    async def ask() -> int:
        app = httpx.ASGITransport(create_app(shop, faults=[Fault(drop=True)]))
        headers = {"Authorization": f"Bearer {TEST_KEY}"}
        async with httpx.AsyncClient(transport=app, base_url="http://emulator", headers=headers) as client:
            with pytest.raises(RuntimeError, match="needs a Server"):
                await client.get("/v1/charges")
            return (await client.get("/v1/charges")).status_code

    assert asyncio.run(ask()) == 200
