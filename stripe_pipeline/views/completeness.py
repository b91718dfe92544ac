"""From which day on tables are complete, as `pipeline.coverage` shows.

What a view or a proof may conclude from rows that are missing depends on this.
"""

from __future__ import annotations

from collections.abc import Sequence


def complete_since(tables: Sequence[str], *, livemode: bool, beside: Sequence[str] = ()) -> str:
    """The SELECT of one row: from which UTC day on each of `tables` is complete, in a column of the table's name.

    A day is complete if every object of its list is stored and kept. For each table, the result is the first day of the
    unbroken run of complete days that reaches the last finished day listed for any of these tables or of those `beside`
    them; events announce later changes. It is null without such a run: the type was never read, or its lists stopped.
    """
    since = ", ".join(f"max(since) FILTER (object_type = '{table}') AS {table}" for table in tables)
    end = "make_timestamptz(epoch_us((day + 1)::TIMESTAMP))"
    begin = "make_timestamptz(epoch_us(day::TIMESTAMP))"
    return f"""
    SELECT {since} FROM (
        SELECT object_type, min(day) AS since FROM (
            SELECT object_type, day, last,
                day - (row_number() OVER (PARTITION BY object_type ORDER BY day))::INTEGER AS run
            FROM (
                SELECT object_type, day, "rows" >= COALESCE(listed, "rows") AS whole,
                    COALESCE(max(day) FILTER (listed_until >= {end}) OVER (), max(day) OVER ()) AS last
                FROM pipeline.coverage
                WHERE {"" if livemode else "NOT "}livemode AND listed_at > {begin}
                    AND object_type IN ({", ".join(f"'{table}'" for table in (*beside, *tables))})
            )
            WHERE whole
        )
        GROUP BY object_type, run, last HAVING last BETWEEN min(day) AND max(day)
    )
"""
