"""The inbox's tables, their creation, and the conditions and values that statements share.

This module defines the tables' layout. Statements belong to `inbox` and `owner`, connections to `database`.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from stripe_pipeline.errors import scrub
from stripe_pipeline.inbox.notification import Notification

MAX_ATTEMPTS = 5
"""Failed attempts after which a notification is given up."""
FIRST_PAUSE = 10
"""Seconds of pause after the first failed attempt; four times as many after each further attempt."""
DEFERRED = 60
"""Seconds to the next attempt if Stripe or a missing permission is the cause: such failures do not count."""
LONGEST_PAUSE = FIRST_PAUSE << 2 * (MAX_ATTEMPTS - 2)
"""Seconds. A next attempt that lies further ahead was scheduled before the clock was set back, and is due."""
_LONGEST_ERROR = 1000  # characters
METADATA = sa.MetaData()

# Both tables keep their original names: processes of several versions may share an inbox.
NOTIFICATIONS = sa.Table(
    "pokes",
    METADATA,
    sa.Column("event_id", sa.String, primary_key=True),
    sa.Column("account", sa.String, nullable=False),  # empty if unknown
    sa.Column("livemode", sa.Boolean, nullable=False),
    sa.Column("object", sa.String, nullable=False),
    sa.Column("object_id", sa.String, nullable=False),
    sa.Column("object_created", sa.BigInteger),
    sa.Column("event_created", sa.BigInteger, nullable=False),
    sa.Column("received_at", sa.Double, nullable=False),
    sa.Column("applied_at", sa.Double),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("error", sa.String),
    sa.Column("not_before", sa.Double, nullable=False, server_default="0"),
    sa.Column("applied_revision", sa.BigInteger),  # of the warehouse that has the rows read for the notification
)

# Finds a due notification in one lookup, ten times a second, however many are applied or dead.
sa.Index("pokes_state", NOTIFICATIONS.c.applied_at, NOTIFICATIONS.c.attempts, NOTIFICATIONS.c.not_before)

# The warehouse that the notifications of a mode are for. Any warehouse may claim an inbox without rows here.
OWNERS = sa.Table(
    "poke_owners",
    METADATA,
    sa.Column("livemode", sa.Boolean, primary_key=True),
    sa.Column("warehouse", sa.String, nullable=False),  # its id; empty for an inbox made before there were ids
    sa.Column("folder", sa.String, nullable=False),  # its data folder, to show
    sa.Column("revision", sa.BigInteger, nullable=False),  # the warehouse's highest known revision
    sa.Column("complete", sa.Boolean, nullable=False),  # false until Stripe's events were read again
)

# Only in Postgres, where processes of several hosts may use an inbox.
SHARED = sa.MetaData()
HOLDERS = sa.Table(
    "poke_holders",
    SHARED,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("host", sa.String, nullable=False),  # to show
    sa.Column("detail", sa.String, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),  # on the database's clock, as every time below `SHARED`
)
# The settings that decide what is stored, each as often as they differ; those with the highest number apply.
SETTINGS = sa.Table(
    "poke_settings",
    SHARED,
    sa.Column("id", sa.String, primary_key=True),  # a digest of the settings
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("settings", sa.String, nullable=False),  # as JSON
    sa.Column("host", sa.String, nullable=False),  # that began to use the settings, to show
    sa.Column("since", sa.Double, nullable=False),
)
RATES = sa.Table(
    "poke_rates",
    SHARED,
    sa.Column("livemode", sa.Boolean, primary_key=True),
    sa.Column("state", sa.LargeBinary, nullable=False),
)

# Locked in the same order everywhere, before any notification: otherwise two processes would deadlock.
LOCKED_OWNERS = sa.select(OWNERS).order_by(OWNERS.c.livemode).with_for_update()
OPEN = NOTIFICATIONS.c.applied_at.is_(None)
WAITING = sa.and_(OPEN, NOTIFICATIONS.c.attempts < MAX_ATTEMPTS)
DEAD = sa.and_(OPEN, NOTIFICATIONS.c.attempts >= MAX_ATTEMPTS)
ANEW: dict[str, Any] = {"attempts": 0, "not_before": 0.0, "error": None}
UNAPPLIED = ANEW | {"applied_at": None, "applied_revision": None}
# Lets applied notifications wait again; a further condition says which.
REOPENED = sa.update(NOTIFICATIONS).where(NOTIFICATIONS.c.applied_at.is_not(None)).values(UNAPPLIED)


def due_at(now: float | None, modes: Collection[bool]) -> sa.ColumnElement[bool]:
    """The condition of notifications of these modes that may be tried at `now`."""
    at = seconds_of(now)
    not_before = NOTIFICATIONS.c.not_before
    due = sa.and_(WAITING, sa.or_(not_before <= at, not_before > at + LONGEST_PAUSE))
    return due if {True, False} <= set(modes) else sa.and_(due, NOTIFICATIONS.c.livemode.in_(set(modes)))


def shown_error(error: object) -> str:
    return scrub(str(error))[:_LONGEST_ERROR]


def seconds_of(now: float | None) -> float:
    return time.time() if now is None else now


def notification_from(row: Any) -> Notification:
    return Notification(
        row.event_id,
        row.account or None,
        row.livemode,
        row.object,
        row.object_id,
        row.object_created,
        row.event_created,
    )


def ownership(livemode: bool, warehouse: str, folder: str, revision: int, *, complete: bool) -> dict[str, Any]:
    """A row of `OWNERS`."""
    return {
        "livemode": livemode,
        "warehouse": warehouse,
        "folder": folder,
        "revision": revision,
        "complete": complete,
    }


def lacking(connection: sa.Connection) -> list[sa.Table | sa.Column[Any] | sa.Index]:
    """The tables, columns and indexes that the database lacks."""
    inspector = sa.inspect(connection)
    if not (inspector.has_table(NOTIFICATIONS.name) and inspector.has_table(OWNERS.name)):
        return [NOTIFICATIONS, OWNERS]
    if connection.dialect.name == "postgresql":
        for table in SHARED.sorted_tables:
            if not inspector.has_table(table.name):
                return [table]
    columns = {column["name"] for column in inspector.get_columns(NOTIFICATIONS.name)}
    indexes = {index["name"] for index in inspector.get_indexes(NOTIFICATIONS.name)}
    return [
        *(column for column in NOTIFICATIONS.columns if column.name not in columns),
        *(index for index in NOTIFICATIONS.indexes if index.name not in indexes),
    ]


def make_tables(connection: sa.Connection) -> None:
    """Create the tables, or add the columns and indexes that tables of an older version lack."""
    inspector = sa.inspect(connection)
    older = inspector.has_table(NOTIFICATIONS.name) and not inspector.has_table(OWNERS.name)
    METADATA.create_all(connection)
    if connection.dialect.name == "postgresql":
        SHARED.create_all(connection)
    for column in lacking(connection):
        if isinstance(column, sa.Column):
            added = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {NOTIFICATIONS.name} ADD COLUMN {added}")
    for index in lacking(connection):
        assert isinstance(index, sa.Index)
        index.create(connection)
    if older and connection.execute(sa.select(sa.literal(1)).select_from(NOTIFICATIONS).limit(1)).first():
        # It holds all notifications so far, and belongs to the first warehouse that claims it.
        rows = [ownership(livemode, "", "", 0, complete=True) for livemode in (True, False)]
        connection.execute(sa.insert(OWNERS), rows)
