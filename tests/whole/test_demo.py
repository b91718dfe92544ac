"""`stripe-pipeline demo` from its start to its end, and processes that end by themselves."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest

from stripe_pipeline.cli.processes import HOST, ProcessEnded, Processes, claim_port, free_port
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import today
from stripe_pipeline.errors import PortTaken
from stripe_pipeline.objects import DEFAULT_TYPES

REPOSITORY = Path(__file__).parents[2]
COMMAND = Path(sys.executable).parent / "stripe-pipeline"
DAYS = 5

Start = Callable[..., subprocess.Popen[str]]


def wait_until(condition: Callable[[], Any], *, seconds: float = 60) -> None:
    """Wait for a condition; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.1)


def started_by(pid: int) -> dict[int, str]:
    """The command lines, by process id, of a process's children and of all that share a session with one of them."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,sess=,args="], capture_output=True, text=True, check=True)
    processes = [line.split(None, 3) for line in listed.stdout.splitlines()]
    sessions = {session for _, parent, session, _ in processes if int(parent) == pid}
    return {int(child): arguments for child, _, session, arguments in processes if session in sessions}


def alive(pids: dict[int, str]) -> dict[int, str]:
    """Those of the processes that have not ended."""
    listed = subprocess.run(["ps", "-eo", "pid=,stat="], capture_output=True, text=True, check=True)
    running = {int(line.split()[0]) for line in listed.stdout.splitlines() if not line.split()[1].startswith("Z")}
    return {pid: arguments for pid, arguments in pids.items() if pid in running}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the files that a clone needs to run."""
    root = tmp_path / "clone"
    root.mkdir()
    for name in ("dagster.yaml", "pyproject.toml", "stripe_pipeline.yaml"):
        shutil.copy(REPOSITORY / name, root)
    return root


@pytest.fixture
def start(clone: Path) -> Iterator[Start]:
    """Starts a demo; ends the processes that a failed test leaves running."""
    started: list[subprocess.Popen[str]] = []
    unset = {"DAGSTER_HOME", "PYTHONDONTWRITEBYTECODE"}
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("STRIPE_") and name not in unset
    }

    def start(port: int, **variables: str) -> subprocess.Popen[str]:
        command = [str(COMMAND), "demo", "--port", f"{port}", "--trade-every", "0.2"]
        with (clone / "out").open("w") as out, (clone / "err").open("w") as err:
            process = subprocess.Popen(
                command,
                cwd=clone,
                # Everything that the demo starts is on this machine and must not use a proxy.
                env=environment | {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"} | variables,
                stdout=out,
                stderr=err,
                text=True,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


def output_of(clone: Path) -> str:
    """The demo's output so far."""
    return (clone / "out").read_text() + (clone / "err").read_text()


def ask(port: int, query: str, **variables: object) -> Any:
    """The data of a GraphQL answer of Dagster."""
    response = httpx.post(f"http://{HOST}:{port}/graphql", json={"query": query, "variables": variables}, timeout=60)
    answer = response.json()
    assert "errors" not in answer, answer["errors"]
    return answer["data"]


PARTITIONS = """
{ assetNodes { assetKey { path } partitionStats { numPartitions numMaterialized numFailed } } }
"""
SCHEDULES = """
{ schedulesOrError(repositorySelector: {repositoryName: "__repository__", repositoryLocationName: "stripe_pipeline"}) {
    ... on Schedules { results { name scheduleState { status } } } } }
"""
TICKS = """
{ sensorOrError(sensorSelector: {
    repositoryName: "__repository__", repositoryLocationName: "stripe_pipeline", sensorName: "webhook_refresh" }) {
    ... on Sensor { sensorState { ticks { skipReason } } } } }
"""
BACKFILL = """
mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }
"""
BACKFILL_STATUS = """
query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }
"""


def count(folder: DataFolder, table: str) -> int:
    """Rows of a published table or view."""
    with duckdb.connect(str(folder.published), read_only=True) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])


@pytest.mark.thorough
def test_demo_from_start_to_end(clone: Path, start: Start) -> None:
    port = free_port()
    (clone / "stripe_pipeline.yaml").write_text(f"history: {DAYS} days")
    demo = start(port, STRIPE_PIPELINE_CONFIG="stripe_pipeline.yaml")
    wait_until(lambda: "Ctrl-C stops everything." in output_of(clone) or demo.poll() is not None, seconds=180)
    assert demo.poll() is None, output_of(clone)
    assert f"http://{HOST}:{port}" in output_of(clone)
    assert (clone / "err").read_text() == ""
    folder = DataFolder(clone / "data")

    stats = {tuple(node["assetKey"]["path"]): node["partitionStats"] for node in ask(port, PARTITIONS)["assetNodes"]}
    for table in DEFAULT_TYPES:
        assert stats["raw", table] == {
            "numPartitions": DAYS + 1,
            "numMaterialized": DAYS + 1,
            "numFailed": 0,
        }
    schedules = {
        schedule["name"]: schedule["scheduleState"]["status"]
        for schedule in ask(port, SCHEDULES)["schedulesOrError"]["results"]
    }
    assert schedules["sync_every_15_minutes"] == "RUNNING"

    # Webhooks bring in further changes of the shop.
    [webhooks] = [line.split()[1] for line in output_of(clone).splitlines() if line.startswith("  Webhooks ")]
    assert httpx.get(webhooks.replace("/webhooks/stripe", "/health")).json()["stored"] > 0
    charges = count(folder, "raw.charges")
    wait_until(lambda: count(folder, "raw.charges") > charges)

    def sensor_has_applied_events() -> bool:
        ticks = ask(port, TICKS)["sensorOrError"]["sensorState"]["ticks"]
        return any((tick["skipReason"] or "").startswith("Applied ") for tick in ticks)

    wait_until(sensor_has_applied_events)

    # A backfill from the UI lists the last days once more.
    launched_at = datetime.now(UTC)
    days = [f"{today() - timedelta(days=n)}" for n in (2, 1, 0)]
    params = {"assetSelection": [{"path": ["raw", table]} for table in DEFAULT_TYPES], "partitionNames": days}
    launched = ask(port, BACKFILL, params=params)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    finished = {"COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED"}
    status = ""

    def backfill_has_finished() -> bool:
        nonlocal status
        status = ask(port, BACKFILL_STATUS, id=launched["backfillId"])["partitionBackfillOrError"]["status"]
        return status in finished

    wait_until(backfill_has_finished, seconds=120)
    assert status == "COMPLETED_SUCCESS"
    with duckdb.connect(str(folder.published), read_only=True) as connection:
        listed = connection.execute(
            "SELECT count(*) FROM pipeline.coverage"
            " WHERE listed_at >= ? AND list_contains(?, day::VARCHAR) AND livemode",
            [launched_at, days],
        ).fetchall()
        doubled = connection.execute("SELECT id FROM raw.charges GROUP BY ALL HAVING count(*) > 1").fetchall()
    assert listed == [(len(DEFAULT_TYPES) * len(days),)]
    assert doubled == []

    below = started_by(demo.pid)
    assert len(below) >= 6  # the receiver, the emulator, Dagster and its children
    assert not [arguments for arguments in below.values() if "whsec_" in arguments or "sk_" in arguments]
    demo.send_signal(signal.SIGINT)
    assert demo.wait(30) == 0
    assert output_of(clone).endswith("Stopping …\nStopped.\n")
    assert alive(below) == {}
    claim_port(port, option="--port")

    # A second start begins anew, with the demo's own settings. This time the emulator ends while it loads.
    again = start(port)
    wait_until(lambda: "Starting Dagster" in output_of(clone) or again.poll() is not None)
    assert output_of(clone).startswith("Removing the last demo's data from data\n")
    wait_until(lambda: any(" dagster dev " in arguments for arguments in started_by(again.pid).values()))
    assert "history: 60 days" in (clone / "data" / "demo.yaml").read_text()
    below = started_by(again.pid)
    [emulator] = [pid for pid, arguments in below.items() if "stripe_emulator" in arguments]
    os.kill(emulator, signal.SIGKILL)
    assert again.wait(60) == 1
    errors = (clone / "err").read_text()
    assert errors.startswith("error: Stripe emulator ended by itself (exit status -9). See its log, ")
    assert len(errors.splitlines()) == 1
    assert alive(below) == {}


SLEEPER = "import time; print('up', flush=True); time.sleep(60)"


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module `sleeper` that sleeps."""
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.usefixtures("sleeper")
def test_processes_end_with_the_block_and_one_that_ends_by_itself_is_named(tmp_path: Path) -> None:
    log = tmp_path / "sound-sleeper.log"
    with Processes(tmp_path) as processes:
        processes.start("Sound sleeper", "sleeper")
        processes.wait_for(lambda: log.read_text() != "", name="The sleeper", seconds=20)
        processes.check()
        with pytest.raises(ProcessEnded, match=r"was not ready within 0 seconds. See the logs in"):
            processes.wait_for(lambda: False, name="The sleeper", seconds=0)
        below = started_by(os.getpid())
        processes.start("Nothing there", "not_there")
        with pytest.raises(ProcessEnded, match=r"Nothing there ended by itself \(exit status 1\).*nothing-there\.log"):
            processes.watch()
        assert [arguments for arguments in alive(below).values() if "sleeper" in arguments]
    assert [arguments for arguments in alive(below).values() if "sleeper" in arguments] == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent was killed")
@pytest.mark.usefixtures("sleeper")
def test_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    parent_of_sleeper = (
        "import pathlib, signal, time; from stripe_pipeline.cli.processes import Processes\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)  # as what a shell runs in the background\n"
        f"with Processes(pathlib.Path({str(tmp_path)!r})) as processes:\n"
        "    processes.start('Sleeper', 'sleeper'); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", parent_of_sleeper]) as parent:
        log = tmp_path / "sleeper.log"
        wait_until(lambda: log.exists() and log.read_text())
        below = started_by(parent.pid)
        assert below
        parent.kill()
    wait_until(lambda: alive(below) == {}, seconds=5)


@pytest.mark.usefixtures("sleeper")
def test_a_log_that_grows_long_is_started_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, before = tmp_path / "talker.log", tmp_path / "talker.before.log"
    (tmp_path / "talker.py").write_text(
        "import time\nfor n in range(100):\n    print(n, 'x' * 100, flush=True)\n    time.sleep(0.02)\n"
    )
    monkeypatch.setattr("stripe_pipeline.cli.processes._LONGEST_LOG", 3000)
    with Processes(tmp_path) as processes:
        processes.start("Talker", "talker")
        with pytest.raises(ProcessEnded):
            processes.watch()
    assert before.read_text().startswith(tuple("123456789"))  # its first lines have been removed
    assert 0 < log.stat().st_size < 5000
    assert "\0" not in log.read_text()


def test_a_port_is_taken_while_a_socket_listens() -> None:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(PortTaken, match=f"Port {port} of {HOST} cannot be used .* Name a free port with --port"):
            claim_port(port, option="--port")
    claim_port(port, option="--port")
