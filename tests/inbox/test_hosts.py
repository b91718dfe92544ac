"""Hosts that share an inbox in Postgres: which settings they have, which runs are active, and wrong deployments.

A host is a data folder here, or a process that ends without a word.
"""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from stripe_emulator import Server, Shop
from stripe_pipeline.assets.keys import Names
from stripe_pipeline.assets.run_locks import fail_killed_runs
from stripe_pipeline.assets.runs import UNFINISHED
from stripe_pipeline.cli.cleaning import Cleaning
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.definitions import build_defs
from stripe_pipeline.errors import SettingsError, WarehouseError
from stripe_pipeline.inbox.database import Database
from stripe_pipeline.inbox.notification import notifications_of
from stripe_pipeline.inbox.run_locks import RunLocks
from stripe_pipeline.inbox.tables import HOLDERS
from stripe_pipeline.lake import Lake
from stripe_pipeline.settings.configuration import Configuration
from stripe_pipeline.sync.pipeline import Pipeline
from stripe_pipeline.warehouse.lake_catalog import LakeCatalog
from tests.stripe_state import assert_equal_to_stripe, days_ago

KEY = "sk_test_of_the_tests"


@pytest.fixture
def host(server: Server, inbox_in_postgres: str, tmp_path: Path) -> Callable[..., Configuration]:
    """A host with a data folder and settings of its own; all share one inbox."""

    def make(name: str, *, hash_key: str | None = None, **settings: Any) -> Configuration:
        variables = {
            "STRIPE_API_KEY": KEY,
            "STRIPE_API_BASE": server.url,
            "STRIPE_PIPELINE_INBOX": inbox_in_postgres,
            **({"STRIPE_PIPELINE_HASH_KEY": hash_key} if hash_key else {}),
        }
        return Configuration(
            data_folder=tmp_path / name,
            given_settings={"history": "60 days", **settings},
            given_variables=variables,
        )

    return make


@contextlib.contextmanager
def opened(sources: Configuration) -> Iterator[Pipeline]:
    with Pipeline.from_environment(sources=sources) as pipeline:
        yield pipeline


def shift(inbox: str, seconds: float) -> None:
    """Let so much time pass for the holders of locks that give no sign of life."""
    engine = sa.create_engine(sa.make_url(inbox).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        connection.execute(sa.update(HOLDERS).values(seen_at=HOLDERS.c.seen_at - seconds))
    engine.dispose()


def test_two_hosts_with_an_own_warehouse_each_cannot_share_an_inbox(
    host: Callable[..., Configuration], shop: Shop, server: Server
) -> None:
    customers = [str(shop.create_customer(created=days_ago(shop, 5), name="before")["id"]) for _ in range(3)]
    with opened(host("first")) as first:
        first.sync()
    for customer in customers:
        shop.update("customers", customer, name="after")
    for _ in range(5):
        shop.create_payment()
    with opened(host("first")) as receiver:
        receiver.inbox.add([found for event in shop.events(False) for found in notifications_of(event)])
    server.requests.clear()
    other = host("other")
    refused = (
        r"belongs to the warehouse in \S+/first on host \S+, and \S+/other on this host holds no warehouse. Run the"
        " command where that warehouse is, or set STRIPE_PIPELINE_DAGSTER_URL to the address of Dagster's web server"
    )
    with pytest.raises(WarehouseError, match=refused), opened(other) as pipeline:
        pipeline.drain(most=100)
    assert not other.folder.root.exists(), "no second warehouse, and no second key for hashes"
    assert server.requests == []
    with opened(host("first")) as first:
        assert first.drain(most=100).applied > 0
        first.publish()
    assert_equal_to_stripe(shop, host("first").folder.published)


def test_a_host_that_takes_the_inbox_over_gets_every_change(host: Callable[..., Configuration], shop: Shop) -> None:
    with opened(host("first")) as first:
        first.sync()
    shop.create_payment()
    with Pipeline.from_environment(sources=host("other"), take_over=True) as other:
        other.adopt_inbox()
    with opened(host("other")) as other:
        other.sync()
    assert_equal_to_stripe(shop, other.folder.published)
    with opened(host("first")) as first, pytest.raises(WarehouseError, match=r"warehouse in \S+/other on host"):
        first.sync()


@pytest.mark.parametrize(
    ("settings", "differing"),
    [
        ({"objects": {"customers": {"fields": {"exclude": ["email"]}}}}, "objects.customers.fields"),
        ({"objects": {"refunds": {"retention": "3 months"}}}, "objects.refunds.retention"),
        ({"objects": {"disputes": {"on_delete": "remove"}}}, "objects.disputes.on_delete"),
        ({"objects": {"charges": {"history": "30 days"}}}, "objects.charges.history"),
    ],
)
def test_a_host_with_other_settings_is_refused_before_it_reads_anything(
    host: Callable[..., Configuration], server: Server, settings: dict[str, Any], differing: str
) -> None:
    with opened(host("same")) as first:
        first.sync()
        server.requests.clear()
        # Both have the data folder: it is the settings that differ.
        with pytest.raises(SettingsError, match=f"has other settings: {differing}.*Give both hosts the same settings"):
            opened(host("same", **settings)).__enter__()
        assert server.requests == []
        with opened(host("same", rate={"share": 0.5})) as other:
            other.sync()
    with opened(host("same", **settings)) as later:
        later.sync()


@pytest.fixture
def on_host(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Syncs once on the host of this name, with these settings. Both hosts have the data folder, as with a lake."""

    def sync(name: str, sources: Configuration) -> None:
        monkeypatch.setattr(platform, "node", lambda: name)
        with opened(sources) as pipeline:
            pipeline.sync()

    return sync


NEWER = {"objects": {"customers": {"fields": {"exclude": ["email"]}}}}


def test_a_host_whose_settings_an_idle_host_has_replaced_is_refused_before_it_reads_anything(
    host: Callable[..., Configuration], on_host: Callable[..., None], server: Server
) -> None:
    older, newer = host("same"), host("same", **NEWER)
    on_host("one", older)
    on_host("two", newer)
    server.requests.clear()
    refused = (
        r"Host two replaced the settings that this host has, on \d{4}-\d\d-\d\d at \d\d:\d\d UTC:"
        r" objects.customers.fields. Give this host the newer settings .* run `stripe-pipeline use-settings` here"
    )
    for _ in range(2):
        with pytest.raises(SettingsError, match=refused):
            on_host("one", older)
        assert server.requests == []
    on_host("one", newer)  # the first remedy; the second one is tried in tests/cli


def test_settings_that_are_new_or_go_back_on_the_same_host_are_applied(
    host: Callable[..., Configuration], on_host: Callable[..., None]
) -> None:
    older, newer, newest = host("same"), host("same", **NEWER), host("same", history="30 days")
    on_host("pod-1", older)
    on_host("pod-2", newer)
    on_host("pod-3", newer)  # a pod with a new name at each start
    on_host("pod-4", newest)
    on_host("pod-4", newer)
    on_host("pod-5", newer)
    with pytest.raises(
        SettingsError, match=r"Host pod-4 replaced the settings.*: objects.balance_transactions.history"
    ):
        on_host("pod-5", newest)


def test_an_inbox_that_was_cleaned_takes_any_settings(
    host: Callable[..., Configuration], on_host: Callable[..., None], inbox_in_postgres: str
) -> None:
    older, newer = host("same"), host("same", **NEWER)
    on_host("one", older)
    on_host("two", newer)
    with Cleaning(newer.folder, inbox_in_postgres, history=None) as cleaning:
        cleaning.remove()
    on_host("one", older)


def test_the_remedy_for_another_hash_key_is_the_same_key(host: Callable[..., Configuration]) -> None:
    hashed = {"objects": {"customers": {"fields": {"hash": ["email"]}}}}
    with opened(host("same", hash_key="one key", **hashed)) as first:
        first.sync()
        with pytest.raises(SettingsError, match="has other settings: STRIPE_PIPELINE_HASH_KEY") as refused:
            opened(host("same", hash_key="other key", **hashed)).__enter__()
        assert "one key" not in str(refused.value)
        with opened(host("same", hash_key="one key", **hashed)) as other:
            other.sync()


def test_what_other_hosts_work_with_is_not_cleaned(
    host: Callable[..., Configuration], inbox_in_postgres: str, shop: Shop
) -> None:
    with opened(host("first")) as first:
        first.sync()
        shop.create_payment()
        first.inbox.add([found for event in shop.events(False) for found in notifications_of(event)])
        other = host("other").folder
        with pytest.raises(SettingsError, match=r"is in use by a process on host \S+. Stop it first"):
            Cleaning(other, inbox_in_postgres, history=None).__enter__()
        assert first.inbox.summary().waiting > 0
    with Cleaning(first.folder, inbox_in_postgres, history=None) as cleaning:
        cleaning.remove()
    assert not first.folder.private.exists()


def test_a_host_that_ended_without_a_word_keeps_nobody_from_working(
    host: Callable[..., Configuration], inbox_in_postgres: str
) -> None:
    with opened(host("same")) as first:
        first.sync()
    program = (
        "import sys, pathlib\n"
        "from stripe_pipeline.data_folder import DataFolder\n"
        "from stripe_pipeline.inbox.inbox import Inbox\n"
        f"inbox = Inbox(DataFolder(pathlib.Path({str(first.folder.root)!r})), {inbox_in_postgres!r})\n"
        "inbox.presence.enter({'objects.charges.enabled': 'true'})\n"
        "print('entered', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with started(program) as process:
        with pytest.raises(SettingsError, match=r"has other settings: .* and \d+ more"):
            opened(host("same")).__enter__()
        process.kill()
        process.wait(10)
        wait_until(lambda: enters(host("same")))


def enters(sources: Configuration) -> bool:
    try:
        with opened(sources):
            return True
    except SettingsError:
        return False


@contextlib.contextmanager
def started(program: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has printed a line."""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def wait_until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.mark.dagster_files
def test_a_run_whose_host_is_gone_is_failed_by_the_next_tick_of_another_host(
    host: Callable[..., Configuration], inbox_in_postgres: str, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    here = host("here")
    defs = build_defs(settings=here.settings(), data_folder=here.data_folder, environment=dict(here.variables))
    names = Names()
    schedule = defs.resolve_schedule_def("sync_every_15_minutes")
    run = instance.create_run_for_job(
        defs.resolve_job_def(names.sync_job), status=dg.DagsterRunStatus.STARTED, tags=names.run_tags
    )

    def tick() -> list[Any]:
        with dg.build_schedule_context(
            instance, datetime.now(UTC), resources=defs.resources, repository_def=defs.get_repository_def()
        ) as context:
            return list(schedule.evaluate_tick(context).run_requests or ())

    program = (
        "import sys, pathlib\n"
        "from stripe_pipeline.data_folder import DataFolder\n"
        "from stripe_pipeline.inbox.run_locks import RunLocks\n"
        f"locks = RunLocks(DataFolder(pathlib.Path({str(tmp_path / 'gone')!r})), {inbox_in_postgres!r})\n"
        f"with locks.holding({run.run_id!r}):\n"
        "    print('holding', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with started(program) as process:
        assert tick() == []
        shift(inbox_in_postgres, 3600)
        assert tick() == [], "the lock is still held"
        process.kill()
        process.wait(10)
    shift(inbox_in_postgres, 3600)
    wait_until(lambda: bool(tick()))
    failed = instance.get_run_by_id(run.run_id)
    assert failed
    assert failed.status is dg.DagsterRunStatus.FAILURE
    assert list(RunLocks(here.folder, inbox_in_postgres).abandoned()) == []


@pytest.mark.dagster_files
@pytest.mark.parametrize("status", ["NOT_STARTED", "STARTING", "STARTED", "CANCELING"])
def test_a_run_that_nobody_works_on_is_failed_once_it_has_been_silent(
    inbox_in_postgres: str,
    folder: DataFolder,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
) -> None:
    names, locks = Names(), RunLocks(folder, inbox_in_postgres)
    of_ours = build_defs(data_folder=folder.root).resolve_job_def(names.sync_job)
    ours, theirs = (
        instance.create_run_for_job(of_ours, status=dg.DagsterRunStatus[status], tags=tags)
        for tags in (names.run_tags, {"of": "another project"})
    )

    def unfinished() -> set[str]:
        fail_killed_runs(instance, locks, names)
        return {run.run_id for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))}

    assert unfinished() == {ours.run_id, theirs.run_id}, "the run has just begun"
    monkeypatch.setattr("stripe_pipeline.assets.run_locks._SILENCE", timedelta(0))
    with locks.holding(ours.run_id):
        assert unfinished() == {ours.run_id, theirs.run_id}, "somebody works on the run"
    assert unfinished() == {theirs.run_id}


def test_a_run_that_ends_leaves_no_lock(inbox_in_postgres: str, folder: DataFolder) -> None:
    locks = RunLocks(folder, inbox_in_postgres)
    with locks.holding("some run"):
        shift(inbox_in_postgres, 3600)
        assert list(locks.abandoned()) == []
    with locks.holding("some run"):  # the checks of a run hold its lock after the assets
        pass
    shift(inbox_in_postgres, 3600)
    assert list(locks.abandoned()) == []
    assert not folder.runs.exists()


def test_postgres_looks_soon_whether_a_host_is_gone_and_names_the_sessions(
    inbox_in_postgres: str, folder: DataFolder
) -> None:
    of_session = "SELECT name FROM pg_settings WHERE source = 'session'"  # a Unix socket shows no values
    with closing(Database(folder, inbox_in_postgres)) as database:
        with database.reading() as connection:
            chosen = set(connection.exec_driver_sql(of_session).scalars())
            assert {f"tcp_keepalives_{name}" for name in ("idle", "interval", "count")} | {"tcp_user_timeout"} <= chosen
        with closing(database.session("waits")) as connection:
            assert set(connection.exec_driver_sql(of_session).scalars()) == chosen | {"application_name"}
            assert connection.exec_driver_sql("SHOW idle_session_timeout").scalar() == "0"
        holders = (
            "SELECT application_name FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE locktype = 'advisory'"
            " ORDER BY 1"
        )
        catalog = LakeCatalog(Lake(inbox_in_postgres, ""))
        catalog.lock()
        with RunLocks(folder, inbox_in_postgres).holding("some run"), database.reading() as connection:
            names = connection.exec_driver_sql(holders).scalars().all()
        catalog.close()
    assert names == ["stripe_pipeline", "stripe_pipeline holds some run"]


def test_a_lock_whose_connection_broke_is_taken_again(
    inbox_in_postgres: str, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stripe_pipeline.inbox.holders._BEAT", 0.05)
    locks = RunLocks(folder, inbox_in_postgres)
    engine = sa.create_engine(sa.make_url(inbox_in_postgres).set(drivername="postgresql+psycopg"))
    held = "SELECT pid FROM pg_locks WHERE locktype = 'advisory'"
    with locks.holding("some run"):
        with engine.begin() as connection:
            [before] = connection.exec_driver_sql(held).scalars()
            connection.exec_driver_sql(f"SELECT pg_terminate_backend({before})")

        def taken() -> bool:
            with engine.begin() as connection:
                return any(pid != before for pid in connection.exec_driver_sql(held).scalars())

        wait_until(taken)
        shift(inbox_in_postgres, 3600)
        assert list(locks.abandoned()) == []
    engine.dispose()
