"""The view `payouts` of the schemas `bi`: payouts."""

from __future__ import annotations

from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.bi.flat import Flat, fields, flat_view
from stripe_pipeline.views.view import View

_COLUMNS = (
    *fields("payouts", "id created arrival_date status amount currency automatic method type source_type"),
    *fields("payouts", "reconciliation_status destination balance_transaction failure_balance_transaction"),
    *fields("payouts", "failure_code failure_message description statement_descriptor original_payout reversed_by"),
    Flat("trace_id", "payouts.trace_id.value", "The bank's reference number of the payout"),
)


def payouts(settings: Settings) -> View:
    """The view with the columns that the settings keep."""
    return flat_view(
        settings,
        name="payouts",
        title="Payouts for BI tools",
        description="One row per payout.",
        columns=_COLUMNS,
    )
