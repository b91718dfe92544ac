"""The declarations of customers, their payments, and what becomes of these."""

from __future__ import annotations

from stripe_pipeline.objects.declaration import FlatColumn, ObjectType, Reference, columns

CHARGES = ObjectType(
    name="charges",
    object="charge",
    description="Attempts to move money from a customer, with outcome and amounts captured and refunded.",
    endpoint="/v1/charges",
    events=(
        "charge.captured",
        "charge.expired",
        "charge.failed",
        "charge.pending",
        "charge.refunded",
        "charge.succeeded",
        "charge.updated",
    ),
    columns=columns(
        text="""
            authorization_code calculated_statement_descriptor currency description failure_code
            failure_message id object receipt_email receipt_number receipt_url
            statement_descriptor statement_descriptor_suffix status transfer_group
        """,
        reference="""
            application application_fee balance_transaction customer failure_balance_transaction
            on_behalf_of payment_intent payment_method review source_transfer transfer
        """,
        amount="amount amount_captured amount_refunded application_fee_amount",
        timestamp="created",
        boolean="captured disputed livemode paid refunded",
        nested="""
            billing_details fraud_details level3 metadata outcome payment_method_details
            presentment_details radar_options refunds shipping source transfer_data
        """,
    ),
    flat=(
        FlatColumn(
            name="card_brand", path="payment_method_details.card.brand", description="Brand of the card, such as `visa`"
        ),
        FlatColumn(
            name="card_country",
            path="payment_method_details.card.country",
            description="Country of the card's issuer, as two letters",
        ),
        FlatColumn(
            name="card_funding",
            path="payment_method_details.card.funding",
            description="`credit`, `debit`, `prepaid` or `unknown`",
        ),
        FlatColumn(
            name="decline_code",
            path="outcome.reason",
            description="Why the charge was declined, blocked or placed in review; null for others",
        ),
        FlatColumn(
            name="risk_level",
            path="outcome.risk_level",
            description="Radar's assessment: `normal`, `elevated`, `highest`",
        ),
    ),
    personal=("billing_details", "receipt_email", "shipping"),
    about_person=("description", "level3", "metadata", "payment_method_details", "receipt_url", "source"),
    references=(
        Reference(column="customer", target="customers", may_be_older=True, may_be_gone=True),
        Reference(column="payment_intent", target="payment_intents", may_be_older=True),
        Reference(column="balance_transaction", target="balance_transactions", may_be_older=False),
        Reference(column="failure_balance_transaction", target="balance_transactions", may_be_older=False),
    ),
)

CUSTOMERS = ObjectType(
    name="customers",
    object="customer",
    description="People and companies that pay.",
    endpoint="/v1/customers",
    events=("customer.created", "customer.deleted", "customer.updated"),
    columns=columns(
        text="""
            business_name currency customer_account description email id individual_name
            invoice_prefix name object phone tax_exempt
        """,
        reference="default_source test_clock",
        amount="balance",
        integer="next_invoice_sequence",
        timestamp="created",
        boolean="deleted delinquent livemode",
        nested="""
            address cash_balance discount invoice_credit_balance invoice_settings metadata
            preferred_locales shipping sources subscriptions tax tax_ids
        """,
    ),
    personal=("address", "business_name", "email", "individual_name", "name", "phone", "shipping", "tax_ids"),
    about_person=("description", "invoice_settings", "metadata", "sources", "subscriptions", "tax"),
)

DISPUTES = ObjectType(
    name="disputes",
    object="dispute",
    description="Charges that a customer questioned with the bank.",
    endpoint="/v1/disputes",
    events=(
        "charge.dispute.closed",
        "charge.dispute.created",
        "charge.dispute.funds_reinstated",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.updated",
    ),
    columns=columns(
        text="currency id intended_submission_method network_reason_code object reason status",
        reference="charge payment_intent",
        amount="amount",
        timestamp="created",
        boolean="is_charge_refundable livemode",
        nested="""
            balance_transactions enhanced_eligibility_types evidence evidence_details metadata
            payment_method_details
        """,
    ),
    personal=("evidence",),
    about_person=("metadata", "payment_method_details"),
    references=(
        Reference(column="charge", target="charges", may_be_older=True),
        Reference(column="payment_intent", target="payment_intents", may_be_older=True),
        Reference(column="balance_transactions", path="$[*].id", target="balance_transactions", may_be_older=False),
    ),
)

PAYMENT_INTENTS = ObjectType(
    name="payment_intents",
    object="payment_intent",
    description="Intents to collect a payment, through their whole life.",
    endpoint="/v1/payment_intents",
    events=(
        "payment_intent.amount_capturable_updated",
        "payment_intent.canceled",
        "payment_intent.created",
        "payment_intent.partially_funded",
        "payment_intent.payment_failed",
        "payment_intent.processing",
        "payment_intent.requires_action",
        "payment_intent.succeeded",
    ),
    columns=columns(
        text="""
            cancellation_reason capture_method client_secret confirmation_method currency
            description id object receipt_email setup_future_usage
            statement_descriptor statement_descriptor_suffix status transfer_group
        """,
        reference="""
            application customer customer_account latest_charge on_behalf_of payment_method
            payment_record review source
        """,
        amount="amount amount_capturable amount_received application_fee_amount",
        timestamp="canceled_at created",
        boolean="livemode",
        nested="""
            allowed_payment_method_types amount_details automatic_payment_methods
            excluded_payment_method_types hooks last_payment_error managed_payments metadata
            next_action payment_details payment_method_configuration_details payment_method_options
            payment_method_types presentment_details processing shipping transfer_data
        """,
    ),
    secrets=("client_secret",),
    personal=("receipt_email", "shipping"),
    about_person=(
        *("description", "metadata", "next_action", "payment_details"),
        *(f"last_payment_error.{field}" for field in ("payment_intent", "payment_method", "setup_intent", "source")),
    ),
    references=(
        Reference(column="customer", target="customers", may_be_older=True, may_be_gone=True),
        Reference(column="latest_charge", target="charges", may_be_older=False),
        Reference(column="last_payment_error", path="$.charge", target="charges", may_be_older=False),
    ),
)

REFUNDS = ObjectType(
    name="refunds",
    object="refund",
    description="Money returned to customers.",
    endpoint="/v1/refunds",
    events=("charge.refund.updated", "refund.created", "refund.failed", "refund.updated"),
    columns=columns(
        added={"livemode": "boolean"},
        text="""
            currency description failure_reason id instructions_email object
            pending_reason reason receipt_number status
        """,
        reference="""
            balance_transaction charge customer customer_account failure_balance_transaction
            payment_intent payment_method source_transfer_reversal transfer_reversal
        """,
        amount="amount",
        timestamp="created",
        nested="destination_details metadata next_action presentment_details",
    ),
    personal=("instructions_email",),
    about_person=("description", "destination_details", "metadata", "next_action"),
    references=(
        Reference(column="charge", target="charges", may_be_older=True),
        Reference(column="customer", target="customers", may_be_older=True, may_be_gone=True),
        Reference(column="payment_intent", target="payment_intents", may_be_older=True),
        Reference(column="balance_transaction", target="balance_transactions", may_be_older=False),
        Reference(column="failure_balance_transaction", target="balance_transactions", may_be_older=False),
    ),
)
