"""The made-up shop: deterministic, consistent, varied, and quick to make."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import Any

import pytest

from stripe_emulator import Clock, Server, Shop, templates
from stripe_emulator.types import LISTED
from stripe_pipeline.objects import OBJECT_TYPES
from tests.stripe_emulator.conftest import NOW

DAY = 86400


def _shop(seed: int = 1, now: float = NOW, days: int = 60) -> Shop:
    clock = Clock()
    clock.freeze(now)
    shop = Shop(seed=seed, clock=clock)
    shop.seed_history(days)
    return shop


def _everything(shop: Shop) -> dict[tuple[str, bool], dict[Any, Any]]:
    return {(name, mode): shop.objects(name, mode) for name in (*LISTED, "invoice_lines") for mode in (True, False)}


def test_size_and_time() -> None:
    started = time.thread_time()
    shop = _shop()
    assert time.thread_time() - started < 3
    live, test = (sum(len(shop.objects(name, mode)) for name in LISTED) for mode in (True, False))
    assert 5_000 < live < 7_500
    assert live / 15 < test < live / 6


@pytest.mark.thorough
def test_the_same_seed_and_day_give_the_same_shop(seeded: Shop) -> None:
    again, other = _shop(), _shop(seed=2)
    assert _everything(again) == _everything(seeded)
    assert again.events(True) == seeded.events(True)
    assert _everything(other).keys() == _everything(seeded).keys()
    assert other.objects("charges", True).keys().isdisjoint(seeded.objects("charges", True))


@pytest.mark.parametrize("day", range(7))
def test_ten_days_have_every_type_that_is_declared_by_hand_whenever_they_end(day: int) -> None:
    names = {name for name in LISTED if name in OBJECT_TYPES and not OBJECT_TYPES[name].generated}
    for hour in (2, 14):
        shop = _shop(now=NOW // DAY * DAY + day * DAY + hour * 3600, days=10)
        for mode in (True, False):
            assert [name for name in sorted(names) if not shop.objects(name, mode)] == []


def test_later_on_the_same_day_the_history_only_grows() -> None:
    midnight = NOW // DAY * DAY
    morning, evening = (_shop(now=midnight + hour * 3600, days=20) for hour in (8, 20))
    for name in LISTED:
        for mode in (True, False):
            before = {
                key: obj["created"]
                for key, obj in morning.objects(name, mode).items()
                if name != "balance_transactions"
            }
            after = {key: obj["created"] for key, obj in evening.objects(name, mode).items()}
            missing = before.keys() - after.keys()
            removed = {key for key in missing if evening.is_deleted_customer(key, mode) or name == "invoices"}
            assert missing == removed
            assert all(after[key] == created for key, created in before.items() if key in after)
    amounts = [
        {key: (obj["amount"], obj["fee"]) for key, obj in shop.objects("balance_transactions", True).items()}
        for shop in (morning, evening)
    ]
    assert amounts[0].items() <= amounts[1].items()


def test_trade_grows_and_rests_at_weekends(seeded: Shop) -> None:
    days = Counter(obj["created"] // DAY for obj in seeded.objects("charges", True).values())
    today = NOW // DAY
    assert sum(days[today - back] for back in range(1, 22)) > 1.3 * sum(days[today - back] for back in range(39, 60))
    week = defaultdict(list)
    for back in range(1, 57):
        week[datetime.fromtimestamp((today - back) * DAY, UTC).weekday()].append(days[today - back])
    assert sum(week[5] + week[6]) / 2 < 0.8 * sum(week[1] + week[2]) / 2
    assert min(days) == today - 60
    assert max(obj["created"] for obj in seeded.objects("charges", True).values()) <= NOW


def test_money_adds_up(seeded: Shop) -> None:
    for mode in (True, False):
        for transaction in seeded.objects("balance_transactions", mode).values():
            assert transaction["fee"] == sum(fee["amount"] for fee in transaction["fee_details"])
            assert transaction["net"] == transaction["amount"] - transaction["fee"]
            expected = "pending" if transaction["available_on"] > NOW else "available"
            assert transaction["status"] == expected
        for payout in seeded.objects("payouts", mode).values():
            transaction = seeded.objects("balance_transactions", mode)[payout["balance_transaction"]]
            assert (transaction["source"], transaction["net"]) == (payout["id"], -payout["amount"])
        refunded: Counter[str] = Counter()
        for refund in seeded.objects("refunds", mode).values():
            refunded[refund["charge"]] += refund["amount"] if refund["status"] == "succeeded" else 0
        charges = seeded.objects("charges", mode)
        for charge in charges.values():
            assert charge["amount_refunded"] == refunded[charge["id"]] <= charge["amount_captured"] <= charge["amount"]
            assert charge["refunded"] is (charge["amount_refunded"] == charge["amount_captured"] > 0)
        intents = seeded.objects("payment_intents", mode)
        for intent in intents.values():
            if intent["status"] == "succeeded":
                assert intent["amount_received"] == charges[intent["latest_charge"]]["amount_captured"]
        lines: Counter[str] = Counter()
        for (invoice, _), line in seeded.objects("invoice_lines", mode).items():
            lines[invoice] += line["amount"]
        for invoice in seeded.objects("invoices", mode).values():
            discounts = sum(part["amount"] for part in invoice["total_discount_amounts"])
            assert invoice["subtotal"] == invoice["total"] + discounts == lines[invoice["id"]]
            assert invoice["amount_due"] == invoice["amount_paid"] + invoice["amount_remaining"]
            assert (invoice["status"] == "paid") is (invoice["status_transitions"]["paid_at"] is not None)


def test_references_point_to_objects(seeded: Shop) -> None:
    for mode in (True, False):
        held = {name: seeded.objects(name, mode) for name in LISTED}
        for charge in held["charges"].values():
            assert charge["payment_intent"] in held["payment_intents"]
            assert (
                charge["balance_transaction"] is None or charge["balance_transaction"] in held["balance_transactions"]
            )
            person = charge["customer"]
            assert person is None or person in held["customers"] or seeded.is_deleted_customer(person, mode)
        for child in (*held["refunds"].values(), *held["disputes"].values()):
            assert child["charge"] in held["charges"]


def test_the_history_has_objects_that_pipelines_often_mishandle(seeded: Shop) -> None:
    charges = seeded.objects("charges", True)
    assert {charge["currency"] for charge in charges.values()} == {"usd", "eur", "gbp", "jpy", "kwd", "idr"}
    for charge in charges.values():
        cents, _ = templates.to_usd(charge["amount"], charge["currency"])
        assert 100 < cents < 500_000, "a price that somebody might pay, whatever the currency"
    assert max(charge["amount"] for charge in charges.values()) > 2**31
    refunds = Counter(refund["charge"] for refund in seeded.objects("refunds", True).values())
    assert max(refunds.values()) == 13
    assert {charge["refunded"] for charge in charges.values() if charge["amount_refunded"]} == {True, False}
    people = seeded.objects("customers", True).values()
    odd = next(person["metadata"] for person in people if "a b" in person["metadata"])
    assert {odd["a b"], odd["a_b"], odd["A_B"]} == {"1", "2", "3"}
    assert len(odd["long"]) == 500
    assert any("🎉" in key for key in odd)
    fees = [obj["fee_details"] for obj in seeded.objects("balance_transactions", True).values()]
    assert any(entries.count(entry) > 1 for entries in fees for entry in entries)
    assert {"stripe_fee", "application_fee", "tax"} <= {entry["type"] for entries in fees for entry in entries}
    kinds = {obj["type"] for obj in seeded.objects("balance_transactions", True).values()}
    connected = {"application_fee", "application_fee_refund", "transfer", "transfer_refund"}
    assert kinds == {"charge", "refund", "refund_failure", "adjustment", "payout"} | connected
    lines = Counter(invoice for invoice, _ in seeded.objects("invoice_lines", True))
    assert (min(lines.values()), max(lines.values())) == (1, 40)
    names = Counter(line for _, line in seeded.objects("invoice_lines", True))
    assert max(names.values()) == 2, "an old line id that is on two invoices"
    assert {obj["status"] for obj in seeded.objects("invoices", True).values()} == {
        "draft",
        "open",
        "paid",
        "uncollectible",
        "void",
    }
    assert {"won", "lost"} <= {obj["status"] for obj in seeded.objects("disputes", True).values()}
    assert {"succeeded", "requires_payment_method", "canceled"} <= {
        obj["status"] for obj in seeded.objects("payment_intents", True).values()
    }
    retried = Counter(charge["payment_intent"] for charge in charges.values())
    assert max(retried.values()) > 1
    assert any(person["test_clock"] for person in seeded.objects("customers", False).values())


def test_events_reach_back_thirty_days_only(seeded: Shop) -> None:
    times = [event["created"] for event in seeded.events(True)]
    assert NOW - 30 * DAY <= min(times) < NOW - 29 * DAY
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("days", [0, 1, 3])
def test_short_histories(days: int) -> None:
    shop = _shop(days=days)
    times = [obj["created"] for obj in shop.objects("payment_intents", True).values()]
    assert all(NOW // DAY * DAY - days * DAY <= at <= NOW for at in times)


def test_trade_is_drawn_from_the_seed() -> None:
    done = [[shop.trade() for _ in range(300)] for shop in (Shop(), Shop(), Shop(seed=2))]
    assert done[0] == done[1]
    kinds = [[line.split(maxsplit=1)[1] for line in lines] for lines in done]
    assert kinds[0] != kinds[2]
    assert len(set(kinds[0])) >= 10, "many different things happen"


def test_trade_keeps_amounts_consistent_and_announces_every_change() -> None:
    shop = _shop(days=3)
    before = {name: shop.objects(name, True) for name in LISTED}
    earlier = {event["id"] for event in shop.events(True)}
    for _ in range(300):
        shop.trade(livemode=True)
    test_money_adds_up(shop)
    announced = {
        event["data"]["object"]["id"]: event["data"]["object"]
        for event in reversed(shop.events(True))
        if event["id"] not in earlier
    }
    # Disputes and refunds announce what they change in their charge.
    parts = [obj for obj in announced.values() if obj["object"] in ("dispute", "refund")]
    of_parts = dict.fromkeys((obj["charge"] for obj in parts), ("disputed", "amount_refunded", "refunded"))
    for name in LISTED:
        if name == "balance_transactions":
            continue
        for key, obj in shop.objects(name, True).items():
            if before[name].get(key) != obj:
                shown = dict.fromkeys(of_parts.get(key, ()))
                newest = announced[key] if key in announced or not shown else before[name][key]
                assert newest | shown == obj | shown, "the newest event shows the object as it is"


def test_trade_in_an_empty_shop(shop: Shop) -> None:
    for _ in range(50):
        shop.trade()
    assert shop.objects("payment_intents", True)


def test_trading_from_several_threads_loses_nothing(shop: Shop) -> None:
    threads = [threading.Thread(target=lambda: [shop.trade() for _ in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = Shop(clock=shop.clock)
    for _ in range(400):
        alone.trade()
    assert _everything(shop) == _everything(alone)


def test_trading_in_the_background(shop: Shop) -> None:
    with Server(shop) as server:
        server.trade_every(0.01, livemode=False)
        deadline = time.monotonic() + 10
        while len(shop.events(False)) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        started = time.monotonic()
    assert time.monotonic() - started < 1
    count = len(shop.events(False))
    assert count >= 5
    time.sleep(0.05)
    assert len(shop.events(False)) == count
