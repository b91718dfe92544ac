"""What all parts of a run with one API key share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from stripe_pipeline.batch import Mode
from stripe_pipeline.errors import (
    AuthenticationFailed,
    Cancelled,
    StripePipelineError,
    WarehouseError,
)
from stripe_pipeline.identity import Identity
from stripe_pipeline.inbox.inbox import Inbox
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.stripe_api.client import StripeApi
from stripe_pipeline.stripe_api.reader import Reader, endpoint_of_children
from stripe_pipeline.sync.report import Progress, Report
from stripe_pipeline.sync.working_files import rows_lost
from stripe_pipeline.warehouse.warehouse import Warehouse

EVENTS = "events"
CLOCK_ERROR = 2  # largest error of the estimate of Stripe's clock (`ServerClock`), seconds


@dataclass(frozen=True)
class Context:
    """One run with one key: the stores, the settings, and the readers of the types to read."""

    api: StripeApi
    mode: Mode
    cursors: Mapping[str, float]
    """The mode's at the start, by name, in seconds on Stripe's clock."""
    warehouse: Warehouse
    inbox: Inbox
    settings: Settings
    report: Report
    progress: Progress | None
    identity: Identity
    """The warehouse's at the start."""
    asked_for: Collection[str]
    """Names of the requested listed types; others may be read because rows refer to their objects."""
    readers: Mapping[str, Reader]
    """By name of the listed type."""

    def fail(self, reader: Reader, error: Exception) -> StripePipelineError:
        """Record that this type failed if others can go on; else raise."""
        if isinstance(error, OSError):
            raise rows_lost(error, self.warehouse.folder.spool) from error
        if isinstance(error, (AuthenticationFailed, Cancelled, WarehouseError)) or not isinstance(
            error, StripePipelineError
        ):
            raise error
        for table in reader.tables:
            self.report.failures[table] = error
        return error

    def count_requests(self) -> None:
        """Add the requests and the surprises to the report."""
        before = self.report.requests.total()
        # Several types may be read from one endpoint, whose requests count for the first one.
        counted: set[str] = set()

        def count(table: str, endpoint: str) -> None:
            if endpoint not in counted:
                counted.add(endpoint)
                self.report.requests[table] += self.api.spent_on(endpoint)

        for name, reader in self.readers.items():
            count(name, f"{reader.object_type.endpoint}")
            for included in reader.object_type.include:
                count(name, included.endpoint)
            self.report.surprises.update(reader.surprises)
        for reader in self.readers.values():
            for child in reader.children:
                count(child.name, endpoint_of_children(reader.object_type, child))
        self.report.requests[EVENTS] += self.api.spent() - (self.report.requests.total() - before)
