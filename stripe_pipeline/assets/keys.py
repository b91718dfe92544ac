"""The keys of tables and views, and of the resource that runs open the pipeline with."""

from contextlib import AbstractContextManager
from typing import Protocol

import dagster as dg

from stripe_pipeline.objects import ObjectType
from stripe_pipeline.sync.pipeline import Pipeline
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


def key_of(object_type: ObjectType, schema: str = "raw") -> dg.AssetKey:
    """The asset key of a table or view, for example `raw/charges`."""
    return dg.AssetKey([schema, object_type.name])
