"""The asset `report/overview`, with the job and the sensor that make the report again when something has changed.

What the report says belongs to `report`. Making the report takes seconds, so no sync does: the sensor only asks Dagster
for the last materialization of each table, and requests a run of its own.
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from stripe_pipeline.assets.failure import failure
from stripe_pipeline.assets.keys import Names
from stripe_pipeline.errors import StripePipelineError
from stripe_pipeline.report.charts import check_libraries
from stripe_pipeline.report.making import Report, make_report
from stripe_pipeline.resources.pipeline import OpensPipeline
from stripe_pipeline.settings.configuration import Configuration
from stripe_pipeline.settings.model import Settings

_EVERY = 300
"""Seconds between two reports at least."""


def build_report_asset(settings: Settings, names: Names, configuration: Configuration) -> dg.AssetsDefinition:
    """The asset `report/overview`."""

    @dg.asset(
        key=names.report,
        deps=[dg.AssetDep(names.key_of(of), partition_mapping=dg.AllPartitionMapping()) for of in settings.enabled],
        description="Verdict, kept by day, coverage, balance, lag and requests: figures and charts below, and the same"
        " as a page to share. Made again at most every five minutes, when a table has changed.",
        group_name=names.own("report"),
        kinds={"html"},
        required_resource_keys={names.resource},
    )
    def overview(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        opens: OpensPipeline = getattr(context.resources, names.resource)
        try:
            with opens.look() as warehouse, opens.run_locks.holding(context.run.run_id):
                report = make_report(warehouse.folder, settings, configuration.inbox_url())
        except StripePipelineError as error:
            raise failure(error) from None
        return dg.MaterializeResult(metadata=metadata(report))

    return overview


def metadata(report: Report) -> dict[str, dg.MetadataValue[Any]]:
    """The figures as a table, the charts as images, and the path of the page."""
    figures = report.figures()
    table = "\n".join(["| | |", "|---|---|", *(f"| **{name}** | {_escaped(text)} |" for name, text in figures)])
    return {
        "overview": dg.MetadataValue.md(table),
        "charts": dg.MetadataValue.md(report.images()),
        "page": dg.MetadataValue.path(str(report.path)),
    }


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def build_report_automation(settings: Settings, names: Names) -> dg.Definitions:
    """The job that makes the report, and the sensor that requests its runs."""
    job = dg.define_asset_job(
        names.report_job,
        selection=dg.AssetSelection.assets(names.report),
        description="Makes the report on the published file again.",
        tags=names.run_tags,
        executor_def=dg.in_process_executor,
    )
    watched = [*(names.key_of(object_type) for object_type in settings.enabled), names.retention, names.certificate]
    return dg.Definitions(jobs=[job], sensors=[_sensor(watched, names)])


def _sensor(watched: Sequence[dg.AssetKey], names: Names) -> dg.SensorDefinition:
    @dg.sensor(
        name=names.report_sensor,
        job_name=names.report_job,
        description="Requests the report when a table has changed, at most every five minutes. It only reads"
        " one record per table from Dagster's storage, and requests nothing.",
        minimum_interval_seconds=_EVERY,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def report_refresh(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        """Compares the newest materialization of any table with the one of the last report."""
        try:
            check_libraries()
        except StripePipelineError as error:
            return dg.SkipReason(str(error))
        records = context.instance.get_asset_records(list(watched))
        newest = max((record.asset_entry.last_materialization_storage_id or 0 for record in records), default=0)
        if not newest or newest <= int(context.cursor or 0):
            return dg.SkipReason("No table has changed since the last report")
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=f"{newest}")], cursor=f"{newest}")

    return report_refresh
