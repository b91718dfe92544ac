"""Compares the published file with the emulator's objects: the one definition of «equal to Stripe» in the tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb

from stripe_emulator import Shop
from stripe_pipeline.days import DAY
from stripe_pipeline.objects import OBJECT_TYPES, ObjectType
from stripe_pipeline.rows import restore
from stripe_pipeline.sync.report import Report

Objects = dict[tuple[Any, ...], dict[str, Any]]
Published = Path | duckdb.DuckDBPyConnection
"""The published file, or a connection to it."""
Difference = tuple[str, bool, tuple[Any, ...], dict[str, Any] | None, dict[str, Any] | None]
"""Table, mode and key, and the objects that Stripe and the warehouse hold under this key."""


def without_nulls(obj: dict[str, Any]) -> dict[str, Any]:
    """An object as a row can represent it: without the fields that are null."""
    return {name: value for name, value in obj.items() if value is not None}


def held_by_stripe(shop: Shop, object_type: ObjectType, *, livemode: bool) -> Objects:
    """The emulator's objects by row key, as a row can represent them."""
    objects: Objects = {}
    for key, obj in shop.objects(object_type.name, livemode).items():
        if obj.get("test_clock") is not None:
            continue  # Stripe leaves customers on a test clock out of its lists (docs/stripe.md#deletions)
        if object_type.name == "invoices":
            obj = _with_payments(shop, obj, livemode=livemode)
        objects[key if isinstance(key, tuple) else (key,)] = without_nulls(without_client_secrets(obj))
    return objects


def without_client_secrets(value: Any) -> Any:
    """`value` without the fields that Stripe says must not be stored, and with client secrets in addresses cut off."""
    if isinstance(value, str):
        return re.sub(r"\b((?:pi|seti|src)_\w*secret_)\w+", r"\1…", value)
    if isinstance(value, list):
        return [without_client_secrets(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: item if name == "metadata" else without_client_secrets(item)
        for name, item in value.items()
        if name not in ("client_secret", "confirmation_secret")
    }


def _with_payments(shop: Shop, invoice: dict[str, Any], *, livemode: bool) -> dict[str, Any]:
    """An invoice with all of its payments, which Stripe includes on request."""
    url = f"/v1/invoice_payments?invoice={invoice['id']}"
    data = shop.payments(invoice["id"], livemode)
    return {"payments": {"object": "list", "data": data, "has_more": False, "url": url}} | invoice


def rows(published: Published, table: str) -> list[dict[str, Any]]:
    """All rows of a table or view by column name."""
    if isinstance(published, Path):
        with duckdb.connect(str(published), read_only=True) as connection:
            return rows(connection, table)
    published.execute("SET TimeZone = 'UTC'")
    cursor = published.execute(f"SELECT * FROM {table}")
    names = [column[0] for column in cursor.description or []]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def held_by_warehouse(published: Published, object_type: ObjectType, *, livemode: bool) -> Objects:
    """The published objects of one mode by row key; fails on a key that occurs twice."""
    objects: Objects = {}
    for row in rows(published, f"{'live' if livemode else 'test'}.{object_type.name}"):
        key = tuple(row[name] for name in object_type.key)
        if row.get("test_clock") is not None:
            continue
        assert key not in objects, f"{object_type.name} {key} occurs twice"
        assert row["livemode"] is livemode
        objects[key] = restore(object_type, row)
    return objects


def stored(published: Published) -> list[ObjectType]:
    """The types that have a table in the published file: those that are on, and optional types that were on before."""
    tables = {row["table_name"] for row in rows(published, "duckdb_tables()") if row["schema_name"] == "raw"}
    return [object_type for name, object_type in OBJECT_TYPES.items() if name in tables]


def differences(shop: Shop, published: Path) -> Iterator[Difference]:
    """All objects that differ, in any stored table and mode."""
    with duckdb.connect(str(published), read_only=True) as connection:
        for object_type in stored(connection):
            if object_type.singleton or object_type.name == "events":
                continue  # rows that outlive what Stripe holds
            for livemode in (True, False):
                stripe = held_by_stripe(shop, object_type, livemode=livemode)
                warehouse = held_by_warehouse(connection, object_type, livemode=livemode)
                if not object_type.lists_all:
                    held = shop.collection(object_type.name, livemode).objects
                    listed = {object_id for object_id, obj in held.items() if _is_listed(object_type, obj)}
                    stripe = {key: obj for key, obj in stripe.items() if key in warehouse or key[0] in listed}
                for key in sorted(stripe.keys() | warehouse.keys()):
                    theirs, ours = stripe.get(key), warehouse.get(key)
                    theirs = theirs and _cut_lines(theirs)
                    if theirs != ours:
                        yield object_type.name, livemode, key, theirs, ours


def _is_listed(object_type: ObjectType, obj: dict[str, Any]) -> bool:
    """Whether a list holds this object of a type whose lists do not hold all objects."""
    return obj.get("customer") is not None if object_type.name == "payment_methods" else not obj.get("inline")


def assert_equal_to_stripe(shop: Shop, published: Path) -> None:
    """Fail with the first object that differs, in any table and mode."""
    for table, livemode, key, stripe, warehouse in differences(shop, published):
        where = f"{table} ({'live' if livemode else 'test'}) {key}"
        assert warehouse is not None, f"{where} is not in the warehouse"
        assert stripe is not None, f"{where} is not in Stripe any more"
        assert warehouse == stripe, f"{where} differs"


def _cut_lines(obj: dict[str, Any]) -> dict[str, Any]:
    """Stripe embeds the first ten lines of an invoice only."""
    lines = obj.get("lines")
    if obj.get("object") != "invoice" or not isinstance(lines, dict) or len(lines["data"]) <= 10:
        return obj
    return obj | {"lines": lines | {"data": lines["data"][:10], "has_more": True}}


def all_columns(object_type: ObjectType) -> list[str]:
    """The names of a base table's columns, in order, without those stored only where settings name them."""
    return [column.name for column in object_type.table_columns if column.name not in object_type.secrets]


def changed(report: Report) -> dict[str, tuple[int, int, int]]:
    """The numbers of rows inserted, updated and deleted, by table, without tables that did not change."""
    counts = {
        table: (changes.inserted.total(), changes.updated.total(), changes.deleted.total())
        for table, changes in report.changes.items()
    }
    return {table: numbers for table, numbers in counts.items() if any(numbers)}


def everything(published: Path) -> dict[str, list[dict[str, Any]]]:
    """All base rows, in a fixed order."""
    tables = [object_type.name for object_type in stored(published)]
    return {table: sorted(rows(published, f"raw.{table}"), key=str) for table in tables}


def ask(published: Path, sql: str) -> list[tuple[Any, ...]]:
    """The result of `sql` on the published file."""
    with duckdb.connect(str(published), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def days_ago(shop: Shop, days: float) -> int:
    """The time that many days ago on the shop's clock, in Unix seconds."""
    return int(shop.clock.now() - days * DAY)
