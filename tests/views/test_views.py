"""The columns and comments that views add to base tables: default date and day, custom fields, major units, titles.

Also that each view shows one mode. The tests go from the emulator to the published file.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from typing import Any

import duckdb
import pytest

from stripe_emulator import Server, Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.objects import DEFAULT_TYPES
from stripe_pipeline.views.catalog import views
from tests.conftest import KEYS, TEST_KEY, MakePipeline
from tests.stripe_state import ask, days_ago, held_by_stripe, rows

LIVE = {"STRIPE_API_KEY": KEYS["STRIPE_API_KEY"]}


def types(folder: DataFolder, view: str) -> dict[str, str]:
    """The DuckDB types of a view's columns, by name."""
    with duckdb.connect(str(folder.published), read_only=True) as connection:
        described = connection.execute(f"DESCRIBE {view}").fetchall()
    return {name: kind for name, kind, *_ in described}


@pytest.mark.both_modes
def test_amounts_in_major_units_are_exact_in_every_currency(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    day = days_ago(shop, 2)
    amounts = {"jpy": 1234567, "kwd": 1234567, "dkk": 1234567, "usd": 2**31 + 1, "ugx": 500}
    # Stripe's page "Supported currencies".
    integral = ["bif", "clp", "djf", "gnf", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"]
    thousandths = ["bhd", "jod", "omr", "tnd"]
    amounts |= dict.fromkeys([*integral, *thousandths], 12340)
    for currency, amount in amounts.items():
        shop.create_payment(livemode=True, created=day, amount=amount, currency=currency)
    shop.create_customer(livemode=True, created=day, balance=-250, currency="dkk")
    shop.create_invoice(livemode=True, created=day, currency="kwd", lines=[{"amount": 1500}, {"amount": 3}])
    make_pipeline(LIVE).sync()
    exact = {
        "jpy": Decimal("1234567"),
        "kwd": Decimal("1234.567"),
        "dkk": Decimal("12345.67"),
        "usd": Decimal("21474836.49"),
        "ugx": Decimal("5"),  # Stripe represents it with two decimals
        **dict.fromkeys(integral, Decimal(12340)),
        **dict.fromkeys(thousandths, Decimal("12.34")),
    }
    assert dict(ask(folder.published, "SELECT currency, amount_decimal FROM live.charges")) == exact
    assert dict(ask(folder.published, "SELECT currency, amount FROM raw.charges")) == amounts
    assert ask(folder.published, "SELECT balance_decimal FROM live.customers WHERE currency = 'dkk'") == [
        (Decimal("-2.5"),)
    ]
    assert ask(folder.published, "SELECT total_decimal FROM live.invoices") == [(Decimal("1.503"),)]
    assert ask(folder.published, "SELECT sum(amount_decimal) FROM live.invoice_lines") == [(Decimal("1.503"),)]
    without = "SELECT bool_and(balance = 0 AND balance_decimal IS NULL) FROM live.customers WHERE currency IS NULL"
    assert ask(folder.published, without) == [(True,)]
    for table, name in (("charges", "amount"), ("balance_transactions", "net"), ("invoices", "amount_due")):
        assert types(folder, f"live.{table}")[f"{name}_decimal"] == "DECIMAL(23,3)"


@pytest.mark.both_modes
def test_custom_fields_are_typed_columns_from_any_path(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    day = days_ago(shop, 2)
    metadata = {
        "order_id": "A-17",
        "a b": "spaced",
        "dot.ted": "dotted",
        "quantity": "12",
        "at": "1700000000",
        "x": "?",
        "it's": "quoted",
        "written": "2023-11-14T22:13:20Z",
        "elsewhere": "2023-11-15 00:13:20+02",
        "zoneless": "2023-11-14T22:13:20",
        "minute": "2023-11-14 22:13",
        "day": "2023-11-14",
        "part": "12.7",
        "huge": "9" * 18,
        "nan": "nan",
        "ever": "infinity",
    }
    paid = shop.create_payment(livemode=True, created=day, metadata=metadata)
    shop.update("charges", paid["latest_charge"], metadata=metadata, brand_new={"deep": [1, {"er": True}]})
    custom: dict[str, Any] = {
        "order_id": "metadata.order_id",
        "spaced": "metadata.a b",
        "dotted": 'metadata."dot.ted"',
        "quantity": {"path": "metadata.quantity", "type": "integer"},
        "ordered_at": {"path": "metadata.at", "type": "timestamp"},
        "written_at": {"path": "metadata.written", "type": "timestamp"},
        **{
            name: {"path": f"metadata.{name}", "type": "timestamp"}
            for name in ("elsewhere", "zoneless", "minute", "day")
        },
        "quoted": "metadata.it's",
        "wrong": {"path": "metadata.x", "type": "number"},
        "wrong_at": {"path": "metadata.x", "type": "timestamp"},
        "wrong_part": {"path": "metadata.part", "type": "integer"},
        "part": {"path": "metadata.part", "type": "number"},
        "huge": {"path": "metadata.huge", "type": "integer"},
        "wrong_huge": {"path": "metadata.huge", "type": "timestamp"},
        "wrong_nan": {"path": "metadata.nan", "type": "number"},
        "wrong_ever": {"path": "metadata.ever", "type": "timestamp"},
        "amount_text": {"path": "amount", "type": "text"},
        "status_json": {"path": "status", "type": "json"},
        "risk": "outcome.risk_level",
        "score": {"path": "outcome.risk_score", "type": "number"},
        "card": {"path": "payment_method_details.card", "type": "json"},
        "deeper": {"path": "_extra.brand_new.deep.1.er", "type": "boolean"},
        "same_status": "status",
        "missing": "metadata.nothing",
    }
    pipeline = make_pipeline(LIVE, objects={"charges": {"custom_fields": custom}})
    pipeline.sync()
    [row] = rows(folder.published, "live.charges")
    [charge] = shop.objects("charges", True).values()
    assert {name: row[name] for name in custom} == {
        "order_id": "A-17",
        "spaced": "spaced",
        "dotted": "dotted",
        "quantity": 12,
        "ordered_at": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
        "written_at": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
        "elsewhere": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
        "zoneless": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
        "minute": datetime(2023, 11, 14, 22, 13, tzinfo=UTC),
        "day": datetime(2023, 11, 14, tzinfo=UTC),
        "quoted": "quoted",
        "wrong": None,
        "wrong_at": None,
        "wrong_part": None,
        "part": 12.7,
        "huge": 10**18 - 1,
        "wrong_huge": None,
        "wrong_nan": None,
        "wrong_ever": None,
        "amount_text": str(charge["amount"]),
        "status_json": '"succeeded"',
        "risk": charge["outcome"]["risk_level"],
        "score": float(charge["outcome"]["risk_score"]),
        "card": row["card"],
        "deeper": True,
        "same_status": "succeeded",
        "missing": None,
    }
    kinds = types(folder, "live.charges")
    assert {name: kinds[name] for name in ("order_id", "quantity", "ordered_at", "score", "card", "deeper")} == {
        "order_id": "VARCHAR",
        "quantity": "BIGINT",
        "ordered_at": "TIMESTAMP WITH TIME ZONE",
        "score": "DOUBLE",
        "card": "JSON",
        "deeper": "BOOLEAN",
    }
    with duckdb.connect(str(folder.published), read_only=True) as connection:
        connection.execute("SET TimeZone = 'Pacific/Auckland'")
        moments = [f"epoch({name})" for name in ("elsewhere", "zoneless", "minute", "day")]
        assert connection.execute(f"SELECT {', '.join(moments)} FROM live.charges").fetchall() == [
            (1_700_000_000, 1_700_000_000, 1_699_999_980, 1_699_920_000)
        ]
    assert ask(folder.published, "SELECT card->>'brand' FROM live.charges") != [(None,)]
    assert ask(folder.published, "SELECT metadata->>'$.\"a b\"' FROM live.charges") == [("spaced",)]
    assert "order_id" not in types(folder, "raw.charges")
    for view in views(pipeline.settings):
        shown = {column.name: column.sql_type for column in view.columns}
        stored = types(folder, f"{view.schemas[0]}.{view.name}")
        assert {name: kind.replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ") for name, kind in stored.items()} == shown
        assert list(stored) == list(shown), "the asset's page shows the same order"

    make_pipeline(LIVE, objects={"charges": {"custom_fields": {"order": "metadata.order_id"}}}).sync()
    assert ask(folder.published, 'SELECT "order" FROM live.charges') == [("A-17",)]  # no backfill is needed
    assert "spaced" not in types(folder, "live.charges")


def at(obj: Any, path: str) -> Any:
    """The value at a dotted path in Stripe's object; None where a part is missing."""
    for name in path.split("."):
        obj = obj.get(name) if obj else None
    return obj


def test_flat_columns_have_the_values_of_their_paths(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    day = days_ago(shop, 2)
    for outcome in ("succeeded", "failed"):
        shop.create_payment(created=day, outcome=outcome)
    shop.create_invoice(created=day, n_lines=12, subscription="sub_1")
    shop.create_invoice(created=day)
    make_pipeline(TEST_KEY).sync()
    flat = {name: object_type.flat for name, object_type in DEFAULT_TYPES.items() if object_type.flat}
    assert flat.keys() == {"charges", "invoices", "invoice_lines"}
    for table, columns in flat.items():
        shown = {
            tuple(row[name] for name in DEFAULT_TYPES[table].key): row
            for row in rows(folder.published, f"test.{table}")
        }
        held = held_by_stripe(shop, DEFAULT_TYPES[table], livemode=False)
        assert shown.keys() == held.keys()
        for column in columns:
            values = {key: at(obj, column.path) for key, obj in held.items()}
            assert {key: row[column.name] for key, row in shown.items()} == values
            assert any(values.values()), column.name
    [lines] = ask(folder.published, "SELECT count(*), count(subscription) FROM test.invoice_lines")
    assert lines == (13, 12)

    names = "card_brand, card_country, card_funding, failure_code, decline_code, risk_level"
    of_payments = ask(folder.published, f"SELECT charge, {names} FROM test.payments ORDER BY charge")
    assert of_payments == ask(folder.published, f"SELECT id, {names} FROM test.charges ORDER BY id")
    assert {row[5] for row in of_payments} == {None, "generic_decline"}


def test_flat_columns_give_way_to_custom_fields_and_to_fields_that_are_not_stored(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.create_payment(created=days_ago(shop, 2), outcome="failed")
    custom = {"risk_level": {"path": "outcome.risk_score", "type": "number"}}
    charges: dict[str, Any] = {"custom_fields": custom, "fields": {"exclude": ["payment_method_details"]}}
    make_pipeline(TEST_KEY, objects={"charges": charges}).sync()
    kinds = types(folder, "test.charges")
    assert (kinds["risk_level"], kinds["decline_code"]) == ("DOUBLE", "VARCHAR")
    assert "card_brand" not in kinds
    sql = "SELECT card_brand, decline_code, risk_level, failure_code FROM test.payments"
    assert ask(folder.published, sql) == [(None, "generic_decline", None, "card_declined")]


@pytest.mark.both_modes
def test_the_default_date_is_created_or_the_date_field_of_the_settings(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.seed_history(5)
    make_pipeline(objects={"balance_transactions": {"date_field": "available_on"}}).sync()
    for table in DEFAULT_TYPES:
        column = "available_on" if table == "balance_transactions" else "created"
        [(same,)] = ask(folder.published, f"SELECT bool_and(default_date = {column}) FROM live.{table}")
        assert same, table


@pytest.mark.both_modes
def test_the_default_day_is_the_utc_day_of_the_default_date_in_every_time_zone(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    midnight = days_ago(shop, 3) // DAY * DAY
    for livemode in (True, False):
        for created in (midnight - 1, midnight, midnight + DAY - 1):
            shop.create_payment(livemode=livemode, created=created)
        shop.create_invoice(livemode=livemode, created=midnight, due_date=midnight + 5 * DAY - 1)
        shop.create_invoice(livemode=livemode, created=midnight)
    moved = {"balance_transactions": {"date_field": "available_on"}, "invoices": {"date_field": "due_date"}}
    make_pipeline(objects=moved).sync()
    first, due = (datetime.fromtimestamp(midnight + n * DAY, UTC).date() for n in (0, 4))
    with duckdb.connect(str(folder.published), read_only=True) as connection:
        for zone, schema in product(("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"), ("live", "test")):
            connection.execute(f"SET TimeZone = '{zone}'")
            for table in DEFAULT_TYPES:
                column = moved.get(table, {}).get("date_field", "created")
                days = connection.execute(f"SELECT default_day, epoch({column}) FROM {schema}.{table}").fetchall()
                assert all(day == (at and datetime.fromtimestamp(at, UTC).date()) for day, at in days), table
            by_day = f"SELECT default_day, count(*) FROM {schema}.{{}} GROUP BY ALL ORDER BY ALL"
            charges = connection.execute(by_day.format("charges")).fetchall()
            assert charges == [(first - timedelta(days=1), 1), (first, 2)]
            assert connection.execute(by_day.format("invoices")).fetchall() == [(due, 1), (None, 1)]
    assert types(folder, "live.charges")["default_day"] == "DATE"


@pytest.mark.both_modes
def test_titles_are_the_comments_of_tables_and_views(make_pipeline: MakePipeline, folder: DataFolder) -> None:
    def comments() -> dict[str, str]:
        described = ask(
            folder.published,
            "SELECT schema_name || '.' || table_name, comment FROM duckdb_tables() WHERE comment IS NOT NULL"
            " UNION ALL SELECT schema_name || '.' || view_name, comment FROM duckdb_views() WHERE comment IS NOT NULL",
        )
        return dict(described)

    make_pipeline(objects={"charges": {"title": "Jenny's card charges"}}).sync()
    assert comments()["raw.charges"].startswith("Jenny's card charges. ")
    assert comments()["live.charges"].startswith("Jenny's card charges. ")
    assert comments()["test.refunds"].startswith("Refunds. ")
    assert comments()["raw.customers"].startswith("Customers. ")  # not the title of the finance view
    assert comments()["finance.customers"].startswith("Customers and ")
    make_pipeline(objects={"charges": {"title": "Payments"}}).publish()
    assert comments()["raw.charges"].startswith("Payments. ")


@pytest.mark.both_modes
def test_both_modes_are_stored_side_by_side_and_each_view_shows_one(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.seed_history(10)
    deleted = next(iter(shop.objects("customers", True)))
    make_pipeline().sync()
    shop.delete_customer(deleted)
    make_pipeline().sync()
    for table in DEFAULT_TYPES:
        for schema, livemode in (("live", True), ("test", False)):
            [(number, clean)] = ask(
                folder.published, f"SELECT count(*), bool_and(livemode = {livemode}) FROM {schema}.{table}"
            )
            assert number == len(held_by_stripe(shop, DEFAULT_TYPES[table], livemode=livemode))
            assert clean or not number
    assert ask(folder.published, f"SELECT count(*) FROM raw.customers WHERE id = '{deleted}'") == [(1,)]


@pytest.mark.both_modes
def test_a_key_of_another_account_is_refused_with_a_remedy(
    make_pipeline: MakePipeline, folder: DataFolder, shop: Shop
) -> None:
    make_pipeline().sync()
    with (
        Server(Shop(account="acct_1SomebodyElse")) as other,
        pytest.raises(WarehouseError, match=r"holds account acct_1.*STRIPE_PIPELINE_DATA"),
    ):
        make_pipeline({"STRIPE_API_KEY": "sk_live_somebody_else"}, url=other.url).sync()


@pytest.mark.both_modes
def test_a_type_that_is_switched_off_is_not_read(make_pipeline: MakePipeline, shop: Shop, server: Server) -> None:
    shop.seed_history(3)
    report = make_pipeline(objects={"disputes": {"enabled": False}, "invoices": {"enabled": False}}).sync()
    assert not {"disputes", "invoices", "invoice_lines"} & report.changes.keys()
    assert not [sent for sent in server.requests if "disputes" in sent.path or "invoices" in sent.path]
