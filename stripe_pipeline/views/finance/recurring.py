"""SQL for the monthly recurring revenue of each subscription, from which `mrr` and `mrr_movements` are computed."""

from __future__ import annotations

from stripe_pipeline.days import DAY, local_day
from stripe_pipeline.settings.model import Mrr, Settings
from stripe_pipeline.views.columns import Source, selectable
from stripe_pipeline.views.finance.lines import NET, divided, invoice_lines
from stripe_pipeline.views.view import FINANCE, MODES

TABLES = ("subscriptions", "subscription_items", "invoices", "invoice_lines")
"""The tables that the views need. The views are empty if the settings leave out one of them, or a column below."""
SOURCES = {
    "month": "invoice_lines.period",
    "currency": "invoice_lines.currency",
    "mrr": f"{NET} invoice_lines.period invoice_lines.pricing subscription_items.price",
    "customers": "invoices.customer",
    "subscriptions": "invoice_lines.parent",
}
"""The columns from which those of the views are computed, as in `with_sources`; `mrr` stands for all amounts."""
_NEEDED = {
    "invoice_lines": "id invoice created currency amount discount_amounts taxes period parent pricing",
    "invoices": "id customer status auto_advance attempted due_date",
    "subscriptions": "id customer currency ended_at trial_start trial_end",
    "subscription_items": "id subscription price quantity",
}
_PARENT = (
    '{"subscription_item_details": {"subscription": "VARCHAR", "proration": "BOOLEAN"},'
    ' "invoice_item_details": {"subscription": "VARCHAR", "proration": "BOOLEAN"}}'
)
_PRICING = '{"price_details": {"price": "VARCHAR"}}'
_RECURRING = '{"interval": "VARCHAR", "interval_count": "BIGINT"}'
_FINER = 1_000_000  # the parts of a minor unit that amounts are rounded to before they are added


def monthly(settings: Settings, schema: str) -> str:
    """The SELECT of the recurring revenue of each subscription that has any: `month` (its first day), `currency`,
    `customer`, `subscription`, `mrr` (BIGINT, minor units, more than 0)."""
    source = Source(FINANCE[schema], selectable(settings))
    complete = all(source.has(table, *names.split()) for table, names in _NEEDED.items())
    zone = settings.time_zone
    # The current month ends where the events have been read: later invoices are not known yet.
    month_end = f"least(timezone('{zone}', (month + INTERVAL 1 MONTH)::TIMESTAMP), known_until)"
    value = divided(f"(amount::HUGEINT * a_year * whole * {_FINER})", "(12 * interval_count * seconds)")
    return f"""
SELECT month, currency, customer, subscription, mrr
FROM (
    SELECT month, currency, customer, subscription, {divided("sum(fine)", str(_FINER))}::BIGINT AS mrr
    FROM (
        SELECT *, {value} AS fine, unnest(generate_series(
            date_trunc('month', {local_day("starts", zone)}),
            date_trunc('month', least({local_day("ends", zone)}, {local_day("known_until", zone)})),
            INTERVAL 1 MONTH
        ))::DATE AS month
        FROM ({_measured(source)})
        CROSS JOIN (SELECT {known_until(source)} AS known_until)
        WHERE {_counting(settings.mrr)} AND {str(complete).lower()}
    )
    WHERE starts < {month_end} AND {month_end} <= ends
    GROUP BY month, currency, customer, subscription
)
WHERE mrr > 0
"""


def known_until(source: Source) -> str:
    """SQL for the time, on Stripe's clock, until which events were read."""
    livemode = "livemode" if MODES[source.schema] else "NOT livemode"
    return f"coalesce((SELECT max(read_until) FROM pipeline.cursors WHERE name = 'events' AND {livemode}), now())"


def _counting(mrr: Mrr) -> str:
    """The condition that what `_measured` selects counts."""
    conditions = ["seconds > 0"]
    if not mrr.trials:
        conditions.append("NOT trial")
    if not mrr.past_due:
        conditions.append("NOT past_due")
    if not mrr.metered:
        conditions.append("NOT in_arrears")
    return " AND ".join(conditions)


def _measured(source: Source) -> str:
    """The SELECT of the recurring lines and trials, each with the interval of its price.

    The interval is `interval_count` times a unit of which a year has `a_year`. `seconds` is the length of the period,
    `whole` that of the full period of which it is a part: both are equal unless the line is a proration.
    """
    # Prorations end with the period in whose middle they begin. Months differ by a tenth.
    average = f"(365 * {DAY} * known_count // known_a_year)"

    def near(seconds: str) -> str:
        return f"{seconds} BETWEEN {average} * 0.9 AND {average} * 1.1"

    days = f"(longest / {DAY}.0)"
    return f"""
        SELECT * EXCLUDE (known_a_year, known_count, longest),
            coalesce(known_a_year, CASE WHEN {days} >= 27 THEN 12 ELSE 365 END) AS a_year,
            coalesce(known_count, CASE WHEN {days} >= 27 THEN round({days} * 12 / 365.25) ELSE ceil({days}) END)::BIGINT
                AS interval_count,
            CASE WHEN trial OR {near("seconds")} THEN seconds WHEN known_count IS NULL OR {near("longest")} THEN longest
                ELSE {average} END AS whole
        FROM (
            SELECT r.*, p.a_year AS known_a_year, p.interval_count AS known_count,
                max(seconds) OVER (PARTITION BY r.subscription, r.period_end) AS longest
            FROM ({_lines(source)} UNION ALL {_trials(source)}) r
            LEFT JOIN ({_prices(source)}) p ON p.id = r.price
        )
    """


def _lines(source: Source) -> str:
    """The SELECT of the lines of subscriptions, prorations included. A period ends with its subscription."""
    overdue = f"coalesce(i.attempted, false) OR coalesce(i.due_date < {known_until(source)}, false)"
    past_due = f"(i.status = 'uncollectible' OR (i.status = 'open' AND ({overdue})))"
    return f"""
            SELECT l.subscription, i.customer, l.currency, l.net AS amount, l.starts, l.ends AS period_end,
                least(l.ends, s.ended_at) AS ends, {_seconds("l.starts", "l.ends")} AS seconds, l.price, false AS trial,
                {past_due} AS past_due, NOT l.proration AND l.ends <= l.created AS in_arrears
            FROM (
                SELECT *, from_json(pricing, '{_PRICING}').price_details.price AS price,
                    coalesce(parent.subscription_item_details.proration, parent.invoice_item_details.proration, false)
                        AS proration,
                    CASE WHEN parent.subscription_item_details.subscription IS NOT NULL
                        THEN parent.subscription_item_details.subscription
                        WHEN parent.invoice_item_details.proration THEN parent.invoice_item_details.subscription
                    END AS subscription
                FROM (SELECT * REPLACE (from_json(parent, '{_PARENT}') AS parent) FROM {invoice_lines(source)})
            ) l
            JOIN {source.rows("invoices", _NEEDED["invoices"])} i ON i.id = l.invoice
            LEFT JOIN {source.rows("subscriptions", _NEEDED["subscriptions"])} s ON s.id = l.subscription
            WHERE l.subscription IS NOT NULL
                AND (i.status IN ('open', 'paid', 'uncollectible') OR (i.status = 'draft' AND i.auto_advance))"""


def _trials(source: Source) -> str:
    """The SELECT of the trials, with the price of each item for one interval. Invoices of trials are 0."""
    return f"""
            SELECT s.id, s.customer, s.currency, TRY_CAST(i.price->>'$.unit_amount' AS BIGINT) * i.quantity,
                s.trial_start, s.trial_end, least(s.trial_end, s.ended_at),
                {_seconds("s.trial_start", "s.trial_end")}, i.price->>'$.id', true, false, false
            FROM {source.rows("subscriptions", _NEEDED["subscriptions"])} s
            JOIN {source.rows("subscription_items", _NEEDED["subscription_items"])} i ON i.subscription = s.id
            WHERE s.trial_end > s.trial_start
                AND (i.price->>'$.recurring.usage_type') IS DISTINCT FROM 'metered'
"""


def _seconds(starts: str, ends: str) -> str:
    # The difference of two TIMESTAMPTZ would depend on the calendar of the session's time zone.
    return f"(epoch_us({ends}) - epoch_us({starts})) // 1000000"


def _prices(source: Source) -> str:
    """The SELECT of the intervals of the known prices: those of items, and all that are loaded."""
    return f"""
                SELECT id, any_value(a_year) AS a_year, any_value(interval_count) AS interval_count
                FROM (
                    SELECT id, recurring.interval_count, CASE recurring.interval
                        WHEN 'day' THEN 365 WHEN 'week' THEN 52 WHEN 'month' THEN 12 WHEN 'year' THEN 1 END AS a_year
                    FROM (
                        SELECT id, from_json(recurring, '{_RECURRING}') AS recurring FROM (
                            SELECT price->>'$.id' AS id, price->'$.recurring' AS recurring
                            FROM {source.rows("subscription_items", "price")}
                            UNION ALL FROM {source.rows("prices", "id recurring")}
                        )
                    )
                )
                WHERE a_year IS NOT NULL AND interval_count > 0 GROUP BY id
            """


def months(settings: Settings, schema: str, table: str) -> str:
    """The SELECT of every `month` and `currency` from the first month of a currency in `table` to the current one."""
    now = local_day(known_until(Source(FINANCE[schema], {})), settings.time_zone)
    series = f"generate_series(min(month), date_trunc('month', {now}), INTERVAL 1 MONTH)"
    return f"SELECT currency, unnest({series})::DATE AS month FROM {table} GROUP BY currency"
