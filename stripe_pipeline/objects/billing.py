"""The declarations of invoices and what they bill."""

from __future__ import annotations

from stripe_pipeline.objects.declaration import FlatColumn, Included, ObjectType, Reference, columns

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
    references=(Reference(column="invoice", target="invoices", may_be_older=False),),
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
        Reference(column="customer", target="customers", may_be_older=True, may_be_gone=True),
        Reference(
            column="payments", path="$.data[*].payment.payment_intent", target="payment_intents", may_be_older=True
        ),
        Reference(column="payments", path="$.data[*].payment.charge", target="charges", may_be_older=True),
        # A draft can be deleted, including the draft of a revision.
        Reference(column="latest_revision", target="invoices", may_be_older=False, may_be_gone=True),
        Reference(column="from_invoice", path="$.invoice", target="invoices", may_be_older=True),
    ),
)
