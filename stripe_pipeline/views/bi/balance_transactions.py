"""The view `balance_transactions` of the schemas `bi`: movements of the Stripe balance."""

from __future__ import annotations

from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.bi.flat import fields, flat_view
from stripe_pipeline.views.view import View

_COLUMNS = (
    *fields("balance_transactions", "id created available_on status type reporting_category balance_type"),
    *fields("balance_transactions", "amount fee net currency exchange_rate source description"),
)


def balance_transactions(settings: Settings) -> View:
    """The view with the columns that the settings keep."""
    return flat_view(
        settings,
        name="balance_transactions",
        title="Balance transactions for BI tools",
        description="One row per movement of the Stripe balance.",
        columns=_COLUMNS,
    )
