"""The view `invoices` of the schemas `bi`: invoices with customer, address and the times of their states."""

from __future__ import annotations

from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.bi.flat import Flat, address, fields, flat_view
from stripe_pipeline.views.view import View

_COLUMNS = (
    *fields("invoices", "id created number status billing_reason collection_method currency"),
    *fields("invoices", "subtotal total total_excluding_tax amount_due amount_paid amount_remaining amount_shipping"),
    *fields("invoices", "starting_balance ending_balance due_date period_start period_end effective_at"),
    *fields("invoices", "next_payment_attempt attempted attempt_count auto_advance"),
    Flat("finalized_at", "invoices.status_transitions.finalized_at", "When the invoice was finalized", "TIMESTAMP"),
    Flat("paid_at", "invoices.status_transitions.paid_at", "When the invoice was paid", "TIMESTAMP"),
    Flat("voided_at", "invoices.status_transitions.voided_at", "When the invoice was voided", "TIMESTAMP"),
    Flat(
        "marked_uncollectible_at",
        "invoices.status_transitions.marked_uncollectible_at",
        "When the invoice was marked uncollectible",
        "TIMESTAMP",
    ),
    Flat(
        "subscription",
        "invoices.parent.subscription_details.subscription",
        "ID of the subscription that the invoice is for",
    ),
    *fields("invoices", "customer customer_name customer_email customer_phone customer_tax_exempt description"),
    *address("invoices", "customer_address", "customer_", "the customer on the invoice"),
    *fields("invoices", "account_country account_name default_payment_method hosted_invoice_url invoice_pdf"),
)


def invoices(settings: Settings) -> View:
    """The view with the columns that the settings keep."""
    return flat_view(
        settings,
        name="invoices",
        title="Invoices for BI tools",
        description="One row per invoice.",
        columns=_COLUMNS,
    )
