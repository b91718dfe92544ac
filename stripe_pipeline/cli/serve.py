"""Commands that run until they are stopped: dev and demo."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import filelock
import typer
from dotenv import dotenv_values

from stripe_pipeline.addresses import BASE_URL
from stripe_pipeline.cli.app import app, check_environment
from stripe_pipeline.cli.check import complain_of_missing, key_of, key_reports, to_load
from stripe_pipeline.cli.display import print_line, short_path
from stripe_pipeline.cli.instance import dagster_instance
from stripe_pipeline.cli.processes import HOST, Processes, claim_port, free_port
from stripe_pipeline.cli.prove import prove_tables, show_summary
from stripe_pipeline.cli.report import make as make_report_now
from stripe_pipeline.cli.runs import execute
from stripe_pipeline.cli.terminal import complain, err, out
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import today
from stripe_pipeline.errors import (
    SettingsError,
    StripePipelineError,
)
from stripe_pipeline.settings.environment import api_base, webhook_secrets
from stripe_pipeline.settings.loading import DEFAULT_FILE, load_settings
from stripe_pipeline.warehouse.accounts import called

DEMO_ACCOUNT = "acct_1DemoShop0000000"

_DEMO_KEYS = {
    "STRIPE_API_KEY": "sk_live_demo_shop_key",
    "STRIPE_TEST_API_KEY": "sk_test_demo_shop_key",
    "STRIPE_WEBHOOK_SECRET": "whsec_demo_shop_live",
    "STRIPE_TEST_WEBHOOK_SECRET": "whsec_demo_shop_test",
}

_DEMO_DAYS = 60
_DEMO_LATENCY_MS = 20
_DEMO_BACKOFF = 0.001  # of Stripe's waits before a webhook is sent again: a third of a second at first
_UI_WAIT = 180  # seconds; starting takes 8 to 30, more where nothing is compiled yet

REPORT_PAGE = "/assets/report/overview"
"""The path of the report in the Dagster UI."""
UiPort = Annotated[int, typer.Option(min=1, max=65535, metavar="PORT", help=f"Port of the Dagster UI, on {HOST}.")]

WebhookPort = Annotated[
    int, typer.Option(min=0, max=65535, metavar="PORT", help="Port of the webhook receiver; 0 takes any free one.")
]


@app.command()
def dev(port: UiPort = 3000, webhook_port: WebhookPort = 4242) -> None:
    """Run everything against your Stripe account.

    Loads what is missing and starts Dagster, with its UI and the schedule that keeps the tables up to date, and the
    receiver of webhooks if STRIPE_WEBHOOK_SECRET or STRIPE_TEST_WEBHOOK_SECRET is set.
    """
    from stripe_pipeline.warehouse.warehouse import Warehouse

    check_environment()
    ports = {"--port": port}
    if webhook_secrets(needed=False):
        ports["--webhook-port"] = webhook_port = webhook_port or free_port()
    _claim(ports)
    folder = DataFolder.from_environment()
    with _claimed(folder):
        if api_base() == BASE_URL and DEMO_ACCOUNT in Warehouse(folder, read_only=True).keys.accounts():
            raise SettingsError(
                f"The data folder {short_path(folder.root)} holds the demo's shop",
                "Remove it with `stripe-pipeline clean`, or name another folder in STRIPE_PIPELINE_DATA",
            )
        for report in key_reports():
            # Without one of these no table could be loaded. Unreadable types do not prevent loading the others.
            if unusable := report.refused or report.events:
                raise unusable
            out.print(key_of(report), style="bold")
            print_line("To load", f"{to_load(report)}.")
            complain_of_missing(report)
        with Processes(folder.logs, stopping=folder.stopping) as processes:
            webhooks = None
            if "--webhook-port" in ports:
                webhooks = _start_receiver(processes, webhook_port)
            _run_until_stopped(processes, folder, port, webhooks=webhooks, emulator=None)


@app.command()
def demo(
    port: UiPort = 3000,
    emulator_port: Annotated[
        int,
        typer.Option(min=0, max=65535, metavar="PORT", help="Port of the Stripe emulator; 0 takes any free one."),
    ] = 0,
    webhook_port: WebhookPort = 0,
    trade_every: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Seconds between two actions in the shop; 0 for none. By default, the shop trades as it did before.",
        ),
    ] = None,
) -> None:
    """Run everything against a made-up Stripe shop.

    The shop runs in a Stripe emulator that comes with this project; no account is needed. Every start begins with a new
    shop.
    """
    in_file = sorted(name for name in dotenv_values(".env") if name.startswith("STRIPE_"))
    if in_file:
        raise SettingsError(
            f"The file .env sets {', '.join(in_file)}, and Dagster would use that instead of the demo's shop",
            "Move .env away while the demo runs",
        )
    if os.environ.get("STRIPE_PIPELINE_CONFIG"):
        load_settings()  # otherwise every started process would report the same error
    emulator_port, webhook_port = emulator_port or free_port(), webhook_port or free_port()
    _claim({"--port": port, "--emulator-port": emulator_port, "--webhook-port": webhook_port})
    os.environ.pop("STRIPE_PIPELINE_WAREHOUSE", None)  # each demo begins with an empty file
    folder = DataFolder.from_environment()
    with _claimed(folder):
        _forget_last_demo(folder)
        folder.prepare()
        emulator = f"http://{HOST}:{emulator_port}"
        os.environ.update(_DEMO_KEYS, STRIPE_API_BASE=emulator)
        # The shop's notifications must not mix with those of an account.
        os.environ.pop("STRIPE_PIPELINE_INBOX", None)
        _use_demo_settings(folder)
        with Processes(folder.logs, stopping=folder.stopping) as processes:
            out.print("Starting the Stripe emulator and its shop …")
            webhooks = _start_receiver(processes, webhook_port)
            processes.start(
                "Stripe emulator",
                f"stripe_emulator --port {emulator_port} --days {_DEMO_DAYS}"
                + ("" if trade_every is None else f" --trade-every {trade_every}")
                + f" --rate-limits --latency-ms {_DEMO_LATENCY_MS}"
                f" --webhook-url {webhooks} --webhook-backoff {_DEMO_BACKOFF}",
            )
            processes.wait_for(lambda: _answers(f"{emulator}/v1/charges", 401), name="The emulator", seconds=60)
            _run_until_stopped(processes, folder, port, webhooks=webhooks, emulator=emulator)


@contextlib.contextmanager
def _claimed(folder: DataFolder) -> Iterator[None]:
    """Create the data folder and lock out other `demo`s and `dev`s: two Dagsters would do everything twice."""
    folder.prepare()
    try:
        with filelock.FileLock(folder.running, timeout=0, mode=0o600):
            yield
    except filelock.Timeout:
        raise SettingsError(
            f"Another `stripe-pipeline demo` or `dev` is using the data folder {short_path(folder.root)}",
            "Stop it first, or name another folder in STRIPE_PIPELINE_DATA",
        ) from None


def _claim(ports: dict[str, int]) -> None:
    """Raise `SettingsError`, which names the option, if one of them cannot be listened on."""
    for option, port in ports.items():
        first = next(other for other in ports if ports[other] == port)
        if first != option:
            raise SettingsError(f"{first} and {option} cannot both be {port}", f"Change {option}")
    for option, port in ports.items():
        claim_port(port, option=option)


def _start_receiver(processes: Processes, port: int) -> str:
    """Start the webhook receiver and wait until it listens; returns its address."""
    from stripe_pipeline.webhooks.receiver import HEALTH, PATH

    address = f"http://{HOST}:{port}"
    processes.start("Webhook receiver", f"stripe_pipeline webhooks serve --port {port}")
    processes.wait_for(lambda: _answers(f"{address}{HEALTH}", 200), name="The webhook receiver", seconds=60)
    return f"{address}{PATH}"


def _run_until_stopped(
    processes: Processes, folder: DataFolder, port: int, *, webhooks: str | None, emulator: str | None
) -> None:
    """Start Dagster, read Stripe while it starts, and wait for Ctrl-C, which then counts as success."""
    out.print("Starting Dagster and loading the history from Stripe …")
    # Creates Dagster's databases: processes that create them at the same time break each other.
    with dagster_instance():
        pass
    processes.start("Dagster", f"dagster dev -h {HOST} -p {port}")
    try:
        # Tables that the key may not read do not prevent using the others.
        execute(job="sync", first=today(), last=today())
    except StripePipelineError:
        processes.check()  # An ended process is the cause of the load's error.
        raise
    with err.status("Waiting for Dagster …") if err.is_terminal else contextlib.nullcontext():
        processes.wait_for(lambda: _dagster_is_up(port), name="Dagster", seconds=_UI_WAIT)
    try:
        _say_ready(folder, port, webhooks, emulator)
        processes.watch()
    except KeyboardInterrupt:
        out.print("\nStopping …")
        processes.end()
        out.print("Stopped.")


def _say_ready(folder: DataFolder, port: int, webhooks: str | None, emulator: str | None) -> None:
    from stripe_pipeline import query

    published = short_path(folder.published)
    sql = (
        "SELECT currency, count(*) AS payments,\n"
        "       sum(amount_decimal - amount_refunded_decimal) AS kept_by_the_shop\n"
        "FROM live.payments WHERE paid\n"
        "GROUP BY currency ORDER BY payments DESC LIMIT 5"
    )
    out.print("\nReady.", style="bold green")
    # Dagster's own first page is a timeline of runs, without a link to the report.
    out.print(f"  Report           http://{HOST}:{port}{REPORT_PAGE}")
    out.print(f"  Dagster UI       http://{HOST}:{port}")
    if emulator:
        out.print(f"  Stripe emulator  {emulator}")
    out.print(
        "  Webhooks         "
        + (webhooks or "off: set STRIPE_WEBHOOK_SECRET to the secret that `webhooks register` or `stripe listen` shows")
    )
    out.print(f"  Data             {published}")
    out.print(
        f"  Settings         {short_path(Path(os.environ.get('STRIPE_PIPELINE_CONFIG') or DEFAULT_FILE).absolute())}"
    )
    out.print(f"  Logs             {short_path(folder.logs)}")
    if emulator:
        out.print("\nThe shop keeps trading; its API accepts any key that begins with sk_test_.")
    if webhooks:
        out.print("Webhooks bring in changes within seconds, and a sync every 15 minutes brings in the")
        out.print("others.")
    else:
        out.print("A sync brings in changes every 15 minutes; to get them now, start the job `sync` in")
        out.print("the UI.")
    out.print(f"To query, after `pip install duckdb-cli`: duckdb -readonly {shlex.quote(published)}\n")
    out.print(sql, style="cyan")
    out.print(query(sql).to_string(index=False, float_format="{:,.3f}".format))
    if emulator:
        out.print()
        show_summary(prove_tables().lines)
        _show_report(port)
    out.print("\nCtrl-C stops everything.")


def _show_report(port: int) -> None:
    """Make the report, if the libraries of its charts are installed, and say where to see it."""
    try:
        path = short_path(make_report_now().path)
    except StripePipelineError as error:
        complain(error)
        return
    out.print(f"\nThe report: {path}, and http://{HOST}:{port}{REPORT_PAGE}")


def _forget_last_demo(folder: DataFolder) -> None:
    """Remove the data of the last demo: the emulator keeps nothing between two starts."""
    from stripe_pipeline.warehouse.warehouse import Warehouse

    accounts = Warehouse(folder, read_only=True).keys.accounts()
    if not accounts and not folder.private.exists():
        return
    others = accounts - {DEMO_ACCOUNT}
    if others:
        owners = ", ".join(sorted(account or called(account) for account in others))
        raise SettingsError(
            f"The data folder {short_path(folder.root)} holds data of {owners}",
            "Name another folder for the demo in STRIPE_PIPELINE_DATA",
        )
    out.print(f"Removing the last demo's data from {short_path(folder.root)}")
    folder.clear(keep=(folder.running, folder.logs, folder.runs))


def _use_demo_settings(folder: DataFolder) -> None:
    """Use settings that fit the shop and show what is possible, unless the environment names others."""
    if not os.environ.get("STRIPE_PIPELINE_CONFIG"):
        path = folder.root / "demo.yaml"
        shutil.copy(Path(__file__).with_name("demo.yaml"), path)
        os.environ["STRIPE_PIPELINE_CONFIG"] = str(path)


def _answers(url: str, status: int) -> bool:
    import urllib3

    try:
        return urllib3.request("GET", url, timeout=2, retries=False).status == status
    except urllib3.exceptions.HTTPError:
        return False


def _dagster_is_up(port: int) -> bool:
    """Whether the UI answers and has loaded the code location."""
    import urllib3

    query = "{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError { __typename } } } } }"
    try:
        url = f"http://{HOST}:{port}/graphql"
        answer = urllib3.request("POST", url, json={"query": query}, timeout=5, retries=False).json()
        entries = answer["data"]["workspaceOrError"]["locationEntries"]
        return [entry["locationOrLoadError"]["__typename"] for entry in entries] == ["RepositoryLocation"]
    except (urllib3.exceptions.HTTPError, ValueError, LookupError, TypeError):
        return False
