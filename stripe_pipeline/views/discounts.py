"""The view `discounts`: one row per discount, whoever names it, with its coupon, its code and what it took off."""

from __future__ import annotations

from stripe_pipeline.days import local_day
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.columns import Source, selectable
from stripe_pipeline.views.money import in_both_units, with_major_units
from stripe_pipeline.views.view import DescribedColumn, View, with_sources

_NAMED_BY = ("subscription_discounts", "invoice_discounts")
_AMOUNTS = ("amount_off", "amount")
_COLUMNS = (
    DescribedColumn("discount", "VARCHAR", "ID of the discount"),
    DescribedColumn("start", "TIMESTAMPTZ", "When the coupon was applied"),
    DescribedColumn("default_day", "DATE", "Day of `start` in the time zone of the settings"),
    DescribedColumn("end", "TIMESTAMPTZ", "When the discount ends, if its coupon has a number of months"),
    DescribedColumn("customer", "VARCHAR", "ID of the customer"),
    DescribedColumn("customer_name", "VARCHAR", "The customer's `name`; null if the customer was deleted"),
    DescribedColumn("customer_email", "VARCHAR", "The customer's `email`; null if the customer was deleted"),
    DescribedColumn("subscription", "VARCHAR", "ID of the subscription, if the discount belongs to one"),
    DescribedColumn("coupon", "VARCHAR", "ID of the coupon"),
    DescribedColumn("coupon_name", "VARCHAR", "The coupon's `name`; null if the coupon was deleted"),
    DescribedColumn("percent_off", "DOUBLE", "The coupon's `percent_off`"),
    DescribedColumn("amount_off_currency", "VARCHAR", "Currency of `amount_off`"),
    DescribedColumn("amount_off", "BIGINT", "The coupon's `amount_off`"),
    DescribedColumn("promotion_code", "VARCHAR", "ID of the promotion code"),
    DescribedColumn("code", "VARCHAR", "The code that was entered"),
    DescribedColumn("invoices", "BIGINT", "Number of invoices that are `open`, `paid` or `uncollectible` and reduced"),
    DescribedColumn("currency", "VARCHAR", "Currency of these invoices; null if they have several"),
    DescribedColumn(
        "amount", "BIGINT", "What the discount took off these invoices; null if they have several currencies"
    ),
)


def _named(field: str) -> str:
    """The columns of a discount's field, with that of a customer's own discount."""
    return " ".join([*(f"{table}.{field}" for table in _NAMED_BY), "customers.discount"])


_SOURCES = {
    "discount": _named("id"),
    "default_day": _named("start"),
    **{name: _named(name) for name in ("start", "end", "promotion_code")},
    "customer": f"{_named('customer')} customers.id",
    "subscription": _named("subscription"),
    "coupon": _named("source"),
    "customer_name": "customers.name",
    "customer_email": "customers.email",
    "coupon_name": "coupons.name",
    "percent_off": "coupons.percent_off",
    "amount_off": "coupons.amount_off",
    "amount_off_currency": "coupons.currency",
    "code": "promotion_codes.code",
    **dict.fromkeys(
        ("invoices", "currency", "amount"), "invoices.total_discount_amounts invoices.currency invoices.status"
    ),
}


def discounts(settings: Settings) -> View:
    """The view with the columns that the settings keep."""
    columns = selectable(settings)
    return View(
        name="discounts",
        title="Discounts",
        description="One row per discount that a customer has, or that a subscription or an invoice or a part of these"
        " names.",
        describe=lambda: tuple(with_major_units(with_sources(_COLUMNS, _SOURCES), _AMOUNTS)),
        tables=(*_NAMED_BY, "customers", "coupons", "promotion_codes", "invoices"),
        rows_of=None,
        select=lambda schema: _select(Source(schema, columns), settings.time_zone),
    )


def _select(source: Source, time_zone: str) -> str:
    """The SELECT. A value is null if the settings leave out what it needs."""
    rows = source.rows
    fields = 'id, start, "end", customer, subscription, coupon, promotion_code'
    named = "\n        UNION ALL\n        ".join(
        f"SELECT {fields} FROM {rows(table, 'id start end customer subscription coupon promotion_code')}"
        for table in _NAMED_BY
    )
    known = source.has("invoices", "id", "currency", "status", "total_discount_amounts")
    invoices = f"CASE WHEN {str(known).lower()} THEN COALESCE(i.invoices, 0) END"
    # The same discount is named by its subscription and by each of that one's invoices.
    return f"""
SELECT
    d.id AS discount, d.start, {local_day("d.start", time_zone)} AS default_day, d."end", d.customer,
    u.name AS customer_name, u.email AS customer_email, d.subscription, d.coupon, c.name AS coupon_name, c.percent_off,
    c.currency AS amount_off_currency, {in_both_units("amount_off", "c.amount_off", "c.currency")},
    d.promotion_code, p.code, {invoices} AS invoices, i.currency, {in_both_units("amount", "i.amount", "i.currency")}
FROM (
    SELECT id, {", ".join(f"any_value({name}) AS {name}" for name in fields.split(", ")[1:])}
    FROM (
        {named}
        UNION ALL
        SELECT discount->>'$.id', make_timestamptz((discount->>'$.start')::BIGINT * 1000000),
            make_timestamptz((discount->>'$.end')::BIGINT * 1000000), id, discount->>'$.subscription',
            discount->>'$.source.coupon', discount->>'$.promotion_code'
        FROM {rows("customers", "id discount")} WHERE discount IS NOT NULL
    )
    WHERE id IS NOT NULL
    GROUP BY id
) d
LEFT JOIN {rows("customers", "id name email")} u ON u.id = d.customer
LEFT JOIN {rows("coupons", "id name percent_off amount_off currency")} c ON c.id = d.coupon
LEFT JOIN {rows("promotion_codes", "id code")} p ON p.id = d.promotion_code
LEFT JOIN (
    SELECT discount, count(*) AS invoices, CASE WHEN min(currency) = max(currency) THEN min(currency) END AS currency,
        CASE WHEN min(currency) = max(currency) THEN sum(amount)::BIGINT END AS amount
    FROM (
        SELECT id, currency, part.discount AS discount, part.amount AS amount
        FROM (
            SELECT id, currency, unnest(
                from_json(total_discount_amounts, '[{{"amount": "BIGINT", "discount": "VARCHAR"}}]')
            ) AS part
            FROM {rows("invoices", "id currency status total_discount_amounts")}
            WHERE status IN ('open', 'paid', 'uncollectible')
        )
    )
    GROUP BY discount
) i ON i.discount = d.id
""".strip()
