"""The asset pages: lineage of columns, owners, tags of personal data, storage and freshness."""

from __future__ import annotations

import re
from typing import Any

import dagster as dg
import pytest

from stripe_pipeline.assets.columns import LINEAGE, SCHEMA
from stripe_pipeline.assets.freshness import EVERY_NIGHT
from stripe_pipeline.assets.keys import Names
from stripe_pipeline.assets.views import build_view_assets
from stripe_pipeline.definitions import build_defs
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.catalog import views

FIELDS: dict[str, Any] = {
    "charges": {"exclude": ["billing_details.phone"], "hash": ["receipt_email"]},
    "customers": {"exclude": ["name"], "hash": ["email"]},
}


OF_COUPONS = ("amount_off", "amount_off_currency", "amount_off_decimal", "code", "coupon_name", "percent_off")


@pytest.fixture
def specs() -> dict[str, dg.AssetSpec]:
    """The views by asset key, with fields that the settings leave out and hash."""
    objects: dict[str, Any] = {name: {"enabled": True} for name in ("payouts", "subscriptions", "credit_notes")}
    objects |= {table: {"fields": rules} for table, rules in FIELDS.items()}
    settings = Settings.model_validate({"objects": objects, "bi": True, "compat": {"fivetran": True}})
    return {spec.key.to_user_string(): spec for spec in build_view_assets(settings, Names()).specs}


def lineage(spec: dg.AssetSpec) -> dict[str, list[str]]:
    """The columns from which each column is computed, for example `raw/charges.amount`."""
    deps = spec.metadata[LINEAGE].deps_by_column
    return {name: [f"{dep.asset_key.to_user_string()}.{dep.column_name}" for dep in of] for name, of in deps.items()}


def test_columns_say_which_columns_they_are_computed_from(specs: dict[str, dg.AssetSpec]) -> None:
    of_charges = lineage(specs["live/charges"])
    assert of_charges["status"] == ["raw/charges.status"]
    assert of_charges["amount_decimal"] == ["raw/charges.amount", "raw/charges.currency"]
    assert of_charges["default_day"] == ["raw/charges.created"]
    assert of_charges["card_brand"] == ["raw/charges.payment_method_details"]
    of_payments = lineage(specs["test/payments"])
    assert of_payments["charge"] == ["test/charges.id"]
    assert of_payments["fee_decimal"] == ["test/balance_transactions.fee"]
    assert of_payments["invoice_number"] == ["test/invoices.number", "test/invoices.payments"]
    assert "customer_name" not in of_payments, "customers.name is not stored"
    assert lineage(specs["bi_test/payments"])["risk_score"] == ["test/charges.outcome"]
    of_fivetran = lineage(specs["fivetran_test/payment_method_card"])
    assert of_fivetran["brand"] == ["test/charges.payment_method_details"], "payment methods are not loaded"
    assert lineage(specs["fivetran/invoice_line_item"])["price_id"] == ["live/invoice_lines.pricing"]
    of_day = lineage(specs["finance/balance_by_day"])
    assert of_day["day"] == ["live/balance_transactions.created"]
    assert of_day["closing_decimal"] == ["live/balance_transactions.net"]


def test_lineage_names_columns_that_exist_and_covers_every_column(specs: dict[str, dg.AssetSpec]) -> None:
    columns = {key: {column.name for column in spec.metadata[SCHEMA].columns} for key, spec in specs.items()}
    for key, spec in specs.items():
        of_key = lineage(spec)
        above = {dep.asset_key.to_user_string() for dep in spec.deps}
        for sources in of_key.values():
            for asset, _, name in (source.partition(".") for source in sources):
                assert asset in above, f"{key} does not depend on {asset}"
                assert asset.startswith("raw/") or name in columns[asset], f"{asset}.{name}"
        if key.startswith("fivetran"):  # some columns of Fivetran's are always null
            continue
        without = columns[key] - of_key.keys()
        # The settings leave out the name of customers and do not load products, coupons and promotion codes.
        assert without <= {"customer_name", "name", "product_name", *OF_COUPONS}, f"{key}: {without}"


def test_finance_views_name_the_columns_that_they_read() -> None:
    settings = Settings.model_validate({"objects": "all"})
    for view in views(settings):
        if "finance" not in view.schemas:
            continue
        sql = view.select("finance")
        read = {
            (table, column.strip())
            for columns, table in re.findall(r"\(SELECT ([^()]*) FROM live\.(\w+)\)", sql)
            for column in columns.replace('"', "").split(",")
        }
        # Flat columns are those of nested fields.
        flat = {
            (of, column.name): (of, column.path.split(".")[0]) for of in view.tables for column in OBJECT_TYPES[of].flat
        }
        declared = {source for column in view.columns for source in column.sources}
        assert declared <= {flat.get(pair, pair) for pair in read}, view.name
        assert all(column.sources for column in view.columns), view.name


def test_personal_data_that_the_settings_leave_out_or_hash_is_tagged(specs: dict[str, dg.AssetSpec]) -> None:
    def tags(key: str) -> dict[str, str]:
        return {c.name: c.tags["pii"] for c in specs[key].metadata[SCHEMA].columns if "pii" in c.tags}

    assert tags("live/charges") == {"billing_details": "excluded", "receipt_email": "hashed"}
    assert tags("live/customers") == {"email": "hashed"}
    assert tags("live/payments") == {"customer_name": "excluded", "customer_email": "hashed"}
    of_bi = tags("bi/payments")
    assert of_bi["billing_phone"] == "excluded"
    assert "billing_city" not in of_bi
    assert tags("fivetran/charge") == {"billing_detail_phone": "excluded", "receipt_email": "hashed"}
    assert tags("finance/customers") == {"name": "excluded", "email": "hashed"}
    assert specs["live/charges"].tags["pii"] == "excluded_and_hashed"
    assert "pii" not in specs["live/disputes"].tags
    assert "pii" not in specs["live/payment_intents"].tags, "Stripe's secrets are not about persons"


def test_owners_storage_and_freshness(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    file = tmp_path / "settings.yaml"
    owners = ["team:finance", "jenny.rosen@example.com"]
    file.write_text(f"owners: [{', '.join(owners)}]\n")
    monkeypatch.setenv("STRIPE_PIPELINE_CONFIG", str(file))
    defs = build_defs()
    dg.Definitions.validate_loadable(defs)
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    assert {key: tuple(spec.owners) for key, spec in specs.items()} == dict.fromkeys(specs, tuple(owners))
    tables = {key for key in specs if key not in ("retention", "proof/certificate", "report/overview")}
    assert {specs[key].metadata["dagster/storage_kind"] for key in tables} == {"duckdb"}
    with_policy = {key: spec.freshness_policy for key, spec in specs.items() if spec.freshness_policy}
    assert with_policy.keys() == {"retention", "proof/certificate"}, "an idle sync materializes nothing"
    assert {*with_policy.values()} == {EVERY_NIGHT}


@pytest.mark.parametrize("owner", ["team:a", "team:finance", "a@b.co", "j.r+x%y@mail.example.com"])
def test_dagster_accepts_the_owners_that_the_settings_accept(owner: str) -> None:
    assert Settings.model_validate({"owners": [owner]}).owners == (owner,)
    assert dg.AssetSpec("a", owners=[owner]).owners == [owner]
