"""The asset that removes old data: rows, applied notifications, and Dagster's own history of this project.

`warehouse.pruning` decides which rows are too old, `dagster_history` removes records of Dagster.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from stripe_pipeline.assets.dagster_history import (
    forget_checks,
    forget_events_without_a_run,
    forget_runs,
    remove_tick_logs,
    report_again,
)
from stripe_pipeline.assets.keys import RETENTION, key_of
from stripe_pipeline.assets.run_locks import hold_run_lock
from stripe_pipeline.errors import StripePipelineError
from stripe_pipeline.resources.pipeline import RESOURCE, OpensPipeline
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.warehouse.pruning import Pruned

PRUNED = "pruned"
"""The metadata key of the table of removed rows."""


class RetentionConfig(dg.Config):
    """The options of a run of `retention` in the launchpad."""

    dry_run: bool = False
    """Only count what would be removed."""


def build_retention_asset(settings: Settings) -> dg.AssetsDefinition:
    """The unpartitioned asset `retention`, downstream of every base table."""

    @dg.asset(
        key=RETENTION,
        deps=[
            dg.AssetDep(key_of(object_type), partition_mapping=dg.AllPartitionMapping())
            for object_type in settings.enabled
        ],
        description="Removes rows that are older than their retention, children with their parents, and notifications"
        " and runs of Dagster that ended long ago. With dry_run it only counts.",
        group_name="maintenance",
        kinds={"duckdb"},
        required_resource_keys={RESOURCE},
    )
    def retention(context: dg.AssetExecutionContext, config: RetentionConfig) -> dg.MaterializeResult[Any]:
        opens: OpensPipeline = getattr(context.resources, RESOURCE)
        try:
            if config.dry_run:
                with opens.look() as warehouse:
                    foreseen = _metadata(warehouse.prune(dry_run=True))
                return dg.MaterializeResult(metadata={"dry run": True, **foreseen})
            with opens.open() as pipeline, hold_run_lock(pipeline.folder, context.run.run_id):
                pruned = pipeline.prune()
                covered = pipeline.warehouse.state.covered_days()
        except StripePipelineError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from None
        before = datetime.now(UTC) - timedelta(days=settings.runs.keep_days)
        runs = forget_runs(context.instance, before)
        remove_tick_logs(context.instance, before)
        forget_checks(context.instance, before)
        forget_events_without_a_run(context.instance)
        report_again(context.instance, settings, covered)
        return dg.MaterializeResult(metadata={**_metadata(pruned), "runs of Dagster removed": runs})

    return retention


def records(pruned: Mapping[str, Pruned]) -> list[dict[str, str | int]]:
    """One human-readable line per table."""
    return [
        {
            "table": table,
            "rows": removed.rows,
            "first day": str(min(removed.days, default="")),
            "last day": str(max(removed.days, default="")),
            "kept from": str(removed.cutoff or "as its parent"),
        }
        for table, removed in pruned.items()
    ]


def _metadata(pruned: Mapping[str, Pruned]) -> dict[str, Any]:
    """A summary of all tables, and the rows per day of each table."""
    metadata: dict[str, Any] = {"rows": sum(removed.rows for removed in pruned.values())}
    if pruned:
        metadata[PRUNED] = dg.MetadataValue.table([dg.TableRecord(record) for record in records(pruned)])
    for table, removed in pruned.items():
        if removed.days:
            metadata[table] = dg.MetadataValue.json({str(day): removed.days[day] for day in sorted(removed.days)})
    return metadata
