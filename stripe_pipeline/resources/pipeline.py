"""The Dagster resource that runs, checks and the sensor open the pipeline with.

Here belongs only the connection to Dagster: what a pipeline does belongs to `sync.pipeline`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import dagster as dg

from stripe_pipeline.sync.pipeline import Pipeline, look
from stripe_pipeline.sync.report import Progress
from stripe_pipeline.warehouse.warehouse import Warehouse

RESOURCE = "stripe_pipeline"
"""Not just `pipeline`: definitions with different resources of one key cannot be merged."""


class OpensPipeline(Protocol):
    """The resource that runs get their pipeline from."""

    def open(self, progress: Progress | None = None) -> AbstractContextManager[Pipeline]:
        """A pipeline for one run, which tells `progress` how it goes unless somebody is told already."""

    def look(self) -> AbstractContextManager[Warehouse]:
        """The warehouse, only to be looked at: makes nothing and needs no key."""


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
