"""The view `payments`: one row per charge, with its customer, invoice, refunds, latest dispute and balance effect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from stripe_pipeline.days import local_day, utc_day
from stripe_pipeline.objects import CHARGES
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.columns import Source, rules_on, selectable
from stripe_pipeline.views.completeness import complete_since
from stripe_pipeline.views.invoices import invoice_of_payment
from stripe_pipeline.views.money import in_both_units, with_major_units
from stripe_pipeline.views.view import MODES, DescribedColumn, View, with_sources

_AT_ONCE = "INTERVAL 10 SECOND"  # between objects created by one request to Stripe

_COUNTED = ("refunds", "disputes", "balance_transactions")
"""The tables whose missing rows would change the amounts of a charge."""
# Each is followed by a column in major units.
_AMOUNTS = ("amount", "amount_captured", "amount_refunded", "dispute_amount", "gross", "fee", "net", "net_total")
_COLUMNS = (
    DescribedColumn("charge", "VARCHAR", "ID of the charge"),
    DescribedColumn("created", "TIMESTAMPTZ", "When the charge was created"),
    DescribedColumn("default_day", "DATE", "Day of `created` in the time zone of the settings"),
    DescribedColumn("currency", "VARCHAR", "Currency of the charge"),
    DescribedColumn("amount", "BIGINT", "Amount of the charge"),
    DescribedColumn("amount_captured", "BIGINT", "Part of `amount` that was captured"),
    DescribedColumn("amount_refunded", "BIGINT", "Part of `amount` that was refunded"),
    DescribedColumn("status", "VARCHAR", "Status of the charge"),
    DescribedColumn("paid", "BOOLEAN", "Whether the charge succeeded, or was authorized for later capture"),
    DescribedColumn("captured", "BOOLEAN", "Whether the charge was captured"),
    DescribedColumn("refunded", "BOOLEAN", "Whether the charge was refunded in full"),
    DescribedColumn("disputed", "BOOLEAN", "Whether the charge was disputed"),
    DescribedColumn("customer", "VARCHAR", "ID of the customer"),
    DescribedColumn("customer_name", "VARCHAR", "The customer's `name`; null if the customer was deleted"),
    DescribedColumn("customer_email", "VARCHAR", "The customer's `email`; null if the customer was deleted"),
    DescribedColumn("payment_intent", "VARCHAR", "ID of the payment intent"),
    DescribedColumn(
        "invoice", "VARCHAR", "ID of the invoice; of several for one payment, paid before open, then the oldest"
    ),
    DescribedColumn("invoice_number", "VARCHAR", "Number of that invoice"),
    *(DescribedColumn(flat.name, "VARCHAR", flat.description) for flat in CHARGES.flat),
    DescribedColumn("failure_code", "VARCHAR", "Code of the error, if the charge failed"),
    DescribedColumn("refunds", "BIGINT", "Number of refunds that are `succeeded` or `pending`"),
    DescribedColumn("refunded_at", "TIMESTAMPTZ", "When the last of these refunds was created"),
    DescribedColumn("dispute", "VARCHAR", "ID of the latest dispute"),
    DescribedColumn("dispute_status", "VARCHAR", "Status of the latest dispute"),
    DescribedColumn("dispute_reason", "VARCHAR", "Reason of the latest dispute"),
    DescribedColumn("dispute_amount", "BIGINT", "Amount of the latest dispute, in the currency of the dispute"),
    DescribedColumn("balance_transaction", "VARCHAR", "ID of the charge's balance transaction"),
    DescribedColumn("balance_currency", "VARCHAR", "Currency of that balance transaction"),
    DescribedColumn("gross", "BIGINT", "Its `amount`, in minor units of `balance_currency`"),
    DescribedColumn("fee", "BIGINT", "Its `fee`, in minor units of `balance_currency`"),
    DescribedColumn("net", "BIGINT", "Its `net`, in minor units of `balance_currency`"),
    DescribedColumn("available_on", "TIMESTAMPTZ", "When its net amount becomes available in the balance"),
    DescribedColumn("payout_ready", "BOOLEAN", "Whether its net amount is available"),
    DescribedColumn("net_total", "BIGINT", "Total effect on the balance, or null where it is not known to be complete"),
)
_SOURCES = {
    "charge": "charges.id",
    "default_day": "charges.created",
    "customer_name": "customers.name",
    "customer_email": "customers.email",
    "invoice": "invoices.id invoices.payments",
    "invoice_number": "invoices.number invoices.payments",
    "refunds": "refunds.id refunds.status",
    "refunded_at": "refunds.created refunds.status",
    **{f"dispute{name and '_'}{name}": f"disputes.{name or 'id'}" for name in ("", "status", "reason", "amount")},
    "balance_currency": "balance_transactions.currency",
    "gross": "balance_transactions.amount",
    **{name: f"balance_transactions.{name}" for name in ("fee", "net", "available_on")},
    "payout_ready": "balance_transactions.status",
    "net_total": "balance_transactions.net balance_transactions.source",
}
"""The columns from which a column is computed, unless that is the column of charges with the same name."""


def _described(settings: Settings) -> Iterator[DescribedColumn]:
    """The columns with their sources."""
    paths = {flat.name: flat.path.split(".") for flat in CHARGES.flat}
    for column in with_major_units(with_sources(_COLUMNS, _SOURCES, table="charges"), _AMOUNTS):
        if path := paths.get(column.name):
            yield replace(column, sources=(("charges", path[0]),), rules=rules_on(CHARGES, path, settings))
        else:
            yield column


def payments(settings: Settings) -> View:
    """The view with the columns that the settings keep."""
    columns = selectable(settings)
    return View(
        name="payments",
        title="Payments",
        description="One row per charge, with its customer, its invoice, its refunds, its latest dispute and its effect"
        " on the balance.",
        describe=lambda: tuple(_described(settings)),
        tables=("charges", "customers", "invoices", "refunds", "disputes", "balance_transactions"),
        rows_of="charges",
        select=lambda schema: payments_view(Source(schema, columns), settings.time_zone),
    )


def payments_view(source: Source, time_zone: str = "UTC") -> str:
    """The SELECT of `payments`: one row per charge, with its outcome.

    A value is null where a column it needs is missing, or where `pipeline.coverage` does not show that the tables it
    needs are complete from the charge's day on. Amounts are in minor units of `currency`, from `gross` to `net_total`
    of `balance_currency`; each `…_decimal` beside them is in major units.
    """
    has, rows = source.has, source.rows
    day = utc_day("c.created")
    complete = complete_since(_COUNTED, livemode=MODES[source.schema], beside=("charges",))

    def known(sql: str, *needed: str, also: str = "true") -> str:
        """`sql` for charges since whose day the tables are complete, null for others. `needed`: each table, followed by
        the columns needed."""
        if not all(has(*names.split()) for names in needed):
            return f"CASE WHEN false THEN {sql} END"
        tables = {names.split()[0] for names in needed} - {"charges"}
        complete = " AND ".join(f"{day} >= k.{table}" for table in sorted(tables))
        return f"CASE WHEN {complete} AND {also} THEN {sql} END"

    def of_dispute(name: str) -> str:
        return known(f"n.latest.{name}", "disputes charge id")

    # Amounts in several currencies have no sum, nor do refunds without the original payment.
    net_total = (
        "CASE WHEN n.currency IS NULL THEN b.net WHEN b.id IS NULL AND c.balance_transaction IS NULL THEN n.net"
        " WHEN n.currency = b.currency THEN b.net + n.net END"
    )
    # No table names the charge of a transfer reversed without a refund, or of a refunded application fee.
    attributed = (
        "n.lacking IS NOT TRUE AND (c.transfer IS NULL OR ("
        "(o.reversed IS NULL OR c.created > o.reversed) AND (c.application_fee IS NULL OR"
        " CASE WHEN n.refunded THEN o.fee_refunded IS NULL OR c.created > o.fee_refunded"
        " ELSE o.fee_refunded_alone IS NULL OR c.created > o.fee_refunded_alone END)))"
    )
    amounts = {
        **{name: (f"c.{name}", "c.currency") for name in ("amount", "amount_captured", "amount_refunded")},
        "dispute_amount": (of_dispute("amount"), "n.latest.currency"),
        "gross": ("b.amount", "b.currency"),
        "fee": ("b.fee", "b.currency"),
        "net": ("b.net", "b.currency"),
        "net_total": (
            known(
                net_total,
                "charges transfer application_fee",
                "refunds charge transfer_reversal",
                "disputes charge",
                "balance_transactions source net",
                also=attributed,
            ),
            "coalesce(b.currency, n.currency)",
        ),
    }

    def money(name: str) -> str:
        return in_both_units(name, *amounts[name])

    charges = rows(
        "charges",
        "id created currency amount amount_captured amount_refunded status paid captured refunded disputed customer"
        " payment_intent balance_transaction transfer application_fee failure_code "
        + " ".join(flat.name for flat in CHARGES.flat),
    )
    # `transfer <> id` excludes no row. DuckDB expects it to keep a fifth of the rows, but IS NOT NULL to keep all;
    # it would then build the hash tables of the joins below on all movements and all charges.
    transfers = (
        f"{rows('charges', 'id transfer application_fee created')} WHERE transfer IS NOT NULL AND transfer <> id"
    )
    refunds_of_fees = (
        f"(SELECT r.created FROM {rows('refunds', 'charge created')} r"
        f" SEMI JOIN (FROM {transfers} AND application_fee IS NOT NULL) f ON f.id = r.charge)"
    )
    movements = rows("balance_transactions", "source id net currency created")

    def of_kind(prefix: str, *, reversal: bool) -> str:
        """The SELECT of movements whose source has an id with this prefix."""
        # A range of texts lets DuckDB skip row groups, starts_with() does not. ` follows _ in ASCII.
        within = f"source >= '{prefix}_' AND source < '{prefix}`'"
        return f"SELECT source, created, {reversal} AS reversal FROM {movements} WHERE {within}"

    refunds = f"""
    SELECT charge, count(*) AS refunds, max(created) AS refunded_at
    FROM {rows("refunds", "charge status created")} WHERE status IN ('succeeded', 'pending') GROUP BY charge
    """
    disputes = f"""
    SELECT charge, arg_max(
        {{'id': id, 'status': status, 'reason': reason, 'amount': amount, 'currency': currency}}, (created, id)
    ) AS latest
    FROM {rows("disputes", "charge id status reason amount currency created")} GROUP BY charge
    """
    # Other movements of the balance for a charge: refunds, disputes, a transfer, its reversals, an application fee.
    # HAVING leaves out only rows that change nothing, so that DuckDB expects fewer rows than charges.
    others = f"""
    SELECT charge, CASE WHEN min(currency) = max(currency) THEN sum(net)::BIGINT END AS net, min(currency) AS currency,
        bool_or(lacking) AS lacking, bool_or(refunded) AS refunded
    FROM (
        SELECT m.source AS charge, m.net, m.currency, false AS lacking, false AS refunded FROM {movements} m
        ANTI JOIN {rows("charges", "balance_transaction")} own ON own.balance_transaction = m.id
        WHERE m.source IS NOT NULL
        UNION ALL
        SELECT it.charge, m.net, m.currency, it.named AND m.source IS NULL, it.refunded
        FROM (
            SELECT id, charge, false AS named, true AS refunded FROM {rows("refunds", "charge id")}
            UNION ALL SELECT id, charge, false, false FROM {rows("disputes", "charge id")}
            UNION ALL SELECT transfer, id, true, false FROM {transfers}
            UNION ALL SELECT application_fee, id, true, false FROM {transfers} AND application_fee IS NOT NULL
            UNION ALL SELECT transfer_reversal, charge, true, true FROM {rows("refunds", "charge transfer_reversal")}
            WHERE transfer_reversal IS NOT NULL
        ) it
        LEFT JOIN {movements} m ON m.source = it.id
    )
    GROUP BY charge
    HAVING min(currency) IS NOT NULL OR bool_or(lacking) OR bool_or(refunded)
    """
    # Tables not joined on their unique id are grouped by the join column, so that a charge stays one row.
    return f"""
SELECT
    c.id AS charge, c.created, {local_day("c.created", time_zone)} AS default_day, c.currency,
    {money("amount")}, {money("amount_captured")}, {money("amount_refunded")},
    c.status, c.paid, c.captured, c.refunded, c.disputed,
    c.customer, u.name AS customer_name, u.email AS customer_email,
    c.payment_intent, i.paid.id AS invoice, i.paid.number AS invoice_number,
    {", ".join(f"c.{flat.name}" for flat in CHARGES.flat)}, c.failure_code,
    {known("COALESCE(n.refunds, 0)", "refunds charge status")} AS refunds,
    {known("n.refunded_at", "refunds charge status")} AS refunded_at,
    {of_dispute("id")} AS dispute, {of_dispute("status")} AS dispute_status, {of_dispute("reason")} AS dispute_reason,
    {money("dispute_amount")},
    c.balance_transaction, b.currency AS balance_currency, {money("gross")}, {money("fee")}, {money("net")},
    b.available_on, b.status = 'available' AS payout_ready, {money("net_total")}
FROM (SELECT *, COALESCE(payment_intent, id) AS payment FROM {charges}) c
CROSS JOIN ({complete}) k
CROSS JOIN (
    -- The last reversal of a transfer, and the last refund of an application fee, whose charge is not known.
    SELECT max(created) FILTER (reversal AND NOT named) AS reversed, max(created) FILTER (NOT reversal) AS fee_refunded,
        max(created) FILTER (NOT reversal AND (refund_before IS NULL OR created > refund_before + {_AT_ONCE})
            AND (refund_behind IS NULL OR created < refund_behind - {_AT_ONCE})) AS fee_refunded_alone
    FROM (
        SELECT m.created, m.reversal, v.id IS NOT NULL AS named, before.created AS refund_before,
            behind.created AS refund_behind
        FROM ({of_kind("trr", reversal=True)} UNION ALL {of_kind("fr", reversal=False)}) m
        LEFT JOIN (SELECT DISTINCT transfer_reversal AS id FROM {rows("refunds", "transfer_reversal")}) v
            ON v.id = m.source
        ASOF LEFT JOIN {refunds_of_fees} before ON m.created >= before.created
        ASOF LEFT JOIN {refunds_of_fees} behind ON m.created <= behind.created
    )
) o
LEFT JOIN {rows("customers", "id name email")} u ON u.id = c.customer
LEFT JOIN ({invoice_of_payment(source, "id number")}) i ON i.payment = c.payment
LEFT JOIN {rows("balance_transactions", "id currency amount fee net available_on status")} b
    ON b.id = c.balance_transaction
LEFT JOIN (
    -- Few charges have any of these: joined to each other first, they cost the charges one join.
    FROM ({refunds}) r FULL JOIN ({disputes}) d USING (charge) FULL JOIN ({others}) n USING (charge)
    SELECT charge, refunds, refunded_at, latest, net, currency, lacking, refunded
) n ON n.charge = c.id
""".strip()
