"""The partitions of the base tables: days, or months if the settings ask for those."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from stripe_emulator import Server, Shop
from stripe_pipeline.assets.dagster_history import report_again
from stripe_pipeline.assets.keys import Names
from stripe_pipeline.assets.partitions import Partitions
from stripe_pipeline.assets.retention import not_kept_materializations
from stripe_pipeline.days import days_between, today
from stripe_pipeline.definitions import build_defs
from stripe_pipeline.resources.pipeline import RESOURCE
from stripe_pipeline.settings.model import Settings
from tests.conftest import MakePipeline, OpenedPipeline
from tests.stripe_state import days_ago

CHARGES = dg.AssetKey(["raw", "charges"])
FIRST = (today().replace(day=1) - timedelta(days=40)).replace(day=15)
"""The middle of a month that has ended."""
MONTHS = {f"{day:%Y-%m}" for day in days_between(FIRST, today())}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with monthly partitions, which the code location reads, too."""
    file = tmp_path / "monthly.yaml"
    file.write_text(f"history: {FIRST}\npartitions: month\n")
    monkeypatch.setenv("STRIPE_PIPELINE_CONFIG", str(file))
    return Settings.model_validate({"history": FIRST, "partitions": "month"})


@pytest.fixture
def defs(settings: Settings, make_pipeline: MakePipeline) -> dg.Definitions:
    """The code location with these settings."""
    return build_defs(resource_overrides={RESOURCE: OpenedPipeline(make_pipeline(history=FIRST, partitions="month"))})


def metadata(instance: dg.DagsterInstance, key: str) -> dict[str, object]:
    """The metadata of the last materialization of a partition of `raw/charges`."""
    records = instance.fetch_materializations(dg.AssetRecordsFilter(CHARGES, asset_partitions=[key]), limit=1).records
    assert records[0].asset_materialization
    return {name: value.value for name, value in records[0].asset_materialization.metadata.items()}


def test_a_month_has_the_days_of_the_history(settings: Settings) -> None:
    partitions = Partitions(settings)
    assert set(partitions.definition.get_partition_keys()) == MONTHS
    first, present = f"{FIRST:%Y-%m}", f"{today():%Y-%m}"
    days = partitions.days_of([first])
    assert (min(days), max(days) + timedelta(days=1)) == (FIRST, (FIRST + timedelta(days=20)).replace(day=1))
    assert max(partitions.days_of([present])) == today()
    assert partitions.days_of(MONTHS) == set(days_between(FIRST, today()))
    assert partitions.rows(first, dict.fromkeys(days, 2)) == 2 * len(days)
    assert partitions.rows(first, dict.fromkeys(days - {FIRST}, 2)) is None
    daily = Partitions(Settings.model_validate({"history": FIRST}))
    assert set(daily.definition.get_partition_keys()) == {f"{day}" for day in days_between(FIRST, today())}
    assert daily.keys_of([FIRST]) == {f"{FIRST}"}


@pytest.mark.dagster_files
def test_a_first_load_records_each_month_once(defs: dg.Definitions, instance: dg.DagsterInstance, shop: Shop) -> None:
    created = [days_ago(shop, days) for days in (0, 1, 1, (today() - FIRST).days)]
    for at in created:
        shop.create_payment(created=at)
    result = defs.resolve_job_def("sync").execute_in_process(instance=instance, partition_key=f"{today():%Y-%m}")
    assert result.success
    of_charges = [event for event in result.get_asset_materialization_events() if event.asset_key == CHARGES]
    assert sorted(f"{event.partition}" for event in of_charges) == sorted(MONTHS)
    rows = {key: metadata(instance, key)["dagster/partition_row_count"] for key in MONTHS}
    counted = dict.fromkeys(MONTHS, 0)
    for at in created:
        counted[f"{datetime.fromtimestamp(at, UTC):%Y-%m}"] += 1
    assert rows == counted
    assert sum(int(str(metadata(instance, key)["inserted"])) for key in MONTHS) == len(created)


@pytest.mark.dagster_files
def test_a_sync_does_not_list_the_present_month_again(
    defs: dg.Definitions, instance: dg.DagsterInstance, server: Server
) -> None:
    sync, key = defs.resolve_job_def("sync"), f"{today():%Y-%m}"
    assert sync.execute_in_process(instance=instance, partition_key=key).success
    before = len(server.requests)
    assert sync.execute_in_process(instance=instance, partition_key=key).success
    assert len(server.requests) - before == 2


@pytest.mark.dagster_files
def test_a_backfill_of_a_month_lists_its_days(defs: dg.Definitions, instance: dg.DagsterInstance, shop: Shop) -> None:
    shop.create_payment(created=days_ago(shop, (today() - FIRST).days))
    key = f"{FIRST:%Y-%m}"
    result = dg.materialize(
        [defs.get_assets_def(CHARGES)],
        selection=[CHARGES],
        partition_key=key,
        instance=instance,
        resources=defs.resources,
    )
    assert result.success
    assert instance.get_materialized_partitions(CHARGES) == {key}
    assert metadata(instance, key)["dagster/partition_row_count"] == 1


@pytest.mark.dagster_files
def test_a_backfill_says_which_partitions_are_not_kept(
    instance: dg.DagsterInstance, make_pipeline: MakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begins = today() - timedelta(days=2)
    objects = {"charges": {"history": begins}}
    (tmp_path / "some.yaml").write_text(f"history: 5 days\nobjects: {{charges: {{history: {begins}}}}}\n")
    monkeypatch.setenv("STRIPE_PIPELINE_CONFIG", str(tmp_path / "some.yaml"))
    pipeline = make_pipeline(history="5 days", objects=objects)
    defs = build_defs(resource_overrides={RESOURCE: OpenedPipeline(pipeline)})
    days = [today() - timedelta(days=days) for days in (4, 2)]
    result = dg.materialize(
        [defs.get_assets_def(CHARGES)],
        selection=[CHARGES],
        tags={"dagster/asset_partition_range_start": f"{days[0]}", "dagster/asset_partition_range_end": f"{days[1]}"},
        instance=instance,
        resources=defs.resources,
    )
    assert result.success
    before, kept = (metadata(instance, f"{day}") for day in days)
    assert (before["kept"], before["why"]) == (False, f"The settings keep charges from {begins} on")
    assert before["dagster/partition_row_count"] == 0
    assert "kept" not in kept


@pytest.mark.dagster_files
def test_the_first_sync_says_which_partitions_are_not_kept(
    instance: dg.DagsterInstance, make_pipeline: MakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = [f"{day}" for day in days_between(today() - timedelta(days=5), today())]
    objects = {"charges": {"history": date.fromisoformat(days[3])}}
    (tmp_path / "some.yaml").write_text(f"history: {days[0]}\nobjects: {{charges: {{history: {days[3]}}}}}\n")
    monkeypatch.setenv("STRIPE_PIPELINE_CONFIG", str(tmp_path / "some.yaml"))
    pipeline = make_pipeline(history=date.fromisoformat(days[0]), objects=objects)
    job = build_defs(resource_overrides={RESOURCE: OpenedPipeline(pipeline)}).resolve_job_def("sync")
    assert job.execute_in_process(instance=instance, partition_key=days[-1]).success
    assert instance.get_materialized_partitions(CHARGES) == {*days}
    assert [day for day in days if metadata(instance, day).get("kept") is False] == days[:3]
    again = job.execute_in_process(instance=instance, partition_key=days[-1])
    recorded = {event.partition for event in again.get_asset_materialization_events()}
    assert not recorded & {*days[:3]}, "they are recorded once"


@pytest.mark.dagster_files
@pytest.mark.parametrize("newly_kept", [1, 3])
def test_a_partition_that_is_kept_again_no_longer_says_that_it_is_not(
    instance: dg.DagsterInstance,
    make_pipeline: MakePipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    newly_kept: int,
) -> None:
    days = [f"{day}" for day in days_between(today() - timedelta(days=5), today())]
    monkeypatch.setenv("STRIPE_PIPELINE_CONFIG", str(tmp_path / "some.yaml"))
    for first in (days[3], days[3 - newly_kept]):
        objects = {"charges": {"history": date.fromisoformat(first)}}
        (tmp_path / "some.yaml").write_text(f"history: {days[0]}\nobjects: {{charges: {{history: {first}}}}}\n")
        pipeline = make_pipeline(history=date.fromisoformat(days[0]), objects=objects)
        job = build_defs(resource_overrides={RESOURCE: OpenedPipeline(pipeline)}).resolve_job_def("sync")
        assert job.execute_in_process(instance=instance, partition_key=days[-1]).success
        assert [day for day in days if metadata(instance, day).get("kept") is False] == days[: days.index(first)]


def test_only_months_without_a_kept_day_are_not_kept() -> None:
    instance = dg.DagsterInstance.ephemeral()
    begins = date(2026, 3, 15)
    settings = Settings.model_validate(
        {"history": "2026-01-10", "partitions": "month", "objects": {"charges": {"history": begins}}}
    )
    events = [
        event for event in not_kept_materializations(instance, settings, Names(), {}) if event.asset_key == CHARGES
    ]
    assert [event.partition for event in events] == ["2026-01", "2026-02"]


def test_covered_months_are_reported_again(settings: Settings) -> None:
    instance = dg.DagsterInstance.ephemeral()
    covered = {"charges": dict.fromkeys(days_between(FIRST, today()), 3)}
    report_again(instance, settings, covered, Names())
    assert instance.get_materialized_partitions(CHARGES) == MONTHS
    days = len(Partitions(settings).days_of([f"{FIRST:%Y-%m}"]))
    assert metadata(instance, f"{FIRST:%Y-%m}")["dagster/partition_row_count"] == 3 * days
