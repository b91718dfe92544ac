"""The view `disputes` of the schemas `bi`: disputed charges, with deadline, charge and card."""

from __future__ import annotations

from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.bi.flat import OF_CUSTOMER, Flat, Join, fields, flat_view
from stripe_pipeline.views.view import View

_COLUMNS = (
    *fields("disputes", "id created status reason network_reason_code amount currency is_charge_refundable"),
    *fields("disputes", "charge payment_intent"),
    Flat("evidence_due_by", "disputes.evidence_details.due_by", "Until when evidence can be submitted", "TIMESTAMP"),
    Flat("has_evidence", "disputes.evidence_details.has_evidence", "Whether evidence was entered", "BOOLEAN"),
    Flat("past_due", "disputes.evidence_details.past_due", "Whether the last evidence came too late", "BOOLEAN"),
    Flat(
        "submission_count",
        "disputes.evidence_details.submission_count",
        "How often evidence was submitted",
        "BIGINT",
    ),
    *fields("charges", "created amount customer card_brand card_country card_funding risk_level", prefix="charge_"),
    *OF_CUSTOMER,
)


def disputes(settings: Settings) -> View:
    """The view with the columns that the settings keep."""
    return flat_view(
        settings,
        name="disputes",
        title="Disputes for BI tools",
        description="One row per dispute, with the charge that is disputed.",
        columns=_COLUMNS,
        joins=(Join("charges", "disputes.charge"), Join("customers", "charges.customer")),
    )
