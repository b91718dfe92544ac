"""Stripe's object types, and the kinds of their columns: one declaration each.

Tables, assets, checks, the views on one table each, event routing, listing, what `check` tries, relations and
docs/tables.md are derived from `OBJECT_TYPES`: for the pipeline, another type is one more entry here, and what the
entries of other types say about the new type (`references`, `announced_by`). What the emulator needs of a type is in
`stripe_emulator.types`. All that depends on a column's kind is declared in `KINDS`. `rows` defines a row's JSON,
`warehouse` the SQL.

Fields and types are those of the API version that every request asks for (`stripe_api.version`). More facts about the
types: docs/stripe.md#object-types.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, kw_only=True, eq=False)
class Kind:
    """The kind of a column's values: how a value is checked, stored, read and restored, and what it may be used for."""

    python_type: type | None
    """The type of a value in Stripe's JSON; None for any type."""
    fits: Callable[[Any], bool] | None = None
    """Whether the column can hold this value of `python_type`; by default it can hold every one."""
    convert: Callable[[Any], Any] | None = None
    """Returns the value to store in place of any other value; None if there is none, as by default."""
    sql_type: str
    """The column's DuckDB type."""
    storage: str = ""
    """What the column's definition says after the type."""
    line_type: str | None = None
    """The DuckDB type of the value in a line of NDJSON, if it is not `sql_type`."""
    read: str = "{}"
    """The SQL expression that turns a value from a line, `{}`, into one of `sql_type`."""
    restore: Callable[[Any], Any] | None = None
    """Returns Stripe's value for the value that DuckDB's Python client returns; by default both are equal."""
    is_nested: bool = False
    """Whether the values are objects and lists, as JSON."""
    is_time: bool = False
    """Whether the values are points in time, by which rows can be dated."""
    in_minor_units: bool = False
    """Whether the values are amounts in minor units of the row's `currency`."""
    names_object: bool = False
    """Whether the values are ids; Stripe may also send the object that the id names."""
    hashable: bool = False
    """Whether the settings may hash the values."""
    may_hold_secret: bool = False
    """Whether a value may contain a client secret."""

    def accepts(self, value: Any) -> bool:
        """Whether the column can hold `value` as it is."""
        return (self.python_type is None or value.__class__ is self.python_type) and (
            self.fits is None or self.fits(value)
        )


_BIGINT = range(-(2**63), 2**63)
_SECONDS = range(253_402_300_800)  # until the year 10000: the range of both DuckDB and Python ends before
_EXACT_IN_DOUBLE = range(-(2**53), 2**53 + 1)


def _id_of(value: Any) -> str | None:
    """The id of an expanded object."""
    object_id = value.get("id") if isinstance(value, dict) else None
    return object_id if isinstance(object_id, str) else None


def _whole_number(value: Any) -> int | None:
    """An integer that is equal to a floating-point number."""
    return value if value.__class__ is int and value in _EXACT_IN_DOUBLE else None


KINDS: Mapping[str, Kind] = {
    "text": Kind(python_type=str, sql_type="VARCHAR", hashable=True, may_hold_secret=True),
    "reference": Kind(python_type=str, convert=_id_of, sql_type="VARCHAR", names_object=True, hashable=True),
    "integer": Kind(python_type=int, fits=_BIGINT.__contains__, sql_type="BIGINT"),
    "amount": Kind(python_type=int, fits=_BIGINT.__contains__, sql_type="BIGINT", in_minor_units=True),
    "timestamp": Kind(
        python_type=int,  # Unix seconds
        fits=_SECONDS.__contains__,
        sql_type="TIMESTAMPTZ",
        line_type="BIGINT",
        read="make_timestamptz({} * 1000000)",
        restore=lambda moment: int(moment.timestamp()),
        is_time=True,
    ),
    "boolean": Kind(python_type=bool, sql_type="BOOLEAN"),
    "number": Kind(python_type=float, convert=_whole_number, sql_type="DOUBLE"),
    "decimal": Kind(python_type=str, sql_type="VARCHAR"),  # Stripe sends text, which is exact
    "nested": Kind(
        python_type=None,
        sql_type="JSON",
        storage="USING COMPRESSION zstd",  # a third of the space
        restore=json.loads,
        is_nested=True,
        may_hold_secret=True,
    ),
}
"""All kinds of columns by name."""


@dataclass(frozen=True)
class Column:
    """One field of an object type, or one column the pipeline adds."""

    name: str
    kind: Kind
    description: str = ""
    added: bool = False
    """Not a field of Stripe's object: filled from its parent or from the key's mode."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A column that names objects of another type."""

    column: str
    target: str
    """Table name of the named objects, for example `customers`."""
    path: str = ""
    """The JSON path of the ids in a nested column, with a wildcard for a list; empty if the column is the id."""
    prefixes: tuple[str, ...] = ()
    """Prefixes of the target's ids, for example `ch_`, if the column names objects of several types."""
    may_be_older: bool
    """Whether the named object may be created long before the row, and so before the history that is kept. Otherwise
    the object is created with the row, seconds before it, or later."""
    may_be_gone: bool = False
    """Whether Stripe's lists may omit the named object: deleted customers, and those on a test clock
    (docs/stripe.md#deletions)."""

    @property
    def of_list(self) -> bool:
        """Whether one row may name several objects."""
        return "*" in self.path

    @property
    def name(self) -> str:
        """The display name: the column, with the field of a nested one, for example `payments.payment_intent`."""
        field = self.path.rpartition(".")[2]
        return f"{self.column}.{field}" if field not in ("", "id") else self.column

    @property
    def label(self) -> str:
        """The name and the target, for example `source → charges`."""
        return f"{self.name} → {self.target}"


@dataclass(frozen=True, kw_only=True)
class FlatColumn:
    """A column of the view on one table that shows a text from below a nested column."""

    name: str
    path: str
    """Names separated by dots, for example `outcome.risk_level`."""
    description: str


@dataclass(frozen=True, kw_only=True)
class Included:
    """A list in an object that Stripe omits unless requested, and then truncates to ten."""

    column: str
    endpoint: str
    """Endpoint of the whole list, for example `/v1/invoice_payments`."""
    parameter: str
    """The filter of that list that takes the object's id, for example `invoice`."""


@dataclass(frozen=True, kw_only=True)
class ObjectType:
    """One Stripe object type: its endpoint, its events and its table."""

    name: str
    """Table and asset name, for example `charges`."""
    object: str
    """Stripe's `object` value, by which events are routed, for example `charge`."""
    description: str
    columns: tuple[Column, ...]
    optional: bool = False
    """Loaded only where the settings switch the type on; has no table otherwise. Children are optional as their parent
    is."""
    key: tuple[str, ...] = ("id",)
    """Columns that identify a row within its mode (docs/stripe.md#ids-and-secrets)."""
    endpoint: str | None = None
    """List endpoint, for example `/v1/charges`; none for children, which come with their parent."""
    events: tuple[str, ...] = ()
    """Event types that announce a change of this type."""
    announced_by: tuple[str, ...] = ()
    """Tables whose events announce new objects of this type, which has no events of its own."""
    parent: str | None = None
    """Table name of the parent whose objects carry these; their `created` is the parent's."""
    parent_key: str | None = None
    """Column that holds the parent's id."""
    embedded_in: str | None = None
    """Field of the parent that carries these objects."""
    date_field: str = "created"
    """The timestamp that dates a row: `default_date` in the views, and the basis of retention."""
    include: tuple[Included, ...] = ()
    """The lists that Stripe is asked to send with each object."""
    flat: tuple[FlatColumn, ...] = ()
    """The columns that the view adds, so that common questions need no JSON paths."""
    references: tuple[Reference, ...] = ()
    """The columns that name objects of declared types."""
    secrets: tuple[str, ...] = ()
    """Fields that Stripe says must not be stored: kept only where the settings name them."""
    personal: tuple[str, ...] = ()
    """Fields that identify a person or say how to reach one. They lose a value only if somebody wants it removed."""
    about_person: tuple[str, ...] = ()
    """Fields, or dotted paths below one, that may also hold data about a person: the shop's own text, payment methods,
    links to documents. They change in the normal course of a payment."""

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of Stripe's fields and the parent's columns, in table order."""
        return tuple(column.name for column in self.columns)

    @property
    def table_columns(self) -> tuple[Column, ...]:
        """All columns of the base table, in order."""
        return (*self.columns, *BOOKKEEPING)

    def kind_of(self, column: str) -> Kind:
        """The kind of one of the table's columns; raises `KeyError` for any other."""
        return {known.name: known.kind for known in self.table_columns}[column]

    @property
    def key_columns(self) -> frozenset[str]:
        """Columns that every row must have."""
        return frozenset({*self.key, "created", "livemode"} | ({self.parent_key} if self.parent_key else set()))


BOOKKEEPING = (
    Column("_account", KINDS["text"], "Stripe account the row was read from"),
    Column("_fetched_at", KINDS["timestamp"], "When the request that brought this row was sent, on Stripe's clock"),
    Column("_deleted_at", KINDS["timestamp"], "When the object was found deleted in Stripe; null while it exists"),
    Column(
        "_extra", KINDS["nested"], "Fields this version does not know, and values of an unexpected type, as received"
    ),
)
"""Columns that every base table has besides Stripe's own."""

_DESCRIPTIONS = {
    "created": "When the object was made",
    "livemode": "True for live data, false for test data",
}


def _columns(
    *,
    leading: tuple[str, ...] = ("id", "created", "livemode"),
    added: Mapping[str, str] = MappingProxyType({}),
    **fields: str,
) -> tuple[Column, ...]:
    """Columns from space-separated field names of each kind; `added` has the kinds of the columns that the pipeline
    adds to Stripe's fields."""
    kinds = {name: kind for kind, names in fields.items() for name in names.split()} | dict(added)
    ordered = [*leading, *sorted(kinds.keys() - set(leading))]
    return tuple(
        Column(name, kind := KINDS[kinds[name]], _describe(name, kind), added=name in added) for name in ordered
    )


def _describe(name: str, kind: Kind) -> str:
    if name in _DESCRIPTIONS:
        return _DESCRIPTIONS[name]
    return "In minor units of `currency`" if kind.in_minor_units else ""


BALANCE_TRANSACTIONS = ObjectType(
    name="balance_transactions",
    object="balance_transaction",
    description="What moved the Stripe balance: charges, refunds, disputes, fees, payouts.",
    endpoint="/v1/balance_transactions",
    announced_by=("charges", "disputes", "payouts", "refunds"),
    about_person=("description",),  # the charge's
    columns=_columns(
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
    columns=_columns(
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
    columns=_columns(
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
    columns=_columns(
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

FEE_DETAILS = ObjectType(
    name="fee_details",
    object="fee_detail",
    description="The single fees that add up to the fee of a balance transaction, by position, from 0.",
    key=("balance_transaction", "position"),
    parent="balance_transactions",
    parent_key="balance_transaction",
    embedded_in="fee_details",
    columns=_columns(
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

INVOICE_LINES = ObjectType(
    name="invoice_lines",
    object="line_item",
    description="Every line of every invoice. The column created is the invoice's.",
    key=("invoice", "id"),
    parent="invoices",
    parent_key="invoice",
    embedded_in="lines",
    columns=_columns(
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
    columns=_columns(
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
    columns=_columns(
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
    columns=_columns(
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

REFUNDS = ObjectType(
    name="refunds",
    object="refund",
    description="Money returned to customers.",
    endpoint="/v1/refunds",
    events=("charge.refund.updated", "refund.created", "refund.failed", "refund.updated"),
    columns=_columns(
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

OBJECT_TYPES: Mapping[str, ObjectType] = {
    object_type.name: object_type
    for object_type in (
        BALANCE_TRANSACTIONS,
        CHARGES,
        CUSTOMERS,
        DISPUTES,
        FEE_DETAILS,
        INVOICE_LINES,
        INVOICES,
        PAYMENT_INTENTS,
        PAYOUTS,
        REFUNDS,
    )
}
"""All object types by table name."""

DEFAULT_TYPES: Mapping[str, ObjectType] = {
    name: object_type for name, object_type in OBJECT_TYPES.items() if not object_type.optional
}
"""The object types that are loaded unless the settings switch one off, by table name."""

BY_STRIPE_OBJECT: Mapping[str, ObjectType] = {
    object_type.object: object_type for object_type in OBJECT_TYPES.values() if object_type.endpoint
}
"""Object types with an endpoint, by `data.object.object` of an event.

An event's name does not say which object it carries (`charge.refund.updated` carries a refund), so nothing routes by
name. Lines and fees are missing here on purpose: they are read with their parent."""


def children_of(object_type: ObjectType) -> tuple[ObjectType, ...]:
    """The object types whose rows come with `object_type`'s."""
    return tuple(child for child in OBJECT_TYPES.values() if child.parent == object_type.name)


def family_of(object_type: ObjectType) -> ObjectType:
    """The listed type that yields `object_type`: the type itself, or its parent."""
    return OBJECT_TYPES[object_type.parent] if object_type.parent else object_type
