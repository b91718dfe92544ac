"""The `pipeline` tables beside the rows: cursors, coverage, keys, failed notifications.

This module records the loading itself. Rows belong to `load`, the layout of these tables to `schema`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import duckdb

from stripe_pipeline.batch import Batch, ListedDay, Mode
from stripe_pipeline.inbox.notification import Entry
from stripe_pipeline.objects import ObjectType
from stripe_pipeline.rows import microseconds
from stripe_pipeline.warehouse.accounts import UNNAMED
from stripe_pipeline.warehouse.sql import literal, stored_types

BOOKKEEPING = ("cursors", "coverage", "backfills", "balances")  # tables of `pipeline` with an account and a mode
_NAMED = 5  # fields named in a message


@dataclass(frozen=True)
class Example:
    """A stored object, by its table and id, and the account of its row."""

    table: str
    id: str
    account: str


@dataclass(frozen=True)
class Covered:
    """The entry in `pipeline.coverage` of one type and day."""

    listed_at: float
    until: float
    rows: int
    """How many rows are kept."""
    listed: int
    """How many objects the list held, including those too old to keep."""


@dataclass(frozen=True)
class StoppedBackfill:
    """A backfill that has begun and not ended; times in seconds on Stripe's clock."""

    began: float
    last_listed: float
    """When the backfill last listed a day; when it began if it did not."""


@dataclass(frozen=True)
class MissingFields:
    """Fields that rows of some days lack, because the settings left them out when the rows were read."""

    table: str
    fields: tuple[str, ...]
    """In alphabetical order."""
    first: date
    last: date

    def __str__(self) -> str:
        """A message with the remedy."""
        named = ", ".join(self.fields[:_NAMED])
        more = f" and {len(self.fields) - _NAMED} more" if len(self.fields) > _NAMED else ""
        return (
            f"{self.table}: days from {self.first} to {self.last} were read without {named}{more};"
            f" `stripe-pipeline backfill --from {self.first} --to {self.last} --only {self.table}` brings that in"
        )


def stage_days(connection: duckdb.DuckDBPyConnection, days: Sequence[ListedDay]) -> None:
    """Stores the completely listed days in `temp.listed`."""
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE listed (day DATE, listed_at TIMESTAMPTZ, until TIMESTAMPTZ, how VARCHAR,"
        " first_request VARCHAR, last_request VARCHAR)"
    )
    values = ", ".join(
        f"('{listed.day}', make_timestamptz({microseconds(listed.listed_at)}),"
        f" make_timestamptz({microseconds(listed.until)}), '{listed.how}',"
        f" {', '.join('NULL' if request is None else literal(request) for request in listed.requests)})"
        for listed in days
    )
    connection.execute(f"INSERT INTO temp.listed VALUES {values}")


def record_coverage(
    connection: duckdb.DuckDBPyConnection, object_type: ObjectType, batch: Batch, counts: Counter[tuple[date, bool]]
) -> None:
    where = f"object_type = '{object_type.name}' AND {mode_condition(batch.mode)}"
    # Another run may have listed a day later and stored it sooner.
    connection.execute(
        "DELETE FROM temp.listed AS l USING pipeline.coverage AS c"
        f" WHERE c.day = l.day AND c.listed_at > l.listed_at AND {where}"
    )
    connection.execute(f"DELETE FROM pipeline.coverage USING temp.listed AS l WHERE coverage.day = l.day AND {where}")
    name = object_type.name
    rows = ", ".join(
        f"(DATE '{listed.day}', {counts[listed.day, batch.mode.livemode]}, {listed.objects.get(name, 0)})"
        for listed in batch.days
    )
    connection.execute(
        f"INSERT INTO pipeline.coverage SELECT '{object_type.name}', {literal(batch.mode.account)},"
        f" {batch.mode.livemode}, l.day, l.listed_at, l.until, r.number, l.how, greatest(r.objects, r.number),"
        " l.first_request, l.last_request"
        f" FROM temp.listed l JOIN (VALUES {rows}) r(day, number, objects) ON r.day = l.day"
    )


def rows_left(connection: duckdb.DuckDBPyConnection) -> int:
    counts = " UNION ALL ".join(f"SELECT count(*) AS number FROM raw.{table}" for table in stored_types(connection))
    [(left,)] = connection.execute(f"SELECT sum(number) FROM ({counts})").fetchall()
    return int(left)


def show_failing(connection: duckdb.DuckDBPyConnection, failing: Sequence[Entry]) -> None:
    """Updates `pipeline.inbox` if its content differs, in the open transaction."""
    columns = "event_id, livemode, object, object_id, epoch_us(received_at), attempts, state, error"
    rows = [
        (
            entry.notification.event_id,
            entry.notification.livemode,
            entry.notification.object,
            entry.notification.object_id,
            microseconds(entry.received_at),
            entry.attempts,
            str(entry.state),
            entry.error,
        )
        for entry in failing
    ]
    if connection.execute(f"SELECT {columns} FROM pipeline.inbox ORDER BY received_at, event_id").fetchall() == rows:
        return
    connection.execute("DELETE FROM pipeline.inbox")
    if rows:
        connection.execute(
            "INSERT INTO pipeline.inbox SELECT r[1], r[2]::BOOLEAN, r[3], r[4], make_timestamptz(r[5]::BIGINT),"
            " r[6]::INTEGER, r[7], r[8] FROM (SELECT unnest(?::VARCHAR[][]) AS r)",
            [[[None if value is None else str(value) for value in row] for row in rows]],
        )
    connection.execute("UPDATE pipeline.meta SET revision = revision + 1")


def mode_condition(mode: Mode) -> str:
    """The condition for bookkeeping rows of `mode`."""
    # With =, a lake asks its catalog for each column which files may hold the mode.
    return f"list_contains([{literal(mode.account)}], account) AND list_contains([{mode.livemode}], livemode)"


def proves_nothing(connection: duckdb.DuckDBPyConnection, fingerprint: str, mode: Mode) -> bool:
    """Whether the key is new and no stored row of its mode could be requested with the key: a list read without an
    account name may have come from another account, which was empty."""
    known = connection.execute(f"SELECT 1 FROM pipeline.keys WHERE fingerprint = {literal(fingerprint)}").fetchall()
    rows = " OR ".join(
        f"EXISTS (FROM raw.{table} WHERE livemode = {mode.livemode})" for table in stored_types(connection)
    )
    [(stored,)] = connection.execute(f"SELECT {rows}").fetchall()
    return not known and not stored


def name_account(connection: duckdb.DuckDBPyConnection, mode: Mode) -> None:
    """Assigns the account's name to everything stored for `mode` without a name."""
    unnamed = f"{{}} = '{UNNAMED}' AND livemode = {mode.livemode}"
    for table in BOOKKEEPING:
        # If the account has been read under its name, too, the named entries are complete.
        connection.execute(
            f"DELETE FROM pipeline.{table} WHERE {unnamed.format('account')}"
            f" AND EXISTS (FROM pipeline.{table} WHERE {mode_condition(mode)})"
        )
    renamed = 0
    for table, column in (
        *((f"pipeline.{name}", "account") for name in ("keys", *BOOKKEEPING)),
        *((f"raw.{name}", "_account") for name in stored_types(connection)),
    ):
        [(rows,)] = connection.execute(
            f"UPDATE {table} SET {column} = {literal(mode.account)} WHERE {unnamed.format(column)}"
        ).fetchall()
        renamed += rows
    if renamed:
        connection.execute("UPDATE pipeline.meta SET revision = revision + 1")


def name_rows(connection: duckdb.DuckDBPyConnection, mode: Mode) -> None:
    """Assigns the account's name to rows that a run has just stored without it, if another run has learned the name
    meanwhile."""
    accounts = connection.execute(f"SELECT account FROM pipeline.keys WHERE livemode = {mode.livemode}").fetchall()
    names = {account for (account,) in accounts}
    if names and UNNAMED not in names:
        name_account(connection, Mode(min(names), mode.livemode))


def move_cursors(
    connection: duckdb.DuckDBPyConnection,
    cursors: Mapping[tuple[Mode, str], float],
    stored: Iterable[tuple[str, bool, str, int]],
) -> None:
    """Moves cursors forward; a run that ends late never moves one back. `stored`: what `CURSORS` returns."""
    known = {(Mode(account, livemode), name): at for account, livemode, name, at in stored}
    moved = {which: at for which, at in cursors.items() if which not in known or microseconds(at) > known[which]}
    if moved.keys() & known.keys():
        replaced = ", ".join(f"({literal(mode.account)}, {mode.livemode}, {literal(name)})" for mode, name in moved)
        connection.execute(f"DELETE FROM pipeline.cursors WHERE list_contains([{replaced}], (account, livemode, name))")
    rows = ", ".join(
        f"({literal(mode.account)}, {mode.livemode}, {literal(name)}, make_timestamptz({microseconds(at)}))"
        for (mode, name), at in moved.items()
    )
    if rows:
        connection.execute(f"INSERT INTO pipeline.cursors VALUES {rows}")


def says_more(bounds: tuple[float, float], known: tuple[float, float] | None) -> bool:
    """Whether these bounds of the clock's offset are to be stored beside the known ones: not if both allow no offset,
    and they narrow the known ones by less than a tenth."""
    if known is None:
        return True
    lowest, highest = max(bounds[0], known[0]), min(bounds[1], known[1])
    return not lowest <= 0.0 <= highest or highest - lowest < 0.9 * (known[1] - known[0])


def set_clock(connection: duckdb.DuckDBPyConnection, lowest: float, highest: float) -> None:
    """Narrows the bounds of the clock's offset, or replaces contradictory bounds: a clock was set."""
    known = connection.execute("SELECT lowest, highest FROM pipeline.clock").fetchall()
    for known_lowest, known_highest in known:
        if max(lowest, known_lowest) <= min(highest, known_highest):
            lowest, highest = max(lowest, known_lowest), min(highest, known_highest)
    if known == [(lowest, highest)]:
        return
    connection.execute("DELETE FROM pipeline.clock")
    connection.execute(f"INSERT INTO pipeline.clock VALUES ({lowest!r}, {highest!r})")
