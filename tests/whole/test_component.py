"""The component `StripeWarehouse` in another project: in a sandbox, with `dg`, and in the examples."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster.components.testing import create_defs_folder_sandbox

from stripe_emulator import Server, Shop
from stripe_pipeline import StripeWarehouse
from stripe_pipeline.component import Attributes, defs_yaml
from stripe_pipeline.days import today
from stripe_pipeline.settings.model import Settings
from tests.stripe_state import ask

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
DEFINITIONS = """
from pathlib import Path
import dagster as dg

@dg.definitions
def defs():
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
"""

# Dagster warns of its own code, which loads each defs.yaml.
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")

Dg = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty Dagster project."""
    package = tmp_path / "project/src/shop"
    (package / "defs").mkdir(parents=True)
    for folder in (package, package / "defs"):
        (folder / "__init__.py").touch()
    (package / "definitions.py").write_text(DEFINITIONS)
    (tmp_path / "project/pyproject.toml").write_text(
        '[project]\nname = "shop"\nversion = "0"\n[tool.dg]\ndirectory_type = "project"\n'
        '[tool.dg.project]\nroot_module = "shop"\n'
    )
    return tmp_path / "project"


@pytest.fixture
def dg_cli(tmp_path: Path) -> Dg:
    """Runs `dg` in a project, without an environment file of this machine's user."""

    def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STRIPE_")} | {
            "PYTHONPATH": os.pathsep.join([str(project / "src"), str(ROOT)]),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(home),
            "COLUMNS": "200",
        }
        environment.pop("VIRTUAL_ENV", None)
        command = [str(Path(sys.executable).parent / "dg"), *arguments]
        return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture
def emulator(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    """The emulator, as the environment names it; the working directory is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STRIPE_API_KEY", "sk_live_of_the_tests")
    monkeypatch.setenv("STRIPE_API_BASE", server.url)
    return server


@pytest.mark.usefixtures("instance")
def test_the_attributes_are_the_settings() -> None:
    attributes = {
        "name": "stripe_eu",
        "key_prefix": ["stripe", "eu"],
        "history": "{{ env.SHOP_HISTORY }}",
        "rate": {"share": "50%"},
        "objects": {"all": True, "disputes": {"enabled": False}, "charges": {"custom_fields": {"wallet": "source.id"}}},
    }
    os.environ["SHOP_HISTORY"] = "3 days"
    try:
        component = StripeWarehouse.from_attributes_dict(attributes=attributes)
    finally:
        del os.environ["SHOP_HISTORY"]
    settings = {name: value for name, value in attributes.items() if name not in ("name", "key_prefix")}
    assert component.settings == Settings.model_validate(settings | {"history": "3 days"})
    assert (component.name, component.key_prefix) == ("stripe_eu", ["stripe", "eu"])


def test_the_schema_has_every_setting_and_no_references() -> None:
    schema = Attributes.model_json_schema()
    assert schema["properties"].keys() == Settings.model_fields.keys() | {"name", "key_prefix", "data_folder"}
    assert schema["additionalProperties"] is False
    assert "$ref" not in str(schema)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"hystory": "3 days"}, "hystory"),
        ({"objects": {"charge": {}}}, "`objects.charge` is not an object type (did you mean charges?)"),
        ({"name": "eu-shop"}, "'eu-shop' is not a name of a pipeline"),
        ({"retention": "soon"}, "`retention`"),
    ],
)
def test_a_wrong_attribute_is_named(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        StripeWarehouse.from_attributes_dict(attributes=attributes)


def test_a_scaffolded_component_has_the_defaults_and_loads(emulator: Server, instance: dg.DagsterInstance) -> None:
    customer = emulator.shop.create_customer(livemode=True)["id"]
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.scaffold_component(StripeWarehouse, defs_path="stripe")
        attributes = yaml.safe_load((path / "defs.yaml").read_text())["attributes"]
        assert Settings.model_validate(attributes) == Settings()
        assert attributes.keys() <= Settings.model_fields.keys()
        (path / "defs.yaml").write_text(defs_yaml().replace("  # data_folder: data\n", "  data_folder: stored\n"))
        with sandbox.load_component_and_build_defs(path) as (component, definitions):
            assert isinstance(component, StripeWarehouse)
            job = definitions.resolve_job_def("sync")
            assert job.execute_in_process(instance=instance, partition_key=today().isoformat()).success
            published = sandbox.project_root / "stored/stripe.duckdb"
            assert ask(published, "SELECT id FROM live.customers") == [(customer,)]


def test_two_components_and_an_asset_that_depends_on_one(emulator: Server) -> None:
    with create_defs_folder_sandbox() as sandbox:
        sandbox.scaffold_component(StripeWarehouse, defs_path="stripe", scaffold_format="python")
        europe = sandbox.scaffold_component(StripeWarehouse, defs_path="europe")
        (europe / "defs.yaml").write_text(
            "type: stripe_pipeline.StripeWarehouse\nattributes:\n  name: stripe_eu\n  history: 3 days\n"
        )
        (sandbox.defs_folder_path / "theirs.py").write_text(
            "import dagster as dg\n\n@dg.asset(deps=[dg.AssetKey(['live', 'payments'])])\ndef revenue(): ...\n"
        )
        with sandbox.build_all_defs() as definitions:
            dg.Definitions.validate_loadable(definitions)
            graph = definitions.resolve_asset_graph()
            assert graph.get(dg.AssetKey("revenue")).parent_keys == {dg.AssetKey(["live", "payments"])}
            for prefix in ((), ("stripe_eu",)):
                assert graph.has(dg.AssetKey([*prefix, "live", "payments"]))
            assert graph.has(dg.AssetKey(["raw", "payouts"]))
            assert not graph.has(dg.AssetKey(["stripe_eu", "raw", "payouts"]))


def test_dg_lists_scaffolds_and_checks_the_component(project: Path, dg_cli: Dg) -> None:
    listed = dg_cli(project, "list", "components")
    assert "stripe_pipeline.StripeWarehouse" in listed.stdout, listed.stderr
    scaffolded = dg_cli(project, "scaffold", "defs", "stripe_pipeline.StripeWarehouse", "stripe")
    assert scaffolded.returncode == 0, scaffolded.stderr
    file = project / "src/shop/defs/stripe/defs.yaml"
    assert file.read_text() == defs_yaml()
    checked = dg_cli(project, "check", "defs")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "All definitions loaded successfully" in checked.stdout
    file.write_text(
        "type: stripe_pipeline.StripeWarehouse\nattributes:\n  objects:\n    charge: {title: Card charges}\n"
    )
    wrong = dg_cli(project, "check", "defs")
    assert wrong.returncode != 0
    assert "did you mean charges?" in wrong.stdout + wrong.stderr


def test_the_example_project_passes_dg_and_its_own_asset_reads_the_payments(
    emulator: Server, tmp_path: Path, dg_cli: Dg, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = shutil.copytree(EXAMPLES / "dagster_project", tmp_path / "example")
    checked = dg_cli(project, "check", "defs")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    pay(emulator.shop)
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(project / "src")
    from shop.definitions import defs

    definitions = defs()
    assert isinstance(definitions, dg.Definitions)
    sync = definitions.resolve_job_def("sync")
    assert sync.execute_in_process(instance=instance, partition_key=today().isoformat()).success
    everything = definitions.resolve_implicit_global_asset_job_def()
    revenue = everything.execute_in_process(instance=instance, asset_selection=[dg.AssetKey("daily_revenue")])
    [materialization] = revenue.asset_materializations_for_node("daily_revenue")
    assert materialization.metadata["dagster/row_count"].value == 1
    assert "25.0" in str(materialization.metadata["last days"].value)


def test_the_example_of_two_accounts_reads_both(
    emulator: Server, tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    pay(emulator.shop)
    with Server(Shop(seed=2, account="acct_1OtherShop000000")) as other:
        pay(other.shop)
        monkeypatch.setenv("STRIPE_EU_API_KEY", "sk_live_of_the_tests")
        monkeypatch.setenv("STRIPE_EU_API_BASE", other.url)
        monkeypatch.syspath_prepend(EXAMPLES)
        from two_accounts import defs

        for job in ("sync", "stripe_eu_sync"):
            run = defs.resolve_job_def(job).execute_in_process(instance=instance, partition_key=today().isoformat())
            assert run.success
        both = dg.AssetKey("revenue_of_both_accounts")
        result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance, asset_selection=[both]
        )
        [materialization] = result.asset_materializations_for_node("revenue_of_both_accounts")
        assert materialization.metadata["payments"].value == 2
    assert (tmp_path / "data/stripe.duckdb").exists()
    assert (tmp_path / "data-stripe_eu/stripe.duckdb").exists()


def pay(shop: Shop) -> None:
    """A payment of 25.00 in live mode."""
    shop.create_payment(shop.create_customer(livemode=True)["id"], amount=2500, livemode=True)


def test_importing_the_package_does_not_import_dagster() -> None:
    code = "import sys, stripe_pipeline; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert {"dagster", "duckdb", "pandas", "pydantic"} & set(loaded.split()) == set()
