"""The Dagster code location: an inventory of what there is.

`build_defs()` can be merged into another project's location: `dg.Definitions.merge(build_defs(), dg.Definitions(...))`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import dagster as dg

from stripe_pipeline.assets.checks import NIGHTLY, build_checks
from stripe_pipeline.assets.keys import RESOURCE, OpensPipeline
from stripe_pipeline.assets.raw import build_raw_assets
from stripe_pipeline.assets.retention import build_retention_asset
from stripe_pipeline.assets.views import view_specs
from stripe_pipeline.automation import build_automation
from stripe_pipeline.settings.loading import load_settings
from stripe_pipeline.sync.pipeline import Pipeline, look
from stripe_pipeline.sync.report import Progress
from stripe_pipeline.warehouse.warehouse import Warehouse


class PipelineResource(dg.ConfigurableResource[Any]):
    """Reads Stripe and writes the DuckDB file. Keys and folders come from environment variables, everything else from
    stripe_pipeline.yaml."""

    @contextmanager
    def open(self, progress: Progress | None = None) -> Iterator[Pipeline]:
        """A pipeline for one run; raises `SettingsError`."""
        with Pipeline.from_environment(progress) as pipeline:
            yield pipeline

    def look(self) -> AbstractContextManager[Warehouse]:
        """The warehouse, only to be looked at; raises `SettingsError`."""
        return look()


def build_defs(*, resource_overrides: Mapping[str, OpensPipeline] | None = None) -> dg.Definitions:
    """All definitions; tests and the command line put their own resources in."""
    settings = load_settings()
    checks = build_checks(settings)
    inventory = dg.Definitions(
        assets=[build_raw_assets(settings), *view_specs(settings), build_retention_asset(settings)],
        asset_checks=[*checks.values()],
        resources={RESOURCE: PipelineResource(), **(resource_overrides or {})},
    )
    at_night = [checks[name] for name in NIGHTLY if name in checks]
    return dg.Definitions.merge(inventory, build_automation(settings, at_night))


# A process for each step costs seconds and gains nothing: what runs in parallel are the requests. Not in `build_defs`,
# for it would hold for the jobs of those who merge it, too.
defs = dg.Definitions.merge(build_defs(), dg.Definitions(executor=dg.in_process_executor))
