"""Comparing the published file with what the emulator holds: the one definition of «equal to Stripe» in the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from stripe_pipeline.emulator import Shop
from stripe_pipeline.objects import OBJECT_TYPES, ObjectType
from stripe_pipeline.resources.warehouse import table_columns
from stripe_pipeline.rows import restore

Objects = dict[tuple[Any, ...], dict[str, Any]]


def without_nulls(obj: dict[str, Any]) -> dict[str, Any]:
    """An object as a row can tell it: a field that is null and one that is not there are the same."""
    return {name: value for name, value in obj.items() if value is not None}


def held_by_stripe(shop: Shop, object_type: ObjectType, *, livemode: bool) -> Objects:
    """The emulator's objects by row key, as far as a row can tell them."""
    objects: Objects = {}
    for key, obj in shop.objects(object_type.name, livemode).items():
        if obj.get("test_clock") is not None:
            continue  # Stripe leaves customers on a test clock out of its lists (FACTS.md, The nine types)
        objects[key if isinstance(key, tuple) else (key,)] = without_nulls(obj)
    return objects


def rows(published: Path, table: str) -> list[dict[str, Any]]:
    """All rows of a table or view by column name."""
    with duckdb.connect(str(published), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        cursor = connection.execute(f"SELECT * FROM {table}")
        names = [column[0] for column in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def held_by_warehouse(published: Path, object_type: ObjectType, *, livemode: bool) -> Objects:
    """The published objects of one mode by row key; fails on a key that is there twice."""
    objects: Objects = {}
    for row in rows(published, f"{'live' if livemode else 'test'}.{object_type.name}"):
        key = tuple(row[name] for name in object_type.key)
        if row.get("test_clock") is not None:
            continue
        assert key not in objects, f"{object_type.name} {key} is there twice"
        assert row["livemode"] is livemode
        objects[key] = restore(object_type, row)
    return objects


def assert_equal_to_stripe(shop: Shop, published: Path) -> None:
    """Fail with the first objects that differ, in any table and mode."""
    for object_type in OBJECT_TYPES.values():
        for livemode in (True, False):
            stripe = held_by_stripe(shop, object_type, livemode=livemode)
            warehouse = held_by_warehouse(published, object_type, livemode=livemode)
            where = f"{object_type.name} ({'live' if livemode else 'test'})"
            assert sorted(stripe.keys() - warehouse.keys())[:3] == [], f"{where}: not in the warehouse"
            assert sorted(warehouse.keys() - stripe.keys())[:3] == [], f"{where}: not in Stripe any more"
            for key, obj in stripe.items():
                assert warehouse[key] == _cut_lines(obj), f"{where}: {key} differs"


def _cut_lines(obj: dict[str, Any]) -> dict[str, Any]:
    """Stripe embeds the first ten lines of an invoice only."""
    lines = obj.get("lines")
    if obj.get("object") != "invoice" or not isinstance(lines, dict) or len(lines["data"]) <= 10:
        return obj
    return obj | {"lines": lines | {"data": lines["data"][:10], "has_more": True}}


def all_columns(object_type: ObjectType) -> list[str]:
    """The names of a base table's columns, in order."""
    return [column.name for column in table_columns(object_type)]
