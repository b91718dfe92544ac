"""The state stored in the private file: the settings that it was last migrated to, and a due compaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import duckdb

from stripe_pipeline.warehouse.sql import literal

NOW, AT_ONCE, DAILY = "now", "at once", "daily"
"""How soon a file must be compacted, so that no erased data is left in it. With `NOW`, the settings have changed, and
data that runs are about to store is obsolete."""

LINEAGE = "restored"
"""The name in `pipeline.applied` of the time of the last restoration. A run that began earlier must not write any more:
it read its cursors from another file."""
RESTORED = "catch up after restoring"
"""The name of the work due since a restoration."""
COMMENTS = "comments"
"""The name of a note that comments of the tables are missing, because the views were created anew."""


def get_state(connection: duckdb.DuckDBPyConnection, name: str) -> str | None:
    """The stored value of `name`, about the settings last applied."""
    return get_states(connection, [name]).get(name)


def get_states(connection: duckdb.DuckDBPyConnection, names: Iterable[str]) -> dict[str, str]:
    """The stored values of these names, as far as there are any."""
    return dict(connection.execute(states_of(names)).fetchall())


def states_of(names: Iterable[str]) -> str:
    """The SELECT of names and values."""
    listed = ", ".join(map(literal, names))
    # With IN, a lake asks its catalog once more which files may hold the names.
    return f"SELECT name, value FROM pipeline.applied WHERE list_contains([{listed}], name)"


def set_state(connection: duckdb.DuckDBPyConnection, name: str, value: str | None) -> None:
    """Stores a value in place of the earlier one; None removes it."""
    set_states(connection, {name: value})


def set_states(connection: duckdb.DuckDBPyConnection, values: Mapping[str, str | None]) -> None:
    """Stores several values by name, as `set_state` does."""
    connection.execute(f"DELETE FROM pipeline.applied WHERE name IN ({', '.join(map(literal, values))})")
    rows = [f"({literal(name)}, {literal(value)})" for name, value in values.items() if value is not None]
    if rows:
        connection.execute(f"INSERT INTO pipeline.applied VALUES {', '.join(rows)}")


def request_compaction(connection: duckdb.DuckDBPyConnection, when: str) -> None:
    """Records that data was erased that must not remain in any file.

    `NOW` and `AT_ONCE`: compacted when next opened; `DAILY`: when next pruned.
    """
    by_urgency = (None, DAILY, AT_ONCE, NOW)
    if by_urgency.index(get_state(connection, "compact")) < by_urgency.index(when):
        set_state(connection, "compact", when)


META = "SELECT format, revision, id FROM pipeline.meta"
STATES = states_of(("layout", "compact", COMMENTS, LINEAGE, RESTORED))
CURSORS = "SELECT account, livemode, name, epoch_us(read_until) FROM pipeline.cursors"
"""What each process reads first, and each load again (`Store.look_up`)."""
