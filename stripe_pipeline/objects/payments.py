"""The declarations of customers, their payments, and what becomes of these."""

from __future__ import annotations

from stripe_pipeline.objects.declaration import (
    OF_CUSTOMER,
    OF_PRICE,
    Announcement,
    ChildList,
    FlatColumn,
    ObjectType,
    Reference,
    columns,
    of_discounts,
)

_OF_DISPUTES = (
    "charge.dispute.closed",
    "charge.dispute.created",
    "charge.dispute.funds_reinstated",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.updated",
)
_OF_REFUNDS = ("charge.refund.updated", "refund.created", "refund.failed", "refund.updated")
_OF_SOURCES = ("customer.source.created", "customer.source.deleted", "customer.source.updated")


def _of_card(path: str) -> tuple[FlatColumn, ...]:
    """The columns of a view that show the card at `path`."""
    return (
        FlatColumn(name="card_brand", path=f"{path}.brand", description="Brand of the card, such as `visa`"),
        FlatColumn(
            name="card_country", path=f"{path}.country", description="Country of the card's issuer, as two letters"
        ),
        FlatColumn(
            name="card_funding", path=f"{path}.funding", description="`credit`, `debit`, `prepaid` or `unknown`"
        ),
    )


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
    announcements=(
        # A dispute and a refund that fails change their charge; charge.updated is documented for neither.
        Announcement(object="dispute", fields=("charge",), events=_OF_DISPUTES),
        Announcement(object="refund", fields=("charge",), events=_OF_REFUNDS),
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
        *_of_card("payment_method_details.card"),
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
        OF_CUSTOMER,
        Reference(column="payment_intent", target="payment_intents", may_be_older=True),
        Reference(column="balance_transaction", target="balance_transactions", may_be_older=False),
        Reference(column="failure_balance_transaction", target="balance_transactions", may_be_older=False),
        # Methods that were never attached to a customer are in no list.
        Reference(column="payment_method", target="payment_methods", may_be_older=True, may_be_gone=True),
        Reference(column="transfer", target="transfers", may_be_older=False),
        # The fee of a direct charge belongs to the platform.
        Reference(column="application_fee", target="application_fees", may_be_older=False, may_be_gone=True),
    ),
)

CUSTOMERS = ObjectType(
    name="customers",
    object="customer",
    description="People and companies that pay.",
    endpoint="/v1/customers",
    events=("customer.created", "customer.deleted", "customer.updated"),
    announcements=(
        of_discounts("customer"),
        # default_source names one of the sources. Those of an account, which are for payouts, name no customer.
        *(
            Announcement(object=source, fields=("customer",), events=_OF_SOURCES)
            for source in ("bank_account", "card", "source")
        ),
    ),
    deletable=True,
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
    events=_OF_DISPUTES,
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
        OF_CUSTOMER,
        Reference(column="latest_charge", target="charges", may_be_older=False),
        Reference(column="last_payment_error", path="$.charge", target="charges", may_be_older=False),
        Reference(column="payment_method", target="payment_methods", may_be_older=True, may_be_gone=True),
    ),
)

REFUNDS = ObjectType(
    name="refunds",
    object="refund",
    description="Money returned to customers.",
    endpoint="/v1/refunds",
    events=_OF_REFUNDS,
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
        OF_CUSTOMER,
        Reference(column="payment_intent", target="payment_intents", may_be_older=True),
        Reference(column="balance_transaction", target="balance_transactions", may_be_older=False),
        Reference(column="failure_balance_transaction", target="balance_transactions", may_be_older=False),
        Reference(column="transfer_reversal", target="transfer_reversals", may_be_older=False),
    ),
)

PAYMENT_METHODS = ObjectType(
    name="payment_methods",
    object="payment_method",
    optional=True,
    description="Cards, bank accounts and other ways to pay. Detached ones stay; those that were never attached to a"
    " customer are in no list.",
    endpoint="/v1/payment_methods",
    windowed=False,
    lists_all=False,
    listed_with="customer",
    events=(
        "payment_method.attached",
        "payment_method.automatically_updated",
        "payment_method.detached",
        "payment_method.updated",
    ),
    columns=columns(
        text="allow_redisplay customer_account id object type",
        reference="customer",
        timestamp="created",
        boolean="livemode",
        nested="""
            acss_debit affirm afterpay_clearpay alipay alma amazon_pay au_becs_debit bacs_debit
            bancontact billie billing_details bizum blik boleto card card_present cashapp crypto custom
            customer_balance eps fpx giropay grabpay ideal interac_present kakao_pay klarna konbini
            kr_card link mb_way metadata mobilepay multibanco naver_pay nz_bank_account oxxo p24
            pay_by_bank payco paynow paypal payto pix promptpay radar_options revolut_pay samsung_pay
            satispay scalapay sepa_debit sofort sunbit swish twint upi us_bank_account wechat_pay zip
        """,
    ),
    flat=_of_card("card"),
    personal=("billing_details",),
    about_person=(
        *("acss_debit", "au_becs_debit", "bacs_debit", "boleto", "card", "cashapp", "klarna", "link", "metadata"),
        *("nz_bank_account", "paypal", "revolut_pay", "sepa_debit", "upi", "us_bank_account", "zip"),
    ),
    references=(OF_CUSTOMER,),
)

CHECKOUT_SESSIONS = ObjectType(
    name="checkout_sessions",
    object="checkout.session",
    optional=True,
    description="Visits of customers to a payment page, completed or not. The items are in checkout_session_lines.",
    endpoint="/v1/checkout/sessions",
    events=(
        "checkout.session.async_payment_failed",
        "checkout.session.async_payment_succeeded",
        "checkout.session.completed",
        "checkout.session.expired",
    ),
    columns=columns(
        text="""
            billing_address_collection cancel_url client_reference_id client_secret currency
            customer_account customer_creation customer_email id integration_identifier locale mode object
            origin_context payment_method_collection payment_status recovered_from
            redirect_on_completion return_url status submit_type success_url ui_mode url
        """,
        reference="customer invoice payment_intent payment_link setup_intent subscription",
        amount="amount_subtotal amount_total",
        timestamp="created expires_at",
        boolean="allow_promotion_codes livemode",
        nested="""
            adaptive_pricing after_expiration automatic_tax branding_settings collected_information
            consent consent_collection currency_conversion custom_fields custom_text customer_details
            discounts excluded_payment_method_types invoice_creation line_items managed_payments metadata
            name_collection optional_items payment_method_configuration_details payment_method_options
            payment_method_types permissions phone_number_collection presentment_details
            saved_payment_method_options shipping_address_collection shipping_cost shipping_options
            tax_id_collection total_details wallet_options
        """,
    ),
    secrets=("client_secret",),
    personal=("collected_information", "customer_details", "customer_email"),
    about_person=("client_reference_id", "custom_fields", "metadata", "shipping_options", "url"),
    references=(
        OF_CUSTOMER,
        Reference(column="payment_intent", target="payment_intents", may_be_older=False),
        Reference(column="invoice", target="invoices", may_be_older=False, may_be_gone=True),
        Reference(column="subscription", target="subscriptions", may_be_older=False),
    ),
)

CHECKOUT_SESSION_LINES = ObjectType(
    name="checkout_session_lines",
    object="item",
    description="Every item of every checkout session. The column created is the session's.",
    key=("checkout_session", "id"),
    parent="checkout_sessions",
    parent_key="checkout_session",
    embedded_in="line_items",
    on_request=True,
    child_list=ChildList(path="/v1/checkout/sessions/{id}/line_items"),
    columns=columns(
        leading=("id", "checkout_session", "created", "livemode"),
        added={"checkout_session": "reference", "created": "timestamp", "livemode": "boolean"},
        text="currency description id object",
        amount="amount_discount amount_subtotal amount_tax amount_total",
        integer="quantity",
        nested="adjustable_quantity discounts metadata price taxes",
    ),
    flat=OF_PRICE,
    about_person=("description", "metadata"),
    references=(
        Reference(column="checkout_session", target="checkout_sessions", may_be_older=False),
        Reference(column="price", path="$.id", target="prices", may_be_older=True, may_be_gone=True),
    ),
)

TRANSFERS = ObjectType(
    name="transfers",
    object="transfer",
    optional=True,
    description="Money moved to connected accounts. All reversals are in transfer_reversals; the column reversals holds"
    " the first ten.",
    endpoint="/v1/transfers",
    events=("transfer.created", "transfer.reversed", "transfer.updated"),
    columns=columns(
        text="currency description id object source_type transfer_group",
        reference="balance_transaction destination destination_payment source_transaction",
        amount="amount amount_reversed",
        timestamp="created",
        boolean="livemode reversed",
        nested="metadata reversals",
    ),
    about_person=("description", "metadata"),
    references=(
        Reference(column="balance_transaction", target="balance_transactions", may_be_older=False),
        Reference(column="source_transaction", target="charges", prefixes=("ch_", "py_"), may_be_older=True),
    ),
)

TRANSFER_REVERSALS = ObjectType(
    name="transfer_reversals",
    object="transfer_reversal",
    description="Money taken back from connected accounts.",
    parent="transfers",
    parent_key="transfer",
    embedded_in="reversals",
    columns=columns(
        leading=("id", "transfer", "created", "livemode"),
        added={"livemode": "boolean"},
        text="currency id object",
        reference="balance_transaction destination_payment_refund source_refund transfer",
        amount="amount",
        timestamp="created",
        nested="metadata",
    ),
    about_person=("metadata",),
    references=(
        Reference(column="transfer", target="transfers", may_be_older=True),
        Reference(column="balance_transaction", target="balance_transactions", may_be_older=False),
        Reference(column="source_refund", target="refunds", may_be_older=False),
    ),
)

APPLICATION_FEES = ObjectType(
    name="application_fees",
    object="application_fee",
    optional=True,
    description="Fees that a platform takes from the charges of connected accounts. All refunds are in"
    " application_fee_refunds; the column refunds holds the first ten.",
    endpoint="/v1/application_fees",
    events=("application_fee.created", "application_fee.refunded"),
    columns=columns(
        text="currency id object",
        reference="account application balance_transaction charge originating_transaction",
        amount="amount amount_refunded",
        timestamp="created",
        boolean="livemode refunded",
        nested="fee_source refunds",
    ),
    references=(
        Reference(column="balance_transaction", target="balance_transactions", may_be_older=False),
        # The charge may belong to the connected account.
        Reference(column="charge", target="charges", may_be_older=False, may_be_gone=True),
        Reference(column="originating_transaction", target="charges", prefixes=("ch_", "py_"), may_be_older=True),
    ),
)

APPLICATION_FEE_REFUNDS = ObjectType(
    name="application_fee_refunds",
    object="fee_refund",
    description="Application fees that were given back.",
    events=("application_fee.refund.updated",),
    parent="application_fees",
    parent_key="fee",
    embedded_in="refunds",
    columns=columns(
        leading=("id", "fee", "created", "livemode"),
        added={"livemode": "boolean"},
        text="currency id object",
        reference="balance_transaction fee",
        amount="amount",
        timestamp="created",
        nested="metadata",
    ),
    about_person=("metadata",),
    references=(
        Reference(column="fee", target="application_fees", may_be_older=True),
        Reference(column="balance_transaction", target="balance_transactions", may_be_older=False),
    ),
)
