"""The API client against a real HTTP server, which gives the good or bad answers of each test."""

from __future__ import annotations

import contextlib
import logging
import pickle
import socketserver
import threading
import time
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson
import pytest
import stripe

from stripe_pipeline import errors
from stripe_pipeline.stripe_api.client import Reply, StripeApi
from stripe_pipeline.stripe_api.keys import ApiKey
from stripe_pipeline.stripe_api.rate_limits import RateLimits
from stripe_pipeline.stripe_api.retries import Retries

SECRET = "sk_test_4eC39HqLyjWDarjtT1zdp7dc"
KEY = ApiKey.from_text(SECRET)
HTML = "<html>Bad Gateway</html>"


@dataclass
class Request:
    path: str
    params: list[tuple[str, str]]
    headers: dict[str, str]


@dataclass
class Answer:
    """An answer of the server; `cut` bytes are missing at the end of its body."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0
    date: float | None = None

    def raw(self) -> bytes:
        text = isinstance(self.body, str)
        body = self.body.encode() if text else orjson.dumps(self.body)
        headers = {
            "Date": formatdate(time.time() if self.date is None else self.date, usegmt=True),
            "Content-Type": "text/html" if text else "application/json",
            "Content-Length": str(len(body)),
            "Request-Id": "req_123",
            **self.headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {self.status} -\r\n{head}\r\n".encode() + body[: len(body) - self.cut]


DROP = Answer(status=0)
OK = Answer(body={"id": "ch_1"})


def refused(status: int, message: str = "No.", code: str | None = None, **headers: str) -> Answer:
    error = {"type": "invalid_request_error", "message": message} | ({"code": code} if code else {})
    return Answer(status, {"error": error}, {name.replace("_", "-"): value for name, value in headers.items()})


class Server(socketserver.ThreadingTCPServer):
    """Gives the answers of its list one after the other, the last one forever, or the answers of `respond`."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.answers: list[Answer] = [OK]
        self.respond: Callable[[Request], Answer] = self._next
        self.requests: list[Request] = []
        self.lock = threading.Lock()
        self.connections = 0

    def _next(self, request: Request) -> Answer:
        with self.lock:
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Connection(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        with self.server.lock:
            self.server.connections += 1
        with contextlib.suppress(ConnectionError):
            while self._answer():
                pass

    def _answer(self) -> bool:
        target = self.rfile.readline().decode().split(" ")
        if len(target) != 3:
            return False
        headers = {}
        while line := self.rfile.readline().decode().strip():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        url = urlsplit(target[1])
        request = Request(url.path, parse_qsl(url.query), headers)
        with self.server.lock:
            self.server.requests.append(request)
        answer = self.server.respond(request)
        if answer is DROP:
            return False
        self.wfile.write(answer.raw())
        return not answer.cut


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


HURRIED = Retries(patience=1, first_pause=0.01, longest_pause=0.02)


@pytest.fixture
def api(server: Server) -> Iterator[StripeApi]:
    """A client in a hurry: no rate limits, short waits."""
    with StripeApi(KEY, base_url=server.url, limits=RateLimits(account=1e6, endpoint=1e6), retries=HURRIED) as api:
        yield api


class Waits(threading.Event):
    """Records how long a client would have waited, without waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.seconds.append(timeout)
        return self.is_set()


@pytest.fixture
def waits(api: StripeApi, monkeypatch: pytest.MonkeyPatch) -> Waits:
    waits = Waits()
    monkeypatch.setattr(api, "_closed", waits)
    return waits


# Keys


@pytest.mark.parametrize(("text", "livemode"), [(f" {SECRET}\n", False), ("rk_live_51Habcdefgh", True)])
def test_a_key_knows_its_mode_and_does_not_show_its_secret(text: str, livemode: bool) -> None:
    key = ApiKey.from_text(text)
    assert key.livemode is livemode
    assert key.secret == text.strip()
    assert text.strip() not in f"{key!r} {key}"
    assert key.secret[8:] not in f"{key!r} {key}"
    assert key.fingerprint in repr(key)
    assert len(key.fingerprint) == 16


@pytest.mark.parametrize(
    "text", ["", "pk_test_4eC39HqLyjWDarjt", "sk_test_123", "sk_test_12345 678", "sk_prod_12345678"]
)
def test_an_invalid_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(errors.SettingsError, match="not a Stripe secret") as caught:
        ApiKey.from_text(text)
    assert not text or text not in str(caught.value)


# Requests


def test_each_request_names_the_version_and_the_client(server: Server, api: StripeApi) -> None:
    api.get("/v1/charges/ch_1")
    (request,) = server.requests
    assert request.path == "/v1/charges/ch_1"
    assert request.headers["stripe-version"] == stripe.api_version
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    assert request.headers["user-agent"].startswith("stripe_pipeline/")


def test_filters_and_lists_are_sent_as_stripe_reads_them(server: Server, api: StripeApi) -> None:
    server.answers = [Answer(body={"data": [], "has_more": False})]
    api.page("/v1/events", {"created[gte]": 1, "created[lt]": 2, "types": ["a", "b"]}, starting_after="evt_1")
    assert server.requests[0].params == [
        ("created[gte]", "1"),
        ("created[lt]", "2"),
        ("types[]", "a"),
        ("types[]", "b"),
        ("limit", "100"),
        ("starting_after", "evt_1"),
    ]


def test_connections_are_reused(server: Server, api: StripeApi) -> None:
    for _ in range(5):
        api.get("/v1/charges/ch_1")
    assert server.connections == 1


def test_the_account_is_named(server: Server, api: StripeApi) -> None:
    server.answers = [Answer(body={"id": "acct_1"}), Answer(body={"object": "account"})]
    assert api.account() == "acct_1"
    with pytest.raises(errors.Unavailable, match="/v1/account names no account"):
        api.account()


# Retries

PASSING_FAULTS = {
    "500": refused(500),
    "502 from a proxy": Answer(502, HTML),
    "409": refused(409),
    "429": refused(429),
    "429 from a proxy": Answer(429, HTML),
    "429 for the endpoint": refused(429, Stripe_Rate_Limited_Reason="endpoint-rate"),
    "dropped": DROP,
    "cut": Answer(body={"id": "ch_1", "amount": 1}, cut=5),
    "cut JSON": Answer(body='{"id": "ch_1", "amo'),
    "empty": Answer(body=""),
    "HTML": Answer(body=HTML),
    "a list": Answer(body=[]),
    "not gzip": Answer(headers={"Content-Encoding": "gzip"}),
    "a proxy's 404": Answer(404, HTML),
    "a proxy's 401": Answer(401, HTML),
    "redirect": Answer(302, HTML, {"Location": "/elsewhere"}),
    "no HTTP": Answer(status=7),
    "later by 429, whatever the hint": refused(429, Stripe_Should_Retry="false"),
}


@pytest.mark.parametrize("trouble", PASSING_FAULTS.values(), ids=PASSING_FAULTS.keys())
def test_a_passing_fault_is_retried(server: Server, api: StripeApi, trouble: Answer) -> None:
    server.answers = [trouble, trouble, OK]
    assert api.get("/v1/charges/ch_1").data == {"id": "ch_1"}
    assert api.spent() == len(server.requests) == 3
    assert {request.path for request in server.requests} == {"/v1/charges/ch_1"}


@pytest.mark.parametrize("trouble", PASSING_FAULTS.values(), ids=PASSING_FAULTS.keys())
def test_a_lasting_fault_is_named_after_the_last_retry(server: Server, api: StripeApi, trouble: Answer) -> None:
    server.answers = [trouble]
    api.retries = replace(HURRIED, patience=0.3, max_attempts=2)
    with pytest.raises(errors.Unavailable) as caught:
        api.get("/v1/charges/ch_1")
    error = caught.value
    assert error.path == "/v1/charges/ch_1"
    assert "the next run continues" in error.remedy
    if trouble.status == 429:
        assert error.status == 429
        assert "rate.share" in error.remedy
        assert api.spent() > 2
    else:
        assert "2 times" in error.what
        assert "STRIPE_API_BASE" in error.remedy
        assert api.spent() == 2
    assert ("req_123" in error.what) == (error.request_id is not None) == (error.status is not None)


def test_an_unreachable_server_is_given_up_after_seconds(
    server: Server, api: StripeApi, waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.retries = Retries()
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    server.server_close()
    with pytest.raises(errors.Unavailable, match=r"from 127.0.0.1:\d+ failed 6 times.*refused.*Check the network"):
        api.get("/v1/charges")
    assert waits.seconds == [0.5, 1, 2, 4, 8]


def test_a_silent_server_is_given_up(server: Server) -> None:
    release = threading.Event()

    def keep_silent(_: Request) -> Answer:
        release.wait(10)
        return DROP

    server.respond = keep_silent
    with StripeApi(KEY, base_url=server.url, retries=Retries(silence=0.1, max_attempts=1)) as api:
        with pytest.raises(errors.Unavailable, match="failed once, the last time with ReadTimeout"):
            api.get("/v1/charges")
        release.set()


def test_a_pause_grows_is_bounded_and_is_random(server: Server, api: StripeApi, waits: Waits) -> None:
    server.answers = [refused(500)]
    api.retries = Retries(max_attempts=400)
    with pytest.raises(errors.Unavailable):
        api.get("/v1/charges")
    assert all(pause <= 0.5 * 2**turn for turn, pause in enumerate(waits.seconds[:5]))
    assert max(waits.seconds) <= 8
    assert len(set(waits.seconds)) == len(waits.seconds)
    assert 3 < sum(waits.seconds[5:]) / len(waits.seconds[5:]) < 5


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("3", 3.0, 3.3),
        ("0", 0.0, 0.01),
        ("nonsense", 0.0, 0.01),
        ("86400", 60.0, 66.0),
        (formatdate(1_700_000_005, usegmt=True), 5.0, 5.5),
        (formatdate(1_600_000_000, usegmt=True), 0.0, 0.01),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(
    server: Server, api: StripeApi, waits: Waits, status: int, value: str, low: float, high: float
) -> None:
    """An HTTP date counts from the server's own clock, which is years behind here."""
    api.retries = replace(HURRIED, patience=120)
    answer = refused(status, Retry_After=value)
    answer.date = 1_700_000_000
    server.answers = [answer, OK]
    api.get("/v1/charges/ch_1")
    (pause,) = waits.seconds
    assert low <= pause <= high


def test_a_429_is_not_waited_out_beyond_the_patience(server: Server, api: StripeApi) -> None:
    server.answers = [refused(429, Retry_After="30")]
    with pytest.raises(errors.Unavailable, match="failed once") as caught:
        api.get("/v1/charges")
    assert "429" in str(caught.value)


@pytest.mark.parametrize("reason", ["endpoint-rate", "endpoint-concurrency", "global-rate", "resource-specific", None])
def test_429_slows_down_the_limit_that_stripe_names(
    server: Server, api: StripeApi, monkeypatch: pytest.MonkeyPatch, reason: str | None
) -> None:
    slowed: list[tuple[str, str | None, float]] = []
    monkeypatch.setattr(api._limits, "slow_down", lambda *arguments: slowed.append(arguments[:3]))
    headers = {} if reason is None else {"Stripe_Rate_Limited_Reason": reason}
    server.answers = [refused(429, Retry_After="0.2", **headers), OK]
    api.get("/v1/invoices/in_1/lines")
    assert slowed == [("/v1/invoices/{id}/lines", reason, 0.2)]


@pytest.mark.parametrize(("status", "kind"), [(500, errors.Unavailable), (409, errors.RequestRefused)])
def test_stripe_may_say_that_a_retry_is_useless(
    server: Server, api: StripeApi, status: int, kind: type[errors.ApiError]
) -> None:
    server.answers = [refused(status, Stripe_Should_Retry="false")]
    with pytest.raises(kind):
        api.get("/v1/charges")
    assert api.spent() == 1


# Refusals that are final

NO_PERMISSION = (
    "The provided key 'rk_test_******************************abcd' does not have the required permissions for this "
    "endpoint on account 'acct_1'. Having the 'rak_charge_read' permission would allow this request to continue."
)


def test_an_unknown_key_is_reported_at_once(server: Server, api: StripeApi) -> None:
    server.answers = [refused(401, f"Invalid API Key provided: {SECRET}")]
    with pytest.raises(errors.AuthenticationFailed, match=r"the test key.*req_123.*STRIPE_TEST_API_KEY") as caught:
        api.get("/v1/charges")
    assert (caught.value.status, caught.value.request_id, api.spent()) == (401, "req_123", 1)


def test_the_remedy_for_an_unknown_live_key_names_the_variable_of_live_keys(server: Server) -> None:
    server.answers = [refused(401, "Invalid API Key provided: sk_live_****abcd")]
    with (
        StripeApi(ApiKey.from_text("sk_live_12345678"), base_url=server.url) as api,
        pytest.raises(errors.AuthenticationFailed, match="the live key") as caught,
    ):
        api.get("/v1/charges")
    assert caught.value.remedy == "Check STRIPE_API_KEY"


def test_a_missing_permission_is_named(server: Server, api: StripeApi) -> None:
    server.answers = [refused(403, NO_PERMISSION)]
    with pytest.raises(errors.PermissionMissing, match=r"may not read charges.*'rak_charge_read'.*req_123") as caught:
        api.get("/v1/charges/ch_1")
    assert caught.value.permission == "rak_charge_read"
    assert "disable the object type in the settings file" in caught.value.remedy
    assert api.spent() == 1


DASHBOARD_NAMES = (
    "Permission denied. The provided key 'rk_test_...abcd' does not have the required permissions for this endpoint on"
    " account 'acct_1'. Enabling \"Charges and Refunds Read\" ('charge_read') permissions on this key would allow this"
    " request to continue. You can edit permissions at https://dashboard.stripe.com/b/acct_1?destination=%2Fapikeys"
)


def test_a_refusal_names_the_account_and_tells_the_time(server: Server, api: StripeApi) -> None:
    server.answers = [refused(403, NO_PERMISSION)]
    server.answers[0].date = time.time() + 3600
    assert api.named_account is None
    assert api.account() == api.named_account == "acct_1"
    assert 3590 < api.now() - time.time() < 3610


def test_a_refusal_in_the_dashboards_words_is_understood(server: Server, api: StripeApi) -> None:
    server.answers = [refused(403, DASHBOARD_NAMES, "more_permissions_required")]
    with pytest.raises(errors.PermissionMissing, match="Charges and Refunds Read") as caught:
        api.get("/v1/charges/ch_1")
    assert (caught.value.permission, caught.value.account) == ("charge_read", "acct_1")
    assert "abcd" not in str(caught.value)


@pytest.mark.parametrize(
    "message",
    [
        "The provided key 'rk_test_****abcd' does not have the required permissions for this endpoint.",
        "The provided key 'rk_test_****abcd' does not have access to account 'acct_2' (or that does not exist).",
        "The API key provided does not allow requests from your IP address.",
    ],
)
def test_a_refusal_may_name_no_account_or_another_one(server: Server, api: StripeApi, message: str) -> None:
    server.answers = [refused(403, message)]
    assert api.account() is None


def test_the_remedy_for_events_does_not_say_to_disable_them(server: Server, api: StripeApi) -> None:
    server.answers = [refused(403, "Not allowed.")]
    with pytest.raises(errors.PermissionMissing, match="may not read events: Not allowed") as caught:
        api.get("/v1/events")
    assert caught.value.permission is None
    assert "disable" not in caught.value.remedy


@pytest.mark.parametrize(("status", "code"), [(404, "resource_missing"), (400, "resource_missing"), (404, None)])
def test_a_missing_object_is_not_found(server: Server, api: StripeApi, status: int, code: str | None) -> None:
    server.answers = [refused(status, "No such charge: 'ch_1'", code)]
    with pytest.raises(errors.NotFound, match="No such charge") as caught:
        api.get("/v1/charges/ch_1")
    assert not isinstance(caught.value, errors.CursorLost)
    assert (caught.value.code, api.spent()) == (code, 1)


@pytest.mark.parametrize("status", [400, 402, 405])
def test_other_refusals_are_not_repeated(server: Server, api: StripeApi, status: int) -> None:
    server.answers = [refused(status, "Invalid integer: x", "parameter_invalid_integer")]
    with pytest.raises(errors.RequestRefused, match=r"Invalid integer: x \(request req_123\)\. A retry") as caught:
        api.get("/v1/charges", {"limit": "x"})
    assert (caught.value.status, caught.value.code) == (status, "parameter_invalid_integer")
    assert api.spent() == 1


def test_no_key_is_in_an_error_or_a_log(server: Server, api: StripeApi, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    seen = [repr(api), str(vars(api)), repr(KEY)]
    for answer in [
        *PASSING_FAULTS.values(),
        *(refused(status, f"About {SECRET} and whsec_abcdef") for status in (400, 401, 403, 404, 409, 429, 500)),
    ]:
        server.answers = [answer]
        api.retries = replace(HURRIED, patience=0.05)
        with pytest.raises(errors.ApiError) as caught:
            api.get("/v1/charges")
        error = caught.value
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
        seen += [repr(error), str(error), str(vars(error)), *traceback.format_exception(error)]
        assert error.__cause__ is None
    everything = "\n".join([*seen, caplog.text])
    assert "trying again" in everything
    assert "sk_test_…" in everything
    assert SECRET[8:] not in everything
    assert "whsec_a" not in everything


def test_a_proxy_that_the_environment_names_is_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers = [OK]
    monkeypatch.setenv("http_proxy", server.url.replace("//", "//me:secret%20word@"))
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("STRIPE_PIPELINE_ALLOW_HTTP", "yes")
    with StripeApi(KEY, base_url="http://stripe.invalid") as api:
        assert api.get("/v1/charges/ch_1").data == {"id": "ch_1"}
    # Requests to this machine do not go through the proxy.
    with StripeApi(KEY, base_url=server.url) as api:
        assert api.get("/v1/charges/ch_1").data == {"id": "ch_1"}
    through, past = server.requests
    assert through.path == "/v1/charges/ch_1"
    assert through.headers["proxy-authorization"] == "Basic " + b64encode(b"me:secret word").decode()
    assert "proxy-authorization" not in past.headers


# Pages


def shop(count: int) -> Callable[[Request], Answer]:
    """The answers of a server with that many charges, newest first."""
    ids = [f"ch_{number}" for number in range(count)]

    def respond(request: Request) -> Answer:
        params = dict(request.params)
        start = ids.index(params["starting_after"]) + 1 if "starting_after" in params else 0
        data = [{"id": object_id} for object_id in ids[start : start + int(params["limit"])]]
        return Answer(body={"object": "list", "data": data, "has_more": start + len(data) < count})

    return respond


@pytest.mark.parametrize(("count", "pages"), [(0, 1), (99, 1), (100, 1), (101, 2), (250, 3)])
def test_all_pages_are_walked_under_one_filter(server: Server, api: StripeApi, count: int, pages: int) -> None:
    server.respond = shop(count)
    walked = list(api.pages("/v1/charges", {"created[gte]": 1, "created[lt]": 9}))
    assert [obj["id"] for page in walked for obj in page.objects] == [f"ch_{number}" for number in range(count)]
    assert [page.has_more for page in walked] == [True] * (pages - 1) + [False]
    for request in server.requests:
        assert {("created[gte]", "1"), ("created[lt]", "9"), ("limit", "100")} <= set(request.params)


@pytest.mark.parametrize("status", [400, 404])
def test_a_lost_cursor_is_not_the_end_of_the_list(server: Server, api: StripeApi, status: int) -> None:
    server.answers = [
        Answer(body={"data": [{"id": "cus_1"}], "has_more": True}),
        refused(status, "No such customer: 'cus_1'", "resource_missing"),
    ]
    walk = api.pages("/v1/customers")
    next(walk)
    with pytest.raises(errors.CursorLost, match="cus_1") as caught:
        next(walk)
    assert (caught.value.path, caught.value.status, caught.value.request_id) == ("/v1/customers", status, "req_123")


def test_a_missing_list_is_not_a_lost_cursor(server: Server, api: StripeApi) -> None:
    server.answers = [refused(404, "No such invoice: 'in_1'", "resource_missing")]
    with pytest.raises(errors.NotFound) as caught:
        next(api.pages("/v1/invoices/in_1/lines"))
    assert not isinstance(caught.value, errors.CursorLost)


@pytest.mark.parametrize(
    "body",
    [
        {"object": "charge", "id": "ch_1"},
        {"data": [], "has_more": True},
        {"data": [{"id": "ch_1"}]},
        {"data": [{"id": "ch_1"}], "has_more": "yes"},
        {"data": {"id": "ch_1"}, "has_more": False},
        {"data": [{"object": "charge"}], "has_more": True},
        {"data": [{"id": "ch_0"}], "has_more": True},
    ],
)
def test_an_odd_list_is_an_error_and_never_the_end_of_the_list(
    server: Server, api: StripeApi, body: dict[str, Any]
) -> None:
    server.answers = [Answer(body=body)]
    with pytest.raises(errors.Unavailable, match="The answer to GET /v1/charges"):
        api.page("/v1/charges", starting_after="ch_0")


def test_an_entry_of_a_list_that_is_not_an_object_becomes_an_object_without_an_id(
    server: Server, api: StripeApi
) -> None:
    server.answers = [Answer(body={"data": ["ch_1", {"id": "ch_2"}], "has_more": False})]
    assert api.page("/v1/charges").objects == [{}, {"id": "ch_2"}]


# Stripe's clock


@pytest.mark.parametrize("ahead", [600, -600])
def test_a_server_whose_clock_is_ten_minutes_off_is_followed(server: Server, api: StripeApi, ahead: int) -> None:
    def respond(_: Request) -> Answer:
        return Answer(body={"id": "ch_1"}, date=time.time() + ahead)

    server.respond = respond
    times = []
    for _ in range(12):
        before = time.time()
        reply = api.get("/v1/charges/ch_1")
        after = time.time()
        times.append(reply.sent_at)
        assert before + ahead - 1.01 - (after - before) <= reply.sent_at <= after + ahead
        time.sleep(0.1)
    assert times == sorted(times)
    assert api.now() == pytest.approx(time.time() + ahead, abs=0.5)


def test_a_server_whose_clock_is_right_changes_no_time(server: Server, api: StripeApi) -> None:
    for _ in range(20):
        before = time.time()
        reply = api.get("/v1/charges/ch_1")
        assert api.clock.offset == 0.0
        assert before <= reply.sent_at <= time.time()
        time.sleep(0.02)
    assert api.now() == pytest.approx(time.time(), abs=0.5)


@pytest.mark.parametrize("answer", [Answer(502, HTML), Answer(body=HTML), refused(500)])
def test_only_stripes_own_answers_tell_its_time(server: Server, api: StripeApi, answer: Answer) -> None:
    answer.date = 1_600_000_000
    server.answers = [answer, Answer(body={"id": "ch_1"}, headers={"Date": "yesterday"})]
    api.get("/v1/charges/ch_1")
    assert api.clock.offset == 0.0


# Threads


def test_requests_of_many_threads_are_counted_and_kept_within_the_rate(server: Server) -> None:
    with StripeApi(KEY, base_url=server.url, limits=RateLimits(account=1000, endpoint=160)) as api:
        paths = [f"/v1/charges/ch_{number}" for number in range(240)] + ["/v1/refunds/re_1"] * 16
        started = time.monotonic()
        with ThreadPoolExecutor(16) as pool:
            replies = list(pool.map(api.get, paths))
        took = time.monotonic() - started
        assert [reply.data for reply in replies] == [{"id": "ch_1"}] * 256
        assert api.spent() == len(server.requests) == 256
        assert api.spent_on("/v1/charges") == api.spent_on("/v1/charges/ch_1") == 240
        assert api.spent_on("/v1/refunds") == 16
        assert api.spent_on("/v1/disputes") == 0
    assert took >= 239 / 160
    assert server.connections <= 16


def test_closing_ends_a_wait_at_once(server: Server) -> None:
    received = threading.Event()

    def locked(_: Request) -> Answer:
        received.set()
        return refused(429, Retry_After="50")

    server.respond = locked
    with ThreadPoolExecutor(1) as pool, StripeApi(KEY, base_url=server.url) as api:
        waiting = pool.submit(api.get, "/v1/charges")
        assert received.wait(10)
        started = time.monotonic()
        api.close()
        with pytest.raises(errors.Cancelled):
            waiting.result(10)
        assert time.monotonic() - started < 5


def test_closing_ends_a_wait_for_the_rate_limit(server: Server) -> None:
    limits = RateLimits(account=100)
    limits.slow_down("/v1/charges", "endpoint-rate", 50.0)
    with ThreadPoolExecutor(1) as pool, StripeApi(KEY, base_url=server.url, limits=limits) as api:
        waiting = pool.submit(api.get, "/v1/charges")
        api.close()
        with pytest.raises(errors.Cancelled):
            waiting.result(10)
        assert api.spent() == len(server.requests) == 0


def test_closing_lets_a_request_under_way_finish_and_sends_no_other(server: Server) -> None:
    received, release = threading.Event(), threading.Event()

    def slow(_: Request) -> Answer:
        received.set()
        release.wait(10)
        return OK

    server.respond = slow
    with ThreadPoolExecutor(1) as pool, StripeApi(KEY, base_url=server.url) as api:
        under_way = pool.submit(api.get, "/v1/charges/ch_1")
        assert received.wait(10)
        api.close()
        with pytest.raises(errors.Cancelled):
            api.get("/v1/charges/ch_2")
        release.set()
        reply = under_way.result(10)
        assert isinstance(reply, Reply)
        assert reply.data == {"id": "ch_1"}
        assert len(api._connections.pools) == 0
        assert api.spent() == 1
