"""A warehouse with many rows, made by SQL from one object of each type as the API gave it.

Its rows are those that `benchmarks.bulk` serves for the same spans: same ids, same times. It is complete as far as
the pipeline knows, so that a sync reads only changes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import duckdb
import filelock

from benchmarks.backfill import finished_days, pipeline_of
from benchmarks.bulk import PREFIXES, SPREAD, Serving, Span, object_id, serving
from benchmarks.measuring import Options, Spent, apart
from stripe_pipeline.batch import Mode
from stripe_pipeline.data_folder import CATALOG, DataFolder
from stripe_pipeline.days import DAY, day_start
from stripe_pipeline.objects import DEFAULT_TYPES
from stripe_pipeline.warehouse.sql import attach

DAYS = 730
_CHUNK = 500_000
_WORD = object_id("charges", 0)[-16:]  # in all ids and texts of the first object

# One object of the type for so many charges.
SHARES: Mapping[str, int] = {
    "balance_transactions": 1,
    "charges": 1,
    "customers": 40,
    "disputes": 100,
    "invoices": 20,
    "refunds": 20,
}

_CHARGE_OF = {"refunds": 20, "disputes": 100}
_FAILED = "nth % 25 = 7"
_SCALARS: Mapping[str, Mapping[str, str]] = {
    "charges": {
        "amount": "minor",
        "amount_captured": f"CASE WHEN {_FAILED} THEN 0 ELSE minor END",
        "amount_refunded": "CASE WHEN nth % 20 = 0 THEN minor ELSE 0 END",
        "currency": "money",
        "disputed": "nth % 100 = 0",
        "failure_code": f"CASE WHEN {_FAILED} THEN 'card_declined' END",
        "outcome": f"CASE WHEN {_FAILED} THEN replace(t.outcome, '\"reason\":null',"
        " '\"reason\":\"' || ['generic_decline', 'insufficient_funds', 'expired_card'][1 + nth % 3] || '\"')"
        " ELSE t.outcome END",
        "paid": f"NOT ({_FAILED})",
        "refunded": "nth % 20 = 0",
        "status": f"CASE WHEN {_FAILED} THEN 'failed' ELSE 'succeeded' END",
    },
    "balance_transactions": {
        "amount": "minor",
        "available_on": "made",
        "currency": "money",
        "fee": "cost",
        "net": "minor - cost",
    },
    "fee_details": {"amount": "cost", "currency": "money"},
    "refunds": {"amount": "minor", "currency": "money"},
    "disputes": {"amount": "minor", "currency": "money"},
    "invoices": {
        "amount_due": "minor",
        "amount_paid": "minor",
        "currency": "money",
        "effective_at": "made",
        "period_end": "made",
        "period_start": "made - INTERVAL 30 DAY",
        "total": "minor",
    },
    "invoice_lines": {"amount": "minor // 3", "currency": "money"},
}


def counts(charges: int) -> dict[str, int]:
    """How many objects of each type go with so many charges."""
    return {name: max(1, charges // share) for name, share in SHARES.items()}


def spans(charges: int) -> dict[str, list[Span]]:
    """When the objects that go with so many charges were created."""
    first, last = finished_days(DAYS)
    return {name: [Span(day_start(first), day_start(last) + DAY, count)] for name, count in counts(charges).items()}


def folder(options: Options, charges: int) -> Path:
    """A data folder with so many charges and the objects that go with them; made once for all measurements of a run."""
    folder = options.folder / f"large-{charges}"
    if not folder.exists():
        with Spent() as spent:
            _make(folder, charges)
        print(f"{charges:,} charges made by SQL: {spent.seconds:.0f} s", file=sys.stderr, flush=True)
    return folder


def _make(folder: Path, charges: int) -> None:
    first, last = finished_days(DAYS)
    start = day_start(first)
    single = {name: [Span(start, start + 1, 1)] for name in SHARES}
    with serving(Serving(single, latency_ms=0, limits=False)) as stripe:
        apart(_fill, stripe.url, folder, charges, first, last)


def _fill(url: str, folder: Path, charges: int, first: date, last: date) -> None:
    with pipeline_of(url, folder, first) as pipeline:
        pipeline.backfill([first])
        [account] = pipeline.warehouse.keys.accounts()
        mode = Mode(account, livemode=True)
        now = time.time()
        pipeline.warehouse.load([], cursors={(mode, name): now for name in ("events", "balance_transactions", "sweep")})
    numbers = counts(charges)
    data = DataFolder(folder)
    with filelock.FileLock(data.lock), duckdb.connect() as connection:
        attach(connection, data.private)
        connection.execute(f"USE {CATALOG}")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")
        connection.execute("SET memory_limit = '4GB'")
        for object_type in DEFAULT_TYPES.values():
            count = numbers.get(object_type.parent or object_type.name)
            if count is not None:
                _multiply(connection, object_type.name, count, numbers["customers"], day_start(first))
        # Every day was listed completely a moment ago.
        connection.execute("DELETE FROM pipeline.coverage")
        for table in DEFAULT_TYPES:
            connection.execute(
                "INSERT INTO pipeline.coverage"
                ' (object_type, account, livemode, day, listed_at, listed_until, "rows", how, listed)'
                " SELECT ?, ?, true, d::DATE, now(), (d + INTERVAL 1 DAY)::TIMESTAMPTZ, coalesce(n, 0), 'backfill',"
                f" coalesce(n, 0) FROM range(?::DATE, ?::DATE + 1, INTERVAL 1 DAY) days(d)"
                f" LEFT JOIN (SELECT created::DATE AS day, count(*) AS n FROM raw.{table} GROUP BY 1) ON day = d::DATE",
                [table, account, first, last],
            )
        connection.execute("UPDATE pipeline.meta SET revision = revision + 1")
        connection.execute(f"CHECKPOINT {CATALOG}")
        sums = connection.execute(
            "SELECT currency, balance_type, -sum(net)::BIGINT FROM raw.balance_transactions GROUP BY ALL"
        ).fetchall()
    with pipeline_of(url, folder, first) as pipeline:
        # Stripe's balance is empty: what was moved before the first day makes it tie.
        opening = {(currency, balance_type): amount for currency, balance_type, amount in sums}
        pipeline.warehouse.state.remember_opening_balance(mode, first, opening)
        pipeline.publish()


def _multiply(connection: duckdb.DuckDBPyConnection, table: str, count: int, customers: int, start: int) -> None:
    """Replace the first object's row by the rows of `count` objects."""
    object_type = DEFAULT_TYPES[table]
    names = [
        name
        for (name,) in connection.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = 'raw' AND table_name = ?"
            " ORDER BY ordinal_position",
            [table],
        ).fetchall()
    ]
    holds_text = {column.name for column in object_type.columns if column.kind.hashable or column.kind.is_nested}
    texts = [name for name in names if name in holds_text]
    [own] = connection.execute(
        "SELECT " + ", ".join(f"contains(any_value({name}), '{_WORD}')" for name in texts) + f" FROM raw.{table}"
    ).fetchall()
    replaced = {name: f"replace(t.{name}, '{_WORD}', word)" for name, holds in zip(texts, own, strict=True) if holds}
    replaced["created"] = "made"
    if (every := _CHARGE_OF.get(table)) is not None:
        replaced["charge"] = f"'{PREFIXES['charges']}_3Bulk' || {_word(f'nth * {every}')}"
    if "customer" in replaced:
        replaced["customer"] = f"'{PREFIXES['customers']}_3Bulk' || {_word(f'scattered % {customers}')}"
    replaced |= _SCALARS.get(table, {})
    columns = ", ".join(f"{sql} AS {name}" if (sql := replaced.get(name)) else f"t.{name}" for name in names)
    connection.execute(f"CREATE TEMP TABLE template AS SELECT * FROM raw.{table}")
    connection.execute(f"DELETE FROM raw.{table}")
    for low in range(0, count, _CHUNK):
        connection.execute(
            f"""
            WITH numbers AS (
                SELECT nth, ((nth + 1)::HUGEINT * {SPREAD} % {2**64}::HUGEINT)::UBIGINT AS scattered
                FROM range({low}, {min(low + _CHUNK, count)}) r(nth)
            ), objects AS (
                SELECT nth, scattered, {_hex("scattered")} AS word,
                    make_timestamptz(({start} + nth * {DAYS * DAY} // {count}) * 1000000) AS made,
                    (500 + scattered % 19500)::BIGINT AS minor,
                    (500 + scattered % 19500)::BIGINT * 29 // 1000 + 30 AS cost,
                    ['usd', 'usd', 'usd', 'usd', 'eur', 'gbp'][1 + (scattered % 6)::INTEGER] AS money
                FROM numbers
            )
            INSERT INTO raw.{table} SELECT {columns} FROM objects, template t
            """
        )
    connection.execute("DROP TABLE template")


def _word(number: str) -> str:
    """The end of an id, in SQL."""
    return _hex(f"(((({number}) + 1)::HUGEINT * {SPREAD}) % {2**64}::HUGEINT)::UBIGINT")


def _hex(number: str) -> str:
    return f"lpad(lower(to_hex({number})), 16, '0')"
