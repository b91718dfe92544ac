"""The views on revenue and monthly recurring revenue, from the emulator to the published file.

Revenue is compared with sums day by day over the emulator's own objects; recurring revenue with what customers with
simple subscriptions are known to pay.
"""

from __future__ import annotations

import re
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pytest

from stripe_emulator import Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.catalog import views
from stripe_pipeline.views.finance.mrr import mrr
from stripe_pipeline.views.finance.mrr_movements import mrr_movements
from stripe_pipeline.views.finance.revenue_by_month import revenue_by_month
from tests.conftest import MakePipeline
from tests.stripe_state import ask, days_ago

PAGE = Path(__file__).parents[2] / "docs" / "finance.md"
ON: dict[str, Any] = {"credit_notes": {"enabled": True}, "subscriptions": {"enabled": True}}
REVENUE = "SELECT month, currency, revenue, uncollectible, credited, net FROM finance_test.revenue_by_month"
MOVEMENTS = ("new", "reactivation", "expansion", "contraction", "churn")


def seconds(year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0) -> int:
    """A time of UTC in Unix seconds."""
    return int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp())


def bill(shop: Shop, created: int, start: int, end: int, amount: int, currency: str = "usd", **fields: Any) -> str:
    """Finalize an invoice with one line for that period; returns its id."""
    line = {"amount": amount, "period": {"start": start, "end": end}, **fields}
    return str(shop.create_invoice(created=created, currency=currency, lines=[line])["id"])


# Revenue


def rounded(value: Fraction) -> int:
    """The nearest integer, halves away from zero."""
    whole = int(abs(value) + Fraction(1, 2))
    return whole if value >= 0 else -whole


def net_of(line: dict[str, Any], discounts: int) -> int:
    included = sum(tax["amount"] for tax in line["taxes"] if tax["tax_behavior"] == "inclusive")
    net: int = line["amount"] - discounts - included
    return net


def revenue_of(shop: Shop, time_zone: str) -> dict[tuple[date, str], list[int]]:
    """Revenue, its uncollectible part and what credit notes took back, by month and currency, summed day by day."""
    zone = ZoneInfo(time_zone)
    sums: dict[tuple[date, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    invoices = shop.objects("invoices", False)
    for (invoice, _), line in shop.objects("invoice_lines", False).items():
        status = invoices[invoice]["status"]
        if status not in ("open", "paid", "uncollectible"):
            continue
        first = datetime.fromtimestamp(line["period"]["start"], zone).date()
        behind = max(datetime.fromtimestamp(line["period"]["end"] + 1, zone).date(), first + timedelta(days=1))
        days = (behind - first).days
        net = net_of(line, sum(part["amount"] for part in line["discount_amounts"]))
        for n in range(days):
            part = rounded(Fraction(net * (n + 1), days)) - rounded(Fraction(net * n, days))
            of_month = sums[(first + timedelta(days=n)).replace(day=1), line["currency"]]
            of_month[0] += part
            of_month[1] += part if status == "uncollectible" else 0
    notes = shop.objects("credit_notes", False)
    for (of_note, _), line in shop.objects("credit_note_lines", False).items():
        note = notes[of_note]
        if note["status"] == "void" or invoices[note["invoice"]]["status"] == "void":
            continue
        month = datetime.fromtimestamp(note["effective_at"], zone).date().replace(day=1)
        sums[month, note["currency"]][2] -= net_of(line, line["discount_amount"])
    return sums


def odd_lines(shop: Shop) -> None:
    """Lines of all kinds: of a year, of an instant, with discounts and taxes, at the edges of a month in any zone."""
    at = days_ago(shop, 20)
    year, edge = (seconds(2024, 3, 5, 17), seconds(2025, 3, 5, 17)), seconds(2025, 1, 31, 11, 30)
    for currency, amount in (("usd", 100_001), ("jpy", 7), ("jpy", -100_003), ("kwd", 2**40 + 1)):
        bill(shop, at, *year, amount, currency)
    bill(shop, at, edge, edge, 1234)
    bill(shop, at, edge, edge + 3 * 3600, 777)
    bill(shop, at, seconds(2025, 1, 1), seconds(2025, 2, 28, 23, 59, 59), 5900)
    bill(shop, at, seconds(2025, 1, 31, 23, 59, 59), seconds(2025, 1, 31, 23, 59, 59), 50)
    taxes = [
        {"amount": 190, "tax_behavior": "inclusive", "type": "tax_rate_details"},
        {"amount": 7000, "tax_behavior": "exclusive", "type": "tax_rate_details"},
    ]
    discounts = [{"amount": 300, "discount": "di_1"}, {"amount": 33, "discount": "di_2"}]
    taxed = bill(shop, at, *year, 9999, "eur", taxes=taxes, discount_amounts=discounts)
    uncollectible, void = (bill(shop, at, *year, amount, "gbp") for amount in (36_500, 1_000_000))
    open_one = bill(shop, at, *year, 10_000, "gbp")
    for invoice in (uncollectible, void, open_one):
        shop.create_credit_note(invoice, 300, n_lines=2, created=at + DAY)
    shop.void_credit_note(shop.create_credit_note(open_one, 5_000, created=at)["id"])
    note = shop.create_credit_note(taxed, 1000, created=edge)
    [line] = [line for of_note, line in shop.objects("credit_note_lines", False) if of_note == note["id"]]
    shop.update("credit_note_lines", line, discount_amount=40, taxes=taxes)
    shop.update("credit_notes", note["id"], effective_at=edge - 40 * DAY)
    shop.mark_invoice_uncollectible(uncollectible)
    shop.void_invoice(void)
    shop.create_invoice(created=at, currency="gbp", draft=True)


@pytest.mark.parametrize("time_zone", ["UTC", "Pacific/Auckland"])
def test_revenue_is_spread_by_days_over_the_period_of_each_line(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, time_zone: str
) -> None:
    shop.seed_history(45)
    odd_lines(shop)
    prorations = [
        line
        for line in shop.objects("invoice_lines", False).values()
        if (line["parent"]["subscription_item_details"] or {}).get("proration")
    ]
    assert {line["amount"] > 0 for line in prorations} == {True, False}
    make_pipeline(history="2 years", time_zone=time_zone, objects=ON).sync()
    expected = revenue_of(shop, time_zone)
    assert any(day > datetime.now(UTC).date() for day, _ in expected), "periods end in the future"
    shown = {(month, currency): amounts for month, currency, *amounts in ask(folder.published, REVENUE)}
    assert {key: amounts[:3] for key, amounts in shown.items()} == dict(expected)
    assert all(net == revenue + credited for revenue, _, credited, net in shown.values())
    [(same,)] = ask(
        folder.published,
        "SELECT bool_and(net_decimal = net / CASE currency WHEN 'jpy' THEN 1 WHEN 'kwd' THEN 1000 ELSE 100 END)"
        " FROM finance_test.revenue_by_month WHERE abs(net) < 1000000000",
    )
    assert same


def test_the_months_of_a_line_add_up_to_its_amount(make_pipeline: MakePipeline, shop: Shop, folder: DataFolder) -> None:
    at = days_ago(shop, 3)
    bill(shop, at, seconds(2019, 1, 15), seconds(2019, 2, 15), 3100)
    bill(shop, at, seconds(2019, 1, 1), seconds(2020, 1, 1), 36_500, "eur")
    bill(shop, at, seconds(2019, 1, 1), seconds(2019, 4, 1), 1, "jpy")
    bill(shop, at, seconds(2019, 1, 1), seconds(2019, 4, 1), -100, "gbp")
    make_pipeline(objects=ON).sync()
    parts: dict[str, list[int]] = defaultdict(list)
    for _, currency, revenue, *_ in ask(folder.published, f"{REVENUE} ORDER BY month"):
        parts[currency].append(revenue)
    days = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    assert parts == {
        "usd": [1700, 1400],
        "eur": [100 * number for number in days],
        "jpy": [0, 1, 0],
        "gbp": [-34, -32, -34],
    }


# Recurring revenue


class Months:
    """The current month and the five before it, in UTC."""

    def __init__(self, shop: Shop) -> None:
        current = datetime.fromtimestamp(shop.clock.now(), UTC).date().replace(day=1)
        self.first_days = [current]
        while len(self.first_days) < 6:
            self.first_days.insert(0, (self.first_days[0] - timedelta(days=1)).replace(day=1))

    def at(self, month: int, day: int = 1, hour: int = 0) -> int:
        """A time in one of the months, which are counted from 0; Unix seconds."""
        first = self.first_days[month]
        return seconds(first.year, first.month, day, hour)


def subscribe(shop: Shop, at: int, amount: int, currency: str, interval: str = "month", **recurring: Any) -> str:
    """Subscribe a new customer to a new price; returns the id of the subscription."""
    customer = shop.create_customer(created=at, currency=currency)["id"]
    price = shop.create_price(amount=amount, currency=currency, created=at)
    shop.update("prices", price["id"], recurring=price["recurring"] | {"interval": interval} | recurring)
    return str(shop.create_subscription(customer, {price["id"]: 1}, created=at)["id"])


def charge(
    shop: Shop,
    subscription: str,
    start: int,
    end: int,
    amount: int,
    *,
    created: int | None = None,
    proration: bool = False,
    **fields: Any,
) -> str:
    """Finalize the invoice of a subscription for a period, at its start unless `created`; returns the invoice's id."""
    held = shop.objects("subscriptions", False)[subscription]
    items = shop.objects("subscription_items", False).values()
    [item] = [one for one in items if one["subscription"] == subscription]
    pricing = {"price_details": {"price": item["price"]["id"], "product": item["price"]["product"]}}
    details = {"subscription": subscription, "subscription_item": item["id"], "proration": proration}
    line = {
        "amount": amount,
        "period": {"start": start, "end": end},
        "pricing": pricing,
        "parent": {"subscription_item_details": details, "type": "subscription_item_details"},
    }
    invoice = shop.create_invoice(
        held["customer"],
        created=created or start,
        currency=held["currency"],
        subscription=subscription,
        lines=[line | fields],
    )
    return str(invoice["id"])


def mrr_of(folder: DataFolder, months: Months) -> dict[str, list[int]]:
    """The recurring revenue of the six months by currency; 0 for those without a row."""
    shown: dict[str, list[int]] = defaultdict(lambda: [0] * 6)
    for month, currency, amount in ask(folder.published, "SELECT month, currency, mrr FROM finance_test.mrr"):
        if month in months.first_days:
            shown[currency][months.first_days.index(month)] = amount
    return shown


def movements_of(folder: DataFolder, months: Months, currency: str) -> dict[str, dict[int, int]]:
    """The movements of a currency that are not 0, by name and month; the sums are checked."""
    shown: dict[str, dict[int, int]] = defaultdict(dict)
    columns = ("opening", *MOVEMENTS, "closing")
    before = 0
    for month, *amounts in ask(
        folder.published,
        f"SELECT month, {', '.join(columns)} FROM finance_test.mrr_movements WHERE currency = '{currency}' ORDER BY 1",
    ):
        row = dict(zip(columns, amounts, strict=True))
        assert row["opening"] == before
        before = row["closing"]
        assert row["opening"] + sum(row[name] for name in MOVEMENTS) == row["closing"]
        assert row["closing"] == mrr_of(folder, months)[currency][months.first_days.index(month)]
        for name in MOVEMENTS:
            if row[name]:
                shown[name][months.first_days.index(month)] = row[name]
    return shown


def trading(shop: Shop, months: Months) -> None:
    """Subscriptions whose recurring revenue is known, each in a currency of its own."""
    at = months.at
    # Ten dollars a month for each seat: two more seats in the middle of a period, canceled in the middle of another.
    growing = subscribe(shop, at(0, 10), 1000, "usd")
    [item] = [one["id"] for one in shop.objects("subscription_items", False).values() if one["subscription"] == growing]
    starts = [at(0, 10) + n * 30 * DAY for n in range(4)]
    upgrade = next(start for start in starts if start > at(2)) + 15 * DAY
    assert upgrade < at(3)
    for start in starts:
        shop.pay_invoice(shop.invoice_subscription(growing, created=start)["id"], created=start)
        if start < upgrade < start + 30 * DAY:
            shop.change_subscription_item(item, quantity=3, created=upgrade)
    charge(shop, growing, starts[-1] + 30 * DAY, starts[-1] + 60 * DAY, 3000)
    shop.cancel_subscription(growing, created=at(4, 20))
    # A year for 120,006 yen, from the second month on.
    yearly = subscribe(shop, at(1, 3), 120_006, "jpy", "year")
    charge(shop, yearly, at(1, 3), at(1, 3) + 365 * DAY, 120_006)
    # Left after the first month, back in the fourth at half the price.
    returning = subscribe(shop, at(0, 2), 900, "eur")
    charge(shop, returning, at(0, 2), at(1, 2), 900)
    shop.cancel_subscription(returning, created=at(1, 2))
    customer = shop.objects("subscriptions", False)[returning]["customer"]
    price = shop.create_price(amount=900, currency="eur", created=at(3, 5))["id"]
    again = shop.create_subscription(customer, {price: 1}, created=at(3, 5))["id"]
    discount = [{"amount": 450, "discount": "di_1"}]
    charge(shop, again, at(3, 5), at(4, 5), 900, discount_amounts=discount)
    charge(shop, again, at(4, 5), at(5, 5), 900, discount_amounts=discount)
    charge(shop, again, at(5, 5) if at(5, 5) < shop.clock.now() else at(5), at(5) + 40 * DAY, 900)


def test_recurring_revenue_and_its_movements(make_pipeline: MakePipeline, shop: Shop, folder: DataFolder) -> None:
    months = Months(shop)
    trading(shop, months)
    make_pipeline(history="8 months", objects=ON).sync()
    shown = mrr_of(folder, months)
    assert shown["usd"] == [1000, 1000, 3000, 3000, 0, 0]
    assert shown["jpy"] == [0, 10_001, 10_001, 10_001, 10_001, 10_001]
    assert shown["eur"][:5] == [900, 0, 0, 450, 450]
    assert movements_of(folder, months, "usd") == {"new": {0: 1000}, "expansion": {2: 2000}, "churn": {4: -3000}}
    assert movements_of(folder, months, "jpy") == {"new": {1: 10_001}}
    moved = movements_of(folder, months, "eur")
    assert moved["new"] == {0: 900}
    assert moved["churn"] == {1: -900}
    assert moved["reactivation"] == {3: 450}
    [counts] = ask(
        folder.published,
        "SELECT customers, subscriptions, mrr_decimal FROM finance_test.mrr"
        f" WHERE currency = 'usd' AND month = '{months.first_days[3]}'",
    )
    assert counts == (1, 1, 30)


def test_recurring_revenue_is_normalized_to_a_month(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    months = Months(shop)
    end = months.at(4)
    units = {"usd": ("day", 1, 1), "eur": ("week", 2, 14), "gbp": ("week", 4, 28), "chf": ("year", 1, 366)}
    units |= {"jpy": ("month", 1, 28), "dkk": ("month", 1, 31), "sek": ("month", 3, 92), "nok": ("month", 6, 181)}
    gone: dict[str, Any] = {"pricing": {"price_details": {"price": "price_gone", "product": "prod_gone"}}}
    for currency, (interval, count, days) in units.items():
        subscription = subscribe(shop, end - days * DAY, 1000, currency, interval, interval_count=count)
        charge(shop, subscription, end - days * DAY, end, 1000)
    for currency, days in {"aud": 30, "nzd": 92, "cad": 365, "pln": 7}.items():
        subscription = subscribe(shop, end - days * DAY, 1000, currency)
        charge(shop, subscription, end - days * DAY, end, 1000, **gone)
    # The rest of a period before the first full one, and a subscription that was backdated.
    for currency, days in {"czk": 20, "huf": 100}.items():
        charge(shop, subscribe(shop, end - days * DAY, 1000, currency), end - days * DAY, end, 1000)
    # From 10 to 25 in the middle of 31 days; no table has the former price any more.
    swapped = subscribe(shop, end - 20 * DAY, 2500, "brl")
    start, behind = end - 20 * DAY, end + 11 * DAY
    charge(shop, swapped, start, behind, 1000, **gone)
    half = start + 31 * DAY // 2
    charge(shop, swapped, half, behind, -500, created=behind, proration=True, **gone)
    charge(shop, swapped, half, behind, 1250, created=behind, proration=True)
    make_pipeline(history="2 years", objects=ON).sync()
    assert {currency: amounts[3] for currency, amounts in mrr_of(folder, months).items()} == {
        "usd": 30_417,
        "eur": 2167,
        "gbp": 1083,
        "chf": 83,
        "jpy": 1000,
        "dkk": 1000,
        "sek": 333,
        "nok": 167,
        "aud": 1000,
        "nzd": 333,
        "cad": 83,
        "pln": 4345,
        "czk": 1521,
        "huf": 304,
        "brl": 2500,
    }


def test_the_settings_say_whether_trials_unpaid_periods_and_usage_recur(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    months = Months(shop)
    at = months.at
    customer = shop.create_customer(created=at(2, 20), currency="jpy")["id"]
    price = shop.create_price(amount=5000, currency="jpy", created=at(2, 20))["id"]
    tried = shop.create_subscription(customer, {price: 2}, trial_days=14, created=at(2, 20))["id"]
    charge(shop, tried, at(2, 20), at(2, 20) + 14 * DAY, 0)
    charge(shop, tried, at(2, 20) + 14 * DAY, at(2, 20) + 44 * DAY, 10_000)
    for currency, outcome, after in (("usd", "failed", ""), ("eur", "failed", "mark"), ("gbp", "", "due")):
        subscription = subscribe(shop, at(3, 5), 1000, currency)
        invoice = charge(shop, subscription, at(3, 5), at(4, 5), 1000)
        if outcome:
            shop.pay_invoice(invoice, outcome=outcome)
        if after == "mark":
            shop.mark_invoice_uncollectible(invoice)
        if after == "due":
            shop.update("invoices", invoice, due_date=at(4))
    charge(shop, subscribe(shop, at(3, 5), 1000, "chf"), at(3, 5), at(4, 5), 1000)  # not yet tried
    void = charge(shop, subscribe(shop, at(3, 5), 1000, "nok"), at(3, 5), at(4, 5), 1000)
    shop.void_invoice(void)
    charge(shop, subscribe(shop, at(3, 5), 1000, "dkk"), at(3, 5), at(4, 5), 1000, created=at(4, 5))  # usage
    shop.create_invoice(created=at(3, 5), currency="sek", n_lines=2)

    def of_month(number: int, **mrr: bool) -> dict[str, int]:
        make_pipeline(history="8 months", objects=ON, mrr=mrr).sync()
        return {currency: amounts[number] for currency, amounts in mrr_of(folder, months).items() if amounts[number]}

    paid = {"jpy": 10_000, "chf": 1000}
    unpaid = dict.fromkeys(("usd", "eur", "gbp"), 1000)
    assert of_month(3) == paid | unpaid
    assert of_month(3, past_due=False) == paid
    assert of_month(3, metered=True) == paid | unpaid | {"dkk": 1000}
    assert of_month(2) == {}
    assert of_month(2, trials=True) == {"jpy": 10_000}


def test_drafts_that_stripe_will_finalize_recur_in_the_current_month_and_no_others(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    at = days_ago(shop, 2)
    for currency, auto_advance in (("usd", True), ("eur", False)):
        invoice = shop.invoice_subscription(subscribe(shop, at, 1000, currency), created=at)
        shop.update("invoices", invoice["id"], auto_advance=auto_advance)
    soon = int(shop.clock.now()) + 3600
    charge(shop, subscribe(shop, at, 1000, "gbp"), soon, soon + 30 * DAY, 1000, created=at)
    make_pipeline(objects=ON).sync()
    assert mrr_of(folder, Months(shop)).keys() == {"usd"}


def test_months_of_recurring_revenue_end_in_the_time_zone_of_the_settings(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    months = Months(shop)
    evening, later = (months.at(month) - 6 * 3600 for month in (3, 4))  # it is the next month in Auckland
    charge(shop, subscribe(shop, evening, 1000, "usd"), evening, later, 1000)
    for zone, month in (("UTC", 2), ("Pacific/Auckland", 3)):
        make_pipeline(history="8 months", objects=ON, time_zone=zone).sync()
        assert [number for number in range(6) if mrr_of(folder, months)["usd"][number]] == [month]


@pytest.mark.both_modes
def test_movements_lead_from_month_to_month_in_a_shop_with_a_history(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.seed_history(75)
    make_pipeline(history="100 days", objects=ON).sync()
    months = Months(shop)
    [(currencies, least)] = ask(
        folder.published, "SELECT list(DISTINCT currency), count(DISTINCT month) FROM finance_test.mrr"
    )
    assert {"usd", "jpy"} <= set(currencies)
    assert least >= 3
    names = {name for currency in currencies for name in movements_of(folder, months, currency)}
    assert {"new", "expansion", "churn"} <= names
    [(live, test)] = ask(
        folder.published, "SELECT (SELECT sum(mrr) FROM finance.mrr), (SELECT sum(mrr) FROM finance_test.mrr)"
    )
    assert live > 0
    assert live != test


# Settings


def described(folder: DataFolder, view: str) -> dict[str, str]:
    with duckdb.connect(str(folder.published), read_only=True) as connection:
        columns = connection.execute(f"DESCRIBE finance_test.{view}").fetchall()
    return {name: kind for name, kind, *_ in columns}


@pytest.mark.parametrize(
    ("objects", "empty"),
    [
        ({}, "mrr"),
        ({"subscriptions": {"enabled": False}}, "mrr"),
        ({**ON, "invoice_lines": {"enabled": False}}, "mrr revenue_by_month"),
        ({**ON, "invoices": {"enabled": False}}, "mrr revenue_by_month"),
        ({**ON, "invoice_lines": {"fields": {"exclude": ["taxes"]}}}, "mrr revenue_by_month"),
        ({**ON, "subscriptions": {"enabled": True, "fields": {"hash": ["customer"]}}}, "mrr"),
        (ON, ""),
    ],
)
def test_views_without_what_they_need_are_typed_and_empty(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, objects: dict[str, Any], empty: str
) -> None:
    at = days_ago(shop, 5)
    subscription = subscribe(shop, at, 1000, "usd")
    shop.create_credit_note(charge(shop, subscription, at, at + 30 * DAY, 1000), 100)
    pipeline = make_pipeline(objects=objects)
    pipeline.sync()
    for view in (revenue_by_month, mrr, mrr_movements):
        declared = view(Settings())
        shown = ask(folder.published, f"FROM finance_test.{declared.name}")
        assert bool(shown) is (declared.name.removesuffix("_movements") not in empty.split())
        columns = {column.name: column.sql_type for column in declared.columns}
        assert list(described(folder, declared.name).items()) == list(columns.items())
    credited = ask(folder.published, "SELECT sum(credited) FROM finance_test.revenue_by_month")
    assert credited == [(-100 if "credit_notes" in objects and "revenue_by_month" not in empty else None,)]


# The page


@pytest.mark.both_modes
def test_the_queries_of_the_finance_page_have_rows_and_use_one_view(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    queries = [query.strip() for query in re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)]
    assert len(queries) == 10
    shop.seed_history(45)
    make_pipeline(objects=ON | {"payouts": {"enabled": True}}).sync()
    there = {f"{schema}.{view.name}" for view in views(Settings()) for schema in view.schemas}
    used = set()
    for query in queries:
        assert "->" not in query
        [view] = re.findall(r"(?:FROM|JOIN|,)\s+((?:live|finance)\.\w+)", query)
        if view in there:
            used.add(view)
            assert ask(folder.published, query), query
    assert used >= {"finance.revenue_by_month", "finance.mrr", "finance.mrr_movements", "live.payments"}
