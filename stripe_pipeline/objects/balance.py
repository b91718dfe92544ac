"""The declarations of what moves the Stripe balance, and of the payouts from it."""

from __future__ import annotations

from stripe_pipeline.objects.declaration import ObjectType, Reference, columns

BALANCE_TRANSACTIONS = ObjectType(
    name="balance_transactions",
    object="balance_transaction",
    description="What moved the Stripe balance: charges, refunds, disputes, fees, payouts.",
    endpoint="/v1/balance_transactions",
    announced_by=("charges", "disputes", "payouts", "refunds"),
    about_person=("description",),  # the charge's
    columns=columns(
        added={"livemode": "boolean"},
        text="balance_type currency description id object reporting_category status type",
        reference="source",
        amount="amount fee net",
        timestamp="available_on created",
        number="exchange_rate",
        nested="fee_details",
    ),
    references=(
        Reference(column="source", target="charges", prefixes=("ch_", "py_"), may_be_older=True),
        Reference(column="source", target="refunds", prefixes=("re_", "pyr_"), may_be_older=True),
        Reference(column="source", target="disputes", prefixes=("dp_", "du_"), may_be_older=True),
        Reference(column="source", target="payouts", prefixes=("po_",), may_be_older=True),
    ),
)

FEE_DETAILS = ObjectType(
    name="fee_details",
    object="fee_detail",
    description="The single fees that add up to the fee of a balance transaction, by position, from 0.",
    key=("balance_transaction", "position"),
    parent="balance_transactions",
    parent_key="balance_transaction",
    embedded_in="fee_details",
    columns=columns(
        leading=("balance_transaction", "position", "created", "livemode"),
        added={
            "balance_transaction": "reference",
            "position": "integer",
            "created": "timestamp",
            "livemode": "boolean",
        },
        text="currency description type",
        reference="application",
        amount="amount",
    ),
    references=(Reference(column="balance_transaction", target="balance_transactions", may_be_older=False),),
)

PAYOUTS = ObjectType(
    name="payouts",
    object="payout",
    optional=True,
    description="Money that left the Stripe balance for a bank account or card.",
    endpoint="/v1/payouts",
    events=(
        "payout.canceled",
        "payout.created",
        "payout.failed",
        "payout.paid",
        "payout.reconciliation_completed",
        "payout.updated",
    ),
    columns=columns(
        text="""
            currency description failure_code failure_message id method object payout_method
            reconciliation_status source_type statement_descriptor status type
        """,
        reference="""
            application_fee balance_transaction destination failure_balance_transaction
            original_payout reversed_by
        """,
        amount="amount application_fee_amount",
        timestamp="arrival_date created",
        boolean="automatic livemode",
        nested="metadata trace_id",
    ),
    about_person=("description", "metadata"),
    references=(
        Reference(column="balance_transaction", target="balance_transactions", may_be_older=False),
        Reference(column="failure_balance_transaction", target="balance_transactions", may_be_older=False),
        Reference(column="original_payout", target="payouts", may_be_older=True),
        Reference(column="reversed_by", target="payouts", may_be_older=False),
    ),
)
