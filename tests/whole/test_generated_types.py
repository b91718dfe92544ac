"""The generated types: objects with every property that Stripe's OpenAPI document declares, from Stripe to the
published file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from docs import objects
from stripe_emulator import Server, Shop
from stripe_emulator.faults import Fault
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import day_of
from stripe_pipeline.objects import OBJECT_TYPES, ObjectType, children_of
from stripe_pipeline.rows import restore
from tests.conftest import MakePipeline
from tests.openapi import Builder, Json
from tests.stripe_state import ask, days_ago, rows, without_client_secrets, without_nulls

GENERATED = {name: object_type for name, object_type in OBJECT_TYPES.items() if object_type.generated}
SCHEMAS = {objects.table_of(path): schema for path, _, schema in objects.lists()}
ON: Mapping[str, Any] = {name: {"enabled": True} for name in (*GENERATED, "products")}
VARIANTS: tuple[Mapping[str, Any], ...] = (
    *({"variant": variant} for variant in range(4)),
    {"variant": 0, "nulls": True},
    {"variant": 2, "expanded": True},
)
ELSEWHERE = frozenset({"invoice_payments", "webhook_endpoints"})
"""Types that the shop adds itself."""


def put_examples(shop: Shop, *, livemode: bool) -> dict[str, list[Json]]:
    """Add an object of each generated type in each variant; returns the objects by table."""
    product, customer = shop.create_product(livemode=livemode), shop.create_customer(livemode=livemode)
    shop.create_payment(customer["id"], livemode=livemode)
    [intent] = shop.objects("payment_intents", livemode)
    parents = {
        "customers": customer["id"],
        "products": product["id"],
        "payment_intents": intent,
    }
    put: dict[str, list[Json]] = {}
    for name, object_type in sorted(GENERATED.items(), key=lambda named: named[1].parent is not None):
        for number, variant in enumerate(VARIANTS):
            at = days_ago(shop, 5 + number)
            obj = Builder(at=at, livemode=livemode, **variant).build(SCHEMAS[name]) | {"id": f"{name}_{number}"}
            if object_type.parent and object_type.parent_key:
                obj[object_type.parent_key] = parents.get(object_type.parent, f"{object_type.parent}_0")
            shop.put(obj, livemode=livemode, created=obj.get("date", at), type_name=name)
            put.setdefault(name, []).append(obj)
    return put


def as_stored(object_type: ObjectType, obj: Json) -> Json:
    """An object of Stripe as its row can represent it, without secrets and columns that the pipeline adds."""
    added = {column.name for column in object_type.columns if column.added}
    left_out = {*object_type.secrets, *added}
    shown: Json = without_nulls(without_client_secrets(obj))
    return {name: value for name, value in shown.items() if name not in left_out}


def compared(object_type: ObjectType, held: list[Json], published: Any, *, schema: str) -> str:
    """What differs between Stripe's objects and a view, or nothing."""
    theirs = {obj["id"]: as_stored(object_type, obj) for obj in held}
    ours = {row["id"]: restore(object_type, row) for row in rows(published, f"{schema}.{object_type.name}")}
    if theirs.keys() - ours.keys():
        return f"{sorted(theirs.keys() - ours.keys())} are missing"
    for object_id, obj in theirs.items():
        if ours[object_id] != obj:
            names = [name for name in obj.keys() | ours[object_id].keys() if ours[object_id].get(name) != obj.get(name)]
            return f"{object_id} differs in " + "; ".join(
                f"{name}: {obj.get(name)!r} != {ours[object_id].get(name)!r}" for name in sorted(names)
            )
    return ""


@pytest.mark.both_modes
def test_every_generated_type_is_loaded_with_all_that_stripe_describes(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    put = {schema: put_examples(shop, livemode=schema == "live") for schema in ("live", "test")}
    report = make_pipeline(objects=ON).sync()
    assert report.failures == {}
    assert str(report.surprises) == ""
    problems = {
        (schema, name): problem
        for schema, of_mode in put.items()
        for name, held in of_mode.items()
        if (problem := compared(GENERATED[name], held, folder.published, schema=schema))
    }
    assert problems == {}
    odd = {
        name: sorted({*json.loads(extra)})
        for name in GENERATED
        for (extra,) in ask(folder.published, f"SELECT _extra FROM raw.{name} WHERE id NOT LIKE '%_5'")
        if extra is not None
    }
    assert odd == {}


def test_secrets_of_generated_types_are_not_stored(make_pipeline: MakePipeline, shop: Shop, folder: DataFolder) -> None:
    put = put_examples(shop, livemode=False)
    secret = {name: object_type.secrets for name, object_type in GENERATED.items() if object_type.secrets}
    assert secret.keys() >= {"file_links", "files", "issuing_cards", "setup_intents", "webhook_endpoints"}
    on: dict[str, Any] = {name: {"enabled": True} for name in secret}
    make_pipeline(objects=on).sync()
    for name, fields in secret.items():
        assert any(obj.get(field) is not None for obj in put[name] for field in fields), name
        assert {*rows(folder.published, f"test.{name}")[0]}.isdisjoint(fields), name
    on["file_links"] = {"enabled": True, "fields": {"include": [*OBJECT_TYPES["file_links"].column_names]}}
    pipeline = make_pipeline(objects=on)
    pipeline.backfill([day_of(days_ago(shop, n)) for n in range(12)], ["file_links"])
    assert all(row["url"] for row in rows(folder.published, "test.file_links") if row["id"] != "file_links_4")


def test_a_type_that_the_account_may_not_list_does_not_stop_the_others(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    put_examples(shop, livemode=False)
    message = "Your account is not set up to use Issuing. Please visit https://dashboard.stripe.com/issuing/overview."
    body = {"error": {"type": "invalid_request_error", "message": message}}
    server.faults.append(Fault(path="/v1/issuing/", status=400, body=body, times=None))
    on = ("issuing_cards", "issuing_cardholders", "reviews")
    report = make_pipeline(objects={name: {"enabled": True} for name in on}).sync()
    assert report.failures.keys() == {"issuing_cards", "issuing_cardholders"}
    assert "not set up to use Issuing" in str(report.failures["issuing_cards"])
    assert len(rows(folder.published, "test.reviews")) == len(VARIANTS)


def test_children_are_loaded_only_where_they_are_switched_on(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    put_examples(shop, livemode=False)
    make_pipeline(objects={"issuing_cards": {"enabled": True}}).sync()
    assert [child.name for child in children_of(OBJECT_TYPES["issuing_cards"])] == ["issuing_tokens"]
    assert not any(request.path == "/v1/issuing/tokens" for request in server.requests)
    assert not any(request.path.endswith("/tax_ids") for request in server.requests)
