"""The inbox: notifications that say which object to read again, kept until the object was read.

Every source of events puts its notifications here; payloads are never kept. `sync` decides which requests a
notification costs, `database` connects, `owner` knows the inbox's warehouse. `webhooks.receiver` receives webhooks; its
process loads nothing heavier than this module.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.inbox.database import Database
from stripe_pipeline.inbox.notification import Claim, Entry, Notification, State, Summary
from stripe_pipeline.inbox.owner import Owner
from stripe_pipeline.inbox.presence import Presence
from stripe_pipeline.inbox.tables import (
    ANEW,
    DEAD,
    DEFERRED,
    FIRST_PAUSE,
    MAX_ATTEMPTS,
    METADATA,
    NOTIFICATIONS,
    OPEN,
    OWNERS,
    REOPENED,
    UNAPPLIED,
    WAITING,
    due_at,
    notification_from,
    seconds_of,
    shown_error,
)

if TYPE_CHECKING:  # its module loads DuckDB, which the receiver's process does without
    from stripe_pipeline.batch import Mode
    from stripe_pipeline.identity import Identity

_CHUNK = 500  # ids per statement, well below SQLite's limit on variables
_PROBE = " " * 28  # as long as an event's id, which has no spaces


class Inbox:
    """The table of notifications, in SQLite in the data folder or in the database that `url` names; thread-safe.

    `url` is an SQLAlchemy URL of SQLite or Postgres; `patience` is how many seconds SQLite waits for another process's
    write, which takes milliseconds. Raises `SettingsError` if `url` is not such a URL, and `WarehouseError`, as all
    methods do, if the database fails. One inbox serves one warehouse, the one that claims it.
    """

    def __init__(self, folder: DataFolder, url: str | None = None, *, patience: float = 60.0) -> None:
        self._database = Database(folder, url, patience=patience)
        self._owner = Owner(self._database, folder, in_folder=not url)
        self.presence = Presence(self._database)

    def claim(self, identity: Callable[[], Identity], modes: Collection[bool], *, take_over: bool = False) -> Claim:
        """Make sure that the inbox belongs to this warehouse, for these modes (their `livemode`).

        `identity` is called after the inbox is read: a warehouse stores its state before the inbox learns of the state.
        Raises `WarehouseError` if the inbox belongs to another warehouse, or to a later state of this one, unless
        `take_over` is set. The inbox in the data folder always follows the warehouse beside it. After a takeover
        applied notifications wait again.
        """
        return self._owner.claim(identity, modes, take_over=take_over)

    def is_complete(self, warehouse: Identity, livemode: bool | None = None) -> bool:
        """Whether this warehouse's inbox holds all notifications of a mode, or of each mode: a new inbox lacks those of
        its predecessor."""
        return self._owner.is_complete(warehouse, livemode)

    def completed(self, livemode: bool) -> None:
        """Record that all notifications of this mode are here."""
        self._owner.completed(livemode)

    def add(self, notifications: Sequence[Notification], *, again: bool = False) -> int:
        """Store notifications durably; an event that is already known is not stored again. Returns how many were new.

        With `again` an applied notification waits again; a waiting or dead one stays as it is. After the return the
        notifications are on the disk, whatever happens to the machine.
        """
        now = time.time()
        # In the same order everywhere: otherwise two processes that store the same events would deadlock.
        rows = [
            {
                "event_id": notification.event_id,
                "account": notification.account or "",
                "livemode": notification.livemode,
                "object": notification.object,
                "object_id": notification.object_id,
                "object_created": notification.object_created,
                "event_created": notification.event_created,
                "received_at": now,
            }
            for _, notification in sorted(
                {notification.event_id: notification for notification in notifications}.items()
            )
        ]
        if not rows:
            return 0
        statement = self._database.insert(NOTIFICATIONS)
        if again:
            statement = statement.on_conflict_do_update(
                index_elements=[NOTIFICATIONS.c.event_id],
                set_=UNAPPLIED | {"received_at": now},
                where=NOTIFICATIONS.c.applied_at.is_not(None),
            )
        else:
            statement = statement.on_conflict_do_nothing()
        statement = statement.execution_options(preserve_rowcount=True)
        with self._database.writing() as connection:
            return connection.execute(statement, rows).rowcount

    def has_due(self, now: float | None = None, *, modes: Collection[bool] = (True, False)) -> bool:
        """Whether a notification of these modes (their `livemode`) may be tried at `now` (Unix seconds; the present
        unless given).

        Cheap enough to call ten times a second: the query reads one index entry.
        """
        query = sa.select(sa.literal(1)).where(due_at(now, modes)).limit(1)
        with self._database.reading() as connection:
            return connection.execute(query).first() is not None

    def objects_due(self, now: float | None = None, *, modes: Collection[bool] = (True, False)) -> int:
        """How many objects the due notifications name."""
        objects = (
            sa.select(NOTIFICATIONS.c.object, NOTIFICATIONS.c.object_id).where(due_at(now, modes)).distinct().subquery()
        )
        with self._database.reading() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(objects)).scalar_one()

    def waiting(self, mode: Mode, *, now: float | None = None) -> list[Notification]:
        """Notifications of `mode` that may be tried at `now` (Unix seconds; the present unless given), oldest event
        first.

        A notification of an unknown account belongs to every account: a data folder holds only one.
        """
        query = (
            sa.select(NOTIFICATIONS)
            .where(due_at(now, {mode.livemode}), NOTIFICATIONS.c.account.in_(("", mode.account)))
            .order_by(NOTIFICATIONS.c.event_created, NOTIFICATIONS.c.event_id)
        )
        with self._database.reading() as connection:
            return [notification_from(row) for row in connection.execute(query)]

    def applied(self, notifications: Sequence[Notification], *, revision: int = 0) -> None:
        """Record that the objects of these notifications were read again and stored; their dead notifications are
        applied, too.

        `revision` is that of the warehouse with these objects.
        """
        applied = {"applied_at": time.time(), "applied_revision": revision}
        objects = sorted({notification.object_id for notification in notifications})
        with self._owner.changing() as connection:
            connection.execute(sa.update(OWNERS).where(OWNERS.c.revision < revision).values(revision=revision))
            self._change(connection, notifications, applied)
            for start in range(0, len(objects), _CHUNK):
                named = NOTIFICATIONS.c.object_id.in_(objects[start : start + _CHUNK])
                connection.execute(sa.update(NOTIFICATIONS).where(DEAD, named).values(applied))

    def defer(self, notifications: Sequence[Notification], error: object, *, now: float | None = None) -> None:
        """Record why these notifications cannot be tried for now, through no fault of their objects: they wait a
        minute."""
        with self._owner.changing() as connection:
            self._change(
                connection, notifications, {"error": shown_error(error), "not_before": seconds_of(now) + DEFERRED}
            )

    def failed(self, notifications: Sequence[Notification], error: object, *, now: float | None = None) -> None:
        """Record that reading the objects of these notifications failed, and why.

        They wait 10, 40, 160 and 640 seconds before the next attempts; after the fifth failure they are dead.
        """
        pause = sa.literal(FIRST_PAUSE).bitwise_lshift(2 * NOTIFICATIONS.c.attempts)
        later = {
            "attempts": NOTIFICATIONS.c.attempts + 1,
            "error": shown_error(error),
            "not_before": seconds_of(now) + pause,
        }
        with self._owner.changing() as connection:
            self._change(connection, notifications, later, which=WAITING)

    def wait_again(self, *, applied_since: float, created_since: float) -> int:
        """Let applied notifications wait again that were applied from `applied_since` on, or whose event Stripe created
        from `created_since` on (Unix seconds, by the local and by Stripe's clock); returns how many.

        For a warehouse that is older than the inbox, because it was restored from a copy.
        """
        since = sa.or_(NOTIFICATIONS.c.applied_at >= applied_since, NOTIFICATIONS.c.event_created >= created_since)
        with self._owner.changing() as connection:
            return connection.execute(REOPENED.where(since)).rowcount

    def retry(self, event_ids: Collection[str] | None = None) -> int:
        """Let dead notifications wait again, those of these events or all; returns how many."""
        chosen: Sequence[Any] = [sa.true()]
        if event_ids is not None:
            ids = sorted(event_ids)
            chosen = [NOTIFICATIONS.c.event_id.in_(ids[start : start + _CHUNK]) for start in range(0, len(ids), _CHUNK)]
        with self._database.writing() as connection:
            return sum(
                connection.execute(sa.update(NOTIFICATIONS).where(DEAD, some).values(ANEW)).rowcount for some in chosen
            )

    def rows(self, *, failing: bool = False) -> list[Entry]:
        """All unapplied notifications, waiting or dead, or only those that failed before, in the order received."""
        return self._entries(sa.and_(OPEN, NOTIFICATIONS.c.error.is_not(None)) if failing else OPEN)

    def dead(self) -> list[Entry]:
        """The notifications that have used up their attempts, in the order received."""
        return self._entries(DEAD)

    def summary(self) -> Summary:
        """How many notifications wait and how many are dead."""
        query = sa.select(
            sa.func.count().filter(WAITING),
            sa.func.count().filter(DEAD),
            sa.func.min(NOTIFICATIONS.c.received_at).filter(WAITING),
        ).where(OPEN)
        with self._database.reading() as connection:
            return Summary(*connection.execute(query).one())

    def check_writable(self) -> None:
        """Raise `WarehouseError` if a notification could not be stored now. Writes one durably and removes it again."""
        probe = {"event_id": _PROBE, "account": "", "livemode": False, "object": "charge", "object_id": "x" * 27}
        times = {"object_created": 0, "event_created": 0, "received_at": 0.0, "applied_at": 0.0}
        with self._database.writing() as connection:
            # The changed pages or blocks are written, though no row remains.
            connection.execute(sa.insert(NOTIFICATIONS), [probe | times])
            connection.execute(sa.delete(NOTIFICATIONS).where(NOTIFICATIONS.c.event_id == _PROBE))

    def forget(self, *, applied_before: float) -> None:
        """Remove applied notifications older than `applied_before` (Unix seconds)."""
        with self._owner.changing() as connection:
            connection.execute(sa.delete(NOTIFICATIONS).where(NOTIFICATIONS.c.applied_at < applied_before))

    def clear(self) -> None:
        """Remove everything, as if the inbox were new."""
        with self._database.writing() as connection:
            for table in METADATA.sorted_tables:
                connection.execute(sa.delete(table))
            self.presence.forget_settings(connection)

    def drop_modes(self, keep: Collection[bool]) -> int:
        """Remove unapplied notifications of a mode whose `livemode` is not in `keep`; returns how many.

        Nobody reads them: that mode has no key, and a key that is set later loads the history anyway.
        """
        with self._owner.changing() as connection:
            return connection.execute(
                sa.delete(NOTIFICATIONS).where(OPEN, NOTIFICATIONS.c.livemode.not_in(set(keep)))
            ).rowcount

    def close(self) -> None:
        """Close the connections."""
        self.presence.leave()
        self._database.close()

    def _entries(self, which: sa.ColumnElement[bool]) -> list[Entry]:
        query = sa.select(NOTIFICATIONS).where(which).order_by(NOTIFICATIONS.c.received_at, NOTIFICATIONS.c.event_id)
        with self._database.reading() as connection:
            return [
                Entry(
                    notification_from(row),
                    row.received_at,
                    row.attempts,
                    row.error,
                    row.not_before,
                    State.DEAD if row.attempts >= MAX_ATTEMPTS else State.WAITING,
                )
                for row in connection.execute(query)
            ]

    def _change(
        self,
        connection: sa.Connection,
        notifications: Sequence[Notification],
        values: dict[str, Any],
        *,
        which: sa.ColumnElement[bool] = OPEN,
    ) -> None:
        """Set `values` on these notifications where `which` holds: by default on all that were not applied."""
        ids = sorted({notification.event_id for notification in notifications})
        for start in range(0, len(ids), _CHUNK):
            # Locked in the same order everywhere (SQLite has only one writer): otherwise two processes would deadlock.
            chosen = (
                sa.select(NOTIFICATIONS.c.event_id)
                .where(which, NOTIFICATIONS.c.event_id.in_(ids[start : start + _CHUNK]))
                .order_by(NOTIFICATIONS.c.event_id)
                .with_for_update()
            )
            connection.execute(sa.update(NOTIFICATIONS).where(NOTIFICATIONS.c.event_id.in_(chosen)).values(values))
