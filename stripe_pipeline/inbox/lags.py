"""How long the inbox's notifications took from the creation of their objects until the objects were stored.

Only the report asks this; `inbox` is what syncs and drains use.
"""

from __future__ import annotations

import sqlalchemy as sa

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.inbox.database import Database
from stripe_pipeline.inbox.tables import NOTIFICATIONS

_JUST_MADE = 60  # seconds after which an event is about a later change of its object


def new_objects(folder: DataFolder, url: str | None, since: float, *, livemode: bool) -> list[tuple[int, float]]:
    """When each object was created, and when the object was stored, for objects that were announced when they were new
    and stored after `since`; Unix seconds, by Stripe's clock and by the local clock. `url`: as for `Inbox`.

    An object that several events announced counts once, when it was stored first. Raises as `Inbox` does.
    """
    database = Database(folder, url, patience=60.0)
    made, announced, applied = (
        NOTIFICATIONS.c.object_created,
        NOTIFICATIONS.c.event_created,
        NOTIFICATIONS.c.applied_at,
    )
    query = (
        sa.select(made, sa.func.min(applied))
        .where(applied >= since, NOTIFICATIONS.c.livemode == livemode, announced - made <= _JUST_MADE)
        .group_by(NOTIFICATIONS.c.object, NOTIFICATIONS.c.object_id, made)
    )
    try:
        with database.reading() as connection:
            return [(int(created), float(stored)) for created, stored in connection.execute(query)]
    finally:
        database.close()
