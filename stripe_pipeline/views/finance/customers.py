"""The view `customers` of the finance schemas: what each customer paid, got back and disputed, in each currency."""

from __future__ import annotations

from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.columns import Source, selectable
from stripe_pipeline.views.money import in_both_units, with_major_units
from stripe_pipeline.views.view import FINANCE, DescribedColumn, View, with_sources

_AMOUNTS = ("lifetime_value", "amount_captured", "amount_refunded", "amount_disputed", "amount_lost")
_COLUMNS = (
    DescribedColumn("customer", "VARCHAR", "ID of the customer"),
    DescribedColumn("name", "VARCHAR", "The customer's `name`; null if the customer was deleted"),
    DescribedColumn("email", "VARCHAR", "The customer's `email`; null if the customer was deleted"),
    DescribedColumn("currency", "VARCHAR", "Currency of the charges, refunds and disputes"),
    DescribedColumn("lifetime_value", "BIGINT", "`amount_captured` less `amount_refunded` and `amount_lost`"),
    DescribedColumn("payments", "BIGINT", "Number of charges that succeeded and were captured"),
    DescribedColumn("first_payment", "TIMESTAMPTZ", "When the first of these charges was created"),
    DescribedColumn("last_payment", "TIMESTAMPTZ", "When the last of these charges was created"),
    DescribedColumn("amount_captured", "BIGINT", "Captured amount of these charges, before fees"),
    DescribedColumn("refunds", "BIGINT", "Number of refunds that are `succeeded` or `pending`"),
    DescribedColumn("amount_refunded", "BIGINT", "Amount of these refunds"),
    DescribedColumn("disputes", "BIGINT", "Number of disputes, inquiries included"),
    DescribedColumn("amount_disputed", "BIGINT", "Amount of all disputes, whatever their status"),
    DescribedColumn("amount_lost", "BIGINT", "Amount of the disputes that are `lost`"),
)
_SOURCES = {
    "customer": "charges.customer",
    "currency": "charges.currency refunds.currency disputes.currency",
    "lifetime_value": "charges.amount_captured refunds.amount disputes.amount disputes.status",
    "payments": "charges.id charges.status charges.captured",
    "first_payment": "charges.created",
    "last_payment": "charges.created",
    "amount_captured": "charges.amount_captured",
    "refunds": "refunds.id refunds.status",
    "amount_refunded": "refunds.amount",
    "disputes": "disputes.id",
    "amount_disputed": "disputes.amount",
    "amount_lost": "disputes.amount disputes.status",
}


def customers(settings: Settings) -> View:
    """The view with the columns that the settings keep."""
    columns = selectable(settings)
    return View(
        name="customers",
        title="Customers and their lifetime value",
        description="One row per customer with payments and currency: what was paid, returned and disputed.",
        describe=lambda: tuple(with_major_units(with_sources(_COLUMNS, _SOURCES, table="customers"), _AMOUNTS)),
        tables=("charges", "customers", "refunds", "disputes", "balance_transactions"),
        rows_of=None,
        select=lambda schema: _select(Source(FINANCE[schema], columns)),
        schemas=tuple(FINANCE),
    )


def _select(source: Source) -> str:
    """The SELECT. A value is null if the settings leave out what it needs; no rows without the charges' customers."""
    has, rows = source.has, source.rows
    complete = {
        "charges": has("charges", "id", "customer", "currency", "amount_captured", "status", "captured"),
        "refunds": has("refunds", "id", "charge", "currency", "amount", "status"),
        "disputes": has("disputes", "id", "charge", "currency", "amount", "status"),
    }

    def of(table: str, sql: str) -> str:
        return f"CASE WHEN {str(complete[table]).lower()} THEN {sql} END"

    value = "(n.amount_captured - n.amount_refunded - n.amount_lost)"
    amounts = {name: f"n.{name}" for name in _AMOUNTS} | {"lifetime_value": value}
    shown = ", ".join(
        in_both_units(column.name, amounts[column.name], "n.currency") if column.name in amounts else f"n.{column.name}"
        for column in _COLUMNS[4:]
    )
    # A capture of less than was authorized has a refund of the rest, which was never captured.
    return f"""
SELECT n.customer, u.name, u.email, n.currency, {shown}
FROM (
    SELECT customer, currency, {of("charges", "count(*) FILTER (kind = 'payment')")} AS payments,
        min(created) FILTER (kind = 'payment') AS first_payment,
        max(created) FILTER (kind = 'payment') AS last_payment,
        {of("charges", _sum("kind = 'payment'"))} AS amount_captured,
        {of("refunds", "count(*) FILTER (kind = 'refund')")} AS refunds,
        {of("refunds", _sum("kind = 'refund'"))} AS amount_refunded,
        {of("disputes", "count(*) FILTER (kind = 'dispute')")} AS disputes,
        {of("disputes", _sum("kind = 'dispute'"))} AS amount_disputed,
        {of("disputes", _sum("kind = 'dispute' AND lost"))} AS amount_lost
    FROM (
        SELECT customer, currency, 'payment' AS kind, created, amount_captured AS amount, false AS lost
        FROM {rows("charges", "id customer currency created amount_captured status captured")}
        WHERE status = 'succeeded' AND captured
        UNION ALL
        SELECT c.customer, r.currency, 'refund', r.created, r.amount, false
        FROM {rows("refunds", "id charge currency created amount status balance_transaction")} r
        JOIN {rows("charges", "id customer")} c ON c.id = r.charge
        ANTI JOIN (
            SELECT id FROM {rows("balance_transactions", "id reporting_category")}
            WHERE reporting_category = 'partial_capture_reversal'
        ) b ON b.id = r.balance_transaction
        WHERE r.status IN ('succeeded', 'pending')
        UNION ALL
        SELECT c.customer, d.currency, 'dispute', d.created, d.amount, d.status = 'lost'
        FROM {rows("disputes", "id charge currency created amount status")} d
        JOIN {rows("charges", "id customer")} c ON c.id = d.charge
    )
    WHERE customer IS NOT NULL
    GROUP BY customer, currency
) n
LEFT JOIN {rows("customers", "id name email")} u ON u.id = n.customer
""".strip()


def _sum(condition: str) -> str:
    return f"COALESCE(sum(amount) FILTER ({condition}), 0)::BIGINT"
