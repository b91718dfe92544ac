"""A deployment without a data folder: the warehouse in a lake, and each run on a host of its own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stripe_emulator import Fault, Server
from stripe_pipeline.cli.project import make_project
from stripe_pipeline.data_folder import DataFolder
from tests.deploy.hosts import SETTINGS, STATUS, Hosts, started, wait_until
from tests.deploy.launcher import HostPerRun
from tests.deploy.parts import PROGRAMS, hiding, kill_session, may_hide_folders
from tests.lake import HASH_KEY, IN_LAKE
from tests.stripe_state import ask, assert_equal_to_stripe

pytestmark = pytest.mark.skipif(not IN_LAKE, reason="needs DuckDB's extension for lakes: make test-ducklake")


@pytest.fixture
def opening(folder: DataFolder, databases: dict[str, str], stripe: Server) -> dict[str, str]:
    """The environment of each process that opens the pipeline."""
    assert folder.lake
    return {
        "STRIPE_PIPELINE_WAREHOUSE": f"ducklake:{folder.lake.catalog}",
        "STRIPE_PIPELINE_WAREHOUSE_DATA": folder.lake.data,
        "STRIPE_PIPELINE_HASH_KEY": HASH_KEY,
        "STRIPE_PIPELINE_INBOX": databases["STRIPE_PIPELINE_INBOX"],
        "STRIPE_API_KEY": "sk_live_of_the_hosts",
        "STRIPE_TEST_API_KEY": "sk_test_of_the_hosts",
        "STRIPE_API_BASE": stripe.url,
    }


@pytest.fixture
def of_runs(opening: dict[str, str], databases: dict[str, str]) -> dict[str, str]:
    """The environment of a run and of a command."""
    python = {"PATH": f"{PROGRAMS}:/usr/bin:/bin", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    return {**opening, **python, "DAGSTER_POSTGRES_URL": databases["DAGSTER_POSTGRES_URL"]}


@pytest.fixture
def hosts(
    tmp_path: Path, stripe: Server, databases: dict[str, str], opening: dict[str, str], of_runs: dict[str, str]
) -> Iterator[Hosts]:
    """The parts, started; none of their hosts has the warehouse."""
    root = tmp_path / "hosts"
    config = {"hosts": f"{root}", "settings": SETTINGS, "variables": of_runs}
    launcher = {"module": HostPerRun.__module__, "class": HostPerRun.__name__, "config": config}
    with started(root, stripe, databases, variables=opening, launcher={"run_launcher": launcher}) as running:
        try:
            yield running
        finally:
            for process in root.glob("run-*.pid"):
                kill_session(int(process.read_text()))


def command(root: Path, name: str, of_runs: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs `stripe-pipeline sync` on a new host of this name."""
    others = [f"{folder}" for folder in root.iterdir() if folder.is_dir()]
    make_project(root / name)
    (root / name / "stripe_pipeline.yaml").write_text(SETTINGS)
    home = root / name / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_bytes((root / "daemon" / "dagster" / "dagster.yaml").read_bytes())
    return subprocess.run(
        [*(hiding(others) if may_hide_folders() else ()), f"{PROGRAMS / 'stripe-pipeline'}", "sync"],
        cwd=root / name,
        env={**of_runs, "DAGSTER_HOME": f"{home}"},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_each_run_is_on_a_new_host_that_shares_only_databases_and_the_lakes_files(
    hosts: Hosts, stripe: Server, folder: DataFolder, of_runs: dict[str, str]
) -> None:
    root, shop = hosts.code_server.host.parent, stripe.shop
    assert hosts.sync() == "SUCCESS"
    assert_equal_to_stripe(shop, folder.published)

    # A webhook at the receiver's host; the sensor's tick runs in the code server.
    charge = next(iter(shop.collection("charges", True)))
    shop.update("charges", charge, livemode=True, description="from the receiver's host")
    sql = f"SELECT description FROM live.charges WHERE id = '{charge}'"
    wait_until(lambda: ask(folder.published, sql) == [("from the receiver's host",)], seconds=30)

    # The host of a run loses its power.
    stripe.requests.clear()
    stripe.faults.append(Fault(path="/v1/events", delay=60, times=None))
    run_id = hosts.launch()
    wait_until(lambda: any(request.path == "/v1/events" for request in stripe.requests), seconds=40)
    kill_session(int((root / f"run-{run_id}.pid").read_text()))
    stripe.faults.clear()
    shop.update("charges", charge, livemode=True, description="while no run was under way")
    time.sleep(16)  # its lock is still taken for alive
    ended = command(root, "another", of_runs)
    assert ended.returncode == 0, ended.stderr
    assert hosts.query(STATUS, id=run_id)["runOrError"]["status"] == "FAILURE"
    assert_equal_to_stripe(shop, folder.published)
    assert not list(root.rglob("stripe.duckdb")), "no host has a warehouse of its own"
