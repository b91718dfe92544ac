"""The view `revenue_by_month`: lines of invoices spread over their periods, less credit notes."""

from __future__ import annotations

from stripe_pipeline.days import local_day
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.columns import Source, selectable
from stripe_pipeline.views.finance.lines import NET, by_month, divided, included_taxes, invoice_lines
from stripe_pipeline.views.money import in_both_units
from stripe_pipeline.views.view import FINANCE, View

_AMOUNTS = {
    "revenue": "Revenue of the month, in minor units of `currency`",
    "uncollectible": "Part of `revenue` whose invoices are marked uncollectible",
    "credited": "Reduction by credit notes of the month: negative or 0; null if credit notes are not loaded",
    "net": "`revenue` and `credited` together",
}
_REVENUE = f"{NET} invoice_lines.period"
_CREDITED = "credit_note_lines.amount credit_note_lines.discount_amount credit_note_lines.taxes"
_SOURCES = {
    "month": "invoice_lines.period credit_notes.effective_at credit_notes.created",
    "currency": "invoice_lines.currency credit_notes.currency",
    "revenue": _REVENUE,
    "uncollectible": f"{_REVENUE} invoices.status",
    "credited": _CREDITED,
    "net": f"{_REVENUE} {_CREDITED}",
}
_NEEDED = {
    "invoice_lines": "id invoice currency amount discount_amounts taxes period",
    "invoices": "id status",
    "credit_notes": "id invoice currency status created effective_at",
    "credit_note_lines": "credit_note amount discount_amount taxes",
}
"""The columns that the view needs. Without those of invoices the view is empty; without those of credit notes the
reduction is null."""


def revenue_by_month(settings: Settings) -> View:
    """The view with the columns that the settings keep."""
    columns = selectable(settings)
    return View(
        name="revenue_by_month",
        title="Revenue by month",
        description="One row per month and currency, with the revenue that the month's share of each invoice line is.",
        describe=lambda: by_month(_AMOUNTS, _SOURCES),
        tables=tuple(_NEEDED),
        rows_of=None,
        select=lambda schema: _select(Source(FINANCE[schema], columns), settings.time_zone),
        schemas=tuple(FINANCE),
    )


def _select(source: Source, time_zone: str) -> str:
    def has(*tables: str) -> bool:
        return all(source.has(table, *_NEEDED[table].split()) for table in tables)

    lines = has("invoice_lines", "invoices")
    notes = has("credit_notes", "credit_note_lines")

    def until(day: str) -> str:
        """The part of a line's amount for the days before `day`: rounding the parts of each month would not add up."""
        return divided(f"(net * ({day} - first_day))", "(end_day - first_day)")

    shown = ", ".join(in_both_units(name, name, "currency") for name in _AMOUNTS)
    # A day counts if the period begins on it or covers all of it, so that adjoining periods share no day.
    return f"""
WITH lines AS (
    SELECT l.currency, l.net, i.status = 'uncollectible' AS uncollectible,
        {local_day("l.starts", time_zone)} AS first_day,
        greatest({local_day("l.ends + INTERVAL 1 SECOND", time_zone)}, first_day + 1) AS end_day
    FROM {invoice_lines(source)} l
    JOIN {source.rows("invoices", _NEEDED["invoices"])} i ON i.id = l.invoice
    WHERE i.status IN ('open', 'paid', 'uncollectible') AND {str(lines).lower()}
), of_months AS (
    SELECT month, currency, uncollectible, NULL::HUGEINT AS credited,
        {until("least((month + INTERVAL 1 MONTH)::DATE, end_day)")} - {until("greatest(month, first_day)")} AS revenue
    FROM (
        SELECT *, unnest(
            generate_series(date_trunc('month', first_day), date_trunc('month', end_day - 1), INTERVAL 1 MONTH)
        )::DATE AS month
        FROM lines
    )
    UNION ALL
    SELECT date_trunc('month', {local_day("coalesce(c.effective_at, c.created)", time_zone)})::DATE, c.currency, false,
        coalesce(l.discount_amount, 0) + {included_taxes("l.taxes")} - l.amount, 0
    FROM {source.rows("credit_notes", _NEEDED["credit_notes"])} c
    JOIN {source.rows("credit_note_lines", _NEEDED["credit_note_lines"])} l ON l.credit_note = c.id
    LEFT JOIN {source.rows("invoices", _NEEDED["invoices"])} i ON i.id = c.invoice
    WHERE c.status IS DISTINCT FROM 'void' AND i.status IS DISTINCT FROM 'void' AND {str(lines and notes).lower()}
)
SELECT month, currency, {shown}
FROM (
    SELECT *, revenue + credited AS net
    FROM (
        SELECT month, currency, sum(revenue)::BIGINT AS revenue,
            coalesce(sum(revenue) FILTER (uncollectible), 0)::BIGINT AS uncollectible,
            {"coalesce(sum(credited), 0)" if notes else "NULL"}::BIGINT AS credited
        FROM of_months WHERE month IS NOT NULL GROUP BY month, currency
    )
)
""".strip()
