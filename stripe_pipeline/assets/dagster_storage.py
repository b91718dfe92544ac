"""Which database Dagster keeps its own records in, and whether Dagster can work with it.

`dagster_history` removes old records from it, `cli.instance` explains its errors.
"""

import dagster as dg
import sqlalchemy as sa

from stripe_pipeline.errors import SettingsError

_DRIVER = "psycopg2"


def postgres_of(instance: dg.DagsterInstance) -> sa.URL | None:
    """The address of the Postgres database with Dagster's events and runs, or None with another storage."""
    url = getattr(instance.event_log_storage, "postgres_url", None)
    return sa.make_url(url) if url else None


def check_driver(instance: dg.DagsterInstance) -> None:
    """Raise `SettingsError` if Dagster reaches Postgres with a driver that it cannot work with: it opens its storage,
    but no run gets beyond its first event.

    SQLAlchemy 2.1 takes another driver for `postgresql://` than Dagster expects.
    """
    url = postgres_of(instance)
    if url is not None and (driver := url.get_driver_name()) != _DRIVER:
        raise SettingsError(
            f"Dagster's storage in Postgres has the driver {driver}, with which no run of Dagster gets beyond its first"
            " event",
            f"Begin the `postgres_url` that dagster.yaml names with postgresql+{_DRIVER}://, or set `scheme:"
            f" postgresql+{_DRIVER}` below `postgres_db`",
        )
