"""The command line's application, and the first step of every command: finding the project and its environment.

This module holds the code that all commands share. Each group of commands is a module beside this one.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from dotenv import dotenv_values

from stripe_pipeline.cli.project import find_project, init, make_project
from stripe_pipeline.cli.terminal import out
from stripe_pipeline.errors import (
    SettingsError,
)
from stripe_pipeline.settings.environment import api_base, inbox_url, load_keys
from stripe_pipeline.settings.loading import load_settings
from stripe_pipeline.storage_errors import Cause, access_remedy, cause_of, reason, remedy

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command()(init)


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"stripe-pipeline {version('stripe-pipeline')}")
        raise typer.Exit


@app.callback()
def enter_project(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Keeps payments, invoices, customers and balance from Stripe in DuckDB, equal to Stripe.

    Try it without an account: stripe-pipeline demo. With an account: run stripe-pipeline init in an empty folder, put
    the key into the file .env, then run stripe-pipeline check and stripe-pipeline dev.
    """
    if context.invoked_subcommand == init.__name__ or "--help" in sys.argv:
        return
    # Dagster resolves its storage against the working directory, so all work is done in the project folder.
    _make_paths_absolute()
    root = find_project()
    if root is None:
        root = Path.cwd()
        if context.invoked_subcommand != "demo":
            raise SettingsError(
                f"{root} is not in a project folder of stripe_pipeline",
                "Run `stripe-pipeline init` to make one here, or change to the one that you have",
            )
        out.print(f"Making a project in {root}: {', '.join(make_project(root))}")
    os.chdir(root)
    # As Dagster does for the processes it starts here, so that both see the same environment.
    try:
        variables = dotenv_values(".env")
    except UnicodeDecodeError:
        raise SettingsError(f"The file {root / '.env'} cannot be read (it is not UTF-8)", "Save it as UTF-8") from None
    except OSError as error:
        advice = access_remedy(root / ".env") if cause_of(error) is Cause.DENIED else remedy(error, root / ".env")
        raise SettingsError(f"The file {root / '.env'} cannot be read ({reason(error)})", advice) from None
    os.environ.update({name: value for name, value in variables.items() if value is not None})
    _make_paths_absolute()
    home = os.environ.get("DAGSTER_HOME") or str(root)
    if not Path(home).is_absolute() or not Path(home).is_dir():
        raise SettingsError(
            f"DAGSTER_HOME is {home}, which is not the absolute path of a folder",
            "Correct it, or unset it: Dagster then keeps its history in the project folder",
        )
    os.environ["DAGSTER_HOME"] = home


def _make_paths_absolute() -> None:
    for name in ("STRIPE_PIPELINE_DATA", "STRIPE_PIPELINE_CONFIG", "STRIPE_PIPELINE_PUBLISH"):
        # An address is refused where the folder is used.
        if os.environ.get(name) and ":/" not in os.environ[name]:
            os.environ[name] = str(Path(os.environ[name]).expanduser().absolute())


def check_environment() -> None:
    """Raise `SettingsError` before starting work that could not succeed."""
    from stripe_pipeline.inbox.database import parse_url
    from stripe_pipeline.stripe_api.connections import connections

    load_settings()
    load_keys()
    connections(api_base(), timeout=1).clear()
    if url := inbox_url():
        parse_url(url)
