"""Webhooks against a running Dagster: seconds until a change is in the published file, a burst, and a steady flow.

The emulator answers in 50 ms and posts to a receiver in a process of its own; `stripe-pipeline dev` runs the sensor.
Everything lies in a temporary folder, and with the large table on XFS where it may be mounted. Takes about half an
hour, so it only runs on request.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import duckdb
import filelock

from benchmarks.measuring import Options, Row, apart
from benchmarks.volumes import xfs
from stripe_emulator import Server, Shop
from stripe_pipeline.cli.processes import HOST, free_port
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import today
from stripe_pipeline.inbox.inbox import Inbox

REPOSITORY = Path(__file__).parent.parent
SECRET = "whsec_of_the_benchmark"
KEY = "sk_live_of_the_benchmark"
DAYS = 30
_ROOM = 1 << 30  # bytes of a volume beside those of the charges
_BYTES = 2000  # of a volume for each charge: the private file, its log, and what two versions do not share


@dataclass
class Setup:
    """The processes of the measurement."""

    server: Server
    folder: DataFolder
    root: Path
    receiver: subprocess.Popen[bytes]
    port: int

    @property
    def shop(self) -> Shop:
        """The emulator's shop."""
        return self.server.shop

    def start_receiver(self) -> None:
        """Start the receiver, again if it was killed."""
        self.receiver = command(self.root, "webhooks", "serve", "--port", f"{self.port}")

    def visible(self, sql: str) -> object:
        """The first value of `sql` on the published file."""
        with duckdb.connect(str(self.folder.published), read_only=True) as connection:
            [(value,)] = connection.execute(sql).fetchall()
        return value

    def wait_until_visible(self, sql: str, value: object, *, seconds: float = 60) -> None:
        """Wait until `sql` gives `value`; queries each new version once."""
        end, seen = time.monotonic() + seconds, None
        while time.monotonic() < end:
            version = self.folder.published.resolve()
            if version != seen:
                seen = version
                if self.visible(sql) == value:
                    return
            time.sleep(0.005)
        raise TimeoutError(f"{value!r} did not appear within {seconds:.0f} seconds")

    def storage(self) -> int:
        """Bytes of Dagster's own storage."""
        files = (self.root / ".dagster").rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file() and file.suffix != ".ndjson")


def command(root: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A `stripe-pipeline` command in the background, in the folder of the benchmark."""
    with (root / f"{arguments[0]}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "stripe_pipeline", *arguments],
            cwd=root,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


@contextmanager
def running(place: Path) -> Iterator[Setup]:
    """The emulator, the receiver and Dagster in a folder in `place`, from when the history is loaded."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=place)))
        for name in ("dagster.yaml", "pyproject.toml"):
            shutil.copy(REPOSITORY / name, root)
        (root / "stripe_pipeline.yaml").write_text(f"history: {today() - timedelta(days=DAYS)}\n")
        shop = Shop()
        shop.seed_history(DAYS)
        server = stack.enter_context(Server(shop, latency_ms=50, rate_limits=True, webhook_backoff=0.001))
        os.environ.update(
            STRIPE_API_KEY=KEY,
            STRIPE_API_BASE=server.url,
            STRIPE_WEBHOOK_SECRET=SECRET,
            STRIPE_PIPELINE_DATA=str(root / "data"),
        )
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ.pop("DAGSTER_HOME", None)
        port = free_port()
        receiver = command(root, "webhooks", "serve", "--port", f"{port}")
        setup = Setup(server, DataFolder(root / "data"), root, receiver, port)
        stack.callback(lambda: end(setup.receiver))
        secret = os.environ.pop("STRIPE_WEBHOOK_SECRET")  # the receiver is ours: it is killed in between
        dagster = command(root, "dev", "--port", f"{free_port()}")
        os.environ["STRIPE_WEBHOOK_SECRET"] = secret
        stack.callback(lambda: end(dagster))
        wait_for(lambda: "Ready." in (root / "dev.log").read_text(), 180)
        shop.create_webhook_endpoint(f"http://{HOST}:{port}/webhooks/stripe", livemode=True, secret=SECRET)
        time.sleep(20)  # Dagster's start is over
        yield setup


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process of ours as Ctrl-C does."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for(true: Callable[[], bool], seconds: float) -> None:
    """Wait for a condition; raises TimeoutError after so many seconds."""
    stop = time.monotonic() + seconds
    while not true():
        if time.monotonic() > stop:
            raise TimeoutError(f"the condition did not become true within {seconds:.0f} seconds")
        time.sleep(0.1)


def singles(setup: Setup, tries: int, label: str, *, most: float | None = None) -> Row:
    """One webhook at a time: how long until its change can be read; 95 % of them in at most so many seconds."""
    charges = [charge for charge, _ in zip(setup.shop.collection("charges", True), range(400), strict=False)]
    took = []
    for n in range(tries):
        time.sleep(random.uniform(0.5, 5))
        charge, text = random.choice(charges), f"{label} {n}"
        started = time.monotonic()
        setup.shop.update("charges", charge, livemode=True, description=text)
        setup.wait_until_visible(f"SELECT description FROM live.charges WHERE id = '{charge}'", text)
        took.append(time.monotonic() - started)
    took.sort()
    p95 = took[int(len(took) * 0.95)]
    size = setup.folder.published.stat().st_size / 1e6
    rows = setup.visible("SELECT count(*) FROM raw.charges")
    return Row(
        f"webhook to published file, {rows:,} charges, file of {size:.0f} MB",
        f"p95 ≤ {most:.0f} s" if most else "about 1 s",
        f"p50 {took[len(took) // 2]:.2f} s, p95 {p95:.2f} s, max {took[-1]:.2f} s ({tries} tries)",
        p95 <= most if most else None,
    )


def fill(setup: Setup, first: int, end: int) -> None:
    """Add charges of years before the history, which nothing reads again, so that the table is large: those with the
    numbers `first` to `end - 1`."""
    with filelock.FileLock(setup.folder.lock), duckdb.connect(str(setup.folder.private)) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(
            "INSERT INTO raw.charges SELECT c.* REPLACE ("
            " 'ch_' || md5(i::VARCHAR) AS id, TIMESTAMPTZ '2021-01-01' + i * INTERVAL 15 SECOND AS created,"
            " (hash(i) % 100000)::BIGINT AS amount, 'pi_' || md5((i + 1)::VARCHAR) AS payment_intent,"
            " 'txn_' || md5((i + 2)::VARCHAR) AS balance_transaction, 'cus_' || md5((i % 9973)::VARCHAR) AS customer)"
            " FROM (SELECT * FROM raw.charges WHERE _deleted_at IS NULL LIMIT 1) c, range(?, ?) r(i)",
            [first, end],
        )
        connection.execute("UPDATE pipeline.meta SET revision = revision + 1")


def burst(setup: Setup, webhooks: int, objects: int) -> Row:
    """Many webhooks over few objects, with the receiver killed in the middle."""
    charges = random.sample(list(setup.shop.collection("charges", True)), objects)
    before, sent = len(setup.server.webhooks.attempts), len(setup.server.requests)
    started = time.monotonic()
    for n in range(webhooks):
        setup.shop.update("charges", charges[n % objects], livemode=True, description=f"burst {n}")
    wait_for(lambda: len(setup.server.webhooks.attempts) - before > webhooks / 3, 60)
    setup.receiver.kill()
    setup.receiver.wait()
    answered = {attempt.event for attempt in setup.server.webhooks.attempts[before:] if attempt.status == 200}
    lost = len(answered - known(setup.folder))
    setup.start_receiver()
    stored = Inbox(setup.folder)
    setup.server.webhooks.settled(300)
    delivered = time.monotonic() - started
    attempts = setup.server.webhooks.attempts[before:]
    wait_for(lambda: not stored.has_due(), 120)
    stored.close()
    last = {charges[n % objects]: f"burst {n}" for n in range(webhooks)}
    sql = "SELECT list({id: id, description: description}) FROM live.charges WHERE description LIKE 'burst %'"
    wait_for(lambda: {row["id"]: row["description"] for row in setup.visible(sql) or []} == last, 60)  # type: ignore[attr-defined]
    right = time.monotonic() - started
    good = sorted(attempt.seconds for attempt in attempts if attempt.status == 200)
    failed = len(attempts) - len(good)
    reads = len(setup.server.requests) - sent
    return Row(
        f"{webhooks:,} webhooks at once over {objects} objects, the receiver killed meanwhile",
        "none lost",
        f"{len(good):,} answered 200 (p50"
        f" {good[len(good) // 2] * 1e3:.0f} ms, p99 {good[int(len(good) * 0.99)] * 1e3:.0f} ms), {failed} attempts"
        f" failed while the receiver was dead, {lost} of the answered ones are not in the inbox, all delivered after"
        f" {delivered:.0f} s, all rows correct after {right:.0f} s, {reads} API requests",
        not lost,
    )


def known(folder: DataFolder) -> set[str]:
    """The ids of all events that the inbox has stored, applied or not."""
    with sqlite3.connect(folder.inbox) as connection:
        return {event for (event,) in connection.execute("SELECT event_id FROM pokes")}


def steady(setup: Setup, seconds: float, rate: float) -> Row:
    """A flow of webhooks for minutes: does the inbox keep up, and how does Dagster's storage grow?"""
    charges = list(setup.shop.collection("charges", True))[:2000]
    storage, requests = setup.storage(), len(setup.server.requests)
    inbox = Inbox(setup.folder)
    waiting = []
    started = time.monotonic()
    sent = 0
    while time.monotonic() - started < seconds:
        setup.shop.update("charges", random.choice(charges), livemode=True, description=f"steady {sent}")
        sent += 1
        if sent % int(rate * 10) == 0:
            waiting.append(inbox.summary().waiting)
        time.sleep(max(0.0, started + sent / rate - time.monotonic()))
    setup.server.webhooks.settled(60)
    wait_for(lambda: not inbox.has_due(), 60)
    time.sleep(10)  # the sensor's tick ends and is stored
    inbox.close()
    return Row(
        f"{sent:,} webhooks in {seconds:.0f} s",
        "the inbox keeps up",
        f"waiting in the inbox, every 10 s: {waiting};"
        f" Dagster's storage grew by {(setup.storage() - storage) / 1e6:.1f} MB;"
        f" {len(setup.server.requests) - requests:,} API requests",
    )


def webhooks(options: Options) -> list[Row]:
    """How long until a webhook's change can be read, and whether the inbox keeps up with many."""
    rows = apart(_measured, options)
    with xfs(options.folder, _ROOM + options.rows * _BYTES) as (volume, reason):
        if not volume:
            return [*rows, Row("webhook to published file, cloned", "", f"not tried: {reason}")]
        return [*rows, apart(_measured_with_clones, options, volume)]


def _measured(options: Options) -> list[Row]:
    tries = options.scaled(50, 10, 2)
    middle, many = options.scaled(1_000_000, 100_000, 5000), options.scaled(4_000_000, 400_000, 20_000)
    with running(options.folder) as setup:
        rows = [
            singles(setup, tries, "few rows"),
            burst(setup, options.scaled(5000, 500, 100), 100),
            steady(setup, options.scaled(300, 30, 10), 20),
        ]
        fill(setup, 0, middle)
        rows.append(singles(setup, tries, "middle"))
        fill(setup, middle, many)
        return [*rows, singles(setup, tries, "many", most=5)]


def _measured_with_clones(options: Options, volume: Path) -> Row:
    with running(volume) as setup:
        fill(setup, 0, options.rows)
        return singles(setup, options.scaled(50, 10, 2), "cloned", most=5)
