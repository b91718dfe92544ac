"""The views filtered by livemode as assets, downstream of the base tables.

Nothing makes them but the layout of the file, so no step does: what brings the tables up to date reports which of them
show something else. What they say belongs to `views.one_type`.
"""

from collections.abc import Sequence

import dagster as dg

from stripe_pipeline.assets import columns
from stripe_pipeline.assets.keys import key_of
from stripe_pipeline.objects import ObjectType
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.one_type import MODES
from stripe_pipeline.warehouse.warehouse import Warehouse


def view_specs(settings: Settings) -> list[dg.AssetSpec]:
    """`live/*` and `test/*` of every enabled object type."""
    return [
        dg.AssetSpec(
            key_of(object_type, schema),
            deps=[dg.AssetDep(key_of(object_type), partition_mapping=dg.AllPartitionMapping())],
            description=_describe(object_type, schema, settings),
            group_name=schema,
            kinds={"duckdb", "view"},
            metadata={
                "dagster/table_name": f"{schema}.{object_type.name}",
                columns.SCHEMA: columns.of_view(object_type, settings),
            },
        )
        for schema in MODES
        for object_type in settings.enabled
    ]


def _describe(object_type: ObjectType, schema: str, settings: Settings) -> str:
    title = settings.title(object_type)
    return (
        f"{title[:1].upper()}{title[1:]} in {schema} mode, without deleted objects. A view of raw.{object_type.name},"
        " always as fresh as that table; a run materializes it when its rows have changed."
    )


def changed_views(
    instance: dg.DagsterInstance, warehouse: Warehouse, settings: Settings
) -> Sequence[dg.AssetMaterialization]:
    """Materializations of the views that show something else than what Dagster was last told, or was never told of.

    Raises `WarehouseError`.
    """
    keys = [key_of(object_type, schema) for schema in MODES for object_type in settings.enabled]
    told = {record.asset_entry.asset_key: record.asset_entry for record in instance.get_asset_records(keys)}
    shown = warehouse.rows.shown([".".join(key.path) for key in keys])
    found = []
    for key in keys:
        rows, read_at = shown[".".join(key.path)]
        metadata: dict[str, int | dg.TimestampMetadataValue] = {"dagster/row_count": rows}
        if read_at is not None:
            metadata["newest row read"] = dg.MetadataValue.timestamp(read_at)
        materialization = dg.AssetMaterialization(key, metadata=metadata)
        last = told[key].last_materialization if key in told else None
        before = last and last.asset_materialization
        if not before or before.metadata != materialization.metadata:
            found.append(materialization)
    return found
