"""Our definitions in one code location with another project's assets, checks, jobs, schedules and resources."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from stripe_pipeline import definitions
from stripe_pipeline.assets.checks import NIGHTLY
from stripe_pipeline.assets.keys import Names
from stripe_pipeline.days import today
from stripe_pipeline.definitions import build_defs
from stripe_pipeline.objects import DEFAULT_TYPES
from stripe_pipeline.resources.pipeline import RESOURCE
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.catalog import views
from tests.conftest import MakePipeline, OpenedPipeline

RUN_TAGS = Names().run_tags
RAN: list[str] = []
"""The other project's assets and checks that ran."""


@pytest.fixture
def merged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_pipeline: MakePipeline, instance: dg.DagsterInstance
) -> dg.Definitions:
    """Our definitions, which read the emulator, and another project's. Dagster resolves them with a live instance."""
    RAN.clear()
    history = (datetime.now(UTC) - timedelta(days=3)).date()
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"history: {history}\n")
    monkeypatch.setenv("STRIPE_PIPELINE_CONFIG", str(settings))
    return dg.Definitions.merge(
        build_defs(resource_overrides={RESOURCE: OpenedPipeline(make_pipeline(history=history))}), _other_project()
    )


def _other_project() -> dg.Definitions:
    charges = dg.AssetKey(["raw", "charges"])

    @dg.asset
    def prices() -> None:
        RAN.append("prices")

    @dg.asset(deps=[charges, dg.AssetKey(["retention"])])
    def revenue() -> None:
        RAN.append("revenue")

    @dg.asset_check(asset=prices)
    def positive() -> dg.AssetCheckResult:
        RAN.append("positive")
        return dg.AssetCheckResult(passed=True)

    @dg.asset_check(asset=charges)
    def plausible() -> dg.AssetCheckResult:
        RAN.append("plausible")
        return dg.AssetCheckResult(passed=True)

    everything = dg.define_asset_job("everything", selection=dg.AssetSelection.assets(prices, revenue))
    return dg.Definitions(
        assets=[prices, revenue],
        asset_checks=[positive, plausible],
        jobs=[everything],
        schedules=[dg.ScheduleDefinition(name="hourly", job=everything, cron_schedule="@hourly")],
        resources={"pipeline": object()},
        executor=dg.multiprocess_executor,
    )


@pytest.mark.usefixtures("instance")
def test_a_backfill_from_the_ui_runs_in_one_process() -> None:
    by_hand = definitions.defs.resolve_implicit_global_asset_job_def()
    assert by_hand.executor_def.name == "in_process"


def steps(result: dg.ExecuteInProcessResult) -> set[str]:
    """The steps that ran."""
    return {event.node_name for event in result.all_events if event.is_step_start}


@pytest.mark.both_modes
def test_sync_materializes_our_tables_only(merged: dg.Definitions, instance: dg.DagsterInstance) -> None:
    dg.Definitions.validate_loadable(merged)
    result = merged.resolve_job_def("sync").execute_in_process(
        instance=instance, partition_key=today().isoformat(), raise_on_error=False
    )
    assert result.success
    keys = {event.asset_key.to_user_string() for event in result.get_asset_materialization_events() if event.asset_key}
    by_default = [view for view in views(Settings()) if view.rows_of in (None, *DEFAULT_TYPES)]
    shown = {f"{schema}/{view.name}" for view in by_default for schema in view.schemas}
    assert keys == shown | {f"raw/{table}" for table in DEFAULT_TYPES}
    assert steps(result) == {"stripe"}
    assert RAN == []


def test_the_nightly_job_runs_our_pruning_and_checks_only(merged: dg.Definitions, instance: dg.DagsterInstance) -> None:
    merged.resolve_job_def("sync").execute_in_process(instance=instance, partition_key=today().isoformat())
    result = merged.resolve_job_def("nightly").execute_in_process(instance=instance)
    assert result.success
    assert steps(result) == {"retention", "proof__certificate", *NIGHTLY}
    assert {evaluation.check_name for evaluation in result.get_asset_check_evaluations()} == set(NIGHTLY)
    assert RAN == []


def test_our_jobs_run_in_one_process_and_the_others_with_their_own_executor(merged: dg.Definitions) -> None:
    executors = {job.name: job.executor_def for job in merged.resolve_all_job_defs() if job.name != "__ASSET_JOB"}
    assert executors == {
        "sync": dg.in_process_executor,
        "report": dg.in_process_executor,
        "nightly": dg.in_process_executor,
        "everything": dg.multiprocess_executor,
    }


@pytest.mark.dagster_files
def test_another_locations_job_of_the_same_name_does_not_delay_ours(
    merged: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    @dg.job(name="sync")
    def of_another_location() -> None: ...

    instance.create_run_for_job(of_another_location, status=dg.DagsterRunStatus.STARTED)
    schedule = merged.resolve_schedule_def("sync_every_15_minutes")
    with dg.build_schedule_context(
        instance,
        datetime.now(UTC),
        resources=merged.resources,
        repository_def=merged.get_repository_def(),
    ) as context:
        assert schedule.evaluate_tick(context).run_requests
        instance.create_run_for_job(merged.resolve_job_def("sync"), tags=RUN_TAGS, status=dg.DagsterRunStatus.STARTED)
        assert not schedule.evaluate_tick(context).run_requests
