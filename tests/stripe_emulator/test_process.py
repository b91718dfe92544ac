"""The emulator as a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.stripe_emulator.conftest import LIVE_KEY, TEST_KEY
from tests.stripe_emulator.receiver import Receiver, wait_for

_COMMAND = [sys.executable, "-W", "error", "-m", "stripe_emulator"]


@contextmanager
def _running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen([*_COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("Stripe emulator on http://127.0.0.1:"), process.communicate(timeout=10)[1]
            yield process, line.split()[-1]
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_emulator_serves_until_it_gets_a_signal(number: signal.Signals) -> None:
    with _running("--port", "0", "--days", "3", "--trade-every", "0.05", "--latency-ms", "1") as (process, url):
        with httpx.Client(base_url=url) as client:
            deadline = time.monotonic() + 20
            recent: set[str] = set()
            while time.monotonic() < deadline and len(recent) < 3:
                for key in (LIVE_KEY, TEST_KEY):
                    events = client.get("/v1/events?limit=5", auth=(key, "")).json()["data"]
                    recent |= {event["id"] for event in events if event["created"] > time.time() - 30}
                time.sleep(0.1)
            assert len(recent) >= 3, "the emulator trades"
        started = time.monotonic()
        process.send_signal(number)
        output = process.communicate(timeout=10)
        assert time.monotonic() - started < 1.5
        assert (process.returncode, output) == (0, ("", ""))


def test_rate_limits_are_on_unless_switched_off() -> None:
    for arguments, refused in (((), True), (("--no-rate-limits",), False)):
        with (
            _running("--port", "0", "--days", "0", "--trade-every", "0", *arguments) as (_, url),
            httpx.Client(base_url=url, auth=(TEST_KEY, "")) as client,
        ):
            statuses = {client.get("/v1/charges").status_code for _ in range(100)}
            assert statuses == ({200, 429} if refused else {200})


def test_webhooks_of_both_modes_go_to_the_given_url(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {True: "whsec_live_of_the_tests", False: "whsec_test_of_the_tests"}
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", secrets[True])
    monkeypatch.setenv("STRIPE_TEST_WEBHOOK_SECRET", secrets[False])
    with Receiver() as receiver:
        receiver.statuses.append(503)
        arguments = ("--webhook-url", receiver.url, "--webhook-backoff", "0.0005", "--trade-every", "0.05")
        with _running("--port", "0", "--days", "3", *arguments) as (process, url):
            wait_for(lambda: len(set(receiver.events)) < len(receiver.events), 20)
            wait_for(lambda: {received.event["livemode"] for received in receiver.received} == {True, False}, 20)
            endpoints = httpx.get(f"{url}/v1/webhook_endpoints", auth=(LIVE_KEY, "")).json()["data"]
            process.send_signal(signal.SIGTERM)
            output = process.communicate(timeout=10)
    assert output == ("", "")
    assert [(endpoint["url"], endpoint["enabled_events"]) for endpoint in endpoints] == [(receiver.url, ["*"])]
    for received in receiver.received:
        received.verify(secrets[received.event["livemode"]])
        assert received.event["created"] > time.time() - 60, "history is not delivered"


def test_wrong_webhook_options_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STRIPE_WEBHOOK_SECRET", "STRIPE_TEST_WEBHOOK_SECRET"):
        monkeypatch.delenv(name, raising=False)
    for arguments, complaint in (
        (
            ("--webhook-url", "http://127.0.0.1:1/"),
            "--webhook-url needs STRIPE_WEBHOOK_SECRET or STRIPE_TEST_WEBHOOK_SECRET in the environment",
        ),
        (("--webhook-backoff", "0"), "--webhook-backoff must be more than 0"),
    ):
        done = subprocess.run([*_COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert complaint in done.stderr


def test_a_port_in_use_is_explained() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run([*_COMMAND, "--port", str(port)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.strip() == (
        f"Port {port} of 127.0.0.1 cannot be used: Address already in use. Choose another with --port."
    )


def test_the_emulator_ends_with_its_parent_process() -> None:
    script = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen({[*_COMMAND, '--port', '0', '--days', '0']!r}, stdout=subprocess.PIPE, text=True)\n"
        "print(child.pid, child.stdout.readline(), flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, *_, url = parent.stdout.readline().split()
        assert httpx.get(f"{url}/v1/account", auth=(TEST_KEY, "")).status_code == 200
        parent.kill()
    deadline = time.monotonic() + 5
    stopped = False
    while time.monotonic() < deadline and not stopped:
        time.sleep(0.05)
        try:
            httpx.get(f"{url}/v1/account", auth=(TEST_KEY, ""), timeout=1)
        except httpx.TransportError:
            stopped = True
    if not stopped:
        os.kill(int(pid), signal.SIGKILL)
    assert stopped
