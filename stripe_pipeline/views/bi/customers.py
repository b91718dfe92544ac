"""The view `customers` of the schemas `bi`: customers with their addresses."""

from __future__ import annotations

from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.bi.flat import Flat, address, fields, flat_view
from stripe_pipeline.views.view import View

_COLUMNS = (
    *fields("customers", "id created name business_name email phone description currency balance delinquent"),
    *fields("customers", "tax_exempt invoice_prefix default_source"),
    *address("customers", "address", "address_", "the customer"),
    Flat("shipping_name", "customers.shipping.name", "Name to deliver to"),
    Flat("shipping_phone", "customers.shipping.phone", "Phone number for deliveries"),
    *address("customers", "shipping.address", "shipping_", "the address to deliver to"),
    Flat(
        "default_payment_method",
        "customers.invoice_settings.default_payment_method",
        "ID of the payment method that invoices are paid with",
    ),
)


def customers(settings: Settings) -> View:
    """The view with the columns that the settings keep."""
    return flat_view(
        settings,
        name="customers",
        title="Customers for BI tools",
        description="One row per customer, with both addresses.",
        columns=_COLUMNS,
    )
