"""Webhook endpoints at Stripe, which the `webhooks` commands create and change; the emulator stands in for Stripe."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import httpx
import pytest
import stripe

from stripe_emulator import Fault, Server
from stripe_pipeline.cli.main import main
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.inbox.inbox import Inbox
from stripe_pipeline.inbox.notification import Notification
from stripe_pipeline.settings.model import Settings
from tests.conftest import KEYS

REPOSITORY = Path(__file__).parents[2]
URL = "https://shop.example.com/webhooks/stripe"


@dataclass(frozen=True)
class Ended:
    """The exit status and the output of a command."""

    status: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    """Runs a `webhooks` command in this process, in a project with both keys; keyword arguments are environment
    variables."""
    project = tmp_path / "project"
    project.mkdir()
    for name in ("dagster.yaml", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, project)
    monkeypatch.chdir(project)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("STRIPE_", "DAGSTER_"))}

    def run(*arguments: str, **variables: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["stripe-pipeline", "webhooks", *arguments])
        with mock.patch.dict(os.environ, environment | KEYS | {"STRIPE_API_BASE": server.url} | variables, clear=True):
            try:
                main()
                status = 0
            except SystemExit as end:
                status = int(end.code or 0)
        captured = capfd.readouterr()
        assert "of_the_tests" not in captured.out + captured.err
        assert "Traceback" not in captured.out + captured.err
        assert "whsec_" not in captured.err
        return Ended(status, captured.out, captured.err)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def endpoints(server: Server, key: str = "STRIPE_API_KEY") -> list[dict[str, Any]]:
    """The endpoints of a mode, newest first, as Stripe lists them."""
    headers = {"Authorization": f"Bearer {KEYS[key]}"}
    listed: list[dict[str, Any]] = httpx.get(f"{server.url}/v1/webhook_endpoints", headers=headers).json()["data"]
    return listed


def writes(server: Server) -> list[tuple[str, str]]:
    """Method and path of the requests that change something at Stripe."""
    return [(request.method, request.path) for request in server.requests if request.method != "GET"]


def test_register_creates_an_endpoint_of_each_mode_and_shows_each_secret_once(run: Run, server: Server) -> None:
    created = run("register", "--url", URL)
    assert (created.status, created.err) == (0, "")
    for key in KEYS:
        [endpoint] = endpoints(server, key)
        assert endpoint["url"] == URL
        assert endpoint["api_version"] == stripe.api_version
        assert endpoint["enabled_events"] == list(Settings().event_types)
        assert endpoint["id"] in created.out
    assert len(re.findall(r"^  whsec_\w+$", created.out, re.MULTILINE)) == 2
    assert "into STRIPE_WEBHOOK_SECRET\n" in created.out
    assert "into STRIPE_TEST_WEBHOOK_SECRET\n" in created.out

    server.requests.clear()
    again = run("register", "--url", URL)
    assert (again.status, again.err) == (0, "")
    assert again.out.count("nothing changed") == 2
    assert "whsec_" not in again.out
    assert writes(server) == []


def test_a_second_register_reports_its_changes(run: Run, server: Server, tmp_path: Path) -> None:
    run("register", "--url", URL)
    [endpoint] = endpoints(server)
    server.shop.update("webhook_endpoints", endpoint["id"], livemode=True, status="disabled")
    settings = tmp_path / "settings.yaml"
    settings.write_text("objects: {payment_intents: {enabled: false}}")
    changed = run("register", "--url", URL, STRIPE_PIPELINE_CONFIG=str(settings))
    assert (changed.status, changed.err) == (0, "")
    live, test = changed.out.splitlines()
    assert live.startswith(f"Live: changed {endpoint['id']}: removed payment_intent.amount_capturable_updated, ")
    assert live.endswith("; enabled it again.")
    assert test.endswith("payment_intent.succeeded.")
    [endpoint] = endpoints(server)
    assert endpoint["status"] == "enabled"
    assert not any(event.startswith("payment_intent.") for event in endpoint["enabled_events"])

    restored = run("register", "--url", URL)
    assert "added payment_intent.amount_capturable_updated" in restored.out
    assert endpoints(server)[0]["enabled_events"] == list(Settings().event_types)


def test_an_endpoint_of_another_api_version_is_not_changed_but_replaced(run: Run, server: Server) -> None:
    old = server.shop.create_webhook_endpoint(URL, ["*"], livemode=True, api_version="2020-08-27")["id"]
    other = server.shop.create_webhook_endpoint("https://example.com/other", ["*"], livemode=True)["id"]
    first = run("register", "--url", URL)
    assert first.status == 0
    assert f"stripe-pipeline webhooks unregister {old}" in first.out
    new = next(endpoint["id"] for endpoint in endpoints(server) if endpoint["id"] not in (old, other))

    second = run("register", "--url", URL)
    assert f"{new} is as it should be" in second.out
    assert f"stripe-pipeline webhooks unregister {old}" in second.out

    third = run("register", "--url", URL, "--replace")
    assert f"Removed {old}" in third.out
    assert {endpoint["id"] for endpoint in endpoints(server)} == {new, other}


def test_a_new_secret_is_shown_even_if_the_old_endpoint_cannot_be_removed(run: Run, server: Server) -> None:
    old = server.shop.create_webhook_endpoint(URL, ["*"], livemode=True, api_version="2020-08-27")["id"]
    server.faults.append(Fault(path="/v1/webhook_endpoints/", method="DELETE", status=400, times=None))
    ended = run("register", "--url", URL, "--replace")
    assert ended.status == 0
    assert ended.out.count("  whsec_") == 2
    assert f"stripe-pipeline webhooks unregister {old}" in ended.out


def test_list_and_unregister(run: Run, server: Server) -> None:
    assert run("list").out.startswith("No webhook endpoints exist.")
    run("register", "--url", URL)
    server.shop.create_webhook_endpoint("https://example.com/[other]", ["*"], livemode=False)
    live, (other, test) = endpoints(server)[0], endpoints(server, "STRIPE_TEST_API_KEY")
    events = len(live["enabled_events"])
    listed = run("list")
    assert listed.status == 0
    assert listed.out.splitlines() == [
        f"live {live['id']} enabled {stripe.api_version}, {events} event types, {URL}",
        f"test {other['id']} enabled account version, all event types, https://example.com/[other]",
        f"test {test['id']} enabled {stripe.api_version}, {events} event types, {URL}",
    ]

    assert run("unregister", live["id"]).out == f"Live: removed {live['id']}, which sent to {URL}.\n"
    assert run("unregister", URL).out == f"Test: removed {test['id']}, which sent to {URL}.\n"
    assert [endpoint["id"] for endpoint in endpoints(server, "STRIPE_TEST_API_KEY")] == [other["id"]]
    repeated = run("unregister", URL)
    assert (repeated.status, repeated.out) == (1, "")
    assert f"The webhook endpoint {URL} does not exist" in repeated.err


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://shop.example.com/webhooks/stripe", "is not encrypted"),
        ("shop.example.com/webhooks/stripe", "is not an address"),
        ("ftp://shop.example.com", "is not an address"),
        ("https://", "is not an address"),
        ("https://a b.example.com", "is not an address"),
        ("https://user:word@shop.example.com", "is not an address"),
        ("https://shop.example.com:port/", "is not an address"),
        ("https://[shop", "is not an address"),
    ],
)
def test_an_address_that_stripe_cannot_send_to_is_not_registered(
    run: Run, server: Server, url: str, message: str
) -> None:
    refused = run("register", "--url", url)
    assert (refused.status, refused.out) == (2, "")
    assert message in refused.err
    assert server.requests == []


@pytest.mark.parametrize("url", ["http://localhost:4242/webhooks/stripe", "http://127.0.0.1:4242/webhooks/stripe"])
def test_an_address_on_this_machine_needs_no_https(run: Run, server: Server, url: str) -> None:
    assert run("register", "--url", url).status == 0
    assert endpoints(server)[0]["url"] == url


def test_a_key_without_the_permission_is_named_and_the_other_key_is_used(run: Run, server: Server) -> None:
    server.deny("webhook_endpoints")
    ended = run("register", "--url", URL, STRIPE_API_KEY="rk_live_of_the_tests")
    assert ended.status == 1
    assert "The live key lacks the permission for webhook endpoints" in ended.err
    assert "'rak_webhook_read'" in ended.err
    assert "Add Webhook Endpoints to the key" in ended.err
    assert "Test: created we_" in ended.out
    for arguments in (("list",), ("unregister", URL)):
        ended = run(*arguments, STRIPE_API_KEY="rk_live_of_the_tests")
        assert ended.status == 1
        assert "rak_webhook_read" in ended.err


def test_a_refusal_of_stripe_is_reported_with_a_remedy(run: Run, server: Server) -> None:
    live = {"STRIPE_TEST_API_KEY": ""}
    for status, message in (
        (401, "Stripe does not accept the live key"),
        (400, "Stripe refused the webhook endpoint"),
        (500, "Stripe did not answer as it should"),
        (429, "Stripe did not answer as it should"),
    ):
        server.faults[:] = [Fault(path="/v1/webhook_endpoints", status=status, times=None)]
        ended = run("register", "--url", URL, **live)
        assert (ended.status, ended.out) == (1, "")
        assert ended.err.startswith(f"error: {message}")
    server.faults[:] = [Fault(path="/v1/webhook_endpoints", status=404, times=None)]
    missing = run("register", "--url", URL, **live).err
    assert missing.startswith("error: Stripe has no such webhook endpoint")
    assert missing.endswith("`stripe-pipeline webhooks list` shows those that exist.\n")
    server.faults.clear()
    unreachable = run("register", "--url", URL, STRIPE_API_BASE="http://127.0.0.1:9", **live)
    assert unreachable.status == 1
    assert "Check the network, STRIPE_API_BASE" in unreachable.err


@pytest.fixture
def _without_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the SDK retry at once."""
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0)


COMMANDS = [("list",), ("register", "--url", URL), ("unregister", URL)]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed_with_a_key(run: Run, server: Server, command: tuple[str, ...], status: int) -> None:
    with Server() as elsewhere:
        away = {"Location": f"{elsewhere.url}/v1/webhook_endpoints"}
        server.faults[:] = [Fault(path="/v1/webhook_endpoints", status=status, headers=away, times=None)]
        ended = run(*command, STRIPE_TEST_API_KEY="")
        assert elsewhere.requests == []
        assert (ended.status, ended.out, len(server.requests)) == (1, "", 1)
        assert f"HTTP {status}, a redirect to {elsewhere.url}, which is not followed with a key" in ended.err
        assert "STRIPE_API_BASE" in ended.err


ODD = {
    "HTML": Fault(status=200, body="<html>Sign in to the hotel's network</html>", times=None),
    "a list": Fault(body=b"[]", times=None),
    "an empty object": Fault(body={}, times=None),
    "a list without entries": Fault(body={"object": "list"}, times=None),
    "a list of something else": Fault(body={"object": "list", "data": ["we_1"], "has_more": False}, times=None),
    "entries without a URL": Fault(body={"object": "list", "data": [{"id": "we_1"}], "has_more": False}, times=None),
    "a cut answer": Fault(truncate=0.5, times=None),
    "a broken connection": Fault(cut=0.5, times=None),
    "an error of a proxy": Fault(status=403, body={"error": "forbidden"}, times=None),
    "a page of another server": Fault(status=404, body="<html>Not found</html>", times=None),
    "not UTF-8": Fault(body=b'{"object": "\xff"}', times=None),
}


@pytest.mark.parametrize("command", COMMANDS[:2], ids=lambda command: command[0])
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
@pytest.mark.usefixtures("_without_waits")
def test_an_answer_that_is_not_stripes_is_reported(
    run: Run, server: Server, command: tuple[str, ...], odd: Fault
) -> None:
    run("register", "--url", URL, STRIPE_TEST_API_KEY="")
    server.faults[:] = [replace(odd, path="/v1/webhook_endpoints")]
    ended = run(*command, STRIPE_TEST_API_KEY="")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("error: Stripe did not answer as it should: ")
    assert "Check the network, STRIPE_API_BASE and status.stripe.com" in ended.err


@pytest.mark.usefixtures("_without_waits")
def test_a_retry_creates_no_second_endpoint(run: Run, server: Server) -> None:
    """A request whose answer was lost is sent again with the same idempotency key."""
    server.faults[:] = [Fault(path="/v1/webhook_endpoints", method="GET", status=503)]
    assert run("register", "--url", URL, STRIPE_TEST_API_KEY="").status == 0
    assert len(endpoints(server)) == 1


def test_retry_lets_dead_notifications_wait_again(run: Run, folder: DataFolder) -> None:
    folder.prepare()
    data = {"STRIPE_PIPELINE_DATA": str(folder.root)}
    inbox = Inbox(folder)
    notifications = [Notification(f"evt_{n}", None, True, "charge", f"ch_{n}", None, 1) for n in range(3)]
    inbox.add(notifications)
    for _ in range(5):
        inbox.failed(notifications, "no")
    assert run("retry", "evt_0", **data).out == "1 notification waits again.\n"
    unknown = run("retry", "evt_0", "evt_1", **data)
    assert unknown.status == 1
    assert "These events were not given up: evt_0." in unknown.err
    assert run("retry", **data).out == "2 notifications wait again.\n"
    assert run("retry", **data).out == "Nothing was given up.\n"
    assert inbox.summary().waiting == 3
    inbox.close()


def test_stripe_knows_every_event_type_that_an_endpoint_requests() -> None:
    """Stripe refuses an endpoint with an unknown event type. The SDK lists the types of the pinned API version."""
    annotation = stripe.params.WebhookEndpointCreateParams.__annotations__["enabled_events"]
    [listed] = get_args(annotation)
    assert set(Settings.model_validate({"objects": "all"}).event_types) <= set(get_args(listed))
