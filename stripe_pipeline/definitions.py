"""The Dagster code location: an inventory of all definitions.

`build_defs()` can be merged into another project's location: `dg.Definitions.merge(build_defs(), dg.Definitions(...))`.
"""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from stripe_pipeline.assets.checks import NIGHTLY, build_checks
from stripe_pipeline.assets.raw import build_raw_assets
from stripe_pipeline.assets.retention import build_retention_asset
from stripe_pipeline.assets.views import build_view_assets
from stripe_pipeline.automation import build_automation
from stripe_pipeline.resources.pipeline import RESOURCE, OpensPipeline, PipelineResource
from stripe_pipeline.settings.loading import load_settings


def build_defs(*, resource_overrides: Mapping[str, OpensPipeline] | None = None) -> dg.Definitions:
    """All definitions; tests and the command line pass their own resources."""
    settings = load_settings()
    checks = build_checks(settings)
    inventory = dg.Definitions(
        assets=[build_raw_assets(settings), build_view_assets(settings), build_retention_asset(settings)],
        asset_checks=[*checks.values()],
        resources={RESOURCE: PipelineResource(), **(resource_overrides or {})},
    )
    at_night = [checks[name] for name in NIGHTLY if name in checks]
    return dg.Definitions.merge(inventory, build_automation(settings, at_night))


# A process for each step costs seconds and gains nothing: the requests already run in parallel. Not part of
# `build_defs`, where it would also apply to the jobs of a project that merges these definitions.
defs = dg.Definitions.merge(build_defs(), dg.Definitions(executor=dg.in_process_executor))
