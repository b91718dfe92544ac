"""Removing rows that are older than their retention, and keeping them out.

The retention periods belong to `settings`; the schedule of pruning, which includes parts of Dagster's storage, belongs
to `assets.retention`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

import duckdb

from stripe_pipeline.batch import Mode
from stripe_pipeline.days import day_start, utc_day
from stripe_pipeline.objects import ObjectType
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.warehouse.merge import bounds_of
from stripe_pipeline.warehouse.sql import stored_children, stored_types


@dataclass
class Pruned:
    """The rows of one table that were too old."""

    cutoff: date | None = None
    """The first UTC day that is kept; None where the table follows its parent."""
    days: Counter[date] = field(default_factory=Counter)
    """Rows by UTC day of the date field; a child's rows by day of its parent's `created`."""

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.days.total()


def young_enough(object_type: ObjectType, cutoff: date) -> str:
    """The condition for rows that are kept; rows without the date use `created`."""
    return f"{_date_of(object_type)} >= make_timestamptz({day_start(cutoff) * 1_000_000})"


def _date_of(object_type: ObjectType) -> str:
    return "created" if object_type.date_field == "created" else f'coalesce("{object_type.date_field}", created)'


def expire(
    connection: duckdb.DuckDBPyConnection, parent: ObjectType, retention: str, bounds: str, mode: Mode
) -> list[tuple[str, int]]:
    """Removes rows that do not meet `retention`, a condition, from `temp.incoming`; and the stored rows of the same
    objects, with their children, also of disabled types.

    Returns the ids, and when they were requested, in microseconds on Stripe's clock.
    """
    expired = connection.execute(
        f"DELETE FROM temp.incoming WHERE NOT ({retention}) RETURNING id, epoch_us(_fetched_at)"
    ).fetchall()
    if not expired:
        return []
    ids, fetched = (list(values) for values in zip(*expired, strict=True))
    # A state requested later may be young enough again.
    older = connection.execute(
        f"SELECT id FROM (SELECT id, _fetched_at FROM raw.{parent.name} WHERE {bounds})"
        " JOIN (SELECT unnest(?::VARCHAR[]) AS id, make_timestamptz(unnest(?::BIGINT[])) AS sent) USING (id)"
        " WHERE _fetched_at <= sent",
        [ids, fetched],
    ).fetchall()
    older_ids = [object_id for (object_id,) in older]
    for object_type in (parent, *stored_children(connection, parent)):
        key, of_type = object_type.parent_key or "id", bounds_of(object_type, mode, bounds)
        expired_rows = f"{of_type} AND {key} IN (SELECT unnest(?))"
        _count_no_longer(connection, object_type, expired_rows, [older_ids])
        connection.execute(f"DELETE FROM raw.{object_type.name} WHERE {expired_rows}", [older_ids])
    return expired


def prune(connection: duckdb.DuckDBPyConnection, settings: Settings) -> dict[str, Pruned]:
    """Deletes rows that are too old, with their coverage, in the current transaction; by table name, for tables with a
    retention and their children."""
    pruned: dict[str, Pruned] = {}
    types = stored_types(connection, settings.types)
    for object_type in types.values():
        if object_type.parent is None and (cutoff := settings.cutoff(object_type)):
            too_old = f"NOT ({young_enough(object_type, cutoff)})"
            children = [child for child in types.values() if child.parent == object_type.name]
            for child in children:
                of_parent = f"{child.parent_key} IN (SELECT id FROM raw.{object_type.name} WHERE {too_old})"
                pruned[child.name] = Pruned(days=_delete(connection, child, of_parent))
            pruned[object_type.name] = Pruned(cutoff, _delete(connection, object_type, too_old))
            if object_type.date_field == "created":
                _uncover(connection, (object_type, *children), cutoff)
    for object_type in types.values():
        if object_type.parent and (cutoff := settings.cutoff(object_type)):
            of_table = pruned.setdefault(object_type.name, Pruned())
            of_table.cutoff = cutoff
            of_table.days.update(_delete(connection, object_type, f"NOT ({young_enough(object_type, cutoff)})"))
    return pruned


def _delete(connection: duckdb.DuckDBPyConnection, object_type: ObjectType, condition: str) -> Counter[date]:
    deleted = connection.execute(
        f"SELECT {_date_of(object_type)}::DATE, count(*) FROM raw.{object_type.name} WHERE {condition} GROUP BY ALL"
    ).fetchall()
    if deleted:
        _count_no_longer(connection, object_type, condition)
        connection.execute(f"DELETE FROM raw.{object_type.name} WHERE {condition}")
    return Counter(dict(deleted))


def _count_no_longer(
    connection: duckdb.DuckDBPyConnection, object_type: ObjectType, condition: str, values: Sequence[object] = ()
) -> None:
    """Takes the rows that meet `condition`, and are about to be removed, out of the coverage of their days: the table
    then holds fewer objects of a day than its list did."""
    connection.execute(
        f'UPDATE pipeline.coverage c SET "rows" = greatest(c."rows" - d.number, 0)'
        f" FROM (SELECT _account, livemode, {utc_day('created')} AS day, count(*) AS number"
        f" FROM raw.{object_type.name} WHERE ({condition}) AND _deleted_at IS NULL GROUP BY ALL) d"
        f" WHERE c.object_type = '{object_type.name}' AND c.account = d._account AND c.livemode = d.livemode"
        " AND c.day = d.day",
        list(values),
    )


def _uncover(connection: duckdb.DuckDBPyConnection, tables: Sequence[ObjectType], cutoff: date) -> None:
    """Marks the days as unknown again, so that a longer retention finds them missing."""
    connection.execute(
        "DELETE FROM pipeline.coverage WHERE object_type IN (SELECT unnest(?)) AND day < ?",
        [[table.name for table in tables], cutoff],
    )
