"""Fields that may differ although the object did not change, so that no proof compares them."""

SIGNED_LINKS = frozenset({"hosted_invoice_url", "invoice_pdf", "receipt_url", "url"})
"""Links that Stripe may sign anew in every answer."""
AS_TIME_PASSES = {"balance_transactions": frozenset({"status"})}
"""Columns that change without an event, by table (docs/stripe.md#object-types)."""


def uncompared(table: str) -> frozenset[str]:
    """The columns of a table that are not compared."""
    return SIGNED_LINKS | AS_TIME_PASSES.get(table, frozenset())
