"""The asset keys of tables and views."""

import dagster as dg

from stripe_pipeline.objects import ObjectType


def key_of(object_type: ObjectType, schema: str = "raw") -> dg.AssetKey:
    """The asset key of a table or view, for example `raw/charges`."""
    return dg.AssetKey([schema, object_type.name])
