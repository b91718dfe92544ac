"""The views for BI tools: their types, their values next to those of the tables, and when they exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stripe_emulator import Server, Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.settings.environment import load_keys
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.sync.pipeline import Pipeline
from stripe_pipeline.views.catalog import FOR_BI, views
from stripe_pipeline.views.view import BI
from tests.conftest import KEYS, MakePipeline
from tests.documents.test_readme import READERS, read
from tests.stripe_state import ask, days_ago, rows

ON: dict[str, Any] = {name: {"enabled": True} for name in ("payouts", "subscriptions", "products")}
EVERY = ("balance_transactions", "customers", "disputes", "invoice_lines", "invoices", "payments", "payouts", "refunds")
READABLE = re.compile(r"VARCHAR|BIGINT|BOOLEAN|TIMESTAMP|DECIMAL\(\d+,\d+\)")
TYPES = "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE schema_name = '{}' ORDER BY ALL"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The published file, with views for BI tools, of a shop with some days of history in both modes."""
    shop = Shop()
    shop.seed_history(5)
    with Server(shop) as server:
        folder = DataFolder(tmp_path_factory.mktemp("bi") / "data")
        settings = Settings.model_validate({"history": "10 days", "bi": True, "objects": ON})
        with Pipeline(settings=settings, keys=load_keys(KEYS), folder=folder, base_url=server.url) as pipeline:
            pipeline.sync()
        yield folder.published


def bi_views(folder: DataFolder) -> list[str]:
    """The names of the views in the schemas for BI tools."""
    sql = (
        "SELECT schema_name || '.' || view_name FROM duckdb_views() WHERE schema_name IN ('bi', 'bi_test') ORDER BY ALL"
    )
    return [name for (name,) in ask(folder.published, sql)]


def test_every_column_has_a_type_that_every_tool_reads(published: Path) -> None:
    for schema in BI:
        columns = ask(published, TYPES.format(schema))
        assert len({name for name, *_ in columns}) == len(FOR_BI)
        assert [column for column in columns if not READABLE.fullmatch(column[2])] == []


def test_columns_are_as_declared(published: Path) -> None:
    settings = Settings.model_validate({"bi": True, "objects": ON})
    declared = [view for view in views(settings) if view.schemas == tuple(BI)]
    assert len(declared) == len(FOR_BI)
    for view in declared:
        sql = "SELECT column_name, data_type, comment FROM duckdb_columns() WHERE schema_name = 'bi' AND table_name ="
        stored = ask(published, f"{sql} '{view.name}' ORDER BY column_index")
        assert stored == [(column.name, column.sql_type, column.description) for column in view.columns]


@pytest.mark.parametrize("version", READERS)
def test_every_view_can_be_fetched_without_pytz(published: Path, version: str) -> None:
    names = [*EVERY, "subscriptions"]
    results = read(published, version, [f"FROM {schema}.{name}" for schema in BI for name in names], pytz=False)
    assert [error for error in results if isinstance(error, str)] == []
    assert all(results)


def test_views_have_a_row_for_each_object_of_their_mode(published: Path) -> None:
    tables = {name: name for name in EVERY} | {"payments": "charges", "subscriptions": "subscription_items"}
    for schema, mode in BI.items():
        for name, table in tables.items():
            [counts] = ask(
                published, f"SELECT (SELECT count(*) FROM {schema}.{name}), (SELECT count(*) FROM {mode}.{table})"
            )
            assert counts[0] == counts[1] > 0, f"{schema}.{name}"


def test_amounts_and_times_are_those_of_the_tables(published: Path) -> None:
    same = """
        SELECT bool_and(
            b.amount = c.amount AND b.amount_decimal = c.amount_decimal AND b.created = c.created AT TIME ZONE 'UTC'
            AND b.card_last4 IS NOT DISTINCT FROM (c.payment_method_details->>'$.card.last4')
            AND b.risk_score IS NOT DISTINCT FROM (c.outcome->>'$.risk_score')::BIGINT
            AND b.billing_country IS NOT DISTINCT FROM (c.billing_details->>'$.address.country')
            AND b.net_total IS NOT DISTINCT FROM p.net_total
        ), count(b.card_last4) > 0, count(b.risk_score) > 0, count(b.billing_country) > 0
        FROM bi.payments b JOIN live.charges c ON c.id = b.charge JOIN live.payments p ON p.charge = b.charge
    """
    assert ask(published, same) == [(True, True, True, True)]
    items = """
        SELECT bool_and(s.unit_amount_decimal = s.unit_amount / 100), count(s.product_name) = count(*)
        FROM bi.subscriptions s WHERE currency <> 'jpy'
    """
    assert ask(published, items) == [(True, True)]
    lines = "SELECT count(product_name) > 0, count(invoice_status) = count(*) FROM bi.invoice_lines"
    assert ask(published, lines) == [(True, True)]
    assert ask(published, "SELECT sum(total_decimal) FROM bi.invoices GROUP BY currency ORDER BY ALL") == ask(
        published, "SELECT sum(total_decimal) FROM live.invoices GROUP BY currency ORDER BY ALL"
    )


def test_values_below_nested_fields_are_columns(make_pipeline: MakePipeline, shop: Shop, folder: DataFolder) -> None:
    paid = shop.create_payment(created=days_ago(shop, 2))
    [charge] = shop.objects("charges", False).values()
    card = charge["payment_method_details"]["card"] | {
        "wallet": {"type": "apple_pay"},
        "three_d_secure": {"result": "authenticated"},
    }
    shipping = {
        "name": "Ann",
        "phone": "1",
        "address": {"line1": "1 Street", "line2": "b", "city": "Ulm", "country": "DE"},
    }
    outcome = charge["outcome"] | {"network_decline_code": "05", "risk_score": 17}
    details = charge["payment_method_details"] | {"card": card}
    shop.update("charges", paid["latest_charge"], payment_method_details=details, shipping=shipping, outcome=outcome)
    make_pipeline(bi=True).sync()
    [row] = rows(folder.published, "bi_test.payments")
    assert (row["card_wallet"], row["card_three_d_secure"]) == ("apple_pay", "authenticated")
    assert (row["network_decline_code"], row["risk_score"]) == ("05", 17)
    assert [row[f"shipping_{part}"] for part in ("name", "line1", "line2", "city", "country")] == [
        *("Ann", "1 Street", "b", "Ulm", "DE"),
    ]
    assert rows(folder.published, "bi.payments") == []


def test_views_exist_while_the_settings_ask_for_them_and_load_their_table(
    make_pipeline: MakePipeline, folder: DataFolder
) -> None:
    make_pipeline().sync()
    schemas = "SELECT schema_name FROM duckdb_schemas() WHERE starts_with(schema_name, 'bi') ORDER BY ALL"
    assert ask(folder.published, schemas) == []
    make_pipeline(bi=True).sync()
    default = sorted({*EVERY} - {"payouts"})
    assert bi_views(folder) == [f"{schema}.{name}" for schema in ("bi", "bi_test") for name in default]
    make_pipeline(bi=True, objects={**ON, "disputes": {"enabled": False}}).sync()
    changed = sorted({*EVERY, "subscriptions"} - {"disputes"})
    assert bi_views(folder) == [f"{schema}.{name}" for schema in ("bi", "bi_test") for name in changed]
    make_pipeline().sync()
    assert ask(folder.published, schemas) == []


@pytest.mark.comments_of_columns
def test_excluded_and_hashed_fields_stay_so(make_pipeline: MakePipeline, shop: Shop, folder: DataFolder) -> None:
    customer = shop.create_customer(created=days_ago(shop, 3), email="ann@example.com", name="Ann", phone="0711")
    paid = shop.create_payment(customer["id"], created=days_ago(shop, 2))
    billing = {
        "name": "Ann",
        "email": "ann@example.com",
        "phone": "0711",
        "address": {"line1": "1 Street", "city": "Ulm"},
    }
    shop.update("charges", paid["latest_charge"], billing_details=billing, receipt_email="ann@example.com")
    fields = {
        "charges": {
            "exclude": ["billing_details.phone", "shipping"],
            "hash": ["billing_details.email", "receipt_email"],
        },
        "customers": {"exclude": ["phone", "name"], "hash": ["email"]},
    }
    make_pipeline(bi=True, objects={name: {"fields": rules} for name, rules in fields.items()}).sync()
    [payment], [of_customer] = rows(folder.published, "bi_test.payments"), rows(folder.published, "bi_test.customers")
    hashes = {payment["billing_email"], payment["receipt_email"], payment["customer_email"], of_customer["email"]}
    assert len(hashes) == 1, "a hash is the same everywhere"
    assert "ann@example.com" not in hashes
    nulls = ("billing_phone", "shipping_name", "customer_name")
    assert [payment[name] for name in nulls] == [of_customer["phone"], of_customer["name"], None] == [None, None, None]
    assert (payment["billing_name"], payment["billing_city"]) == ("Ann", "Ulm")
    of_columns = (
        "SELECT column_name, comment FROM duckdb_columns() WHERE schema_name = 'bi' AND table_name = 'payments'"
    )
    comments = dict(ask(folder.published, of_columns))
    assert comments["billing_email"] == "Email address given for the payment. Hashed"
    assert comments["billing_phone"] == "Phone number given for the payment. Left out by the settings"
