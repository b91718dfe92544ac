"""A whole deployment on several hosts: a folder for each host, Postgres between them, and the files and commands of
`deploy`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from stripe_emulator import Server
from stripe_pipeline.cli.processes import HOST, free_port
from stripe_pipeline.cli.project import make_project
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import today
from tests.deploy.parts import DEPLOY, Part

DAYS = 3
SETTINGS = f"history: {DAYS} days\n"
SERVICE = "DagsterApi"
SECRET = "whsec_of_the_hosts"

LOCATION = """
{ repositoriesOrError { ... on RepositoryConnection { nodes { location { name } schedules { name } } } } }
"""
LAUNCH = """
mutation ($today: String!) { launchRun(executionParams: {
    selector: { repositoryName: "__repository__", repositoryLocationName: "stripe_pipeline", jobName: "sync" },
    executionMetadata: { tags: [{ key: "dagster/partition", value: $today }] } }) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }
"""
STATUS = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


def wait_until(condition: Callable[[], Any], *, seconds: float) -> float:
    """Wait for a condition; returns the seconds that passed, and fails after `seconds`."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + seconds, "it did not come true"
        time.sleep(0.1)
    return time.monotonic() - started


@dataclass
class Hosts:
    """Four hosts, and Postgres."""

    code_server: Part
    daemon: Part
    webserver: Part
    webhooks: Part
    ports: dict[str, int]
    inbox_url: str
    data: DataFolder

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts."""
        return self.code_server, self.daemon, self.webserver, self.webhooks

    def query(self, text: str, **variables: object) -> Any:
        """The data of the web server's answer to a GraphQL query."""
        url = f"http://{HOST}:{self.ports['3000']}/graphql"
        answer = httpx.post(url, json={"query": text, "variables": variables}, timeout=60).json()
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def location_is_loaded(self) -> bool:
        """Whether the web server answers and has loaded the code location."""
        try:
            nodes = self.query(LOCATION)["repositoriesOrError"].get("nodes", [])
        except httpx.TransportError:
            return False
        return bool(nodes)

    def receiver_answers(self) -> bool:
        """Whether the receiver can write the inbox."""
        try:
            return httpx.get(f"http://{HOST}:{self.ports['4242']}/health").is_success
        except httpx.TransportError:
            return False

    def code_server_is_healthy(self) -> bool:
        """Whether the code server answers the health check that `deploy/kubernetes` describes."""
        with grpc.insecure_channel(f"{HOST}:{self.ports['4000']}") as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE))
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def launch(self) -> str:
        """Launch the job `sync` from the UI; returns the id of the run."""
        launched = self.query(LAUNCH, today=f"{today()}")["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        run_id: str = launched["run"]["runId"]
        return run_id

    def sync(self) -> str:
        """Launch the job `sync` from the UI; returns how it ended."""
        run_id, status = self.launch(), ""

        def ended() -> bool:
            nonlocal status
            status = self.query(STATUS, id=run_id)["runOrError"]["status"]
            return status in {"SUCCESS", "FAILURE", "CANCELED"}

        wait_until(ended, seconds=60)
        return status


@contextmanager
def started(
    root: Path, stripe: Server, databases: dict[str, str], *, variables: dict[str, str], launcher: dict[str, Any]
) -> Iterator[Hosts]:
    """The parts, each on a host below `root`, with the emulator in place of Stripe.

    `variables` are further ones of the code server; `launcher` says how Dagster starts runs, unless as `deploy` says.
    """
    ports = {port: free_port() for port in ("3000", "4000", "4242")}
    values = databases | {
        "CODE_SERVER_HOST": HOST,
        "CODE_SERVER_PORT": f"{ports['4000']}",
        "STRIPE_API_KEY": "sk_live_of_the_hosts",
        "STRIPE_TEST_API_KEY": "sk_test_of_the_hosts",
        "STRIPE_WEBHOOK_SECRET": SECRET,
    }
    parts = {}
    for name in ("code-server", "daemon", "webserver", "webhooks"):
        host = root / name
        home = host / "dagster"
        home.mkdir(parents=True)
        shutil.copy(DEPLOY / "workspace.yaml", home)
        of_dagster = yaml.safe_load((DEPLOY / "dagster.yaml").read_text())
        (home / "dagster.yaml").write_text(yaml.safe_dump(of_dagster | launcher))
        replaced = {port: f"{number}" for port, number in ports.items()}
        replaced["/srv/dagster/workspace.yaml"] = f"{home / 'workspace.yaml'}"
        of_image = {"DAGSTER_HOME": f"{home}", "STRIPE_PIPELINE_DATA": f"{host / 'data'}"}
        if name == "code-server":
            of_image |= {"STRIPE_API_BASE": stripe.url, **variables}
        parts[name] = Part(name, host, replaced, values, of_image)
    for name in ("code-server", "webhooks"):
        make_project(root / name)
        (root / name / "stripe_pipeline.yaml").write_text(SETTINGS)
    hosts = Hosts(
        parts["code-server"],
        parts["daemon"],
        parts["webserver"],
        parts["webhooks"],
        ports,
        databases["STRIPE_PIPELINE_INBOX"],
        DataFolder(root / "code-server" / "data"),
    )
    try:
        for part in hosts.parts:
            part.start()
        wait_until(hosts.code_server_is_healthy, seconds=60)
        wait_until(hosts.location_is_loaded, seconds=90)
        wait_until(hosts.receiver_answers, seconds=30)
        endpoint = f"http://{HOST}:{ports['4242']}/webhooks/stripe"
        stripe.shop.create_webhook_endpoint(endpoint, livemode=True, secret=SECRET)
        yield hosts
    finally:
        for part in hosts.parts:
            part.kill()
