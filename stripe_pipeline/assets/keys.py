"""The asset keys of tables and views."""

import dagster as dg

from stripe_pipeline.objects import ObjectType
from stripe_pipeline.views.view import View


def key_of(object_type: ObjectType, schema: str = "raw") -> dg.AssetKey:
    """The asset key of a base table or of the view on it, for example `raw/charges`."""
    return dg.AssetKey([schema, object_type.name])


def view_key(view: View, schema: str) -> dg.AssetKey:
    """The asset key of a view, for example `live/payments`."""
    return dg.AssetKey([schema, view.name])
