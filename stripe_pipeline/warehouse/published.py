"""`pipeline.published`: which version of the file this is, and up to when each mode was read.

The files of the versions belong to `publisher`.
"""

from __future__ import annotations

import duckdb

from stripe_pipeline.days import DAY, SETTLED, utc_day
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.warehouse.sql import literal, start_of_day

_EVENTS, _TRANSACTIONS = "events", "balance_transactions"


def name_version(
    connection: duckdb.DuckDBPyConnection, revision: int, settings: Settings, *, inbox_is_empty: bool = False
) -> None:
    """Records in the copy about to be published which version it is, in the open transaction. This alone does not
    require publishing. `inbox_is_empty`: `pipeline.inbox` is known to hold no row."""
    connection.execute("DELETE FROM pipeline.published")
    connection.execute(
        f"INSERT INTO pipeline.published SELECT {revision}, now(), max(read_until) FILTER (livemode),"
        f" max(read_until) FILTER (NOT livemode) FROM ({_read_until(settings, inbox_is_empty=inbox_is_empty)})"
    )


def _read_until(settings: Settings, *, inbox_is_empty: bool = False) -> str:
    """The SELECT of `livemode` and `read_until`, a row for each mode whose events were ever read: the moment up to
    which every enabled type is known to be read; null if a type was never listed.

    That is the earliest of the cursors; the beginning of the first day that lacks its complete list, of any type; and
    the receipt of the oldest notification that is waiting, which may concern a whole type that cannot be read. Objects
    that were given up do not count: `pipeline.inbox` and a check name them.
    """
    enabled = {object_type.name: object_type for object_type in settings.enabled}
    cursors = {_EVENTS} | ({_TRANSACTIONS} & enabled.keys())
    # Stripe forgets the days of the others, or does not say when their objects were created.
    first = {
        name: str(settings.first_listed(object_type)) if object_type.dated and object_type.kept_days is None else None
        for name, object_type in enabled.items()
        if not object_type.singleton
    }
    types = ", ".join(f"({literal(name)}, {f'DATE {literal(day)}' if day else 'NULL'})" for name, day in first.items())
    names = ", ".join(map(literal, sorted(cursors)))
    waiting = "FROM pipeline.inbox i WHERE i.state = 'waiting' AND i.livemode = t.livemode"
    received = "NULL" if inbox_is_empty else f"(SELECT min(received_at) {waiting})"
    # Whole microseconds: adding an interval to a TIMESTAMPTZ uses the calendar and takes twenty times as long.
    sealed = f"epoch_us(c.listed_at) >= epoch_us(c.day::TIMESTAMP) + {(DAY + SETTLED) * 1_000_000}"
    listed = "epoch_us(c.listed_at) > epoch_us(c.day::TIMESTAMP)"
    due = f"make_timestamp(epoch_us(k.until) - {(DAY + SETTLED) * 1_000_000})::DATE"
    return f"""
WITH coverage AS MATERIALIZED (FROM pipeline.coverage), modes AS (
    SELECT livemode, CASE WHEN count(DISTINCT name) = {len(cursors)} THEN min(read_until) END AS until
    FROM pipeline.cursors WHERE list_contains([{names}], name) GROUP BY livemode
), kinds AS (
    SELECT m.livemode, m.until, t.* FROM modes m
    CROSS JOIN (VALUES {types or "(NULL, NULL::DATE)"}) t(object_type, first_day)
), listed AS (
    SELECT k.livemode, k.object_type, min(c.listed_at) AS followed_since, max(c.day) AS last_listed,
        count(*) FILTER ({sealed} AND c.day <= {due}) AS sealed
    FROM coverage c JOIN kinds k ON c.livemode = k.livemode AND c.object_type = k.object_type
    WHERE {listed} AND c.day >= COALESCE(k.first_day, c.day) GROUP BY ALL
), gaps AS (
    SELECT k.livemode, k.object_type FROM kinds k JOIN listed l USING (livemode, object_type)
    WHERE l.sealed <= {due} - k.first_day
), reached AS (
    -- The days are in order, so those without a gap before them are as many days from the first.
    SELECT livemode, object_type, first_day + count(*) FILTER (day = first_day + place - 1)::INTEGER AS unsealed
    FROM (
        SELECT k.livemode, k.object_type, k.first_day, c.day,
            row_number() OVER (PARTITION BY k.livemode, k.object_type ORDER BY c.day)::INTEGER AS place
        FROM coverage c JOIN kinds k ON c.livemode = k.livemode AND c.object_type = k.object_type
        SEMI JOIN gaps g ON g.livemode = k.livemode AND g.object_type = k.object_type
        WHERE {sealed} AND c.day >= k.first_day
    )
    GROUP BY livemode, object_type, first_day
), of_types AS (
    SELECT k.livemode, k.until, CASE
        WHEN k.object_type IS NULL THEN k.until
        WHEN l.object_type IS NULL THEN NULL
        WHEN k.first_day IS NULL THEN k.until
        WHEN g.object_type IS NOT NULL THEN {start_of_day("COALESCE(r.unsealed, k.first_day)")}
        -- A day that has not ended is complete by events, if they were followed since it began, or by its list.
        WHEN l.last_listed >= {utc_day("k.until")} OR l.followed_since <= {start_of_day(utc_day("k.until"))}
        THEN k.until ELSE {start_of_day(utc_day("k.until"))} END AS reached
    FROM kinds k
    LEFT JOIN listed l ON l.livemode = k.livemode AND l.object_type = k.object_type
    LEFT JOIN gaps g ON g.livemode = k.livemode AND g.object_type = k.object_type
    LEFT JOIN reached r ON r.livemode = k.livemode AND r.object_type = k.object_type
)
SELECT livemode, CASE WHEN count(reached) = count(*) THEN least(min(reached), {received}) END AS read_until
FROM of_types t GROUP BY livemode
""".strip()
