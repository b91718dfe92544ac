"""The classes of balance transactions, by which the finance views break down a change of the balance."""

from __future__ import annotations

from collections.abc import Mapping

from stripe_pipeline.views.columns import Source

CLASSES: Mapping[str, tuple[str, ...]] = {
    "charges": ("charge", "charge_failure", "partial_capture_reversal"),
    "refunds": ("refund", "refund_failure"),
    "disputes": ("dispute", "dispute_reversal"),
    "fees": ("fee", "network_cost", "tax"),
    "adjustments": (
        *("other_adjustment", "connect_reserved_funds", "risk_reserved_funds"),
        *("payment_network_reserve_hold", "payment_network_reserve_release"),
        *("payout_minimum_balance_hold", "payout_minimum_balance_release"),
    ),
    "payouts": ("payout", "payout_reversal"),
    "other": (),
}
"""Every class, with each `reporting_category` in it; `other` has all remaining ones, such as transfers and top-ups."""
DESCRIPTIONS: Mapping[str, str] = {
    "charges": "Amount of charges before fees; failed charges and amounts that were not captured are subtracted",
    "refunds": "Refunds (negative), less failed ones",
    "disputes": "Disputed amounts taken (negative) and given back",
    "fees": "Fees of all balance transactions, and balance transactions that are fees (negative)",
    "adjustments": "Adjustments by Stripe, and money put into or released from reserves",
    "payouts": "Payouts (negative), less those that came back",
    "other": "All else, such as transfers, platform earnings and top-ups",
}
"""The meaning of each class as a column, without a full stop."""
_AMOUNT = "balance_transactions.amount balance_transactions.reporting_category"
SOURCES: Mapping[str, str] = {
    name: f"{_AMOUNT} balance_transactions.fee" if name == "fees" else _AMOUNT for name in CLASSES
}
"""The columns from which each class is computed, as in `with_sources`."""

_COLUMNS = "id created currency balance_type reporting_category amount fee net"


def can_classify(source: Source) -> bool:
    """Whether the settings keep all columns that `movements` needs."""
    return source.has("balance_transactions", *_COLUMNS.split())


def movements(source: Source) -> str:
    """The SELECT of all balance transactions, each with its `class`; no rows unless `can_classify`."""
    # DuckDB does not plan a comparison as a join, unlike IN.
    cases = " ".join(f"WHEN '{category}' THEN '{name}'" for name, of in CLASSES.items() for category in of)
    # Stripe's API versions before 2025-09-30 do not send `balance_type`.
    return (
        "SELECT id, created, currency, COALESCE(balance_type, 'payments') AS balance_type, amount, fee, net,"
        f" CASE reporting_category {cases} ELSE 'other' END AS class"
        f" FROM {source.rows('balance_transactions', _COLUMNS)} WHERE {str(can_classify(source)).lower()}"
    )


def sum_of(name: str, row: str) -> str:
    """SQL for the sum (BIGINT) of a class over rows of `movements`; those of all classes add up to the sum of `net`.

    An amount is that before fees: the class `fees` has the fees of all rows.
    """
    gross = f"COALESCE(sum({row}.amount) FILTER ({row}.class = '{name}'), 0)"
    return f"({gross} - COALESCE(sum({row}.fee), 0))::BIGINT" if name == "fees" else f"{gross}::BIGINT"
