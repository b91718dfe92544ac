"""The views as assets, downstream of the base tables.

The views are created with the file's layout, so no sync has to run them: the code that updates the tables reports the
views whose content changed. Materializing a view by hand recreates and reads the view. `views` defines what a view
shows.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import dagster as dg

from stripe_pipeline.assets import columns
from stripe_pipeline.assets.keys import key_of, view_key
from stripe_pipeline.errors import StripePipelineError
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.resources.pipeline import RESOURCE, OpensPipeline
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.catalog import views
from stripe_pipeline.views.view import MODES, View
from stripe_pipeline.warehouse.warehouse import Warehouse


def build_view_assets(settings: Settings) -> dg.AssetsDefinition:
    """`live/*` and `test/*`: a view of each enabled object type, and the views that combine several."""
    specs = [_spec(view, schema, settings) for view, schema in _shown(settings)]

    @dg.multi_asset(
        name="views",
        specs=specs,
        can_subset=True,
        required_resource_keys={RESOURCE},
        description="Creates all views again, reads the selected ones and publishes. A sync does not need this: views"
        " are as fresh as their tables.",
    )
    def make_views(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
        opens: OpensPipeline = getattr(context.resources, RESOURCE)
        keys = context.selected_asset_keys
        selected = [(view, schema) for view, schema in _shown(settings) if view_key(view, schema) in keys]
        try:
            with opens.open() as pipeline:
                pipeline.warehouse.make_views([f"{schema}.{view.name}" for view, schema in selected])
                pipeline.publish()
                results = _materializations(pipeline.warehouse, settings, selected)
        except StripePipelineError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from None
        for result in results:
            yield dg.MaterializeResult(asset_key=result.asset_key, metadata=result.metadata)

    return make_views


def changed_views(
    instance: dg.DagsterInstance, warehouse: Warehouse, settings: Settings, tables: Collection[str] | None = None
) -> Sequence[dg.AssetMaterialization]:
    """Materializations of the views whose content differs from the last report to Dagster, or was never reported.

    `tables`: only views that show one of these tables; all views by default. Raises `WarehouseError`.
    """
    reported = [(view, schema) for view, schema in _shown(settings) if tables is None or set(tables) & set(view.tables)]
    keys = [view_key(view, schema) for view, schema in reported]
    records = {record.asset_entry.asset_key: record.asset_entry for record in instance.get_asset_records(keys)}
    changed = []
    for materialization in _materializations(warehouse, settings, reported):
        entry = records.get(materialization.asset_key)
        last = entry and entry.last_materialization and entry.last_materialization.asset_materialization
        if not last or last.metadata != materialization.metadata:
            changed.append(materialization)
    return changed


def _shown(settings: Settings) -> list[tuple[View, str]]:
    """The views that have rows with these settings, each in the schema of each mode."""
    enabled = {object_type.name for object_type in settings.enabled}
    shown = [view for view in views(settings) if enabled & ({view.rows_of} if view.rows_of else set(view.tables))]
    return [(view, schema) for schema in MODES for view in shown]


def _spec(view: View, schema: str, settings: Settings) -> dg.AssetSpec:
    enabled = [object_type.name for object_type in settings.enabled]
    tables = [table for table in view.tables if table in enabled]
    # A view that combines tables selects from the views of its mode.
    above = (
        [dg.AssetDep(key_of(OBJECT_TYPES[view.name]), partition_mapping=dg.AllPartitionMapping())]
        if tables == [view.name]
        else [dg.AssetDep(key_of(OBJECT_TYPES[table], schema)) for table in tables]
    )
    return dg.AssetSpec(
        view_key(view, schema),
        deps=above,
        description=f"{view.title}. {view.description}\n\nA view: {schema} mode only, without deleted objects, as fresh"
        f" as {', '.join(f'raw.{table}' for table in tables)}. A run materializes it when its rows have changed.",
        group_name=schema,
        kinds={"duckdb", "view"},
        metadata={
            "dagster/table_name": f"{schema}.{view.name}",
            columns.SCHEMA: columns.table_schema(view.columns),
        },
    )


def _materializations(
    warehouse: Warehouse, settings: Settings, wanted: Collection[tuple[View, str]]
) -> list[dg.AssetMaterialization]:
    """Row counts and newest times of these views, without reading the views that combine tables.

    A view that groups or unites rows has the number of its tables' rows instead.
    """
    enabled = {object_type.name for object_type in settings.enabled}
    tables = {f"{schema}.{table}" for view, schema in wanted for table in view.tables if table in enabled}
    shown = warehouse.rows.shown(sorted(tables))
    materializations = []
    for view, schema in wanted:
        of_tables = {table: shown[f"{schema}.{table}"] for table in view.tables if table in enabled}
        metadata: dict[str, int | dg.TimestampMetadataValue] = (
            {"dagster/row_count": of_tables[view.rows_of][0]}
            if view.rows_of
            else {"rows of its tables": sum(rows for rows, _ in of_tables.values())}
        )
        if newest := max((at for _, at in of_tables.values() if at is not None), default=None):
            metadata["newest row read"] = dg.MetadataValue.timestamp(newest)
        materializations.append(dg.AssetMaterialization(view_key(view, schema), metadata=metadata))
    return materializations
