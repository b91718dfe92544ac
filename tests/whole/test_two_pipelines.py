"""Two pipelines in one code location, beside assets, resources and an executor of another project: two Stripe accounts
in two data folders, each with names of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

import stripe_pipeline
from stripe_emulator import Server, Shop
from stripe_pipeline.assets.dagster_history import forget_runs
from stripe_pipeline.assets.keys import Names
from stripe_pipeline.automation import TickLimits, build_sensor
from stripe_pipeline.days import today
from stripe_pipeline.definitions import build_defs
from stripe_pipeline.errors import SettingsError
from stripe_pipeline.inbox.notification import notifications_of
from stripe_pipeline.settings.configuration import Configuration
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.sync.pipeline import Pipeline
from tests.stripe_state import ask

HISTORY = "3 days"
EU = Names.of("stripe_eu")
RAN: list[str] = []
"""The assets of the other project that ran."""


@pytest.fixture
def other_server() -> Iterator[Server]:
    """An emulator with the shop of another account."""
    with Server(Shop(seed=2, account="acct_1OtherShop000000")) as running:
        yield running


@pytest.fixture
def location(
    server: Server,
    other_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    instance: dg.DagsterInstance,
) -> dg.Definitions:
    """Two pipelines, of which the environment names the accounts, and another project's definitions."""
    RAN.clear()
    monkeypatch.chdir(tmp_path)
    for prefix, emulator in (("STRIPE", server), ("STRIPE_EU", other_server)):
        monkeypatch.setenv(f"{prefix}_API_KEY", "sk_test_of_the_tests")
        monkeypatch.setenv(f"{prefix}_API_BASE", emulator.url)

    @dg.asset
    def prices() -> None:
        RAN.append("prices")

    @dg.asset(deps=[dg.AssetKey(["test", "payments"]), dg.AssetKey(["stripe_eu", "test", "payments"])])
    def revenue() -> None:
        RAN.append("revenue")

    theirs = dg.Definitions(
        assets=[prices, revenue],
        jobs=[dg.define_asset_job("everything", selection=dg.AssetSelection.assets(prices, revenue))],
        resources={"warehouse": "theirs"},
        executor=dg.multiprocess_executor,
    )
    return dg.Definitions.merge(
        build_defs(settings={"history": HISTORY}), build_defs(name="stripe_eu", settings={"history": HISTORY}), theirs
    )


def run(location: dg.Definitions, instance: dg.DagsterInstance, job: str, **options: Any) -> dg.ExecuteInProcessResult:
    """A run of the job in this process."""
    result = location.resolve_job_def(job).execute_in_process(instance=instance, **options)
    assert result.success
    return result


def sync(location: dg.Definitions, instance: dg.DagsterInstance, names: Names) -> dg.ExecuteInProcessResult:
    """A run of the job of a pipeline's schedule, with the run request of its tick."""
    schedule = location.resolve_schedule_def(names.own("sync_every_15_minutes"))
    with dg.build_schedule_context(
        instance, datetime.now(UTC), resources=location.resources, repository_def=location.get_repository_def()
    ) as context:
        [request] = schedule.evaluate_tick(context).run_requests or ()
    assert schedule.job_name == names.sync_job
    return run(location, instance, schedule.job_name, partition_key=request.partition_key, tags=names.run_tags)


def customers(file: Path) -> set[str]:
    """The customers in a published file."""
    return {id for (id,) in ask(file, "SELECT id FROM test.customers")}


def assets_of(result: dg.ExecuteInProcessResult) -> set[str]:
    """The assets that a run materialized."""
    return {event.asset_key.to_user_string() for event in result.get_asset_materialization_events() if event.asset_key}


def test_both_pipelines_have_all_definitions_with_names_of_their_own(location: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(location)
    keys = {key.to_user_string() for key in location.resolve_asset_graph().get_all_asset_keys()} - {"prices", "revenue"}
    theirs = {key for key in keys if key.startswith("stripe_eu/")}
    assert {key.removeprefix("stripe_eu/") for key in theirs} == keys - theirs
    assert len(theirs) > 20
    jobs = {job.name: job.executor_def.name for job in location.resolve_all_job_defs()}
    assert jobs == {
        **dict.fromkeys(
            (f"{prefix}{job}" for prefix in ("", "stripe_eu_") for job in ("sync", "nightly", "report")), "in_process"
        ),
        **dict.fromkeys(("everything", "__ASSET_JOB"), "multiprocess"),
    }
    repository = location.get_repository_def()
    assert {schedule.name for schedule in repository.schedule_defs} == {
        f"{prefix}{name}" for prefix in ("", "stripe_eu_") for name in ("sync_every_15_minutes", "nightly")
    }
    assert {sensor.name for sensor in repository.sensor_defs} == {
        f"{prefix}{name}" for prefix in ("", "stripe_eu_") for name in ("webhook_refresh", "report_refresh")
    }
    groups = {
        key: location.resolve_asset_graph().get(dg.AssetKey([*key, "raw", "charges"])).group_name
        for key in ((), ("stripe_eu",))
    }
    assert groups == {(): "raw", ("stripe_eu",): "stripe_eu_raw"}
    assert isinstance(location.resources, Mapping)
    assert location.resources["warehouse"] == "theirs"
    below = location.resolve_asset_graph().get(dg.AssetKey(["stripe_eu", "test", "payments"])).parent_keys
    assert {key.path[0] for key in below} == {"stripe_eu"}


@pytest.mark.dagster_files
def test_each_pipeline_reads_its_own_account_into_its_own_folder(
    location: dg.Definitions, instance: dg.DagsterInstance, server: Server, other_server: Server, tmp_path: Path
) -> None:
    ours = server.shop.create_customer(livemode=False)["id"]
    theirs = other_server.shop.create_customer(livemode=False)["id"]
    assert ours != theirs
    result = sync(location, instance, Names())
    assert {key.split("/")[0] for key in assets_of(result)}.isdisjoint({"stripe_eu", "prices", "revenue"})
    assert not other_server.requests
    before = len(server.requests)
    result = sync(location, instance, EU)
    assert {key.split("/")[0] for key in assets_of(result)} == {"stripe_eu"}
    assert {event.node_name for event in result.all_events if event.is_step_start} == {"stripe_eu"}
    assert len(server.requests) == before
    first, second = tmp_path / "data/stripe.duckdb", tmp_path / "data-stripe_eu/stripe.duckdb"
    assert customers(first) == {ours}
    assert customers(second) == {theirs}
    [counted] = stripe_pipeline.query("SELECT id FROM test.customers", pipeline="stripe_eu")["id"]
    assert counted == theirs

    # A backfill of one asset in the UI.
    new = other_server.shop.create_customer(livemode=False)["id"]
    charges = dg.AssetKey(["stripe_eu", "raw", "customers"])
    by_hand = location.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance, partition_key=today().isoformat(), asset_selection=[charges]
    )
    assert by_hand.success
    assert customers(second) == {theirs, new}
    assert customers(first) == {ours}

    for job in ("nightly", "stripe_eu_nightly"):
        run(location, instance, job)
    assert RAN == []


@pytest.mark.dagster_files
def test_the_sensor_of_a_pipeline_drains_its_own_inbox(
    location: dg.Definitions, instance: dg.DagsterInstance, other_server: Server, tmp_path: Path
) -> None:
    for names in (Names(), EU):
        sync(location, instance, names)
    customer = other_server.shop.create_customer(livemode=False)["id"]
    with Pipeline.from_environment(sources=Configuration("stripe_eu", given_settings={"history": HISTORY})) as pipeline:
        pipeline.inbox.add([n for event in other_server.shop.events(False) for n in notifications_of(event)])
    messages = {}
    for names in (Names(), EU):
        sensor = build_sensor(TickLimits(wait=3.0, report_within=3.0), Settings(), names)
        with dg.build_sensor_context(instance, resources=location.resources, definitions=location) as context:
            tick = sensor.evaluate_tick(context)
        messages[names.pipeline] = tick.skip_message or ""
        reported = {event.asset_key.path[0] for event in tick.asset_events if event.asset_key}
        assert reported == ({"stripe_eu"} if names == EU else set())
    assert messages["stripe"] == "No events applied"
    assert "rows changed: 1 in customers" in messages["stripe_eu"]
    assert customers(tmp_path / "data-stripe_eu/stripe.duckdb") == {customer}
    assert RAN == []


@pytest.mark.dagster_files
def test_a_pipeline_forgets_its_own_runs_only(location: dg.Definitions, instance: dg.DagsterInstance) -> None:
    for names in (Names(), EU):
        sync(location, instance, names)
    run(location, instance, "everything")
    key = dg.AssetKey(["stripe_eu", "raw", "charges"])
    by_hand = location.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance, partition_key=today().isoformat(), asset_selection=[key], tags={"by": "hand"}
    )
    assert by_hand.success
    assert forget_runs(instance, datetime.now(UTC), Names()) == 1
    assert sorted(run.job_name for run in instance.get_runs()) == ["__ASSET_JOB", "everything", "stripe_eu_sync"]


@pytest.mark.usefixtures("instance")
def test_errors_name_the_variables_of_the_pipeline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, location: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    monkeypatch.delenv("STRIPE_EU_API_KEY")
    result = location.resolve_job_def("stripe_eu_sync").execute_in_process(
        instance=instance, partition_key=today().isoformat(), raise_on_error=False
    )
    [failure] = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failure.user_failure_data is not None
    assert "Set STRIPE_EU_API_KEY to a secret or restricted key" in str(failure.user_failure_data.description)
    monkeypatch.setenv("STRIPE_EU_PIPELINE_CONFIG", str(tmp_path / "missing.yaml"))
    with pytest.raises(SettingsError, match="Correct STRIPE_EU_PIPELINE_CONFIG or unset it"):
        build_defs(name="stripe_eu")


def test_a_pipeline_may_get_everything_from_the_code(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
) -> None:
    monkeypatch.chdir(tmp_path)
    variables = {"STRIPE_API_KEY": "sk_test_of_the_tests", "STRIPE_API_BASE": server.url}
    customer = server.shop.create_customer(livemode=False)["id"]
    file = tmp_path / "settings.yaml"
    file.write_text(f"history: {HISTORY}\n")
    definitions = build_defs(
        name="shop", key_prefix=["stripe", "shop"], settings=file, data_folder="elsewhere", environment=variables
    )
    result = run(definitions, instance, "shop_sync", partition_key=today().isoformat())
    assert customers(tmp_path / "elsewhere/stripe.duckdb") == {customer}
    assert "stripe/shop/raw/customers" in assets_of(result)
    assert not (tmp_path / "data").exists()
    assert "sk_test" not in repr(definitions.resources)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("Stripe EU", "not a name of a pipeline"), ("", "not a name"), ("stripe_test", "test key of another pipeline")],
)
def test_a_name_that_cannot_begin_variables_is_refused(name: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        build_defs(name=name)
