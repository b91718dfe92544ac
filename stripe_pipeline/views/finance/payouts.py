"""The view `payouts` of the finance schemas: what each payout pays out, and whether that adds up to its amount."""

from __future__ import annotations

from stripe_pipeline.days import utc_day
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.columns import Source, selectable
from stripe_pipeline.views.finance.movements import CLASSES, DESCRIPTIONS, SOURCES, can_classify, movements, sum_of
from stripe_pipeline.views.money import in_both_units, with_major_units
from stripe_pipeline.views.view import FINANCE, DescribedColumn, View, with_sources

_AMOUNTS = ("amount", *CLASSES, "total", "returned")
_COLUMNS = (
    DescribedColumn("payout", "VARCHAR", "ID of the payout"),
    DescribedColumn("created", "TIMESTAMPTZ", "When the payout was created"),
    DescribedColumn("arrival_day", "DATE", "Day on which the money arrives at the bank (`arrival_date`)"),
    DescribedColumn("currency", "VARCHAR", "Currency of the payout"),
    DescribedColumn("status", "VARCHAR", "Status of the payout"),
    DescribedColumn("automatic", "BOOLEAN", "Whether the payout schedule created it"),
    DescribedColumn("method", "VARCHAR", "`standard` or `instant`"),
    DescribedColumn("amount", "BIGINT", "Amount that the bank gets; negative if Stripe debits the bank"),
    DescribedColumn("trace_id", "VARCHAR", "The bank's reference number of the payout"),
    DescribedColumn("balance_transactions", "BIGINT", "Number of balance transactions that are paid out"),
    DescribedColumn("missing", "BIGINT", "Number of those that are not in the warehouse"),
    *(DescribedColumn(name, "BIGINT", text) for name, text in DESCRIPTIONS.items() if name != "payouts"),
    DescribedColumn("payouts", "BIGINT", "Other payouts (negative) and what came back from them"),
    DescribedColumn("total", "BIGINT", "Net amount of what is paid out, which is the sum of these columns"),
    DescribedColumn("tied", "BOOLEAN", "Whether `total` is `amount` and no balance transaction is missing"),
    DescribedColumn("returned", "BIGINT", "Amount that came back because the payout failed or was canceled"),
)
_PAID_OUT = "payout_balance_transactions.balance_transaction"
_SOURCES = {
    **SOURCES,
    "payout": "payouts.id",
    "arrival_day": "payouts.arrival_date",
    "balance_transactions": _PAID_OUT,
    "missing": f"{_PAID_OUT} balance_transactions.id",
    "total": "balance_transactions.net",
    "tied": f"balance_transactions.net payouts.amount {_PAID_OUT}",
    "returned": "balance_transactions.amount payouts.failure_balance_transaction",
}


def payouts(settings: Settings) -> View:
    """The view with the columns that the settings keep."""
    columns = selectable(settings)
    return View(
        name="payouts",
        title="Payouts and their content",
        description="One row per payout, with the balance transactions that it pays out, by class.",
        describe=lambda: tuple(with_major_units(with_sources(_COLUMNS, _SOURCES, table="payouts"), _AMOUNTS)),
        tables=("payouts", "payout_balance_transactions", "balance_transactions"),
        rows_of="payouts",
        select=lambda schema: _select(Source(FINANCE[schema], columns)),
        schemas=tuple(FINANCE),
    )


def _select(source: Source) -> str:
    """The SELECT. The content is null if Stripe does not list it, or if the settings leave out what it needs."""
    known = (
        can_classify(source)
        and source.has("payouts", "id", "currency", "automatic", "reconciliation_status", "balance_transaction")
        and source.has("payout_balance_transactions", "payout", "balance_transaction")
    )
    itemized = "p.automatic AND p.reconciliation_status = 'completed'" if known else "false"
    names = [column.name for column in _COLUMNS]
    parts = names[names.index("missing") + 1 : names.index("total")]

    def content(sql: str) -> str:
        return f"CASE WHEN {itemized} THEN {sql} END"

    def money(name: str, amount: str) -> str:
        return in_both_units(name, amount, "p.currency")

    payout_columns = (
        "id created arrival_date currency status automatic method amount trace_id reconciliation_status"
        " balance_transaction failure_balance_transaction"
    )
    sums = ", ".join(f"{sum_of(name, 'b')} AS {name}" for name in CLASSES)
    # `arrival_date` is a date, as the first second of the day in UTC.
    return f"""
SELECT
    p.id AS payout, p.created, {utc_day("p.arrival_date")} AS arrival_day, p.currency, p.status, p.automatic, p.method,
    {money("amount", "p.amount")}, p.trace_id->>'value' AS trace_id,
    {content("COALESCE(n.balance_transactions, 0)")} AS balance_transactions,
    {content("COALESCE(n.missing, 0)")} AS missing,
    {", ".join(money(name, content(f"COALESCE(n.{name}, 0)")) for name in parts)},
    {money("total", content("COALESCE(n.total, 0)"))},
    {content("COALESCE(n.total, 0) = p.amount AND COALESCE(n.missing, 0) = 0")} AS tied,
    {money("returned", "f.amount")}
FROM {source.rows("payouts", payout_columns)} p
LEFT JOIN (
    SELECT l.payout, count(*) AS balance_transactions, count(*) - count(b.id) AS missing, {sums},
        sum(b.net)::BIGINT AS total
    FROM {source.rows("payout_balance_transactions", "payout balance_transaction")} l
    JOIN {source.rows("payouts", "id currency balance_transaction")} p ON p.id = l.payout
    LEFT JOIN ({movements(source)}) b ON b.id = l.balance_transaction AND b.currency = p.currency
    WHERE l.balance_transaction IS DISTINCT FROM p.balance_transaction
    GROUP BY l.payout
) n ON n.payout = p.id
LEFT JOIN {source.rows("balance_transactions", "id amount")} f ON f.id = p.failure_balance_transaction
""".strip()
