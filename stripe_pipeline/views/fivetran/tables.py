"""The tables and columns of Fivetran's Stripe connector that dbt_stripe reads, and where their values come from.

A line is a column: its name, its type, and our column or path if the name differs; `-` for a value that Stripe's API
does not have. An indented line continues the one above. How the views are made of this belongs to `mapping`.
"""

from __future__ import annotations

from stripe_pipeline.views.fivetran.mapping import FivetranTable

_ADDRESS = ("city", "country", "line_1", "line_2", "postal_code", "state")


def _address(prefix: str, path: str, *, joined: bool = False) -> str:
    """The columns of an address; `joined` if Fivetran writes `line1` in this table."""
    names = [name.replace("line_", "line") for name in _ADDRESS]
    shown = names if joined else _ADDRESS
    return "\n".join(f"{prefix}{name} varchar {path}.{of}" for name, of in zip(shown, names, strict=True))


def _shipping(path: str) -> str:
    return f"""
{_address("shipping_address_", f"{path}.address")}
shipping_carrier varchar {path}.carrier
shipping_name varchar {path}.name
shipping_phone varchar {path}.phone
shipping_tracking_number varchar {path}.tracking_number
""".strip()


_EVIDENCE = "\n".join(
    f"evidence_{name} varchar evidence.{name}"
    for name in (
        *("access_activity_log", "billing_address", "cancellation_policy", "cancellation_policy_disclosure"),
        *("cancellation_rebuttal", "customer_communication", "customer_email_address", "customer_name"),
        *("customer_purchase_ip", "customer_signature", "duplicate_charge_documentation"),
        *("duplicate_charge_explanation", "duplicate_charge_id", "product_description", "receipt", "refund_policy"),
        *("refund_policy_disclosure", "refund_refusal_explanation", "service_date", "service_documentation"),
        *("shipping_address", "shipping_carrier", "shipping_date", "shipping_documentation"),
        *("shipping_tracking_number", "uncategorized_file", "uncategorized_text"),
    )
)
# The payment that paid an invoice, the oldest paid one; Stripe lists it below `payments`.
_PAID = """list_filter(from_json(t.payments, '{"data": [{"status": "VARCHAR", "payment": {"payment_intent": "VARCHAR",
    "charge": "VARCHAR"}}]}').data, lambda payment: payment.status = 'paid')[1].payment"""
# Stripe does not list the payment methods of guests; their charges have the details. `{{` is for `format`.
_METHODS_OF_CHARGES = (
    "WHERE t.payment_method IS NOT NULL AND {condition} AND t.payment_method NOT IN"
    " (SELECT id FROM {{payment_methods: id}})"
    " QUALIFY row_number() OVER (PARTITION BY t.payment_method ORDER BY t.created DESC, t.id) = 1"
)


def _payment_method(name: str, *, created: str, metadata: str, of_type: str) -> str:
    """The columns of a payment method, with the columns of our table that hold its id, `created` and so on."""
    return f"""
id varchar {name}
{_address("billing_detail_address_", "billing_details.address")}
billing_detail_email varchar billing_details.email
billing_detail_name varchar billing_details.name
billing_detail_phone varchar billing_details.phone
created timestamp {created}
customer_id varchar customer
livemode boolean
metadata varchar {metadata}
type varchar {of_type}
"""


def _payment_method_card(name: str, *, card: str, of_type: str, charge: str = "-", secure: str = "") -> str:
    """The columns of a card; `card` and `secure` are the paths to it and to its 3D Secure result, if there is one."""
    secured = "\n".join(
        f"three_d_secure_{of} varchar {f'{secure}.{of}' if secure else '-'}"
        for of in ("authentication_flow", "result", "result_reason", "version")
    )
    return f"""
payment_method_id varchar {name}
brand varchar {card}.brand
charge_id varchar {charge}
funding varchar {card}.funding
type varchar {of_type}
wallet_type varchar {card}.wallet.type
{secured}
"""


TABLES = (
    FivetranTable(
        "account",
        "account",
        f"""
id varchar
business_profile_mcc varchar business_profile.mcc
business_profile_name varchar business_profile.name
business_type varchar
charges_enabled boolean
{_address("company_address_", "company.address")}
company_name varchar company.name
company_phone varchar company.phone
country varchar
created timestamp -
default_currency varchar
details_submitted boolean
email varchar
is_deleted boolean false
metadata varchar
payouts_enabled boolean
type varchar
""",
        # Our table has a row a day.
        only="QUALIFY row_number() OVER (PARTITION BY t.id ORDER BY t.created DESC) = 1",
    ),
    FivetranTable(
        "balance_transaction",
        "balance_transactions",
        """
id varchar
amount bigint
available_on timestamp
connected_account_id varchar -
created timestamp
currency varchar
description varchar
exchange_rate double
fee bigint
net bigint
payout_id varchar p.payout
reporting_category varchar
source varchar
status varchar
type varchar
""",
        joins={
            "p": "(SELECT balance_transaction, max(payout) AS payout FROM"
            " {payout_balance_transactions: payout balance_transaction} GROUP BY balance_transaction) p"
            " ON p.balance_transaction = t.id"
        },
    ),
    FivetranTable(
        "fee",
        "fee_details",
        """
amount bigint
application varchar
balance_transaction_id varchar balance_transaction
connected_account_id varchar -
currency varchar
description varchar
index bigint position
type varchar
""",
    ),
    FivetranTable(
        "charge",
        "charges",
        f"""
id varchar
amount bigint
amount_refunded bigint
application varchar
application_fee_amount bigint
balance_transaction_id varchar balance_transaction
bank_account_id varchar -
{_address("billing_detail_address_", "billing_details.address", joined=True)}
billing_detail_email varchar billing_details.email
billing_detail_name varchar billing_details.name
billing_detail_phone varchar billing_details.phone
calculated_statement_descriptor varchar
captured boolean
card_id varchar CASE WHEN json_extract_string(t.source, '$.object') = 'card'
    THEN json_extract_string(t.source, '$.id') END
connected_account_id varchar -
created timestamp
currency varchar
customer_id varchar customer
description varchar
destination varchar transfer_data.destination
failure_code varchar
failure_message varchar
fraud_details_stripe_report varchar fraud_details.stripe_report
fraud_details_user_report varchar fraud_details.user_report
invoice_id varchar i.paid.id
livemode boolean
metadata varchar
on_behalf_of varchar
outcome_network_status varchar outcome.network_status
outcome_reason varchar outcome.reason
outcome_risk_level varchar outcome.risk_level
outcome_risk_score bigint outcome.risk_score
outcome_seller_message varchar outcome.seller_message
outcome_type varchar outcome.type
paid boolean
payment_intent_id varchar payment_intent
payment_method_id varchar payment_method
receipt_email varchar
receipt_number varchar
receipt_url varchar
refunded boolean
{_shipping("shipping")}
source_id varchar source.id
source_transfer varchar
statement_descriptor varchar
status varchar
transfer_data_destination varchar transfer_data.destination
transfer_group varchar
transfer_id varchar transfer
""",
        joins={"i": "({invoice_of_payment}) i ON i.payment = COALESCE(t.payment_intent, t.id)"},
    ),
    FivetranTable(
        "customer",
        "customers",
        f"""
id varchar
account_balance bigint balance
{_address("address_", "address")}
balance bigint
bank_account_id varchar CASE WHEN t.default_source LIKE 'ba_%' THEN t.default_source END
created timestamp
currency varchar
default_card_id varchar CASE WHEN t.default_source LIKE 'card_%' THEN t.default_source END
delinquent boolean
description varchar
email varchar
invoice_prefix varchar
invoice_settings_default_payment_method varchar invoice_settings.default_payment_method
invoice_settings_footer varchar invoice_settings.footer
is_deleted boolean false
livemode boolean
metadata varchar
name varchar
phone varchar
{_shipping("shipping")}
source_id varchar default_source
tax_exempt varchar
tax_info_tax_id varchar -
tax_info_type varchar -
tax_info_verification_status varchar -
tax_info_verification_verified_name varchar -
""",
    ),
    FivetranTable(
        "card",
        "customer_cards",
        """
id varchar
account_id varchar account
address_city varchar
address_country varchar
address_line_1 varchar address_line1
address_line_2 varchar address_line2
address_state varchar
address_zip varchar
brand varchar
country varchar
created timestamp
customer_id varchar customer
funding varchar
metadata varchar
name varchar
recipient varchar -
wallet_type varchar tokenization_method
""",
    ),
    FivetranTable(
        "dispute",
        "disputes",
        f"""
id varchar
amount bigint
balance_transaction varchar COALESCE(json_extract_string(t.balance_transactions, '$[0].id'),
    json_extract_string(t.balance_transactions, '$[0]'))
charge_id varchar charge
connected_account_id varchar -
created timestamp
currency varchar
{_EVIDENCE}
evidence_details_due_by timestamp evidence_details.due_by
evidence_details_has_evidence boolean evidence_details.has_evidence
evidence_details_past_due boolean evidence_details.past_due
evidence_details_submission_count bigint evidence_details.submission_count
is_charge_refundable boolean
livemode boolean
metadata varchar
reason varchar
status varchar
""",
    ),
    FivetranTable(
        "invoice",
        "invoices",
        f"""
id varchar
amount_due bigint
amount_paid bigint
amount_remaining bigint
application_fee_amount bigint -
attempt_count bigint
attempted boolean
auto_advance boolean
billing varchar collection_method
billing_reason varchar
charge_id varchar COALESCE({_PAID}.charge, i.latest_charge)
created timestamp
currency varchar
customer_id varchar customer
date timestamp created
default_payment_method_id varchar default_payment_method
default_source_id varchar default_source
description varchar
due_date timestamp
ending_balance bigint
finalized_at timestamp status_transitions.finalized_at
footer varchar
hosted_invoice_url varchar
invoice_pdf varchar
is_deleted boolean false
livemode boolean
metadata varchar
next_payment_attempt timestamp
number varchar
paid boolean t.status = 'paid'
payment_intent_id varchar {_PAID}.payment_intent
period_end timestamp
period_start timestamp
post_payment_credit_notes_amount bigint
pre_payment_credit_notes_amount bigint
receipt_number varchar
starting_balance bigint
statement_descriptor varchar
status varchar
status_transitions_finalized_at timestamp status_transitions.finalized_at
status_transitions_marked_uncollectible_at timestamp status_transitions.marked_uncollectible_at
status_transitions_paid_at timestamp status_transitions.paid_at
status_transitions_voided_at timestamp status_transitions.voided_at
subscription_id varchar subscription
subscription_proration_date bigint parent.subscription_details.subscription_proration_date
subtotal bigint
tax bigint list_sum(list_transform(from_json(t.total_taxes, '[{{"amount": "BIGINT"}}]'),
    lambda tax: tax.amount))
tax_percent double -
threshold_reason_amount_gte bigint threshold_reason.amount_gte
total bigint
webhooks_delivered_at timestamp
""",
        joins={"i": f"{{payment_intents: id latest_charge}} i ON i.id = {_PAID}.payment_intent"},
    ),
    FivetranTable(
        "invoice_line_item",
        "invoice_lines",
        """
id varchar
amount bigint
currency varchar
description varchar
discountable boolean
invoice_id varchar invoice
invoice_item_id varchar COALESCE(json_extract_string(t.parent, '$.invoice_item_details.invoice_item'),
    json_extract_string(t.parent, '$.subscription_item_details.invoice_item'))
livemode boolean
metadata varchar
period_end timestamp period.end
period_start timestamp period.start
plan_id varchar price
price_id varchar price
proration boolean COALESCE(json_extract_string(t.parent, '$.subscription_item_details.proration'),
    json_extract_string(t.parent, '$.invoice_item_details.proration'))
quantity bigint
subscription_id varchar subscription
subscription_item_id varchar parent.subscription_item_details.subscription_item
type varchar CASE json_extract_string(t.parent, '$.type') WHEN 'subscription_item_details' THEN 'subscription'
    WHEN 'invoice_item_details' THEN 'invoiceitem' END
unique_id varchar id
unit_amount_excluding_tax varchar CASE WHEN len(list_filter(from_json(t.taxes, '[{"tax_behavior": "VARCHAR"}]'),
    lambda tax: tax.tax_behavior = 'inclusive')) > 0 THEN NULL
    ELSE json_extract_string(t.pricing, '$.unit_amount_decimal') END
""",
    ),
    FivetranTable(
        "payment_intent",
        "payment_intents",
        """
id varchar
amount bigint
amount_capturable bigint
amount_received bigint
application varchar
application_fee_amount bigint
canceled_at timestamp
cancellation_reason varchar
capture_method varchar
confirmation_method varchar
created timestamp
currency varchar
customer_id varchar customer
description varchar
last_payment_error_charge_id varchar last_payment_error.charge
last_payment_error_code varchar last_payment_error.code
last_payment_error_decline_code varchar last_payment_error.decline_code
last_payment_error_doc_url varchar last_payment_error.doc_url
last_payment_error_message varchar last_payment_error.message
last_payment_error_param varchar last_payment_error.param
last_payment_error_source_id varchar last_payment_error.source.id
last_payment_error_type varchar last_payment_error.type
livemode boolean
metadata varchar
on_behalf_of varchar
payment_method_id varchar payment_method
receipt_email varchar
source_id varchar source
statement_descriptor varchar
status varchar
transfer_data_destination varchar transfer_data.destination
transfer_group varchar
""",
    ),
    FivetranTable(
        "payment_method",
        "payment_methods",
        _payment_method("id", created="created", metadata="metadata", of_type="type"),
        also=FivetranTable(
            "payment_method",
            "charges",
            _payment_method("payment_method", created="-", metadata="-", of_type="payment_method_details.type"),
            only=_METHODS_OF_CHARGES.format(condition="true"),
        ),
    ),
    FivetranTable(
        "payment_method_card",
        "payment_methods",
        _payment_method_card("id", card="card", of_type="type"),
        only="WHERE t.type = 'card'",
        also=FivetranTable(
            "payment_method_card",
            "charges",
            _payment_method_card(
                "payment_method",
                card="payment_method_details.card",
                of_type="payment_method_details.type",
                charge="id",
                secure="payment_method_details.card.three_d_secure",
            ),
            only=_METHODS_OF_CHARGES.format(
                condition="json_extract_string(t.payment_method_details, '$.type') = 'card'"
            ),
        ),
    ),
    FivetranTable(
        "payout",
        "payouts",
        """
id varchar
amount bigint
arrival_date timestamp
automatic boolean
balance_transaction_id varchar balance_transaction
connected_account_id varchar -
created timestamp
currency varchar
description varchar
destination_bank_account_id varchar CASE WHEN t.type = 'bank_account' THEN t.destination END
destination_card_id varchar CASE WHEN t.type = 'card' THEN t.destination END
failure_balance_transaction_id varchar failure_balance_transaction
failure_code varchar
failure_message varchar
livemode boolean
metadata varchar
method varchar
source_type varchar
statement_descriptor varchar
status varchar
type varchar
""",
    ),
    FivetranTable(
        "payout_balance_transaction",
        "payout_balance_transactions",
        "payout_id varchar payout\nbalance_transaction_id varchar balance_transaction",
    ),
    FivetranTable(
        "refund",
        "refunds",
        """
id varchar
amount bigint
balance_transaction_id varchar balance_transaction
charge_id varchar charge
created timestamp
currency varchar
description varchar
failure_balance_transaction_id varchar failure_balance_transaction
failure_reason varchar
metadata varchar
payment_intent_id varchar payment_intent
reason varchar
receipt_number varchar
status varchar
""",
    ),
    FivetranTable(
        "transfer",
        "transfers",
        """
id varchar
amount bigint
amount_reversed bigint
balance_transaction_id varchar balance_transaction
created timestamp
currency varchar
description varchar
destination varchar
destination_payment varchar
destination_payment_id varchar destination_payment
livemode boolean
metadata varchar
reversed boolean
source_transaction varchar
source_transaction_id varchar source_transaction
source_type varchar
transfer_group varchar
""",
    ),
    FivetranTable(
        "product",
        "products",
        """
id varchar
active boolean
attributes varchar
caption varchar -
created timestamp
deactivate_on timestamp -
description varchar
images varchar
is_deleted boolean false
livemode boolean
metadata varchar
name varchar
shippable boolean
statement_descriptor varchar
type varchar
unit_label varchar
updated timestamp
url varchar
""",
    ),
    FivetranTable(
        "price",
        "prices",
        """
id varchar
active boolean
billing_scheme varchar
created timestamp
currency varchar
is_deleted boolean false
livemode boolean
metadata varchar
nickname varchar
product_id varchar product
recurring_aggregate_usage varchar -
recurring_interval varchar recurring.interval
recurring_interval_count bigint recurring.interval_count
recurring_usage_type varchar recurring.usage_type
unit_amount bigint
unit_amount_decimal varchar
""",
    ),
    FivetranTable(
        "subscription_history",
        "subscriptions",
        """
id varchar
_fivetran_active boolean true
application_fee_percent double
billing varchar collection_method
billing_cycle_anchor timestamp
billing_threshold_amount_gte bigint billing_thresholds.amount_gte
billing_threshold_reset_billing_cycle_anchor boolean billing_thresholds.reset_billing_cycle_anchor
cancel_at timestamp
cancel_at_period_end boolean
canceled_at timestamp
created timestamp
current_period_end timestamp make_timestamp(epoch_us(i.current_period_end))
current_period_start timestamp make_timestamp(epoch_us(i.current_period_start))
customer_id varchar customer
days_until_due bigint
default_payment_method_id varchar default_payment_method
default_source_id varchar default_source
ended_at timestamp
latest_invoice_id varchar latest_invoice
livemode boolean
metadata varchar
pause_collection_behavior varchar pause_collection.behavior
pause_collection_resumes_at timestamp pause_collection.resumes_at
pending_setup_intent_id varchar pending_setup_intent
quantity bigint i.quantity
start_date timestamp
status varchar
tax_percent double -
trial_end timestamp
trial_start timestamp
""",
        joins={
            "i": "(SELECT subscription, min(current_period_start) AS current_period_start, max(current_period_end) AS"
            " current_period_end, CASE WHEN count(*) = 1 THEN max(quantity) END AS quantity FROM {subscription_items:"
            " subscription current_period_start current_period_end quantity} GROUP BY subscription) i"
            " ON i.subscription = t.id"
        },
    ),
    FivetranTable(
        "subscription_item",
        "subscription_items",
        """
id varchar
created timestamp
current_period_end timestamp
current_period_start timestamp
metadata varchar
plan_id varchar price_id
quantity bigint
subscription_id varchar subscription
""",
    ),
    FivetranTable(
        "subscription_discount",
        "subscription_discounts",
        """
id varchar
checkout_session varchar
coupon_id varchar coupon
customer_id varchar customer
end timestamp
invoice_id varchar invoice
invoice_item_id varchar invoice_item
promotion_code varchar
start timestamp
subscription_id varchar subscription
""",
    ),
    FivetranTable(
        "discount",
        "invoice_discounts",
        """
id varchar
type varchar 'INVOICE'
type_id varchar invoice
amount bigint list_sum(list_transform(list_filter(
    from_json(i.total_discount_amounts, '[{"amount": "BIGINT", "discount": "VARCHAR"}]'),
    lambda part: part.discount = t.id), lambda part: part.amount))
checkout_session_id varchar checkout_session
checkout_session_line_item_id varchar -
coupon_id varchar coupon
credit_note_line_item_id varchar -
customer_id varchar customer
end timestamp
invoice_id varchar invoice
invoice_item_id varchar invoice_item
promotion_code varchar
start timestamp
subscription_id varchar subscription
""",
        joins={"i": "{invoices: id total_discount_amounts} i ON i.id = t.invoice"},
    ),
    FivetranTable(
        "coupon",
        "coupons",
        """
id varchar
amount_off bigint
created timestamp
currency varchar
duration varchar
duration_in_months bigint
livemode boolean
max_redemptions bigint
metadata varchar
name varchar
percent_off double
redeem_by timestamp
times_redeemed bigint
valid boolean
""",
    ),
    FivetranTable(
        "credit_note",
        "credit_notes",
        """
id varchar
amount bigint
created timestamp
currency varchar
customer_balance_transaction varchar
discount_amount bigint
invoice_id varchar invoice
livemode boolean
memo varchar
metadata varchar
number varchar
pdf varchar
reason varchar
refund_id varchar COALESCE(json_extract_string(t.refunds, '$[0].refund.id'),
    json_extract_string(t.refunds, '$[0].refund'))
status varchar
subtotal bigint
total bigint
type varchar
voided_at timestamp
""",
    ),
    FivetranTable(
        "credit_note_line_item",
        "credit_note_lines",
        """
id varchar
amount bigint
credit_note_id varchar credit_note
description varchar
discount_amount bigint
livemode boolean
quantity bigint
type varchar
unit_amount bigint
unit_amount_decimal varchar
""",
    ),
)
