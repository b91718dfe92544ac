"""The official Stripe CLI against the emulator."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from stripe_emulator import Server, Shop
from stripe_emulator.types import LISTED
from stripe_pipeline.objects import DEFAULT_TYPES
from tests.stripe_cli import StripeCli
from tests.stripe_emulator.conftest import LIVE_KEY, TEST_KEY
from tests.stripe_emulator.receiver import Receiver, wait_for

Cli = Callable[..., Any]


@pytest.fixture
def cli(stripe_cli: StripeCli) -> Cli:
    """Runs the CLI against the server and returns the JSON that it prints."""

    def run(*arguments: str, key: str = TEST_KEY) -> Any:
        done = stripe_cli.run(*arguments, key=key)
        # Errors of the API are printed after a sentence, on either stream.
        printed = done.stdout + done.stderr
        assert "{" in printed, printed
        return json.JSONDecoder().raw_decode(printed[printed.index("{") :])[0]

    return run


def _names(page: Any) -> list[str]:
    return [obj["id"] for obj in page["data"]]


def test_the_official_cli_reaches_the_emulator(cli: Cli, server: Server, shop: Shop) -> None:
    assert cli("get", "/v1/account")["id"] == shop.account
    assert server.requests[-1].path == "/v1/account"


def test_lists_and_cursors(cli: Cli, shop: Shop) -> None:
    charges = [shop.create_payment()["latest_charge"] for _ in range(5)][::-1]
    page = cli("get", "/v1/charges", "--limit", "3")
    assert (_names(page), page["has_more"]) == (charges[:3], True)
    page = cli("charges", "list", "--limit", "3", "--starting-after", charges[2])
    assert (_names(page), page["has_more"]) == (charges[3:], False)
    assert _names(cli("get", "/v1/charges", "--ending-before", charges[2])) == charges[:2]


def test_every_type_is_listed_and_retrieved(cli: Cli, shop: Shop) -> None:
    shop.seed_history(10)
    shop.create_customer(name="Jürgen 🎉")
    for name in (name for name in LISTED if name in DEFAULT_TYPES):
        truth = {key: obj for key, obj in shop.objects(name, False).items() if obj.get("test_clock") is None}
        page = cli(name, "list", "--limit", "100")
        assert {obj["id"]: obj for obj in page["data"]} == truth
        object_id = next(iter(truth))
        assert cli(name, "retrieve", object_id) == truth[object_id]


def test_filters_and_expansion(cli: Cli, shop: Shop) -> None:
    person = shop.create_customer(name="Ada")
    charge = shop.create_payment(person["id"], created=int(shop.clock.now()) - 100)["latest_charge"]
    shop.create_payment()
    created = f"created[lt]={int(shop.clock.now()) - 50}"
    (listed,) = cli("charges", "list", "-d", created, "--expand", "data.customer")["data"]
    assert (listed["id"], listed["customer"]) == (charge, person)
    assert _names(cli("charges", "list", "--customer", person["id"])) == [charge]
    assert cli("get", charge)["id"] == charge


def test_lines(cli: Cli, shop: Shop) -> None:
    invoice = shop.create_invoice(n_lines=12)["id"]
    page = cli("get", f"/v1/invoices/{invoice}/lines", "--limit", "100")
    assert _names(page) == [line for _, line in shop.objects("invoice_lines", False)]
    assert cli("invoices", "retrieve", invoice)["lines"]["total_count"] == 12


def test_events(cli: Cli, shop: Shop) -> None:
    shop.create_payment()
    page = cli("events", "list", "-d", "types[]=charge.succeeded", "-d", "types[]=payment_intent.created")
    assert [event["type"] for event in page["data"]] == ["charge.succeeded", "payment_intent.created"]
    assert cli("events", "retrieve", page["data"][0]["id"]) == page["data"][0]


def test_webhook_endpoints(cli: Cli) -> None:
    url = "https://shop.example/hook"
    endpoint = cli("webhook_endpoints", "create", "--url", url, "--enabled-events", "charge.succeeded")
    assert endpoint["secret"].startswith("whsec_")
    changed = cli("webhook_endpoints", "update", endpoint["id"], "--enabled-events", "*")
    assert (changed["url"], changed["enabled_events"]) == (url, ["*"])
    assert _names(cli("webhook_endpoints", "list")) == [endpoint["id"]]
    assert cli("webhook_endpoints", "delete", endpoint["id"], "--confirm")["deleted"] is True


def test_modes_and_errors(cli: Cli, shop: Shop) -> None:
    live = shop.create_customer(livemode=True)["id"]
    assert _names(cli("customers", "list", "--live", key=LIVE_KEY)) == [live]
    assert cli("customers", "list")["data"] == []
    assert cli("charges", "retrieve", "ch_x")["error"]["code"] == "resource_missing"
    assert cli("get", "/v1/charges", "-d", "foo=1")["error"]["code"] == "parameter_unknown"


def test_listen_forwards_events(stripe_cli: StripeCli, server: Server, shop: Shop) -> None:
    secret = stripe_cli.signing_secret(key=TEST_KEY)
    assert secret.startswith("whsec_")
    with Receiver() as receiver, stripe_cli.listening(forward_to=receiver.url, key=TEST_KEY):
        wait_for(lambda: server.webhooks.listeners, 30)
        receiver.statuses.append(500)
        person = shop.create_customer(name="Jürgen 🎉")
        wait_for(lambda: server.webhooks.attempts, 10)
        shop.create_customer(livemode=True)
        shop.update_customer(person["id"], name="Ada")
        wait_for(lambda: len(server.webhooks.attempts) == 2, 10)
    wait_for(lambda: not server.webhooks.listeners)
    created, updated = receiver.received
    assert created.event == shop.events(False)[-1]
    assert created.event["data"]["object"] == person
    assert updated.event["data"]["object"]["name"] == "Ada"
    for received in receiver.received:
        received.verify(secret)
    assert [(attempt.event, attempt.status) for attempt in server.webhooks.attempts] == [
        (created.event["id"], 500),
        (updated.event["id"], 200),
    ]
