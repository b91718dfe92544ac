"""The names by which Dagster knows a pipeline: asset keys, jobs, schedules, the sensor, the resource, tags of runs.

A code location may hold several pipelines, each with names of its own. Where a pipeline reads and writes belongs to
`settings.configuration`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from stripe_pipeline.objects import ObjectType
from stripe_pipeline.settings.configuration import NAME, checked_name
from stripe_pipeline.views.view import View


@dataclass(frozen=True)
class Names:
    """The names of one pipeline. The pipeline `stripe` has the plain names; those of others begin with its name."""

    pipeline: str = NAME
    prefix: tuple[str, ...] = ()
    """The first parts of every asset key."""

    @classmethod
    def of(cls, pipeline: str = NAME, key_prefix: str | Sequence[str] | None = None) -> Names:
        """The names of this pipeline. `key_prefix`: by default none for `stripe`, the name for any other pipeline.

        Raises `SettingsError` like `checked_name`.
        """
        checked_name(pipeline)
        if key_prefix is None:
            return cls(pipeline, () if pipeline == NAME else (pipeline,))
        return cls(pipeline, (key_prefix,) if isinstance(key_prefix, str) else tuple(key_prefix))

    def own(self, name: str) -> str:
        """The name of this pipeline's job, schedule, sensor, asset group or op that the pipeline `stripe` calls
        `name`."""
        return name if self.pipeline == NAME else f"{self.pipeline}_{name}"

    @property
    def resource(self) -> str:
        """The key of the resource that opens the pipeline. Definitions with different resources of one key cannot be
        merged."""
        return f"{self.pipeline}_pipeline"

    @property
    def sync_job(self) -> str:
        """The job of a sync."""
        return self.own("sync")

    @property
    def nightly_job(self) -> str:
        """The job that prunes and proves."""
        return self.own("nightly")

    @property
    def report_job(self) -> str:
        """The job that makes the report."""
        return self.own("report")

    @property
    def report_sensor(self) -> str:
        """The sensor that requests the report when a table has changed."""
        return self.own("report_refresh")

    @property
    def sensor(self) -> str:
        """The sensor that drains the inbox."""
        return self.own("webhook_refresh")

    @property
    def run_tags(self) -> dict[str, str]:
        """The tags of the jobs' runs: other code locations may have jobs of the same names."""
        return {"stripe_pipeline": "true" if self.pipeline == NAME else self.pipeline}

    @property
    def retention(self) -> dg.AssetKey:
        """The asset that removes old rows and records."""
        return self.key("retention")

    @property
    def certificate(self) -> dg.AssetKey:
        """The asset that certifies closed months."""
        return self.key("proof", "certificate")

    @property
    def report(self) -> dg.AssetKey:
        """The asset of the report."""
        return self.key("report", "overview")

    def key(self, *parts: str) -> dg.AssetKey:
        """The asset key with these parts after the prefix."""
        return dg.AssetKey([*self.prefix, *parts])

    def key_of(self, object_type: ObjectType, schema: str = "raw") -> dg.AssetKey:
        """The asset key of a base table or of the view on it, for example `raw/charges`."""
        return self.key(schema, object_type.name)

    def view_key(self, view: View, schema: str) -> dg.AssetKey:
        """The asset key of a view, for example `live/payments`."""
        return self.key(schema, view.name)
