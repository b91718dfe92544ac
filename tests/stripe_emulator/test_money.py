"""Payout reconciliation and the balance: every balance transaction is accounted for."""

from __future__ import annotations

from random import Random

import pytest

from stripe_emulator import Clock, Server, Shop
from stripe_emulator.clock import DAY
from tests.stripe_emulator.conftest import LIVE_KEY, NOW, TEST_KEY, Get, error, ids, walk


def books(get: Get, key: str) -> dict[str, int]:
    """The available plus the pending balance of each currency, as `GET /v1/balance` answers."""
    balance = get("/v1/balance", key).json()
    sums: dict[str, int] = {}
    for part in balance["available"] + balance["pending"]:
        sums[part["currency"]] = sums.get(part["currency"], 0) + part["amount"]
    return sums


def transactions(get: Get, key: str) -> dict[str, int]:
    """The sum of all balance transactions of each currency."""
    sums: dict[str, int] = {}
    for transaction in walk(get, "/v1/balance_transactions", key):
        sums[transaction["currency"]] = sums.get(transaction["currency"], 0) + transaction["net"]
    return sums


@pytest.fixture
def traded(shop: Shop) -> Shop:
    """The shop with 20 days of history."""
    shop.seed_history(20)
    return shop


def test_the_books_close(traded: Shop, clock: Clock, get: Get) -> None:
    random = Random(7)
    for step in range(6):
        for _ in range(15):
            traded.trade()
        traded.payout(random.randint(1, 900), currency="eur", livemode=True)
        payout = traded.payout(livemode=True)["source"]
        (traded.fail_payout, traded.complete_payout, traded.cancel_payout)[step % 3](payout)
        for key in (LIVE_KEY, TEST_KEY):
            assert books(get, key) == transactions(get, key)
        clock.freeze(NOW + (step + 1) * DAY)


def test_automatic_payouts_list_what_they_contain(traded: Shop, get: Get) -> None:
    payouts = walk(get, "/v1/payouts", LIVE_KEY)
    assert {payout["currency"] for payout in payouts} > {"usd", "eur"}
    days = {(payout["currency"], payout["created"] // DAY) for payout in payouts}
    assert len(days) == len(payouts), "one payout a day and currency"
    contained: list[str] = []
    for payout in payouts:
        assert payout["automatic"]
        assert payout["reconciliation_status"] == ("completed" if payout["status"] == "paid" else "in_progress")
        inside = walk(get, f"/v1/balance_transactions?payout={payout['id']}", LIVE_KEY)
        assert payout["balance_transaction"] in [transaction["id"] for transaction in inside]
        amounts = [each["net"] for each in inside if each["id"] != payout["balance_transaction"]]
        assert sum(amounts) == payout["amount"] > 0
        assert {each["currency"] for each in inside} == {payout["currency"]}
        assert [each["created"] for each in inside] == sorted((each["created"] for each in inside), reverse=True)
        contained += [each["id"] for each in inside]
    assert len(contained) == len(set(contained))


def test_a_manual_payout_contains_nothing(shop: Shop, get: Get) -> None:
    payout_id = shop.payout(300)["source"]
    shop.complete_payout(payout_id)
    payout = get(f"/v1/payouts/{payout_id}").json()
    assert (payout["automatic"], payout["reconciliation_status"]) == (False, "not_applicable")
    details = error(get(f"/v1/balance_transactions?payout={payout_id}"), 400)
    assert details["param"] == "payout"
    assert details["message"] == (
        "Balance transaction history can only be filtered on automatic transfers, not manual."
    )
    assert shop.balance("usd", False) == -300, "it left the balance at once"
    assert error(get("/v1/balance_transactions?payout=po_none"), 400)["code"] == "resource_missing"


def test_a_failed_payout_comes_back_in_the_next_one(shop: Shop, clock: Clock, get: Get) -> None:
    shop.create_payment(amount=1000)
    clock.freeze(NOW + 4 * DAY)
    first = shop.payout()["source"]
    before = ids(get(f"/v1/balance_transactions?payout={first}"))
    shop.fail_payout(first)
    second = shop.payout()["source"]
    returned = get(f"/v1/payouts/{first}").json()["failure_balance_transaction"]
    last = get(f"/v1/payouts/{second}").json()
    assert set(ids(get(f"/v1/balance_transactions?payout={second}"))) == {returned, last["balance_transaction"]}
    assert ids(get(f"/v1/balance_transactions?payout={first}")) == before


def test_the_balance_has_its_own_permission(traded: Shop, server: Server, get: Get) -> None:
    balance = get("/v1/balance", LIVE_KEY).json()
    assert balance["livemode"]
    assert any(part["amount"] for part in balance["pending"])
    server.permissions.restrict("rk_test_emulator0001", ["Charges and Refunds"])
    assert "rak_balance_read" in error(get("/v1/balance", "rk_test_emulator0001"), 403)["message"]
    assert error(get("/v1/balance?limit=1"), 400)["code"] == "parameter_unknown"


def test_trade_goes_on_at_the_pace_of_the_history(traded: Shop, clock: Clock) -> None:
    def paid(since: int, until: int) -> int:
        intents = traded.objects("payment_intents", True).values()
        return sum(since <= intent["created"] < until for intent in intents)

    clock.freeze(NOW + 7 * DAY)
    traded.go_on()
    week_before, week_after = paid(NOW - 7 * DAY, NOW), paid(NOW, NOW + 7 * DAY)
    assert week_before < week_after < 1.5 * week_before
    traded.go_on()
    assert paid(NOW, NOW + 8 * DAY) == week_after


def test_no_more_is_reversed_than_was_transferred(shop: Shop) -> None:
    plain = shop.create_payment(created=NOW - DAY)["latest_charge"]
    with pytest.raises(ValueError, match="no transfer"):
        shop.refund(plain, reverse_transfer=True)
    with pytest.raises(ValueError, match="no application fee"):
        shop.refund(plain, refund_application_fee=True)
    of_destination = shop.create_payment(destination="acct_1Seller", created=NOW - DAY)["latest_charge"]
    [transfer] = [
        obj for obj in shop.objects("transfers", False).values() if obj["source_transaction"] == of_destination
    ]
    shop.reverse_transfer(transfer["id"], transfer["amount"] - 1)
    with pytest.raises(ValueError, match=r"more than is left .*: 1$"):
        shop.reverse_transfer(transfer["id"], 2)
    assert shop.reverse_transfer(transfer["id"], 1)["reversed"]
