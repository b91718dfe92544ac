"""Stripe's own Python client against the emulator."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

import pytest
import stripe

from stripe_emulator import LOCK_TIMEOUT, Fault, Server, Shop
from stripe_emulator.types import LISTED, TYPES
from stripe_pipeline.objects import OBJECT_TYPES
from tests.stripe_emulator.conftest import LIVE_KEY, NOW, TEST_KEY, listed_objects

pytestmark = pytest.mark.usefixtures("quiet_stripe")


def _client(server: Server, key: str = TEST_KEY) -> stripe.StripeClient:
    return stripe.StripeClient(key, base_addresses={"api": server.url})


@pytest.fixture(scope="module")
def seeded_server(seeded: Shop) -> Iterator[Server]:
    with Server(seeded) as server:
        yield server


@pytest.mark.parametrize("name", LISTED)
def test_paging_through_every_type(seeded: Shop, seeded_server: Server, name: str) -> None:
    for key, livemode in ((LIVE_KEY, True), (TEST_KEY, False)):
        service = attrgetter(TYPES[name].path.replace("/", ".") or name)(_client(seeded_server, key).v1)
        lists = [list(service.list({"limit": 100, **params}).auto_paging_iter()) for params in OBJECT_TYPES[name].lists]
        listed = {obj.id: obj for objects in lists for obj in objects}
        truth = listed_objects(seeded, name, livemode)
        assert listed.keys() == truth.keys()
        assert all(obj._data["object"] == truth[object_id]["object"] for object_id, obj in listed.items())
        newest = next(iter(listed.values()))
        assert service.retrieve(newest.id) == newest
        if not OBJECT_TYPES[name].windowed:
            continue
        bounds = {"gte": NOW - 20 * 86400, "lt": NOW - 86400}
        for params, objects in zip(OBJECT_TYPES[name].lists, lists, strict=True):
            within = [obj.id for obj in service.list({"limit": 100, "created": bounds, **params}).auto_paging_iter()]
            assert within == [obj.id for obj in objects if bounds["gte"] <= obj.created < bounds["lt"]]


def test_filters_expansion_and_lines(shop: Shop, server: Server) -> None:
    person = shop.create_customer(name="Ada")["id"]
    payment = shop.create_payment(person)
    shop.create_payment()
    invoice = shop.create_invoice(person, n_lines=25)["id"]
    client = _client(server)
    (charge,) = client.v1.charges.list({"customer": person, "expand": ["data.customer"]}).data
    assert charge.id == payment["latest_charge"]
    assert isinstance(charge.customer, stripe.Customer)
    assert charge.customer.name == "Ada"
    intent = client.v1.payment_intents.retrieve(payment["id"], {"expand": ["latest_charge"]})
    assert isinstance(intent.latest_charge, stripe.Charge)
    lines = list(client.v1.invoices.line_items.list(invoice, {"limit": 7}).auto_paging_iter())
    assert len({line.id for line in lines}) == 25
    backwards = client.v1.invoices.line_items.list(invoice, {"limit": 7, "ending_before": lines[-1].id})
    assert len(list(backwards.auto_paging_iter())) == 24
    shop.delete_customer(person)
    deleted = client.v1.customers.retrieve(person)
    assert deleted.deleted is True


def test_events(shop: Shop, server: Server) -> None:
    shop.create_customer(name="Ada")
    shop.create_payment()
    client = _client(server)
    listed = client.v1.events.list({"types": ["customer.created", "charge.succeeded"], "created": {"gte": NOW}}).data
    assert [event.type for event in listed] == ["charge.succeeded", "customer.created"]
    event = client.v1.events.retrieve(listed[1].id)
    assert event.data.object["name"] == "Ada"
    assert (event.api_version, event.livemode) == ("2026-10-28.endive", False)


def test_webhook_endpoints(shop: Shop, server: Server) -> None:
    endpoints = _client(server).v1.webhook_endpoints
    endpoint = endpoints.create(
        {
            "url": "https://shop.example/hook",
            "enabled_events": ["customer.created", "charge.succeeded"],
            "api_version": "2024-06-20",
            "metadata": {"a b": "1", "c": "2"},
        }
    )
    assert endpoint.secret is not None
    assert endpoint.secret.startswith("whsec_")
    assert (endpoint.status, endpoint.api_version, endpoint.livemode) == ("enabled", "2024-06-20", False)
    (listed,) = endpoints.list().data
    assert listed.id == endpoint.id
    assert "secret" not in listed
    assert "secret" not in endpoints.retrieve(endpoint.id)
    shop.create_customer()
    assert shop.events(False)[0]["pending_webhooks"] == 1
    changed = endpoints.update(endpoint.id, {"disabled": True, "enabled_events": ["*"], "metadata": {"c": ""}})
    assert (changed.status, changed.enabled_events, changed.api_version) == ("disabled", ["*"], "2024-06-20")
    assert changed.metadata.to_dict() == {"a b": "1"}
    shop.create_customer()
    assert shop.events(False)[0]["pending_webhooks"] == 0
    with pytest.raises(stripe.InvalidRequestError, match="unknown parameter: api_version"):
        endpoints.update(endpoint.id, {"api_version": "2025-01-01"})  # type: ignore[arg-type]
    with pytest.raises(stripe.InvalidRequestError, match="Missing required param: url"):
        endpoints.create({"enabled_events": ["*"]})  # type: ignore[typeddict-item]
    with pytest.raises(stripe.InvalidRequestError, match="Invalid URL"):
        endpoints.create({"enabled_events": ["*"], "url": "shop.example"})
    assert _client(server, LIVE_KEY).v1.webhook_endpoints.list().data == []
    assert endpoints.delete(endpoint.id).deleted is True
    assert endpoints.list().data == []
    with pytest.raises(stripe.InvalidRequestError, match="No such webhook endpoint"):
        endpoints.delete(endpoint.id)


def test_errors_have_the_classes_of_the_client(shop: Shop, server: Server) -> None:
    client = _client(server)
    with pytest.raises(stripe.AuthenticationError, match=r"Invalid API Key provided: \*\*_odd"):
        _client(server, "sk_odd").v1.charges.list()
    server.deny("charges")
    with pytest.raises(stripe.PermissionError, match="rak_charge_read"):
        _client(server, "rk_test_emulator0001").v1.charges.list()
    with pytest.raises(stripe.InvalidRequestError, match="No such charge: 'ch_x'") as caught:
        client.v1.charges.retrieve("ch_x")
    assert (caught.value.code, caught.value.param, caught.value.http_status) == ("resource_missing", "id", 404)
    with pytest.raises(stripe.InvalidRequestError, match="unknown parameter: foo"):
        client.v1.charges.list({"foo": 1})  # type: ignore[arg-type]
    server.faults += [Fault(status=429), Fault(status=429, body=LOCK_TIMEOUT), Fault(status=500), Fault(status=409)]
    with pytest.raises(stripe.RateLimitError, match="rate limit"):
        client.v1.charges.list()
    with pytest.raises(stripe.RateLimitError, match="cannot be accessed right now"):
        client.v1.charges.list()
    with pytest.raises(stripe.APIError, match="unknown error"):
        client.v1.charges.list()
    with pytest.raises(stripe.APIError, match="in-progress request") as caught_api:
        client.v1.charges.list()
    assert caught_api.value.http_status == 409
    server.faults += [Fault(drop=True), Fault(status=502)]
    with pytest.raises(stripe.APIConnectionError):
        client.v1.charges.list()
    with pytest.raises(stripe.APIError, match="Invalid response body"):
        client.v1.charges.list()


def test_answers_have_the_version_that_the_client_pins(server: Server) -> None:
    answer = _client(server).raw_request("get", "/v1/account")
    assert answer.headers["stripe-version"] == stripe.api_version == "2026-10-28.endive"
    assert server.requests[-1].stripe_version == stripe.api_version
