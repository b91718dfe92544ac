"""From the official Stripe CLI through the receiver's process to the published file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from stripe_emulator import Server, Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.sync.pipeline import Pipeline
from tests.conftest import KEYS
from tests.stripe_cli import StripeCli
from tests.stripe_emulator.receiver import wait_for

REPOSITORY = Path(__file__).parents[2]
KEY = KEYS["STRIPE_TEST_API_KEY"]


@pytest.fixture
def receiver(stripe_cli: StripeCli, folder: DataFolder, tmp_path: Path) -> Iterator[str]:
    """The URL of a receiver that has the CLI's secret."""
    project = tmp_path / "project"
    project.mkdir()
    for name in ("dagster.yaml", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, project)
    secret = {"STRIPE_TEST_WEBHOOK_SECRET": stripe_cli.signing_secret(key=KEY)}
    process = subprocess.Popen(
        [sys.executable, "-m", "stripe_pipeline", "webhooks", "serve", "--port", "0"],
        cwd=project,
        env={**os.environ, "STRIPE_PIPELINE_DATA": str(folder.root), **secret},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        ready = process.stdout.readline()
        assert ready.startswith("Ready: POST http://127.0.0.1:")
        yield ready.split()[2].rstrip(",")
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_changes_that_stripe_listen_forwards_are_in_the_published_file(
    stripe_cli: StripeCli, receiver: str, server: Server, shop: Shop, folder: DataFolder, pipeline: Pipeline
) -> None:
    person = shop.create_customer(name="Jürgen")["id"]
    charge = shop.create_payment(person)["latest_charge"]
    pipeline.sync()
    with stripe_cli.listening(forward_to=receiver, key=KEY):
        wait_for(lambda: server.webhooks.listeners, 30)
        before = len(shop.events(False))
        shop.update_customer(person, name="Ada")
        shop.refund(charge, 100)
        new_events = len(shop.events(False)) - before
        wait_for(lambda: len(server.webhooks.attempts) == new_events, 10)
    assert {attempt.status for attempt in server.webhooks.attempts} == {200}
    pipeline.drain(most=100)
    pipeline.publish()
    with duckdb.connect(str(folder.published), read_only=True) as connection:
        assert connection.execute("SELECT name FROM test.customers").fetchall() == [("Ada",)]
        assert connection.execute("SELECT amount_refunded FROM test.charges").fetchall() == [(100,)]
        assert connection.execute("SELECT charge, amount FROM test.refunds").fetchall() == [(charge, 100)]
