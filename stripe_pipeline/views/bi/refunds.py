"""The view `refunds` of the schemas `bi`: money returned to customers, with the charge."""

from __future__ import annotations

from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.bi.flat import OF_CUSTOMER, Flat, Join, fields, flat_view
from stripe_pipeline.views.view import View

_COLUMNS = (
    *fields("refunds", "id created status amount currency reason failure_reason pending_reason description"),
    *fields("refunds", "charge payment_intent customer balance_transaction receipt_number"),
    *fields("charges", "created amount status card_brand card_country", prefix="charge_"),
    *OF_CUSTOMER,
    Flat("destination_type", "refunds.destination_details.type", "Where the money goes to, such as `card`"),
)


def refunds(settings: Settings) -> View:
    """The view with the columns that the settings keep."""
    return flat_view(
        settings,
        name="refunds",
        title="Refunds for BI tools",
        description="One row per refund, with the charge that was refunded.",
        columns=_COLUMNS,
        joins=(Join("charges", "refunds.charge"), Join("customers", "charges.customer")),
    )
