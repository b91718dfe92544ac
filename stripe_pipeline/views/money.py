"""Amounts in major units: what Stripe's integers mean in each currency.

Base tables keep Stripe's minor units; only views use this.
"""

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
