"""Webhooks: which endpoint gets which event, signatures, retries, and how tests hold and repeat deliveries."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
import stripe

from stripe_emulator import Attempt, Clock, Server, Shop
from stripe_emulator.webhooks import DISABLED_AFTER, RETRIES
from tests.stripe_emulator.conftest import LIVE_KEY, NOW, TEST_KEY, Get, ids
from tests.stripe_emulator.receiver import Receiver, wait_for

DAY = 86400
SECRET = "whsec_of_the_tests"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that answers 200."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def endpoint(shop: Shop, receiver: Receiver) -> str:
    """The receiver as an endpoint for all test events."""
    return str(shop.create_webhook_endpoint(receiver.url, secret=SECRET)["id"])


def test_the_request_that_is_sent(shop: Shop, server: Server, receiver: Receiver, endpoint: str, get: Get) -> None:
    started = int(time.time())
    person = shop.create_customer(name="Jürgen 🎉")
    server.webhooks.settled()
    (received,) = receiver.received
    assert received.path == "/webhooks/stripe"
    assert received.headers["user-agent"] == "Stripe/1.0 (+https://stripe.com/docs/webhooks)"
    assert received.headers["content-type"] == "application/json; charset=utf-8"
    assert started <= received.signed_at <= time.time()
    signed = f"{received.signed_at}.".encode() + received.body
    signature = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert received.headers["stripe-signature"] == f"t={received.signed_at},v1={signature}"
    received.verify(SECRET)
    with pytest.raises(stripe.SignatureVerificationError):
        received.verify("whsec_another")
    assert received.event["data"] == {"object": person}
    assert received.event["pending_webhooks"] == 1
    (event,) = get("/v1/events").json()["data"]
    assert event == received.event | {"pending_webhooks": 0}
    (attempt,) = server.webhooks.attempts
    assert attempt == Attempt(event["id"], endpoint, 200, attempt.at, attempt.seconds)
    assert started <= attempt.at <= time.time()


def test_which_endpoint_gets_which_event(shop: Shop, server: Server, receiver: Receiver) -> None:
    def paths() -> Counter[str]:
        server.webhooks.settled()
        counts = Counter(received.path for received in receiver.received)
        receiver.received.clear()
        return counts

    def listen(name: str, *kinds: str, livemode: bool = False) -> str:
        url = receiver.url.replace("/webhooks/stripe", f"/{name}")
        return str(shop.create_webhook_endpoint(url, kinds, livemode=livemode)["id"])

    shop.create_customer()
    everything, charges = listen("everything", "*"), listen("charges", "charge.succeeded", "charge.refunded")
    listen("live", "*", livemode=True)
    charge = shop.create_payment()["latest_charge"]
    assert paths() == {"/everything": 3, "/charges": 1}
    shop.refund(charge)
    assert paths() == {"/everything": 2, "/charges": 1}
    for _ in range(5):
        shop.trade(livemode=True)
    assert paths() == {"/live": len(shop.events(True))}
    shop.emit_event("charge.succeeded", {"id": "ch_x", "object": "charge"}, livemode=False)
    assert paths() == {"/everything": 1, "/charges": 1}
    shop.update("webhook_endpoints", everything, status="disabled")
    shop.vanish("webhook_endpoints", charges)
    shop.create_payment()
    assert paths() == {}
    shop.update("webhook_endpoints", everything, status="enabled")
    shop.create_customer()
    assert paths() == {"/everything": 1}


def test_webhooks_do_not_wait_for_the_event_to_be_listed(
    shop: Shop, server: Server, receiver: Receiver, endpoint: str, get: Get
) -> None:
    shop.event_delay = 40
    shop.create_customer()
    server.webhooks.settled()
    assert receiver.kinds == ["customer.created"]
    assert ids(get("/v1/events")) == []


def test_history_is_not_delivered(server: Server, shop: Shop, receiver: Receiver) -> None:
    shop.create_webhook_endpoint(receiver.url, livemode=True)
    shop.seed_history(2)
    shop.create_customer(livemode=True, created=NOW - 31 * DAY)
    server.webhooks.settled()
    assert receiver.received == []
    history = shop.events(True)
    assert len(history) > 10
    assert {event["pending_webhooks"] for event in history} == {0}
    shop.create_customer(livemode=True)
    server.webhooks.settled()
    assert receiver.kinds == ["customer.created"]


def test_an_endpoint_made_over_the_api_gets_its_own_secret(server: Server, shop: Shop, receiver: Receiver) -> None:
    form = {"url": receiver.url, "enabled_events[]": "customer.created"}
    endpoint = httpx.post(f"{server.url}/v1/webhook_endpoints", auth=(LIVE_KEY, ""), data=form).json()
    shop.create_customer(livemode=True)
    server.webhooks.settled()
    receiver.received[0].verify(endpoint["secret"])


def test_a_secret_that_is_being_rolled_signs_beside_the_new_one(shop: Shop, server: Server, receiver: Receiver) -> None:
    shop.create_webhook_endpoint(receiver.url, secret="whsec_new, whsec_old")
    shop.create_customer()
    server.webhooks.settled()
    (received,) = receiver.received
    assert received.headers["stripe-signature"].count("v1=") == 2
    received.verify("whsec_old")
    received.verify("whsec_new")


def test_a_failed_delivery_is_retried_with_a_fresh_signature(shop: Shop, receiver: Receiver) -> None:
    receiver.statuses.extend([500])
    with Server(shop, webhook_backoff=0.004) as server:
        shop.create_webhook_endpoint(receiver.url, secret=SECRET)
        shop.create_customer()
        wait_for(lambda: server.webhooks.attempts)
        assert shop.events(False)[0]["pending_webhooks"] == 1
        server.webhooks.settled()
    first, second = receiver.received
    assert first.body == second.body
    # The first wait is five minutes: 1.2 seconds here.
    assert second.signed_at > first.signed_at
    second.verify(SECRET)
    assert [attempt.status for attempt in server.webhooks.attempts] == [500, 200]
    assert shop.events(False)[0]["pending_webhooks"] == 0


@pytest.mark.parametrize(("livemode", "tries"), [(False, 4), (True, 11)])
def test_how_often_a_delivery_is_tried_before_stripe_gives_up(
    shop: Shop, receiver: Receiver, livemode: bool, tries: int
) -> None:
    receiver.statuses.extend([500, 301, 404, 410] * 5)
    with Server(shop, webhook_backoff=4e-6) as server:
        shop.create_webhook_endpoint(receiver.url, livemode=livemode)
        shop.create_customer(livemode=livemode)
        server.webhooks.settled()
        attempts = server.webhooks.attempts
    assert [attempt.status for attempt in attempts] == ([500, 301, 404, 410] * 3)[:tries]
    assert len(receiver.received) == tries, "a redirect is not followed"
    waits = RETRIES[livemode]
    assert list(waits) == sorted(waits)
    assert 2 * 3600 < sum(waits) <= (3 * DAY if livemode else 6 * 3600)
    assert attempts[-1].at - attempts[0].at > sum(waits) * 4e-6 * 0.9
    assert shop.events(livemode)[0]["pending_webhooks"] == 1


def test_a_timeout_and_an_unreachable_server_are_failures(shop: Shop, receiver: Receiver) -> None:
    receiver.statuses.extend([0])
    with Server(shop, webhook_backoff=0.0005, webhook_timeout=0.1) as server:
        shop.create_webhook_endpoint(receiver.url)
        shop.create_customer()
        server.webhooks.settled()
        assert [attempt.status for attempt in server.webhooks.attempts] == [0, 200]
        assert server.webhooks.attempts[0].seconds >= 0.1
        server.webhooks.attempts.clear()
        for url in ("http://127.0.0.1:1/", "http://[", "http://a..b/"):
            shop.create_webhook_endpoint(url, enabled_events=["customer.deleted"])
        shop.delete_customer(shop.create_customer()["id"])
        wait_for(lambda: len(server.webhooks.attempts) >= 5)
        assert Counter(attempt.status for attempt in server.webhooks.attempts[:5]) == {0: 3, 200: 2}


def test_an_endpoint_that_only_fails_is_disabled(shop: Shop, receiver: Receiver) -> None:
    receiver.statuses.extend([500] * 100)
    with Server(shop, webhook_backoff=1e-6) as server:
        endpoint = shop.create_webhook_endpoint(receiver.url)["id"]

        def status() -> str:
            return str(shop.collection("webhook_endpoints", False).objects[endpoint]["status"])

        shop.create_customer()
        server.webhooks.settled()
        assert status() == "enabled"
        time.sleep(DISABLED_AFTER * 1e-6)
        shop.create_customer()
        server.webhooks.settled()
        assert status() == "disabled"
        tries = len(receiver.received)
        shop.create_customer()
        server.webhooks.settled()
        assert len(receiver.received) == tries
        receiver.statuses.clear()
        receiver.statuses.append(500)
        shop.update("webhook_endpoints", endpoint, status="enabled")
        shop.create_customer()
        server.webhooks.settled()
        assert len(receiver.received) == tries + 2
        assert status() == "enabled"


@pytest.mark.parametrize("removed", [True, False])
def test_no_delivery_is_retried_once_its_endpoint_is_removed_or_disabled(
    shop: Shop, receiver: Receiver, removed: bool
) -> None:
    receiver.statuses.extend([500])
    with Server(shop, webhook_backoff=0.001) as server:
        endpoint = shop.create_webhook_endpoint(receiver.url)["id"]
        shop.create_customer()
        wait_for(lambda: server.webhooks.attempts)
        if removed:
            shop.vanish("webhook_endpoints", endpoint)
        else:
            shop.update("webhook_endpoints", endpoint, status="disabled")
        server.webhooks.settled()
    assert len(receiver.received) == 1


def test_stopping_waits_neither_for_retries_nor_for_answers(shop: Shop, receiver: Receiver) -> None:
    receiver.statuses.extend([500, 0])
    with Server(shop) as server:
        shop.create_webhook_endpoint(receiver.url)
        shop.create_customer()
        wait_for(lambda: server.webhooks.attempts)
        with pytest.raises(TimeoutError, match=r"1 still to be delivered after 0\.01 seconds"):
            server.webhooks.settled(0.01)
        shop.create_customer()
        wait_for(lambda: len(receiver.received) == 2)
        started = time.monotonic()
    assert time.monotonic() - started < 1
    shop.create_customer()
    time.sleep(0.05)
    assert len(receiver.received) == 2


def test_a_restarted_server_sends_only_new_events(shop: Shop, receiver: Receiver, endpoint: str) -> None:
    receiver.statuses.append(500)
    server = Server(shop, webhook_backoff=0.0005)
    with server:
        person = shop.create_customer()["id"]
        wait_for(lambda: server.webhooks.attempts)
        server.webhooks.hold()
        shop.update_customer(person, name="Ada")
    with server:
        shop.delete_customer(person)
        server.webhooks.settled()
    assert receiver.kinds == ["customer.created", "customer.deleted"]


def test_events_can_be_held_reordered_and_repeated(shop: Shop, receiver: Receiver, endpoint: str) -> None:
    with Server(shop, webhook_concurrency=1) as server:
        server.webhooks.hold()
        never_called = shop.create_webhook_endpoint(receiver.url)["id"]
        person = shop.create_customer()["id"]
        shop.update_customer(person, name="Ada")
        shop.delete_customer(person)
        created, updated, deleted = server.webhooks.held
        shop.update("webhook_endpoints", never_called, status="disabled")
        assert receiver.received == []
        server.webhooks.release(deleted, created, deleted)
        server.webhooks.settled()
        assert receiver.events == [deleted, created, deleted]
        assert server.webhooks.held == [updated]
        assert {event["id"]: event["pending_webhooks"] for event in shop.events(False)} == {
            created: 1,
            updated: 2,
            deleted: 1,
        }
        with pytest.raises(KeyError, match="is not held back"):
            server.webhooks.release(updated, created)
        shop.create_customer()
        server.webhooks.release()
        server.webhooks.settled()
        assert receiver.kinds[3:] == ["customer.updated", "customer.created"]
        assert server.webhooks.held == []
        shop.create_customer()
        server.webhooks.settled()
        assert receiver.kinds[5:] == ["customer.created"]


def test_an_event_can_be_delivered_again_15_days_later(
    shop: Shop, server: Server, receiver: Receiver, endpoint: str, clock: Clock
) -> None:
    person = shop.create_customer(name="first")["id"]
    (event,) = shop.events(False)
    shop.update_customer(person, name="second")
    server.webhooks.settled()
    receiver.received.clear()
    clock.advance(15 * DAY)
    server.webhooks.deliver(event["id"])
    server.webhooks.settled()
    (received,) = receiver.received
    received.verify(SECRET)
    assert received.event == event | {"pending_webhooks": 0}
    assert received.event["data"]["object"]["name"] == "first"
    with pytest.raises(KeyError, match="evt_x"):
        server.webhooks.deliver("evt_x")


def test_a_recorded_event_is_delivered_unchanged(shop: Shop, server: Server, receiver: Receiver, endpoint: str) -> None:
    event = {"id": "evt_old", "object": "event", "type": "charge.updated", "created": NOW - 5, "livemode": False}
    event |= {"api_version": "2015-10-16", "data": {"object": {"id": "ch_x", "object": "charge", "card": {}}}}
    shop.put(event)
    server.webhooks.settled()
    assert receiver.received == []
    server.webhooks.deliver("evt_old")
    server.webhooks.settled()
    assert receiver.received[0].event == event


def test_a_burst_comes_over_twenty_connections(shop: Shop, server: Server, receiver: Receiver, endpoint: str) -> None:
    server.webhooks.hold()
    person = shop.create_customer()["id"]
    for number in range(299):
        shop.update_customer(person, name=f"Ada {number}")
    server.webhooks.release()
    server.webhooks.settled(30)
    assert sorted(receiver.events) == sorted(event["id"] for event in shop.events(False))
    assert len(receiver.events) == 300
    assert 2 <= len({received.peer for received in receiver.received}) <= 20
    assert {event["pending_webhooks"] for event in shop.events(False)} == {0}


def test_a_session_of_the_stripe_cli_is_refused_without_its_id(server: Server) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    upgrade |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Websocket-Id": "cliws_x"}
    refused = httpx.get(f"{server.url}/subscribe", headers=upgrade)
    assert (refused.status_code, refused.json()) == (401, {"error": {"message": "Unknown WebSocket ID."}})
    assert httpx.post(f"{server.url}/v1/stripecli/sessions").status_code == 401
    session = httpx.post(f"{server.url}/v1/stripecli/sessions", auth=(TEST_KEY, "")).json()
    assert session["websocket_url"] == server.url.replace("http", "ws") + "/subscribe"
