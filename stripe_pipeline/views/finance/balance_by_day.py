"""The view `balance_by_day`: how the Stripe balance changed on each day, from opening to closing balance."""

from __future__ import annotations

from stripe_pipeline.days import local_day
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.columns import Source, selectable
from stripe_pipeline.views.finance.movements import CLASSES, DESCRIPTIONS, SOURCES, movements, sum_of
from stripe_pipeline.views.money import in_both_units, with_major_units
from stripe_pipeline.views.view import FINANCE, SCHEMAS, DescribedColumn, View, with_sources

_AMOUNTS = ("opening", *CLASSES, "closing")
_COLUMNS = (
    DescribedColumn("day", "DATE", "Day in the time zone of the settings"),
    DescribedColumn("currency", "VARCHAR", "Currency of the balance"),
    DescribedColumn("balance_type", "VARCHAR", "Which balance: `payments`, or one set apart, such as `issuing`"),
    DescribedColumn("opening", "BIGINT", "Balance when the day began; null if it is unknown"),
    *(DescribedColumn(name, "BIGINT", text) for name, text in DESCRIPTIONS.items()),
    DescribedColumn("closing", "BIGINT", "Balance when the day ended: `opening` and all columns between"),
)
_SOURCES = {
    **SOURCES,
    "day": "balance_transactions.created",
    "opening": "balance_transactions.net",
    "closing": "balance_transactions.net",
}


def balance_by_day(settings: Settings) -> View:
    """The view with the columns that the settings keep."""
    columns = selectable(settings)
    return View(
        name="balance_by_day",
        title="Balance by day",
        description="One row per day, currency and `balance_type`: the balance when the day began and ended, and what"
        " changed it.",
        describe=lambda: tuple(
            with_major_units(with_sources(_COLUMNS, _SOURCES, table="balance_transactions"), _AMOUNTS)
        ),
        tables=("balance_transactions",),
        rows_of=None,
        select=lambda schema: _select(Source(FINANCE[schema], columns), settings.time_zone, livemode=SCHEMAS[schema]),
        schemas=tuple(FINANCE),
    )


def _select(source: Source, time_zone: str, *, livemode: bool) -> str:
    """The SELECT: available and pending money together, in minor units of `currency`.

    A reading of the balance and the balance transactions since then, or until then, give the balance of every day.
    """
    of_balance = "PARTITION BY s.currency, s.balance_type"
    until_then = f"sum(COALESCE(m.net, 0)) OVER ({of_balance} ORDER BY d.day)"
    at_reading = f"s.amount - sum(COALESCE(m.net_until_reading, 0)) OVER ({of_balance})"
    amounts = {
        "opening": f"({at_reading} + {until_then} - COALESCE(m.net, 0))::BIGINT",
        **{name: f"COALESCE(m.{name}, 0)" for name in CLASSES},
        "closing": f"({at_reading} + {until_then})::BIGINT",
    }
    sums = ", ".join(f"{sum_of(name, 'b')} AS {name}" for name in CLASSES)
    shown = ", ".join(f"{amount} AS {name}" for name, amount in amounts.items())
    return f"""
WITH readings AS (
    SELECT currency, balance_type, arg_max(amount, read_at) AS amount, max(read_at) AS read_at
    FROM pipeline.balances WHERE {"" if livemode else "NOT "}livemode AND tied GROUP BY currency, balance_type
), moved AS (
    SELECT {local_day("b.created", time_zone)} AS day, b.currency, b.balance_type, {sums}, sum(b.net) AS net,
        sum(b.net) FILTER (b.created <= r.read_at) AS net_until_reading
    FROM ({movements(source)}) b
    LEFT JOIN readings r ON r.currency = b.currency AND r.balance_type = b.balance_type
    GROUP BY ALL
), series AS (
    SELECT currency, balance_type, max(amount) AS amount FROM (
        SELECT currency, balance_type, amount FROM readings WHERE amount <> 0
        UNION ALL
        SELECT DISTINCT m.currency, m.balance_type, r.amount FROM moved m
        LEFT JOIN readings r ON r.currency = m.currency AND r.balance_type = m.balance_type
    )
    GROUP BY currency, balance_type
)
SELECT day, currency, balance_type, {", ".join(in_both_units(name, name, "currency") for name in _AMOUNTS)}
FROM (
    SELECT d.day, s.currency, s.balance_type, {shown}
    FROM (SELECT unnest(generate_series(min(day), max(day), INTERVAL 1 DAY))::DATE AS day FROM moved) d
    CROSS JOIN series s
    LEFT JOIN moved m ON m.day = d.day AND m.currency = s.currency AND m.balance_type = s.balance_type
)
""".strip()
