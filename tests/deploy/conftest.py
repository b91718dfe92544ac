"""What the tests of a whole deployment share: its databases, and the emulator in place of Stripe."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from stripe_emulator import Server, Shop
from tests.deploy.hosts import DAYS
from tests.deploy.parts import DEPLOY


@pytest.fixture
def databases(postgres: str) -> Iterator[dict[str, str]]:
    """The databases that `deploy/databases.sql` makes, as the variables that name them."""
    superuser = sa.create_engine(sa.make_url(postgres).set(drivername="postgresql+psycopg"))
    script = "\n".join(line for line in (DEPLOY / "databases.sql").read_text().splitlines() if line[:2] != "--")
    with superuser.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in filter(str.strip, script.split(";")):
            connection.exec_driver_sql(statement)
        url = sa.make_url(postgres)
        of_dagster = url.set(drivername="postgresql+psycopg2", username="dagster", database="dagster")
        yield {
            "DAGSTER_POSTGRES_URL": of_dagster.render_as_string(hide_password=False),
            "STRIPE_PIPELINE_INBOX": url.set(username="inbox", database="inbox").render_as_string(hide_password=False),
        }
        for name in ("dagster", "inbox"):
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
            connection.exec_driver_sql(f"DROP USER {name}")
    superuser.dispose()


@pytest.fixture
def stripe() -> Iterator[Server]:
    """The emulator, in place of Stripe, with a shop of some days."""
    shop = Shop()
    shop.seed_history(DAYS)
    with Server(shop, webhook_backoff=0.001) as running:
        yield running


@pytest.fixture
def shop(stripe: Server) -> Shop:
    """The emulator's shop."""
    return stripe.shop
