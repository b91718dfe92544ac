"""Which of Dagster's runs and assets are the pipeline's: other code locations may use the same storage."""

from collections.abc import Set

import dagster as dg

from stripe_pipeline.assets.keys import Names
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.catalog import views

ASSETS_JOB = "__ASSET_JOB"
"""Dagster's name for the job of a backfill, and of assets materialized by hand."""
BEGUN = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
UNFINISHED = [dg.DagsterRunStatus.QUEUED, *BEGUN]


def our_assets(names: Names) -> set[dg.AssetKey]:
    """The asset keys that this pipeline has or had, with whatever settings."""
    every = views(Settings.model_validate({"compat": {"fivetran": True}}), OBJECT_TYPES.values())
    return {
        names.certificate,
        names.retention,
        *(names.key_of(object_type) for object_type in OBJECT_TYPES.values()),
        *(names.view_key(view, schema) for view in every for schema in view.schemas),
    }


def is_ours(run: dg.DagsterRun, names: Names, ours: Set[dg.AssetKey]) -> bool:
    """Whether the run is this pipeline's, whose assets are `ours`: another code location may have jobs of the same
    names."""
    if run.job_name != ASSETS_JOB:
        return names.run_tags.items() <= run.tags.items()
    assets = {*(run.asset_selection or ()), *(check.asset_key for check in run.asset_check_selection or ())}
    return bool(assets) and ours >= assets
