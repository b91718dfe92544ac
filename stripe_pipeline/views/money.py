"""Amounts in major units: what Stripe's integers mean in each currency.

Base tables keep Stripe's minor units; only views use this.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from stripe_pipeline.views.view import DescribedColumn

# See docs/stripe.md#money. UGX is missing on purpose: it has no decimals, but Stripe represents it with two ("Special
# cases" of its page "Supported currencies": 5 UGX is an amount of 500).
ZERO_DECIMAL = ("bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf")
THREE_DECIMAL = ("bhd", "jod", "kwd", "omr", "tnd")
MAJOR_UNITS = "DECIMAL(23,3)"
"""The SQL type of an amount in major units."""


def major_units(amount: str, currency: str) -> str:
    """SQL for `amount` (BIGINT, minor units) in major units of `currency`: an exact DECIMAL(23, 3)."""
    # A division would give a DOUBLE. DuckDB plans IN as a join and computes it even if the column is not selected.
    return (
        f"{amount}::DECIMAL(19, 0) * CASE WHEN contains('{' '.join(ZERO_DECIMAL)}', {currency}) THEN 1.000"
        f" WHEN contains('{' '.join(THREE_DECIMAL)}', {currency}) THEN 0.001"
        f" WHEN {currency} IS NOT NULL THEN 0.010 END::DECIMAL(4, 3)"
    )


def in_both_units(name: str, amount: str, currency: str) -> str:
    """SQL for two columns: `amount` (BIGINT, minor units of `currency`) as `name`, and in major units."""
    return f"{amount} AS {name}, {major_units(amount, currency)} AS {name}_decimal"


def with_major_units(columns: Iterable[DescribedColumn], amounts: Collection[str]) -> Iterator[DescribedColumn]:
    """The columns, each of `amounts` followed by the one in major units, as in `in_both_units`."""
    for column in columns:
        yield column
        if column.name in amounts:
            yield DescribedColumn(
                f"{column.name}_decimal", MAJOR_UNITS, f"`{column.name}` in major units", sources=column.sources
            )
