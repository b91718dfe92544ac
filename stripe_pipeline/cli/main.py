"""The command line: what people type, what they read, and the exit status.

Exit status: 0 if all of it worked, 1 if something failed, 2 if it could not be started as asked. The work itself
belongs to `sync` and `assets`; runs are recorded in the same Dagster instance as those of the UI. What takes long to
import (Dagster, DuckDB) is imported where it is needed: `webhooks serve` does without.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import signal
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from datetime import date, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import filelock
import typer
from dotenv import dotenv_values
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.status import Status
from rich.table import Table
from rich.text import Text

from stripe_pipeline.addresses import BASE_URL
from stripe_pipeline.cli.instance import dagster_instance
from stripe_pipeline.cli.processes import HOST, Processes, claim_port, free_port
from stripe_pipeline.cli.terminal import complain, err, out
from stripe_pipeline.cli.webhooks import app as webhooks
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import today
from stripe_pipeline.errors import (
    PermissionMissing,
    SettingsError,
    StripePipelineError,
    by_cause,
)
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.settings.model import DEFAULT_FILE, api_base, inbox_url, load_keys, load_settings, webhook_secrets
from stripe_pipeline.storage_errors import Cause, cause_of, reason, remedy
from stripe_pipeline.sync.account import called

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from stripe_pipeline.preflight.connection import Connection
    from stripe_pipeline.sync.pipeline import Pipeline, Report
    from stripe_pipeline.sync.pipeline import Progress as RunProgress
    from stripe_pipeline.warehouse.warehouse import Warehouse

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(webhooks, name="webhooks")

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
_INTERRUPTED = 130  # exit status after Ctrl-C, by convention


def main() -> None:
    """Entry point of `stripe-pipeline`."""
    # An end from outside is the same as Ctrl-C, which a shell has ignored in what it runs in the background.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    # What this and the processes below it make, libraries' files included, is nobody else's to read.
    os.umask(0o077)
    # Without any handler Python prints the warnings of libraries to the terminal.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        app(sys.argv[1:] or ["--help"], prog_name="stripe-pipeline")
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            err.print("Stopped.")
        raise
    except StripePipelineError as error:
        complain(error)
        sys.exit(2 if isinstance(error, SettingsError) else 1)
    except OSError as error:
        if cause_of(error) not in (Cause.DENIED, Cause.FULL) or not error.filename:
            raise
        path = Path(os.fsdecode(error.filename))
        complain(f"{path} cannot be used ({reason(error)}). {remedy(error, path)}.")
        sys.exit(1)


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"stripe-pipeline {version('stripe-pipeline')}")
        raise typer.Exit


@app.callback()
def enter_project(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Keeps nine Stripe object types in DuckDB, equal to Stripe.

    Try it without an account: stripe-pipeline demo. With one: set STRIPE_API_KEY, then stripe-pipeline check and
    stripe-pipeline dev.
    """
    # Dagster resolves its storage against the working directory, so all work is done in the project folder.
    _make_paths_absolute()
    here = Path.cwd()
    candidates = [here, *here.parents, Path(__file__).resolve().parents[2]]
    root = next((folder for folder in candidates if _is_project(folder)), None)
    if root is None:
        raise SettingsError(
            "The stripe_pipeline project is not here or above", "Run stripe-pipeline in a clone of the project"
        )
    os.chdir(root)
    # As Dagster does for whatever it starts here, so that both see the same.
    try:
        there = dotenv_values(".env")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f"The file {root / '.env'} cannot be read ({reason})", "Correct it there") from None
    os.environ.update({name: value for name, value in there.items() if value is not None})
    _make_paths_absolute()
    home = os.environ.get("DAGSTER_HOME") or str(root)
    if not Path(home).is_absolute() or not Path(home).is_dir():
        raise SettingsError(
            f"DAGSTER_HOME is {home}, which is not the absolute path of a folder",
            "Correct it, or unset it: Dagster then keeps its history in the project folder",
        )
    os.environ["DAGSTER_HOME"] = home


def _make_paths_absolute() -> None:
    for name in ("STRIPE_PIPELINE_DATA", "STRIPE_PIPELINE_CONFIG"):
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).expanduser().absolute())


def _is_project(folder: Path) -> bool:
    """Whether `dagster.yaml` and the code location are there; the parent folders may be another Dagster project."""
    try:
        declared = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        return (
            declared["tool"]["dg"]["project"]["root_module"] == "stripe_pipeline"
            and (folder / "dagster.yaml").is_file()
        )
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text} is no day such as {today()}") from None


UiPort = Annotated[
    int, typer.Option(min=1, max=65535, metavar="PORT", help=f"Where the Dagster UI listens, on {HOST}.")
]
WebhookPort = Annotated[
    int, typer.Option(min=0, max=65535, metavar="PORT", help="Where webhooks arrive; 0 takes any free one.")
]


@app.command()
def sync() -> None:
    """Bring every table up to date with Stripe.

    One tick now, the same as the schedule's every 15 minutes. The first one loads the whole history.
    """
    _check_environment()
    if not _execute(job="sync", first=today(), last=today()):
        raise typer.Exit(1)


@app.command()
def backfill(
    first: Annotated[date, typer.Option("--from", parser=_day, metavar="DAY", help="First day, such as 2026-01-31.")],
    last: Annotated[date, typer.Option("--to", parser=_day, metavar="DAY", help="Last day, inclusive.")],
    only: Annotated[
        list[str] | None, typer.Option(metavar="TABLES", help="Some tables, separated by commas, instead of all.")
    ] = None,
) -> None:
    """Read whole days again, completely.

    The same as a backfill from the UI. Days are UTC days of `created`. What is already there is compared and
    corrected, never doubled.
    """
    _check_environment()
    settings = load_settings()
    if first > last:
        raise SettingsError(f"--from {first} is after --to {last}", "Exchange them")
    if first < settings.first_day:
        raise SettingsError(
            f"--from {first} is before {settings.first_day}, where the history begins",
            "Begin there, or set `history` in the settings file to an earlier day",
        )
    if last > today():
        raise SettingsError(f"--to {last} is in the future", f"The last day that can be read is today, {today()} UTC")
    enabled = [object_type.name for object_type in settings.enabled]
    tables = enabled if only is None else [name.strip() for names in only for name in names.split(",")]
    if unknown := sorted(set(tables) - set(enabled)):
        off = [name for name in unknown if name in OBJECT_TYPES]
        raise SettingsError(
            f"--only names {', '.join(unknown) if any(unknown) else 'no table'}"
            + (f": the settings switch {', '.join(off)} off" if off else ""),
            f"Tables here are {', '.join(enabled)}",
        )
    if not _execute(job=None, first=first, last=last, tables=tables):
        raise typer.Exit(1)


@app.command()
def check() -> None:
    """Show what each key may read, and what loading will take.

    Asks Stripe some forty times for each key and changes nothing. Exit status 1 if something that is needed is missing:
    a key, a permission, the events; webhooks and what they need are only shown.
    """
    connections = _connections()
    for connection in connections:
        out.print(_key_of(connection), style="bold")
        if connection.refused:
            complain(connection.refused)
            continue
        _show_connection(connection)
        _complain_of_missing(connection)
    if not all(connection.complete for connection in connections):
        raise typer.Exit(1)


@app.command()
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be removed.")] = False,
) -> None:
    """Remove what is older than its retention.

    The asset `retention` does the same every day, and lets go of old news and of Dagster's own old runs.
    """
    from stripe_pipeline.assets.retention import PRUNED, RETENTION, records
    from stripe_pipeline.sync.pipeline import look

    if dry_run:
        with look() as warehouse:
            pruned = records(warehouse.prune(dry_run=True))
    else:
        _check_environment()
        with dagster_instance() as instance:
            result = _in_process(instance, None, asset_selection=[RETENTION])
        if not result.success:
            raise _failure(result)
        [materialization] = result.asset_materializations_for_node("retention")
        shown = materialization.metadata.get(PRUNED)
        pruned = [record.data for record in shown.records] if shown else []
    if not pruned:
        out.print("Nothing goes: no `retention` is set, everything is kept for ever.")
        return
    table = Table(box=None, pad_edge=False)
    for name in pruned[0]:
        table.add_column(name, justify="right" if name == "rows" else "left")
    for row in pruned:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else value for value in row.values()))
    out.print(table)
    if dry_run:
        out.print("Nothing was removed: this only counts.")


@app.command()
def erase(
    customers: Annotated[list[str], typer.Argument(metavar="CUSTOMER...", help="Ids of customers, such as cus_….")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    unknown: Annotated[bool, typer.Option("--unknown", help="Accept ids that the tables do not hold.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Let customers who were erased come back.")] = False,
) -> None:
    """Erase customers and everything that other rows copied of them, and keep them out.

    Removes them from both files and every published version. Amounts, ids and dates stay. Needs no API key and changes
    nothing at Stripe.
    """
    from stripe_pipeline.fields import load_hash_key
    from stripe_pipeline.warehouse.recovery import stand_ins
    from stripe_pipeline.warehouse.warehouse import Warehouse

    settings, folder = load_settings(), DataFolder.from_environment()
    if not folder.private.exists() and not stand_ins(folder):
        raise SettingsError(
            f"The data folder {_short(folder.root)} holds no warehouse", "Name another one in STRIPE_PIPELINE_DATA"
        )
    hash_key = load_hash_key(folder) if settings.hashes else None
    warehouse = Warehouse(folder, settings, hash_key, settings_now=load_settings)
    customers = list(dict.fromkeys(customers))
    if undo:
        for customer in customers:
            _undo_erasure(warehouse, customer)
        return
    foreseen = warehouse.erase(customers, dry_run=True)
    strangers = [customer for customer, found in foreseen.items() if not found.known]
    if strangers and not unknown:
        raise SettingsError(
            f"{_short(folder.private)} holds no customer {', '.join(strangers)} and nothing that belongs to one",
            "Correct the id. To keep out a customer who was never loaded, add --unknown",
        )
    number = f"{len(customers)} {'customer' if len(customers) == 1 else 'customers'}"
    table = Table(box=None, pad_edge=False)
    for heading in ("table", "rows", "what happens"):
        table.add_column(heading, justify="right" if heading == "rows" else "left")
    for name in OBJECT_TYPES:
        if rows := sum(found.rows.get(name, 0) for found in foreseen.values()):
            table.add_row(name, f"{rows:,}", "removed" if name == "customers" else "personal data removed")
    if table.row_count:
        out.print(table)
    for column in warehouse.unidentified_references():
        out.print(f"Rows that name the customer in {column} alone are not found: the settings leave that column out.")
    if not yes and not typer.confirm(f"Erase {number} from {_short(folder.root)} for good?"):
        raise typer.Exit(1)
    warehouse.erase(customers)
    out.print(f"{number} erased and kept out from now on. Stripe still holds the data: delete or redact it there, too.")


def _undo_erasure(warehouse: Warehouse, customer: str) -> None:
    days = warehouse.keep_out_no_longer(customer)
    if days is None:
        raise SettingsError(f"{customer} was not erased here", "Correct the id")
    out.print(f"{customer} is not kept out any more.")
    if days:
        out.print(f"`stripe-pipeline backfill --from {days[0]} --to {days[-1]}` brings back what Stripe still holds.")


@app.command()
def clean(
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    keep_history: Annotated[
        bool, typer.Option("--keep-history", help="Leave what Dagster remembers of runs and partitions.")
    ] = False,
) -> None:
    """Remove everything that was loaded, to begin anew.

    Empties the data folder of what the pipeline made there, and the inbox, and removes Dagster's history of this
    project. Shows all of it and asks first. Stop `demo`, `dev`, Dagster and `webhooks serve` before.
    """
    from stripe_pipeline.cli.cleaning import Cleaning

    with Cleaning(DataFolder.from_environment(), inbox_url(), history=_history(keep_history)) as cleaning:
        if not cleaning.found:
            out.print(
                f"Nothing to remove: the data folder {_short(cleaning.folder.root)} holds nothing of the pipeline."
            )
            return
        out.print("This removes:")
        for line in cleaning.found:
            out.print(f"  {line}")
        out.print("What Stripe still has can be loaded again; the last state of objects deleted in Stripe cannot.")
        if not yes:
            if not sys.stdin.isatty():
                raise SettingsError(
                    "Nothing was removed: this command asks first, and its input is not a terminal",
                    "Add --yes to remove it",
                )
            if not typer.confirm("Remove it?"):
                out.print("Nothing was removed.")
                raise typer.Exit(1)
        others = cleaning.remove()
    out.print("Removed.")
    if others:
        out.print(f"Left in {_short(cleaning.folder.root)}: {', '.join(path.name for path in others)}.")


def _history(keep: bool = False) -> Path | None:
    """Where the project's `dagster.yaml` keeps Dagster's history; None with another DAGSTER_HOME, or to `keep` it."""
    root = Path.cwd()
    return root / ".dagster" if not keep and Path(os.environ["DAGSTER_HOME"]).resolve() == root.resolve() else None


@webhooks.command()
def drain() -> None:
    """Apply what the inbox holds now, once.

    The sensor of `dev` and `demo` does the same all the time.
    """
    from stripe_pipeline.automation import OBJECTS, events_without_a_run
    from stripe_pipeline.sync.pipeline import TICK_TIME, Pipeline, Report

    _check_environment()
    report = Report()
    with _Display() as display, dagster_instance() as instance, Pipeline.from_environment(display) as pipeline:
        try:
            applied = -1
            # Whoever asks for it now does not want to wait for the next attempt.
            while pipeline.has_news(math.inf) and report.applied > applied:
                applied = report.applied
                pipeline.drain(most=OBJECTS, report=report, due=math.inf, within=TICK_TIME)
        finally:
            pipeline.publish()
            for event in events_without_a_run(report, pipeline, instance):
                instance.report_runless_asset_event(event)
        waiting = pipeline.objects_to_read(math.inf)
    _show(report)
    out.print(f"{report.applied} {'event' if report.applied == 1 else 'events'} applied.")
    _complain_of(report)
    if report.failures or waiting:
        raise typer.Exit(1)


@app.command()
def dev(port: UiPort = 3000, webhook_port: WebhookPort = 4242) -> None:
    """Run everything against your Stripe account.

    Loads what is missing and starts Dagster, with its UI and the schedule that keeps the tables up to date, and the
    receiver of webhooks if STRIPE_WEBHOOK_SECRET or STRIPE_TEST_WEBHOOK_SECRET is set.
    """
    from stripe_pipeline.warehouse.warehouse import Warehouse

    _check_environment()
    ports = {"--port": port}
    if webhook_secrets(needed=False):
        ports["--webhook-port"] = webhook_port = webhook_port or free_port()
    _claim(ports)
    folder = DataFolder.from_environment()
    with _claimed(folder):
        if api_base() == BASE_URL and DEMO_ACCOUNT in Warehouse(folder, as_it_is=True).accounts():
            raise SettingsError(
                f"The data folder {_short(folder.root)} holds the demo's shop",
                "Remove it with `stripe-pipeline clean`, or name another folder in STRIPE_PIPELINE_DATA",
            )
        for connection in _connections():
            # Without one of these nothing could be loaded. Types that may not be read do not keep the others from it.
            if unusable := connection.refused or connection.events:
                raise unusable
            out.print(_key_of(connection), style="bold")
            _say("To load", f"{_to_load(connection)}.")
            _complain_of_missing(connection)
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
        typer.Option(min=0, max=65535, metavar="PORT", help="Where the Stripe emulator listens; 0 takes any free one."),
    ] = 0,
    webhook_port: WebhookPort = 0,
    trade_every: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How often something happens in the shop; 0 for never.")
    ] = 3.0,
) -> None:
    """Run everything against a made-up Stripe shop.

    The shop lives in a Stripe emulator that comes with this project; no account is needed. Every start begins anew.
    """
    set_there = sorted(name for name in dotenv_values(".env") if name.startswith("STRIPE_"))
    if set_there:
        raise SettingsError(
            f"The file .env sets {', '.join(set_there)}, and Dagster would use that instead of the demo's shop",
            "Move .env away while the demo runs",
        )
    if os.environ.get("STRIPE_PIPELINE_CONFIG"):
        load_settings()  # or the processes that are started would each find it wrong
    emulator_port, webhook_port = emulator_port or free_port(), webhook_port or free_port()
    _claim({"--port": port, "--emulator-port": emulator_port, "--webhook-port": webhook_port})
    folder = DataFolder.from_environment()
    with _claimed(folder):
        _forget_last_demo(folder)
        folder.prepare()
        emulator = f"http://{HOST}:{emulator_port}"
        os.environ.update(_DEMO_KEYS, STRIPE_API_BASE=emulator)
        # The shop's news have no place among those of an account.
        os.environ.pop("STRIPE_PIPELINE_INBOX", None)
        _use_demo_settings(folder)
        with Processes(folder.logs, stopping=folder.stopping) as processes:
            out.print("Starting the Stripe emulator and its shop …")
            webhooks = _start_receiver(processes, webhook_port)
            processes.start(
                "Stripe emulator",
                f"stripe_emulator --port {emulator_port} --days {_DEMO_DAYS} --trade-every {trade_every}"
                f" --rate-limits --latency-ms {_DEMO_LATENCY_MS}"
                f" --webhook-url {webhooks} --webhook-backoff {_DEMO_BACKOFF}",
            )
            processes.wait_for(lambda: _answers(f"{emulator}/v1/charges", 401), what="The emulator", seconds=60)
            _run_until_stopped(processes, folder, port, webhooks=webhooks, emulator=emulator)


def _check_environment() -> None:
    """Raise `SettingsError` before anything is begun that could not work."""
    from stripe_pipeline.inbox.inbox import parse_url

    load_settings()
    load_keys()
    api_base()
    if url := inbox_url():
        parse_url(url)


@contextlib.contextmanager
def _claimed(folder: DataFolder) -> Iterator[None]:
    """Make the data folder and keep other `demo`s and `dev`s away: two Dagsters would do everything twice."""
    folder.prepare()
    try:
        with filelock.FileLock(folder.running, timeout=0, mode=0o600):
            yield
    except filelock.Timeout:
        raise SettingsError(
            f"Another `stripe-pipeline demo` or `dev` is using the data folder {_short(folder.root)}",
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
    """Start the receiver of webhooks and wait until it listens; where they arrive."""
    from stripe_pipeline.webhooks.receiver import HEALTH, PATH

    address = f"http://{HOST}:{port}"
    processes.start("Webhook receiver", f"stripe_pipeline webhooks serve --port {port}")
    processes.wait_for(lambda: _answers(f"{address}{HEALTH}", 200), what="The webhook receiver", seconds=60)
    return f"{address}{PATH}"


def _run_until_stopped(
    processes: Processes, folder: DataFolder, port: int, *, webhooks: str | None, emulator: str | None
) -> None:
    """Start Dagster, read Stripe while it starts, and wait for Ctrl-C, which from then on is the good end."""
    out.print("Starting Dagster and loading the history from Stripe …")
    from stripe_pipeline.assets.run_locks import let_go_of_killed

    # Makes Dagster's databases, too: processes that make them at the same time break each other.
    with dagster_instance() as instance:
        let_go_of_killed(instance, folder)
    processes.start("Dagster", f"dagster dev -h {HOST} -p {port}")
    try:
        # Tables that the key may not read do not keep the others from being used.
        _execute(job="sync", first=today(), last=today())
    except StripePipelineError:
        processes.check()  # One that has ended is the cause, and what the load met the consequence.
        raise
    with err.status("Waiting for Dagster …") if err.is_terminal else contextlib.nullcontext():
        processes.wait_for(lambda: _dagster_is_up(port), what="Dagster", seconds=_UI_WAIT)
    try:
        _say_ready(folder, port, webhooks, emulator)
        processes.watch()
    except KeyboardInterrupt:
        out.print("\nStopping …")
        processes.end()
        out.print("Stopped.")


def _say_ready(folder: DataFolder, port: int, webhooks: str | None, emulator: str | None) -> None:
    from stripe_pipeline import query

    published = _short(folder.published)
    sql = (
        "SELECT currency, count(*) AS payments,\n"
        "       sum(amount_decimal - amount_refunded_decimal) AS kept_by_the_shop\n"
        "FROM live.payments WHERE paid\n"
        "GROUP BY currency ORDER BY payments DESC LIMIT 5"
    )
    out.print("\nReady.", style="bold green")
    out.print(f"  Dagster UI       http://{HOST}:{port}")
    if emulator:
        out.print(f"  Stripe emulator  {emulator}")
    out.print(
        "  Webhooks         "
        + (webhooks or "none; `webhooks register` or `stripe listen` shows a secret for STRIPE_WEBHOOK_SECRET")
    )
    out.print(f"  Data             {published}")
    out.print(f"  Settings         {_short(Path(os.environ.get('STRIPE_PIPELINE_CONFIG') or DEFAULT_FILE).absolute())}")
    out.print(f"  Logs             {_short(folder.logs)}")
    if emulator:
        out.print("\nThe shop goes on trading; any key that begins with sk_test_ opens its API.")
    if webhooks:
        out.print("Within seconds, webhooks bring in what happens; every 15 minutes, the schedule brings in")
        out.print(f"what they did not tell. To query: duckdb -readonly {published}\n")
    else:
        out.print("The schedule brings in what is new every 15 minutes; to have it now, start the")
        out.print(f"job `sync` in the UI. To query: duckdb -readonly {published}\n")
    out.print(sql, style="cyan")
    out.print(query(sql).to_string(index=False, float_format="{:,.3f}".format))
    out.print("\nCtrl-C stops everything.")


def _forget_last_demo(folder: DataFolder) -> None:
    """The emulator keeps nothing between two starts, so neither may what was loaded from it."""
    from stripe_pipeline.warehouse.warehouse import Warehouse

    accounts = Warehouse(folder, as_it_is=True).accounts()
    if not accounts and not folder.private.exists():
        return
    others = accounts - {DEMO_ACCOUNT}
    if others:
        owners = ", ".join(sorted(account or called(account) for account in others))
        raise SettingsError(
            f"The data folder {_short(folder.root)} holds data of {owners}",
            "Name another folder for the demo in STRIPE_PIPELINE_DATA",
        )
    out.print(f"Removing the last demo's data from {_short(folder.root)}")
    folder.clear(keep=(folder.running, folder.logs, folder.runs))


def _use_demo_settings(folder: DataFolder) -> None:
    """Unless other settings are asked for, those that fit the shop and show what settings can do."""
    if not os.environ.get("STRIPE_PIPELINE_CONFIG"):
        path = folder.root / "demo.yaml"
        shutil.copy(Path(__file__).with_name("demo.yaml"), path)
        os.environ["STRIPE_PIPELINE_CONFIG"] = str(path)


def _execute(*, job: str | None, first: date, last: date, tables: list[str] | None = None) -> bool:
    """Run the job, or materialize tables, over these days in this process, and show what it did.

    False if some tables failed, which is said; raises `StripePipelineError` if all did.
    """
    with _Display() as display, dagster_instance() as instance:
        import dagster as dg

        days = {"dagster/asset_partition_range_start": f"{first}", "dagster/asset_partition_range_end": f"{last}"}
        result = _in_process(
            instance,
            job,
            display,
            partition_key=f"{first}" if job else None,
            tags=None if job else days,
            asset_selection=[dg.AssetKey(["raw", table]) for table in tables] if tables else None,
        )
    if display.report:
        _show(display.report)
        _complain_of(display.report)
        if display.report.failures:
            return False
    if not result.success:
        raise _failure(result)
    return True


def _in_process(instance: DagsterInstance, job: str | None, display: _Display | None = None, **options: Any) -> Any:
    """Run the job, or assets without one, in this process and recorded in `instance`; Dagster's result."""
    from stripe_pipeline.assets.keys import RESOURCE
    from stripe_pipeline.definitions import build_defs

    defs = build_defs(resource_overrides={RESOURCE: _ShowsProgress(display)})
    target = defs.resolve_job_def(job) if job else defs.resolve_implicit_global_asset_job_def()
    return target.execute_in_process(
        instance=instance,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        raise_on_error=False,
        **options,
    )


class _ShowsProgress:
    """The resource of runs in this process: shows how far they are in the terminal, if there is one to show it in."""

    def __init__(self, display: _Display | None) -> None:
        self._display = display

    @contextlib.contextmanager
    def open(self, progress: RunProgress | None = None) -> Iterator[Pipeline]:
        """A pipeline for one run; raises `SettingsError`."""
        from stripe_pipeline.sync.pipeline import Pipeline

        with Pipeline.from_environment(self._display or progress) as pipeline:
            yield pipeline

    def look(self) -> contextlib.AbstractContextManager[Warehouse]:
        """The warehouse, only to be looked at; raises `SettingsError`."""
        from stripe_pipeline.sync.pipeline import look

        return look()


def _complain_of(report: Report) -> None:
    for names, error in by_cause(report.failures):
        complain(f"{', '.join(names)} not updated: {error}")


def _failure(result: Any) -> BaseException:
    """What the failed step says to people, or that it was interrupted, or the first line of its error."""
    import dagster as dg

    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data and data.user_failure_data.description:
                what, _, remedy = str(data.user_failure_data.description).partition(". ")
                return StripePipelineError(what, remedy)
            if data.error:
                cause = data.error.cause or data.error
                if cause.cls_name == dg.DagsterExecutionInterruptedError.__name__:
                    return KeyboardInterrupt()
                reason = str(cause.message).strip().splitlines()[0]
                break
    else:
        reason = "Dagster names no reason"
    return StripePipelineError(
        f"The run failed unexpectedly: {reason}", f"`stripe-pipeline dev` shows its log, under Runs, {result.run_id}"
    )


def _show(report: Report) -> None:
    from stripe_pipeline.batch import Changes

    table = Table(box=None, pad_edge=False)
    for heading in ("table", "inserted", "updated", "deleted", "requests"):
        table.add_column(heading, justify="left" if heading == "table" else "right")
    for name in OBJECT_TYPES:
        if name in report.changes or name in report.failures:
            changes = report.changes.get(name, Changes())
            counts = (changes.inserted.total(), changes.updated.total(), changes.deleted.total())
            failed = (Text("failed", "red"), "", "") if name in report.failures else [f"{n:,}" for n in counts]
            table.add_row(name, *failed, f"{report.requests[name]:,}" if report.requests[name] else "")
    if table.row_count:
        out.print(table)
    else:
        out.print("Nothing new.")
    for note in report.notes:
        out.print(note)
    if report.surprises.seen:
        err.print(
            Text.assemble(
                ("warning: ", "yellow"), f"of an unexpected form (of another type: kept in _extra): {report.surprises}"
            )
        )


def _connections() -> list[Connection]:
    """What there is to know about each key."""
    from stripe_pipeline.preflight.connection import check_connections

    keys, settings, folder = load_keys(), load_settings(), DataFolder.from_environment()
    with err.status("Asking Stripe …") if err.is_terminal else contextlib.nullcontext():
        return check_connections(keys, settings=settings, folder=folder, base_url=api_base())


def _key_of(connection: Connection) -> str:
    return f"{'Live' if connection.livemode else 'Test'} key" + (
        f" of {connection.account}" if connection.account else ""
    )


def _show_connection(connection: Connection) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("table", "to load", "requests", "may read"):
        table.add_column(heading, justify="right" if heading in ("to load", "requests") else "left")
    for it in connection.tables:
        counts = [_about(n, exact=it.left.exact) for n in (it.left.objects, it.left.requests)] if it.left else ("", "")
        readable = f"with {it.object_type.parent}" if it.object_type.parent else "yes"
        table.add_row(it.object_type.name, *counts, _readable(it.error, readable))
    table.add_row("events", "", "", _readable(connection.events, "yes"))
    out.print(table)
    _say("To load", f"{_to_load(connection)}.")
    for lacking in connection.lacking:
        _say("", f"{lacking}.")
    for it in connection.tables:
        for path in it.unseen:
            _say("Fields", f"{it.object_type.name}: the settings name {path}, which none of the newest objects has.")
    rate = connection.rate
    _say(
        "Rate",
        f"{rate.account * rate.share:g} requests/s, {rate.endpoint * rate.share:g} of one type: {rate.share:.0%} of"
        f" Stripe's {rate.account:g} and {rate.endpoint:g}.",
    )
    if rate.slowed_down:
        _say(
            "",
            f"Stripe slowed down {sum(rate.slowed_down.values())} of these requests ({', '.join(rate.slowed_down)}):"
            " something else uses up its limits. Lower rate.share, or load at another time.",
        )
    _show_webhooks(connection)


def _readable(error: StripePipelineError | None, yes: str) -> Text:
    if error is None:
        return Text(yes, "green")
    lacking = error.permission if isinstance(error, PermissionMissing) else None
    return Text(f"no: {lacking}" if lacking else "no", "red")


def _to_load(connection: Connection) -> str:
    """What is left to load, and what that takes."""
    left, seconds = connection.left, connection.seconds
    if not left.requests:
        unreadable = any(table.error for table in connection.tables)
        return "nothing of what may be read" if unreadable else "nothing, what is here is complete"
    if seconds < 60:
        takes = "under a minute"
    else:
        takes = f"about {seconds / 60:.0f} minutes" if seconds < 5400 else f"about {seconds / 3600:.0f} hours"
    part = left.requests / connection.allocation
    said = (
        f"{_about(left.objects, exact=left.exact)} rows in {_about(left.requests, exact=left.exact)} requests, {takes},"
        f" {f'{part:.0%}' if part >= 0.01 else 'under 1%'} of the {_about(connection.allocation, exact=False)} reads"
        " that Stripe allows in 30 days"
    )
    return said if part <= 1 else f"{said}; set `history` to a later day, or load it in parts"


def _show_webhooks(connection: Connection) -> None:
    webhooks = connection.webhooks
    if isinstance(webhooks.error, PermissionMissing):
        lacking = webhooks.error.permission or "Webhook Endpoints, read"
        _say(
            "Webhooks",
            f"the key may not see them (needs {lacking}); the Stripe Dashboard shows them (Developers, Webhooks).",
        )
    elif webhooks.error:
        _say("Webhooks", f"{webhooks.error}")
    elif not webhooks.endpoints:
        elsewhere = f", {webhooks.others} elsewhere" if webhooks.others else ""
        _say(
            "Webhooks",
            f"none registered{elsewhere}: changes come with the next tick. To have them within seconds:"
            " stripe-pipeline webhooks register --url https://…",
        )
    for endpoint in webhooks.endpoints:
        wrong = ["disabled"] if endpoint.disabled else []
        if number := len(endpoint.missing):
            wrong.append(f"{number} event {'type' if number == 1 else 'types'} missing")
        if endpoint.other_version is not None:
            wrong.append(
                f"API version {endpoint.other_version}" if endpoint.other_version else "the account's API version"
            )
        replace = "" if endpoint.other_version is None else " --replace"
        _say(
            "Webhooks",
            f"{endpoint.id} is as it should be, to {endpoint.url}"
            if endpoint.sound
            else f"{endpoint.id}: {', '.join(wrong)}. To correct it:"
            f" stripe-pipeline webhooks register --url {endpoint.url}{replace}",
        )
    there = f"in {webhooks.secret_name}" if webhooks.secret_is_set else f"none; {webhooks.secret_name} is not set"
    _say("", f"Signing secret: {there}.")


def _say(label: str, text: str) -> None:
    """Print a line that begins with a label, wrapped to stand beside it."""
    first = f"{label}:" if label else ""
    out.print(
        textwrap.fill(
            text,
            80,
            initial_indent=f"{first:10}",
            subsequent_indent=" " * 10,
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


def _complain_of_missing(connection: Connection) -> None:
    for names, error in by_cause(connection.failures):
        complain(f"{', '.join(names)} cannot be read: {error}" if len(names) > 1 else error)


def _about(number: int, *, exact: bool) -> str:
    """A number as people say it, to two digits where it is an estimate."""
    return f"{number:,}" if exact or number < 10 else f"~{float(f'{number:.2g}'):,.0f}"


class _Display:
    """What is going on, on a terminal, and nothing elsewhere; keeps the run's report."""

    def __init__(self) -> None:
        self.report: Report | None = None
        # Dagster redirects standard error to its logs while a step runs; this stays with the terminal.
        self._terminal = Console(file=os.fdopen(os.dup(2), "w")) if err.is_terminal else None
        self._bars = Progress(
            TextColumn("{task.description:20}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("days, {task.fields[rows]:,} rows, {task.fields[speed]:,.0f}/s {task.fields[left]}"),
            console=self._terminal,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._shown: Progress | Status | None = None

    def __enter__(self) -> _Display:
        self._show("Reading from Stripe …")
        return self

    def __exit__(self, *exception: object) -> None:
        self._show(None)
        if self._terminal:
            self._terminal.file.close()

    def listed(self, table: str, *, days: int, of: int, rows: int, seconds: float) -> None:
        """Move a table's bar."""
        if table not in self._tasks:
            self._tasks[table] = self._bars.add_task(table, total=of, rows=0, speed=0.0, left="")
        seconds_left = seconds * (of - days) / days
        left = f"{timedelta(seconds=round(seconds_left))} left" if seconds_left >= 1 else ""
        self._bars.update(
            self._tasks[table], completed=days, total=of, rows=rows, speed=rows / max(seconds, 0.001), left=left
        )
        if self._shown is not self._bars:
            self._show(self._bars)

    def finished(self, report: Report) -> None:
        """Keep what the run did."""
        self.report = report
        self._show("Recording the run in Dagster …")

    def _show(self, what: Progress | str | None) -> None:
        if self._terminal is None:
            return
        if self._shown:
            self._shown.stop()
        self._shown = self._terminal.status(what) if isinstance(what, str) else what
        if self._shown:
            self._shown.start()


def _answers(url: str, status: int) -> bool:
    import httpx

    try:
        return httpx.get(url, timeout=2).status_code == status
    except httpx.HTTPError:
        return False


def _dagster_is_up(port: int) -> bool:
    """Whether the UI answers and has loaded the code location."""
    import httpx

    query = "{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError { __typename } } } } }"
    try:
        answer = httpx.post(f"http://{HOST}:{port}/graphql", json={"query": query}, timeout=5).json()
        entries = answer["data"]["workspaceOrError"]["locationEntries"]
        return [entry["locationOrLoadError"]["__typename"] for entry in entries] == ["RepositoryLocation"]
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        return False


def _short(path: Path) -> str:
    """As it would be typed here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
