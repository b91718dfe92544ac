"""Pages, filters, cursors, expansion and modes, over HTTP."""

from __future__ import annotations

import base64
from collections import Counter

import httpx
import pytest

from stripe_emulator import Clock, Server, Shop
from stripe_emulator.types import LISTED
from tests.stripe_emulator.conftest import LIVE_KEY, NOW, TEST_KEY, Get, ids, listed_objects, lists_of, walk


def _customers(shop: Shop, *seconds: int) -> list[str]:
    return [shop.create_customer(created=NOW + second, announce=False)["id"] for second in seconds]


def _reader(client: httpx.Client) -> Get:
    return lambda path, _key: client.get(path)


def test_the_newest_object_comes_first_and_ties_keep_their_order(shop: Shop, get: Get) -> None:
    old, first, second, new = _customers(shop, -9, -5, -5, -1)
    late = shop.create_customer(created=NOW - 7)["id"]
    assert ids(get("/v1/customers")) == [new, second, first, late, old]


def test_a_page_holds_ten_objects_by_default_and_says_whether_more_follow(shop: Shop, get: Get) -> None:
    customers = _customers(shop, *range(101))
    page = get("/v1/customers").json()
    assert (len(page["data"]), page["has_more"]) == (10, True)
    assert (page["object"], page["url"]) == ("list", "/v1/customers")
    assert ids(get("/v1/customers?limit=100")) == customers[:0:-1]
    assert get("/v1/customers?limit=100").json()["has_more"] is True
    assert get(f"/v1/customers?limit=100&starting_after={customers[1]}").json()["has_more"] is False


def test_paging_both_ways_with_many_objects_in_one_second(shop: Shop, get: Get) -> None:
    customers = _customers(shop, *([0] * 250))[::-1]
    assert [obj["id"] for obj in walk(get, "/v1/customers")] == customers
    page = get(f"/v1/customers?limit=3&ending_before={customers[5]}")
    assert (ids(page), page.json()["has_more"]) == (customers[2:5], True)
    page = get(f"/v1/customers?limit=3&ending_before={customers[3]}")
    assert (ids(page), page.json()["has_more"]) == (customers[:3], False)


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ("created[gte]={1}", [2, 1]),
        ("created[gt]={1}", [2]),
        ("created[lte]={1}", [1, 0]),
        ("created[lt]={1}", [0]),
        ("created={1}", [1]),
        ("created[gt]={0}&created[lt]={2}", [1]),
        ("created[gte]={0}&created[gt]={0}", [2, 1]),
        ("created[gte]={2}&created[lt]={2}", []),
    ],
)
def test_bounds_of_created(shop: Shop, get: Get, bounds: str, expected: list[int]) -> None:
    seconds = (-20, -10, 0)
    customers = _customers(shop, *seconds)
    query = bounds.format(*(NOW + second for second in seconds))
    assert ids(get(f"/v1/customers?{query}")) == [customers[place] for place in expected]


def test_a_cursor_outside_its_window_gives_an_empty_page(shop: Shop, get: Get) -> None:
    old, edge, _ = _customers(shop, -20, -10, 0)
    assert ids(get(f"/v1/customers?created[lt]={NOW - 10}")) == [old]
    assert ids(get(f"/v1/customers?created[lt]={NOW - 10}&starting_after={edge}")) == []


def test_objects_created_while_paging_appear_before_the_first_page(shop: Shop, get: Get) -> None:
    customers = _customers(shop, -3, -2, -1)
    first = ids(get("/v1/customers?limit=2"))
    _customers(shop, 0)
    assert first + ids(get(f"/v1/customers?limit=2&starting_after={first[-1]}")) == customers[::-1]


def test_modes_are_separate(shop: Shop, get: Get) -> None:
    test, live = shop.create_customer()["id"], shop.create_customer(livemode=True)["id"]
    assert ids(get("/v1/customers")) == [test]
    assert ids(get("/v1/customers", LIVE_KEY)) == [live]
    assert ids(get("/v1/customers", "rk_live_emulator0001")) == [live]
    assert get(f"/v1/customers/{live}").status_code == 404
    assert "live mode" in get(f"/v1/customers/{live}").json()["error"]["message"]


def test_a_key_may_be_sent_as_a_user_name(shop: Shop, get: Get) -> None:
    customer = shop.create_customer()["id"]
    basic = base64.b64encode(b"sk_test_emulator0001:").decode()
    assert ids(get("/v1/customers", Authorization=f"Basic {basic}")) == [customer]


def test_every_documented_filter(shop: Shop, get: Get) -> None:
    one, two = (shop.create_customer(email=f"{name}@example.com") for name in "ab")
    payment = shop.create_payment(one["id"], transfer_group="group", customer_account="acct_2")
    other = shop.create_payment(two["id"], currency="eur")
    charge, refund = payment["latest_charge"], shop.refund(payment["latest_charge"], 100)
    dispute = shop.dispute(other["latest_charge"])
    subscription = shop.create_subscription(one["id"])["id"]
    invoice = shop.create_invoice(one["id"], subscription=subscription, customer_account="acct_2", due_date=NOW + 10)
    draft = shop.create_invoice(two["id"], draft=True, collection_method="send_invoice")
    transaction = shop.objects("charges", False)[charge]["balance_transaction"]
    shop.clock.advance(5 * 86400)
    payout = shop.payout(currency="eur")
    expected = {
        "customers?email=a@example.com": [one],
        f"charges?customer={one['id']}": [{"id": charge}],
        f"charges?payment_intent={payment['id']}": [{"id": charge}],
        "charges?transfer_group=group": [{"id": charge}],
        f"payment_intents?customer={two['id']}": [other],
        "payment_intents?customer_account=acct_2": [payment],
        f"refunds?charge={charge}": [refund],
        f"refunds?payment_intent={payment['id']}": [refund],
        f"disputes?charge={dispute['charge']}": [dispute],
        f"disputes?payment_intent={other['id']}": [dispute],
        f"balance_transactions?source={charge}": [{"id": transaction}],
        "balance_transactions?type=refund": [{"id": refund["balance_transaction"]}],
        f"invoices?customer={one['id']}": [invoice],
        "invoices?customer_account=acct_2": [invoice],
        f"invoices?subscription={subscription}": [invoice],
        "invoices?status=draft": [draft],
        "invoices?status=paid": [],
        "invoices?collection_method=send_invoice": [draft],
        f"invoices?due_date[lte]={NOW + 10}": [invoice],
        f"invoices?due_date[gt]={NOW + 10}": [],
        f"invoices?due_date[lt]={NOW + 10}": [],
        f"invoices?due_date={NOW + 10}": [invoice],
        "payouts?status=pending": [{"id": payout["source"]}],
        "payouts?status=paid": [],
    }
    for query, objects in expected.items():
        assert ids(get(f"/v1/{query}")) == [obj["id"] for obj in objects], query
    assert {obj["currency"] for obj in walk(get, "/v1/balance_transactions?currency=eur")} == {"eur"}
    paid_out = ids(get(f"/v1/balance_transactions?payout={payout['source']}"))
    assert payout["id"] in paid_out
    assert len(paid_out) == 3, "the payout, the payment and the dispute in euros"


def test_filters_follow_changes(shop: Shop, get: Get) -> None:
    moved, other = (shop.create_customer(email="a@example.com")["id"] for _ in range(2))
    shop.update_customer(moved, email="b@example.com")
    assert ids(get("/v1/customers?email=a@example.com")) == [other]
    assert ids(get("/v1/customers?email=b@example.com")) == [moved]
    shop.delete_customer(other)
    shop.delete_customer(moved)
    for email in ("a", "b"):
        assert ids(get(f"/v1/customers?email={email}@example.com")) == []
    shop.put({"id": "ch_1", "object": "charge", "created": NOW, "customer": {"id": moved}})
    shop.put({"id": "ch_1", "object": "charge", "created": NOW - 5, "customer": "cus_y"})
    assert ids(get(f"/v1/charges?customer={moved}")) == []
    assert ids(get("/v1/charges?customer=cus_y")) == ["ch_1"]
    assert ids(get(f"/v1/charges?created[gte]={NOW}")) == [], "an object that is put again with another time moves"


def test_filters_and_pages_agree(seeded: Shop) -> None:
    with Server(seeded) as server, httpx.Client(base_url=server.url, auth=(LIVE_KEY, "")) as client:
        charges = walk(_reader(client), "/v1/charges")
        busiest, _ = Counter(charge["customer"] for charge in charges if charge["customer"]).most_common(1)[0]
        since, until = NOW - 40 * 86400, NOW - 5 * 86400
        query = f"/v1/charges?limit=1&customer={busiest}&created[gte]={since}&created[lt]={until}"
        listed: list[str] = []
        more, cursor = True, ""
        while more:
            page = client.get(f"{query}{cursor}")
            listed += ids(page)
            more, cursor = page.json()["has_more"], f"&starting_after={listed[-1]}"
    assert len(listed) > 1
    assert listed == [
        charge["id"] for charge in charges if charge["customer"] == busiest and since <= charge["created"] < until
    ]


@pytest.mark.parametrize(("key", "livemode"), [(LIVE_KEY, True), (TEST_KEY, False)])
def test_lists_hold_exactly_the_objects_of_the_shop(seeded: Shop, key: str, livemode: bool) -> None:
    with Server(seeded) as server, httpx.Client(base_url=server.url, auth=(key, "")) as client:
        for name in LISTED:
            lists = [walk(_reader(client), path) for path in lists_of(name)]
            assert {obj["id"]: obj for objects in lists for obj in objects} == listed_objects(seeded, name, livemode)
            for objects in lists:
                times = [obj["created"] for obj in objects]
                assert times == sorted(times, reverse=True)


def test_deleted_customers_leave_the_list_and_keep_a_stub(shop: Shop, get: Get) -> None:
    deleted, remaining = shop.create_customer()["id"], shop.create_customer()["id"]
    stub = {"id": deleted, "object": "customer", "deleted": True}
    assert shop.delete_customer(deleted) == stub
    assert ids(get("/v1/customers")) == [remaining]
    assert get(f"/v1/customers/{deleted}").json() == stub
    assert list(shop.objects("customers", False)) == [remaining]


def test_deleted_drafts_cannot_be_read(shop: Shop, get: Get) -> None:
    draft = shop.create_invoice(draft=True)["id"]
    assert shop.delete_invoice(draft) == {"id": draft, "object": "invoice", "deleted": True}
    for path in (draft, f"{draft}/lines"):
        assert get(f"/v1/invoices/{path}").status_code == 404
    assert ids(get("/v1/invoices")) == []
    with pytest.raises(ValueError, match="only drafts"):
        shop.delete_invoice(shop.create_invoice()["id"])


def test_customers_on_a_test_clock_are_listed_only_with_that_clock(shop: Shop, get: Get) -> None:
    plain, clocked = shop.create_customer()["id"], shop.create_customer(test_clock="clock_1")["id"]
    assert ids(get("/v1/customers")) == [plain]
    assert ids(get("/v1/customers?test_clock=clock_1")) == [clocked]
    assert get(f"/v1/customers/{clocked}").json()["test_clock"] == "clock_1"


def test_an_invoice_embeds_ten_lines_and_lists_all(shop: Shop, get: Get) -> None:
    invoice = shop.create_invoice(n_lines=25)["id"]
    embedded = get(f"/v1/invoices/{invoice}").json()["lines"]
    assert (len(embedded["data"]), embedded["has_more"], embedded["total_count"]) == (10, True, 25)
    assert embedded["url"] == f"/v1/invoices/{invoice}/lines"
    lines = walk(get, f"/v1/invoices/{invoice}/lines")
    assert lines[:10] == embedded["data"]
    assert [(invoice, line["id"]) for line in lines] == list(shop.objects("invoice_lines", False))
    names = [line["id"] for line in lines]
    assert ids(get(f"/v1/invoices/{invoice}/lines?limit=7&starting_after={names[6]}")) == names[7:14]
    page = get(f"/v1/invoices/{invoice}/lines?limit=7&ending_before={names[8]}")
    assert (ids(page), page.json()["has_more"]) == (names[1:8], True)
    shop.remove_invoice_line(invoice, names[3])
    assert get(f"/v1/invoices/{invoice}").json()["lines"]["total_count"] == 24
    short = shop.create_invoice(n_lines=10)["lines"]
    assert (len(short["data"]), short["has_more"], short["total_count"]) == (10, False, 10)


def test_references_are_expanded(shop: Shop, get: Get) -> None:
    person = shop.create_customer()
    payment = shop.create_payment(person["id"])
    charge = payment["latest_charge"]
    shop.refund(charge, 100)
    path = "expand[]=data.customer&expand[]=data.payment_intent.latest_charge&expand[]=data.balance_transaction.source"
    expanded = get(f"/v1/charges?{path}").json()["data"][0]
    assert expanded["customer"] == person
    assert expanded["payment_intent"]["latest_charge"]["id"] == charge
    assert expanded["balance_transaction"]["source"]["id"] == charge
    assert expanded["payment_method"].startswith("pm_"), (
        "the id of an object that the shop does not hold is not expanded"
    )
    assert "refunds" not in expanded
    expanded = get(
        f"/v1/charges/{charge}?expand[0]=customer&expand[1]=payment_method&expand[2]=refunds.data.charge"
    ).json()
    assert expanded["customer"] == person
    assert expanded["payment_method"].startswith("pm_")
    assert expanded["refunds"]["data"][0]["charge"]["id"] == charge
    shop.delete_customer(person["id"])
    stub = {"id": person["id"], "object": "customer", "deleted": True}
    assert get(f"/v1/charges/{charge}?expand[]=customer").json()["customer"] == stub
    assert get(f"/v1/charges/{charge}").json()["customer"] == person["id"]
    invoice = shop.create_invoice()
    lines = get(f"/v1/invoices/{invoice['id']}/lines?expand[]=data.discounts").json()
    assert lines["data"] == invoice["lines"]["data"]


def test_recorded_objects_are_returned_unchanged(shop: Shop, get: Get) -> None:
    charge = {"id": "ch_old", "object": "charge", "created": 5, "livemode": True, "customer": {"id": "cus_x"}, "odd": 1}
    lines = [{"id": f"il_{place}", "object": "line_item", "invoice": "in_old"} for place in range(12)]
    shell = {"object": "list", "has_more": True, "total_count": 12, "url": "/v1/invoices/in_old/lines"}
    invoice = {"id": "in_old", "object": "invoice", "created": 6, "livemode": True, "lines": shell | {"data": lines}}
    transaction = {"id": "txn_old", "object": "balance_transaction", "created": 5, "available_on": 5, "fee_details": []}
    transaction |= {"status": "pending"}
    for obj in (charge, invoice, transaction | {"livemode": None}):
        assert shop.put(obj, livemode=True) == obj
    assert shop.put(transaction, livemode=True) == transaction
    assert get("/v1/charges/ch_old", LIVE_KEY).json() == charge
    assert ids(get("/v1/charges?customer=cus_x", LIVE_KEY)) == ["ch_old"]
    assert get("/v1/balance_transactions", LIVE_KEY).json()["data"] == [transaction]
    assert get("/v1/invoices/in_old", LIVE_KEY).json() == invoice | {"lines": shell | {"data": lines[:10]}}
    extra = {"id": "il_x", "object": "line_item", "invoice": "in_old", "livemode": True}
    shop.put(extra)
    assert walk(get, "/v1/invoices/in_old/lines", LIVE_KEY) == [*lines, extra]
    shop.put({"id": "cus_x", "object": "customer", "deleted": True})
    assert get("/v1/customers/cus_x").json() == {"id": "cus_x", "object": "customer", "deleted": True}
    bare = {"id": "in_bare", "object": "invoice", "created": 7}
    shop.put(bare)
    assert get("/v1/invoices/in_bare").json() == bare
    shop.put({"id": "cus_bare", "object": "customer", "created": 7})
    assert shop.create_payment("cus_bare")["customer"] == "cus_bare"
    assert shop.pay_invoice(shop.create_invoice("cus_bare")["id"])["status"] == "paid"
    shop.put(charge)
    charge["odd"] = 2
    assert get("/v1/charges/ch_old", LIVE_KEY).json()["odd"] == 1, "the shop has its own copy of an object"
    shop.put(invoice | {"lines": {"object": "list", "has_more": False, "data": lines[3:5]}})
    assert walk(get, "/v1/invoices/in_old/lines", LIVE_KEY) == lines[3:5]
    shop.put(invoice | {"lines": {"object": "list", "has_more": True, "data": lines[4:6]}})
    assert walk(get, "/v1/invoices/in_old/lines", LIVE_KEY) == lines[3:6]


def test_balance_transactions_become_available_by_the_clock(shop: Shop, clock: Clock, get: Get) -> None:
    payment = shop.create_payment()
    path = f"/v1/balance_transactions/{shop.objects('charges', False)[payment['latest_charge']]['balance_transaction']}"
    before = get(path).json()
    assert before["status"] == "pending"
    events = len(shop.events(False))
    clock.freeze(before["available_on"] - 1)
    assert get(path).json()["status"] == "pending"
    clock.advance(1)
    assert get(path).json() == before | {"status": "available"}
    assert get("/v1/balance_transactions").json()["data"] == [before | {"status": "available"}]
    assert len(shop.events(False)) == events


def test_a_payout_takes_the_available_balance(shop: Shop) -> None:
    paid = shop.create_payment(amount=5000)
    charge = shop.objects("charges", False)[paid["latest_charge"]]
    sale = shop.objects("balance_transactions", False)[charge["balance_transaction"]]
    assert shop.balance("usd", False) == 0
    assert shop.payout()["amount"] == 0
    shop.refund(charge["id"], 1000)
    assert shop.balance("eur", False, sale["available_on"]) == 0
    payout = shop.payout(created=sale["available_on"])
    assert (payout["amount"], payout["net"], payout["type"]) == (1000 - sale["net"], 1000 - sale["net"], "payout")
    assert shop.balance("usd", False, sale["available_on"]) == 0
    shop.fail_payout(payout["source"], created=sale["available_on"])
    assert shop.balance("usd", False, sale["available_on"]) == -payout["amount"]
    assert shop.payout(300)["amount"] == -300


def test_a_refund_without_an_amount_returns_the_rest(shop: Shop) -> None:
    full, partial = (shop.create_payment(amount=5000, outcome="requires_capture") for _ in range(2))
    shop.capture(full["id"])
    shop.capture(partial["id"], 3000)
    shop.refund(full["latest_charge"], 1000)
    assert shop.objects("charges", False)[full["latest_charge"]]["refunded"] is False
    assert shop.refund(full["latest_charge"])["amount"] == 4000
    assert shop.refund(partial["latest_charge"])["amount"] == 3000
    assert all(charge["refunded"] for charge in shop.objects("charges", False).values())


def test_fees_and_rates_are_in_minor_units(shop: Shop) -> None:
    expected = {"usd": (320, 10_000), "jpy": (330, 10_000), "kwd": (124, 3250)}
    for currency, (fee, settled) in expected.items():
        into = "usd" if currency == "kwd" else None
        shop.create_payment(amount=10_000, currency=currency, settlement_currency=into)
        transactions = shop.collection("balance_transactions", False)
        transaction = transactions.objects[next(iter(transactions))]
        assert (transaction["amount"], transaction["fee"]) == (settled, fee), currency
        assert transaction["exchange_rate"] == (3.25 if into else None)


def test_vanished_objects_leave_no_trace(shop: Shop, get: Get) -> None:
    person, invoice = shop.create_customer(announce=False), shop.create_invoice("cus_x", announce=False)
    shop.vanish("customers", person["id"])
    shop.vanish("invoices", invoice["id"])
    assert get(f"/v1/customers/{person['id']}").status_code == 404
    assert shop.objects("invoice_lines", False) == {}
    assert shop.events(False) == []
