"""The view `invoice_lines` of the schemas `bi`: lines of invoices with price, product and period."""

from __future__ import annotations

from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.bi.flat import FRACTION, Flat, Join, fields, flat_view
from stripe_pipeline.views.view import View

_COLUMNS = (
    *fields("invoice_lines", "id invoice created description amount subtotal currency quantity quantity_decimal"),
    *fields("invoice_lines", "discountable subscription"),
    Flat("period_start", "invoice_lines.period.start", "Start of the time that the line is about", "TIMESTAMP"),
    Flat("period_end", "invoice_lines.period.end", "End of the time that the line is about", "TIMESTAMP"),
    Flat("price", "invoice_lines.pricing.price_details.price", "ID of the price"),
    Flat("product", "invoice_lines.pricing.price_details.product", "ID of the product"),
    Flat(
        "unit_amount",
        "invoice_lines.pricing.unit_amount_decimal",
        "Price of one unit in minor units of `currency`, with fractions",
        FRACTION,
    ),
    Flat("product_name", "products.name", "Name of the product; null unless `products` are loaded"),
    *fields("invoices", "number status customer customer_name customer_email billing_reason", prefix="invoice_"),
)


def invoice_lines(settings: Settings) -> View:
    """The view with the columns that the settings keep."""
    return flat_view(
        settings,
        name="invoice_lines",
        title="Invoice lines for BI tools",
        description="One row per line of an invoice, with the invoice's number, status and customer.",
        columns=_COLUMNS,
        joins=(
            Join("invoices", "invoice_lines.invoice"),
            Join("products", "invoice_lines.pricing.price_details.product"),
        ),
    )
