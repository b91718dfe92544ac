"""What the private file remembers of itself: the settings that it was brought to, and a compaction that is due."""

from __future__ import annotations

import duckdb

from stripe_pipeline.warehouse.sql import literal

NOW, AT_ONCE, DAILY = "now", "at once", "daily"
"""How soon a file must be compacted, so that nothing is left in it of what was erased. With `NOW` the settings have
changed, and what runs have on their way is of no use any more."""


def get_state(connection: duckdb.DuckDBPyConnection, name: str) -> str | None:
    """What is noted of the settings that the file was brought to."""
    found = connection.execute(f"SELECT value FROM pipeline.applied WHERE name = {literal(name)}").fetchall()
    return str(found[0][0]) if found else None


def set_state(connection: duckdb.DuckDBPyConnection, name: str, value: str | None) -> None:
    """Note it in place of what was noted before; nothing for None."""
    connection.execute("DELETE FROM pipeline.applied WHERE name = ?", [name])
    if value is not None:
        connection.execute("INSERT INTO pipeline.applied VALUES (?, ?)", [name, value])


def request_compaction(connection: duckdb.DuckDBPyConnection, when: str) -> None:
    """Note that something was erased which must not stay in any file.

    `NOW` and `AT_ONCE` it is compacted at the next look, `DAILY` when it is next pruned.
    """
    by_urgency = (None, DAILY, AT_ONCE, NOW)
    if by_urgency.index(get_state(connection, "compact")) < by_urgency.index(when):
        set_state(connection, "compact", when)
