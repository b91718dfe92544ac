"""The benchmark's Stripe answers as an emulator that holds the same objects, and the pipeline reads them all."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import httpx
import pytest

from benchmarks.bulk import KEY, LONG_INVOICES, LONG_LINES, PREFIXES, BulkShop, Span, object_id
from stripe_emulator import Server, Shop
from stripe_emulator.rate_limits import RateLimiter
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY, day_of, day_start, days_between, today
from tests.conftest import MakePipeline
from tests.stripe_state import rows

END = day_start(today())
SPANS = {
    name: [Span(END - 3 * DAY, END - 2 * DAY, 150), Span(END - DAY, END - DAY + 1, 130), Span(END - 3600, END, 40)]
    for name in PREFIXES
}


@pytest.fixture
def bulk() -> Iterator[Server]:
    """A server of few bulk objects of every type."""
    with Server(BulkShop(SPANS)) as server:
        yield server


def _client(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {KEY}"})


@pytest.mark.parametrize("name", sorted(PREFIXES))
def test_any_page_equals_the_emulators(bulk: Server, name: str) -> None:
    plain = Shop()
    shop = bulk.shop
    ids = list(shop.collection(name, True))
    for held in reversed(ids):
        obj = shop.collection(name, True).objects[held]
        if name == "invoices":
            obj |= {"lines": obj["lines"] | {"data": shop.lines(held, True), "has_more": False}}
        plain.put(obj, livemode=True)
    random = Random(name)
    with Server(plain) as server, _client(bulk) as mine, _client(server) as theirs:
        for _ in range(40):
            params: dict[str, str | int] = {"limit": random.choice((1, 7, 100))}
            for bound in ("gt", "gte", "lt", "lte"):
                if random.random() < 0.4:
                    params[f"created[{bound}]"] = END - random.choice((0, 1, 3600, DAY, DAY - 1, 2 * DAY, 3 * DAY))
            cursor = random.choice((None, "starting_after", "ending_before"))
            if cursor:
                params[cursor] = random.choice((*ids, "ch_3Bulk0000000000000000"))
            one, other = (client.get(f"/v1/{name}", params=params) for client in (mine, theirs))
            assert (one.status_code, one.json()) == (other.status_code, other.json()), params


@pytest.mark.both_modes
def test_every_object_is_read_once_by_a_backfill_and_by_reading_serially(
    bulk: Server, make_pipeline: MakePipeline, folder: DataFolder
) -> None:
    pipeline = make_pipeline({"STRIPE_API_KEY": KEY}, url=bulk.url, rate={"share": "100%"})
    report = pipeline.backfill(days_between(day_of(END - 3 * DAY), day_of(END - 1)))
    assert not report.failures
    with _client(bulk) as client:
        for name in PREFIXES:
            serially: list[str] = []
            more = True
            while more:
                after = f"&starting_after={serially[-1]}" if serially else ""
                page = client.get(f"/v1/{name}?limit=100{after}").json()
                serially += [obj["id"] for obj in page["data"]]
                more = page["has_more"]
            assert len(serially) == len(set(serially)) == 320
            stored = [row["id"] for row in rows(folder.published, f"raw.{name}")]
            assert sorted(stored) == sorted(serially)
    long = object_id("invoices", LONG_INVOICES - 1)
    assert len([row for row in rows(folder.published, "raw.invoice_lines") if row["invoice"] == long]) == LONG_LINES


def test_a_change_is_announced_and_stored(bulk: Server) -> None:
    charge = object_id("charges", 17)
    bulk.shop.update("charges", charge, livemode=True, description="changed")
    with _client(bulk) as client:
        [event] = client.get("/v1/events").json()["data"]
        assert (event["type"], event["data"]["object"]["id"]) == ("charge.updated", charge)
        assert client.get(f"/v1/charges/{charge}").json()["description"] == "changed"


def test_a_lower_limit_is_enforced() -> None:
    limiter = RateLimiter(now=lambda: 1.0, per_endpoint=3)
    with Server(BulkShop(SPANS), rate_limits=limiter) as server, _client(server) as client:
        answers = [client.get("/v1/charges") for _ in range(5)]
        assert client.get("/v1/refunds").status_code == 200
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[-1].headers["Stripe-Rate-Limited-Reason"] == "endpoint-rate"
