"""What the views on revenue share: invoice and credit note lines without discounts and taxes, and columns by month."""

from __future__ import annotations

from collections.abc import Mapping

from stripe_pipeline.views.columns import Source
from stripe_pipeline.views.money import with_major_units
from stripe_pipeline.views.view import DescribedColumn, with_sources

_DISCOUNT = '[{"amount": "BIGINT"}]'
_TAX = '[{"amount": "BIGINT", "tax_behavior": "VARCHAR"}]'
_PERIOD = '{"start": "BIGINT", "end": "BIGINT"}'
_SECONDS = "BETWEEN 0 AND 253402300799"  # until the year 10000; other numbers must not make every query fail
NET = "invoice_lines.amount invoice_lines.discount_amounts invoice_lines.taxes"
"""The columns from which `net` of `invoice_lines` is computed, as in `with_sources`."""


def invoice_lines(source: Source) -> str:
    """The SELECT of all lines of invoices: `starts` and `ends` bound the period, `net` (HUGEINT) is `amount` less the
    line's discounts and the taxes that it includes, in minor units of `currency`."""
    names = "id invoice created currency amount discount_amounts taxes period parent pricing"
    return f"""(
        SELECT id, invoice, created, currency, parent, pricing,
            amount - {_discounts("discount_amounts")} - {included_taxes("taxes")} AS net,
            {_moment("p.start")} AS starts, {_moment('greatest(p.start, p."end")')} AS ends
        FROM (SELECT *, from_json(period, '{_PERIOD}') AS p FROM {source.rows("invoice_lines", names)})
    )"""


def _discounts(amounts: str) -> str:
    return f"coalesce(list_sum([d.amount FOR d IN from_json({amounts}, '{_DISCOUNT}')]), 0)"


def included_taxes(taxes: str) -> str:
    """SQL for the sum of those taxes of a line that its amount includes."""
    listed = f"from_json({taxes}, '{_TAX}')"
    return f"coalesce(list_sum([t.amount FOR t IN {listed} IF t.tax_behavior = 'inclusive']), 0)"


def _moment(seconds: str) -> str:
    return f"CASE WHEN {seconds} {_SECONDS} THEN make_timestamptz({seconds} * 1000000) END"


def divided(number: str, divisor: str) -> str:
    """SQL for a quotient of integers (HUGEINT) as the nearest integer, halves away from zero, exactly."""
    # A division of integers truncates; a DOUBLE would not be exact. `divisor` is positive.
    return f"(sign({number}) * ((2 * abs({number}) + {divisor}) // (2 * {divisor})))"


def by_month(amounts: Mapping[str, str], sources: Mapping[str, str]) -> tuple[DescribedColumn, ...]:
    """The columns of a view with these amounts, by name with their descriptions, for each month and currency; the
    `sources` of all columns are as in `with_sources`."""
    columns = [
        DescribedColumn("month", "DATE", "First day of the month in the time zone of the settings"),
        DescribedColumn("currency", "VARCHAR", "Currency of the amounts"),
        *(DescribedColumn(name, "BIGINT", description) for name, description in amounts.items()),
    ]
    return tuple(with_major_units(with_sources(columns, sources), amounts))
