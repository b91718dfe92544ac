"""The view `balance_change_from_activity`: Stripe's itemized report of that name, with its columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from stripe_pipeline.days import local_time
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.columns import Source, rules_on, selectable
from stripe_pipeline.views.finance.movements import CLASSES
from stripe_pipeline.views.invoices import invoice_of_payment
from stripe_pipeline.views.money import MAJOR_UNITS, major_units
from stripe_pipeline.views.view import FINANCE, DescribedColumn, View, with_sources

_ADDRESS = ("line1", "line2", "city", "state", "postal_code", "country")
# Prefix of the columns of each address, the table and the column that hold it, the JSON path of it, what it is.
_ADDRESSES = (
    ("customer_shipping_address", "customers", "shipping", "$.address", "the customer's shipping address"),
    ("customer_address", "customers", "address", "$", "the customer's address"),
    ("shipping_address", "charges", "shipping", "$.address", "the charge's shipping address"),
    ("card_address", "charges", "billing_details", "$.address", "the charge's billing address"),
)
_FACING = ("balance_transactions", "charges", "refunds", "disputes")
_SOURCES = {
    "balance_transaction_id": "balance_transactions.id",
    "source_id": "balance_transactions.source",
    "gross": "balance_transactions.amount",
    "customer_facing_amount": " ".join(f"{table}.amount" for table in _FACING),
    "customer_facing_currency": " ".join(f"{table}.currency" for table in _FACING[1:]),
    "automatic_payout_id": "payout_balance_transactions.payout",
    "automatic_payout_effective_at": "payouts.arrival_date",
    "customer_id": "charges.customer",
    **{f"customer_{name}": f"customers.{name}" for name in ("email", "name", "description")},
    **{f"{prefix}_{part}": f"{table}.{column}" for prefix, table, column, *_ in _ADDRESSES for part in _ADDRESS},
    "charge_id": "charges.id",
    "payment_intent_id": "charges.payment_intent",
    "charge_created": "charges.created",
    "invoice_id": "invoices.id invoices.payments",
    "invoice_number": "invoices.number invoices.payments",
    "subscription_id": "invoices.parent invoices.payments",
    **dict.fromkeys(
        ("payment_method_type", "is_link", "card_brand", "card_funding", "card_country"),
        "charges.payment_method_details",
    ),
    "statement_descriptor": "charges.statement_descriptor_suffix charges.statement_descriptor",
    "dispute_reason": "disputes.reason",
    "payment_metadata": "payment_intents.metadata charges.metadata",
    "refund_metadata": "refunds.metadata",
    "trace_id": "payouts.trace_id",
    "trace_id_status": "payouts.trace_id",
}
"""The columns from which a column and the one that ends in `_utc` are computed, as in `with_sources`."""


def balance_change_from_activity(settings: Settings) -> View:
    """The view with the columns that the settings keep."""
    columns = selectable(settings)
    return View(
        name="balance_change_from_activity",
        title="Balance change from activity",
        description="One row per balance transaction, except payouts, with the columns of Stripe's itemized report"
        ' "Balance change from activity". Amounts are in major units.',
        describe=lambda: tuple(_described(settings)),
        tables=(
            *("balance_transactions", "charges", "refunds", "disputes", "customers", "invoices", "payment_intents"),
            *("payouts", "payout_balance_transactions"),
        ),
        rows_of=None,
        select=lambda schema: _select(Source(FINANCE[schema], columns), settings.time_zone),
        schemas=tuple(FINANCE),
    )


def _described(settings: Settings) -> Iterator[DescribedColumn]:
    """The columns with their sources. Of an address, the settings may leave out parts."""
    rules = {
        f"{prefix}_{part}": rules_on(OBJECT_TYPES[table], [column, *path.split(".")[1:], part], settings)
        for prefix, table, column, path, _ in _ADDRESSES
        for part in _ADDRESS
    }
    in_utc = {f"{name}_utc": sources for name, sources in _SOURCES.items()}
    in_utc |= {f"{name}_utc": f"balance_transactions.{name}" for name in ("created", "available_on")}
    for column in with_sources(_columns(), _SOURCES | in_utc, table="balance_transactions"):
        yield replace(column, rules=rules.get(column.name))


def _columns() -> Iterator[DescribedColumn]:
    zone = "in the time zone of the settings"
    yield DescribedColumn("balance_transaction_id", "VARCHAR", "ID of the balance transaction")
    for name, text in (("created", "When it was created"), ("available_on", "When its net amount becomes available")):
        yield DescribedColumn(f"{name}_utc", "TIMESTAMP", f"{text}, in UTC")
        yield DescribedColumn(name, "TIMESTAMP", f"{text}, {zone}")
    yield DescribedColumn("currency", "VARCHAR", "Currency of `gross`, `fee` and `net`")
    yield DescribedColumn("gross", MAJOR_UNITS, "Amount before fees")
    yield DescribedColumn("fee", MAJOR_UNITS, "Fees that were taken from it")
    yield DescribedColumn("net", MAJOR_UNITS, "Change of the balance")
    yield DescribedColumn("reporting_category", "VARCHAR", "Stripe's category for accounting")
    yield DescribedColumn("source_id", "VARCHAR", "ID of the object that it is for")
    yield DescribedColumn("description", "VARCHAR", "Description of the balance transaction")
    yield DescribedColumn(
        "customer_facing_amount", MAJOR_UNITS, "Amount of the charge, refund or dispute as the customer sees it"
    )
    yield DescribedColumn("customer_facing_currency", "VARCHAR", "Currency of `customer_facing_amount`")
    yield DescribedColumn("automatic_payout_id", "VARCHAR", "ID of the automatic payout that pays it out")
    yield DescribedColumn("automatic_payout_effective_at_utc", "TIMESTAMP", "When that payout arrives, in UTC")
    yield DescribedColumn("automatic_payout_effective_at", "TIMESTAMP", f"When that payout arrives, {zone}")
    yield DescribedColumn("customer_id", "VARCHAR", "ID of the customer")
    for name in ("email", "name", "description"):
        yield DescribedColumn(
            f"customer_{name}", "VARCHAR", f"The customer's `{name}`; null if the customer is deleted"
        )
    for prefix, *_, text in _ADDRESSES:
        for part in _ADDRESS:
            yield DescribedColumn(f"{prefix}_{part}", "VARCHAR", f"`{part}` of {text}")
    yield DescribedColumn("charge_id", "VARCHAR", "ID of the charge, also for refunds and disputes of it")
    yield DescribedColumn("payment_intent_id", "VARCHAR", "ID of the payment intent")
    yield DescribedColumn("charge_created_utc", "TIMESTAMP", "When the charge was created, in UTC")
    yield DescribedColumn("charge_created", "TIMESTAMP", f"When the charge was created, {zone}")
    yield DescribedColumn("invoice_id", "VARCHAR", "ID of the invoice that the charge pays")
    yield DescribedColumn("invoice_number", "VARCHAR", "Number of that invoice")
    yield DescribedColumn("subscription_id", "VARCHAR", "ID of the subscription that the invoice is for")
    yield DescribedColumn("payment_method_type", "VARCHAR", "Type of the payment method, such as `card`")
    yield DescribedColumn("is_link", "BOOLEAN", "Whether the charge was paid with Link")
    yield DescribedColumn("card_brand", "VARCHAR", "Brand of the card")
    yield DescribedColumn("card_funding", "VARCHAR", "`credit`, `debit`, `prepaid` or `unknown`")
    yield DescribedColumn("card_country", "VARCHAR", "Country of the card's issuer, as two letters")
    yield DescribedColumn("statement_descriptor", "VARCHAR", "The charge's own statement descriptor, or its suffix")
    yield DescribedColumn("dispute_reason", "VARCHAR", "Reason of the dispute")
    yield DescribedColumn("payment_metadata", "JSON", "Metadata of the payment intent, or else of the charge")
    yield DescribedColumn("refund_metadata", "JSON", "Metadata of the refund")
    yield DescribedColumn("trace_id", "VARCHAR", "The bank's reference number of the automatic payout")
    yield DescribedColumn("trace_id_status", "VARCHAR", "`pending`, `supported` or `unsupported`")


def _select(source: Source, time_zone: str) -> str:
    """The SELECT. A column that the settings leave out is null; without `reporting_category`, the view is empty."""
    rows = source.rows

    def times(name: str, moment: str) -> str:
        return f"{local_time(moment, 'UTC')} AS {name}_utc, {local_time(moment, time_zone)} AS {name}"

    def money(name: str, amount: str) -> str:
        return f"{major_units(amount, 'b.currency')} AS {name}"

    def with_addresses(table: str, names: str) -> str:
        """The columns of a table, of which each that holds an address is the list of the address's parts."""
        # One call parses the JSON once for all parts.
        lists = ", ".join(
            f"json_extract_string({column}, {[f'{path}.{part}' for part in _ADDRESS]}) AS {column}"
            for _, its_table, column, path, _ in _ADDRESSES
            if its_table == table
        )
        return f"(SELECT * REPLACE ({lists}) FROM {rows(table, names)})"

    aliases = {"charges": "c", "customers": "u"}
    addresses = ", ".join(
        f"{aliases[table]}.{column}[{place}] AS {prefix}_{part}"
        for prefix, table, column, *_ in _ADDRESSES
        for place, part in enumerate(_ADDRESS, start=1)
    )
    transactions = "id created available_on currency amount fee net reporting_category source description"
    charges = (
        "id created currency amount customer payment_intent billing_details shipping payment_method_details metadata"
        " statement_descriptor statement_descriptor_suffix card_brand card_funding card_country"
    )
    excluded = ", ".join(f"'{category}'" for category in CLASSES["payouts"])
    kept = str(source.has("balance_transactions", "reporting_category")).lower()
    # In the currency of the balance, the balance transaction is exact even for a charge that was captured in part.
    facing = "COALESCE(r.amount, d.amount, c.amount)"
    facing_currency = "COALESCE(r.currency, d.currency, c.currency)"
    facing = (
        f"CASE WHEN {facing_currency} = b.currency THEN b.amount WHEN b.amount < 0 THEN -{facing} ELSE {facing} END"
    )
    return f"""
SELECT
    b.id AS balance_transaction_id, {times("created", "b.created")}, {times("available_on", "b.available_on")},
    b.currency, {money("gross", "b.amount")}, {money("fee", "b.fee")}, {money("net", "b.net")},
    b.reporting_category, b.source AS source_id, b.description,
    {major_units(f"({facing})", facing_currency)} AS customer_facing_amount,
    {facing_currency} AS customer_facing_currency,
    p.id AS automatic_payout_id, {times("automatic_payout_effective_at", "p.arrival_date")},
    c.customer AS customer_id, u.email AS customer_email, u.name AS customer_name,
    u.description AS customer_description, {addresses},
    c.id AS charge_id, c.payment_intent AS payment_intent_id, {times("charge_created", "c.created")},
    i.paid.id AS invoice_id, i.paid.number AS invoice_number, i.paid.subscription AS subscription_id,
    c.payment_method_details->>'type' AS payment_method_type,
    COALESCE(c.payment_method_details->>'$.card.wallet.type', c.payment_method_details->>'type') = 'link' AS is_link,
    c.card_brand, c.card_funding, c.card_country,
    COALESCE(c.statement_descriptor_suffix, c.statement_descriptor) AS statement_descriptor,
    d.reason AS dispute_reason, COALESCE(NULLIF(t.metadata, '{{}}'), c.metadata) AS payment_metadata,
    r.metadata AS refund_metadata, p.trace_id->>'value' AS trace_id, p.trace_id->>'status' AS trace_id_status
FROM {rows("balance_transactions", transactions)} b
LEFT JOIN {rows("refunds", "id charge currency amount metadata")} r ON r.id = b.source
LEFT JOIN {rows("disputes", "id charge currency amount reason")} d ON d.id = b.source
LEFT JOIN {with_addresses("charges", charges)} c ON c.id = COALESCE(r.charge, d.charge, b.source)
LEFT JOIN {with_addresses("customers", "id email name description address shipping")} u ON u.id = c.customer
LEFT JOIN {rows("payment_intents", "id metadata")} t ON t.id = c.payment_intent
LEFT JOIN ({invoice_of_payment(source, "id number subscription")}) i ON i.payment = COALESCE(c.payment_intent, c.id)
LEFT JOIN (
    SELECT balance_transaction, min(payout) AS payout
    FROM {rows("payout_balance_transactions", "balance_transaction payout")} GROUP BY balance_transaction
) l ON l.balance_transaction = b.id
LEFT JOIN {rows("payouts", "id arrival_date trace_id")} p ON p.id = l.payout
WHERE {kept} AND COALESCE(b.reporting_category, '') NOT IN ({excluded})
""".strip()
