"""The declarations of invoices and what they bill."""

from __future__ import annotations

from stripe_pipeline.objects.declaration import (
    OF_CUSTOMER,
    OF_PRICE,
    Announcement,
    ChildList,
    FlatColumn,
    Included,
    ObjectType,
    Reference,
    columns,
    of_discounts,
)

_INLINE = True  # prices made for one use are in no list

INVOICE_LINES = ObjectType(
    name="invoice_lines",
    object="line_item",
    description="Every line of every invoice. The column created is the invoice's.",
    key=("invoice", "id"),
    parent="invoices",
    parent_key="invoice",
    embedded_in="lines",
    columns=columns(
        leading=("id", "invoice", "created", "livemode"),
        added={"created": "timestamp"},
        text="currency description id object",
        reference="invoice subscription",
        amount="amount subtotal",
        integer="quantity",
        boolean="discountable livemode",
        decimal="quantity_decimal",
        nested="discount_amounts discounts metadata parent period pretax_credit_amounts pricing taxes",
    ),
    flat=(
        FlatColumn(name="price", path="pricing.price_details.price", description="ID of the price"),
        FlatColumn(name="product", path="pricing.price_details.product", description="ID of the product"),
    ),
    about_person=("description", "metadata"),
    references=(
        Reference(column="invoice", target="invoices", may_be_older=False),
        Reference(
            column="parent", path="$.subscription_item_details.subscription", target="subscriptions", may_be_older=True
        ),
        Reference(
            column="pricing", path="$.price_details.price", target="prices", may_be_older=True, may_be_gone=_INLINE
        ),
        Reference(
            column="pricing", path="$.price_details.product", target="products", may_be_older=True, may_be_gone=True
        ),
        Reference(column="discounts", path="$[*]", target="invoice_discounts", may_be_older=False),
    ),
)

INVOICES = ObjectType(
    name="invoices",
    object="invoice",
    description="Amounts billed to customers. All lines are in invoice_lines; the column lines holds the first ten.",
    endpoint="/v1/invoices",
    events=(
        "invoice.created",
        "invoice.deleted",
        "invoice.finalization_failed",
        "invoice.finalized",
        "invoice.marked_uncollectible",
        "invoice.overdue",
        "invoice.overpaid",
        "invoice.paid",
        "invoice.payment_action_required",
        "invoice.payment_attempt_required",
        "invoice.payment_failed",
        "invoice.payment_succeeded",
        "invoice.sent",
        "invoice.updated",
        "invoice.voided",
        "invoice.will_be_due",
    ),
    # The column payments holds the invoice payments.
    announcements=(Announcement(object="invoice_payment", fields=("invoice",), events=("invoice_payment.paid",)),),
    deletable=True,  # only drafts
    columns=columns(
        text="""
            account_country account_name billing_reason collection_method currency customer_account
            customer_email customer_name customer_phone customer_tax_exempt description footer
            hosted_invoice_url id invoice_pdf number object receipt_number statement_descriptor
            status
        """,
        reference="""
            application customer default_payment_method default_source latest_revision on_behalf_of
            test_clock
        """,
        amount="""
            amount_due amount_overpaid amount_paid amount_paid_off_stripe amount_remaining
            amount_shipping ending_balance post_payment_credit_notes_amount
            pre_payment_credit_notes_amount starting_balance subtotal subtotal_excluding_tax total
            total_excluding_tax
        """,
        integer="attempt_count",
        timestamp="""
            automatically_finalizes_at created due_date effective_at next_payment_attempt period_end
            period_start webhooks_delivered_at
        """,
        boolean="attempted auto_advance deleted livemode",
        nested="""
            account_tax_ids automatic_tax confirmation_secret custom_fields customer_address
            customer_shipping customer_tax_ids default_tax_rates discounts from_invoice issuer
            last_finalization_error lines metadata parent payment_settings payments rendering
            shipping_cost shipping_details status_details status_transitions threshold_reason
            total_discount_amounts total_pretax_credit_amounts total_taxes
        """,
    ),
    flat=(
        FlatColumn(
            name="subscription",
            path="parent.subscription_details.subscription",
            description="ID of the subscription that the invoice is for",
        ),
    ),
    secrets=("confirmation_secret",),
    personal=(
        *("customer_address", "customer_email", "customer_name", "customer_phone", "customer_shipping"),
        *("customer_tax_ids", "shipping_details"),
    ),
    about_person=(
        *("custom_fields", "description", "footer", "hosted_invoice_url", "invoice_pdf", "metadata"),
        *(
            f"last_finalization_error.{field}"
            for field in ("payment_intent", "payment_method", "setup_intent", "source")
        ),
        "parent.subscription_details.metadata",
    ),
    # Since API 2025-03-31 nothing else links an invoice and its payment (docs/stripe.md#api-versions).
    include=(Included(column="payments", endpoint="/v1/invoice_payments", parameter="invoice"),),
    references=(
        OF_CUSTOMER,
        Reference(
            column="payments", path="$.data[*].payment.payment_intent", target="payment_intents", may_be_older=True
        ),
        Reference(column="payments", path="$.data[*].payment.charge", target="charges", may_be_older=True),
        # A draft can be deleted, including the draft of a revision.
        Reference(column="latest_revision", target="invoices", may_be_older=False, may_be_gone=True),
        Reference(column="from_invoice", path="$.invoice", target="invoices", may_be_older=True),
        Reference(
            column="parent", path="$.subscription_details.subscription", target="subscriptions", may_be_older=True
        ),
        Reference(column="default_payment_method", target="payment_methods", may_be_older=True, may_be_gone=True),
        Reference(column="discounts", path="$[*]", target="invoice_discounts", may_be_older=False),
    ),
)


PRODUCTS = ObjectType(
    name="products",
    object="product",
    optional=True,
    description="Goods and services that prices are set for.",
    endpoint="/v1/products",
    events=("product.created", "product.deleted", "product.updated"),
    deletable=True,
    columns=columns(
        text="description id name object statement_descriptor type unit_label url",
        reference="default_price tax_code",
        timestamp="created updated",
        boolean="active livemode shippable",
        nested="attributes images marketing_features metadata package_dimensions",
    ),
    about_person=("metadata",),
    references=(Reference(column="default_price", target="prices", may_be_older=True, may_be_gone=_INLINE),),
)

PRICES = ObjectType(
    name="prices",
    object="price",
    optional=True,
    description="What a product costs, once or per period. Prices made for one use are in no list: they are stored once"
    " an event names them.",
    endpoint="/v1/prices",
    lists=({"active": "true"}, {"active": "false"}),
    lists_all=False,
    events=("price.created", "price.deleted", "price.updated"),
    # A plan is the price with the same id, as Stripe showed prices before.
    announcements=(
        Announcement(object="plan", fields=("id",), events=("plan.created", "plan.deleted", "plan.updated")),
    ),
    columns=columns(
        text="billing_scheme currency id lookup_key nickname object tax_behavior tiers_mode type",
        reference="product",
        amount="unit_amount",
        decimal="unit_amount_decimal",
        timestamp="created",
        boolean="active livemode",
        nested="currency_options custom_unit_amount metadata recurring tiers transform_quantity",
    ),
    about_person=("metadata",),
    references=(Reference(column="product", target="products", may_be_older=True, may_be_gone=True),),
)

COUPONS = ObjectType(
    name="coupons",
    object="coupon",
    optional=True,
    description="Reductions, in percent or of an amount, that discounts apply.",
    endpoint="/v1/coupons",
    events=("coupon.created", "coupon.deleted", "coupon.updated"),
    # A discount counts in times_redeemed. API versions before 2025-09-30 carry the coupon itself.
    announcements=(of_discounts("source.coupon", "coupon"),),
    deletable=True,
    columns=columns(
        text="currency duration id name object",
        amount="amount_off",
        integer="duration_in_months max_redemptions times_redeemed",
        number="percent_off",
        timestamp="created redeem_by",
        boolean="livemode valid",
        nested="applies_to currency_options metadata",
    ),
    about_person=("metadata",),
)

PROMOTION_CODES = ObjectType(
    name="promotion_codes",
    object="promotion_code",
    optional=True,
    description="Codes that customers enter to redeem a coupon.",
    endpoint="/v1/promotion_codes",
    events=("promotion_code.created", "promotion_code.updated"),
    announcements=(of_discounts("promotion_code"),),
    columns=columns(
        text="code customer_account id object",
        reference="customer",
        integer="max_redemptions times_redeemed",
        timestamp="created expires_at",
        boolean="active livemode",
        nested="metadata promotion restrictions",
    ),
    about_person=("metadata",),
    references=(
        OF_CUSTOMER,
        Reference(column="promotion", path="$.coupon", target="coupons", may_be_older=True, may_be_gone=True),
    ),
)

TAX_RATES = ObjectType(
    name="tax_rates",
    object="tax_rate",
    optional=True,
    description="Rates of tax that invoices, lines and subscriptions name.",
    endpoint="/v1/tax_rates",
    events=("tax_rate.created", "tax_rate.updated"),
    columns=columns(
        text="country description display_name id jurisdiction jurisdiction_level object rate_type state tax_type",
        number="effective_percentage percentage",
        timestamp="created",
        boolean="active inclusive livemode",
        nested="flat_amount metadata",
    ),
    about_person=("metadata",),
)

SUBSCRIPTIONS = ObjectType(
    name="subscriptions",
    object="subscription",
    optional=True,
    description="Recurring sales to customers, also ended ones. All items are in subscription_items; the column items"
    " holds the first ten.",
    endpoint="/v1/subscriptions",
    lists=({"status": "all"},),
    events=(
        "customer.subscription.created",
        "customer.subscription.deleted",
        "customer.subscription.paused",
        "customer.subscription.pending_update_applied",
        "customer.subscription.pending_update_expired",
        "customer.subscription.resumed",
        "customer.subscription.trial_will_end",
        "customer.subscription.updated",
    ),
    announcements=(of_discounts("subscription"),),
    columns=columns(
        text="collection_method currency customer_account description id object status",
        reference="""
            application customer default_payment_method default_source latest_invoice on_behalf_of
            pending_setup_intent schedule test_clock
        """,
        integer="days_until_due",
        number="application_fee_percent",
        timestamp="""
            billing_cycle_anchor cancel_at canceled_at created ended_at next_pending_invoice_item_invoice
            start_date trial_end trial_start
        """,
        boolean="cancel_at_period_end livemode",
        nested="""
            automatic_tax billing_cycle_anchor_config billing_mode billing_schedules billing_thresholds
            cancellation_details default_tax_rates discounts invoice_settings items managed_payments metadata
            pause_collection payment_settings pending_invoice_item_interval pending_update
            presentment_details transfer_data trial_settings
        """,
    ),
    about_person=("cancellation_details", "description", "metadata"),
    references=(
        OF_CUSTOMER,
        # A draft can be deleted.
        Reference(column="latest_invoice", target="invoices", may_be_older=True, may_be_gone=True),
        Reference(column="default_payment_method", target="payment_methods", may_be_older=True, may_be_gone=True),
        Reference(column="default_tax_rates", path="$[*].id", target="tax_rates", may_be_older=True),
        Reference(column="discounts", path="$[*]", target="subscription_discounts", may_be_older=False),
    ),
)

SUBSCRIPTION_ITEMS = ObjectType(
    name="subscription_items",
    object="subscription_item",
    description="Every item of every subscription, with the current period.",
    parent="subscriptions",
    parent_key="subscription",
    embedded_in="items",
    child_list=ChildList(path="/v1/subscription_items", parameter="subscription"),
    columns=columns(
        leading=("id", "subscription", "created", "livemode"),
        added={"livemode": "boolean"},
        text="id object",
        reference="subscription",
        integer="quantity",
        timestamp="billed_until created current_period_end current_period_start",
        nested="billing_thresholds discounts metadata price tax_rates",
    ),
    flat=(
        *OF_PRICE,
        FlatColumn(name="interval", path="price.recurring.interval", description="Unit of the period, such as `month`"),
    ),
    about_person=("metadata",),
    references=(
        Reference(column="subscription", target="subscriptions", may_be_older=True),
        Reference(column="price", path="$.id", target="prices", may_be_older=True, may_be_gone=_INLINE),
    ),
)


def _discounts(parent: str, parent_key: str, also_in: str, *, optional: bool) -> ObjectType:
    """The declaration of the discounts of a type and of its parts, which Stripe sends on request; they have no list."""
    return ObjectType(
        name=f"{parent_key}_discounts",
        object="discount",
        optional=optional,
        description=f"The discounts that the {parent} and their {also_in} name, with their coupons.",
        key=(parent_key, "id"),
        parent=parent,
        parent_key=parent_key,
        embedded_in="discounts",
        also_in=also_in,
        on_request=True,
        columns=columns(
            leading=("id", parent_key, "created", "livemode"),
            # A discount of a subscription is named by its invoices, too, but names no invoice.
            added={parent_key: "reference", "created": "timestamp", "livemode": "boolean"},
            text="checkout_session customer_account id invoice invoice_item object subscription subscription_item",
            reference="customer promotion_code",
            timestamp="end start",
            nested="source",
        ),
        flat=(FlatColumn(name="coupon", path="source.coupon", description="ID of the coupon"),),
        references=(
            Reference(column=parent_key, target=parent, may_be_older=False),
            OF_CUSTOMER,
            Reference(column="promotion_code", target="promotion_codes", may_be_older=True),
            Reference(column="source", path="$.coupon", target="coupons", may_be_older=True, may_be_gone=True),
        ),
    )


INVOICE_DISCOUNTS = _discounts("invoices", "invoice", "lines", optional=True)
SUBSCRIPTION_DISCOUNTS = _discounts("subscriptions", "subscription", "items", optional=False)

CREDIT_NOTES = ObjectType(
    name="credit_notes",
    object="credit_note",
    optional=True,
    description="Reductions of finalized invoices. All lines are in credit_note_lines; the column lines holds the first"
    " ten.",
    endpoint="/v1/credit_notes",
    events=("credit_note.created", "credit_note.updated", "credit_note.voided"),
    columns=columns(
        text="currency customer_account id memo number object pdf reason status type",
        reference="customer customer_balance_transaction invoice",
        amount="""
            amount amount_shipping discount_amount out_of_band_amount post_payment_amount pre_payment_amount
            subtotal subtotal_excluding_tax total total_excluding_tax
        """,
        timestamp="created effective_at voided_at",
        boolean="livemode",
        nested="discount_amounts lines metadata pretax_credit_amounts refunds shipping_cost total_taxes",
    ),
    about_person=("memo", "metadata", "pdf"),
    references=(
        OF_CUSTOMER,
        Reference(column="invoice", target="invoices", may_be_older=True),
        Reference(column="refunds", path="$[*].refund", target="refunds", may_be_older=True),
        Reference(
            column="customer_balance_transaction",
            target="customer_balance_transactions",
            may_be_older=False,
            may_be_gone=True,
        ),
    ),
)

CREDIT_NOTE_LINES = ObjectType(
    name="credit_note_lines",
    object="credit_note_line_item",
    description="Every line of every credit note. The column created is the credit note's.",
    key=("credit_note", "id"),
    parent="credit_notes",
    parent_key="credit_note",
    embedded_in="lines",
    columns=columns(
        leading=("id", "credit_note", "created", "livemode"),
        added={"created": "timestamp", "credit_note": "reference"},
        text="description id invoice_line_item object type",
        integer="amount discount_amount quantity unit_amount",
        decimal="unit_amount_decimal",
        boolean="livemode",
        nested="discount_amounts metadata pretax_credit_amounts tax_rates taxes",
    ),
    about_person=("description", "metadata"),
    references=(
        Reference(column="credit_note", target="credit_notes", may_be_older=False),
        Reference(column="invoice_line_item", target="invoice_lines", may_be_older=True),
    ),
)

CUSTOMER_BALANCE_TRANSACTIONS = ObjectType(
    name="customer_balance_transactions",
    object="customer_balance_transaction",
    optional=True,
    description="What moved the balance that a customer has with you. Read with a request for each customer.",
    parent="customers",
    parent_key="customer",
    child_list=ChildList(path="/v1/customers/{id}/balance_transactions"),
    columns=columns(
        leading=("id", "customer", "created", "livemode"),
        text="currency customer_account description id object type",
        reference="checkout_session credit_note customer invoice",
        amount="amount ending_balance",
        timestamp="created",
        boolean="livemode",
        nested="metadata",
    ),
    about_person=("description", "metadata"),
    references=(
        Reference(column="customer", target="customers", may_be_older=True),
        Reference(column="invoice", target="invoices", may_be_older=True, may_be_gone=True),
        Reference(column="credit_note", target="credit_notes", may_be_older=True),
        Reference(column="checkout_session", target="checkout_sessions", may_be_older=True),
    ),
)
