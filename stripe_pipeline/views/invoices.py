"""The invoice that a payment pays, for views that combine payments with invoices."""

from __future__ import annotations

from stripe_pipeline.views.columns import Source

_PAYMENTS_OF_INVOICE = (
    '{"data": [{"status": "VARCHAR", "payment": {"payment_intent": "VARCHAR", "charge": "VARCHAR"}}]}'
)


def invoice_of_payment(source: Source, names: str) -> str:
    """The SELECT of one row per payment: its `payment`, and the struct `paid` of these columns of the invoice.

    `payment` is the id of a payment intent, or of a charge without one. Of several invoices with one payment, paid
    ones come before open ones, then the oldest.
    """
    fields = ", ".join(f"'{name}': {name}" for name in names.split())
    wanted = " ".join(dict.fromkeys(["payments", "id", "created", *names.split()]))
    listed = ", ".join(wanted.split()[1:])
    return f"""
    SELECT payment, arg_min({{{fields}}}, (rank, created, id)) AS paid
    FROM (
        SELECT {listed}, COALESCE(it.payment.payment_intent, it.payment.charge) AS payment,
            CASE it.status WHEN 'paid' THEN 0 WHEN 'open' THEN 1 ELSE 2 END AS rank
        FROM (
            SELECT {listed}, unnest(from_json(payments, '{_PAYMENTS_OF_INVOICE}').data) AS it
            FROM {source.rows("invoices", wanted)}
        )
    )
    GROUP BY payment
"""
