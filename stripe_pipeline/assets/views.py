"""The views filtered by livemode as assets, downstream of the base tables.

What the views say belongs to `resources.warehouse`, which makes them with the tables; this step shows what is in them.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from stripe_pipeline.assets.raw import RESOURCE, OpensPipeline, key_of
from stripe_pipeline.errors import StripePipelineError
from stripe_pipeline.settings import Settings


def build_view_assets(settings: Settings) -> dg.AssetsDefinition:
    """`live/*` and `test/*` of every enabled object type."""
    specs = [
        dg.AssetSpec(
            key_of(object_type, schema),
            deps=[dg.AssetDep(key_of(object_type), partition_mapping=dg.AllPartitionMapping())],
            description=f"{word} {settings.title(object_type)}, deleted ones left out: a view, as fresh as its table.",
            group_name=schema,
            kinds={"duckdb", "view"},
            skippable=True,
            metadata={"dagster/table_name": f"{schema}.{object_type.name}"},
        )
        for schema, word in (("live", "Live"), ("test", "Test"))
        for object_type in settings.enabled
    ]

    @dg.multi_asset(
        name="views",
        specs=specs,
        can_subset=True,
        required_resource_keys={RESOURCE},
        description="Counts what the views by livemode show.",
    )
    def views(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
        opens: OpensPipeline = getattr(context.resources, RESOURCE)
        keys = sorted(context.selected_asset_keys)
        try:
            with opens.open() as pipeline:
                counts = pipeline.warehouse.row_counts([".".join(key.path) for key in keys])
                pipeline.publish()
        except StripePipelineError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from None
        for key in keys:
            yield dg.MaterializeResult(asset_key=key, metadata={"dagster/row_count": counts[".".join(key.path)]})

    return views
