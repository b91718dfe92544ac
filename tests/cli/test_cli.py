"""The command line as users see it: output, exit status, and that a command that cannot work changes nothing.

`test_demo` tests how `demo` runs and ends; the tests of `sync` and the warehouse test the rows.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pty
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import dagster as dg
import duckdb
import filelock
import pytest
import sqlalchemy as sa

from stripe_emulator import Fault, Server, Shop
from stripe_pipeline.cli.instance import dagster_instance
from stripe_pipeline.cli.main import main
from stripe_pipeline.cli.processes import free_port
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import day_of, today
from stripe_pipeline.definitions import build_defs
from stripe_pipeline.errors import StripePipelineError
from stripe_pipeline.inbox.inbox import Inbox
from stripe_pipeline.inbox.notification import notifications_of
from stripe_pipeline.objects import DEFAULT_TYPES
from stripe_pipeline.warehouse.schema import FORMAT
from tests.conftest import KEYS
from tests.stripe_state import assert_equal_to_stripe
from tests.variants import varied

REPOSITORY = Path(__file__).parents[2]
COMMAND = Path(sys.executable).parent / "stripe-pipeline"
SECRET = "of_the_tests"
ACCOUNT = "acct_1OfTheTests0000"
DAYS = 3


@dataclass(frozen=True)
class Ended:
    """The exit status and the output of a command."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Project:
    """A copy of the files that a clone needs to run, with a data folder."""

    root: Path

    @property
    def folder(self) -> DataFolder:
        """The data folder."""
        return DataFolder(self.root / "data")

    def settings(self, text: str) -> None:
        """Replace the settings file."""
        (self.root / "stripe_pipeline.yaml").write_text(text, encoding="utf-8")

    def remove_dagster_storage(self) -> None:
        """Make Dagster create its databases again."""
        shutil.rmtree(self.root / ".dagster")

    def stored(self) -> tuple[object, ...]:
        """The published version, and the private file's rows and cursors."""
        with duckdb.connect(str(self.folder.private), read_only=True) as connection:
            return (
                self.folder.published.resolve(),
                connection.execute("SELECT * FROM pipeline.meta").fetchall(),
                connection.execute("SELECT * FROM pipeline.cursors ORDER BY ALL").fetchall(),
                [connection.execute(f"SELECT count(*) FROM raw.{table}").fetchall() for table in DEFAULT_TYPES],
            )


Run = Callable[..., Ended]


def make_project(root: Path) -> Project:
    """Copy the project files to `root`."""
    root.mkdir()
    for name in ("dagster.yaml", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, root)
    project = Project(root)
    project.settings(f"history: {DAYS} days")
    return project


@pytest.fixture(scope="module")
def api() -> Iterator[Server]:
    """An emulator that knows the tests' keys only; faults and permissions are reset after each test."""
    shop = Shop(account=ACCOUNT)
    shop.seed_history(DAYS)
    keys = {*KEYS.values(), f"rk_live_{SECRET}", f"rk_test_{SECRET}"}
    with Server(shop, keys=keys) as running:
        yield running


@pytest.fixture
def environment(api: Server) -> Iterator[None]:
    """The environment of a user with keys; everything that a command changes in this process is restored."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    logs = list(logging.getLogger().handlers)
    working_folder = Path.cwd()
    mask = os.umask(0o022)
    with mock.patch.dict(os.environ, KEYS | {"STRIPE_API_BASE": api.url}):
        for name in ("DAGSTER_HOME", "STRIPE_PIPELINE_DATA", "STRIPE_PIPELINE_CONFIG"):
            os.environ.pop(name, None)
        yield
    os.chdir(working_folder)
    os.umask(mask)
    logging.getLogger().handlers[:] = logs
    for number, handler in handlers.items():
        signal.signal(number, handler)
    api.faults.clear()


@pytest.fixture
def project(environment: None, tmp_path: Path, dagster_storage: Path) -> Iterator[Project]:
    """A clone in which Dagster has run, but no command; after the test, none of its files may hold a key."""
    project = make_project(tmp_path / "clone")
    shutil.copytree(dagster_storage, project.root / ".dagster")
    yield project
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), f"{path} holds a key"


@pytest.fixture
def run(project: Project, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in this process, in the project folder; keyword arguments are environment variables."""

    def run(*arguments: str, **variables: str) -> Ended:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["stripe-pipeline", *arguments])
        os.chdir(project.root)
        with mock.patch.dict(os.environ, variables):
            try:
                main()
                status = 0
            except SystemExit as end:
                status = int(end.code or 0)
        captured = capfd.readouterr()
        assert SECRET not in captured.out + captured.err
        assert "Traceback" not in captured.out + captured.err
        return Ended(status, captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def loaded_once(api: Server, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after its first load, to be copied."""
    project = make_project(tmp_path_factory.mktemp("loaded") / "clone")
    keys = {**KEYS, "STRIPE_API_BASE": api.url, "STRIPE_PIPELINE_DATA": "", "DAGSTER_HOME": ""}
    subprocess.run([COMMAND, "sync"], cwd=project.root, env={**os.environ, **keys}, check=True)
    return project


@pytest.fixture
def loaded(project: Project, loaded_once: Project) -> Project:
    """The project after its first load."""
    shutil.rmtree(project.root)
    shutil.copytree(loaded_once.root, project.root, symlinks=True)
    return project


def process(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """A command as a process of its own."""
    return subprocess.Popen(
        [COMMAND, *arguments],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def test_sync_prints_only_its_table_and_is_recorded_as_the_job(project: Project, run: Run, api: Server) -> None:
    first = run("sync")
    assert (first.status, first.err) == (0, "")
    *lines, summary = first.out.splitlines()
    assert [line.split()[0] for line in lines] == ["table", *DEFAULT_TYPES]
    assert re.fullmatch(r"[\d,]+ rows changed in \d tables, \d+ requests\.", summary)
    assert_equal_to_stripe(api.shop, project.folder.published)

    again = run("sync")
    assert (again.status, again.err) == (0, "")

    with dg.DagsterInstance.from_config(str(project.root)) as instance:
        assert [(record.job_name, record.status) for record in instance.get_runs()] == [
            ("sync", dg.DagsterRunStatus.SUCCESS)
        ] * 2
        for table in DEFAULT_TYPES:
            days = instance.get_materialized_partitions(dg.AssetKey(["raw", table]))
            assert days == {f"{today() - timedelta(days=n)}" for n in range(DAYS + 1)}


def test_prove_prints_the_verdict_and_shows_the_checks_in_dagster(loaded: Project, run: Run, api: Server) -> None:
    ended = run("prove")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.splitlines()[-1].startswith("Proved up to ")
    assert "balance ties in" in ended.out

    def checks() -> dict[str, bool]:
        """Whether the nightly checks of charges passed, as Dagster shows them."""
        names = ("proved", "each_object_once", "references_resolve")
        keys = [dg.AssetCheckKey(dg.AssetKey(["raw", "charges"]), name) for name in names]
        with dg.DagsterInstance.from_config(str(loaded.root)) as instance:
            records = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
        return {key.name: record.evaluation.passed for key, record in records.items() if record.evaluation}

    assert checks() == {"proved": True, "each_object_once": True, "references_resolve": True}
    with duckdb.connect(str(loaded.folder.private)) as connection:
        # More than a sample can correct.
        connection.execute("UPDATE raw.charges SET amount_refunded = amount_refunded + 7, _fetched_at = '2020-01-01'")
    ended = run("prove")
    assert ended.status == 1
    assert ended.out.splitlines()[-1].startswith("Not proved: amount_refunded_is_sum_of_refunds of charges")
    assert re.search(r"^failed amount_refunded_is_sum_of_refunds: charges \w+ \(live\): .*difference", ended.out, re.M)
    assert not checks()["proved"]


def test_prove_refuses_a_month_and_a_file_that_cannot_be(loaded: Project, run: Run) -> None:
    for option, value, message in (
        ("--month", "2026", "--month 2026 is not a month"),
        ("--month", f"{today():%Y-%m}", "has not ended in UTC"),
        ("--month", "2019-03", "where the history begins"),
        ("--verify", "missing.json", "missing.json does not exist"),
    ):
        ended = run("prove", option, value)
        assert ended.status == 2, option
        assert message in ended.err


def test_progress_is_shown_on_a_terminal(project: Project) -> None:
    terminal, command_end = pty.openpty()
    os.environ["TERM"] = "xterm"
    with subprocess.Popen(
        [COMMAND, "sync"], cwd=project.root, stdout=subprocess.PIPE, stderr=command_end, start_new_session=True
    ) as command:
        os.close(command_end)
        shown = b""
        with contextlib.suppress(OSError):  # raised once no process has the terminal open
            while chunk := os.read(terminal, 4096):
                shown += chunk
        assert command.wait(60) == 0
    os.close(terminal)
    for expected in ("Reading from Stripe", "charges", f"{DAYS + 1}/{DAYS + 1}", "Recording the run in Dagster"):
        assert expected in shown.decode()


def test_a_relative_data_folder_is_relative_to_the_working_folder(project: Project) -> None:
    project.remove_dagster_storage()
    below = project.root / "notes"
    below.mkdir()
    os.environ["STRIPE_PIPELINE_DATA"] = "here"
    with process("sync", cwd=below) as command:
        out, err = command.communicate(timeout=60)
    assert (command.returncode, err) == (0, "")
    assert "charges" in out
    assert DataFolder(below / "here").published.exists()
    assert (project.root / ".dagster").is_dir()
    assert not (below / ".dagster").exists()
    assert not project.folder.root.exists()


def test_drain_applies_the_notifications_of_the_inbox_and_reports_to_dagster(
    loaded: Project, run: Run, api: Server
) -> None:
    customer, name = next((obj["id"], obj["name"]) for obj in api.shop.objects("customers", True).values())
    api.shop.update("customers", customer, livemode=True, name="by webhook")
    [notification] = [notification for event in api.shop.events(True)[:1] for notification in notifications_of(event)]
    inbox = Inbox(loaded.folder)
    inbox.add([notification])

    api.faults.append(Fault(path="/v1/customers", status=403, times=None))
    refused = run("webhooks", "drain")
    assert (refused.status, "0 events applied." in refused.out) == (1, True)
    assert refused.err.startswith("error: customers not updated: ")
    with duckdb.connect(str(loaded.folder.published), read_only=True) as connection:
        notifications = connection.execute("SELECT object_id, attempts, state FROM pipeline.inbox").fetchall()
    assert notifications == [(customer, 0, "waiting")]

    api.faults.clear()
    done = run("webhooks", "drain")
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[-1] == "1 event applied."
    with duckdb.connect(str(loaded.folder.published), read_only=True) as connection:
        assert connection.execute("SELECT name FROM live.customers WHERE id = ?", [customer]).fetchall() == [
            ("by webhook",)
        ]
    with dg.DagsterInstance.from_config(str(loaded.root)) as instance:
        latest = instance.get_latest_materialization_event(dg.AssetKey(["raw", "customers"]))
        assert latest
        assert latest.run_id == "", "reported without a run"
        assert latest.asset_materialization
        assert latest.asset_materialization.metadata["updated"].value == 1
    again = run("webhooks", "drain")
    assert (again.status, again.out) == (0, "0 requests, nothing new.\n0 events applied.\n")
    api.shop.update("customers", customer, livemode=True, name=name, announce=False)  # all tests share the shop


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["half", "noise"])
def test_a_damaged_inbox_is_named_and_can_be_moved_away(loaded: Project, run: Run, api: Server, how: str) -> None:
    customer = next(iter(api.shop.objects("customers", True)))
    api.shop.update("customers", customer, livemode=True, name="told before")
    api.faults.append(Fault(path="/v1/customers", status=403, times=None))
    assert run("sync").status == 1
    api.shop.clock.advance(3600)
    assert run("sync").status == 1
    api.faults.clear()

    inbox = loaded.folder.inbox
    content = inbox.read_bytes()
    inbox.write_bytes(content[: len(content) // 2] if how == "half" else random.Random(1).randbytes(len(content)))
    for command in (["sync"], ["webhooks", "drain"], ["webhooks", "retry"], ["webhooks", "adopt"]):
        ended = run(*command)
        assert (ended.status, ended.err.count("\n")) == (1, 1)
        assert f"The inbox {inbox} is damaged" in ended.err
        assert "move it away together with inbox.sqlite-wal and inbox.sqlite-shm" in ended.err
    for name in ("inbox.sqlite", "inbox.sqlite-wal", "inbox.sqlite-shm"):
        with contextlib.suppress(FileNotFoundError):
            (loaded.folder.root / name).rename(loaded.root / name)
    ended = run("sync")
    assert (ended.status, ended.err) == (0, "")
    assert "Stripe's events of the last 30 days were read again" in ended.out
    assert_equal_to_stripe(api.shop, loaded.folder.published)


@pytest.mark.thorough
def test_an_inbox_of_another_data_folder_is_refused_until_it_is_adopted(
    loaded: Project, run: Run, api: Server, tmp_path: Path
) -> None:
    owner = {"STRIPE_PIPELINE_INBOX": f"sqlite:///{tmp_path / 'shared.sqlite'}"}
    assert run("sync", **owner).status == 0
    other = owner | {"STRIPE_PIPELINE_DATA": str(tmp_path / "other")}
    api.shop.create_customer(name="Grace", livemode=True)
    inbox = Inbox(loaded.folder, owner["STRIPE_PIPELINE_INBOX"])
    inbox.add([notification for event in api.shop.events(True)[:1] for notification in notifications_of(event)])
    for command in (["sync"], ["webhooks", "drain"], ["prune"]):
        ended = run(*command, **other)
        assert (ended.status, ended.err.count("\n")) == (1, 1)
        assert f"belongs to the warehouse in {loaded.folder.root}. Name another database" in ended.err
    assert inbox.summary().waiting == 1
    inbox.close()
    adopted = run("webhooks", "adopt", **other)
    assert (adopted.status, adopted.err) == (0, "")
    assert "The inbox belongs to this data folder;" in adopted.out
    assert run("sync", **other).status == 0
    assert_equal_to_stripe(api.shop, DataFolder(tmp_path / "other").published)
    assert run("sync", **owner).status == 1


def test_backfill_lists_the_days_and_tables_of_its_options(loaded: Project, run: Run, api: Server) -> None:
    assert run("sync").status == 0  # other tests have changed the shop since the data folder was loaded
    first, last = today() - timedelta(days=2), today() - timedelta(days=1)
    silent, before = next(
        (charge, obj["description"])
        for charge, obj in api.shop.objects("charges", True).items()
        if day_of(obj["created"]) == first
    )
    api.shop.update("charges", silent, livemode=True, description="changed without a word", announce=False)
    api.requests.clear()
    done = run("backfill", "--from", f"{first}", "--to", f"{last}", "--only", "charges,refunds", "--only", "disputes")
    assert (done.status, done.err) == (0, "")
    # The check `proved` of the tables reads the balance, and no sample.
    assert {request.path for request in api.requests} == {"/v1/charges", "/v1/refunds", "/v1/disputes", "/v1/balance"}
    assert_equal_to_stripe(api.shop, loaded.folder.published)
    api.shop.update("charges", silent, livemode=True, description=before, announce=False)
    with dg.DagsterInstance.from_config(str(loaded.root)) as instance:
        [latest] = instance.get_run_records(limit=1)
        planned = instance.all_logs(latest.dagster_run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
        materialized = {
            (event.asset_key.to_user_string(), event.partition)
            for event in (log.get_dagster_event() for log in planned)
            if event.asset_key and event.partition  # views have none
        }
    assert materialized == {(f"raw/{t}", f"{d}") for t in ("charges", "refunds", "disputes") for d in (first, last)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["backfill", "--from", "yesterday", "--to", "2026-01-02"], "yesterday is not a date"),
        (["backfill", "--from", "2026-01-02"], "Missing option '--to'"),
        (["backfill", "--from", f"{today()}", "--to", f"{today() - timedelta(days=1)}"], "--from"),
        (["backfill", "--from", f"{today()}", "--to", f"{today() + timedelta(days=1)}"], "is in the future"),
        (["backfill", "--from", "2011-01-01", "--to", f"{today()}"], "set `history`"),
        (["backfill", "--from", f"{today()}", "--to", f"{today()}", "--only", "charges,chrages"], "names chrages"),
        (["backfill", "--from", f"{today()}", "--to", f"{today()}", "--only", ""], "names no table"),
        (["snyc"], "No such command"),
        (["sync", "--fast"], "No such option"),
        (["demo", "--port", "70000"], "--port"),
        (["demo", "--port", "5555", "--emulator-port", "5555"], "--port and --emulator-port cannot both be 5555"),
        (["demo", "--emulator-port", "5555", "--webhook-port", "5555"], "--emulator-port and --webhook-port cannot"),
    ],
)
def test_invalid_arguments_are_refused(project: Project, run: Run, arguments: list[str], message: str) -> None:
    ended = run(*arguments)
    assert (ended.status, ended.out) == (2, "")
    assert message in ended.err
    assert ended.err.lower().count("error:") == 1
    assert not project.folder.private.exists()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"STRIPE_API_KEY": "", "STRIPE_TEST_API_KEY": " "}, "No Stripe API key is set. Set STRIPE_API_KEY"),
        ({"STRIPE_API_KEY": f"pk_live_{SECRET}"}, "STRIPE_API_KEY does not hold a Stripe secret or restricted key"),
        ({"STRIPE_API_KEY": f"sk_test_{SECRET}2"}, "are keys of the same mode"),
        ({"STRIPE_API_KEY": "", "STRIPE_TEST_API_KEY": f"sk_live_{SECRET}"}, "STRIPE_TEST_API_KEY holds a live key"),
        ({"STRIPE_API_BASE": "api.stripe.com"}, "STRIPE_API_BASE is 'api.stripe.com'"),
        ({"STRIPE_PIPELINE_INBOX": "localhost/inbox"}, "STRIPE_PIPELINE_INBOX is not the address of a usable database"),
        ({"DAGSTER_HOME": "here"}, "DAGSTER_HOME is here"),
        ({"DAGSTER_HOME": "/nowhere/at/all"}, "DAGSTER_HOME is /nowhere/at/all"),
        ({"STRIPE_PIPELINE_CONFIG": "/[red]not[/red]/there.yaml"}, "/[red]not[/red]/there.yaml does not exist"),
    ],
)
def test_an_invalid_environment_is_refused(loaded: Project, run: Run, variables: dict[str, str], message: str) -> None:
    before = loaded.stored()
    ended = run("sync", **variables)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert message in ended.err
    assert len(ended.err.splitlines()) == 1
    assert loaded.stored() == before


@pytest.mark.parametrize("command", ["sync", "check", "webhooks list"])
@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SSL_CERT_FILE": "/no/such.pem"}, "SSL_CERT_FILE names /no/such.pem, which cannot be read (No such file"),
        ({"SSL_CERT_FILE": "/"}, "SSL_CERT_FILE names /, which cannot be read (Is a directory"),
        ({"SSL_CERT_FILE": __file__}, "test_cli.py, which holds no certificates (PEM)"),
        ({"SSL_CERT_DIR": "/no/such"}, "SSL_CERT_DIR names /no/such, which is not a folder"),
        ({"HTTPS_PROXY": "socks5://me:secret@proxy.example.com:1080"}, "HTTPS_PROXY is not the address of an http"),
        ({"https_proxy": "proxy.example.com:3128"}, "https_proxy is not the address of an http"),
        ({"ALL_PROXY": "http://proxy.example.com:port"}, "ALL_PROXY is not the address of an http"),
    ],
)
def test_unusable_certificates_and_proxies_are_refused(
    project: Project, run: Run, monkeypatch: pytest.MonkeyPatch, command: str, variables: dict[str, str], message: str
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    ended = run(*command.split(), **{"STRIPE_API_BASE": "https://stripe.invalid"} | variables)
    assert (ended.status, ended.out) == (2, "")
    assert message in ended.err
    assert "or unset it" in ended.err
    assert len(ended.err.splitlines()) == 1
    assert "secret@" not in ended.err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("objects: [", "is not YAML: line 1, column 11"),
        ("rate: {share: 80%}\nwarp: 9", "`warp` is not a known key. Correct it, or upgrade stripe_pipeline"),
        ("history: long", "`history` should be a date"),
        ("objects: {chrages: {}}", "`objects.chrages` is not an object type (did you mean charges?)"),
    ],
)
def test_invalid_settings_are_refused(loaded: Project, run: Run, settings: str, message: str) -> None:
    before = loaded.stored()
    loaded.settings(settings)
    for arguments in (["sync"], ["check"], ["dev"]):
        ended = run(*arguments)
        assert (ended.status, ended.out) == (2, "")
        assert message in ended.err
        assert "stripe_pipeline.yaml" in ended.err
        assert len(ended.err.splitlines()) == 1
    assert loaded.stored() == before


def test_a_disabled_type_cannot_be_backfilled(project: Project, run: Run) -> None:
    project.settings("objects: {disputes: {enabled: false}}")
    ended = run("backfill", "--from", f"{today()}", "--to", f"{today()}", "--only", "disputes")
    assert (ended.status, ended.out) == (2, "")
    assert "the settings switch disputes off" in ended.err


def assert_refused(ended: Ended, *parts: str) -> None:
    """Fail unless the command printed one error, in one line with these parts, and had the exit status 1."""
    assert ended.status == 1
    assert ended.err.startswith("error: ")
    assert len(ended.err.splitlines()) == 1, ended.err
    for part in parts:
        assert part in ended.err


def test_a_key_that_stripe_does_not_know(loaded: Project, run: Run) -> None:
    before = loaded.stored()
    wrong = {"STRIPE_API_KEY": f"sk_live_{SECRET}_wrong", "STRIPE_TEST_API_KEY": ""}
    assert_refused(run("sync", **wrong), "Stripe does not accept the live key", "Check STRIPE_API_KEY")
    assert_refused(run("check", **wrong), "Stripe does not accept the live key", "Check STRIPE_API_KEY")
    assert loaded.stored() == before


def test_a_key_that_may_not_read_everything(project: Project, run: Run, api: Server) -> None:
    restricted = {name: key.replace("sk_", "rk_") for name, key in KEYS.items()}
    api.deny("charges")
    try:
        ended = run("sync", **restricted)
        checked = run("check", **restricted)
    finally:
        api.allow("charges")
    assert_refused(ended, "charges not updated", "'rak_charge_read'", "Add the permission", "disable the object")
    assert [line.split()[:2] for line in ended.out.splitlines() if "failed" in line] == [["charges", "failed"]]
    with duckdb.connect(str(project.folder.published), read_only=True) as connection:
        full = {table for table in DEFAULT_TYPES if connection.execute(f"SELECT 1 FROM raw.{table}").fetchone()}
    at_stripe = {table for table in DEFAULT_TYPES for mode in (True, False) if api.shop.objects(table, mode)}
    assert full == at_stripe - {"charges"}

    assert checked.status == 1
    assert "Add the permission" in checked.err
    # With the permission, the next sync loads the missing rows.
    assert run("check", **restricted).status == run("sync", **restricted).status == 0
    assert_equal_to_stripe(api.shop, project.folder.published)


def test_an_unreachable_api(loaded: Project, run: Run) -> None:
    before = loaded.stored()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening: connections are refused
        ended = run("sync", STRIPE_API_BASE=f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert_refused(ended, "Connection refused", "Check the network, STRIPE_API_BASE")
    assert loaded.stored() == before


@pytest.mark.thorough
def test_an_api_that_answers_with_html(loaded: Project, run: Run, api: Server) -> None:
    before = loaded.stored()
    api.faults.append(Fault(path="/v1/(?!account)", body="<html>[Sign in]</html>", times=None))
    day = f"{today()}"
    # Each table fails with the same error, which is printed once.
    ended = run("backfill", "--from", day, "--to", day)
    assert_refused(ended, *DEFAULT_TYPES, "not updated: GET /v1/", "text/html", "Check the network, STRIPE_API_BASE")
    api.faults[:] = [Fault(body="<html>[Sign in]</html>", times=None)]
    assert_refused(run("backfill", "--from", day, "--to", day), "text/html", "Check the network, STRIPE_API_BASE")
    assert loaded.stored() == before


def test_a_damaged_private_file_is_left_unchanged_by_other_commands_and_restored_by_the_next_run(
    loaded: Project, run: Run, api: Server
) -> None:
    published = loaded.folder.published.resolve()
    loaded.folder.private.write_bytes(b"\0" * 100_000)
    for command in (("check",), ("prune", "--dry-run"), ("demo", "--port", f"{free_port()}")):
        assert_refused(run(*command), f"{loaded.folder.private} cannot be read", "`stripe-pipeline sync`", "clean`")
    assert loaded.folder.published.resolve() == published
    assert loaded.folder.private.read_bytes() == b"\0" * 100_000
    restored = run("sync")
    assert restored.status == 0
    assert f"The warehouse {loaded.folder.private} is damaged" in restored.out
    assert_equal_to_stripe(api.shop, loaded.folder.published)
    assert "damaged" not in run("sync").out


def test_a_private_file_of_another_program(project: Project, run: Run) -> None:
    project.folder.prepare()
    with duckdb.connect(str(project.folder.private)) as connection:
        connection.execute("CREATE TABLE mine AS SELECT 42 AS answer")
    assert_refused(run("sync"), f"{project.folder.private} is a DuckDB file of another program")
    with duckdb.connect(str(project.folder.private)) as connection:
        assert connection.execute("SELECT table_schema, table_name FROM information_schema.tables").fetchall() == [
            ("main", "mine")
        ]


def test_a_private_file_that_another_program_has_open(loaded: Project, run: Run) -> None:
    before = loaded.stored()
    hold = f"import duckdb; c = duckdb.connect({str(loaded.folder.private)!r}); print('open', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        holder.stdout.readline()
        assert_refused(run("sync"), f"PID {holder.pid}", "close that program", "stripe.duckdb instead")
        holder.communicate("\n")
    assert loaded.stored() == before


def test_a_private_file_of_a_newer_version(loaded: Project, run: Run) -> None:
    with duckdb.connect(str(loaded.folder.private)) as connection:
        connection.execute("UPDATE pipeline.meta SET format = 99")
    before = loaded.stored()
    assert_refused(run("sync"), "was written by a newer stripe_pipeline", "Upgrade")
    assert loaded.stored() == before


def test_a_private_file_of_an_earlier_version(loaded: Project, run: Run) -> None:
    with duckdb.connect(str(loaded.folder.private)) as connection:
        connection.execute("ALTER TABLE pipeline.coverage DROP COLUMN listed")
        connection.execute("UPDATE pipeline.meta SET format = 2")
    checked = run("check")
    assert (checked.status, checked.err) == (0, "")
    assert run("sync").status == 0
    upgraded = "SELECT bool_or(listed IS NULL), max(format) FROM pipeline.coverage, pipeline.meta"
    with duckdb.connect(str(loaded.folder.private)) as connection:
        assert connection.execute(upgraded).fetchall() == [(True, FORMAT)]


def test_a_data_folder_of_another_account(loaded: Project, run: Run) -> None:
    before = loaded.stored()
    with Server(Shop(account="acct_1Other")) as other:
        different = {name: f"{key}_of_another_account" for name, key in KEYS.items()}
        ended = run("sync", STRIPE_API_BASE=other.url, **different)
    assert_refused(ended, f"holds account {ACCOUNT}, this key is of acct_1Other", "STRIPE_PIPELINE_DATA")
    assert loaded.stored() == before


def test_a_data_folder_that_cannot_be_written(project: Project, run: Run) -> None:
    project.folder.root.write_text("not a folder")
    assert_refused(run("sync"), f"{project.folder.root} cannot be written", "STRIPE_PIPELINE_DATA")
    assert_refused(run("demo", "--port", f"{free_port()}"), f"{project.folder.root} cannot be written")
    assert_refused(run("sync", STRIPE_PIPELINE_DATA="/proc/stripe"), "/proc/stripe cannot be written")


def test_a_dagster_storage_that_cannot_be_written(project: Project, run: Run) -> None:
    project.remove_dagster_storage()
    (project.root / ".dagster").write_text("not a folder")
    assert_refused(run("sync"), "Dagster cannot use its storage", f"Correct dagster.yaml in {project.root}")


@pytest.mark.parametrize(
    ("name", "how"),
    varied(
        [
            ("history/runs/index.db", "half"),
            ("history/runs/index.db", "noise inside"),
            ("history/runs.db", "noise"),
            ("schedules/schedules.db", "half"),
        ]
    ),
)
def test_a_damaged_file_of_dagsters_history_is_named_and_can_be_moved_away(
    loaded: Project, run: Run, api: Server, name: str, how: str
) -> None:
    file = loaded.root / ".dagster" / name
    content = file.read_bytes()
    noise = random.Random(1).randbytes(len(content))
    file.write_bytes(
        {"half": content[: len(content) // 2], "noise": noise, "noise inside": content[:4096] + noise[4096:]}[how]
    )
    api.shop.create_customer(name="Ada")
    api.requests.clear()
    commands = [["sync"]]
    if name.endswith("index.db") and how == "half":
        commands += [["backfill", "--from", f"{today()}", "--to", f"{today()}"], ["prune"], ["webhooks", "drain"]]
    for command in commands:
        ended = run(*command)
        assert (ended.status, ended.out, ended.err.count("\n")) == (1, "", 1)
        assert f"The file {file} of Dagster's run history is damaged" in ended.err
        assert f"move the folder {loaded.root / '.dagster'} away and run again" in ended.err
    assert not api.requests, "the damage is found before a request to Stripe"
    (loaded.root / ".dagster").rename(loaded.root / "moved away")
    ended = run("sync")
    assert (ended.status, ended.err) == (0, "")
    assert_equal_to_stripe(api.shop, loaded.folder.published)


def test_a_dagster_history_that_cannot_be_written_is_not_called_damaged(
    loaded: Project, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = loaded.root / ".dagster/history/runs/index.db"
    index.rename(index.with_suffix(".elsewhere"))
    index.mkdir()
    ended = run("sync")
    assert (ended.status, ended.err.count("\n")) == (1, 1)
    assert "cannot be read or written (unable to open database file). Give this user write access" in ended.err
    index.rmdir()
    index.with_suffix(".elsewhere").rename(index)
    monkeypatch.setenv("DAGSTER_HOME", str(loaded.root))
    full = sa.create_engine("sqlite://").connect()
    full.exec_driver_sql("PRAGMA max_page_count = 1")
    message = r"no space left for Dagster's run history .*\(database or disk is full\)"
    with full, pytest.raises(StripePipelineError, match=message), dagster_instance():
        full.exec_driver_sql("CREATE TABLE larger (x)")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (b"storage: [", "expected the node content, but found"),
        (b"# f\xfcr", "can't decode byte"),
        (b"warp: 9", "Error 1: Received unexpected config entry"),
        (
            b"storage: {mysql: {mysql_db: {hostname: h, db_name: d, username: u, password: p}}}",
            "dagster_mysql",
        ),
    ],
)
def test_a_dagster_yaml_that_cannot_be_used(project: Project, run: Run, written: bytes, message: str) -> None:
    (project.root / "dagster.yaml").write_bytes(written)
    assert_refused(run("sync"), "Dagster cannot use its storage", message, f"Correct dagster.yaml in {project.root}")


@pytest.mark.thorough
def test_simultaneous_first_runs_create_dagsters_storage_once(project: Project) -> None:
    project.remove_dagster_storage()
    running = [process("sync", cwd=project.root) for _ in range(2)]
    ended = [(command.communicate()[1], command.returncode) for command in running]
    assert ended == [("", 0)] * 2


def test_an_env_file_that_cannot_be_read(project: Project, run: Run) -> None:
    (project.root / ".env").write_bytes(b"# f\xfcr mich\n")
    ended = run("sync")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert ".env cannot be read (it is not UTF-8). Save it as UTF-8." in ended.err


def test_an_env_file_that_this_user_may_not_read(project: Project, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    file = project.root / ".env"
    file.touch()
    # Tests may run as root, which may read every file.
    denied = mock.Mock(side_effect=PermissionError(errno.EACCES, "Permission denied", ".env"))
    monkeypatch.setattr("stripe_pipeline.cli.app.dotenv_values", denied)
    ended = run("sync")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    me = pwd.getpwuid(os.geteuid()).pw_name
    assert f"{file} cannot be read (Permission denied). Give {me} read and write access to {file}" in ended.err


def test_paths_in_the_env_file_may_begin_at_home_or_in_the_project(project: Project, run: Run) -> None:
    (project.root / ".env").write_text("STRIPE_PIPELINE_CONFIG=~/nowhere.yaml\n")
    assert f"The settings file {Path.home()}/nowhere.yaml does not exist" in run("sync").err
    (project.root / ".env").write_text("STRIPE_PIPELINE_CONFIG=nowhere.yaml\n")
    assert f"The settings file {project.root}/nowhere.yaml does not exist" in run("sync").err


def test_demo_reads_the_settings_before_it_starts_anything(project: Project, run: Run) -> None:
    ended = run("demo", "--port", f"{free_port()}", STRIPE_PIPELINE_CONFIG="nowhere.yaml")
    assert (ended.status, ended.out) == (2, "")
    assert "nowhere.yaml does not exist" in ended.err
    assert not project.folder.root.exists()


def test_keys_may_be_in_the_env_file_that_dagster_reads(project: Project, run: Run) -> None:
    (project.root / ".env").write_text("STRIPE_API_KEY=nonsense\n")
    assert "STRIPE_API_KEY does not hold" in run("sync").err
    refused = run("demo")
    assert refused.status == 2
    assert "The file .env sets STRIPE_API_KEY" in refused.err
    assert not project.folder.root.exists()


@pytest.mark.parametrize(("command", "number"), [("sync", signal.SIGINT), ("check", signal.SIGTERM)])
def test_a_signal_stops_a_command_at_once(project: Project, api: Server, command: str, number: signal.Signals) -> None:
    api.faults.append(Fault(path="/v1/charges", delay=1, times=None))
    api.requests.clear()
    with process(command, cwd=project.root) as running:
        while not any(request.path == "/v1/charges" for request in api.requests):
            assert running.poll() is None
            time.sleep(0.05)
        running.send_signal(number)
        _, err = running.communicate(timeout=15)
    assert (running.returncode, err) == (130, "Stopped.\n")


def test_a_run_that_was_killed_does_not_keep_the_schedule_waiting(
    project: Project, api: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.faults.append(Fault(path="/v1/charges", delay=60, times=None))
    api.requests.clear()
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("DAGSTER_HOME", str(project.root))
    with process("sync", cwd=project.root) as running, contextlib.ExitStack() as open_:
        while not any(request.path == "/v1/charges" for request in api.requests):
            assert running.poll() is None
            time.sleep(0.05)
        instance = open_.enter_context(dg.DagsterInstance.get())
        defs = build_defs()
        every_15_minutes = defs.resolve_schedule_def("sync_every_15_minutes")
        context = open_.enter_context(
            dg.build_schedule_context(
                instance, datetime.now(UTC), resources=defs.resources, repository_def=defs.get_repository_def()
            )
        )
        [lock] = project.folder.runs.iterdir()
        for modified in (time.time(), 0):
            os.utime(lock, (modified, modified))
            assert not every_15_minutes.evaluate_tick(context).run_requests
        running.kill()
        running.communicate(timeout=15)
        os.utime(lock, (0, 0))  # some seconds later
        assert every_15_minutes.evaluate_tick(context).run_requests
        [run] = instance.get_runs()
        assert run.status is dg.DagsterRunStatus.FAILURE
        assert list(project.folder.runs.iterdir()) == []


def test_a_command_reports_a_run_that_was_killed_as_failed(project: Project, api: Server, run: Run) -> None:
    """As with cron, where no schedule ticks."""
    api.faults.append(Fault(path="/v1/charges", delay=60, times=None))
    api.requests.clear()
    with process("sync", cwd=project.root) as running:
        while not any(request.path == "/v1/charges" for request in api.requests):
            assert running.poll() is None
            time.sleep(0.05)
        running.kill()
        running.communicate(timeout=15)
    [lock] = project.folder.runs.iterdir()
    os.utime(lock, (0, 0))  # some seconds later
    api.faults.clear()
    assert run("webhooks", "drain").status == 0
    with mock.patch.dict(os.environ, {"DAGSTER_HOME": str(project.root)}), dg.DagsterInstance.get() as instance:
        [killed] = instance.get_runs()
        assert killed.status is dg.DagsterRunStatus.FAILURE
    assert not lock.exists()


def test_dev_needs_a_key_and_data_of_an_account(project: Project, run: Run) -> None:
    ended = run("dev", STRIPE_API_KEY="", STRIPE_TEST_API_KEY="")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("error: No Stripe API key is set. ")
    with Server(Shop()) as demo_shop:
        assert run("sync", STRIPE_API_BASE=demo_shop.url).status == 0
    ended = run("dev", "--port", f"{free_port()}", STRIPE_API_BASE="")
    assert (ended.status, ended.out) == (2, "")
    assert "holds the demo's shop. Remove it with `stripe-pipeline clean`" in ended.err


def test_dev_needs_the_webhook_port_where_a_signing_secret_is_set(project: Project, run: Run) -> None:
    ended = run("dev", STRIPE_TEST_WEBHOOK_SECRET="we_01234")
    assert (ended.status, ended.out) == (2, "")
    assert "STRIPE_TEST_WEBHOOK_SECRET does not hold a webhook signing secret" in ended.err
    project.folder.prepare()
    with socket.socket() as taken, filelock.FileLock(project.folder.running):
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = f"{taken.getsockname()[1]}"
        ended = run("dev", "--port", f"{free_port()}", "--webhook-port", port, STRIPE_WEBHOOK_SECRET=f"whsec_{SECRET}")
        assert (ended.status, ended.out) == (2, "")
        assert f"Port {port} of 127.0.0.1 cannot be used" in ended.err
        assert "with --webhook-port" in ended.err
        ended = run("dev", "--port", f"{free_port()}", "--webhook-port", port)
    assert "Another `stripe-pipeline demo` or `dev` is using" in ended.err


def test_demo_leaves_an_accounts_data_alone(loaded: Project, run: Run) -> None:
    before = loaded.stored()
    ended = run("demo", "--port", f"{free_port()}")
    assert (ended.status, ended.out) == (2, "")
    assert f"data holds data of {ACCOUNT}" in ended.err
    assert loaded.stored() == before


def test_demo_starts_nothing_while_another_demo_runs(project: Project, run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for option in ("--port", "--emulator-port", "--webhook-port"):
            ports = {"--port": free_port()} | {option: port}
            ended = run("demo", *(f"{part}" for pair in ports.items() for part in pair))
            assert (ended.status, ended.out) == (2, "")
            assert f"Port {port} of 127.0.0.1 cannot be used" in ended.err
            assert f"with {option}" in ended.err
    project.folder.prepare()
    with filelock.FileLock(project.folder.running):
        ended = run("demo", "--port", f"{free_port()}")
    assert (ended.status, ended.out) == (2, "")
    assert "Another `stripe-pipeline demo` or `dev` is using the data folder data" in ended.err


def test_help_and_version(run: Run) -> None:
    assert run().out == run("--help").out
    for command in ("sync", "backfill", "check", "dev", "demo"):
        assert command in run("--help").out
        helped = run(command, "--help")
        assert (helped.status, helped.err) == (0, "")
        assert max(map(len, helped.out.splitlines())) <= 80
    assert run("--version").out.startswith("stripe-pipeline 0.")
