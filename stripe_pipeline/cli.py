"""The command line: what people type, what they read, and the exit status.

Exit status: 0 if all of it worked, 1 if something failed, 2 if it could not be started as asked. The work itself
belongs to `sync` and `assets`; runs are recorded in the same Dagster instance as those of the UI.
"""

from __future__ import annotations

import os
import shutil
import sys
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import PermissionMissing, SettingsError, StripePipelineError
from stripe_pipeline.objects import OBJECT_TYPES, family_of
from stripe_pipeline.processes import HOST, Processes, claim_port, free_port
from stripe_pipeline.resources.stripe_api import StripeApi
from stripe_pipeline.resources.warehouse import Changes, Warehouse
from stripe_pipeline.settings import STRIPE, api_base, load_keys, load_settings
from stripe_pipeline.sync import EVENTS, Report, today

app = typer.Typer(
    help="Keeps nine Stripe object types in DuckDB, equal to Stripe.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

DEMO_ACCOUNT = "acct_1DemoShop0000000"
_DEMO_KEYS = {"STRIPE_API_KEY": "sk_live_demo_shop_key", "STRIPE_TEST_API_KEY": "sk_test_demo_shop_key"}
_DEMO_DAYS = 60
_DEMO_LATENCY_MS = 20
_UI_WAIT = 180  # seconds; starting takes 8 to 30, more where nothing is compiled yet

Port = Annotated[int, typer.Option(help="Where the Dagster UI listens, on 127.0.0.1.")]


def main() -> None:
    """Entry point of `stripe-pipeline`."""
    try:
        _enter_project()
        app()
    except SettingsError as error:
        err.print(f"[red]error:[/] {error}", markup=True)
        sys.exit(2)
    except StripePipelineError as error:
        err.print(f"[red]error:[/] {error}", markup=True)
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("stopped")
        sys.exit(130)


def _enter_project() -> None:
    """Work in the project folder, where `dagster.yaml` is: Dagster resolves its storage against it."""
    for name in ("STRIPE_PIPELINE_DATA", "STRIPE_PIPELINE_CONFIG"):
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).expanduser().absolute())
    here = Path.cwd()
    candidates = [here, *here.parents, Path(__file__).resolve().parent.parent]
    root = next((folder for folder in candidates if (folder / "dagster.yaml").is_file()), None)
    if root is None:
        raise SettingsError(
            "There is no dagster.yaml here or above", "Run stripe-pipeline in a clone of the stripe_pipeline project"
        )
    os.chdir(root)
    os.environ.setdefault("DAGSTER_HOME", str(root))


@app.command()
def sync() -> None:
    """Bring every table up to date with Stripe now: one tick of the schedule."""
    load_keys()
    _execute(job="sync", first=today(), last=today())


@app.command()
def backfill(
    from_: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First day (UTC, of `created`).")],
    to: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="Last day, inclusive.")],
    only: Annotated[str, typer.Option(help="Tables, separated by commas; all by default.")] = "",
) -> None:
    """Read days again, completely: the same code as a backfill from the UI."""
    load_keys()
    settings = load_settings()
    first, last = from_.date(), to.date()
    if first > last:
        raise SettingsError(f"--from {first} is after --to {last}", "Exchange them")
    if first < settings.history or last > today():
        raise SettingsError(
            f"Days from {settings.history} to {today()} can be read",
            "For older ones set `history` in stripe_pipeline.yaml",
        )
    enabled = {object_type.name for object_type in settings.enabled}
    tables = [name.strip() for name in only.split(",") if name.strip()]
    if unknown := sorted(set(tables) - enabled):
        raise SettingsError(f"--only names {', '.join(unknown)}", f"Tables here are {', '.join(sorted(enabled))}")
    _execute(job=None, first=first, last=last, tables=tables or sorted(enabled))


@app.command()
def check() -> None:
    """Show what each key may read, and what is missing."""
    settings = load_settings()
    complete = True
    for key in load_keys():
        with StripeApi(key, base_url=api_base(), share=settings.rate.share) as api:
            account = api.account()
            out.print(f"[bold]{'Live' if key.livemode else 'Test'} key[/] of {account}")
            families = {family_of(object_type).name: family_of(object_type) for object_type in settings.enabled}
            paths = {name: str(family.endpoint) for name, family in families.items()} | {EVENTS: "/v1/events"}
            for name, path in paths.items():
                try:
                    api.page(path, limit=1)
                    out.print(f"  [green]may read[/]  {name}")
                except PermissionMissing as error:
                    complete = False
                    out.print(f"  [red]may not[/]   {name}: {error}", soft_wrap=True)
    if not complete:
        raise typer.Exit(1)


@app.command()
def dev(port: Port = 3000) -> None:
    """Run everything against your Stripe account: Dagster with its UI and schedule, and a first load."""
    load_keys()
    load_settings()
    _check_folder_is_not_the_demos()
    claim_port(port, option="--port")
    folder = DataFolder.from_environment()
    folder.prepare()
    with Processes(folder.logs) as processes:
        _bring_up(processes, port)
        _say_ready(port, emulator=None)
        processes.watch()


@app.command()
def demo(
    port: Port = 3000,
    emulator_port: Annotated[int, typer.Option(help="Where the Stripe emulator listens; 0 picks a free port.")] = 0,
    trade_every: Annotated[float, typer.Option(help="Seconds between two things happening in the shop.")] = 3.0,
) -> None:
    """Run everything against a built-in Stripe emulator with a made-up shop: no account needed."""
    claim_port(port, option="--port")
    if emulator_port:
        claim_port(emulator_port, option="--emulator-port")
    emulator_port = emulator_port or free_port()
    folder = DataFolder.from_environment()
    _reset_demo(folder)
    folder.prepare()
    emulator = f"http://{HOST}:{emulator_port}"
    os.environ.update(_DEMO_KEYS, STRIPE_API_BASE=emulator)
    _use_demo_settings(folder)
    with Processes(folder.logs) as processes:
        out.print("Starting the Stripe emulator and its shop …")
        processes.start(
            "Stripe emulator",
            ["stripe_pipeline.emulator", "--port", f"{emulator_port}", "--days", f"{_DEMO_DAYS}"]
            + ["--trade-every", f"{trade_every}", "--rate-limits", "--latency-ms", f"{_DEMO_LATENCY_MS}"],
        )
        processes.wait_for(lambda: _answers(f"{emulator}/v1/charges", 401), what="The emulator", seconds=60)
        _bring_up(processes, port)
        _say_ready(port, emulator=emulator)
        processes.watch()


def _bring_up(processes: Processes, port: int) -> None:
    """Start Dagster, and read Stripe while it starts."""
    out.print("Starting Dagster and loading the history from Stripe …")
    processes.start("Dagster", ["dagster", "dev", "-h", HOST, "-p", str(port)])
    _execute(job="sync", first=today(), last=today())
    processes.wait_for(lambda: _dagster_is_up(port), what="Dagster", seconds=_UI_WAIT)


def _say_ready(port: int, emulator: str | None) -> None:
    from stripe_pipeline import query

    sql = (
        "SELECT currency, count(*) AS charges, sum(amount - amount_refunded)::BIGINT AS net_in_minor_units\n"
        "FROM live.charges WHERE status = 'succeeded' GROUP BY currency ORDER BY charges DESC LIMIT 5"
    )
    published = _short(DataFolder.from_environment().published)
    out.print(
        f"\n[bold green]Ready.[/] Dagster UI: [bold]http://{HOST}:{port}[/]  (the schedule ticks every 15 minutes)"
    )
    if emulator:
        out.print(f"Stripe emulator: {emulator}  (its shop goes on trading; any sk_test_… key opens it)")
    out.print(f"Data: {published}  (open it read-only: duckdb -readonly {published})\n")
    out.print(sql, style="cyan")
    out.print(query(sql).to_string(index=False))
    out.print("\nNews now instead of at the next tick: start the job `sync` in the UI. Ctrl-C stops everything.")


def _reset_demo(folder: DataFolder) -> None:
    """The emulator keeps nothing between two starts, so neither may what was loaded from it."""
    if not folder.private.exists():
        return
    accounts = Warehouse(folder).accounts()
    if accounts - {DEMO_ACCOUNT}:
        raise SettingsError(
            f"The data folder {folder.root} holds data of {', '.join(sorted(accounts))}",
            "Name another folder for the demo in STRIPE_PIPELINE_DATA",
        )
    out.print(f"Removing the last demo's data from {_short(folder.root)}")
    folder.published.unlink(missing_ok=True)
    for path in (folder.versions, folder.private.parent, folder.spool):
        shutil.rmtree(path, ignore_errors=True)
    for inbox in folder.root.glob(f"{folder.inbox.name}*"):
        inbox.unlink()


def _check_folder_is_not_the_demos() -> None:
    folder = DataFolder.from_environment()
    if api_base() == STRIPE and DEMO_ACCOUNT in Warehouse(folder).accounts():
        raise SettingsError(
            f"The data folder {folder.root} holds the demo's shop",
            "Remove it with `make clean`, or name another folder in STRIPE_PIPELINE_DATA",
        )


def _use_demo_settings(folder: DataFolder) -> None:
    """The shop's history is known; unless other settings are asked for, load just that."""
    if not os.environ.get("STRIPE_PIPELINE_CONFIG"):
        path = folder.root / "demo.yaml"
        path.write_text(f"# Written by `stripe-pipeline demo`.\nhistory: {_DEMO_DAYS} days\n", encoding="utf-8")
        os.environ["STRIPE_PIPELINE_CONFIG"] = str(path)


def _execute(*, job: str | None, first: date, last: date, tables: list[str] | None = None) -> None:
    """Run the job, or materialize tables, over these days in this process; raises `StripePipelineError`."""
    # Importing Dagster takes over a second: only where it is needed.
    import dagster as dg

    from stripe_pipeline.assets.raw import RESOURCE
    from stripe_pipeline.definitions import PipelineResource, build_defs

    with _Display() as display, dg.DagsterInstance.get() as instance:
        defs = build_defs(resource_overrides={RESOURCE: PipelineResource(display)})
        target = defs.resolve_job_def(job) if job else defs.resolve_implicit_global_asset_job_def()
        result = target.execute_in_process(
            instance=instance,
            partition_key=first.isoformat() if job else None,
            tags=None
            if job
            else {
                "dagster/asset_partition_range_start": first.isoformat(),
                "dagster/asset_partition_range_end": last.isoformat(),
            },
            asset_selection=[dg.AssetKey(["raw", table]) for table in tables] if tables else None,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
    if display.report:
        _show(display.report)
    if not result.success:
        raise StripePipelineError(_reason(result), f"The run {result.run_id} in the Dagster UI tells more")


def _reason(result: Any) -> str:
    """What the failed step said to people, else its error's first line."""
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data and data.user_failure_data.description:
                return str(data.user_failure_data.description).rstrip(".")
            if data.error:
                cause = data.error.cause or data.error
                return str(cause.message).strip().splitlines()[0]
    return "The run failed"


def _show(report: Report) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("table", "inserted", "updated", "deleted", "requests"):
        table.add_column(heading, justify="left" if heading == "table" else "right")
    for name in OBJECT_TYPES:
        if name in report.changes or name in report.failures:
            changes = report.changes.get(name, Changes())
            counts = (changes.inserted.total(), changes.updated.total(), changes.deleted.total())
            failed = ("[red]failed[/]", "", "") if name in report.failures else [f"{n:,}" for n in counts]
            table.add_row(name, *failed, f"{report.requests[name]:,}" if report.requests[name] else "")
    if table.row_count:
        out.print(table)
    else:
        out.print("Nothing new.")
    for note in report.notes:
        out.print(note)
    if report.surprises.seen:
        err.print(f"[yellow]warning:[/] kept in _extra, of an unexpected type: {report.surprises}", markup=True)


class _Display:
    """Progress bars on a terminal, nothing elsewhere; keeps the run's report."""

    def __init__(self) -> None:
        self.report: Report | None = None
        self._bars = Progress(
            TextColumn("{task.description:22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("days, {task.fields[rows]:,} rows"),
            TimeElapsedColumn(),
            console=err,
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Display:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def listed(self, table: str, *, days: int, of: int, rows: int) -> None:
        """Move a table's bar."""
        if table not in self._tasks:
            self._tasks[table] = self._bars.add_task(table, total=of, rows=0)
        self._bars.update(self._tasks[table], completed=days, total=of, rows=rows)

    def finished(self, report: Report) -> None:
        """Keep what the run did."""
        self.report = report


def _answers(url: str, status: int) -> bool:
    import httpx

    try:
        return httpx.get(url, timeout=2).status_code == status
    except httpx.HTTPError:
        return False


def _dagster_is_up(port: int) -> bool:
    """Whether the UI answers and has loaded the code location."""
    import httpx

    query = "{ workspaceOrError { ... on Workspace { locationEntries { loadStatus } } } }"
    try:
        answer = httpx.post(f"http://{HOST}:{port}/graphql", json={"query": query}, timeout=5).json()
        entries = answer["data"]["workspaceOrError"]["locationEntries"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return False
    return bool(entries) and all(entry["loadStatus"] == "LOADED" for entry in entries)


def _short(path: Path) -> str:
    """As it would be typed here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
