"""The models and tests of Fivetran's dbt package dbt_stripe, on the views in the published file.

The package is not part of this repository. `DBT_STRIPE` names a folder with it; otherwise dbt fetches it from its hub.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
import urllib3
import yaml

from stripe_emulator import Shop
from stripe_emulator.shop.history import seed_history
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.views.fivetran.tables import TABLES
from tests.conftest import MakePipeline
from tests.stripe_state import ask

HUB = "https://hub.getdbt.com"
LOADED = {table.ours: {"enabled": True} for table in TABLES if OBJECT_TYPES[table.ours].optional}
"""All types that the package reads and that are off by default."""
TOTALS = {
    "SELECT balance_transaction_currency, count(*), sum(balance_transaction_amount), sum(balance_transaction_fee),"
    " sum(balance_transaction_net) FROM stripe__balance_transactions GROUP BY ALL ORDER BY ALL": (
        "SELECT currency, count(*), sum(amount), sum(fee), sum(net) FROM live.balance_transactions"
        " GROUP BY ALL ORDER BY ALL"
    ),
    "SELECT payment_method_type, payment_method_brand, count(*) FROM stripe__balance_transactions"
    " WHERE balance_transaction_type = 'charge' GROUP BY ALL ORDER BY ALL": (
        "SELECT payment_method_details->>'type', card_brand, count(*) FROM live.charges"
        " WHERE balance_transaction IS NOT NULL GROUP BY ALL ORDER BY ALL"
    ),
    "SELECT currency, count(*), sum(total), sum(amount_paid), count(charge_status) FROM stripe__invoice_details"
    " GROUP BY ALL ORDER BY ALL": (
        "SELECT i.currency, count(*), sum(i.total), sum(i.amount_paid), count(p.charge) FROM live.invoices i"
        " LEFT JOIN live.payments p ON p.invoice = i.id AND p.paid GROUP BY ALL ORDER BY ALL"
    ),
    "SELECT currency, count(*), sum(invoice_line_item_amount) FROM stripe__invoice_line_item_details"
    " GROUP BY ALL ORDER BY ALL": (
        "SELECT currency, count(*), sum(amount) FROM live.invoice_lines GROUP BY ALL ORDER BY ALL"
    ),
    "SELECT sum(discount_amount) FROM stripe__line_item_enhanced": (
        "SELECT sum(CAST(amount AS DECIMAL(28, 6))) FROM (SELECT unnest(from_json(total_discount_amounts,"
        ' \'[{"amount": "BIGINT"}]\')).amount AS amount FROM live.invoices)'
    ),
    "SELECT sum(total_sales), sum(total_refunds), sum(total_fees), sum(total_sales_count)"
    " FROM stripe__customer_overview": (
        "SELECT sum(amount) FILTER (type IN ('charge', 'payment')),"
        " sum(amount) FILTER (type IN ('refund', 'payment_refund')),"
        " sum(fee), count(*) FILTER (type IN ('charge', 'payment')) FROM live.balance_transactions"
        " WHERE type IN ('charge', 'payment', 'refund', 'payment_refund')"
    ),
    "SELECT payout_status, count(*), sum(gross) FROM stripe__payout_itemized_3 GROUP BY ALL ORDER BY ALL": (
        "SELECT status, count(*), -sum(amount) FROM live.payouts GROUP BY ALL ORDER BY ALL"
    ),
    "SELECT count(*), sum(total_amount_billed), sum(total_amount_paid) FROM stripe__subscription_details": (
        "SELECT (SELECT count(*) FROM live.subscriptions), sum(amount_due), sum(amount_paid) FROM live.invoices"
        " WHERE subscription IS NOT NULL"
    ),
}
"""Queries on the package's models, each with the query on our tables that has the same result."""

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def package() -> dict[str, object]:
    """How dbt gets the package; skips the test without it."""
    if folder := os.environ.get("DBT_STRIPE"):
        return {"local": folder}
    try:
        urllib3.request("GET", HUB, timeout=5, retries=False)
    except urllib3.exceptions.HTTPError:
        pytest.skip(f"dbt_stripe cannot be fetched: {HUB} does not answer, and DBT_STRIPE names no folder with it")
    return {"package": "fivetran/stripe", "version": [">=1.0.0", "<2.0.0"]}


@pytest.fixture(scope="module")
def dbt(package: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """dbt in an environment of its own: its dependencies differ from ours."""
    folder = tmp_path_factory.mktemp("dbt")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(folder / "bin/pip"), "install", "--quiet", "dbt-core<1.11", "dbt-duckdb<1.10.2", "duckdb<1.6"]
    subprocess.run(install, check=True, capture_output=True)
    return folder / "bin/dbt"


@pytest.mark.both_modes
def test_the_models_of_dbt_stripe_run_and_have_our_totals(
    dbt: Path, package: dict[str, object], make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, tmp_path: Path
) -> None:
    seed_history(shop, 20)
    make_pipeline(history="20 days", compat={"fivetran": True}, objects=LOADED).sync()
    attached = {"path": str(folder.published), "alias": "stripe", "read_only": True}
    models = tmp_path / "models.duckdb"
    target = {"type": "duckdb", "path": str(models), "attach": [attached]}
    texts: dict[str, object] = {
        "packages.yml": {"packages": [package]},
        "profiles.yml": {"shop": {"target": "duckdb", "outputs": {"duckdb": target}}},
        "dbt_project.yml": {
            "name": "shop",
            "version": "1.0",
            "profile": "shop",
            "vars": {
                "stripe_database": "stripe",
                "stripe_schema": "fivetran",
                "stripe__using_credit_notes": True,
            },
        },
    }
    for name, content in texts.items():
        (tmp_path / name).write_text(yaml.safe_dump(content))

    def run(*arguments: str) -> str:
        ended = subprocess.run(
            [dbt, "--no-use-colors", *arguments, "--profiles-dir", "."],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert ended.returncode == 0, ended.stdout[-5000:]
        return ended.stdout

    run("deps")
    for command in ("run", "test"):
        [(errors, total)] = re.findall(r"ERROR=(\d+) .*TOTAL=(\d+)", run(command))
        assert int(errors) == 0
        assert int(total) > 10
    with duckdb.connect(str(models), read_only=True) as connection:
        [(schema,)] = connection.execute(
            "SELECT table_schema FROM information_schema.tables WHERE table_name = 'stripe__balance_transactions'"
        ).fetchall()
        connection.execute(f"USE {schema}")
        for model, ours in TOTALS.items():
            totals = connection.execute(model).fetchall()
            assert totals, model
            assert totals == ask(folder.published, ours), model
