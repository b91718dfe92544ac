"""The declarations of what moves the Stripe balance, and of the payouts from it."""

from __future__ import annotations

from stripe_pipeline.objects.declaration import ChildList, ObjectType, Reference, columns

BALANCE_TRANSACTIONS = ObjectType(
    name="balance_transactions",
    object="balance_transaction",
    description="What moved the Stripe balance: charges, refunds, disputes, fees, payouts.",
    endpoint="/v1/balance_transactions",
    announced_by=("charges", "disputes", "payouts", "refunds", "transfers", "application_fees"),
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
        Reference(column="source", target="transfers", prefixes=("tr_",), may_be_older=True),
        Reference(column="source", target="transfer_reversals", prefixes=("trr_",), may_be_older=True),
        Reference(column="source", target="application_fees", prefixes=("fee_",), may_be_older=True),
        Reference(column="source", target="application_fee_refunds", prefixes=("fr_",), may_be_older=True),
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

PAYOUT_BALANCE_TRANSACTIONS = ObjectType(
    name="payout_balance_transactions",
    object="balance_transaction",
    description="Which balance transactions each automatic payout pays out, once Stripe has completed the list. A"
    " payout's own balance transaction is among them.",
    key=("payout", "balance_transaction"),
    parent="payouts",
    parent_key="payout",
    child_list=ChildList(
        path="/v1/balance_transactions",
        parameter="payout",
        only_if={"automatic": True, "reconciliation_status": "completed"},
    ),
    link="balance_transaction",
    columns=columns(
        leading=("payout", "balance_transaction", "created", "livemode"),
        added={
            "payout": "reference",
            "balance_transaction": "reference",
            "created": "timestamp",
            "livemode": "boolean",
        },
    ),
    references=(
        Reference(column="payout", target="payouts", may_be_older=False),
        Reference(column="balance_transaction", target="balance_transactions", may_be_older=True),
    ),
)

BALANCE = ObjectType(
    name="balance",
    object="balance",
    optional=True,
    description="The Stripe balance as read once a day: a row a reading, with the time of the reading in created.",
    endpoint="/v1/balance",
    singleton=True,
    key=("id", "created"),
    columns=columns(
        added={"id": "text", "created": "timestamp"},
        text="object",
        boolean="livemode",
        nested="available connect_reserved instant_available issuing pending refund_and_dispute_prefunding",
    ),
)
