"""The payments of invoices, the view `payments` and the check of references, which follow from declared references."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dagster as dg
import duckdb
import pytest
import yaml

from stripe_emulator import Fault, Server, Shop
from stripe_pipeline.assets.checks import NIGHTLY, REFERENCES, UNIQUE
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY, day_of
from stripe_pipeline.definitions import build_defs
from stripe_pipeline.objects import ALL_TYPES, DEFAULT_TYPES, OBJECT_TYPES
from stripe_pipeline.resources.pipeline import RESOURCE
from stripe_pipeline.sync.pipeline import Pipeline
from stripe_pipeline.views import references
from stripe_pipeline.views.columns import Source
from stripe_pipeline.views.payments import payments_view
from stripe_pipeline.views.references import picture
from tests.conftest import MakePipeline, OpenedPipeline
from tests.stripe_state import ask, assert_equal_to_stripe, days_ago
from tests.variants import varied

Json = dict[str, Any]

TABLES = Path(__file__).parents[2] / "docs/tables.md"


@pytest.fixture
def pipeline(make_pipeline: MakePipeline) -> Pipeline:
    """A pipeline of the test mode."""
    return make_pipeline({"STRIPE_API_KEY": "sk_test_of_the_tests"})


def pay_in_parts(shop: Shop, invoice: str, parts: int, created: int) -> list[str]:
    """Pay an invoice with that many payments, and return their charges."""
    charges = []
    for _ in range(parts):
        intent = shop.create_payment(amount=100, created=created)
        shop.attach_payment(invoice, intent["id"], created=created)
        charges.append(intent["latest_charge"])
    return charges


def test_an_invoice_has_its_payments_listed_or_retrieved(
    pipeline: Pipeline, shop: Shop, server: Server, folder: DataFolder
) -> None:
    listed, retrieved = (shop.create_invoice(n_lines=2, created=days_ago(shop, 20))["id"] for _ in range(2))
    shop.pay_invoice(listed, created=days_ago(shop, 19))
    pipeline.sync()
    shop.pay_invoice(retrieved)
    young = shop.create_invoice()["id"]
    shop.pay_invoice(young)
    shop.pay_invoice(shop.create_invoice()["id"])
    pipeline.sync()
    assert_equal_to_stripe(shop, folder.published)
    stored = ask(
        folder.published,
        "SELECT id, payments->>'$.data[0].payment.payment_intent' FROM test.invoices ORDER BY created, id",
    )
    paid = {invoice: shop.payments(invoice, False)[0]["payment"]["payment_intent"] for invoice, _ in stored}
    assert dict(stored) == paid
    assert {listed, retrieved, young} < paid.keys()
    assert not [request for request in server.requests if request.path == "/v1/invoice_payments"]


def test_more_payments_than_stripe_includes_are_read_from_their_list(
    pipeline: Pipeline, shop: Shop, server: Server, folder: DataFolder
) -> None:
    many, ten = (
        shop.create_invoice(lines=[{"amount": 50_000}], created=days_ago(shop, 20), announce=False)["id"]
        for _ in range(2)
    )
    pay_in_parts(shop, many, 11, days_ago(shop, 19))
    pay_in_parts(shop, ten, 10, days_ago(shop, 19))
    report = pipeline.sync()
    assert_equal_to_stripe(shop, folder.published)
    pages = [request.params for request in server.requests if request.path == "/v1/invoice_payments"]
    assert [params["invoice"] for params in pages] == [many]
    invoices = [request for request in server.requests if request.path.startswith("/v1/invoices")]
    assert report.requests["invoices"] == len(pages) + len(invoices)
    pay_in_parts(shop, many, 100, days_ago(shop, 0))
    pipeline.sync()
    assert_equal_to_stripe(shop, folder.published)


def test_invoices_without_included_payments_are_stored(
    pipeline: Pipeline, shop: Shop, server: Server, folder: DataFolder
) -> None:
    invoice = shop.create_invoice(created=days_ago(shop, 20))
    body = {"object": "list", "data": [invoice], "has_more": False, "url": "/v1/invoices"}
    server.faults.append(Fault(path="/v1/invoices$", status=200, body=body, times=None))
    report = pipeline.sync()
    assert not report.failures
    assert ask(folder.published, "SELECT id, payments FROM test.invoices") == [(invoice["id"], None)]


# The view


def payments(
    folder: DataFolder, columns: str = "*", without: Mapping[str, Collection[str]] | None = None
) -> list[Json]:
    """These columns of the view's rows, in the order of the charges.

    `without` has columns that are not stored, by table; if it has none of a table, the whole table is not stored.
    """
    without = without or {}
    stored = {
        table: {*object_type.column_names, *(flat.name for flat in object_type.flat)} - set(without.get(table, ()))
        for table, object_type in DEFAULT_TYPES.items()
        if table not in without or without[table]
    }
    with duckdb.connect(str(folder.published), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        view = f"({payments_view(Source('test', stored))})" if without else "test.payments"
        cursor = connection.execute(f"SELECT {columns} FROM {view} ORDER BY created, charge")
        names = [column[0] for column in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def test_a_payment_shows_the_refunds_dispute_and_balance_of_its_charge(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    customer = shop.create_customer(name="Grace", email="grace@example.com", created=days_ago(shop, 21))["id"]
    invoice = shop.create_invoice(customer, lines=[{"amount": 9_000}], created=days_ago(shop, 20))["id"]
    paid = shop.pay_invoice(invoice, created=days_ago(shop, 19))
    [link] = shop.payments(invoice, False)
    intent = shop.objects("payment_intents", False)[link["payment"]["payment_intent"]]
    charge = intent["latest_charge"]
    refund = shop.refund(charge, 1_000, created=days_ago(shop, 3))
    dispute = shop.dispute(charge, amount=2_000, reason="duplicate", created=days_ago(shop, 2))
    pipeline.sync()
    [row] = payments(folder)
    money, stored = shop.objects("balance_transactions", False), shop.objects("charges", False)[charge]
    own, card = money[stored["balance_transaction"]], stored["payment_method_details"]["card"]
    dates = {name: datetime.fromtimestamp(days_ago(shop, days), UTC).date() for name, days in (("19", 19), ("3", 3))}
    assert row.pop("created").date() == row.pop("default_day") == dates["19"]
    assert row.pop("refunded_at").date() == dates["3"]
    assert row.pop("available_on") == datetime.fromtimestamp(own["available_on"], UTC)
    taken = money[refund["balance_transaction"]]["net"] + dispute["balance_transactions"][0]["net"]
    assert row == {
        "charge": charge,
        "currency": "usd",
        "amount": 9_000,
        "amount_decimal": Decimal("90.00"),
        "amount_captured": 9_000,
        "amount_captured_decimal": Decimal("90.00"),
        "amount_refunded": 1_000,
        "amount_refunded_decimal": Decimal("10.00"),
        "status": "succeeded",
        "paid": True,
        "captured": True,
        "refunded": False,
        "disputed": True,
        "customer": customer,
        "customer_name": "Grace",
        "customer_email": "grace@example.com",
        "payment_intent": intent["id"],
        "invoice": invoice,
        "invoice_number": paid["number"],
        "card_brand": card["brand"],
        "card_country": card["country"],
        "card_funding": card["funding"],
        "decline_code": None,
        "failure_code": None,
        "risk_level": "normal",
        "refunds": 1,
        "dispute": dispute["id"],
        "dispute_status": "needs_response",
        "dispute_reason": "duplicate",
        "dispute_amount": 2_000,
        "dispute_amount_decimal": Decimal("20.00"),
        "balance_transaction": own["id"],
        "balance_currency": "usd",
        "gross": 9_000,
        "gross_decimal": Decimal("90.00"),
        "fee": own["fee"],
        "fee_decimal": Decimal(own["fee"]) / 100,
        "net": own["net"],
        "net_decimal": Decimal(own["net"]) / 100,
        "payout_ready": True,
        "net_total": own["net"] + taken,
        "net_total_decimal": Decimal(own["net"] + taken) / 100,
    }


def test_a_charge_is_one_row_however_many_objects_refer_to_it(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    charge = shop.create_payment(amount=9_000, created=days_ago(shop, 20))
    charge_id = charge["latest_charge"]
    refunds = [shop.refund(charge_id, 100, created=days_ago(shop, 10 - n)) for n in range(4)]
    shop.fail_refund(refunds[3]["id"], created=days_ago(shop, 5))
    shop.update("refunds", refunds[2]["id"], status="pending", created=days_ago(shop, 5))
    first, last = (shop.dispute(charge_id, amount=200 + n, created=days_ago(shop, 9 - n)) for n in range(2))
    shop.close_dispute(first["id"], won=True, created=days_ago(shop, 1))
    unsorted = [shop.create_invoice(lines=[{"amount": 400}], created=days_ago(shop, 16)) for _ in range(3)]
    invoices = [invoice["id"] for invoice in sorted(unsorted, key=lambda invoice: invoice["id"], reverse=True)]
    for n, invoice in enumerate(invoices):  # the later, the smaller its id
        shop.put(shop.objects("invoices", False)[invoice] | {"created": days_ago(shop, 15 - n)})
    for invoice in invoices[1:]:
        shop.attach_payment(invoice, charge["id"], created=days_ago(shop, 12))
    open_link = shop.payments(invoices[1], False)[0] | {"id": "inpay_open", "invoice": invoices[0], "status": "open"}
    shop.put(open_link | {"created": days_ago(shop, 14)})
    parts = shop.create_invoice(lines=[{"amount": 300}], created=days_ago(shop, 15))["id"]
    charges = pay_in_parts(shop, parts, 3, days_ago(shop, 8))
    pipeline.sync()
    assert_equal_to_stripe(shop, folder.published)
    row, *others = payments(folder)
    assert row["charge"] == charge_id
    assert (row["refunds"], row["refunded_at"].date()) == (3, datetime.fromtimestamp(days_ago(shop, 8), UTC).date())
    assert (row["dispute"], row["dispute_amount"]) == (last["id"], 201)
    assert row["invoice"] == invoices[1]  # the first that it paid
    assert row["net_total"] == sum(
        entry["net"] for entry in shop.objects("balance_transactions", False).values()
    ) - sum(other["net"] for other in others)
    assert sorted(other["charge"] for other in others) == sorted(charges)
    assert {other["invoice"] for other in others} == {parts}
    assert {(other["refunds"], other["refunded_at"], other["dispute"], other["customer"]) for other in others} == {
        (0, None, None, None)
    }


def test_refunds_disputes_and_other_movements_are_shown_in_every_combination(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    expected = {}
    for n in range(8):
        refunded, disputed, moved = n & 1 > 0, n & 2 > 0, n & 4 > 0
        charge = shop.create_payment(amount=9_000, created=days_ago(shop, 20 - n))["latest_charge"]
        refund = shop.refund(charge, 1_000, created=days_ago(shop, 10))["id"] if refunded else ""
        dispute = shop.dispute(charge, amount=2_000, created=days_ago(shop, 9))["id"] if disputed else ""
        money = shop.objects("balance_transactions", False)
        own = money[shop.objects("charges", False)[charge]["balance_transaction"]]
        if moved:
            shop.put(own | {"id": f"txn_moved{n}", "amount": -70, "fee": 0, "net": -70})
        if n == 7:  # The refund has no balance transaction.
            shop.vanish("balance_transactions", shop.objects("refunds", False)[refund]["balance_transaction"])
        net = own["net"] + net_of(shop, refund, dispute) - (70 if moved else 0)
        expected[charge] = (int(refunded), dispute or None, net)
    pipeline.sync()
    rows = payments(folder, "charge, refunds, dispute, net_total")
    assert {row["charge"]: (row["refunds"], row["dispute"], row["net_total"]) for row in rows} == expected


def test_payments_fail_in_several_attempts_and_have_no_invoice_or_customer(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    deleted = shop.create_customer(created=days_ago(shop, 30))["id"]
    invoice = shop.create_invoice(deleted, created=days_ago(shop, 20))["id"]
    shop.pay_invoice(invoice, outcome="failed", created=days_ago(shop, 20))
    shop.pay_invoice(invoice, created=days_ago(shop, 10))
    shop.delete_customer(deleted)
    shop.create_payment(created=days_ago(shop, 5), outcome="requires_capture")
    # Without an intent, like charges that are created directly.
    bare = shop.create_payment(amount=400, created=days_ago(shop, 4))
    shop.update("charges", bare["latest_charge"], payment_intent=None)
    billed = shop.create_invoice(lines=[{"amount": 400}], created=days_ago(shop, 4))["id"]
    shop.attach_payment(billed, bare["id"], created=days_ago(shop, 4))
    [link] = shop.payments(billed, False)
    shop.put(link | {"payment": {"type": "charge", "charge": bare["latest_charge"]}})
    pipeline.sync()
    failed, succeeded, held, charged = payments(
        folder, "status, invoice, payment_intent, customer, customer_name, gross, payout_ready, net_total"
    )
    assert (charged["invoice"], charged["payment_intent"]) == (billed, None)
    assert (failed.pop("payment_intent"), held["payment_intent"]) != (None, None)
    assert failed == {
        "status": "failed",
        "invoice": invoice,
        "customer": deleted,
        "customer_name": None,
        "gross": None,
        "payout_ready": None,
        "net_total": None,
    }
    assert (succeeded["invoice"], succeeded["payout_ready"]) == (invoice, True)
    assert (held["invoice"], held["customer"], held["net_total"]) == (None, None, None)


def test_major_units_are_exact_in_every_currency(pipeline: Pipeline, shop: Shop, folder: DataFolder) -> None:
    for currency, amount in (("jpy", 2_750_000_000), ("kwd", 12_340), ("ugx", 500), ("usd", 1_999)):
        settled = "usd" if currency == "kwd" else None
        paid = shop.create_payment(
            amount=amount, currency=currency, settlement_currency=settled, created=days_ago(shop, 9)
        )
        if currency == "jpy":
            dispute = shop.dispute(paid["latest_charge"], amount=1_999, created=days_ago(shop, 8))["id"]
            shop.update("disputes", dispute, currency="usd")
    pipeline.sync()
    by_currency = {row["currency"]: row for row in payments(folder)}
    assert {currency: str(row["amount_decimal"]) for currency, row in by_currency.items()} == {
        "jpy": "2750000000.000",
        "kwd": "12.340",
        "ugx": "5.000",
        "usd": "19.990",
    }
    assert str(by_currency["jpy"]["dispute_amount_decimal"]) == "19.990"
    dinar = by_currency["kwd"]
    assert dinar["balance_currency"] == "usd"
    assert dinar["gross_decimal"] == Decimal(dinar["gross"]) / 100
    assert dinar["net_total_decimal"] == Decimal(dinar["net"]) / 100


def test_money_of_several_currencies_has_no_total(pipeline: Pipeline, shop: Shop, folder: DataFolder) -> None:
    for currency in ("eur", "zar"):  # one sorts before the usd of the other transactions, one after
        charge = shop.create_payment(created=days_ago(shop, 9))["latest_charge"]
        refund, _ = (shop.refund(charge, 500, created=days_ago(shop, 8)) for _ in range(2))
        shop.update("balance_transactions", refund["balance_transaction"], currency=currency)
    pipeline.sync()
    for row in payments(folder):
        assert (row["net_total"], row["net_total_decimal"]) == (None, None)
        assert row["net"] is not None


def test_only_columns_that_need_a_missing_column_are_null(pipeline: Pipeline, shop: Shop, folder: DataFolder) -> None:
    customer = shop.create_customer(name="Grace", email="grace@example.com", created=days_ago(shop, 20))["id"]
    charge = shop.create_payment(customer, created=days_ago(shop, 9))["latest_charge"]
    shop.refund(charge, 500, created=days_ago(shop, 8))
    shop.dispute(charge, created=days_ago(shop, 7))
    pipeline.sync()
    [complete] = payments(folder)

    def differing(**without: Collection[str]) -> set[str]:
        [row] = payments(folder, without=without)
        assert row.keys() == complete.keys()
        changed = {name for name, value in row.items() if value != complete[name]}
        assert {row[name] for name in changed} <= {None}
        return changed

    assert differing() == set()
    assert differing(customers=["email"], charges=["paid"]) == {"customer_email", "paid"}
    assert differing(charges=["customer"]) == {"customer", "customer_name", "customer_email"}
    of_balance = {"balance_currency", "gross", "gross_decimal", "fee", "fee_decimal", "net", "net_decimal"}
    of_balance |= {"balance_transaction", "available_on", "payout_ready"}
    assert differing(charges=["balance_transaction"]) == of_balance  # totals need only transactions' sources
    assert differing(refunds=["status"]) == {"refunds", "refunded_at"}
    totals = {"net_total", "net_total_decimal"}
    assert differing(refunds=[]) == {"refunds", "refunded_at"} | totals
    assert differing(refunds=["charge"]) == {"refunds", "refunded_at"} | totals
    assert differing(disputes=["reason"]) == {"dispute_reason"}
    disputes = {name for name in complete if name.startswith("dispute_")} | {"dispute"}
    assert differing(disputes=[]) == disputes | totals
    money = {f"{name}{unit}" for name in ("gross", "fee", "net") for unit in ("", "_decimal")}
    balance = {"balance_currency", "available_on", "payout_ready"} | money | totals
    assert differing(disputes=["charge"]) == disputes | totals
    assert differing(balance_transactions=["source"]) == totals
    assert differing(balance_transactions=[]) == balance
    assert differing(invoices=[], payment_intents=[], customers=[]) == {"customer_name", "customer_email"}


@pytest.mark.both_modes
@pytest.mark.parametrize(
    ("objects", "known"),
    [
        ({"balance_transactions": {"retention": "10 days"}}, False),
        ({"balance_transactions": {"history": "10 days"}}, False),
        ({"refunds": {"retention": "10 days"}, "charges": {"retention": "30 days"}}, False),
        ({"disputes": {"history": (datetime.now(UTC) - timedelta(days=10)).date()}}, False),
        ({"disputes": {"history": "1 month"}}, True),
        ({"refunds": {"retention": "30 days"}, "disputes": {"history": "30 days"}}, True),
    ],
)
def test_a_total_that_needs_rows_from_before_the_history_is_null_and_not_partial(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, objects: dict[str, Any], known: bool
) -> None:
    charges = []
    for age in (5, 20):
        charges.append(shop.create_payment(amount=9_000, created=days_ago(shop, age))["latest_charge"])
        shop.refund(charges[-1], 1_000, created=days_ago(shop, age - 4))
        shop.dispute(charges[-1], amount=2_000, created=days_ago(shop, age - 4))
        shop.refund(charges[-1], 500, created=days_ago(shop, 1))
    make_pipeline({"STRIPE_API_KEY": "sk_test_of_the_tests"}, objects=objects).sync()
    money = shop.objects("balance_transactions", False).values()
    *old, young = payments(folder, "charge, net_total, net_total_decimal, refunds")
    assert (young["charge"], young["refunds"]) == (charges[0], 2)
    total = young["net_total"]
    assert total * 2 == sum(entry["net"] for entry in money)
    for row in old:
        assert (row["net_total"], row["net_total_decimal"]) == (
            (total, Decimal(total) / 100) if known else (None, None)
        )
        assert row["refunds"] == (None if "refunds" in objects and not known else 2)


def test_a_total_waits_for_the_balance_transaction_that_its_charge_names(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    charge = shop.create_payment(amount=9_000, created=days_ago(shop, 5))["latest_charge"]
    shop.refund(charge, 1_000, created=days_ago(shop, 3))
    shop.update("charges", charge, balance_transaction="txn_not_here_yet")
    pipeline.sync()
    [row] = payments(folder, "net, net_total")
    assert row == {"net": None, "net_total": None}


def net_of(shop: Shop, *sources: str) -> int:
    """The net of all balance transactions of these objects."""
    return sum(
        entry["net"] for entry in shop.objects("balance_transactions", False).values() if entry["source"] in sources
    )


def test_the_total_of_a_destination_charge_includes_its_transfer_its_fee_and_reversals(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    def charge(days: float, fee: int | None = 1_500) -> Json:
        payment = shop.create_payment(
            amount=10_000, destination="acct_1Seller", application_fee=fee, created=days_ago(shop, days)
        )
        return shop.objects("charges", False)[payment["latest_charge"]]

    without_fee, reversed_, plain = charge(12, None), charge(11, None), charge(9)
    refund = shop.refund(reversed_["id"], 4_000, reverse_transfer=True, created=days_ago(shop, 8))
    direct = shop.create_payment(amount=10_000, application_fee=1_500, created=days_ago(shop, 7))["latest_charge"]
    pipeline.sync()
    assert_equal_to_stripe(shop, folder.published)
    rows = {row["charge"]: row for row in payments(folder, "charge, created, net, net_total")}
    own = rows[plain["id"]]["net"]
    assert rows[plain["id"]]["net_total"] == own - 10_000 + 1_500 == 1_180
    assert rows[plain["id"]]["net_total"] == net_of(shop, plain["id"], plain["transfer"], plain["application_fee"])
    assert rows[without_fee["id"]]["net_total"] == own - 10_000
    assert rows[reversed_["id"]]["net_total"] == own - 10_000 - 4_000 + 4_000
    assert rows[reversed_["id"]]["net_total"] == net_of(
        shop, reversed_["id"], reversed_["transfer"], refund["id"], refund["transfer_reversal"]
    )
    # The fee of a direct charge was taken from this account, and is part of the charge's own transaction.
    assert rows[direct]["net_total"] == rows[direct]["net"] == own - 1_500


def test_the_total_is_null_where_a_refunded_fee_or_a_reversal_may_belong_to_the_charge(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    def charge(days: float, **fields: Any) -> str:
        payment = shop.create_payment(amount=10_000, destination="acct_1Seller", created=days_ago(shop, days), **fields)
        return str(payment["latest_charge"])

    with_fee = [charge(12 - n, application_fee=1_500) for n in range(4)]
    no_fee, last = charge(8), charge(1, application_fee=1_500)
    shop.refund(with_fee[0], 4_000, reverse_transfer=True, created=days_ago(shop, 7))

    def known() -> set[str]:
        pipeline.sync()
        return {row["charge"] for row in payments(folder, "charge, net_total") if row["net_total"] is not None}

    # As long as no application fee was refunded, none of these charges' fees was.
    assert known() == {*with_fee, no_fee, last}
    shop.refund(with_fee[1], 4_000, reverse_transfer=True, refund_application_fee=True, created=days_ago(shop, 6))
    days = [datetime.fromtimestamp(days_ago(shop, age), UTC).date() for age in (6, 5, 4)]
    pipeline.backfill(days)
    assert known() == {*with_fee[2:], no_fee, last}
    # A fee that was refunded without a refund of a charge may belong to any earlier charge.
    [fee] = [
        entry for entry in shop.objects("balance_transactions", False).values() if entry["source"].startswith("fr_")
    ]
    shop.put(fee | {"id": "txn_alone", "source": "fr_alone", "created": days_ago(shop, 5)})
    pipeline.backfill(days)
    assert known() == {no_fee, last}
    shop.put(
        fee | {"id": "txn_reversal", "source": "trr_alone", "type": "transfer_refund", "created": days_ago(shop, 4)}
    )
    pipeline.backfill(days)
    assert known() == {last}


def test_the_total_waits_for_the_transactions_of_the_transfer_and_the_fee(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    payment = shop.create_payment(
        amount=10_000, destination="acct_1Seller", application_fee=1_500, created=days_ago(shop, 3)
    )
    charge = shop.objects("charges", False)[payment["latest_charge"]]
    money = {entry["source"]: entry for entry in shop.objects("balance_transactions", False).values()}
    for source in (charge["transfer"], charge["application_fee"]):
        shop.vanish("balance_transactions", money[source]["id"])
    pipeline.sync()
    assert payments(folder, "net, net_total") == [{"net": 9_680, "net_total": None}]
    shop.put(money[charge["transfer"]])
    pipeline.backfill([datetime.fromtimestamp(days_ago(shop, 3), UTC).date()])
    assert payments(folder, "net, net_total") == [{"net": 9_680, "net_total": None}]
    shop.put(money[charge["application_fee"]])
    pipeline.backfill([datetime.fromtimestamp(days_ago(shop, 3), UTC).date()])
    assert payments(folder, "net, net_total") == [{"net": 9_680, "net_total": 1_180}]


@pytest.mark.both_modes
@pytest.mark.parametrize("table", varied(["disputes", "refunds", "balance_transactions"]))
def test_columns_from_a_type_that_the_key_may_not_read_are_null(
    make_pipeline: MakePipeline, shop: Shop, server: Server, folder: DataFolder, table: str
) -> None:
    charge = shop.create_payment(amount=9_000, created=days_ago(shop, 5))["latest_charge"]
    shop.refund(charge, 1_000, created=days_ago(shop, 4))
    shop.dispute(charge, amount=2_000, created=days_ago(shop, 3))
    pipeline = make_pipeline({"STRIPE_API_KEY": "rk_test_of_the_tests"})
    server.deny(table)
    assert set(pipeline.sync().failures) >= {table}
    of_table = {
        "disputes": {"dispute", "dispute_status", "dispute_reason", "dispute_amount", "dispute_amount_decimal"},
        "refunds": {"refunds", "refunded_at"},
        "balance_transactions": {
            *("balance_currency", "gross", "gross_decimal", "fee", "fee_decimal", "net", "net_decimal"),
            *("available_on", "payout_ready"),
        },
    }[table] | {"net_total", "net_total_decimal"}
    [row] = payments(folder)
    unknown = {name for name, value in row.items() if value is None}
    assert of_table <= unknown
    server.allow(table)
    pipeline.sync()
    [row] = payments(folder)
    assert {name for name, value in row.items() if value is None} == unknown - of_table
    # Refused from some day on: later charges, and later refunds and disputes of older charges, are not known.
    shop.clock.advance(2 * DAY)
    server.deny(table)
    pipeline.sync()
    [row] = payments(folder)
    assert row["net_total"] is None


@pytest.mark.both_modes
def test_totals_are_null_where_rows_were_pruned_by_another_date(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    for age in (20, 3):
        charge = shop.create_payment(created=days_ago(shop, age))["latest_charge"]
        shop.refund(charge, 500, created=days_ago(shop, age - 1))
    key = {"STRIPE_API_KEY": "sk_test_of_the_tests"}
    make_pipeline(key).sync()
    assert all(row["net_total"] for row in payments(folder, "net_total"))
    pruned = make_pipeline(
        key, objects={"balance_transactions": {"date_field": "available_on", "retention": "10 days"}}
    )
    pruned.prune()
    counted = (
        "SELECT sum(listed)::INT, sum(\"rows\")::INT FROM pipeline.coverage WHERE object_type = 'balance_transactions'"
    )
    assert ask(folder.published, counted) == [(4, 2)]
    old, young = payments(folder, "net_total, refunds")
    assert (old["net_total"], old["refunds"]) == (None, 1)
    assert young["net_total"] is not None


def test_a_day_that_was_not_listed_hides_the_totals_of_earlier_charges(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    early, late = (shop.create_payment(amount=9_000, created=days_ago(shop, age))["latest_charge"] for age in (9, 3))
    pipeline.sync()
    hole = datetime.fromtimestamp(days_ago(shop, 6), UTC).date()
    pipeline.warehouse.ask(f"DELETE FROM pipeline.coverage WHERE object_type = 'disputes' AND day = DATE '{hole}'")
    pipeline.warehouse.load([], cursors={})
    pipeline.publish()
    rows = {row["charge"]: row for row in payments(folder, "charge, net, net_total, refunds")}
    assert rows[early]["net"] == rows[late]["net"] == rows[late]["net_total"] > 0
    assert (rows[early]["net_total"], rows[early]["refunds"]) == (None, 0)


# The check


Checked = dict[str, dg.AssetCheckEvaluation]


@pytest.fixture
def check(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_pipeline: MakePipeline, instance: dg.DagsterInstance
) -> Callable[..., Checked]:
    """Runs the nightly checks with that many days of history and these settings; one check's results by table.

    No sample is read: a row that was just read may name an object that the next sync reads.
    """

    def run(name: str = REFERENCES, *, days: int = 60, objects: Mapping[str, Any] = MappingProxyType({})) -> Checked:
        history = (datetime.now(UTC) - timedelta(days=days)).date()
        settings = {"history": history, "objects": dict(objects), "proofs": {"sample": 0}}
        (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
        monkeypatch.setenv("STRIPE_PIPELINE_CONFIG", str(tmp_path / "settings.yaml"))
        resource = OpenedPipeline(make_pipeline(**settings))
        job = build_defs(resource_overrides={RESOURCE: resource}).resolve_job_def("nightly")
        # Retention reports every day to Dagster. That takes long and is not needed here.
        result = job.execute_in_process(
            instance=instance, run_config={"ops": {"retention": {"config": {"dry_run": True}}}}
        )
        assert result.success
        evaluations = [
            evaluation for evaluation in result.get_asset_check_evaluations() if evaluation.check_name == name
        ]
        return {evaluation.asset_key.path[-1]: evaluation for evaluation in evaluations}

    return run


def metadata_of(evaluation: dg.AssetCheckEvaluation) -> dict[str, Any]:
    """The metadata of a check, without zeros."""
    return {name: entry.value for name, entry in evaluation.metadata.items() if entry.value}


@pytest.mark.both_modes
def test_references_of_a_complete_shop_resolve(pipeline: Pipeline, shop: Shop, check: Callable[..., Checked]) -> None:
    shop.seed_history(8)
    deleted = shop.create_customer(created=days_ago(shop, 10))["id"]
    shop.create_payment(deleted, created=days_ago(shop, 9))
    unlisted = shop.create_customer(created=days_ago(shop, 10), test_clock="clock_1")["id"]
    draft = shop.create_invoice(unlisted, created=days_ago(shop, 9), draft=True)["id"]
    pipeline.sync()
    shop.delete_customer(deleted)
    shop.delete_invoice(draft)
    pipeline.sync()
    pipeline.sync()
    checked = check()
    # Customers of the history that were deleted before the first sync.
    for table in ("charges", "invoices"):
        assert {label.partition(":")[0] for label in metadata_of(checked[table])} <= {"customer → customers"}
    assert {evaluation.description for evaluation in checked.values()} == {None}
    assert checked.keys() == {name for name, object_type in DEFAULT_TYPES.items() if object_type.references}
    assert {table for table, evaluation in checked.items() if not evaluation.passed} == set()
    assert not any("balance_transaction" in name for evaluation in checked.values() for name in metadata_of(evaluation))


def test_references_of_every_type_resolve(
    make_pipeline: MakePipeline, shop: Shop, check: Callable[..., Checked]
) -> None:
    shop.seed_history(30)
    every: dict[str, Any] = {name: {"enabled": True} for name in ALL_TYPES}
    pipeline = make_pipeline(objects=every)
    pipeline.sync()
    pipeline.sync()
    checked = check(objects=every)
    assert {table: evaluation.description for table, evaluation in checked.items() if not evaluation.passed} == {}
    labels = {reference.label for declared in OBJECT_TYPES.values() for reference in declared.references}
    seen = {label.partition(":")[0] for evaluation in checked.values() for label in evaluation.metadata}
    assert seen == labels


def test_references_to_an_optional_type_are_checked_while_the_type_is_on(
    make_pipeline: MakePipeline, shop: Shop, check: Callable[..., Checked]
) -> None:
    shop.fail_payout(shop.payout(100, created=days_ago(shop, 20))["source"], created=days_ago(shop, 19))
    make_pipeline().sync()
    make_pipeline().sync()
    assert not any("payouts" in name for evaluation in check().values() for name in evaluation.metadata)
    on = {"payouts": {"enabled": True}}
    pipeline = make_pipeline(objects=on)
    pipeline.sync()
    pipeline.sync()
    checked = check(objects=on)
    assert checked["balance_transactions"].metadata["source → payouts: missing"].value == 0
    assert {name for name in checked["payouts"].metadata if name.endswith(": missing")} == {
        "balance_transaction → balance_transactions: missing",
        "failure_balance_transaction → balance_transactions: missing",
        "original_payout → payouts: missing",
        "reversed_by → payouts: missing",
    }
    assert metadata_of(checked["payouts"]) == {}
    assert len(pipeline.warehouse.ask("DELETE FROM raw.payouts RETURNING 1")) == 1
    assert check(objects=on)["balance_transactions"].metadata["source → payouts: missing"].value == 2
    assert len(pipeline.warehouse.ask("DELETE FROM raw.balance_transactions RETURNING 1")) == 2
    pipeline.backfill([day_of(days_ago(shop, 20))], ["payouts"])
    assert_equal_to_stripe(shop, pipeline.folder.published)


def test_missing_objects_are_reported_with_examples(
    make_pipeline: MakePipeline, pipeline: Pipeline, shop: Shop, check: Callable[..., Checked]
) -> None:
    shop.create_payment(created=days_ago(shop, 55))  # so that a missing object may be older than all stored ones
    intent = shop.create_payment(created=days_ago(shop, 20))
    charge = shop.objects("charges", False)[intent["latest_charge"]]
    shop.vanish("balance_transactions", charge["balance_transaction"])
    dispute = shop.dispute(charge["id"], created=days_ago(shop, 12))
    shop.vanish("balance_transactions", dispute["balance_transactions"][0]["id"])
    many = [shop.create_payment(created=days_ago(shop, 15)) for _ in range(25)]
    shop.vanish("payment_intents", many[0]["id"])
    pipeline.sync()
    assert all(evaluation.passed for evaluation in check().values()), (
        "a row that was just read may name an object that the next sync reads"
    )
    make_pipeline().sync()  # of both modes
    checked = check()
    assert {table for table, evaluation in checked.items() if not evaluation.passed} == {"charges", "disputes"}
    assert checked["charges"].severity is dg.AssetCheckSeverity.WARN
    assert "1 of balance_transaction → balance_transactions" in (checked["charges"].description or "")
    assert metadata_of(checked["charges"]) == {
        "payment_intent → payment_intents: missing": 1,
        "payment_intent → payment_intents: before the history or never listed": 1,
        "payment_intent → payment_intents: examples": many[0]["id"],
        "balance_transaction → balance_transactions: missing": 1,
        "balance_transaction → balance_transactions: examples": charge["balance_transaction"],
    }
    assert metadata_of(checked["disputes"]) == {
        "balance_transactions → balance_transactions: missing": 1,
        "balance_transactions → balance_transactions: examples": dispute["balance_transactions"][0]["id"],
    }


def test_references_to_revised_invoices_and_failed_charges_are_checked(
    make_pipeline: MakePipeline, pipeline: Pipeline, shop: Shop, check: Callable[..., Checked]
) -> None:
    first, second = (shop.create_invoice(created=days_ago(shop, 5))["id"] for _ in range(2))
    shop.update("invoices", first, latest_revision=second)
    shop.update("invoices", second, from_invoice={"action": "revision", "invoice": first})
    failed = shop.create_payment(created=days_ago(shop, 5), outcome="failed")
    assert failed["last_payment_error"]["charge"]
    pipeline.sync()
    make_pipeline().sync()
    checked = check()
    assert metadata_of(checked["invoices"]) == metadata_of(checked["payment_intents"]) == {}
    shop.update("invoices", second, from_invoice={"action": "revision", "invoice": "in_nowhere"})
    shop.update("payment_intents", failed["id"], last_payment_error={"charge": "ch_nowhere"})
    pipeline.backfill([datetime.fromtimestamp(days_ago(shop, 5), UTC).date()])
    for _ in range(2):  # a row that was just read may name an object that the next sync reads
        pipeline.sync()
    checked = check()
    assert metadata_of(checked["invoices"])["from_invoice.invoice → invoices: examples"] == "in_nowhere"
    assert metadata_of(checked["payment_intents"])["last_payment_error.charge → charges: examples"] == "ch_nowhere"
    assert not checked["invoices"].passed
    assert not checked["payment_intents"].passed


def test_references_to_objects_before_the_history_are_counted_and_pass(
    pipeline: Pipeline, shop: Shop, check: Callable[..., Checked]
) -> None:
    intent = shop.create_payment(created=days_ago(shop, 70))
    refund, _ = (shop.refund(intent["latest_charge"], 500, created=days_ago(shop, days)) for days in (50, 45))
    later = shop.create_payment(created=days_ago(shop, 55))
    shop.create_payment(
        shop.create_customer(created=days_ago(shop, 40), test_clock="clock_1")["id"], created=days_ago(shop, 30)
    )
    # The charge is of the history's first second, its balance transaction of the second before.
    begins = days_ago(shop, 60) // DAY * DAY
    edge = shop.create_payment(created=begins)
    charge = shop.objects("charges", False)[edge["latest_charge"]]
    shop.put(shop.objects("balance_transactions", False)[charge["balance_transaction"]] | {"created": begins - 1})
    pipeline.sync()
    pipeline.sync()
    checked = check()
    assert all(evaluation.passed for evaluation in checked.values())
    assert metadata_of(checked["refunds"]) == {
        "charge → charges: missing": 2,
        "charge → charges: before the history or never listed": 2,
        "charge → charges: examples": intent["latest_charge"],
        "payment_intent → payment_intents: missing": 2,
        "payment_intent → payment_intents: before the history or never listed": 2,
        "payment_intent → payment_intents: examples": intent["id"],
    }
    assert metadata_of(checked["charges"]).pop("customer → customers: missing") == 1  # Stripe does not list it
    assert {
        name: value for name, value in metadata_of(checked["charges"]).items() if name.startswith("balance_transaction")
    } == {
        "balance_transaction → balance_transactions: missing": 1,
        "balance_transaction → balance_transactions: before the history or never listed": 1,
        "balance_transaction → balance_transactions: examples": charge["balance_transaction"],
    }
    # If the history begins long before the first charge, no object is older than the history.
    checked = check(days=200)
    assert {table for table, evaluation in checked.items() if not evaluation.passed} == {"refunds", "charges"}
    assert later["latest_charge"] not in str(metadata_of(checked["refunds"]))
    assert refund["id"] not in str(metadata_of(checked["refunds"]))


@pytest.mark.both_modes
def test_references_to_disabled_types_are_not_checked(
    make_pipeline: MakePipeline, pipeline: Pipeline, shop: Shop, check: Callable[..., Checked]
) -> None:
    shop.create_payment(created=days_ago(shop, 20))
    off = ("balance_transactions", "customers")
    objects = {table: {"enabled": False} for table in off}
    partial = make_pipeline({"STRIPE_API_KEY": "sk_test_of_the_tests"}, objects=objects)
    partial.sync()
    partial.sync()
    assert not check()["charges"].passed
    checked = check(objects=objects)
    assert "fee_details" not in checked
    assert all(evaluation.passed for evaluation in checked.values())
    assert not any(target in name for evaluation in checked.values() for name in evaluation.metadata for target in off)


@pytest.mark.both_modes
def test_an_object_in_two_rows_is_reported(
    pipeline: Pipeline, shop: Shop, check: Callable[..., Checked], instance: dg.DagsterInstance
) -> None:
    shop.seed_history(4)
    pipeline.sync()
    checked = check(UNIQUE)
    assert checked.keys() == DEFAULT_TYPES.keys()
    assert all(evaluation.passed for evaluation in checked.values())
    [(fee,)] = pipeline.warehouse.ask(
        "INSERT INTO raw.fee_details FROM raw.fee_details LIMIT 1 RETURNING balance_transaction"
    )
    [(charge,)] = pipeline.warehouse.ask("INSERT INTO raw.charges FROM raw.charges LIMIT 1 RETURNING id")
    failed = {
        table: metadata_of(evaluation)["examples"]
        for table, evaluation in check(UNIQUE).items()
        if not evaluation.passed
    }
    assert failed == {"charges": charge, "fee_details": f"{fee} 0"}
    # On the page of one table, the check runs for that table only.
    key = dg.AssetCheckKey(dg.AssetKey(["raw", "refunds"]), UNIQUE)
    alone = dg.define_asset_job("alone", selection=dg.AssetSelection.checks(key))
    defs = dg.Definitions.merge(
        build_defs(resource_overrides={RESOURCE: OpenedPipeline(pipeline)}), dg.Definitions(jobs=[alone])
    )
    result = defs.resolve_job_def("alone").execute_in_process(instance=instance)
    assert [evaluation.asset_check_key for evaluation in result.get_asset_check_evaluations()] == [key]


@pytest.mark.both_modes
def test_hashed_references_are_not_checked_and_rows_pruned_by_another_date_are_not_missing(
    make_pipeline: MakePipeline,
    shop: Shop,
    folder: DataFolder,
    check: Callable[..., Checked],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(references, "EXAMPLES", 1)
    charge = shop.create_payment(created=days_ago(shop, 20))["latest_charge"]
    shop.refund(charge, 500, created=days_ago(shop, 19))
    early, pruned = (shop.create_payment(created=days_ago(shop, 40))["latest_charge"] for _ in range(2))
    shop.refund(early, 500, created=days_ago(shop, 35))  # older than the charges that retention leaves
    shop.refund(pruned, 500, created=days_ago(shop, 18))
    objects: dict[str, Any] = {
        "balance_transactions": {"date_field": "available_on", "retention": "5 days"},
        "charges": {"fields": {"hash": ["balance_transaction"]}, "retention": "30 days"},
    }
    pipeline = make_pipeline({"STRIPE_API_KEY": "sk_test_of_the_tests"}, objects=objects)
    pipeline.sync()
    pipeline.sync()
    assert ask(folder.published, "SELECT count(*) FROM raw.balance_transactions") == [(0,)]
    checked = check(objects=objects)
    assert all(evaluation.passed for evaluation in checked.values())
    assert not any(name.startswith("balance_transaction → ") for name in checked["charges"].metadata)
    refunds = metadata_of(checked["refunds"])
    assert refunds["balance_transaction → balance_transactions: missing"] == 3
    assert refunds["charge → charges: before the history or never listed"] == 2
    assert refunds["charge → charges: examples"] == pruned  # the reference that is hardest to explain comes first


@pytest.mark.usefixtures("instance")
def test_references_are_checked_every_night_and_not_in_a_sync(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    defs = build_defs(resource_overrides={RESOURCE: OpenedPipeline(pipeline)})
    schedule = defs.resolve_schedule_def("nightly")
    assert (schedule.job_name, schedule.default_status) == ("nightly", dg.DefaultScheduleStatus.RUNNING)
    steps = {name: {node.name for node in defs.resolve_job_def(name).nodes} for name in ("sync", "nightly")}
    assert steps == {"sync": {"stripe"}, "nightly": {"retention", "proof__certificate", *NIGHTLY}}
    only_customers = {name: {"enabled": False} for name in DEFAULT_TYPES if name != "customers"}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump({"objects": only_customers}))
    monkeypatch.setenv("STRIPE_PIPELINE_CONFIG", str(tmp_path / "settings.yaml"))
    dg.Definitions.validate_loadable(build_defs())


# The diagram


def test_the_tables_page_shows_the_declared_relations() -> None:
    page = TABLES.read_text(encoding="utf-8")
    assert f"```mermaid\n{picture()}\n```" in page.partition("## Relations")[2].partition("\n## ")[0]
    assert 'charges |o--o{ refunds : "charge"' in picture()


@pytest.mark.both_modes
def test_the_query_shown_with_the_view_runs(pipeline: Pipeline, shop: Shop, folder: DataFolder) -> None:
    """The query of the tables page runs on the view of the test mode."""
    page = TABLES.read_text(encoding="utf-8")
    query = page.partition("### `payments`")[2].partition("```sql\n")[2].partition("```")[0]
    shop.create_payment(created=days_ago(shop, 9))
    pipeline.sync()
    [row] = ask(folder.published, query.replace("live.payments", "test.payments"))
    assert row[1:3] == ("usd", Decimal("20.000"))
