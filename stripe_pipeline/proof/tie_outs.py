"""The tie-outs: amounts that the tables hold twice, each declared once.

To add one, declare a `TieOut` here: `pipeline.proof`, the command `prove`, the asset check and the docs follow.
References between tables belong to `objects`, the balance that Stripe reports to `balance`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TieOut:
    """One comparison of the rows of a table with other columns or rows."""

    name: str
    title: str
    """What is compared, as a sentence without a full stop."""
    table: str
    """Name of the table whose rows are compared."""
    needs: tuple[str, ...]
    """Each table that is read, followed by the columns."""
    pairs: str
    """The SELECT of one row per compared object: `id`, `currency`, `created`, `fetched_at`, `l` and `r`: what the row
    holds and what it should hold. `{name}` stands for the rows of a table in one mode that exist in Stripe, `{schema}`
    for the schema of that mode's views."""

    reaches_back: int = 0
    """For how many days before an object the rows that it depends on may have been created: where the tables do not
    reach back as far, a difference is open."""

    def select(self, rows: Callable[[str], str], schema: str) -> str:
        """`pairs` with the rows of each table, by name, and the schema of the mode's views."""
        select = self.pairs.replace("{schema}", schema)
        for table in self.tables:
            select = select.replace(f"{{{table}}}", rows(table))
        return select

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables that are read, the compared one first."""
        return (self.table, *sorted({need.split()[0] for need in self.needs} - {self.table}))


def _sum_of(items: str, amount: str, condition: str) -> str:
    """SQL for the sum of an amount over the items of a list that meet a condition."""
    return f"coalesce(list_sum(list_transform(list_filter({items}, lambda x: {condition}), lambda x: x.{amount})), 0)"


def _discounted(column: str) -> str:
    """SQL for the sum of the amounts in a JSON column by those discounts whose ids are in `names`."""
    items = f"""from_json({column}, '[{{"amount": "BIGINT", "discount": "VARCHAR"}}]')"""
    return _sum_of(items, "amount", "list_contains(names, x.discount)")


_NAMES = """from_json(discounts, '["VARCHAR"]') AS names"""
_TAX_ON_TOP = _sum_of(
    """from_json(total_taxes, '[{"amount": "BIGINT", "tax_behavior": "VARCHAR"}]')""",
    "amount",
    "x.tax_behavior = 'exclusive'",
)
_PAYMENTS = """from_json(payments, '{"data": [{"status": "VARCHAR", "amount_paid": "BIGINT"}]}').data"""
_PAID = _sum_of("items", "amount_paid", "x.status = 'paid'")
_MOVEMENTS = """from_json(balance_transactions, '[{"id": "VARCHAR", "net": "BIGINT"}]')"""
_SEQUENCE = "try_cast(substr(i.number, len(c.invoice_prefix) + 2) AS BIGINT)"
"""The position of an invoice in its customer's sequence; null for a number of another form, such as a revision's."""
_OF_PAYMENTS = "('charge', 'charge_failure', 'dispute', 'dispute_reversal', 'partial_capture_reversal', 'refund',\
 'refund_failure')"
"""Reporting categories of movements that belong to a payment."""

TIE_OUTS = (
    TieOut(
        name="net_is_amount_less_fee",
        title="The net of each balance transaction is its amount less its fee",
        table="balance_transactions",
        needs=("balance_transactions amount fee net currency",),
        pairs="SELECT id, currency, created, _fetched_at AS fetched_at, net AS l, amount - fee AS r"
        " FROM {balance_transactions}",
    ),
    TieOut(
        name="fee_is_sum_of_fee_details",
        title="The fee of each balance transaction is the sum of its fee details",
        table="balance_transactions",
        needs=("balance_transactions fee currency", "fee_details amount"),
        pairs="SELECT t.id, t.currency, t.created, t._fetched_at AS fetched_at, t.fee AS l, coalesce(f.amount, 0) AS r"
        " FROM {balance_transactions} t LEFT JOIN"
        " (SELECT balance_transaction, sum(amount) AS amount FROM {fee_details} GROUP BY ALL) f"
        " ON f.balance_transaction = t.id",
    ),
    TieOut(
        name="charge_is_its_balance_transaction",
        title="The captured amount of each charge is the amount of its balance transaction, which names the charge",
        table="charges",
        needs=(
            "charges balance_transaction amount_captured currency",
            "balance_transactions source amount currency",
        ),
        # In another currency, the amount depends on an exchange rate that Stripe rounds.
        pairs="SELECT c.id, c.currency, c.created, greatest(c._fetched_at, t._fetched_at) AS fetched_at,"
        " c.amount_captured AS l, CASE WHEN t.source IS DISTINCT FROM c.id THEN 0"
        " WHEN t.currency = c.currency THEN t.amount ELSE c.amount_captured END AS r"
        " FROM {charges} c LEFT JOIN {balance_transactions} t ON t.id = c.balance_transaction"
        " WHERE c.balance_transaction IS NOT NULL",
    ),
    TieOut(
        name="amount_refunded_is_sum_of_refunds",
        title="The refunded amount of each charge is the sum of its refunds that did not fail",
        table="charges",
        needs=("charges amount_refunded currency", "refunds charge amount status"),
        pairs="SELECT c.id, c.currency, c.created, greatest(c._fetched_at, f.fetched_at) AS fetched_at,"
        " c.amount_refunded AS l, coalesce(f.amount, 0) AS r FROM {charges} c LEFT JOIN"
        " (SELECT charge, sum(amount) AS amount, max(_fetched_at) AS fetched_at FROM {refunds}"
        " WHERE status NOT IN ('failed', 'canceled') GROUP BY ALL) f ON f.charge = c.id",
    ),
    TieOut(
        name="refund_is_its_balance_transaction",
        title="The amount of each refund is what its balance transaction takes from the balance",
        table="refunds",
        needs=("refunds balance_transaction amount currency", "balance_transactions source amount currency"),
        pairs="SELECT f.id, f.currency, f.created, greatest(f._fetched_at, t._fetched_at) AS fetched_at,"
        " f.amount AS l, CASE WHEN t.source IS DISTINCT FROM f.id THEN 0"
        " WHEN t.currency = f.currency THEN -t.amount ELSE f.amount END AS r"
        " FROM {refunds} f LEFT JOIN {balance_transactions} t ON t.id = f.balance_transaction"
        " WHERE f.balance_transaction IS NOT NULL",
    ),
    TieOut(
        name="dispute_is_its_balance_transactions",
        title="The balance transactions that each dispute shows are stored with the same net amounts",
        table="disputes",
        needs=("disputes balance_transactions currency", "balance_transactions net"),
        pairs="SELECT d.id, d.currency, d.created, greatest(d._fetched_at, max(t._fetched_at)) AS fetched_at,"
        " sum(d.it.net) AS l, coalesce(sum(t.net), 0) AS r FROM"
        " (SELECT id, currency, created, _fetched_at,"
        f" unnest({_MOVEMENTS}) AS it FROM {{disputes}}) d"
        " LEFT JOIN {balance_transactions} t ON t.id = d.it.id GROUP BY d.id, d.currency, d.created, d._fetched_at",
    ),
    TieOut(
        name="subtotal_is_sum_of_lines",
        title="The subtotal of each invoice is the sum of its lines, less the discounts of single lines",
        table="invoices",
        needs=("invoices subtotal currency", "invoice_lines invoice amount discounts discount_amounts"),
        pairs="SELECT i.id, i.currency, i.created, i._fetched_at AS fetched_at, i.subtotal AS l,"
        " coalesce(n.amount, 0) AS r FROM {invoices} i LEFT JOIN"
        " (SELECT invoice, sum(amount - own) AS amount FROM (SELECT invoice, amount,"
        f" {_discounted('discount_amounts')} AS own FROM (SELECT *, {_NAMES} FROM {{invoice_lines}}))"
        " GROUP BY ALL) n ON n.invoice = i.id",
    ),
    TieOut(
        name="total_is_subtotal_less_discounts_plus_tax",
        title="The total of each invoice is its subtotal, less its discounts, plus its exclusive taxes and shipping",
        table="invoices",
        needs=("invoices subtotal total total_taxes total_discount_amounts discounts amount_shipping currency",),
        pairs="SELECT id, currency, created, _fetched_at AS fetched_at, total AS l, subtotal"
        f" - {_discounted('total_discount_amounts')} + {_TAX_ON_TOP} + coalesce(amount_shipping, 0) AS r"
        f" FROM (SELECT *, {_NAMES} FROM {{invoices}})",
    ),
    TieOut(
        name="amount_paid_is_sum_of_payments",
        title="The paid amount of each invoice with payments is the sum of its payments",
        table="invoices",
        needs=("invoices amount_paid payments currency",),
        # An invoice that was paid outside of Stripe need not have a payment.
        pairs="SELECT id, currency, created, _fetched_at AS fetched_at, amount_paid AS l,"
        f" {_PAID} AS r FROM (SELECT *, {_PAYMENTS} AS items FROM {{invoices}}) WHERE len(items) > 0",
    ),
    TieOut(
        name="invoice_numbers_have_no_gap",
        reaches_back=90,
        title="The number of each invoice follows the one before in the sequence of its customer",
        table="invoices",
        needs=("invoices number customer", "customers invoice_prefix next_invoice_sequence"),
        # Stripe omits the sequence of customers where the account numbers its invoices.
        pairs="SELECT id, NULL AS currency, least(created, before.created) AS created, fetched_at, n AS l,"
        " before.n + 1 AS r FROM (SELECT i.id, i.created, i._fetched_at AS fetched_at, n, lag({'n': n, 'created':"
        " i.created}) OVER (PARTITION BY i.customer ORDER BY n, i.id) AS before FROM (SELECT i.id, i.created,"
        f" i._fetched_at, i.customer, {_SEQUENCE} AS n FROM {{invoices}} i JOIN {{customers}} c ON c.id = i.customer"
        " WHERE c.next_invoice_sequence IS NOT NULL AND starts_with(i.number, c.invoice_prefix || '-')) i"
        " WHERE n IS NOT NULL) WHERE before IS NOT NULL",
    ),
    TieOut(
        name="next_invoice_number_follows_the_last",
        title="The next invoice number of each customer followed the last one when the customer was read",
        table="customers",
        needs=("customers invoice_prefix next_invoice_sequence", "invoices number customer status_transitions"),
        # Stripe need not announce a change of the sequence: a customer is compared with the invoices finalized before
        # it was read, unless one was finalized at about the same time.
        pairs="SELECT c.id, NULL AS currency, c.created, c._fetched_at AS fetched_at, c.next_invoice_sequence AS l,"
        f" max({_SEQUENCE}) FILTER (i.finalized_at < c._fetched_at) + 1 AS r FROM {{customers}} c JOIN"
        " (SELECT *, make_timestamptz(1000000 * (status_transitions->>'finalized_at')::BIGINT) AS finalized_at"
        " FROM {invoices}) i ON i.customer = c.id AND starts_with(i.number, c.invoice_prefix || '-')"
        f" WHERE c.next_invoice_sequence IS NOT NULL AND {_SEQUENCE} IS NOT NULL GROUP BY ALL HAVING r IS NOT NULL"
        " AND NOT bool_or(i.finalized_at BETWEEN c._fetched_at - INTERVAL 1 MINUTE"
        " AND c._fetched_at + INTERVAL 1 MINUTE)",
    ),
    TieOut(
        name="payments_add_up_to_balance",
        reaches_back=40,
        title="The total effect of each payment is the sum of its balance transactions, and each balance transaction of"
        " a charge, refund or dispute belongs to a payment",
        table="balance_transactions",
        needs=(
            "balance_transactions source net currency reporting_category",
            "charges transfer application_fee",
            "disputes charge",
            "refunds charge transfer_reversal",
        ),
        pairs="WITH owners AS (SELECT id, id AS charge FROM {charges}"
        " UNION ALL SELECT id, charge FROM {refunds} UNION ALL SELECT id, charge FROM {disputes}"
        " UNION ALL SELECT transfer, id FROM {charges} WHERE transfer IS NOT NULL"
        " UNION ALL SELECT application_fee, id FROM {charges} WHERE application_fee IS NOT NULL"
        " UNION ALL SELECT transfer_reversal, charge FROM {refunds} WHERE transfer_reversal IS NOT NULL),"
        " moved AS (SELECT t.id, o.id AS owner, o.charge, t.net, t.currency, t.created, t._fetched_at AS fetched_at,"
        " t.reporting_category FROM {balance_transactions} t LEFT JOIN owners o ON o.id = t.source)"
        " SELECT p.charge AS id, max(m.currency) AS currency, p.created,"
        " greatest(max(c._fetched_at), max(m.fetched_at)) AS fetched_at, p.net_total AS l, sum(m.net) AS r"
        " FROM {schema}.payments p JOIN {charges} c ON c.id = p.charge JOIN moved m ON m.charge = p.charge"
        " WHERE p.net_total IS NOT NULL GROUP BY p.charge, p.created, p.net_total"
        " UNION ALL SELECT id, currency, created, fetched_at, 0, net FROM moved"
        f" WHERE owner IS NULL AND reporting_category IN {_OF_PAYMENTS}",
    ),
    TieOut(
        name="payout_is_sum_of_its_transactions",
        reaches_back=40,
        title="The amount of each reconciled automatic payout is the sum of the balance transactions that it pays out",
        table="payouts",
        needs=(
            "payouts amount automatic reconciliation_status balance_transaction currency",
            "payout_balance_transactions",
            "balance_transactions net",
        ),
        pairs="SELECT p.id, p.currency, p.created, greatest(p._fetched_at, n.fetched_at) AS fetched_at, p.amount AS l,"
        " coalesce(n.net, 0) AS r FROM {payouts} p LEFT JOIN"
        " (SELECT x.payout, sum(t.net) AS net, max(t._fetched_at) AS fetched_at FROM {payout_balance_transactions} x"
        " JOIN {payouts} o ON o.id = x.payout AND o.balance_transaction IS DISTINCT FROM x.balance_transaction"
        " LEFT JOIN {balance_transactions} t ON t.id = x.balance_transaction GROUP BY ALL) n ON n.payout = p.id"
        " WHERE p.automatic AND p.reconciliation_status = 'completed'",
    ),
    TieOut(
        name="payout_is_its_balance_transaction",
        title="The amount of each payout is what its balance transaction takes from the balance",
        table="payouts",
        needs=("payouts amount balance_transaction currency", "balance_transactions source amount"),
        pairs="SELECT p.id, p.currency, p.created, greatest(p._fetched_at, t._fetched_at) AS fetched_at, p.amount AS l,"
        " CASE WHEN t.source = p.id THEN -t.amount ELSE 0 END AS r"
        " FROM {payouts} p LEFT JOIN {balance_transactions} t ON t.id = p.balance_transaction"
        " WHERE p.balance_transaction IS NOT NULL",
    ),
    TieOut(
        name="returned_payout_is_its_balance_transaction",
        title="The amount of each payout that came back is what its balance transaction returns to the balance",
        table="payouts",
        needs=("payouts amount failure_balance_transaction currency", "balance_transactions source amount"),
        pairs="SELECT p.id, p.currency, p.created, greatest(p._fetched_at, t._fetched_at) AS fetched_at, p.amount AS l,"
        " CASE WHEN t.source = p.id THEN t.amount ELSE 0 END AS r"
        " FROM {payouts} p LEFT JOIN {balance_transactions} t ON t.id = p.failure_balance_transaction"
        " WHERE p.failure_balance_transaction IS NOT NULL",
    ),
)
