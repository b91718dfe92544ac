"""Drift: rows that differed from Stripe although no event had announced a change.

A load that compares stored rows with Stripe records each difference that it corrects: a sweep, the list of a day after
the day's end, a backfill, and the nightly sample. `merge` writes the rows themselves.
"""

from __future__ import annotations

from collections.abc import Iterable

import duckdb

from stripe_pipeline.batch import Batch
from stripe_pipeline.days import utc_day
from stripe_pipeline.inbox.notification import Notification
from stripe_pipeline.objects import BY_STRIPE_OBJECT, ObjectType
from stripe_pipeline.proof.uncompared import uncompared
from stripe_pipeline.rows import microseconds
from stripe_pipeline.warehouse.bookkeeping import mode_condition
from stripe_pipeline.warehouse.sql import literal, start_of_day

SAMPLE = "sample"
_FOUND_BY = {"sweep": "sweep", "sync": "seal", "backfill": "backfill"}
"""How a difference was found, by why the day was listed; the first list of a day has nothing to differ from."""
_CLOCKS = 5  # seconds by which Stripe's clock and the time of an event may differ


def record_changes(connection: duckdb.DuckDBPyConnection, object_type: ObjectType, batch: Batch, known: str) -> None:
    """Records the objects in `temp.accepted` that differ from the `known` rows, or should have been among them."""
    ignored = uncompared(object_type.name)
    compared = [
        column.name
        for column in object_type.table_columns
        if column.name not in ignored and column.name not in ("_fetched_at", "_account")
    ]
    fields = ", ".join(f'CASE WHEN i."{name}" IS DISTINCT FROM c."{name}" THEN \'{name}\' END' for name in compared)
    same_key = " AND ".join(f"i.{key} = c.{key}" for key in object_type.key)
    of_type = f"object_type = '{object_type.name}' AND {mode_condition(batch.mode)}"
    # An object is missing if its day was listed before, or if events announced objects when it was created.
    missing = f"i.created < v.listed_until AND v.listed_at > {start_of_day('v.day')}"
    if object_type.events and batch.followed_since is not None:
        missing = f"({missing} OR i.created > make_timestamptz({microseconds(batch.followed_since)}))"
    listed, found_by = "", f"'{batch.compared}'"
    if not batch.compared:
        # `temp.listed` lacks the days on which an object may be gone.
        days = ", ".join(f"(DATE '{of.day}', '{_FOUND_BY[of.how]}')" for of in batch.days if of.how in _FOUND_BY)
        if not days:
            return
        listed = f"JOIN (VALUES {days}) l(day, found_by) ON l.day = {utc_day('i.created')}"
        found_by = "l.found_by"
    connection.execute(
        "INSERT INTO pipeline.drift SELECT * FROM ("
        f" SELECT '{object_type.name}', {batch.mode.livemode}, i.id, CASE WHEN c.id IS NULL THEN 'missing' ELSE"
        " 'changed' END AS difference, CASE WHEN c.id IS NOT NULL THEN array_to_string(list_filter("
        f"[{fields}], lambda x: x IS NOT NULL), ', ') END AS fields, {found_by} AS found_by,"
        " i._fetched_at, c._fetched_at, i.created, true"
        f" FROM temp.accepted a JOIN temp.incoming i ON i.id = a.id LEFT JOIN {known} c ON {same_key} {listed}"
        f" LEFT JOIN (FROM pipeline.coverage WHERE {of_type}) v ON v.day = {utc_day('i.created')}"
        f" WHERE a._change = 'updated' OR (a._change = 'inserted' AND {missing})"
        ") WHERE found_by IS NOT NULL AND fields IS DISTINCT FROM ''"
    )


def record_deletions(connection: duckdb.DuckDBPyConnection, batch: Batch, ids: Iterable[str]) -> None:
    """Records objects of a listed day that are gone from Stripe without an event."""
    how = next((_FOUND_BY[listed.how] for listed in batch.days if listed.how in _FOUND_BY), None)
    found_by = batch.compared or how
    named = ", ".join(f"({literal(object_id)})" for object_id in ids)
    if found_by and named:
        connection.execute(
            f"INSERT INTO pipeline.drift SELECT '{batch.object_type.name}', {batch.mode.livemode}, r.id, 'deleted',"
            f" NULL, '{found_by}', r._deleted_at, NULL, r.created, true FROM (VALUES {named}) n(id)"
            f" JOIN raw.{batch.object_type.name} r ON r.id = n.id AND r.livemode = {batch.mode.livemode}"
        )


def forget_announced(connection: duckdb.DuckDBPyConnection, notifications: Iterable[Notification]) -> None:
    """Removes the differences that one of these notifications explains: its event was on its way when the difference
    was found."""
    announced = ", ".join(
        f"('{BY_STRIPE_OBJECT[of.object].name}', {of.livemode}, {literal(of.object_id)},"
        f" make_timestamptz({microseconds(of.event_created)}))"
        for of in notifications
    )
    if announced:
        connection.execute(
            f"DELETE FROM pipeline.drift d USING (VALUES {announced}) n(object_type, livemode, id, announced)"
            " WHERE d.object_type = n.object_type AND d.livemode = n.livemode AND d.id = n.id"
            f" AND n.announced <= d.found_at + INTERVAL {_CLOCKS} SECOND"
            f" AND (d.read_at IS NULL OR n.announced >= d.read_at - INTERVAL {_CLOCKS} SECOND)"
        )
