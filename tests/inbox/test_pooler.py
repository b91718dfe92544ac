"""Postgres behind a pooler, which is refused if it shares sessions between clients: locks belong to sessions."""

from __future__ import annotations

from contextlib import closing

import psycopg
import pytest

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import SettingsError
from stripe_pipeline.inbox.inbox import Inbox
from stripe_pipeline.inbox.run_locks import RunLocks
from stripe_pipeline.lake import Lake
from stripe_pipeline.warehouse.lake_catalog import _LOCK, LakeCatalog
from tests.pooler import pooler


@pytest.mark.parametrize("sessions", [1, 2, 3])
def test_a_pooler_that_lends_sessions_for_a_transaction_is_refused(
    inbox_in_postgres: str, folder: DataFolder, sessions: int
) -> None:
    with pooler(inbox_in_postgres, sessions) as address, closing(LakeCatalog(Lake(address, "/files/"))) as catalog:
        for use, variable in (
            (lambda: Inbox(folder, address), "STRIPE_PIPELINE_INBOX"),
            (catalog.lock, "STRIPE_PIPELINE_WAREHOUSE"),
        ):
            with pytest.raises(SettingsError, match=rf"Let {variable} .* `pool_mode = session`"):
                use()


def test_a_pooler_with_a_session_for_each_client_is_accepted(inbox_in_postgres: str, folder: DataFolder) -> None:
    with pooler(inbox_in_postgres, None) as address:
        with closing(Inbox(folder, address)) as inbox:
            assert not inbox.has_due()
        locks = RunLocks(folder, address)
        with locks.holding("run"):
            assert locks.exists("run")
        with closing(LakeCatalog(Lake(address, "/files/"))) as catalog:
            catalog.lock()
            assert not is_free(inbox_in_postgres)
            catalog.unlock()
            assert is_free(inbox_in_postgres)


def is_free(postgres: str) -> bool:
    """Whether another session may take the lock of the lake."""
    with psycopg.connect(postgres) as other:
        return other.execute(f"SELECT pg_try_advisory_xact_lock({_LOCK})").fetchall() == [(True,)]
