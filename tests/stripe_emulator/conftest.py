"""Shops and servers for the emulator's own tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import stripe

from stripe_emulator import Clock, Server, Shop
from stripe_pipeline.objects import OBJECT_TYPES

NOW = 1_793_000_000
TEST_KEY = "sk_test_emulator0001"
LIVE_KEY = "sk_live_emulator0001"

Get = Callable[..., httpx.Response]


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    clock = Clock()
    clock.freeze(NOW)
    return clock


@pytest.fixture
def shop(clock: Clock) -> Shop:
    """An empty shop."""
    return Shop(clock=clock)


@pytest.fixture
def server(shop: Shop) -> Iterator[Server]:
    """A server of the empty shop."""
    with Server(shop) as server:
        yield server


@pytest.fixture
def get(server: Server) -> Iterator[Get]:
    """Sends a GET to the server; the path includes the parameters."""
    with httpx.Client(base_url=server.url, timeout=10) as client:

        def send(path: str, key: str = TEST_KEY, **headers: str) -> httpx.Response:
            return client.get(path, headers={"Authorization": f"Bearer {key}"} | headers)

        yield send


@pytest.fixture
def quiet_stripe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep Stripe's client from writing telemetry files."""
    monkeypatch.setattr(stripe, "enable_telemetry", False)


@pytest.fixture(scope="session")
def seeded() -> Shop:
    """A shop with 60 days of history, which tests only read."""
    clock = Clock()
    clock.freeze(NOW)
    shop = Shop(clock=clock)
    shop.seed_history(60)
    return shop


def ids(response: httpx.Response) -> list[str]:
    """The ids on a page."""
    assert response.status_code == 200, response.text
    return [obj["id"] for obj in response.json()["data"]]


def error(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer, which must have this status."""
    assert response.status_code == status, response.text
    details: dict[str, Any] = response.json()["error"]
    return details


def listed_objects(shop: Shop, name: str, livemode: bool) -> dict[str, dict[str, Any]]:
    """The objects of a type that Stripe lists, by id, and not those that can only be retrieved."""
    stored = shop.collection(name, livemode).objects
    return {
        object_id: obj
        for object_id, obj in shop.objects(name, livemode).items()
        if obj.get("test_clock") is None
        and not stored[object_id].get("inline")
        and (name != "payment_methods" or obj["customer"] is not None)
    }


def lists_of(name: str) -> list[str]:
    """The paths, with parameters, of the lists that together hold all objects of a type."""
    object_type = OBJECT_TYPES[name]
    return [f"{object_type.endpoint}?{urlencode(params)}" for params in object_type.lists]


def walk(get: Get, path: str, key: str = TEST_KEY) -> list[dict[str, Any]]:
    """All objects of a list, page by page."""
    objects: list[dict[str, Any]] = []
    more, cursor = True, ""
    while more:
        page = get(f"{path}{'&' if '?' in path else '?'}limit=100{cursor}", key).json()
        objects += page["data"]
        more = page["has_more"]
        cursor = f"&starting_after={objects[-1]['id']}" if objects else ""
    return objects
