"""Commands on several hosts that share an inbox in Postgres."""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path
from unittest import mock

import dagster as dg
import duckdb
import pytest
import sqlalchemy as sa

from stripe_emulator import Fault, Server
from stripe_pipeline.assets.checks import NIGHTLY
from stripe_pipeline.cli.processes import free_port
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import today
from stripe_pipeline.inbox.database import _POSTGRES_LOCK
from stripe_pipeline.inbox.inbox import Inbox
from stripe_pipeline.inbox.notification import notifications_of
from stripe_pipeline.inbox.tables import HOLDERS, SETTINGS
from stripe_pipeline.objects import DEFAULT_TYPES
from tests.cli.test_cli import DAYS, Project, Run, api, environment, process, project, run  # noqa: F401
from tests.stripe_state import assert_equal_to_stripe
from tests.webserver import Webserver, webserver


def recorded(inbox: str) -> list[tuple[object, ...]]:
    """The settings in the inbox's database, and who works with these."""
    engine = sa.create_engine(sa.make_url(inbox).set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        rows = [tuple(row) for table in (SETTINGS, HOLDERS) for row in connection.execute(sa.select(table))]
    engine.dispose()
    return rows


def test_use_settings_makes_all_hosts_go_back(
    project: Project,  # noqa: F811
    run: Run,  # noqa: F811
    inbox_in_postgres: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    older, newer = "history: 3 days", "history: 3 days\nobjects: {customers: {fields: {exclude: [email]}}}"

    def on_host(name: str, settings: str, *command: str) -> tuple[int, str]:
        monkeypatch.setattr(platform, "node", lambda: name)
        project.settings(settings)
        ended = run(*command, STRIPE_PIPELINE_INBOX=inbox_in_postgres)
        return ended.status, " ".join(f"{ended.out} {ended.err}".split())

    assert on_host("one", older, "sync")[0] == 0
    assert on_host("two", newer, "sync")[0] == 0
    status, text = on_host("one", older, "sync")
    assert status == 2
    assert "Host two replaced the settings" in text
    assert "run `stripe-pipeline use-settings` here" in text
    status, text = on_host("one", older, "erase", "cus_1", "--unknown", "--yes")
    assert (status, "Host two replaced the settings" in text) == (2, True)
    before = recorded(inbox_in_postgres)
    status, text = on_host("one", older, "check")
    assert status == 1
    assert text.count("error: Host two replaced the settings that this host has") == 1
    assert "run `stripe-pipeline use-settings` here" in text
    assert on_host("two", newer, "check")[0] == 0
    assert recorded(inbox_in_postgres) == before, "check changes nothing"
    assert on_host("one", older, "use-settings") == (
        0,
        "The settings of this host apply from now on; a host with other ones is refused.",
    )
    assert on_host("one", older, "sync")[0] == 0
    assert on_host("one", older, "check")[0] == 0
    status, text = on_host("two", newer, "sync")
    assert status == 2
    assert "Host one replaced the settings that this host has" in text


def test_use_settings_has_nothing_to_do_without_an_inbox_in_postgres(project: Project, run: Run) -> None:  # noqa: F811
    ended = run("use-settings")
    assert ended.status == 0
    assert "The inbox is not in Postgres" in ended.out


def test_a_run_that_was_killed_before_it_took_its_lock_is_failed_by_the_next_command(
    project: Project,  # noqa: F811
    run: Run,  # noqa: F811
    inbox_in_postgres: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STRIPE_PIPELINE_INBOX", inbox_in_postgres)
    assert run("sync").status == 0
    engine = sa.create_engine(sa.make_url(inbox_in_postgres).set(drivername="postgresql+psycopg"))

    def statuses() -> list[dg.DagsterRunStatus]:
        with dg.DagsterInstance.from_config(f"{project.root}") as instance:
            return [found.status for found in instance.get_runs()]

    with engine.connect() as connection, process("sync", cwd=project.root) as begun:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_POSTGRES_LOCK)))  # keeps it from opening the inbox
        while statuses()[0] is not dg.DagsterRunStatus.STARTED:
            assert begun.poll() is None
            time.sleep(0.1)
        begun.kill()
        begun.communicate(timeout=15)
    engine.dispose()
    assert not list(project.folder.runs.glob("*"))
    success, started, failure = (getattr(dg.DagsterRunStatus, name) for name in ("SUCCESS", "STARTED", "FAILURE"))
    assert run("sync").status == 0
    assert statuses() == [success, started, success], "somebody may still work on a run that has just begun"
    monkeypatch.setattr("stripe_pipeline.assets.run_locks._SILENCE", timedelta(seconds=1))
    time.sleep(1)
    assert run("sync").status == 0
    assert statuses() == [success, success, failure, success]


@pytest.fixture
def data_host(
    environment: None,  # noqa: F811
    inbox_in_postgres: str,
    dagster_storage: Path,
    tmp_path: Path,
) -> Iterator[tuple[DataFolder, Path, Webserver]]:
    """A host with a data folder, its settings file, and the web server with the code server there."""
    home = shutil.copytree(dagster_storage, tmp_path / "dagster")
    folder, settings = DataFolder(tmp_path / "data"), tmp_path / "stripe_pipeline.yaml"
    settings.write_text(f"history: {DAYS} days")
    variables = {
        "STRIPE_PIPELINE_DATA": f"{folder.root}",
        "STRIPE_PIPELINE_CONFIG": f"{settings}",
        "STRIPE_PIPELINE_INBOX": inbox_in_postgres,
    }
    # Runs start at once, without the daemon.
    overrides = {"run_coordinator": {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"}}
    with dg.instance_for_test(overrides=overrides, temp_dir=f"{home}") as instance, ExitStack() as running:
        with mock.patch.dict(os.environ, variables):
            server = running.enter_context(webserver(instance))
        with mock.patch.dict(os.environ, {"DAGSTER_HOME": ""}):
            yield folder, settings, server


def test_a_command_on_a_host_without_the_data_folder_runs_where_that_folder_is(
    data_host: tuple[DataFolder, Path, Webserver],
    project: Project,  # noqa: F811
    run: Run,  # noqa: F811
    api: Server,  # noqa: F811
    inbox_in_postgres: str,
) -> None:
    folder, settings, server = data_host
    shutil.rmtree(project.root / ".dagster")
    here = {"STRIPE_API_KEY": "", "STRIPE_TEST_API_KEY": "", "STRIPE_PIPELINE_DAGSTER_URL": f"{server.url}/"}

    first = run("sync", **here)
    assert first.status == 0, first.err
    *lines, summary = first.out.splitlines()
    assert (first.status, [line.split()[0] for line in lines]) == (0, ["table", *DEFAULT_TYPES])
    assert re.fullmatch(r"[\d,]+ rows changed in \d tables, \d+ requests\.", summary)
    assert re.fullmatch(rf"The run \S+ was submitted to Dagster: {server.url}/runs/\S+\n", first.err)
    assert_equal_to_stripe(api.shop, folder.published)

    day = f"{today()}"
    backfilled = run("backfill", "--from", day, "--to", day, "--only", "charges,refunds", **here)
    assert backfilled.status == 0
    assert [line.split()[0] for line in backfilled.out.splitlines()] == ["table", "charges", "refunds", "6"]
    assert run("prune", **here).out == "Nothing to prune: no `retention` is set.\n"
    settings.write_text(f"history: {DAYS} days\nretention: 1 month")
    pruned = run("prune", **here)
    assert (pruned.status, pruned.out.split()[:7]) == (0, ["table", "rows", "first", "day", "last", "day", "kept"])

    api.faults.append(Fault(path="/v1/charges", status=403, times=None))
    partly = run("backfill", "--from", day, "--to", day, "--only", "charges,refunds", **here)
    assert (partly.status, partly.out.count("failed")) == (1, 1)
    assert "error: charges" in partly.err
    api.faults.clear()
    settings.write_text(f"history: {DAYS} days\naccount: acct_of_somebody_else")
    refused = run("sync", **here)
    assert refused.status == 2
    assert "error: " in refused.err

    settings.write_text(f"history: {DAYS} days")
    api.requests.clear()
    api.faults.append(Fault(path="/v1/charges", delay=5, times=None))
    arguments = ("backfill", "--from", day, "--to", day)
    with mock.patch.dict(os.environ, here), process(*arguments, cwd=project.root) as interrupted:
        while not any(request.path == "/v1/charges" for request in api.requests):
            assert interrupted.poll() is None
            time.sleep(0.1)
        interrupted.send_signal(signal.SIGINT)
        _, printed = interrupted.communicate(timeout=60)
    assert (interrupted.returncode, printed.splitlines()[-1]) == (130, "Stopped.")
    run_id = printed.split()[2]
    ended = f'{{ runOrError(runId: "{run_id}") {{ ... on Run {{ status }} }} }}'
    ends = time.monotonic() + 60
    while server.query(ended)["runOrError"]["status"] != "CANCELED":
        assert time.monotonic() < ends
        time.sleep(0.5)
    api.faults.clear()

    assert sorted(path.name for path in project.root.iterdir()) == [
        *("dagster.yaml", "pyproject.toml", "stripe_pipeline.yaml")
    ]
    refused = run("sync", STRIPE_PIPELINE_INBOX=inbox_in_postgres)
    assert refused.status == 1
    assert "set STRIPE_PIPELINE_DAGSTER_URL to the address of Dagster's web server" in refused.err


def test_prove_on_a_host_without_the_data_folder_runs_where_that_folder_is(
    data_host: tuple[DataFolder, Path, Webserver],
    project: Project,  # noqa: F811
    run: Run,  # noqa: F811
) -> None:
    folder, settings, server = data_host
    shutil.rmtree(project.root / ".dagster")
    here = {"STRIPE_API_KEY": "", "STRIPE_TEST_API_KEY": "", "STRIPE_PIPELINE_DAGSTER_URL": server.url}
    for path in (settings, project.root / settings.name):
        path.write_text("history: 65 days")
    assert run("sync", **here).status == 0
    month = f"{today().replace(day=1) - timedelta(days=1):%Y-%m}"
    proved = run("prove", "--month", month, **here)
    assert proved.status == 0, proved.err
    verdict, certificate = proved.out.split("\n\n", 1)
    assert verdict.splitlines()[-1].startswith("Proved up to ")
    page = folder.shared.certificates / f"{month}-live.html"
    assert certificate.startswith(f"Certificate of {month}, live mode: ")
    assert f"  Page            {page}\n" in certificate
    assert page.exists()
    evaluated = server.query(
        '{ assetNodes(assetKeys: [{ path: ["raw", "charges"] }]) { assetChecksOrError { ... on AssetChecks'
        " { checks { name executionForLatestMaterialization { status } } } } } }"
    )
    [charges] = evaluated["assetNodes"]
    checks = {
        check["name"]: (check["executionForLatestMaterialization"] or {}).get("status")
        for check in charges["assetChecksOrError"]["checks"]
    }
    assert {checks[name] for name in NIGHTLY} == {"SUCCEEDED"}

    with duckdb.connect(str(folder.private)) as connection:
        # More than a sample can correct.
        connection.execute("UPDATE raw.charges SET amount_refunded = amount_refunded + 7, _fetched_at = '2020-01-01'")
    failed = run("prove", **here)
    assert (failed.status, failed.out.splitlines()[-1].partition(" of ")[0]) == (
        1,
        "Not proved: amount_refunded_is_sum_of_refunds",
    )
    assert re.search(r"^failed amount_refunded_is_sum_of_refunds: charges \w+ \(live\): .*difference", failed.out, re.M)

    refused = run("prove", "--month", f"{today():%Y-%m}", **here)
    assert refused.status == 2
    assert "has not ended in UTC" in refused.err


def test_commands_that_no_run_stands_for_say_where_they_work(
    data_host: tuple[DataFolder, Path, Webserver],
    project: Project,  # noqa: F811
    run: Run,  # noqa: F811
    api: Server,  # noqa: F811
    inbox_in_postgres: str,
) -> None:
    folder, settings, server = data_host
    shutil.rmtree(project.root / ".dagster")
    here = {"STRIPE_API_KEY": "", "STRIPE_TEST_API_KEY": "", "STRIPE_PIPELINE_DAGSTER_URL": server.url}
    where = "on the host of Dagster's code server, which has the warehouse"
    customer = next(iter(api.shop.collection("customers", True)))
    assert run("sync", **here).status == 0
    with closing(Inbox(folder, inbox_in_postgres)) as inbox:
        api.shop.update("customers", customer, livemode=True, name="before drain")
        inbox.add([of for event in api.shop.events(True) for of in notifications_of(event)])
        for name, options in {
            "webhooks drain": (),
            "webhooks retry": (),
            "erase": (customer, "--yes"),
            "prune --dry-run": (),
            "prove --verify": ("2026-10-live.json",),
        }.items():
            refused = run(*name.split(), *options, **here)
            assert (refused.status, refused.out) == (2, ""), name
            assert f"`stripe-pipeline {name}` {where}" in refused.err
            assert customer not in refused.err
        assert inbox.summary().waiting > 0
        assert not project.folder.root.exists()

        # The remedies: `sync` here, and the commands where the data folder is.
        assert run("sync", **here).status == 0
        assert inbox.summary().waiting == 0
    there = {
        "STRIPE_PIPELINE_DATA": f"{folder.root}",
        "STRIPE_PIPELINE_CONFIG": f"{settings}",
        "STRIPE_PIPELINE_INBOX": inbox_in_postgres,
    }
    for command in ("webhooks drain", "webhooks retry", f"erase {customer} --yes", "prune --dry-run"):
        ended = run(*command.split(), **there)
        assert ended.status == 0, ended.err
    without_web_server = run("erase", customer, "--yes", STRIPE_PIPELINE_INBOX=inbox_in_postgres)
    assert without_web_server.status == 1
    assert f"belongs to the warehouse in {folder.root} on host" in without_web_server.err


@pytest.mark.parametrize("address", ["dagster:3000", "http://user:hidden@dagster:3000", "http://"])
def test_an_address_of_no_web_server_is_refused(project: Project, run: Run, address: str) -> None:  # noqa: F811
    ended = run("sync", STRIPE_PIPELINE_DAGSTER_URL=address)
    assert ended.status == 2
    assert "STRIPE_PIPELINE_DAGSTER_URL is not the address of a web server" in ended.err
    assert "hidden" not in ended.err


def test_a_web_server_that_does_not_answer_is_named(project: Project, run: Run) -> None:  # noqa: F811
    ended = run("sync", STRIPE_PIPELINE_DAGSTER_URL=f"http://127.0.0.1:{free_port()}")
    assert ended.status == 1
    assert "does not answer as expected" in ended.err
    assert not (project.root / "data").exists()
