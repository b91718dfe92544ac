"""The asset that removes old data: rows, applied notifications, and Dagster's own history of this project.

`warehouse.pruning` decides which rows are too old, `dagster_history` removes records of Dagster.
"""

from collections.abc import Iterator, Mapping
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
from stripe_pipeline.assets.failure import failure
from stripe_pipeline.assets.freshness import EVERY_NIGHT
from stripe_pipeline.assets.keys import Names
from stripe_pipeline.assets.partitions import Partitions
from stripe_pipeline.errors import StripePipelineError
from stripe_pipeline.resources.pipeline import OpensPipeline
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.warehouse.pruning import Pruned

PRUNED = "pruned"
"""The metadata key of the table of removed rows."""


class RetentionConfig(dg.Config):
    """The options of a run of `retention` in the launchpad."""

    dry_run: bool = False
    """Only count what would be removed."""


def build_retention_asset(settings: Settings, names: Names) -> dg.AssetsDefinition:
    """The unpartitioned asset `retention`, downstream of every base table."""

    @dg.asset(
        key=names.retention,
        deps=[
            dg.AssetDep(names.key_of(object_type), partition_mapping=dg.AllPartitionMapping())
            for object_type in settings.enabled
        ],
        description="Removes rows that are older than their retention, children with their parents, and notifications"
        " and runs of Dagster that ended long ago. With dry_run it only counts.",
        group_name=names.own("maintenance"),
        kinds={"duckdb"},
        required_resource_keys={names.resource},
        freshness_policy=EVERY_NIGHT,
    )
    def retention(context: dg.AssetExecutionContext, config: RetentionConfig) -> dg.MaterializeResult[Any]:
        opens: OpensPipeline = getattr(context.resources, names.resource)
        try:
            if config.dry_run:
                with opens.look() as warehouse:
                    foreseen = _metadata(warehouse.prune(dry_run=True))
                return dg.MaterializeResult(metadata={"dry run": True, **foreseen})
            with opens.run_locks.holding(context.run.run_id):
                with opens.open() as pipeline:
                    pruned = pipeline.prune()
                    covered = pipeline.warehouse.state.covered_days()
                for materialization in not_kept_materializations(context.instance, settings, names, pruned):
                    context.log_event(materialization)
                before = datetime.now(UTC) - timedelta(days=settings.runs.keep_days)
                runs = forget_runs(context.instance, before, names)
                remove_tick_logs(context.instance, before, names)
                forget_checks(context.instance, before, names)
                forget_events_without_a_run(context.instance, names)
                report_again(context.instance, settings, covered, names)
        except StripePipelineError as error:
            raise failure(error) from None
        return dg.MaterializeResult(metadata={**_metadata(pruned), "runs of Dagster removed": runs})

    return retention


def not_kept_materializations(
    instance: dg.DagsterInstance, settings: Settings, names: Names, pruned: Mapping[str, Pruned]
) -> Iterator[dg.AssetMaterialization]:
    """The materializations of partitions whose rows the settings do not keep, which say so.

    Without one, Dagster would show a partition as missing that is before a type's history, or past its retention; and a
    partition whose rows were `pruned`, as it was.
    """
    partitions = Partitions(settings)
    keys = partitions.definition.get_partition_keys()
    for object_type in settings.enabled:
        if not (not_kept := partitions.not_kept(object_type, keys)):
            continue
        key = names.key_of(object_type)
        known = instance.get_materialized_partitions(key)
        removed = partitions.keys_of(pruned[object_type.name].days if object_type.name in pruned else ())
        for partition, metadata in sorted(not_kept.items()):
            if partition in removed or partition not in known:
                yield dg.AssetMaterialization(key, partition=partition, metadata=metadata)


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
