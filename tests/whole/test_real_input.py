"""Objects as Stripe sends them at seven API versions are stored without loss.

The objects of `tests.samples` are made up and always available. Objects recorded from Stripe are read as well if their
folder exists.
"""

from __future__ import annotations

import functools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from stripe_emulator import Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.objects import DEFAULT_TYPES, INVOICE_LINES, OBJECT_TYPES
from tests.conftest import KEYS, MakePipeline
from tests.samples import VERSIONS, declared_fields, made_objects
from tests.stripe_state import (
    Objects,
    held_by_stripe,
    held_by_warehouse,
    rows,
    without_client_secrets,
    without_nulls,
)
from tests.variants import varied

Json = dict[str, Any]

SAMPLES = Path(
    os.environ.get("STRIPE_SAMPLES") or Path(__file__).resolve().parents[3] / "shared" / "stripe" / "samples"
)
DAY = 86_400
OLDEST_HISTORY = date(2010, 1, 1)
LINE = INVOICE_LINES.object
TYPES = {**DEFAULT_TYPES, "payouts": OBJECT_TYPES["payouts"]}
"""The types of which there are samples."""
BY_OBJECT = {object_type.object: object_type for object_type in TYPES.values() if object_type.endpoint}
ON = {"payouts": {"enabled": True}, "payout_balance_transactions": {"enabled": False}}


@functools.cache
def _made_up() -> dict[str, list[Json]]:
    """The made-up objects by API version; lines come with their invoice."""
    return {
        f"made {version}": [obj for obj in _within(made_objects(version)) if obj["object"] != LINE]
        for version in VERSIONS
    }


@functools.cache
def _recorded() -> dict[str, list[Json]]:
    """The recorded objects that can be in a shop together, by API version or file and, where a version has several
    states of one object, by the number of the state; none where their folder is missing."""
    cases: dict[str, list[Json]] = {}
    for version, objects in sorted(_recorded_objects().items()):
        states: dict[tuple[str, str], list[Json]] = {}
        for obj in objects:
            known = states.setdefault((obj["object"], obj["id"]), [])
            if obj not in known:
                known.append(obj)
        for several in states.values():
            for number, obj in enumerate(several, start=1):
                cases.setdefault(f"{version}, state {number}", []).append(obj)
    for objects in cases.values():
        invoices = {obj["id"] for obj in objects if obj["object"] == "invoice"}
        # A line cannot be read without its invoice.
        objects[:] = [obj for obj in objects if obj["object"] != LINE or obj["invoice"] in invoices]
    return {name: objects for name, objects in cases.items() if objects}


def _recorded_objects() -> dict[str, list[Json]]:
    """Every recorded object of these types by API version or file, also those that are nested in others."""
    samples: dict[str, list[Json]] = {}
    for path in sorted((SAMPLES / "recorded").glob("[!_]*.json")):
        for obj in json.loads(path.read_bytes()):
            version = obj.pop("_api_version")
            del obj["_cassette"]
            samples.setdefault(f"recorded {version}", []).extend(_within(obj))
    for path in sorted((SAMPLES / "fixtures").glob("*.json")):
        # An invoice's lines come with it; the line beside it names another invoice, or none.
        resources = json.loads(path.read_bytes())["resources"]
        samples[path.stem] = [
            obj
            for name, resource in resources.items()
            if not name.startswith("deleted_")
            for obj in _within(resource)
            if obj["object"] != LINE
        ]
    return samples


def _within(value: Any) -> Iterator[Json]:
    """The objects that could be listed: `value` itself and those nested in it, outermost first."""
    if isinstance(value, list):
        for item in value:
            yield from _within(item)
    elif isinstance(value, dict):
        kind = value.get("object")
        if isinstance(kind, str) and ("created" in value if kind in BY_OBJECT else kind == LINE):
            yield value
        for item in value.values():
            yield from _within(item)


def _put(shop: Shop, objects: Iterable[Json]) -> None:
    """Fill the shop, and set its clock to three days after the newest object."""
    objects = list(objects)
    for obj in sorted(objects, key=lambda obj: str(obj["object"]) == LINE):
        shop.put(obj)
    newest = max(obj["created"] for obj in objects if "created" in obj)
    shop.clock.advance(newest + 3 * DAY - shop.clock.now())


def _days(objects: Iterable[Json]) -> list[date]:
    return sorted({datetime.fromtimestamp(obj["created"], UTC).date() for obj in objects if "created" in obj})


def _history(days: Iterable[date]) -> date:
    """The first of these days that can be history; those of the fixtures are older than Stripe."""
    return min((day for day in days if day >= OLDEST_HISTORY), default=OLDEST_HISTORY)


def _modes_of(objects: Iterable[Json]) -> set[bool]:
    """The modes of these objects; an object that does not say so is of the test mode."""
    return {bool(obj.get("livemode")) for obj in objects}


def _keys_for(objects: Iterable[Json]) -> dict[str, str]:
    live = _modes_of(objects)
    return {name: key for name, key in KEYS.items() if key.startswith("sk_live_") in live}


def _as_stored(table: str, objects: Objects) -> Objects:
    """The objects as rows represent them: a line of an old API version does not name its invoice, but its row does."""
    if table != INVOICE_LINES.name:
        return objects
    return {key: {"invoice": key[0]} | obj for key, obj in objects.items()}


@pytest.mark.parametrize("case", [*varied(reversed(_made_up()), quick=2), *varied(_recorded(), quick=0)])
def test_everything_in_an_object_is_in_its_row_and_stays_there(
    case: str, shop: Shop, make_pipeline: MakePipeline, folder: DataFolder
) -> None:
    objects = (_made_up() | _recorded())[case]
    _put(shop, objects)
    days = _days(objects)
    pipeline = make_pipeline(_keys_for(objects), history=_history(days), objects=ON)
    # Stripe's samples say that they were created in 2009, which is too early for a settings file.
    pipeline.settings = pipeline.settings.model_copy(update={"history": min(days)})

    report = pipeline.sync(days)

    assert report.failures == {}
    assert report.surprises.seen == {}
    seen = Counter[str]()
    for table, object_type in TYPES.items():
        for livemode in _modes_of(objects):
            stripe = _as_stored(table, held_by_stripe(shop, object_type, livemode=livemode))
            warehouse = held_by_warehouse(folder.published, object_type, livemode=livemode)
            assert warehouse == stripe, f"{table} differs"
            seen[table] += len(warehouse)
            for obj in objects:
                if obj["object"] == object_type.object != LINE and bool(obj.get("livemode")) is livemode:
                    # The sample itself, so that nothing depends on how the emulator stores it.
                    assert _without_lists(warehouse[(obj["id"],)]) == _without_lists(
                        without_nulls(without_client_secrets(obj))
                    )
    assert +seen == _rows_in(objects)

    before = _everything_in(folder)
    report = pipeline.sync()
    assert report.failures == {}
    assert {table: changes.days for table, changes in report.changes.items() if changes.days} == {}
    assert _everything_in(folder) == before


def _everything_in(folder: DataFolder) -> dict[str, list[tuple[Any, ...]]]:
    with duckdb.connect(str(folder.published), read_only=True) as connection:
        return {table: connection.execute(f"SELECT * FROM raw.{table} ORDER BY ALL").fetchall() for table in TYPES}


def _rows_in(objects: Iterable[Json]) -> Counter[str]:
    """How many rows these objects make, by table."""
    keys: dict[str, set[Any]] = {}
    for obj in objects:
        if obj["object"] == LINE:
            keys.setdefault(INVOICE_LINES.name, set()).add((obj["invoice"], obj["id"]))
            continue
        object_type = BY_OBJECT[obj["object"]]
        keys.setdefault(object_type.name, set()).add(obj["id"])
        for child in (child for child in TYPES.values() if child.parent == object_type.name):
            held = obj.get(child.embedded_in or "") or []
            for position, item in enumerate(held["data"] if isinstance(held, dict) else held):
                key = item["id"] if "id" in child.key else position
                keys.setdefault(child.name, set()).add((obj["id"], key))
    return Counter({table: len(held) for table, held in keys.items()})


def _without_lists(obj: Json) -> Json:
    """An invoice apart from its lines and payments: one recorded line joins its invoice only after that was recorded,
    and payments are sent only on request."""
    return {name: value for name, value in obj.items() if name not in ("lines", "payments")}


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_of_all_types_are_made_for_each_version(version: str) -> None:
    objects = made_objects(version)
    counted = _rows_in(objects)
    assert set(counted) == set(TYPES)
    assert min(counted.values()) >= 4
    for obj in objects:
        fields = declared_fields(obj["object"], version)
        assert fields.always.keys() <= obj.keys() <= fields.always.keys() | fields.sometimes.keys()
        assert all(held["created"] <= obj["created"] for held in _within(obj) if "created" in held), obj["id"]
    ids = [(obj["object"], obj["id"]) for obj in _within(objects) if obj["object"] != LINE]
    assert len(ids) == len(set(ids))


def test_the_recorded_samples_are_read_if_they_exist() -> None:
    counted = sum((_rows_in(objects) for objects in _recorded().values()), Counter[str]())
    assert bool(counted) is SAMPLES.is_dir()
    if counted:
        assert counted.keys() >= {"balance_transactions", "disputes", "fee_details", "invoice_lines", "refunds"}
        assert counted["customers"] > 100
        assert counted["charges"] > 15
        assert len(_recorded()) > 10


@pytest.mark.parametrize("version", VERSIONS)
def test_recorded_objects_have_the_fields_that_are_declared_for_their_version(version: str) -> None:
    for obj in _recorded_objects().get(f"recorded {version}", []):
        fields = declared_fields(obj["object"], version)
        # The name of one field was lost when secrets were masked in the recordings.
        names = {"client_secret" if name.startswith("client_<") else name for name in obj}
        assert fields.always.keys() <= names, obj["object"]
        assert names <= fields.always.keys() | fields.sometimes.keys(), obj["object"]


def _customers() -> dict[str, Json]:
    """A customer of the oldest and of the newest version, and one of the newest fixtures if there are any."""
    customers = {
        f"made {version}": next(obj for obj in made_objects(version) if obj["object"] == "customer")
        for version in (VERSIONS[0], VERSIONS[-1])
    }
    for path in sorted((SAMPLES / "fixtures").glob("*.json"))[-1:]:
        customers[path.stem] = json.loads(path.read_bytes())["resources"]["customer"]
    return customers


@pytest.mark.parametrize("case", _customers())
def test_a_deleted_customer_leaves_the_views(
    case: str, shop: Shop, make_pipeline: MakePipeline, folder: DataFolder
) -> None:
    customer = _customers()[case] | {"created": int(shop.clock.now()) - DAY}
    _put(shop, [customer])
    pipeline = make_pipeline(_keys_for([customer]), history=_history(_days([customer])))
    pipeline.sync()
    assert len(rows(folder.published, "test.customers")) == 1

    shop.put({"id": customer["id"], "object": "customer", "deleted": True})
    shop.emit_event("customer.deleted", customer, livemode=False)
    pipeline.sync()

    assert rows(folder.published, "test.customers") == []
    [row] = rows(folder.published, "raw.customers")
    assert row["_deleted_at"] is not None
    assert row["email"] == customer["email"]
