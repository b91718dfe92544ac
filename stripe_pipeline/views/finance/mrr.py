"""The view `mrr`: the monthly recurring revenue at the end of each month."""

from __future__ import annotations

from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.finance import recurring
from stripe_pipeline.views.money import major_units, with_major_units
from stripe_pipeline.views.view import FINANCE, DescribedColumn, View, with_sources

_COLUMNS = (
    DescribedColumn("month", "DATE", "First day of the month in the time zone of the settings"),
    DescribedColumn("currency", "VARCHAR", "Currency of the amounts"),
    DescribedColumn(
        "mrr",
        "BIGINT",
        "Monthly recurring revenue at the end of the month, in minor units of `currency`; so far for the current month",
    ),
    DescribedColumn("customers", "BIGINT", "Number of customers with recurring revenue"),
    DescribedColumn("subscriptions", "BIGINT", "Number of subscriptions with recurring revenue"),
)


def mrr(settings: Settings) -> View:
    """The view with the columns that the settings keep."""
    return View(
        name="mrr",
        title="Monthly recurring revenue",
        description="One row per month and currency, from the first month with recurring revenue to the current one.",
        describe=lambda: tuple(with_major_units(with_sources(_COLUMNS, recurring.SOURCES), ("mrr",))),
        tables=recurring.TABLES,
        rows_of=None,
        select=lambda schema: _select(settings, schema),
        schemas=tuple(FINANCE),
    )


def _select(settings: Settings, schema: str) -> str:
    return f"""
WITH recurring AS ({recurring.monthly(settings, schema)})
SELECT month, currency, mrr, {major_units("mrr", "currency")} AS mrr_decimal, customers, subscriptions
FROM (
    SELECT month, currency, coalesce(sum(mrr), 0)::BIGINT AS mrr, count(DISTINCT customer) AS customers,
        count(subscription) AS subscriptions
    FROM ({recurring.months(settings, schema, "recurring")}) LEFT JOIN recurring USING (month, currency)
    GROUP BY month, currency
)
""".strip()
