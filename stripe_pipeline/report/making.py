"""Making the report: reads the published file and writes `report.html` beside it."""

from __future__ import annotations

import base64
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.inbox.lags import new_objects
from stripe_pipeline.inbox.shared_rates import shared_rates
from stripe_pipeline.permissions import Permissions
from stripe_pipeline.report.charts import LIGHT, check_libraries, colored
from stripe_pipeline.report.money import amount
from stripe_pipeline.report.overview import (
    LAG_HOURS,
    DayState,
    Overview,
    livemode_of,
    overview,
    percentile,
    span,
)
from stripe_pipeline.report.page import drawn, page
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.storage_errors import reason, remedy
from stripe_pipeline.stripe_api.rate_limits import READ_ALLOCATION, requests_by_day
from stripe_pipeline.warehouse.readers import open_published

_CURRENCIES = 2
"""How many currencies the figures name."""


@dataclass(frozen=True)
class Report:
    """A report that was made."""

    overview: Overview
    path: Path

    def figures(self) -> list[tuple[str, str]]:
        """The most important numbers in words, each with its name."""
        of = self.overview
        figures = [(f"Verdict, {of.mode} mode", of.summary.sentence)]
        day = timedelta(days=1)
        for kept in of.kept[:_CURRENCIES]:
            total = amount(kept.between(of.today - 30 * day, of.today - day), kept.currency)
            today = amount(kept.between(of.today, of.today), kept.currency)
            figures.append((f"Kept, {kept.currency.upper()}", f"{total} in 30 days; {today} today, not finished"))
        complete = of.days_in(DayState.COMPLETE)
        due = complete + of.days_in(DayState.DIFFERS, DayState.UNREAD)
        if due:
            figures.append(("Coverage", f"{complete:,} of {due:,} finished days complete"))
        if of.lags:
            p50 = percentile([lag.p50 for lag in of.lags], 0.5)
            figures.append(("Lag", f"{span(p50)} (median of {LAG_HOURS} hours)"))
        if of.requests:
            figures.append(("Requests", f"{of.requests_sent:,} of {READ_ALLOCATION:,} in 30 days"))
        return figures

    def images(self) -> str:
        """The charts as Markdown, each an image that the text itself holds."""
        return "\n\n".join(
            f"**{title}**\n\n![{title}](data:image/svg+xml;base64,"
            f"{base64.b64encode(colored(svg, LIGHT).encode()).decode()})"
            for title, svg in drawn(self.overview)
        )


def make_report(folder: DataFolder, settings: Settings, inbox_url: str | None) -> Report:
    """Makes the report on the version that is published now, and writes its page.

    Raises `WarehouseError` if nothing is published or the page cannot be written, and `StripePipelineError` if a
    library of the charts is missing.
    """
    check_libraries()
    path = folder.shared.report
    with open_published(folder) as connection:
        connection.execute("SET TimeZone = 'UTC'")

        def ask(sql: str) -> list[tuple[object, ...]]:
            return connection.execute(sql).fetchall()

        livemode = livemode_of(ask)
        with closing(shared_rates(folder, inbox_url, livemode=livemode)) as rates:
            requests = requests_by_day(rates)
        [(published_at,)] = connection.execute("SELECT epoch(published_at) FROM pipeline.published").fetchall()
        numbers = overview(
            ask,
            settings,
            livemode=livemode,
            applied=new_objects(folder, inbox_url, published_at - (LAG_HOURS + 1) * 3600, livemode=livemode),
            requests=requests,
        )
    try:
        Permissions(folder, settings.published.readable_by).write_page(path, page(numbers, settings).encode())
    except OSError as error:
        raise WarehouseError(f"{path} cannot be written ({reason(error)})", remedy(error, path)) from error
    return Report(numbers, path)
