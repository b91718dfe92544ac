"""The views as assets, downstream of the base tables.

The views are created with the file's layout, so no sync has to run them: the code that updates the tables reports the
views whose content changed. Materializing a view by hand recreates and reads the view. `views` defines what a view
shows.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import dagster as dg

from stripe_pipeline.assets import columns
from stripe_pipeline.assets.failure import failure
from stripe_pipeline.assets.keys import Names
from stripe_pipeline.errors import StripePipelineError
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.resources.pipeline import OpensPipeline
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.catalog import views
from stripe_pipeline.views.columns import rules_on
from stripe_pipeline.views.view import BELOW, SCHEMAS, DescribedColumn, View
from stripe_pipeline.warehouse.warehouse import Warehouse


def build_view_assets(settings: Settings, names: Names) -> dg.AssetsDefinition:
    """`live/*` and `test/*`: a view of each enabled object type, and the views that combine several."""
    specs = [spec for view in dict(_shown(settings)) for spec in _specs(view, settings, names)]

    @dg.multi_asset(
        name=names.own("views"),
        specs=specs,
        can_subset=True,
        required_resource_keys={names.resource},
        description="Creates all views again, reads the selected ones and publishes. A sync does not need this: views"
        " are as fresh as their tables.",
    )
    def make_views(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
        opens: OpensPipeline = getattr(context.resources, names.resource)
        keys = context.selected_asset_keys
        selected = [(view, schema) for view, schema in _shown(settings) if names.view_key(view, schema) in keys]
        try:
            with opens.open() as pipeline, opens.run_locks.holding(context.run.run_id):
                pipeline.warehouse.make_views([f"{schema}.{view.name}" for view, schema in selected])
                pipeline.publish()
                results = _materializations(pipeline.warehouse, settings, names, selected)
        except StripePipelineError as error:
            raise failure(error) from None
        for result in results:
            yield dg.MaterializeResult(asset_key=result.asset_key, metadata=result.metadata)

    return make_views


def changed_views(
    instance: dg.DagsterInstance,
    warehouse: Warehouse,
    settings: Settings,
    names: Names,
    tables: Collection[str] | None = None,
) -> Sequence[dg.AssetMaterialization]:
    """Materializations of the views whose content differs from the last report to Dagster, or was never reported.

    `tables`: only views that show one of these tables; all views by default. Raises `WarehouseError`.
    """
    reported = [(view, schema) for view, schema in _shown(settings) if tables is None or set(tables) & set(view.tables)]
    keys = [names.view_key(view, schema) for view, schema in reported]
    records = {record.asset_entry.asset_key: record.asset_entry for record in instance.get_asset_records(keys)}
    changed = []
    for materialization in _materializations(warehouse, settings, names, reported):
        entry = records.get(materialization.asset_key)
        last = entry and entry.last_materialization and entry.last_materialization.asset_materialization
        if not last or last.metadata != materialization.metadata:
            changed.append(materialization)
    return changed


def _shown(settings: Settings) -> list[tuple[View, str]]:
    """The views that have rows with these settings, each in the schema of each mode."""
    enabled = {object_type.name for object_type in settings.enabled}
    shown = [view for view in views(settings) if enabled & ({view.rows_of} if view.rows_of else set(view.tables))]
    return [(view, schema) for view in shown for schema in view.schemas]


def _specs(view: View, settings: Settings, names: Names) -> Iterator[dg.AssetSpec]:
    """The view as an asset of each mode."""
    enabled = {object_type.name for object_type in settings.enabled}
    tables = [table for table in view.tables if table in enabled]
    shown = [_as_kept(column, settings) for column in view.columns]
    described = columns.table_schema(shown)
    tags = columns.tags_of([OBJECT_TYPES[table] for table in tables], settings)
    for schema in view.schemas:
        keys = {
            table: names.key_of(OBJECT_TYPES[table], "raw" if view.on_one_table else BELOW.get(schema, schema))
            for table in tables
        }
        lineage = columns.lineage(shown, keys.get)
        yield _spec(view, schema, names, keys, described, lineage, tags)


def _spec(
    view: View,
    schema: str,
    names: Names,
    keys: Mapping[str, dg.AssetKey],
    described: dg.TableSchema,
    lineage: dg.TableColumnLineage | None,
    tags: Mapping[str, str],
) -> dg.AssetSpec:
    """The asset of the view in a schema; `keys`: the assets of its tables, or of the views on these, by table."""
    # Only base tables have partitions.
    every_day = dg.AllPartitionMapping() if view.on_one_table else None
    mode = "live" if SCHEMAS[schema] else "test"
    metadata: dict[str, Any] = columns.of_relation(f"{schema}.{view.name}", described)
    if lineage:
        metadata[columns.LINEAGE] = lineage
    return dg.AssetSpec(
        names.view_key(view, schema),
        deps=[dg.AssetDep(key, partition_mapping=every_day) for key in keys.values()],
        description=f"{view.title}. {view.description}\n\nA view: {mode} mode only, without deleted objects, as fresh"
        f" as {', '.join(f'raw.{table}' for table in keys)}. A run materializes it when its rows have changed.",
        group_name=names.own(schema),
        kinds={"duckdb", "view"},
        metadata=metadata,
        tags=tags,
    )


def _as_kept(column: DescribedColumn, settings: Settings) -> DescribedColumn:
    """The column with what the settings do to the values that it is computed from, and with the sources that exist."""
    rules = column.rules
    if rules is None:
        rules = frozenset().union(*(rules_on(OBJECT_TYPES[of], [name], settings) for of, name in column.sources))
    stored = {table: {known.name for known in settings.types[table].table_columns} for table in dict(column.sources)}
    return replace(column, rules=rules, sources=tuple(of for of in column.sources if of[1] in stored[of[0]]))


def _materializations(
    warehouse: Warehouse, settings: Settings, names: Names, wanted: Collection[tuple[View, str]]
) -> list[dg.AssetMaterialization]:
    """Row counts and newest times of these views, without reading the views that combine tables.

    A view that groups or unites rows has the number of its tables' rows instead.
    """
    enabled = {object_type.name for object_type in settings.enabled}
    tables = {
        f"{BELOW.get(schema, schema)}.{table}" for view, schema in wanted for table in view.tables if table in enabled
    }
    shown = warehouse.rows.shown(sorted(tables))
    materializations = []
    for view, schema in wanted:
        below = BELOW.get(schema, schema)
        of_tables = {table: shown[f"{below}.{table}"] for table in view.tables if table in enabled}
        metadata: dict[str, int | dg.TimestampMetadataValue] = (
            {"dagster/row_count": of_tables[view.rows_of][0]}
            if view.rows_of
            else {"rows of its tables": sum(rows for rows, _ in of_tables.values())}
        )
        if newest := max((at for _, at in of_tables.values() if at is not None), default=None):
            metadata["newest row read"] = dg.MetadataValue.timestamp(newest)
        materializations.append(dg.AssetMaterialization(names.view_key(view, schema), metadata=metadata))
    return materializations
