"""The finance views on the balance, payouts, activity and customers, compared with sums over the emulator's objects.

The tests go from the emulator to the published file. The days are those of a time zone other than UTC.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pytest

from stripe_emulator import Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY
from stripe_pipeline.objects import DEFAULT_TYPES
from stripe_pipeline.sync.pipeline import Pipeline
from stripe_pipeline.views.catalog import views
from stripe_pipeline.views.view import FINANCE
from tests.conftest import MakePipeline
from tests.stripe_state import ask, days_ago, rows

Json = dict[str, Any]

ZONE = "America/New_York"
PAYOUTS = {"payouts": {"enabled": True}}
NAMES = ("balance_by_day", "payouts", "balance_change_from_activity", "customers")
CLASS_OF = {
    "charge": "charges",
    "refund": "refunds",
    "refund_failure": "refunds",
    "dispute": "disputes",
    "dispute_reversal": "disputes",
    "fee": "fees",
    "other_adjustment": "adjustments",
    "payout": "payouts",
    "payout_reversal": "payouts",
    "transfer": "other",
    "platform_earning": "other",
    "transfer_reversal": "other",
    "platform_earning_refund": "other",
    "brand_new": "other",
}
CLASSES = ("charges", "refunds", "disputes", "fees", "adjustments", "payouts", "other")
MINOR_UNIT = {"jpy": Decimal(1), "kwd": Decimal("0.001")}


@pytest.fixture
def pipeline(make_pipeline: MakePipeline) -> Pipeline:
    """A pipeline of the test mode that reads payouts."""
    return make_pipeline(objects=PAYOUTS, time_zone=ZONE)


def local(moment: int) -> datetime:
    """The date and time of Unix seconds on the clocks of `ZONE`."""
    return datetime.fromtimestamp(moment, ZoneInfo(ZONE)).replace(tzinfo=None)


def major(amount: int | None, currency: str) -> Decimal | None:
    """An amount in major units."""
    return None if amount is None else amount * MINOR_UNIT.get(currency, Decimal("0.01"))


def transactions(shop: Shop) -> list[Json]:
    """The balance transactions of the test mode."""
    return list(shop.objects("balance_transactions", False).values())


def by_class(moved: list[Json]) -> dict[str, int]:
    """The sum of each class."""
    sums = dict.fromkeys(CLASSES, 0)
    for obj in moved:
        sums[CLASS_OF[obj["reporting_category"]]] += obj["amount"]
        sums["fees"] -= obj["fee"]
    return sums


def book(shop: Shop, created: int, amount: int, category: str, fee: int = 0) -> None:
    """Book a balance transaction of this category in dollars, which is available at once."""
    [like, *_] = [obj for obj in transactions(shop) if obj["currency"] == "usd"]
    changed = {"amount": amount, "fee": fee, "net": amount - fee, "fee_details": [], "source": None}
    times = {"created": created, "available_on": created, "status": "available"}
    shop.put(like | changed | times | {"id": f"txn_{category}", "reporting_category": category, "type": "adjustment"})


def trade(shop: Shop) -> None:
    """Trade in dollars, yen and euros for 30 days, with what can become of charges and payouts."""

    def at(days: float) -> int:
        return days_ago(shop, days)

    for currency, amount in (("usd", 9_000), ("jpy", 120_000), ("eur", 5_001)):
        customer = shop.create_customer(currency=currency, created=at(41))["id"]
        charges = [
            shop.create_payment(customer, amount=amount + n, currency=currency, created=at(40 - n))["latest_charge"]
            for n in range(5)
        ]
        shop.payout(currency=currency, created=at(32))
        shop.refund(charges[0], amount // 3, created=at(31))
        failed = shop.refund(charges[1], created=at(30))["id"]
        shop.fail_refund(failed, created=at(28))
        won, lost, _ = (shop.dispute(charge, created=at(29))["id"] for charge in charges[2:])
        shop.close_dispute(won, won=True, created=at(15))
        shop.close_dispute(lost, won=False, created=at(14))
        shop.payout(currency=currency, created=at(27))  # takes money from the bank
        for day in (24, 23, 11):
            shop.create_payment(amount=amount, currency=currency, created=at(day))
        shop.payout(currency=currency, created=at(20))
        for automatic in sorted(shop.objects("payouts", False)):
            shop.complete_payout(automatic, created=at(10))
    shop.create_payment(amount=20_000, application_fee=1_500, destination="acct_1Supplier", created=at(25))
    foreign = shop.create_payment(amount=12_340, currency="kwd", settlement_currency="usd", created=at(24))
    shop.refund(foreign["latest_charge"], 1_230, created=at(22))


def change(pipeline: Pipeline, statement: str) -> None:
    """Change rows of the warehouse, and publish it."""
    for sql in (statement, "UPDATE pipeline.meta SET revision = revision + 1"):
        assert pipeline.warehouse.ask(f"{sql} RETURNING 1")
    pipeline.publish()


def read_balance(
    pipeline: Pipeline, *readings: tuple[datetime | int, str, int, bool | None], live: bool = False
) -> None:
    """Store readings of the balance: time, currency, amount and whether it is tied."""
    for moment, currency, amount, tied in readings:
        read_at = moment.timestamp() if isinstance(moment, datetime) else moment
        change(
            pipeline,
            f"INSERT INTO pipeline.balances VALUES ('acct_1DemoShop', {live}, to_timestamp({read_at}), '{currency}',"
            f" 'payments', {amount}, {'NULL' if tied is None else tied})",
        )


def held(shop: Shop) -> dict[str, int]:
    """The balance of each currency, available and pending, as the API shows it."""
    balance = shop.balance_object(False)
    amounts: dict[str, int] = defaultdict(int)
    for part in (*balance["available"], *balance["pending"]):
        amounts[part["currency"]] += part["amount"]
    return dict(amounts)


# The balance


def test_every_day_of_a_balance_leads_from_opening_to_closing(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    old = shop.create_payment(amount=7_777, created=days_ago(shop, 75))["latest_charge"]  # before the history
    shop.create_payment(amount=777, currency="jpy", created=days_ago(shop, 75))
    trade(shop)
    shop.refund(old, 100, created=days_ago(shop, 5))
    shop.payout(currency="jpy", created=days_ago(shop, 4))
    shop.fail_payout(shop.payout(4_000, created=days_ago(shop, 3))["source"], created=days_ago(shop, 2))
    for category, amount, fee in (("fee", -250, 0), ("other_adjustment", 40, 0), ("brand_new", -33, 7)):
        book(shop, days_ago(shop, 1), amount, category, fee)
    pipeline.sync()
    now = int(shop.clock.now())
    tied = [(now, currency, amount, True) for currency, amount in held(shop).items()]
    read_balance(pipeline, *tied, (now + 60, "usd", 1, False), (now + 61, "usd", 2, None), (1, "usd", 3, True))
    read_balance(pipeline, (now + 120, "usd", 4, True), live=True)

    begins = (datetime.now(UTC) - timedelta(days=60)).replace(hour=0, minute=0, second=0).timestamp() - 1
    known = [obj for obj in transactions(shop) if obj["created"] > begins]
    days = sorted(local(obj["created"]).date() for obj in known)
    shown = rows(folder.published, "finance_test.balance_by_day")
    by_key = {(row["day"], row["currency"]): row for row in shown}
    assert len(by_key) == len(shown)
    currencies = {obj["currency"] for obj in known}
    assert currencies == {"usd", "jpy", "eur"}
    every_day = [days[0] + timedelta(days=n) for n in range((days[-1] - days[0]).days + 1)]
    assert by_key.keys() == {(day, currency) for day in every_day for currency in currencies}
    for currency in currencies:
        closing = sum(obj["net"] for obj in transactions(shop) if obj["currency"] == currency and obj not in known)
        assert (closing != 0) == (currency != "eur")
        for day in every_day:
            row = by_key[day, currency]
            of_day = [obj for obj in known if (local(obj["created"]).date(), obj["currency"]) == (day, currency)]
            assert row["opening"] == closing, (day, currency)
            assert {name: row[name] for name in CLASSES} == by_class(of_day), (day, currency)
            closing += sum(obj["net"] for obj in of_day)
            assert row["closing"] == closing == row["opening"] + sum(row[name] for name in CLASSES)
            assert row["balance_type"] == "payments"
            for name in ("opening", *CLASSES, "closing"):
                assert row[f"{name}_decimal"] == major(row[name], currency)
        assert closing == held(shop)[currency]
    totals = {name: sum(abs(row[name]) for row in shown) for name in CLASSES}
    assert all(totals.values()), totals


def test_a_day_is_one_of_the_time_zone(pipeline: Pipeline, shop: Shop, folder: DataFolder) -> None:
    midnight = days_ago(shop, 5) // DAY * DAY
    for hour in (3, 6):  # midnight in New York is between them, all year
        shop.create_payment(amount=1_000 * hour, created=midnight + hour * 3600)
    pipeline.sync()
    days = ask(folder.published, "SELECT day, charges FROM finance_test.balance_by_day ORDER BY day")
    day = datetime.fromtimestamp(midnight, UTC).date()
    assert days == [(day - timedelta(days=1), 3_000), (day, 6_000)]


def test_a_balance_that_was_never_read_or_does_not_tie_is_unknown(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    for currency in ("usd", "eur"):
        shop.create_payment(amount=1_000, currency=currency, created=days_ago(shop, 5))
    pipeline.sync()
    pipeline.warehouse.ask("DELETE FROM pipeline.balances RETURNING 1")
    read_balance(
        pipeline,
        (int(shop.clock.now()), "usd", 1_000, False),
        (days_ago(shop, 6), "eur", 500, True),
        (days_ago(shop, 6), "gbp", 80, True),
        (days_ago(shop, 6), "jpy", 0, True),
    )
    sql = "SELECT currency, opening, charges, closing FROM finance_test.balance_by_day ORDER BY currency"
    [eur] = [obj for obj in transactions(shop) if obj["currency"] == "eur"]
    assert ask(folder.published, sql) == [
        ("eur", 500, 1_000, 500 + eur["net"]),
        ("gbp", 80, 0, 80),  # did not move in the history
        ("usd", None, 1_000, None),
    ]


# Payouts


def of_payouts(folder: DataFolder) -> dict[str, Json]:
    """The rows by the id of the payout."""
    return {row["payout"]: row for row in rows(folder.published, "finance_test.payouts")}


def test_a_payout_shows_what_it_pays_out(pipeline: Pipeline, shop: Shop, folder: DataFolder) -> None:
    trade(shop)
    manual = shop.payout(1_000, created=days_ago(shop, 9))["source"]
    failed = shop.payout(700, created=days_ago(shop, 8))["source"]
    shop.fail_payout(failed, created=days_ago(shop, 7))
    second = {
        currency: shop.payout(currency=currency, created=days_ago(shop, 7))["source"] for currency in ("usd", "jpy")
    }
    for payout in second.values():
        shop.complete_payout(payout, created=days_ago(shop, 6))
    running = shop.payout(currency="usd", created=days_ago(shop, 1))["source"]
    shop.cancel_payout(running)
    pipeline.sync()
    shown = of_payouts(folder)
    stored, money = shop.objects("payouts", False), shop.objects("balance_transactions", False)
    assert shown.keys() == stored.keys()
    content: dict[str, list[Json]] = defaultdict(list)
    for payout, transaction in shop.objects("payout_balance_transactions", False):
        if transaction != stored[payout]["balance_transaction"]:
            content[payout].append(money[transaction])
    for payout, obj in stored.items():
        row = shown[payout]
        assert {name: row[name] for name in ("currency", "status", "automatic", "method", "amount")} == {
            name: obj[name] for name in ("currency", "status", "automatic", "method", "amount")
        }
        assert row["amount_decimal"] == major(obj["amount"], obj["currency"])
        assert row["created"] == datetime.fromtimestamp(obj["created"], UTC)
        assert row["arrival_day"] == datetime.fromtimestamp(obj["arrival_date"], UTC).date()
        assert row["trace_id"] == obj["trace_id"]["value"]
        if obj["reconciliation_status"] == "completed":
            assert {name: row[name] for name in CLASSES} == by_class(content[payout])
            assert row["total"] == sum(row[name] for name in CLASSES) == obj["amount"]
            assert (row["balance_transactions"], row["missing"]) == (len(content[payout]), 0)
            assert row["tied"] is True
            assert row["total_decimal"] == major(row["total"], obj["currency"])
        else:
            itemized = (*CLASSES, "total", "total_decimal", "balance_transactions", "missing", "tied")
            assert {row[name] for name in itemized} == {None}
    assert {payout: row["returned"] for payout, row in shown.items() if row["returned"] is not None} == {
        failed: 700,
        running: stored[running]["amount"],
    }
    assert not shown[manual]["automatic"]
    assert shown[second["usd"]]["payouts"] == -1_000  # the manual payout, and the failed one with its return
    assert any(row["amount"] < 0 for row in shown.values())
    assert {row["other"] for row in shown.values()} - {None, 0}


def test_a_payout_with_a_missing_balance_transaction_does_not_tie(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    created = [shop.create_payment(amount=1_000, created=days_ago(shop, 20)) for _ in range(2)]
    paid = shop.payout(created=days_ago(shop, 10))["source"]
    shop.create_payment(amount=1_000, currency="eur", created=days_ago(shop, 20))
    unlisted = shop.payout(currency="eur", created=days_ago(shop, 10))["source"]
    for payout in (paid, unlisted):
        shop.complete_payout(payout, created=days_ago(shop, 9))
    pipeline.sync()
    assert {row["tied"] for row in of_payouts(folder).values()} == {True}
    lost = shop.objects("charges", False)[created[0]["latest_charge"]]["balance_transaction"]
    change(pipeline, f"DELETE FROM raw.balance_transactions WHERE id = '{lost}'")
    change(pipeline, f"DELETE FROM raw.payout_balance_transactions WHERE payout = '{unlisted}'")
    shown = of_payouts(folder)
    assert [shown[payout]["tied"] for payout in (paid, unlisted)] == [False, False]
    assert [shown[payout]["missing"] for payout in (paid, unlisted)] == [1, 0]
    assert shown[paid]["total"] == shown[paid]["amount"] // 2


def test_amounts_that_cancel_each_other_are_missed_in_a_payout(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    """Without the count of what is missing, a missing transaction of nothing would go unnoticed."""
    shop.create_payment(amount=1_000, created=days_ago(shop, 20))
    book(shop, days_ago(shop, 15), 0, "other_adjustment")
    shop.complete_payout(shop.payout(created=days_ago(shop, 10))["source"], created=days_ago(shop, 9))
    pipeline.sync()
    [row] = of_payouts(folder).values()
    assert row["tied"]
    change(pipeline, "DELETE FROM raw.balance_transactions WHERE id = 'txn_other_adjustment'")
    [row] = of_payouts(folder).values()
    assert (row["total"], row["tied"]) == (row["amount"], False)


# Activity


def test_the_activity_has_the_columns_of_stripes_report(pipeline: Pipeline, shop: Shop, folder: DataFolder) -> None:
    trade(shop)
    address = {"line1": "1 Main St", "city": "Graz", "postal_code": "8010", "country": "AT"}
    customer = shop.create_customer(
        name="Grace",
        email="grace@example.com",
        description="VIP",
        address=address,
        shipping={"name": "Grace", "address": address | {"line1": "Dock 2"}},
        created=days_ago(shop, 20),
    )["id"]
    invoice = shop.create_invoice(
        customer, lines=[{"amount": 9_000}], subscription="sub_1", created=days_ago(shop, 19)
    )["id"]
    shop.pay_invoice(invoice, created=days_ago(shop, 18))
    [link] = shop.payments(invoice, False)
    intent = shop.objects("payment_intents", False)[link["payment"]["payment_intent"]]
    charge = shop.update(
        "charges",
        intent["latest_charge"],
        shipping={"address": {"line1": "Quay 3", "state": "NY"}},
        billing_details={"address": {"line1": "Bank 4"}},
        statement_descriptor_suffix="SOCKS",
        metadata={"of": "charge"},
        created=days_ago(shop, 18),
    )
    refund = shop.refund(charge["id"], 1_000, metadata={"why": "torn"}, created=days_ago(shop, 16))
    dispute = shop.dispute(charge["id"], amount=2_000, reason="duplicate", created=days_ago(shop, 15))
    payout = shop.payout(currency="usd", created=days_ago(shop, 9))["source"]
    shop.complete_payout(payout, created=days_ago(shop, 8))
    shop.fail_payout(shop.payout(100, created=days_ago(shop, 7))["source"], created=days_ago(shop, 6))
    pipeline.sync()
    shown = {
        row["balance_transaction_id"]: row
        for row in rows(folder.published, "finance_test.balance_change_from_activity")
    }
    activity = [obj for obj in transactions(shop) if not obj["reporting_category"].startswith("payout")]
    assert shown.keys() == {obj["id"] for obj in activity}
    assert len(activity) < len(transactions(shop))
    charges = shop.objects("charges", False)
    sources = charges | shop.objects("refunds", False) | shop.objects("disputes", False)
    for obj in activity:
        row = shown[obj["id"]]
        assert [row[name] for name in ("currency", "reporting_category", "source_id", "description")] == [
            obj[name] for name in ("currency", "reporting_category", "source", "description")
        ]
        for name, field in (("gross", "amount"), ("fee", "fee"), ("net", "net")):
            assert row[name] == major(obj[field], obj["currency"])
        for name in ("created", "available_on"):
            assert row[name] == local(obj[name])
            assert row[f"{name}_utc"] == datetime.fromtimestamp(obj[name], UTC).replace(tzinfo=None)
        source = sources.get(obj["source"])
        if source is None:  # a transfer, or the application fee for it
            assert row["charge_id"] is row["customer_facing_amount"] is row["payment_intent_id"] is None
            continue
        sign = -1 if obj["amount"] < 0 else 1
        assert row["customer_facing_amount"] == sign * (major(source["amount"], source["currency"]) or 0)
        assert row["customer_facing_currency"] == source["currency"]
        its = charges[source["charge"] if "charge" in source else source["id"]]
        assert (row["charge_id"], row["payment_intent_id"]) == (its["id"], its["payment_intent"])
        assert row["charge_created"] == local(its["created"])
        assert row["charge_created_utc"] == datetime.fromtimestamp(its["created"], UTC).replace(tzinfo=None)
        assert row["customer_id"] == its["customer"]
        assert row["dispute_reason"] == (source["reason"] if source["object"] == "dispute" else None)
        assert row["card_brand"] == its["payment_method_details"]["card"]["brand"]
    assert {(row["currency"], row["customer_facing_currency"]) for row in shown.values()} >= {("usd", "kwd")}

    taken = dispute["balance_transactions"][0]["id"]
    for transaction in (charge["balance_transaction"], refund["balance_transaction"], taken):
        row = shown[transaction]
        assert {name: value for name, value in row.items() if "address" in name and value is not None} == {
            "customer_shipping_address_line1": "Dock 2",
            **{f"customer_shipping_address_{name}": address[name] for name in ("city", "postal_code", "country")},
            **{f"customer_address_{name}": value for name, value in address.items()},
            "shipping_address_line1": "Quay 3",
            "shipping_address_state": "NY",
            "card_address_line1": "Bank 4",
        }
        expected = {
            "customer_name": "Grace",
            "customer_email": "grace@example.com",
            "customer_description": "VIP",
            "invoice_id": invoice,
            "invoice_number": shop.objects("invoices", False)[invoice]["number"],
            "subscription_id": "sub_1",
            "payment_method_type": "card",
            "is_link": False,
            "card_funding": charge["payment_method_details"]["card"]["funding"],
            "card_country": charge["payment_method_details"]["card"]["country"],
            "statement_descriptor": "SOCKS",
            "payment_metadata": '{"of":"charge"}',
            "refund_metadata": '{"why":"torn"}' if transaction == refund["balance_transaction"] else None,
            "automatic_payout_id": payout,
            "automatic_payout_effective_at": local(shop.objects("payouts", False)[payout]["arrival_date"]),
            "trace_id": payout[-12:],
            "trace_id_status": "supported",
        }
        assert {name: row[name] for name in expected} == expected


def test_activity_of_a_partly_captured_charge_and_of_link(pipeline: Pipeline, shop: Shop, folder: DataFolder) -> None:
    intent = shop.create_payment(
        amount=5_000, outcome="requires_capture", metadata={"of": "intent"}, created=days_ago(shop, 9)
    )
    shop.capture(intent["id"], 2_000, created=days_ago(shop, 8))
    wallet = {"type": "card", "card": {"wallet": {"type": "link"}}}
    changed: Json = {"payment_method_details": wallet, "metadata": {"of": "charge"}}
    shop.update("charges", intent["latest_charge"], **changed, created=days_ago(shop, 8))
    pipeline.sync()
    [row] = rows(folder.published, "finance_test.balance_change_from_activity")
    assert row["customer_facing_amount"] == row["gross"] == 20
    assert (row["payment_method_type"], row["is_link"]) == ("card", True)
    assert row["payment_metadata"] == '{"of":"intent"}'


# Customers


def test_a_customer_has_a_row_for_each_currency(pipeline: Pipeline, shop: Shop, folder: DataFolder) -> None:
    trade(shop)
    customer = shop.create_customer(name="Grace", email="grace@example.com", created=days_ago(shop, 20))["id"]
    for currency, amount in (("usd", 4_000), ("jpy", 700)):
        shop.create_payment(customer, amount=amount, currency=currency, created=days_ago(shop, 19))
    shop.create_payment(customer, amount=900, outcome="failed", created=days_ago(shop, 18))
    shop.create_payment(customer, amount=900, outcome="requires_capture", created=days_ago(shop, 17))
    held = shop.create_payment(customer, amount=900, outcome="requires_capture", created=days_ago(shop, 16))
    shop.capture(held["id"], 300, created=days_ago(shop, 15))
    release = shop.refund(held["latest_charge"], 100, created=days_ago(shop, 15))
    shop.update("balance_transactions", release["balance_transaction"], reporting_category="partial_capture_reversal")
    shop.update("refunds", shop.refund(held["latest_charge"], 50, created=days_ago(shop, 14))["id"], status="pending")
    deleted = shop.create_customer(created=days_ago(shop, 20))["id"]
    shop.create_payment(deleted, amount=60, created=days_ago(shop, 13))
    shop.delete_customer(deleted)
    pipeline.sync()
    shown = {(row["customer"], row["currency"]): row for row in rows(folder.published, "finance_test.customers")}

    expected: dict[tuple[str, str], dict[str, int]] = defaultdict(
        lambda: dict.fromkeys(("payments", "captured", "refunds", "refunded", "disputes", "disputed", "lost"), 0)
    )
    charges = shop.objects("charges", False)
    times: dict[tuple[str, str], list[int]] = defaultdict(list)
    for obj in charges.values():
        key = obj["customer"], obj["currency"]
        if obj["customer"] and obj["status"] == "succeeded" and obj["captured"]:
            expected[key]["payments"] += 1
            expected[key]["captured"] += obj["amount_captured"]
            times[key].append(obj["created"])
    for obj in shop.objects("refunds", False).values():
        key = charges[obj["charge"]]["customer"], obj["currency"]
        if key[0] and obj["status"] != "failed" and obj["id"] != release["id"]:
            expected[key]["refunds"] += 1
            expected[key]["refunded"] += obj["amount"]
    for obj in shop.objects("disputes", False).values():
        key = charges[obj["charge"]]["customer"], obj["currency"]
        expected[key]["disputes"] += 1
        expected[key]["disputed"] += obj["amount"]
        expected[key]["lost"] += obj["amount"] * (obj["status"] == "lost")
    assert shown.keys() == expected.keys()
    for key, sums in expected.items():
        row = shown[key]
        counts = ("payments", "refunds", "disputes")
        assert {name: row[name] for name in counts} == {name: sums[name] for name in counts}
        value = sums["captured"] - sums["refunded"] - sums["lost"]
        amounts = {f"amount_{name}": sums[name] for name in ("captured", "refunded", "disputed", "lost")}
        for name, amount in (amounts | {"lifetime_value": value}).items():
            assert (row[name], row[f"{name}_decimal"]) == (amount, major(amount, key[1]))
        assert row["first_payment"] == datetime.fromtimestamp(min(times[key]), UTC)
        assert row["last_payment"] == datetime.fromtimestamp(max(times[key]), UTC)
    assert {row["name"] for (its, _), row in shown.items() if its == customer} == {"Grace"}
    assert shown[customer, "usd"]["email"] == "grace@example.com"
    assert (shown[deleted, "usd"]["name"], shown[deleted, "usd"]["email"]) == (None, None)
    assert shown[customer, "usd"]["lifetime_value"] == 4_000 + 300 - 50


# Types and columns that are not kept


def check_types(pipeline: Pipeline) -> None:
    """Fail if a view has other columns than it declares, whatever its rows."""
    with duckdb.connect(str(pipeline.folder.published), read_only=True) as connection:
        for view in views(pipeline.settings):
            for schema in set(view.schemas) & FINANCE.keys():
                described = connection.execute(f"DESCRIBE {schema}.{view.name}").fetchall()
                shown = [
                    (name, kind.replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ")) for name, kind, *_ in described
                ]
                assert shown == [(column.name, column.sql_type) for column in view.columns]


@pytest.fixture
def shown(make_pipeline: MakePipeline, folder: DataFolder) -> Callable[..., dict[str, list[Json]]]:
    """The rows of each view after a sync with these settings of objects."""

    def sync(**objects: object) -> dict[str, list[Json]]:
        pipeline = make_pipeline(objects=PAYOUTS | objects)
        pipeline.sync()
        check_types(pipeline)
        return {name: rows(folder.published, f"finance_test.{name}") for name in NAMES}

    return sync


def test_views_are_typed_and_empty_without_their_types(shown: Callable[..., dict[str, list[Json]]], shop: Shop) -> None:
    trade(shop)
    off = {"enabled": False}
    assert all(shown().values())
    without = shown(balance_transactions=off)
    assert {name for name, found in without.items() if found} == {"payouts", "customers"}
    assert {(row["total"], row["tied"], row["returned"]) for row in without["payouts"]} == {(None, None, None)}
    without = shown(refunds=off, disputes=off)
    assert {row["lifetime_value"] for row in without["customers"]} == {None}
    assert {row["refunds"] for row in without["customers"]} == {None}
    assert all(row["amount_captured"] for row in without["customers"])
    assert shown(payouts=off)["payouts"] == []
    only_products = dict.fromkeys(DEFAULT_TYPES, off) | {"payouts": off, "products": {"enabled": True}}
    assert not any(shown(**only_products).values())


def test_views_are_typed_without_a_column(shown: Callable[..., dict[str, list[Json]]], shop: Shop) -> None:
    trade(shop)
    without = shown(charges={"fields": {"exclude": ["captured"]}})
    assert {row["payments"] for row in without["customers"]} == {None}
    without = shown(balance_transactions={"fields": {"exclude": ["fee"]}})
    assert without["balance_by_day"] == []  # the other columns alone would not add up to the closing balance
    assert {(row["total"], row["tied"]) for row in without["payouts"]} == {(None, None)}
    assert {row["fee"] for row in without["balance_change_from_activity"]} == {None}
    without = shown(balance_transactions={"fields": {"exclude": ["reporting_category"]}})
    assert without["balance_change_from_activity"] == []  # payouts could not be told apart
    without = shown(
        charges={"fields": {"hash": ["customer"]}}, payouts={"enabled": True, "fields": {"exclude": ["automatic"]}}
    )
    assert without["customers"] == []
    assert {row["tied"] for row in without["payouts"]} == {None}
