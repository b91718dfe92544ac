"""The Dagster resource with which runs, checks, schedules and the sensor open a pipeline.

This module only connects to Dagster: `sync.pipeline` is the pipeline itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import dagster as dg

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.inbox.run_locks import RunLocks
from stripe_pipeline.settings.configuration import Configuration
from stripe_pipeline.sync.pipeline import Pipeline, look
from stripe_pipeline.sync.report import Progress
from stripe_pipeline.warehouse.warehouse import Warehouse

RESOURCE = "stripe_pipeline"
"""The key of the resource of the pipeline `stripe`; `assets.keys` has those of others."""


class OpensPipeline(Protocol):
    """The resource that gives runs their pipeline."""

    @property
    def folder(self) -> DataFolder:
        """The data folder of the pipeline."""

    @property
    def run_locks(self) -> RunLocks:
        """The locks of the pipeline's active runs; raises `SettingsError`."""

    def open(self, progress: Progress | None = None) -> AbstractContextManager[Pipeline]:
        """A pipeline for one run, which reports to `progress` unless another reporter is set."""

    def look(self) -> AbstractContextManager[Warehouse]:
        """The warehouse, read-only: creates no files and needs no key."""


@dataclass(frozen=True)
class PipelineResource:
    """Reads Stripe and writes the DuckDB file that a configuration names."""

    configuration: Configuration

    @property
    def folder(self) -> DataFolder:
        """The data folder of the pipeline."""
        return self.configuration.folder

    @property
    def run_locks(self) -> RunLocks:
        """The locks of the pipeline's active runs; raises `SettingsError`."""
        with self.configuration.errors():
            return RunLocks(self.folder, self.configuration.inbox_url())

    @contextmanager
    def open(self, progress: Progress | None = None) -> Iterator[Pipeline]:
        """A pipeline for one run; raises `SettingsError`."""
        with self.configuration.errors(), Pipeline.from_environment(progress, self.configuration) as pipeline:
            yield pipeline

    @contextmanager
    def look(self) -> Iterator[Warehouse]:
        """The warehouse, read-only; raises `SettingsError`."""
        with self.configuration.errors(), look(self.configuration) as warehouse:
            yield warehouse

    def definition(self) -> dg.ResourceDefinition:
        """The resource as Dagster shows it, without configuration: keys come from environment variables, which no page
        shows."""
        return dg.ResourceDefinition.hardcoded_resource(
            self,
            "Reads Stripe and writes the DuckDB file. Keys come from environment variables; the data folder and the"
            " settings from there, from the settings file, or from the code of the project.",
        )
