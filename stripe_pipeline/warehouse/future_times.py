"""Correcting times in a file that lie ahead of Stripe's clock, which a wrong estimate of this clock left there.

A cursor in the future skips everything until then, coverage in the future counts as a complete list, and a row read in
the future rejects every newer one. A reading of the balance in the future would be the last one until then.
"""

from __future__ import annotations

from collections.abc import Iterable

import duckdb

from stripe_pipeline.batch import Mode
from stripe_pipeline.days import DAY, day_of, day_start
from stripe_pipeline.rows import microseconds
from stripe_pipeline.warehouse.bookkeeping import mode_condition
from stripe_pipeline.warehouse.sql import literal, stored_types

TOLERANCE = 60.0
"""Seconds ahead of Stripe's clock that are tolerated: estimates of the clock differ slightly between runs, and such a
time is past before anything is missed."""

_CHECKED = {
    "cursors": "read_until",
    "coverage": "listed_at",
    "backfills": "began",
    "balances": "read_at",
    "gone": "found_at",
    "proof": "checked_at",
}


def columns(types: Iterable[str]) -> dict[str, str]:
    """The columns that are checked, by qualified name of their table; `types`: the tables of rows."""
    checked = {f"pipeline.{table}": column for table, column in _CHECKED.items()}
    return checked | {f"raw.{table}": "_fetched_at" for table in types}


def furthest(connection: duckdb.DuckDBPyConnection, mode: Mode, *, latest: float) -> float | None:
    """The latest time of this mode, Unix seconds, if it lies in the future; `latest`: as for `put_right`. None if none
    does; this check takes some milliseconds."""
    wrong = _with_future_times(connection, mode, latest)
    if not wrong:
        return None
    moments = " UNION ALL ".join(f"SELECT max({column}) AS moment FROM {table}" for table, column in wrong.items())
    [(at,)] = connection.execute(f"SELECT epoch_us(max(moment)) / 1e6 FROM ({moments})").fetchall()
    return float(at)


def _with_future_times(connection: duckdb.DuckDBPyConnection, mode: Mode, latest: float) -> dict[str, str]:
    """The tables that hold a time of this mode in the future, with the column that holds the time."""
    of_table = {"pipeline.gone": "true", "pipeline.proof": f"livemode = {mode.livemode}"}
    checked = columns(stored_types(connection))
    checks = ", ".join(
        f"EXISTS (FROM {table} WHERE {column} > {_moment(latest + TOLERANCE)}"
        f" AND {of_table.get(table, _rows_of(mode) if table.startswith('raw.') else mode_condition(mode))})"
        for table, column in checked.items()
    )
    [answers] = connection.execute(f"SELECT {checks}").fetchall()
    return {table: checked[table] for table, is_wrong in zip(checked, answers, strict=True) if is_wrong}


def _rows_of(mode: Mode) -> str:
    return f"_account = {literal(mode.account)} AND livemode = {mode.livemode}"


def put_right(
    connection: duckdb.DuckDBPyConnection, mode: Mode, *, now: float, latest: float, events_since: int
) -> None:
    """Moves times of one mode that lie in the future back to reliable ones, in the open transaction.

    `now`: Stripe's time; `latest`: its latest possible value. `events_since`: where a cursor of events restarts if its
    true position is unknown. All in Unix seconds.
    """
    of_mode, livemode, future = mode_condition(mode), mode.livemode, _moment(latest + TOLERANCE)
    known = _moment(now - TOLERANCE)  # rows read from now on are newer
    yesterday = _moment(day_start(day_of(now)) - DAY)  # every day before is listed as a whole once it has ended
    connection.execute(
        f"UPDATE pipeline.cursors SET read_until = CASE name WHEN 'events' THEN {_moment(events_since)}"
        f" ELSE {yesterday} END WHERE read_until > {future} AND {of_mode}"
    )
    # Days that have not begun were listed by the wrong clock alone.
    connection.execute(f"DELETE FROM pipeline.coverage WHERE day > DATE '{day_of(latest)}' AND {of_mode}")
    # Past days are listed again. Events report the objects created since the list of the present day.
    connection.execute(
        "UPDATE pipeline.coverage SET listed_at = make_timestamptz(epoch_us(day::TIMESTAMP)),"
        f" listed_until = least(listed_until, {known}) WHERE listed_at > {future} AND {of_mode}"
    )
    connection.execute(f"DELETE FROM pipeline.backfills WHERE began > {future} AND {of_mode}")
    connection.execute(f"DELETE FROM pipeline.balances WHERE read_at > {future} AND {of_mode}")
    connection.execute(
        f"UPDATE pipeline.proof SET checked_at = {yesterday} WHERE checked_at > {future} AND livemode = {livemode}"
    )
    connection.execute(f"UPDATE pipeline.gone SET found_at = {known} WHERE found_at > {future}")
    connection.execute(f"UPDATE pipeline.lacking SET since = {_moment(now)} WHERE since > {future}")
    for table in _with_future_times(connection, mode, latest):
        if table.startswith("raw."):
            # Of a null and a time, `least` returns the time, and a row that exists would count as deleted.
            deleted = f"CASE WHEN _deleted_at IS NOT NULL THEN least(_deleted_at, {known}) END"
            connection.execute(
                f"UPDATE {table} SET _fetched_at = {known}, _deleted_at = {deleted}"
                f" WHERE _fetched_at > {future} AND {_rows_of(mode)}"
            )
    connection.execute("UPDATE pipeline.meta SET revision = revision + 1")


def _moment(seconds: float) -> str:
    return f"make_timestamptz({microseconds(seconds)})"
