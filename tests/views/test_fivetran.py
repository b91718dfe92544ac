"""The views with Fivetran's tables: their columns and types, their totals beside our own tables, and the setting."""

from __future__ import annotations

from typing import Any

import pytest

from stripe_emulator import Shop
from stripe_emulator.shop.history import seed_history
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.catalog import views
from stripe_pipeline.views.fivetran.tables import TABLES
from stripe_pipeline.views.view import FIVETRAN
from tests.conftest import MakePipeline
from tests.stripe_state import ask

ON = {"fivetran": True}
OBJECTS = {
    "payouts": {"enabled": True},
    "subscriptions": {"enabled": True},
    "account": {"enabled": True},
    "charges": {"fields": {"exclude": ["billing_details.phone"], "hash": ["receipt_email"]}},
    "customers": {"fields": {"exclude": ["phone", "address.line1"], "hash": ["email"]}},
    "invoices": {"fields": {"exclude": ["due_date"]}},
}


@pytest.mark.both_modes
def test_the_totals_are_those_of_our_tables(make_pipeline: MakePipeline, shop: Shop, folder: DataFolder) -> None:
    seed_history(shop, 12)
    for livemode in (True, False):
        for currency in ("eur", "jpy"):
            shop.create_payment(currency=currency, livemode=livemode, outcome="succeeded")
        charge = shop.create_payment(livemode=livemode)["latest_charge"]
        shop.dispute(charge, livemode=livemode)
        shop.refund(shop.create_payment(livemode=livemode)["latest_charge"], livemode=livemode)
    make_pipeline(history="12 days", compat=ON, objects=OBJECTS).sync()

    def equal(theirs: str, ours: str) -> list[Any]:
        found = ask(folder.published, theirs)
        assert found == ask(folder.published, ours), theirs
        assert found
        assert all(value is not None for row in found for value in row), theirs
        return found

    for schema, mode in FIVETRAN.items():
        sums = "SELECT currency, count(*), sum(amount), sum(fee), sum(net) FROM {} GROUP BY ALL ORDER BY ALL"
        currencies = equal(sums.format(f"{schema}.balance_transaction"), sums.format(f"{mode}.balance_transactions"))
        assert len(currencies) > 1
        for theirs, ours in (
            *(("charge", "charges"), ("refund", "refunds"), ("dispute", "disputes"), ("payout", "payouts")),
            *(("fee", "fee_details"), ("payment_intent", "payment_intents"), ("invoice_line_item", "invoice_lines")),
        ):
            sums = "SELECT currency, count(*), sum(amount) FROM {} GROUP BY ALL ORDER BY ALL"
            equal(sums.format(f"{schema}.{theirs}"), sums.format(f"{mode}.{ours}"))
        for theirs, ours in (
            ("customer", "customers"),
            ("subscription_history", "subscriptions"),
            ("subscription_item", "subscription_items"),
            ("payout_balance_transaction", "payout_balance_transactions"),
        ):
            equal(f"SELECT count(*) FROM {schema}.{theirs}", f"SELECT count(*) FROM {mode}.{ours}")
        equal(
            f"SELECT id, invoice_id FROM {schema}.charge WHERE invoice_id IS NOT NULL ORDER BY ALL",
            f"SELECT charge, invoice FROM {mode}.payments WHERE invoice IS NOT NULL ORDER BY ALL",
        )
        equal(
            f"SELECT sum(total), sum(amount_paid), count(charge_id) FROM {schema}.invoice"
            " WHERE paid AND amount_paid > 0",
            f"SELECT sum(total), sum(amount_paid), count(*) FROM {mode}.invoices"
            " WHERE status = 'paid' AND amount_paid > 0",
        )
        equal(
            f"SELECT max(created), min(available_on) FROM {schema}.balance_transaction",
            f"SELECT make_timestamp(epoch_us(max(created))), make_timestamp(epoch_us(min(available_on)))"
            f" FROM {mode}.balance_transactions",
        )
        equal(
            f"SELECT p.id, p.amount FROM {schema}.payout p JOIN {schema}.balance_transaction b ON b.payout_id = p.id"
            " WHERE b.type <> 'payout' GROUP BY ALL HAVING sum(b.net) = p.amount ORDER BY ALL",
            f"SELECT payout, amount FROM {schema.replace('fivetran', 'finance')}.payouts WHERE tied ORDER BY ALL",
        )
        [(accounts, ids)] = ask(folder.published, f"SELECT count(*), count(DISTINCT id) FROM {schema}.account")
        assert (accounts, ids) == (1, 1)
        assert ask(folder.published, f"SELECT DISTINCT livemode FROM {schema}.charge") == [(mode == "live",)]
        [left_out] = ask(
            folder.published,
            f"SELECT count(phone), count(address_line_1), count(email), count(*) FILTER (email LIKE '%@%') FROM"
            f" {schema}.customer",
        )
        assert left_out[:2] == (0, 0)
        assert left_out[2] > 0
        assert left_out[3] == 0
        assert ask(folder.published, f"SELECT count(due_date) FROM {schema}.invoice") == [(0,)]


@pytest.mark.parametrize("loaded", [True, False])
def test_every_charge_has_its_payment_method(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, loaded: bool
) -> None:
    seed_history(shop, 12)
    for method in (
        shop.create_payment()["payment_method"],
        shop.attach_payment_method(shop.create_customer()["id"])["id"],
    ):
        shop.create_payment(payment_method=method)
    make_pipeline(history="12 days", compat=ON, objects={"payment_methods": {"enabled": loaded}}).sync()
    # In the emulator, each charge of a payment method has a card of any brand. Methods of charges have no `created`.
    alone = "m.created IS NULL AND count(*) OVER (PARTITION BY c.payment_method) = 1"
    brand = f"CASE WHEN {alone} THEN d.brand = c.card_brand ELSE d.brand IS NOT NULL END"
    joined = (
        f"SELECT c.id, m.type = (c.payment_method_details->>'type'), {brand} FROM test.charges c"
        " LEFT JOIN fivetran_test.payment_method m ON m.id = c.payment_method"
        " LEFT JOIN fivetran_test.payment_method_card d ON d.payment_method_id = m.id ORDER BY ALL"
    )
    of_charges = "SELECT id, true, true FROM test.charges ORDER BY ALL"
    assert ask(folder.published, joined) == ask(folder.published, of_charges)
    count = "SELECT count(*), count(DISTINCT id) FROM fivetran_test.payment_method"
    [(methods, ids)] = ask(folder.published, count)
    assert methods == ids
    if loaded:
        attached = ask(folder.published, "SELECT count(*) FROM test.payment_methods")
        assert methods > attached[0][0] > 0, "guests' methods and attached ones"
        kept = "SELECT count(*) FROM fivetran_test.payment_method WHERE created IS NOT NULL"
        assert ask(folder.published, kept) == attached


def test_prices_and_discounts_of_invoices(make_pipeline: MakePipeline, shop: Shop, folder: DataFolder) -> None:
    seed_history(shop, 12)
    price = {"unit_amount_decimal": "250.5", "price_details": None, "type": "price_details"}
    for behavior in ("exclusive", "inclusive"):
        taxes = [{"amount": 80, "tax_behavior": behavior}]
        line = {"amount": 501, "quantity": 2, "description": behavior, "pricing": price, "taxes": taxes}
        shop.create_invoice(lines=[line])
    objects = {"subscriptions": {"enabled": True}, "invoice_discounts": {"enabled": True}}
    make_pipeline(history="12 days", compat=ON, objects=objects).sync()
    lines = "SELECT description, unit_amount_excluding_tax FROM fivetran_test.invoice_line_item"
    found = ask(folder.published, f"{lines} WHERE description LIKE '%clusive' ORDER BY ALL")
    assert found == [("exclusive", "250.5"), ("inclusive", None)]
    discounts = "SELECT invoice_id, sum(amount) FROM fivetran_test.discount GROUP BY ALL ORDER BY ALL"
    amounts = (
        "SELECT id, sum(part.amount) FROM (SELECT id, unnest(from_json(total_discount_amounts,"
        ' \'[{"amount": "BIGINT"}]\')) AS part FROM test.invoices) GROUP BY ALL ORDER BY ALL'
    )
    found = ask(folder.published, discounts)
    assert found == ask(folder.published, amounts)
    assert found


def test_all_tables_exist_with_their_types_also_where_nothing_is_loaded(
    make_pipeline: MakePipeline, folder: DataFolder
) -> None:
    only = {name: {"enabled": False} for name in ("customers", "invoices", "refunds", "disputes", "payment_intents")}
    make_pipeline(compat=ON, objects=only).sync()
    declared = {
        view.name: view for view in views(Settings.model_validate({"compat": ON})) if view.schemas == (*FIVETRAN,)
    }
    assert set(declared) == {table.name for table in TABLES}
    for schema in FIVETRAN:
        for name, view in declared.items():
            of = f"schema_name = '{schema}' AND table_name = '{name}'"
            sql = f"SELECT column_name, data_type FROM duckdb_columns() WHERE {of}"
            assert dict(ask(folder.published, sql)) == {column.name: column.sql_type for column in view.columns}
            assert ask(folder.published, f"SELECT count(*) FROM {schema}.{name}") == [(0,)]


def test_the_schemas_follow_the_setting(make_pipeline: MakePipeline, folder: DataFolder) -> None:
    sql = "SELECT count(DISTINCT schema_name), count(*) FROM duckdb_views() WHERE schema_name LIKE 'fivetran%'"
    there = "SELECT count(*) FROM duckdb_schemas() WHERE schema_name LIKE 'fivetran%'"
    for setting, schemas in ((False, 0), (True, 2), (False, 0)):
        pipeline = make_pipeline(compat={"fivetran": setting})
        pipeline.sync()
        pipeline.__exit__()
        assert ask(folder.published, sql) == [(schemas, schemas * len(TABLES))]
        assert ask(folder.published, there) == [(schemas,)]
