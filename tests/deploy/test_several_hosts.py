"""A deployment on several hosts: a folder for each host, Postgres between them, and the files and commands of `deploy`.

`test_deploy_files` examines the files themselves.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import sqlalchemy as sa
from grpc_health.v1 import health_pb2, health_pb2_grpc

from stripe_emulator import Server, Shop
from stripe_pipeline.cli.processes import HOST, free_port
from stripe_pipeline.cli.project import make_project
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import today
from stripe_pipeline.inbox.inbox import Inbox
from tests.deploy.parts import DEPLOY, Part
from tests.stripe_state import ask, assert_equal_to_stripe, differences

DAYS = 3
WEBHOOKS = 1000
SERVICE = "DagsterApi"
SECRET = "whsec_of_the_hosts"
FILES = {"dagster/dagster.yaml", "dagster/workspace.yaml"}
"""What `deploy` puts on the hosts of the web server and the daemon."""

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

    def sync(self) -> str:
        """Launch the job `sync` from the UI; returns how it ended."""
        launched = self.query(LAUNCH, today=f"{today()}")["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        status = ""

        def ended() -> bool:
            nonlocal status
            status = self.query(STATUS, id=launched["run"]["runId"])["runOrError"]["status"]
            return status in {"SUCCESS", "FAILURE", "CANCELED"}

        wait_until(ended, seconds=60)
        return status


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


@pytest.fixture
def hosts(tmp_path: Path, stripe: Server, databases: dict[str, str]) -> Iterator[Hosts]:
    """The parts, started, and the emulator in place of Stripe."""
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
        host = tmp_path / name
        home = host / "dagster"
        home.mkdir(parents=True)
        for file in ("dagster.yaml", "workspace.yaml"):
            shutil.copy(DEPLOY / file, home)
        replaced = {port: f"{number}" for port, number in ports.items()}
        replaced["/srv/dagster/workspace.yaml"] = f"{home / 'workspace.yaml'}"
        of_image = {"DAGSTER_HOME": f"{home}", "STRIPE_PIPELINE_DATA": f"{host / 'data'}"}
        if name == "code-server":
            of_image["STRIPE_API_BASE"] = stripe.url
        parts[name] = Part(name, host, replaced, values, of_image)
    for name in ("code-server", "webhooks"):
        make_project(tmp_path / name)
        (tmp_path / name / "stripe_pipeline.yaml").write_text(f"history: {DAYS} days\n")
    started = Hosts(
        parts["code-server"],
        parts["daemon"],
        parts["webserver"],
        parts["webhooks"],
        ports,
        databases["STRIPE_PIPELINE_INBOX"],
        DataFolder(tmp_path / "code-server" / "data"),
    )
    try:
        for part in started.parts:
            part.start()
        wait_until(started.code_server_is_healthy, seconds=60)
        wait_until(started.location_is_loaded, seconds=90)
        wait_until(started.receiver_answers, seconds=30)
        endpoint = f"http://{HOST}:{ports['4242']}/webhooks/stripe"
        stripe.shop.create_webhook_endpoint(endpoint, livemode=True, secret=SECRET)
        yield started
    finally:
        for part in started.parts:
            part.kill()


@pytest.mark.thorough
def test_hosts_that_share_nothing_but_postgres(hosts: Hosts, stripe: Server) -> None:
    published, shop = hosts.data.published, stripe.shop
    assert hosts.sync() == "SUCCESS"
    assert_equal_to_stripe(shop, published)

    # A webhook that arrives at another host than the data.
    charges = list(shop.collection("charges", True))
    text = "from the receiver's host"
    shop.update("charges", charges[0], livemode=True, description=text)
    sql = f"SELECT description FROM live.charges WHERE id = '{charges[0]}'"
    print(f"webhook to row: {wait_until(lambda: ask(published, sql) == [(text,)], seconds=30):.1f} s")

    # The code server's host loses its power while webhooks arrive, and is back later.
    inbox = Inbox(hosts.data, hosts.inbox_url)

    def change(first: int, end: int) -> None:
        for n in range(first, end):
            shop.update("charges", random.choice(charges), livemode=True, description=f"webhook {n}")

    change(0, WEBHOOKS // 2)
    version = published.resolve()
    wait_until(lambda: published.resolve() != version, seconds=30)
    change(WEBHOOKS // 2, WEBHOOKS // 2 + WEBHOOKS // 10)
    hosts.code_server.kill()
    change(WEBHOOKS // 2 + WEBHOOKS // 10, WEBHOOKS)
    stripe.webhooks.settled(60)
    assert [attempt.status for attempt in stripe.webhooks.attempts] == [200] * (1 + WEBHOOKS)
    assert inbox.summary().waiting >= WEBHOOKS // 3
    hosts.code_server.start()
    print(f"host back to all applied: {wait_until(lambda: not inbox.has_due(), seconds=90):.1f} s")
    inbox.close()
    wait_until(lambda: not list(differences(shop, published)), seconds=30)
    assert hosts.sync() == "SUCCESS"
    assert_equal_to_stripe(shop, published)

    for part in (hosts.webserver, hosts.daemon):
        assert {f"{file.relative_to(part.host)}" for file in part.host.rglob("*") if file.is_file()} == FILES
    assert not (hosts.webhooks.host / "data").exists()
