"""The Dagster resource with which runs, checks and the sensor open the pipeline.

This module only connects to Dagster: `sync.pipeline` is the pipeline itself.
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
"""Not just `pipeline`: definitions with different resources of the same key cannot be merged."""


class OpensPipeline(Protocol):
    """The resource that gives runs their pipeline."""

    def open(self, progress: Progress | None = None) -> AbstractContextManager[Pipeline]:
        """A pipeline for one run, which reports to `progress` unless another reporter is set."""

    def look(self) -> AbstractContextManager[Warehouse]:
        """The warehouse, read-only: creates no files and needs no key."""


class PipelineResource(dg.ConfigurableResource[Any]):
    """Reads Stripe and writes the DuckDB file. Keys and folders come from environment variables, everything else from
    stripe_pipeline.yaml."""

    @contextmanager
    def open(self, progress: Progress | None = None) -> Iterator[Pipeline]:
        """A pipeline for one run; raises `SettingsError`."""
        with Pipeline.from_environment(progress) as pipeline:
            yield pipeline

    def look(self) -> AbstractContextManager[Warehouse]:
        """The warehouse, read-only; raises `SettingsError`."""
        return look()
