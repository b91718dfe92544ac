"""The names by which Dagster knows this project: asset keys, jobs, the sensor, tags of runs."""

import dagster as dg

from stripe_pipeline.objects import ObjectType
from stripe_pipeline.views.view import View

RETENTION = dg.AssetKey("retention")
SYNC_JOB = "sync"
NIGHTLY_JOB = "nightly"
SENSOR = "webhook_refresh"
RUN_TAGS = {"stripe_pipeline": "true"}
"""The tags of runs of this project's jobs: other projects may have jobs of the same names."""


def key_of(object_type: ObjectType, schema: str = "raw") -> dg.AssetKey:
    """The asset key of a base table or of the view on it, for example `raw/charges`."""
    return dg.AssetKey([schema, object_type.name])


def view_key(view: View, schema: str) -> dg.AssetKey:
    """The asset key of a view, for example `live/payments`."""
    return dg.AssetKey([schema, view.name])
