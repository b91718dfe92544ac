"""The webhook receiver as a process of its own, over HTTP, with real signatures.

The tests of the inbox and of `sync` show how the stored notifications are applied.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from stripe import WebhookSignature

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.inbox.inbox import Inbox

REPOSITORY = Path(__file__).parents[2]
SECRETS = {"STRIPE_WEBHOOK_SECRET": "whsec_new,whsec_old", "STRIPE_TEST_WEBHOOK_SECRET": "whsec_test"}
_numbers = itertools.count(1)


@dataclass
class Receiver:
    """A running receiver and the data folder it writes."""

    process: subprocess.Popen[str]
    port: int
    folder: DataFolder
    log: Path

    @property
    def url(self) -> str:
        """The receiver's address."""
        return f"http://127.0.0.1:{self.port}"

    def post(self, body: object, *, signature: str | None = None, secret: str = "whsec_new") -> httpx.Response:
        """Send an event, signed unless the signature is given; an empty one sends no header."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        if signature is None:
            signature = sign(content, secret)
        headers = {b"Stripe-Signature": signature.encode("latin-1")} if signature else {}
        return httpx.post(f"{self.url}/webhooks/stripe", content=content, headers=headers, timeout=20)

    def health(self) -> dict[str, Any]:
        """The receiver's health, requested once its previous answer has expired."""
        time.sleep(1.1)
        answer = httpx.get(f"{self.url}/health")
        return {"http": answer.status_code} | dict(answer.json())

    def stored(self) -> list[str]:
        """The ids of the events in the inbox."""
        inbox = Inbox(self.folder)
        ids = [entry.notification.event_id for entry in inbox.rows()]
        inbox.close()
        return ids

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[str, str]:
        """Stop the receiver; return its output and its log."""
        self.process.send_signal(number)
        printed, _ = self.process.communicate(timeout=20)
        return printed, self.log.read_text()


def event(event_type: str = "charge.updated", obj: str = "charge", **fields: object) -> dict[str, Any]:
    """An event with an id of its own, as Stripe sends it."""
    number = next(_numbers)
    return {
        "id": f"evt_{number}",
        "object": "event",
        "created": int(time.time()),
        "livemode": True,
        "type": event_type,
        "data": {"object": {"id": f"{obj[:2]}_{number}", "object": obj, "email": "ada@example.com"}},
    } | fields


def sign(body: bytes, secret: str = "whsec_new", *, age: float = 0) -> str:
    """The signature header for `body`, signed `age` seconds ago."""
    # stripe-python signs only bodies that are text.
    header: str = WebhookSignature.generate_signature_header(body.decode(), secret, int(time.time() - age))
    return header


def command(tmp_path: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    """`stripe-pipeline webhooks serve`, in a project whose settings switch disputes and charges off."""
    project = tmp_path / "project"
    project.mkdir(exist_ok=True)
    for name in ("dagster.yaml", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, project)
    (project / "stripe_pipeline.yaml").write_text("objects: {customers: {enabled: false}, charges: {enabled: false}}")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("STRIPE_")}
    with (tmp_path / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "stripe_pipeline", "webhooks", "serve", *options],
            cwd=project,
            env=clean | {"STRIPE_PIPELINE_DATA": str(tmp_path / "data")} | environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


@contextlib.contextmanager
def running(tmp_path: Path) -> Iterator[Receiver]:
    """A receiver on any free port."""
    process = command(tmp_path, "--port", "0", **SECRETS)
    try:
        assert process.stdout
        ready = process.stdout.readline()
        assert ready.startswith("Ready: POST http://127.0.0.1:"), (tmp_path / "log").read_text()
        port = int(ready.split(":")[3].split("/")[0])
        yield Receiver(process, port, DataFolder(tmp_path / "data"), tmp_path / "log")
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """One receiver for the tests that only send something."""
    with running(tmp_path_factory.mktemp("shared")) as receiver:
        yield receiver


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """A receiver of the test's own."""
    with running(tmp_path) as receiver:
        yield receiver


def test_an_event_is_stored_as_a_notification_without_its_payload(shared: Receiver) -> None:
    sent = event(created=1_795_000_000)
    answer = shared.post(sent)
    assert (answer.status_code, answer.json()) == (200, {"received": True})
    inbox = Inbox(shared.folder)
    [notification] = [entry.notification for entry in inbox.rows() if entry.notification.event_id == sent["id"]]
    inbox.close()
    assert (notification.account, notification.livemode, notification.object, notification.object_id) == (
        None,
        True,
        "charge",
        f"ch_{sent['id'][4:]}",
    )
    for file in shared.folder.root.glob("inbox*"):
        assert b"ada@example.com" not in file.read_bytes()


def test_an_event_that_is_sent_several_times_is_one_notification(shared: Receiver) -> None:
    sent = event()
    assert [shared.post(sent).status_code for _ in range(3)] == [200] * 3
    assert shared.stored().count(sent["id"]) == 1


@pytest.mark.parametrize("secret", ["whsec_new", "whsec_old", "whsec_test"])
def test_each_of_several_secrets_is_accepted(shared: Receiver, secret: str) -> None:
    sent = event(livemode=secret != "whsec_test")
    assert shared.post(sent, secret=secret).status_code == 200
    assert sent["id"] in shared.stored()


def test_one_valid_signature_of_several_is_enough(shared: Receiver) -> None:
    sent = event()
    time_and_signature = sign(json.dumps(sent).encode()).split(",")
    header = f"{time_and_signature[0]},v1={'0' * 64},v0=1,{time_and_signature[1]}"
    assert shared.post(sent, signature=header).status_code == 200
    assert sent["id"] in shared.stored()


UPCOMING = event("invoice.upcoming", "invoice")
del UPCOMING["data"]["object"]["id"]
IGNORED: dict[str, dict[str, Any]] = {
    "invoice.upcoming": UPCOMING,
    "unknown type": event("entirely.new", "widget"),
    "customer.subscription.updated": event("customer.subscription.updated", "subscription"),
    "switched off": event("customer.updated", "customer"),
    "connected account": event(account="acct_of_another"),
    "thin": {
        "id": "evt_thin",
        "object": "v2.core.event",
        "type": "v1.charge.updated",
        "related_object": {"id": "ch_1"},
    },
    "no data": event(data=None),
    "empty": {},
}


@pytest.mark.parametrize("body", IGNORED.values(), ids=IGNORED)
def test_events_that_concern_no_table_are_answered_200_and_not_stored(shared: Receiver, body: dict[str, Any]) -> None:
    before = shared.stored()
    assert shared.post(body).status_code == 200
    assert shared.stored() == before


def forged(signature: Callable[[bytes], str]) -> Callable[[Receiver], httpx.Response]:
    """Sends a good event with this signature header."""
    body = json.dumps(event()).encode()
    return lambda receiver: receiver.post(body, signature=signature(body))


def raw(body: bytes, signed: str | None = None) -> Callable[[Receiver], httpx.Response]:
    """Sends these bytes, with their own signature or with that of the text `signed`."""
    return lambda receiver: receiver.post(body, signature=sign(signed.encode()) if signed else None)


REFUSED = {
    "no signature": forged(lambda _: ""),
    "another secret": forged(lambda body: sign(body, "whsec_other")),
    "another body": forged(lambda _: sign(b"{}")),
    "no time": forged(lambda body: sign(body).split(",")[1]),
    "another time": forged(lambda body: f"t={int(time.time()) - 1}," + sign(body).split(",")[1]),
    "only time": forged(lambda body: sign(body).split(",")[0]),
    "too old": forged(lambda body: sign(body, age=310)),
    "from the future": forged(lambda body: sign(body, age=-310)),
    "not ASCII": forged(lambda body: f"t={int(time.time())},v1=ü"),
    "nonsense": forged(lambda _: ",=,=,t,v1"),
    "huge time": forged(lambda _: f"t={'9' * 5000},v1=0"),
    "no UTF-8": raw(b'{"id": "\xff"}', "x"),
    "junk": raw(b"charge updated"),
    "nothing": raw(b""),
    "array": raw(b'[{"object": "event"}]'),
    "text": raw(b'"event"'),
    "too deep": raw(b"[" * 100_000),
}


@pytest.mark.parametrize("send", REFUSED.values(), ids=REFUSED)
def test_unsigned_requests_and_bodies_that_are_not_events_are_refused_and_not_stored(
    shared: Receiver, send: Callable[[Receiver], httpx.Response]
) -> None:
    before = shared.stored()
    answer = send(shared)
    assert answer.status_code == 400
    [message] = answer.json().values()
    assert "whsec" not in message
    assert len(message) < 90
    assert shared.stored() == before


def test_a_signature_is_valid_for_300_seconds_in_both_directions(shared: Receiver) -> None:
    for age in (290, -290):
        body = json.dumps(event()).encode()
        assert shared.post(body, signature=sign(body, age=age)).status_code == 200


def test_a_body_of_a_megabyte_is_accepted_and_a_larger_one_is_not(shared: Receiver) -> None:
    sent = event()
    sent["padding"] = "x" * (1_000_000 - len(json.dumps(sent | {"padding": ""})))
    assert shared.post(sent).status_code == 200
    sent["padding"] += "x"
    before = shared.stored()
    assert shared.post(sent).status_code == 413

    def endless() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 50_000

    headers = {"Stripe-Signature": sign(b"{}")}
    assert httpx.post(f"{shared.url}/webhooks/stripe", content=endless(), headers=headers).status_code == 413
    assert shared.stored() == before


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD"])
def test_other_methods_and_addresses_are_refused(shared: Receiver, method: str) -> None:
    assert httpx.request(method, f"{shared.url}/webhooks/stripe").status_code == 405
    assert httpx.request(method, f"{shared.url}/webhooks").status_code == 404


def test_health_counts_waiting_notifications_and_received_requests(receiver: Receiver) -> None:
    nothing = {"stored": 0, "ignored": 0, "refused": 0, "failed": 0}
    assert receiver.health() == nothing | {
        "http": 200,
        "status": "ok",
        "waiting": 0,
        "oldest_waiting_seconds": None,
        "dead": 0,
    }
    receiver.post(event())
    receiver.post(UPCOMING)
    receiver.post(event(), signature="")
    health = receiver.health()
    assert (health["waiting"], health["stored"], health["ignored"], health["refused"]) == (1, 1, 1, 1)
    assert 1 <= health["oldest_waiting_seconds"] < 10

    printed, log = receiver.end()
    assert (receiver.process.returncode, printed) == (0, "Stopped.\n")
    assert "1 stored, 1 ignored, 1 refused" in log
    assert "invoice.upcoming (1)" in log
    assert "whsec" not in log
    assert "ada@example.com" not in log


def test_trap_25_ignored_events_get_2xx_a_bad_signature_400_and_other_events_2xx_once_they_are_on_disk(
    receiver: Receiver,
) -> None:
    assert receiver.post(UPCOMING).status_code == 200
    assert receiver.post(event("entirely.new", "widget")).status_code == 200
    assert receiver.post(event(), secret="whsec_other").status_code == 400
    assert receiver.stored() == []

    other = sqlite3.connect(receiver.folder.inbox, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # another process is writing
    sent = event()
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(receiver.post, sent)
        time.sleep(0.5)
        assert not answer.done()
        assert receiver.stored() == []
        other.execute("COMMIT")
        assert answer.result().status_code == 200
    assert receiver.stored() == [sent["id"]]

    other.execute("ALTER TABLE pokes RENAME TO elsewhere")
    assert receiver.post(event()).status_code == 503
    assert receiver.health()["http"] == 503
    assert receiver.post(UPCOMING).status_code == 200
    other.execute("ALTER TABLE elsewhere RENAME TO pokes")
    other.close()
    assert receiver.health()["http"] == 200
    assert receiver.post(sent | {"id": "evt_again"}).status_code == 200
    assert receiver.stored() == [sent["id"], "evt_again"]


def test_every_event_that_was_answered_200_is_in_the_inbox_of_a_receiver_that_was_killed(receiver: Receiver) -> None:
    answered: list[str] = []
    enough = threading.Event()

    def send(_: int) -> None:
        with httpx.Client() as client, contextlib.suppress(httpx.HTTPError):
            while True:
                sent = event()
                body = json.dumps(sent).encode()
                headers = {"Stripe-Signature": sign(body)}
                answer = client.post(f"{receiver.url}/webhooks/stripe", content=body, headers=headers)
                assert answer.status_code == 200
                answered.append(sent["id"])
                if len(answered) >= 300:
                    enough.set()

    with ThreadPoolExecutor(8) as threads:
        senders = [threads.submit(send, n) for n in range(8)]
        assert enough.wait(30)
        receiver.process.kill()
        for sender in senders:
            sender.result()
    receiver.process.wait(10)
    assert len(answered) >= 300
    assert set(answered) <= set(receiver.stored())


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 200 KB, where this user may mount one."""
    mounted = (
        shutil.which("mount")
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], capture_output=True
        ).returncode
    )
    if not mounted:
        pytest.skip("this user cannot mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("limit", ["file system", "largest file"])
def test_health_is_not_ok_where_a_full_disk_keeps_events_from_being_stored(tmp_path: Path, limit: str) -> None:
    (tmp_path / "data").mkdir()
    with contextlib.ExitStack() as stack:
        if limit == "file system":
            stack.enter_context(small_disk(tmp_path / "data"))
        receiver = stack.enter_context(running(tmp_path))
        assert receiver.health()["http"] == 200
        if limit == "largest file":
            [log] = receiver.folder.root.glob("inbox.sqlite-wal")
            resource.prlimit(receiver.process.pid, resource.RLIMIT_FSIZE, (log.stat().st_size + 20_000,) * 2)
        answers = [receiver.post(event()).status_code for _ in range(40)]
        assert {200, 503} == set(answers)
        assert set(answers[-10:]) == {503}
        health = receiver.health()
        assert (health["http"], health["status"]) == (503, "the inbox cannot be written")
        assert len(receiver.stored()) == answers.count(200)
        if limit == "file system":
            subprocess.run(["mount", "-o", "remount,size=2m", receiver.folder.root], check=True)
            assert receiver.post(event()).status_code == 200
            assert receiver.health()["http"] == 200


def test_health_leaves_nothing_in_the_inbox_and_writes_to_the_disk_at_most_once_a_second(receiver: Receiver) -> None:
    receiver.health()
    with contextlib.closing(sqlite3.connect(receiver.folder.inbox)) as connection:
        [(before,)] = connection.execute("PRAGMA data_version").fetchall()
        started, answers = time.monotonic(), 0
        while time.monotonic() - started < 1:
            answers += httpx.get(f"{receiver.url}/health").status_code == 200
        assert answers > 2
        assert connection.execute("SELECT count(*) FROM pokes").fetchall() == [(0,)]
        [(after,)] = connection.execute("PRAGMA data_version").fetchall()
    assert after - before <= 2


@pytest.mark.parametrize("moved", ["inbox.sqlite", "inbox.sqlite*"])
def test_events_answered_200_are_in_the_new_inbox_after_the_old_one_was_moved_away(
    receiver: Receiver, tmp_path: Path, moved: str
) -> None:
    old, new = event(), event()
    assert receiver.post(old).status_code == 200
    for file in receiver.folder.root.glob(moved):
        file.rename(tmp_path / file.name)
    assert receiver.stored() == [], "another process creates a new inbox while the receiver has the old one open"
    assert receiver.post(new).status_code == 200
    assert receiver.stored() == [new["id"]]
    assert receiver.health()["waiting"] == 1
    for file in receiver.folder.root.glob("inbox.sqlite*"):
        file.unlink()
    assert receiver.health() | {"waiting": 0, "http": 200} == receiver.health()
    assert receiver.post(old).status_code == 200
    assert receiver.stored() == [old["id"]]


@pytest.mark.thorough
def test_a_client_that_does_not_send_its_body_is_cut_off_and_delays_no_other(receiver: Receiver) -> None:
    started = time.monotonic()
    with (
        socket.create_connection(("127.0.0.1", receiver.port), timeout=20),  # a client that sends nothing
        socket.create_connection(("127.0.0.1", receiver.port), timeout=20) as client,
    ):
        client.sendall(b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert receiver.post(event()).status_code == 200
        assert until_closed(client).startswith(b"HTTP/1.1 408")
        assert 9 < time.monotonic() - started < 15


def until_closed(client: socket.socket) -> bytes:
    """All bytes that are received before the other end closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := client.recv(1000):
            received += chunk
    return received


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_receiver_ends_at_once_with_clients_connected(receiver: Receiver, number: signal.Signals) -> None:
    with socket.create_connection(("127.0.0.1", receiver.port)) as client:
        client.sendall(b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.2)
        started = time.monotonic()
        printed, _ = receiver.end(number)
        assert time.monotonic() - started < 4
    assert (receiver.process.returncode, printed) == (0, "Stopped.\n")


@pytest.mark.thorough
def test_the_reason_why_the_receiver_cannot_start_is_printed(tmp_path: Path, shared: Receiver) -> None:
    for environment, options, message in (
        ({}, (), "No webhook signing secret is set"),
        ({"STRIPE_WEBHOOK_SECRET": "sk_live_0123456789"}, (), "STRIPE_WEBHOOK_SECRET does not hold a webhook"),
        (SECRETS, ("--port", str(shared.port)), f"Port {shared.port} of 127.0.0.1 cannot be used"),
        (SECRETS, ("--host", "192.0.2.1"), "Port 4242 of 192.0.2.1 cannot be used"),
        (
            SECRETS | {"STRIPE_PIPELINE_INBOX": "mysql://u:secret@h/d"},
            ("--port", "0"),
            "is not the address of a usable database",
        ),
    ):
        process = command(tmp_path, *options, **environment)
        printed, _ = process.communicate(timeout=20)
        assert (process.returncode, printed) == (2, "")
        log = (tmp_path / "log").read_text()
        assert log.startswith("error: ")
        assert message in log
        assert "secret@" not in log
        assert "0123456789" not in log


def test_the_receivers_process_loads_neither_dagster_nor_duckdb(tmp_path: Path) -> None:
    script = (
        "import sys; from stripe_pipeline.cli.main import app\n"
        "from stripe_pipeline.webhooks import receiver, server\n"
        "print(sorted({'dagster', 'duckdb', 'pandas', 'numpy'} & sys.modules.keys()))"
    )
    completed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert completed.stdout == "[]\n"
