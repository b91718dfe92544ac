"""Typical queries of dashboards, on a published file with many rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import duckdb

from benchmarks import large
from benchmarks.measuring import Options, Row, Spent, apart
from stripe_pipeline.data_folder import DataFolder

QUESTIONS: Mapping[str, str] = {
    "daily net volume": """
        SELECT default_day AS day, currency, sum(net) FROM live.balance_transactions
        WHERE type <> 'payout' GROUP BY ALL ORDER BY ALL
    """,
    "refund rate": """
        SELECT date_trunc('month', default_day) AS month, sum(amount_refunded) / sum(amount_captured)
        FROM live.charges WHERE status = 'succeeded' GROUP BY ALL ORDER BY ALL
    """,
    "top customers": """
        SELECT customer, email, paid FROM
        (SELECT customer, sum(amount_captured) AS paid FROM live.charges WHERE currency = 'usd' GROUP BY ALL
        ORDER BY paid DESC LIMIT 20) LEFT JOIN live.customers ON id = customer ORDER BY paid DESC
    """,
    "dispute rate": """
        SELECT month, disputed / charged FROM
        (SELECT date_trunc('month', default_day) AS month, count(*) AS charged FROM live.charges GROUP BY ALL)
        JOIN (SELECT date_trunc('month', default_day) AS month, count(*) AS disputed FROM live.disputes GROUP BY ALL)
        USING (month) ORDER BY month
    """,
    "fees by type": """
        SELECT date_trunc('month', default_day) AS month, type, currency, sum(amount) FROM live.fee_details
        GROUP BY ALL ORDER BY ALL
    """,
    "weekly active customers": """
        SELECT date_trunc('week', default_day) AS week, count(DISTINCT customer) FROM live.charges
        WHERE status = 'succeeded' GROUP BY ALL ORDER BY ALL
    """,
    "why charges failed": """
        SELECT outcome->>'reason' AS reason, count(*) FROM live.charges WHERE status = 'failed'
        GROUP BY ALL ORDER BY ALL
    """,
    "average ticket by currency": """
        SELECT currency, avg(amount), median(amount) FROM live.charges WHERE status = 'succeeded' GROUP BY ALL
    """,
    "invoiced by month": """
        SELECT date_trunc('month', period_end) AS month, currency, sum(total), count(DISTINCT customer)
        FROM live.invoices WHERE status IN ('open', 'paid') GROUP BY ALL ORDER BY ALL
    """,
    "balance ready for payout": """
        SELECT currency, sum(net) FROM live.balance_transactions
        WHERE status = 'available' AND available_on > now() - INTERVAL 7 DAY GROUP BY ALL
    """,
    "payments by month": """
        SELECT date_trunc('month', default_day) AS month, count(*), sum(amount) FROM live.payments
        GROUP BY ALL ORDER BY ALL
    """,
}
_GOALS = {"payments by month": 3}
"""Seconds in which a question should be answered, if not in one: those to a view that joins tables."""


def questions(options: Options) -> list[Row]:
    """The questions through `live.*`, and how large the file is."""
    folder = large.folder(options, options.rows)
    took = apart(_ask, folder)
    rows = [
        Row(f"dashboard: {name} ({options.rows:,} charges)", f"≤ {goal} s", f"{seconds:.2f} s", seconds <= goal)
        for name, seconds in took.items()
        for goal in [_GOALS.get(name, 1)]
    ]
    size = DataFolder(folder).published.stat().st_size / 1e6
    blocks, every_block = apart(_share_of_charges, folder)
    charges = size * blocks / every_block / options.rows * 1e6
    others = size / options.rows * 1e6
    return [
        *rows,
        Row(
            "file size of 1M charges",
            "",
            f"{charges:,.0f} MB, {others:,.0f} MB with their balance transactions, fees, refunds, disputes, customers,"
            " invoices and lines",
        ),
    ]


def _ask(folder: Path) -> dict[str, float]:
    """Seconds of each question, the second time in a row, each with a connection of its own."""
    seconds = {}
    for name, sql in QUESTIONS.items():
        for _ in range(2):
            with duckdb.connect(str(DataFolder(folder).published), read_only=True) as connection, Spent() as spent:
                connection.execute("SET TimeZone = 'UTC'")
                connection.execute(sql).fetchall()
        seconds[name] = spent.seconds
    return seconds


def _share_of_charges(folder: Path) -> tuple[int, int]:
    """How many blocks the charges use, and how many all tables."""
    blocks = []
    with duckdb.connect(str(DataFolder(folder).published), read_only=True) as connection:
        tables = connection.execute(
            "SELECT schema_name || '.' || table_name FROM duckdb_tables() WHERE schema_name = 'raw' ORDER BY ALL"
        ).fetchall()
        for (table,) in tables:
            [(used,)] = connection.execute(
                f"SELECT count(DISTINCT block_id) FROM pragma_storage_info('{table}') WHERE persistent"
            ).fetchall()
            blocks.append((table, int(used)))
    return dict(blocks)["raw.charges"], sum(used for _, used in blocks)
