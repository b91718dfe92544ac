"""Refusals: keys, permissions, parameters, missing objects, rate limits; and the headers of every answer."""

from __future__ import annotations

import email.utils
import time

import httpx
import pytest

from stripe_emulator import Clock, Server, Shop
from stripe_emulator.rate_limits import RateLimiter
from tests.stripe_emulator.conftest import LIVE_KEY, NOW, TEST_KEY, Get, error, ids


def test_a_missing_key(server: Server) -> None:
    details = error(httpx.get(f"{server.url}/v1/charges"), 401)
    assert details["type"] == "invalid_request_error"
    assert details["message"].startswith("You did not provide an API key.")
    assert "code" not in details


@pytest.mark.parametrize(
    ("key", "masked"),
    [
        ("sk_test_no-good-0000", "sk_test_********0000"),
        ("sk_test_000", "sk_test_000"),
        ("nonsense", "****ense"),
        ("pk_test_emulator0001", "pk_test_********0001"),
    ],
)
def test_an_unknown_key_is_named_but_masked(get: Get, key: str, masked: str) -> None:
    details = error(get("/v1/charges", key), 401)
    assert details == {"type": "invalid_request_error", "message": f"Invalid API Key provided: {masked}"}


def test_a_server_may_accept_listed_keys_only(shop: Shop) -> None:
    with Server(shop, keys={LIVE_KEY}) as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/v1/account", auth=(LIVE_KEY, "")).json()["id"] == shop.account
        assert client.get("/v1/account", auth=(TEST_KEY, "")).status_code == 401


def test_a_restricted_key_lacks_denied_permissions(shop: Shop, server: Server, get: Get) -> None:
    key = "rk_test_emulator0001"
    charge = shop.create_payment()["latest_charge"]
    server.deny("charges")
    server.deny("invoices")
    details = error(get("/v1/charges", key), 403)
    assert details["type"] == "invalid_request_error"
    assert "Having the 'rak_charge_read' permission would allow this request to continue." in details["message"]
    assert f"on account '{shop.account}'" in details["message"]
    assert "emulator" not in details["message"]
    for path in (f"/v1/charges/{charge}", "/v1/invoices/in_x/lines", "/v1/payment_intents?expand[]=data.latest_charge"):
        error(get(path, key), 403)
    assert ids(get("/v1/charges")) == [charge], "a secret key may read everything"
    assert ids(get("/v1/refunds", key)) == []
    server.deny("webhook_endpoints")
    refused = httpx.post(f"{server.url}/v1/webhook_endpoints", auth=(key, ""), data={"url": "https://shop.example"})
    assert "'rak_webhook_write'" in error(refused, 403)["message"]
    server.allow("charges")
    assert ids(get("/v1/charges", key)) == [charge]


@pytest.mark.parametrize(
    ("query", "message", "code", "param"),
    [
        ("charges?foo=1", "Received unknown parameter: foo", "parameter_unknown", "foo"),
        ("charges?foo=1&bar=2", "Received unknown parameters: foo, bar", "parameter_unknown", "foo"),
        ("charges?email=1", "Received unknown parameter: email", "parameter_unknown", "email"),
        ("charges?created[foo]=1", "Received unknown parameter: created[foo]", "parameter_unknown", "created[foo]"),
        ("charges?a[b][c]=1", "Received unknown parameter: a[b][c]", "parameter_unknown", "a[b][c]"),
        ("charges/ch_x?limit=1", "Received unknown parameter: limit", "parameter_unknown", "limit"),
        ("account?limit=1", "Received unknown parameter: limit", "parameter_unknown", "limit"),
        ("invoices/in_x/lines?created=1", "Received unknown parameter: created", "parameter_unknown", "created"),
        ("webhook_endpoints?created=1", "Received unknown parameter: created", "parameter_unknown", "created"),
        ("charges?limit=x", "Invalid integer: x", "parameter_invalid_integer", "limit"),
        ("charges?limit=1.5", "Invalid integer: 1.5", "parameter_invalid_integer", "limit"),
        ("charges?limit[a]=1", 'Invalid integer: {"a":"1"}', "parameter_invalid_integer", "limit"),
        ("charges?limit=0", "This value must be greater than or equal to 1.", "parameter_invalid_integer", "limit"),
        (
            "charges?limit=101",
            "This value must be less than or equal to 100 (it currently is '101').",
            "parameter_invalid_integer",
            "limit",
        ),
        ("charges?created=1e9", "Invalid integer: 1e9", "parameter_invalid_integer", "created"),
        ("charges?created[gte]=1.0", "Invalid integer: 1.0", "parameter_invalid_integer", "created[gte]"),
        ("charges?starting_after=ch_x", "No such charge: 'ch_x'", "resource_missing", "starting_after"),
        ("charges?ending_before=ch_x", "No such charge: 'ch_x'", "resource_missing", "ending_before"),
        ("charges?customer=cus_x", "No such customer: 'cus_x'", "resource_missing", "customer"),
        ("charges?customer[a]=cus_x", 'Invalid string: {"a":"cus_x"}', None, "customer"),
        ("charges?starting_after[]=ch_x", 'Invalid string: ["ch_x"]', None, "starting_after"),
        (
            "invoices?status=odd",
            "Invalid status: must be one of draft, open, paid, uncollectible, or void",
            None,
            "status",
        ),
        ("charges?expand=customer", "Invalid array", None, "expand"),
        ("charges?expand[]=data.amount", "This property cannot be expanded (data.amount).", None, "expand"),
        ("events?types=a", "Invalid array", None, "types"),
        ("events?delivery_success=1", "Invalid boolean: 1", "parameter_invalid", "delivery_success"),
    ],
)
def test_bad_parameters(shop: Shop, get: Get, query: str, message: str, code: str | None, param: str) -> None:
    shop.create_payment()
    details = error(get(f"/v1/{query}"), 400)
    assert (details["type"], details["message"]) == ("invalid_request_error", message)
    assert (details.get("code"), details["param"]) == (code, param)


def test_parameters_that_exclude_each_other(shop: Shop, get: Get) -> None:
    customer = shop.create_customer()["id"]
    details = error(get(f"/v1/customers?starting_after={customer}&ending_before={customer}"), 400)
    assert details["message"] == "You may only specify one of these parameters: ending_before, starting_after."
    details = error(get("/v1/customers?starting_after="), 400)
    assert details["code"] == "parameter_invalid_empty"
    assert error(get("/v1/events?type=a&types[]=a"), 400)["message"].endswith(": type, types.")
    assert error(get("/v1/events?" + "&".join(["types[]=a"] * 21)), 400)["param"] == "types"
    assert ids(get("/v1/events?" + "&".join(["types[]=a"] * 20))) == []


@pytest.mark.parametrize(
    ("path", "message", "param"),
    [
        ("balance_transactions/txn_x", "No such balance transaction: 'txn_x'", "id"),
        ("charges/ch_x", "No such charge: 'ch_x'", "id"),
        ("customers/cus_x", "No such customer: 'cus_x'", "id"),
        ("disputes/dp_x", "No such dispute: 'dp_x'", "id"),
        ("events/evt_x", "No such event: 'evt_x'", "id"),
        ("invoices/in_x", "No such invoice: 'in_x'", "id"),
        ("invoices/in_x/lines", "No such invoice: 'in_x'", "invoice"),
        ("payment_intents/pi_x", "No such payment_intent: 'pi_x'", "intent"),
        ("refunds/re_x", "No such refund: 're_x'", "id"),
        ("webhook_endpoints/we_x", "No such webhook endpoint: 'we_x'", "id"),
    ],
)
def test_missing_objects(get: Get, path: str, message: str, param: str) -> None:
    assert error(get(f"/v1/{path}"), 404) == {
        "code": "resource_missing",
        "doc_url": "https://stripe.com/docs/error-codes/resource-missing",
        "message": message,
        "param": param,
        "type": "invalid_request_error",
    }


def test_a_cursor_that_was_deleted_meanwhile(shop: Shop, get: Get) -> None:
    customers = [shop.create_customer()["id"] for _ in range(3)]
    cursor = ids(get("/v1/customers?limit=2"))[-1]
    shop.delete_customer(cursor)
    details = error(get(f"/v1/customers?starting_after={cursor}"), 400)
    assert (details["code"], details["message"]) == ("resource_missing", f"No such customer: '{customers[1]}'")
    invoice = shop.create_invoice(n_lines=3)
    line = invoice["lines"]["data"][0]["id"]
    shop.remove_invoice_line(invoice["id"], line)
    details = error(get(f"/v1/invoices/{invoice['id']}/lines?starting_after={line}"), 400)
    assert (details["code"], details["param"]) == ("resource_missing", "starting_after")


def test_unknown_urls_accounts_and_versions_are_refused(server: Server, get: Get) -> None:
    details = error(get("/v1/nothing"), 404)
    assert details["message"].startswith("Unrecognized request URL (GET: /v1/nothing).")
    assert httpx.post(f"{server.url}/v1/customers", auth=(TEST_KEY, "")).status_code == 404
    assert error(get("/v1/accounts/acct_other"), 403)["code"] == "account_invalid"
    assert error(get("/v1/charges", **{"Stripe-Version": "latest"}), 400)["message"].startswith("Invalid Stripe API")


def test_headers_of_every_answer(clock: Clock, get: Get) -> None:
    clock.freeze(NOW + 600)
    good, bad = get("/v1/charges"), get("/v1/charges/ch_x", **{"Stripe-Version": "2024-06-20"})
    assert good.headers["stripe-version"] == "2026-10-28.endive"
    assert bad.headers["stripe-version"] == "2024-06-20"
    for answer in (good, bad):
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers.get_list("date") == [email.utils.formatdate(NOW + 600, usegmt=True)]
    assert good.headers["request-id"].startswith("req_")
    assert good.headers["request-id"] != bad.headers["request-id"]


def test_the_request_log(shop: Shop, server: Server, get: Get) -> None:
    get("/v1/charges?limit=3&created[gte]=5&expand[]=data.customer", LIVE_KEY, **{"Stripe-Version": "2024-06-20"})
    get("/v1/charges/ch_x")
    first, second = server.requests
    assert (first.method, first.path, first.livemode, first.status) == ("GET", "/v1/charges", True, 200)
    assert first.params == {"limit": "3", "created": {"gte": "5"}, "expand": ["data.customer"]}
    assert (first.stripe_version, first.time) == ("2024-06-20", NOW)
    assert (second.livemode, second.status, second.stripe_version) == (False, 404, None)
    server.requests.clear()
    assert not server.requests


@pytest.mark.parametrize(
    ("livemode", "endpoints", "allowed", "reason"),
    [(True, 1, 25, "endpoint-rate"), (True, 5, 100, "global-rate"), (False, 1, 25, "global-rate")],
)
def test_how_many_requests_a_second_are_let_through(livemode: bool, endpoints: int, allowed: int, reason: str) -> None:
    now = 100.0
    limiter = RateLimiter(lambda: now)
    answers = [limiter.refuse(livemode, f"v1/{place % endpoints}") for place in range(allowed + 5)]
    assert answers == [None] * allowed + [reason] * 5
    assert limiter.refuse(not livemode, "v1/0") is None
    now += 0.999
    assert limiter.refuse(livemode, "v1/0") == reason
    now += 0.001
    assert limiter.refuse(livemode, "v1/0") is None


def test_a_429_says_which_limit_it_was(shop: Shop) -> None:
    with Server(shop, rate_limits=True) as server, httpx.Client(base_url=server.url, auth=(LIVE_KEY, "")) as client:
        answers = [client.get(f"/v1/charges/ch_{number}") for number in range(200)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert {answer.headers["stripe-rate-limited-reason"] for answer in refused} == {"endpoint-rate"}
        assert error(refused[0], 429)["code"] == "rate_limit"
        assert all("stripe-rate-limited-reason" not in answer.headers for answer in answers[:25])
        assert client.get("/v1/refunds").status_code == 200


def test_latency(shop: Shop) -> None:
    with Server(shop, latency_ms=120) as server:
        started = time.monotonic()
        httpx.get(f"{server.url}/v1/charges", auth=(TEST_KEY, ""))
        assert time.monotonic() - started >= 0.12


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("a%2Fb%20c%2Bd", 200),
        ("a%2Fb+c%2Bd", 200),  # a + is a space
        ("a/b%20c%2Bd", 404),
        ("%2E%2E/customers/a%2Fb%20c%2Bd", 200),  # dot segments are resolved, encoded or not
        ("%2E", 200),  # the list
    ],
)
def test_a_path_is_split_before_it_is_decoded(shop: Shop, get: Get, path: str, status: int) -> None:
    shop.create_customer(id="a/b c+d")
    assert get(f"/v1/customers/{path}").status_code == status
