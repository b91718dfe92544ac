"""A deployment on several hosts, of which one has the data folder.

`test_deploy_files` examines the files themselves.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from stripe_emulator import Server
from stripe_pipeline.inbox.inbox import Inbox
from tests.deploy.hosts import Hosts, started, wait_until
from tests.stripe_state import ask, assert_equal_to_stripe, differences

WEBHOOKS = 1000
FILES = {"dagster/dagster.yaml", "dagster/workspace.yaml"}
"""What `deploy` puts on the hosts of the web server and the daemon."""


@pytest.fixture
def hosts(tmp_path: Path, stripe: Server, databases: dict[str, str]) -> Iterator[Hosts]:
    """The parts, started, and the emulator in place of Stripe."""
    with started(tmp_path, stripe, databases, variables={}, launcher={}) as running:
        yield running


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
