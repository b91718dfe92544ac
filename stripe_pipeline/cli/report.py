"""Commands about the published file: `report` and `explore`."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stripe_pipeline.cli.app import app
from stripe_pipeline.cli.display import short_path
from stripe_pipeline.cli.instance import dagster_instance
from stripe_pipeline.cli.terminal import out
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import StripePipelineError
from stripe_pipeline.settings.environment import inbox_url
from stripe_pipeline.settings.loading import load_settings

if TYPE_CHECKING:
    from stripe_pipeline.report.making import Report


@app.command()
def report() -> None:
    """Make the report on the published file, an HTML page, and print where it is.

    Shows the verdict, what was kept by day, coverage, balance, lag and requests. The asset report/overview does the
    same whenever a table has changed.
    """
    made = make()
    out.print(made.overview.summary.sentence, style="bold", soft_wrap=True)
    out.print(short_path(made.path), soft_wrap=True)


def make() -> Report:
    """Make the report, and show it in Dagster; raises `StripePipelineError`."""
    import dagster as dg

    from stripe_pipeline.assets.keys import Names
    from stripe_pipeline.assets.report import metadata
    from stripe_pipeline.report.making import make_report

    made = make_report(DataFolder.from_environment(), load_settings(), inbox_url())
    with dagster_instance() as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization(Names().report, metadata=metadata(made)))
    return made


@app.command()
def explore(
    port: Annotated[int, typer.Option(min=1, max=65535, metavar="PORT", help="Port of the page.")] = 2718,
) -> None:
    """Open an interactive page on the published file: trends, payments, export.

    Listens on 127.0.0.1 only, without a login. Each query opens the newest version of the file.
    """
    if importlib.util.find_spec("marimo") is None:
        raise StripePipelineError(
            "The page needs marimo, which is not installed", "Run `pip install 'stripe-pipeline[explore]'`"
        )
    folder = DataFolder.from_environment()
    if not (folder.lake or folder.published.exists()):
        raise StripePipelineError(f"{folder.published} does not exist yet", "Run `stripe-pipeline sync` first")
    page = Path(__file__).parents[1] / "report" / "explore.py"
    out.print(f"http://127.0.0.1:{port}")
    os.environ["STRIPE_PIPELINE_DATA"] = str(folder.root)
    # Takes this process's place, so that Ctrl-C and signals reach the server.
    arguments = ("run", str(page), "--host", "127.0.0.1", "--port", f"{port}", "--no-token", "--headless")
    os.execv(sys.executable, [sys.executable, "-m", "marimo", "-q", *arguments])
