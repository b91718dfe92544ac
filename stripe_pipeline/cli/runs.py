"""Commands that load, remove or apply something once: sync, backfill, prune, erase, clean, webhooks drain."""

from __future__ import annotations

import math
import os
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from stripe_pipeline.cli.hosts import agreed
from stripe_pipeline.cli.instance import dagster_instance
from stripe_pipeline.cli.terminal import out
from stripe_pipeline.cli.web_server import refuse_elsewhere, succeeded, web_server
from stripe_pipeline.cli.webhooks import app as webhooks
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import today
from stripe_pipeline.errors import SettingsError, StripePipelineError
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.settings.environment import inbox_url
from stripe_pipeline.settings.loading import load_settings

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from stripe_pipeline.warehouse.warehouse import Warehouse
from stripe_pipeline.cli.app import app, check_environment
from stripe_pipeline.cli.display import Display, ShowsProgress, complain_of_report, failure_of, short_path, show_report


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text} is not a date such as {today()}") from None


@app.command()
def sync() -> None:
    """Bring every table up to date with Stripe.

    Does once what the schedule does every 15 minutes. The first sync loads the whole history.
    """
    if not execute(job="sync", first=today(), last=today()):
        raise typer.Exit(1)


@app.command()
def backfill(
    first: Annotated[date, typer.Option("--from", parser=_day, metavar="DAY", help="First day, such as 2026-01-31.")],
    last: Annotated[date, typer.Option("--to", parser=_day, metavar="DAY", help="Last day, inclusive.")],
    only: Annotated[
        list[str] | None, typer.Option(metavar="TABLES", help="Only these tables, separated by commas.")
    ] = None,
) -> None:
    """List whole days again, and correct what differs.

    The same as a backfill in the UI. Days are UTC days of `created`; with `partitions: month`, whole months are listed.
    Rows that are already stored are compared and
    corrected, never duplicated.
    """
    settings = load_settings()
    if first > last:
        raise SettingsError(f"--from {first} is after --to {last}", "Swap them")
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
            f"The tables are {', '.join(enabled)}",
        )
    if not execute(job=None, first=first, last=last, tables=tables):
        raise typer.Exit(1)


@app.command()
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be removed.")] = False,
) -> None:
    """Remove rows that are older than their retention.

    The asset `retention` does the same every night, and also removes old notifications and Dagster's old runs.
    """
    from stripe_pipeline.assets.keys import Names
    from stripe_pipeline.assets.retention import PRUNED, records
    from stripe_pipeline.assets.runs import ASSETS_JOB
    from stripe_pipeline.sync.pipeline import look

    if dry_run:
        refuse_elsewhere("prune --dry-run")
        with look() as warehouse:
            pruned = records(warehouse.prune(dry_run=True))
    elif elsewhere := web_server():
        retention = Names().retention
        run_id = elsewhere.submit(ASSETS_JOB, near=retention, assets=[retention])
        pruned = succeeded(elsewhere.follow(run_id), elsewhere.page_of(run_id)).tables.get(PRUNED, [])
    else:
        check_environment()
        with dagster_instance() as instance:
            result, error = _in_process(instance, None, asset_selection=[Names().retention])
        if not result.success:
            raise error or failure_of(result)
        made = result.asset_materializations_for_node("retention")
        [materialization] = [of for of in made if of.asset_key == Names().retention]
        shown = materialization.metadata.get(PRUNED)
        pruned = [record.data for record in shown.records] if shown else []
    if not pruned:
        out.print("Nothing to prune: no `retention` is set.")
        return
    table = Table(box=None, pad_edge=False)
    for name in pruned[0]:
        table.add_column(name, justify="right" if name == "rows" else "left")
    for row in pruned:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else value for value in row.values()))
    out.print(table)
    if dry_run:
        out.print("Dry run: nothing was removed.")


@app.command()
def erase(
    customers: Annotated[list[str], typer.Argument(metavar="CUSTOMER...", help="Ids of customers, such as cus_….")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    unknown: Annotated[bool, typer.Option("--unknown", help="Accept ids that are not in the tables.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Let customers who were erased come back.")] = False,
) -> None:
    """Erase customers and the copies of their data in other rows, and keep them out.

    Removes them from the private file and every published version. Amounts, ids and dates stay. Needs no API key, and
    changes nothing at Stripe. Works only on the host that has the data folder.
    """
    from stripe_pipeline.fields import load_hash_key
    from stripe_pipeline.sync.pipeline import check_second
    from stripe_pipeline.warehouse.recovery import holds_warehouse
    from stripe_pipeline.warehouse.warehouse import Warehouse

    refuse_elsewhere("erase")
    check_second()
    settings, folder = load_settings(), DataFolder.from_environment()
    if not holds_warehouse(folder):
        raise SettingsError(
            f"The data folder {short_path(folder.root)} holds no warehouse", "Name another one in STRIPE_PIPELINE_DATA"
        )
    hash_key = load_hash_key(folder) if settings.hashes else None
    with agreed(settings, folder, hash_key):
        warehouse = Warehouse(folder, settings, hash_key, current_settings=load_settings)
        if undo:
            for customer in dict.fromkeys(customers):
                _undo_erasure(warehouse, customer)
        else:
            _erase(warehouse, list(dict.fromkeys(customers)), yes=yes, unknown=unknown)


def _erase(warehouse: Warehouse, customers: list[str], *, yes: bool, unknown: bool) -> None:
    folder = warehouse.folder
    foreseen = warehouse.erase(customers, dry_run=True)
    strangers = [customer for customer, erased in foreseen.items() if not erased.known]
    if strangers and not unknown:
        place = warehouse.file.place if folder.lake else short_path(folder.private)
        raise SettingsError(
            f"{place} holds no customer {', '.join(strangers)}, nor anything that belongs to one",
            "Correct the id. To keep out a customer who was never loaded, add --unknown",
        )
    number = f"{len(customers)} {'customer' if len(customers) == 1 else 'customers'}"
    table = Table(box=None, pad_edge=False)
    for heading in ("table", "rows", "what happens"):
        table.add_column(heading, justify="right" if heading == "rows" else "left")
    for name in OBJECT_TYPES:
        if rows := sum(erased.rows.get(name, 0) for erased in foreseen.values()):
            table.add_row(name, f"{rows:,}", "removed" if name == "customers" else "personal data removed")
    if table.row_count:
        out.print(table)
    for column in warehouse.unidentified_references():
        out.print(f"Rows that name the customer only in {column} are not found: the settings leave that column out.")
    if not yes and not typer.confirm(f"Erase {number} from {short_path(folder.root)} for good?"):
        raise typer.Exit(1)
    warehouse.erase(customers)
    out.print(f"{number} erased and kept out from now on. Stripe still holds the data: delete or redact it there, too.")


def _undo_erasure(warehouse: Warehouse, customer: str) -> None:
    days = warehouse.keep_out_no_longer(customer)
    if days is None:
        raise SettingsError(f"{customer} was not erased here", "Correct the id")
    out.print(f"Later runs store {customer} again.")
    if days:
        out.print(
            f"`stripe-pipeline backfill --from {days[0]} --to {days[-1]}` loads the data that Stripe still holds."
        )
    else:
        out.print("Nothing was erased from the days that the settings load, so there is nothing to read again.")


@app.command()
def clean(
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    keep_history: Annotated[
        bool, typer.Option("--keep-history", help="Keep Dagster's history of runs and partitions.")
    ] = False,
) -> None:
    """Remove everything that was loaded, to start over.

    Removes the pipeline's files from the data folder, the content of the inbox, and Dagster's history of this project.
    Shows what will be removed, and asks first. Stop `demo`, `dev`, Dagster and `webhooks serve` beforehand.
    """
    from stripe_pipeline.cli.cleaning import Cleaning

    with Cleaning(DataFolder.from_environment(), inbox_url(), history=_history(keep_history)) as cleaning:
        if not cleaning.items:
            out.print(
                f"Nothing to remove: the data folder {short_path(cleaning.folder.root)} holds no files of the pipeline."
            )
            return
        out.print("This removes:")
        for line in cleaning.items:
            out.print(f"  {line}")
        out.print("What Stripe still holds can be loaded again; the last state of objects deleted in Stripe cannot.")
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
        out.print(f"Left in {short_path(cleaning.folder.root)}: {', '.join(path.name for path in others)}.")


def _history(keep: bool = False) -> Path | None:
    """Where the project's `dagster.yaml` keeps Dagster's history; None with another DAGSTER_HOME, or to `keep` it."""
    root = Path.cwd()
    return root / ".dagster" if not keep and Path(os.environ["DAGSTER_HOME"]).resolve() == root.resolve() else None


@webhooks.command()
def drain() -> None:
    """Apply the notifications in the inbox, once.

    The sensor of `dev` and `demo` does the same continuously. Works only on the host that has the data folder; on
    another one, `sync` applies them, too.
    """
    from stripe_pipeline.assets.keys import Names
    from stripe_pipeline.automation import TickLimits, events_without_a_run
    from stripe_pipeline.sync.pipeline import SYNC_TIME, Pipeline
    from stripe_pipeline.sync.report import Report

    refuse_elsewhere("webhooks drain", "Run `stripe-pipeline sync` here, which applies the notifications, too")
    check_environment()
    report = Report()
    with Display() as display, dagster_instance() as instance, Pipeline.from_environment(display) as pipeline:
        try:
            applied = -1
            # A user who runs the command does not want to wait for the next attempt.
            while pipeline.has_due_notifications(math.inf) and report.applied > applied:
                applied = report.applied
                pipeline.drain(most=TickLimits.objects, report=report, due=math.inf, within=SYNC_TIME)
        finally:
            pipeline.publish()
            for event in events_without_a_run(report, pipeline, instance, Names()):
                instance.report_runless_asset_event(event)
        waiting = pipeline.objects_to_read(math.inf)
    show_report(report)
    out.print(f"{report.applied} {'event' if report.applied == 1 else 'events'} applied.")
    complain_of_report(report)
    if report.failures or waiting:
        raise typer.Exit(1)


class _Load:
    """What a run loads, in Dagster's terms: the assets of these tables, or all, and their partitions of these days."""

    def __init__(self, first: date, last: date, tables: list[str] | None) -> None:
        from dagster import AssetKey

        from stripe_pipeline.assets.partitions import Partitions

        settings = load_settings()
        partitions = Partitions(settings)
        self.partition = partitions.key_of(first)
        self.day = {"dagster/partition": self.partition}
        self.days = {
            "dagster/asset_partition_range_start": self.partition,
            "dagster/asset_partition_range_end": partitions.key_of(last),
        }
        self.assets = [AssetKey(["raw", table]) for table in tables] if tables else None
        self.some_asset = AssetKey(["raw", settings.enabled[0].name])


def execute(*, job: str | None, first: date, last: date, tables: list[str] | None = None) -> bool:
    """Run the job, or materialize the tables, for the partitions of these days, and show what the run did: in this
    process, or through Dagster's web server where the data folder is.

    Returns False if some tables failed, and shows why; raises `StripePipelineError` if all failed.
    """
    if elsewhere := web_server():
        from stripe_pipeline.assets.runs import ASSETS_JOB

        load = _Load(first, last, tables)
        run_id = elsewhere.submit(
            job or ASSETS_JOB, near=load.some_asset, tags=load.day if job else load.days, assets=load.assets
        )
        succeeded(elsewhere.follow(run_id), elsewhere.page_of(run_id))
        return True
    check_environment()
    with Display() as display, dagster_instance() as instance:
        load = _Load(first, last, tables)
        result, error = _in_process(
            instance,
            job,
            display,
            partition_key=load.partition if job else None,
            tags=None if job else load.days,
            asset_selection=load.assets,
        )
    if display.report:
        show_report(display.report)
        complain_of_report(display.report)
        if display.report.failures:
            return False
    if not result.success:
        raise error or failure_of(result)
    return True


def _in_process(
    instance: DagsterInstance, job: str | None, display: Display | None = None, **options: Any
) -> tuple[Any, StripePipelineError | None]:
    """Run the job, or assets if `job` is None, in this process, recorded in `instance`.

    Returns Dagster's result and the error of this package that ended the run, if one did.
    """
    from stripe_pipeline.definitions import build_defs
    from stripe_pipeline.resources.pipeline import RESOURCE

    resource = ShowsProgress(display)
    defs = build_defs(resource_overrides={RESOURCE: resource})
    target = defs.resolve_job_def(job) if job else defs.resolve_implicit_global_asset_job_def()
    result = target.execute_in_process(
        instance=instance,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        raise_on_error=False,
        **options,
    )
    return result, resource.error
