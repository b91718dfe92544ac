"""The Dagster code location: an inventory of what there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import dagster as dg

from stripe_pipeline.assets.checks import NIGHTLY, build_checks
from stripe_pipeline.assets.keys import RESOURCE
from stripe_pipeline.assets.raw import build_raw_assets
from stripe_pipeline.assets.retention import build_retention_asset
from stripe_pipeline.assets.views import view_specs
from stripe_pipeline.automation import build_automation
from stripe_pipeline.settings import load_settings
from stripe_pipeline.sync import Pipeline, Progress


class PipelineResource:
    """Opens the pipeline that the environment and the settings file describe."""

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress

    @contextmanager
    def open(self, progress: Progress | None = None) -> Iterator[Pipeline]:
        """A pipeline for one run; raises `SettingsError`."""
        with Pipeline.from_environment(self._progress or progress) as pipeline:
            yield pipeline


def build_defs(*, resource_overrides: Mapping[str, object] | None = None) -> dg.Definitions:
    """All definitions; tests and the command line put their own resources in."""
    settings = load_settings()
    checks = build_checks(settings)
    inventory = dg.Definitions(
        assets=[build_raw_assets(settings), *view_specs(settings), build_retention_asset(settings)],
        asset_checks=[*checks.values()],
        resources={RESOURCE: PipelineResource(), **(resource_overrides or {})},
        # A process per step costs seconds and gains nothing: what runs in parallel are the requests.
        executor=dg.in_process_executor,
    )
    return dg.Definitions.merge(inventory, build_automation([checks[name] for name in NIGHTLY if name in checks]))


defs = build_defs()
