"""Correcting times in a file that lie ahead of Stripe's clock, which a wrong estimate of this clock left there.

A cursor in the future skips everything until then, coverage in the future counts as a complete list, and a row read in
the future rejects every newer one. A reading of the balance in the future would be the last one until then.
"""

from __future__ import annotations

import duckdb

from stripe_pipeline.days import DAY, day_of, day_start
from stripe_pipeline.rows import microseconds
from stripe_pipeline.warehouse.sql import literal, stored_types

TOLERANCE = 60.0
"""Seconds ahead of Stripe's clock that are tolerated: estimates of the clock differ slightly between runs, and such a
time is past before anything is missed."""

_CHECKED = {"cursors": "read_until", "coverage": "listed_at", "backfills": "began", "balances": "read_at"}


def put_right(
    connection: duckdb.DuckDBPyConnection, account: str, *, livemode: bool, now: float, latest: float, events_since: int
) -> float | None:
    """Moves times of one mode that lie in the future back to reliable ones, in one transaction. Returns how many
    seconds the furthest one lay ahead, or None if there is none; this check takes some milliseconds.

    `now`: Stripe's time; `latest`: its latest possible value. `events_since`: where a cursor of events restarts if its
    true position is unknown. All in Unix seconds.
    """
    of_mode = f"account = {literal(account)} AND livemode = {livemode}"
    of_rows = f"_account = {literal(account)} AND livemode = {livemode}"
    future = _moment(latest + TOLERANCE)
    places = {f"pipeline.{table}": (column, of_mode) for table, column in _CHECKED.items()}
    places["pipeline.gone"] = ("found_at", "true")
    places["pipeline.proof"] = ("checked_at", f"livemode = {livemode}")
    tables = stored_types(connection)
    places |= {f"raw.{table}": ("_fetched_at", of_rows) for table in tables}
    checks = ", ".join(
        f"EXISTS (FROM {table} WHERE {column} > {future} AND {condition})"
        for table, (column, condition) in places.items()
    )
    [answers] = connection.execute(f"SELECT {checks}").fetchall()
    wrong = [table for table, is_wrong in zip(places, answers, strict=True) if is_wrong]
    if not wrong:
        return None
    furthest = " UNION ALL ".join(f"SELECT max({places[table][0]}) AS moment FROM {table}" for table in wrong)
    [(at,)] = connection.execute(f"SELECT epoch_us(max(moment)) / 1e6 FROM ({furthest})").fetchall()

    known = _moment(now - TOLERANCE)  # rows read from now on are newer
    yesterday = _moment(day_start(day_of(now)) - DAY)  # every day before is listed as a whole once it has ended
    connection.execute("BEGIN")
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
    for table in tables:
        if f"raw.{table}" in wrong:
            # Of a null and a time, `least` returns the time, and a row that exists would count as deleted.
            deleted = f"CASE WHEN _deleted_at IS NOT NULL THEN least(_deleted_at, {known}) END"
            connection.execute(
                f"UPDATE raw.{table} SET _fetched_at = {known}, _deleted_at = {deleted}"
                f" WHERE _fetched_at > {future} AND {of_rows}"
            )
    connection.execute("UPDATE pipeline.meta SET revision = revision + 1")
    connection.execute("COMMIT")
    return float(at) - now


def _moment(seconds: float) -> str:
    return f"make_timestamptz({microseconds(seconds)})"
