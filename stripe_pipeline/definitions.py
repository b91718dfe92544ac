"""The Dagster code location: an inventory of all definitions.

`build_defs()` can be merged into another project's location: `dg.Definitions.merge(build_defs(), dg.Definitions(...))`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from stripe_pipeline.assets.certificate import build_certificate_asset
from stripe_pipeline.assets.checks import NIGHTLY, build_checks
from stripe_pipeline.assets.keys import Names
from stripe_pipeline.assets.raw import build_raw_assets
from stripe_pipeline.assets.report import build_report_asset, build_report_automation
from stripe_pipeline.assets.retention import build_retention_asset
from stripe_pipeline.assets.views import build_view_assets
from stripe_pipeline.automation import build_automation
from stripe_pipeline.resources.pipeline import OpensPipeline, PipelineResource
from stripe_pipeline.settings.configuration import NAME, Configuration
from stripe_pipeline.settings.model import Settings


def build_defs(
    *,
    name: str = NAME,
    key_prefix: str | Sequence[str] | None = None,
    settings: Settings | Mapping[str, Any] | str | Path | None = None,
    data_folder: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    resource_overrides: Mapping[str, OpensPipeline] | None = None,
) -> dg.Definitions:
    """All definitions of one pipeline, which keeps one Stripe account in one data folder.

    A code location may hold several pipelines, each with a `name` of its own, such as `stripe_eu`: its environment
    variables begin with `STRIPE_EU_` in place of `STRIPE_`, and the names of its jobs, schedules, sensor, asset groups
    and ops begin with `stripe_eu_`.

    `key_prefix`: the first part or parts of all asset keys; by default none for the pipeline `stripe`, and the name of
    any other pipeline.
    `settings`: the settings, or the path of a settings file; by default the file that `STRIPE_PIPELINE_CONFIG` names,
    else `stripe_pipeline.yaml` (`stripe_eu_pipeline.yaml`) if it exists.
    `data_folder`: by default the folder that `STRIPE_PIPELINE_DATA` names, else `data` (`data-stripe_eu`).
    `environment`: values of the variables by their standard names (`STRIPE_API_KEY`, …), instead of the process's.
    `resource_overrides`: other resources by key, for tests.

    Raises `SettingsError`.
    """
    configuration = Configuration(name, data_folder, settings, environment)
    names = Names.of(name, key_prefix)
    loaded = configuration.settings()
    checks = build_checks(loaded, names)
    assets = [
        build_raw_assets(loaded, names),
        build_view_assets(loaded, names),
        build_retention_asset(loaded, names),
        build_certificate_asset(loaded, names),
        build_report_asset(loaded, names, configuration),
    ]
    inventory = dg.Definitions(
        assets=dg.map_asset_specs(lambda spec: spec.replace_attributes(owners=loaded.owners), assets),
        asset_checks=[*checks.values()],
        resources={names.resource: PipelineResource(configuration).definition(), **(resource_overrides or {})},
    )
    at_night = [checks[check] for check in NIGHTLY if check in checks]
    return dg.Definitions.merge(
        inventory, build_automation(loaded, names, at_night), build_report_automation(loaded, names)
    )


# A process for each step costs seconds and gains nothing: the requests already run in parallel. Not part of
# `build_defs`, where it would also apply to the jobs of a project that merges these definitions.
defs = dg.Definitions.merge(build_defs(), dg.Definitions(executor=dg.in_process_executor))
