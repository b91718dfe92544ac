"""`stripe-pipeline check`, and its results that stop `dev`: output, exit status, and how few requests it sends.

The tests run the command against the emulator, and compare its estimate with a load of the same shop.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import pytest
import stripe
import yaml

from stripe_emulator import Fault, Server, Shop
from stripe_pipeline.cli.main import main
from stripe_pipeline.cli.processes import free_port
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import today
from stripe_pipeline.objects import DEFAULT_TYPES
from stripe_pipeline.preflight import key_report
from stripe_pipeline.settings.model import Settings
from tests.conftest import KEYS, MakePipeline
from tests.stripe_state import days_ago

REPOSITORY = Path(__file__).parents[2]
RESTRICTED = {name: key.replace("sk_", "rk_") for name, key in KEYS.items()}
ENABLED = Settings().enabled
LISTS = sum(object_type.endpoint is not None for object_type in ENABLED)
"""How many lists a first load reads; each of an empty shop takes one request."""
WANTED = Settings().event_types
LIVE_ONLY = {"STRIPE_TEST_API_KEY": ""}
LIVE = {"STRIPE_API_KEY": KEYS["STRIPE_API_KEY"]}
URL = "https://shop.example.com/webhooks/stripe"
DAY = 86_400


@dataclass(frozen=True)
class Ended:
    """The exit status and the output of a command."""

    status: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """The standard output, in one line."""
        return " ".join(self.out.split())


Run = Callable[..., Ended]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the files that a clone needs to run, and with a settings file."""
    root = tmp_path / "project"
    root.mkdir()
    for name in ("dagster.yaml", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, root)
    set_history(root, "60 days")
    return root


def set_history(project: Path, history: str) -> None:
    """Write a settings file with this history."""
    (project / "stripe_pipeline.yaml").write_text(f"history: {history}\n", encoding="utf-8")


@pytest.fixture
def run(
    server: Server,
    project: Path,
    folder: DataFolder,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Run]:
    """Runs a command in this process, with both keys; keyword arguments are environment variables."""
    monkeypatch.chdir(project)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("STRIPE_", "DAGSTER_"))}
    environment |= {"STRIPE_API_BASE": server.url, "STRIPE_PIPELINE_DATA": str(folder.root)}

    def run(*arguments: str, **variables: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["stripe-pipeline", *arguments])
        server.requests.clear()
        with mock.patch.dict(os.environ, environment | KEYS | variables, clear=True):
            try:
                main()
                status = 0
            except SystemExit as end:
                status = int(end.code or 0)
        captured = capfd.readouterr()
        assert "of_the_tests" not in captured.out + captured.err
        assert "whsec_0123" not in captured.out + captured.err
        assert "Traceback" not in captured.out + captured.err
        assert all(len(line) <= 80 for line in captured.out.splitlines() if "http" not in line)
        return Ended(status, captured.out, captured.err)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def figures(ended: Ended) -> list[tuple[int, int]]:
    """The estimated rows and requests of each key's load."""
    estimates = re.findall(r"To load: ~?([\d,]+) rows in ~?([\d,]+) requests", ended.text)
    return [(int(rows.replace(",", "")), int(requests.replace(",", ""))) for rows, requests in estimates]


def words_of(table: str, ended: Ended) -> list[str]:
    """The words behind a table's name, for each key."""
    return [" ".join(line.split()[1:]) for line in ended.out.splitlines() if line.split()[:1] == [table]]


def test_all_is_well(run: Run, server: Server, folder: DataFolder) -> None:
    ended = run("check", STRIPE_WEBHOOK_SECRET="whsec_0123")
    assert (ended.status, ended.err) == (0, "")
    for mode in ("Live", "Test"):
        assert f"{mode} key of {server.shop.account}" in ended.out.splitlines()
    for object_type in ENABLED:
        readable = f"0 0 with {object_type.parent}" if object_type.parent else "0 1 yes"
        assert words_of(object_type.name, ended) == [readable] * 2
    assert words_of("events", ended) == ["yes"] * 2
    assert "80 requests/s, 20 of one type: 80% of Stripe's 100 and 25." in ended.text
    assert "20 requests/s, 20 of one type: 80% of Stripe's 25 and 25." in ended.text
    assert figures(ended) == [(0, LISTS)] * 2
    assert ended.text.count(f"To load: 0 rows in {LISTS} requests, under a minute.") == 2
    assert ended.text.count("Webhooks: none registered") == 2
    assert "Signing secret: in STRIPE_WEBHOOK_SECRET." in ended.text
    assert "Signing secret: none; STRIPE_TEST_WEBHOOK_SECRET is not set." in ended.text
    assert {request.method for request in server.requests} == {"GET"}
    assert not folder.root.exists()


def test_the_missing_permissions_of_a_restricted_key_are_named(run: Run, server: Server) -> None:
    for resource in ("charges", "balance_transactions", "events"):
        server.deny(resource)
    ended = run("check", **RESTRICTED | {"STRIPE_TEST_API_KEY": KEYS["STRIPE_TEST_API_KEY"]})
    assert ended.status == 1
    assert words_of("charges", ended) == ["no: rak_charge_read", "0 1 yes"]
    assert words_of("fee_details", ended)[0] == "no: rak_balance_transaction_source_read"
    assert words_of("events", ended) == ["no: rak_event_read", "yes"]
    assert words_of("customers", ended) == ["0 1 yes"] * 2
    assert [line.split(": The provided key")[0] for line in ended.err.splitlines()] == [
        "error: The key may not read balance_transactions",
        "error: The key may not read charges",
        "error: The key may not read events",
    ]
    assert ended.err.count("Add the permission to the key") == 3


def test_an_optional_type_needs_a_permission_once_the_type_is_on(run: Run, server: Server, project: Path) -> None:
    server.deny("payouts")
    server.shop.payout(100, livemode=True, created=days_ago(server.shop, 3))
    ended = run("check", **RESTRICTED)
    assert (ended.status, ended.err) == (0, "")
    assert "payouts" not in ended.out
    (project / "stripe_pipeline.yaml").write_text("objects: {payouts: {enabled: true}}")
    ended = run("check", **RESTRICTED)
    assert ended.status == 1
    assert words_of("payouts", ended)[0] == "no: rak_payout_read"
    assert "The key may not read payouts" in ended.err
    server.allow("payouts")
    ended = run("check", **RESTRICTED)
    assert ended.status == 0
    assert words_of("payouts", ended) == ["1 1 yes", "0 1 yes"]


def test_disabled_types_need_not_be_readable(run: Run, server: Server, project: Path) -> None:
    server.deny("invoices")
    (project / "stripe_pipeline.yaml").write_text("objects: {invoices: {enabled: false}}")
    wanted = [event for event in WANTED if not event.startswith("inv")]
    server.shop.create_webhook_endpoint(livemode=True, url=URL, enabled_events=wanted, api_version=stripe.api_version)
    ended = run("check", **RESTRICTED)
    assert (ended.status, ended.err) == (0, "")
    assert "invoice" not in ended.out
    assert "is as it should be" in ended.text
    assert not any(request.path == "/v1/invoices" for request in server.requests)


def test_a_refused_key_does_not_hide_the_other(run: Run, server: Server) -> None:
    server.faults.append(Fault(path="", livemode=True, status=401, times=None))
    ended = run("check")
    assert ended.status == 1
    assert ended.err.startswith("error: Stripe does not accept the live key: ")
    assert len(ended.err.splitlines()) == 1
    assert "Check STRIPE_API_KEY" in ended.err
    assert ended.out.splitlines()[:2] == ["Live key", f"Test key of {server.shop.account}"]
    assert words_of("charges", ended) == ["0 1 yes"]
    assert len([request for request in server.requests if request.livemode]) == 1


def test_a_type_that_cannot_be_read_now(run: Run, server: Server) -> None:
    server.faults.append(Fault(path="/v1/refunds", status=500, headers={"Stripe-Should-Retry": "false"}, times=None))
    ended = run("check", **LIVE_ONLY)
    assert ended.status == 1
    assert words_of("refunds", ended) == ["no"]
    assert "GET /v1/refunds" in ended.err
    server.faults[:] = [Fault(path="/v1/(?!account|events)", status=400, times=None)]
    nothing = run("check", **LIVE_ONLY)
    assert nothing.status == 1
    assert "To load: nothing that the key may read." in nothing.text
    assert "Webhooks: Stripe refused GET /v1/webhook_endpoints" in nothing.text


def test_a_key_of_another_account_than_that_of_the_data(run: Run, server: Server, make_pipeline: MakePipeline) -> None:
    with Server(Shop(account="acct_1Another")) as other:
        make_pipeline(url=other.url).sync()
    ended = run("check", **LIVE_ONLY)
    assert ended.status == 1
    assert [line.partition(":")[0] for line in ended.out.splitlines() if not line.startswith(" ")] == [
        f"Live key of {server.shop.account}",
        "Publish",
    ]
    assert f"holds account acct_1Another, this key is of {server.shop.account}" in ended.err
    assert "name another folder in STRIPE_PIPELINE_DATA" in ended.err
    assert len(server.requests) == 1


def test_keys_of_two_accounts(run: Run, server: Server, folder: DataFolder) -> None:
    server.faults.append(Fault(path="/v1/account", livemode=False, body={"id": "acct_1Sandbox"}, times=None))
    ended = run("check")
    assert ended.status == 1
    assert f"This key is of account acct_1Sandbox, the other one of {server.shop.account}" in ended.err
    assert len(ended.err.splitlines()) == 1
    assert words_of("charges", ended) == ["0 1 yes"]
    assert not folder.root.exists()


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ({}, f"is as it should be, and sends to {URL}"),
        ({"status": "disabled"}, f": disabled. To correct it: stripe-pipeline webhooks register --url {URL} Signing"),
        ({"enabled_events": list(WANTED[2:])}, ": 2 event types missing. To correct it: stripe-pipeline webhooks"),
        ({"enabled_events": ["*"]}, "is as it should be"),
        (
            {"api_version": "2020-08-27"},
            f": API version 2020-08-27. To correct it: stripe-pipeline webhooks register --url {URL} --replace",
        ),
        ({"api_version": None, "status": "disabled"}, ": disabled, the account's API version. To correct it:"),
        ({"url": "https://example.com/other"}, "none registered, 1 elsewhere: changes come with the next sync."),
        ({"url": "https://example.com/other", "description": "stripe_pipeline"}, "is as it should be"),
    ],
)
def test_the_state_of_the_webhook_endpoint(run: Run, shop: Shop, endpoint: dict[str, object], message: str) -> None:
    fields = {"url": URL, "enabled_events": list(WANTED), "api_version": stripe.api_version} | endpoint
    endpoint_id = shop.create_webhook_endpoint(livemode=True, **fields)["id"]  # type: ignore[arg-type]
    ended = run("check", **LIVE_ONLY)
    assert (ended.status, ended.err) == (0, "")
    assert message in ended.text
    assert (endpoint_id in ended.out) == ("elsewhere" not in message)


def test_webhook_endpoints_that_the_key_may_not_see(run: Run, server: Server) -> None:
    server.deny("webhook_endpoints")
    ended = run("check", **RESTRICTED | LIVE_ONLY)
    assert (ended.status, ended.err) == (0, "")
    assert (
        "Webhooks: the key may not list them (it needs rak_webhook_read); the Stripe Dashboard shows them" in ended.text
    )


def test_the_only_keys_signing_secret_may_be_in_either_variable(run: Run) -> None:
    ended = run("check", STRIPE_TEST_WEBHOOK_SECRET="whsec_0123", **LIVE_ONLY)
    assert "Signing secret: in STRIPE_TEST_WEBHOOK_SECRET." in ended.text
    wrong = run("check", STRIPE_WEBHOOK_SECRET="we_0123")
    assert (wrong.status, wrong.out) == (2, "")
    assert "STRIPE_WEBHOOK_SECRET does not hold a webhook signing secret" in wrong.err


def test_requests_that_stripe_slowed_down_are_reported(run: Run, server: Server) -> None:
    reason = {"Stripe-Rate-Limited-Reason": "endpoint-rate"}
    server.faults.append(Fault(path="/v1/charges", status=429, headers=reason, times=2))
    ended = run("check", **LIVE_ONLY)
    assert (ended.status, ended.err) == (0, "")
    assert "Stripe slowed down 2 of these requests (endpoint-rate): something else uses up its limits." in ended.text
    assert "slowed down" not in run("check", **LIVE_ONLY).out


def test_the_estimate_is_close_to_a_first_load(
    run: Run, server: Server, project: Path, make_pipeline: MakePipeline
) -> None:
    server.shop.seed_history(20)
    random, now = Random(7), server.shop.clock.now()
    for _ in range(1000):  # more on the later days
        age = random.expovariate(0.3) % 20 * DAY
        server.shop.create_customer(livemode=True, created=int(now - age), announce=False)
    set_history(project, "24 days")
    ended = run("check", **LIVE_ONLY)
    assert (ended.status, ended.err) == (0, "")
    assert len(server.requests) <= 6 * LISTS
    [(rows, requests)] = figures(ended)

    server.requests.clear()
    pipeline = make_pipeline(LIVE, history="24 days")
    pipeline.sync()
    shown = pipeline.warehouse.rows.shown(f"live.{table}" for table in DEFAULT_TYPES).values()
    assert 0.8 <= rows / sum(number for number, _ in shown) <= 1.4
    assert 0.6 <= requests / len(server.requests) <= 1.6

    loaded = run("check", **LIVE_ONLY)
    assert (loaded.status, loaded.err) == (0, "")
    assert "To load: nothing; the stored data is complete." in loaded.text
    assert words_of("charges", loaded) == ["0 0 yes"]
    besides = [request for request in server.requests if request.path.strip("/").split("/")[-1] not in DEFAULT_TYPES]
    assert len(server.requests) == len(besides) + LISTS
    assert sorted(request.path for request in besides) == ["/v1/account", "/v1/events", "/v1/webhook_endpoints"]


def test_lines_that_an_invoice_does_not_embed_take_requests_of_their_own(run: Run, shop: Shop) -> None:
    for lines in (12, 130, 5):
        shop.create_invoice(livemode=True, n_lines=lines, created=int(shop.clock.now() - DAY))
    ended = run("check", **LIVE_ONLY)
    assert words_of("invoices", ended) == ["3 1 yes"]
    assert words_of("invoice_lines", ended) == ["147 3 with invoices"]


def test_the_time_of_a_load_is_shown_in_minutes_or_hours(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate limits are lowered, as a load of many hours is too much for a test."""
    set_history(project, f"{4000 // len(ENABLED)} days")  # Dagster records each day of each table
    assert f"in {LISTS} requests, about 1 minutes." in run("check", **LIVE_ONLY).text
    set_history(project, "0 days")
    monkeypatch.setattr(key_report, "ENDPOINT_RATE", 0.005)  # lists are read in parallel, at 80 % of the limit
    assert f"in {LISTS} requests, about 4 minutes." in run("check", **LIVE_ONLY).text
    monkeypatch.setattr(key_report, "LIVE_ACCOUNT_RATE", LISTS / 7000)
    assert f"in {LISTS} requests, about 2 hours." in run("check", **LIVE_ONLY).text


def test_objects_beyond_the_retention_are_not_counted(run: Run, server: Server, project: Path) -> None:
    for age in (1, 20):
        server.shop.create_customer(livemode=True, created=int(server.shop.clock.now() - age * DAY))
    (project / "stripe_pipeline.yaml").write_text("objects: {customers: {retention: 10 days}}")
    assert words_of("customers", run("check", **LIVE_ONLY)) == ["1 1 yes"]


@pytest.mark.both_modes
def test_a_field_that_no_object_has_is_named(run: Run, shop: Shop, project: Path, make_pipeline: MakePipeline) -> None:
    excluded = ["address.lin1", "address.line2", "metadata.hidden", "shipping.phone", "sources"]
    settings: dict[str, Any] = {
        "history": today() - timedelta(days=60),
        "objects": {
            "customers": {"fields": {"exclude": excluded}},
            "charges": {"fields": {"hash": ["billing_details.emial"]}},
            "invoices": {"fields": {"exclude": ["lines.data.period.end", "lines.data.period.finish"]}},
            "invoice_lines": {"fields": {"exclude": ["period.start", "period.begin"]}},
        },
    }
    (project / "stripe_pipeline.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    customer = shop.create_customer(livemode=True, created=days_ago(shop, 2))["id"]
    address = {"line1": "1 High Street", "line2": None}
    shop.update("customers", customer, livemode=True, address=address, metadata={"hidden": "x"}, shipping=None)
    shop.create_payment(customer, livemode=True, created=days_ago(shop, 2))
    shop.create_invoice(customer, livemode=True, created=days_ago(shop, 2))
    warnings = [
        "customers: address.lin1 (did you mean line1?) is in the settings, but no recent object has it.",
        "charges: billing_details.emial (did you mean email?) is in the settings, but",
        "invoice_lines: period.begin is in the settings, but",
        "invoices: lines.data.period.finish is in the settings, but",
    ]
    before = run("check").text
    make_pipeline(**settings).sync()
    for text in (before, run("check").text):
        assert [line for line in warnings if line in text] == warnings
        assert text.count("is in the settings, but") == len(warnings)


@pytest.mark.both_modes
def test_complete_days_are_not_counted(run: Run, server: Server, make_pipeline: MakePipeline) -> None:
    random, today = Random(3), int(server.shop.clock.now()) // DAY
    ages = [random.uniform(1, 30) for _ in range(1500)]
    for age in ages:
        server.shop.create_customer(livemode=True, created=int((today + 1 - age) * DAY), announce=False)
    make_pipeline(history="5 days").sync()
    left = sum(age > 6 for age in ages)
    [(rows, _)] = figures(run("check", **LIVE_ONLY))
    assert 0.9 * left <= rows <= 1.1 * left


def test_objects_that_a_script_has_just_created_do_not_count_as_the_usual_number(
    run: Run, server: Server, project: Path
) -> None:
    random, now = Random(5), server.shop.clock.now()
    for _ in range(1000):
        server.shop.create_customer(livemode=True, created=int(now - random.uniform(0, 3600)), announce=False)
    set_history(project, "24 months")
    for n in range(2500):
        server.shop.create_customer(livemode=False, created=int(now - n * 60 * DAY / 2500), announce=False)
    for _ in range(150):
        server.shop.create_customer(livemode=False, created=int(now - random.uniform(0, 60)), announce=False)
    (alone, _), (above_others, _) = figures(run("check"))
    assert 500 <= alone <= 2000
    assert 1800 <= above_others <= 4400


def test_quiet_days_are_not_taken_for_the_whole_week(run: Run, shop: Shop) -> None:
    now = int(shop.clock.now())
    busy = [age for age in range(0, 60 * DAY, 600) if DAY <= age % (7 * DAY) < 6 * DAY]
    for age in busy:
        shop.create_customer(livemode=True, created=now - age, announce=False)
    [(rows, _)] = figures(run("check", **LIVE_ONLY))
    assert 0.8 * len(busy) <= rows <= 1.4 * len(busy)


def test_dev_starts_nothing_with_a_key_that_cannot_load(run: Run, server: Server, folder: DataFolder) -> None:
    """It does not wait for the other key, either."""
    server.faults.append(Fault(path="", livemode=True, status=401, times=None))
    refused = run("dev", "--port", f"{free_port()}")
    assert (refused.status, refused.out) == (1, "")
    assert refused.err.startswith("error: Stripe does not accept the live key: ")
    server.faults[:] = [Fault(path="/v1/account", livemode=False, body={"id": "acct_1Sandbox"}, times=None)]
    other = run("dev", "--port", f"{free_port()}")
    assert other.status == 1
    assert "This key is of account acct_1Sandbox" in other.err
    server.faults[:] = [Fault(path="/v1/events", status=403, times=None)]
    deaf = run("dev", "--port", f"{free_port()}")
    assert deaf.status == 1
    assert "The key may not read events" in deaf.err
    assert "Starting" not in refused.out + other.out + deaf.out
    assert not list(folder.logs.iterdir())
    assert not folder.private.exists()


def test_dev_goes_on_without_a_type_that_may_not_be_read(run: Run, server: Server, project: Path) -> None:
    server.deny("charges")
    (project / ".dagster").write_text("not a folder")  # so that `dev` ends before it starts a process
    ended = run("dev", "--port", f"{free_port()}", **RESTRICTED | LIVE_ONLY)
    first, *_, then = ended.out.splitlines()
    assert figures(ended) == [(0, LISTS - 1)]
    assert first == f"Live key of {server.shop.account}"
    assert then.startswith("Starting Dagster")
    lacking, stopped = ended.err.splitlines()
    assert "'rak_charge_read'" in lacking
    assert stopped.startswith("error: Dagster cannot use its storage")
