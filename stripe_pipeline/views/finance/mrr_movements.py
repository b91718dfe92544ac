"""The view `mrr_movements`: why the monthly recurring revenue changed from month to month."""

from __future__ import annotations

from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.finance import recurring
from stripe_pipeline.views.finance.lines import by_month
from stripe_pipeline.views.money import in_both_units
from stripe_pipeline.views.view import FINANCE, View

_AMOUNTS = {
    "opening": "Recurring revenue at the end of the previous month, in minor units of `currency`",
    "new": "Of customers who had none before",
    "reactivation": "Of customers who had some in an earlier month, but none in the previous one",
    "expansion": "Increase, of customers who had some in the previous month",
    "contraction": "Decrease, of customers who still have some: negative or 0",
    "churn": "Loss, of customers who have none left: negative or 0",
    "closing": "Recurring revenue at the end of the month: `opening` and the five movements together",
}


def mrr_movements(settings: Settings) -> View:
    """The view with the columns that the settings keep."""
    return View(
        name="mrr_movements",
        title="Movements of the monthly recurring revenue",
        description="One row per month and currency, with the differences between each customer's recurring revenue at"
        " the ends of the previous month and of this one.",
        describe=lambda: by_month(_AMOUNTS, dict.fromkeys(_AMOUNTS, recurring.SOURCES["mrr"]) | recurring.SOURCES),
        tables=recurring.TABLES,
        rows_of=None,
        select=lambda schema: _select(settings, schema),
        schemas=tuple(FINANCE),
    )


def _select(settings: Settings, schema: str) -> str:
    conditions = {
        "new": "opening = 0 AND month = first",
        "reactivation": "opening = 0 AND month > first",
        "expansion": "opening > 0 AND closing > opening",
        "contraction": "closing > 0 AND closing < opening",
        "churn": "closing = 0",
    }
    amounts = {name: f"sum(closing - opening) FILTER ({condition})" for name, condition in conditions.items()}
    amounts |= {"opening": "sum(opening)", "closing": "sum(closing)"}
    sums = ", ".join(f"coalesce({amounts[name]}, 0)::BIGINT AS {name}" for name in _AMOUNTS)
    shown = ", ".join(in_both_units(name, name, "currency") for name in _AMOUNTS)
    # The end of each month is also the beginning of the next.
    return f"""
WITH recurring AS (
    SELECT month, currency, customer, sum(mrr) AS mrr FROM ({recurring.monthly(settings, schema)})
    GROUP BY month, currency, customer
), months AS ({recurring.months(settings, schema, "recurring")}), changes AS (
    SELECT month, currency, sum(opening) AS opening, sum(closing) AS closing,
        min(month) OVER (PARTITION BY currency, customer) AS first
    FROM (
        SELECT month, currency, customer, 0 AS opening, mrr AS closing FROM recurring
        UNION ALL SELECT (month + INTERVAL 1 MONTH)::DATE, currency, customer, mrr, 0 FROM recurring
    )
    GROUP BY month, currency, customer
)
SELECT month, currency, {shown}
FROM (
    SELECT month, currency, {sums} FROM months LEFT JOIN changes USING (month, currency) GROUP BY month, currency
)
""".strip()
