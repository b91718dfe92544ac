"""The command that proves the tables: `prove`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from stripe_pipeline.cli.app import app, check_environment
from stripe_pipeline.cli.display import Display, short_path
from stripe_pipeline.cli.instance import dagster_instance
from stripe_pipeline.cli.terminal import out
from stripe_pipeline.cli.web_server import WebServer, refuse_elsewhere, succeeded, web_server
from stripe_pipeline.days import today
from stripe_pipeline.errors import SettingsError, StripePipelineError
from stripe_pipeline.settings.loading import load_settings

if TYPE_CHECKING:
    from stripe_pipeline.proof.certificate import Month
    from stripe_pipeline.proof.summary import Summary


@app.command()
def prove(
    month: Annotated[
        str | None, typer.Option(metavar="MONTH", help="Certify this closed month, such as 2026-10.")
    ] = None,
    verify: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Compare the tables with this certificate (its JSON file).")
    ] = None,
) -> None:
    """Prove that the tables are complete and right.

    Compares the tables with the balance that Stripe reports, with a sample of objects that is read again, and with
    themselves. The table pipeline.proof holds every comparison. The exit status is 1 if one failed, or if the tables
    differ from the certificate.
    """
    from stripe_pipeline.proof.verdict import Verdict

    if verify:
        if month:
            raise SettingsError("--verify names the certificate of a month itself", "Leave out --month")
        refuse_elsewhere("prove --verify")
        raise typer.Exit(0 if _verify(verify) else 1)
    certified = _month(month) if month else None
    if elsewhere := web_server():
        raise typer.Exit(0 if _prove_through(elsewhere, certified) else 1)
    check_environment()
    summary = prove_tables()
    show_summary(summary.lines)
    if certified:
        _certify(certified)
    if summary.verdict is Verdict.FAILED:
        raise typer.Exit(1)


def _prove_through(elsewhere: WebServer, month: Month | None) -> bool:
    """Let runs where the data folder is evaluate the checks and make the certificate; whether no check failed."""
    from stripe_pipeline.assets.checks import NIGHTLY, VERDICT_TAG, build_checks
    from stripe_pipeline.assets.keys import Names
    from stripe_pipeline.assets.runs import ASSETS_JOB
    from stripe_pipeline.proof.verdict import Verdict

    names = Names()
    by_name = build_checks(load_settings(), names)
    checks = [key for name in NIGHTLY if name in by_name for key in by_name[name].check_keys]
    run_id = elsewhere.submit(ASSETS_JOB, near=names.certificate, checks=checks)
    proved = succeeded(elsewhere.follow(run_id), elsewhere.page_of(run_id))
    if VERDICT_TAG not in proved.tags:
        raise StripePipelineError(
            f"The run {run_id} did not say what is proved", "Install this version of stripe_pipeline there, too"
        )
    show_summary(line for message in proved.messages for line in message.splitlines())
    if month:
        config = {"ops": {names.certificate.to_python_identifier(): {"config": {"month": f"{month}"}}}}
        run_id = elsewhere.submit(ASSETS_JOB, near=names.certificate, assets=[names.certificate], config=config)
        for message in succeeded(elsewhere.follow(run_id), elsewhere.page_of(run_id)).messages:
            out.print(f"\n{message}")
    return proved.tags[VERDICT_TAG] != Verdict.FAILED


def _month(text: str) -> Month:
    from stripe_pipeline.proof.certificate import Month

    try:
        return Month.parse(text)
    except ValueError:
        raise SettingsError(f"--month {text} is not a month", f"Write it as {today():%Y-%m}") from None


def _certify(month: Month) -> None:
    from stripe_pipeline.sync.certifying import Certificates
    from stripe_pipeline.sync.pipeline import Pipeline

    with Pipeline.from_environment() as pipeline:
        made = Certificates(pipeline.warehouse, pipeline.settings).make(month)
    for certified in made:
        out.print("\n" + "\n".join(certified.lines(short_path)))


def _verify(path: Path) -> bool:
    """Compare the tables with a certificate, and print how they differ; whether they are equal."""
    from stripe_pipeline.sync.certifying import Certificates, line_of
    from stripe_pipeline.sync.pipeline import look

    with look() as warehouse:
        certificate, sentences, changed = Certificates(warehouse, load_settings()).verify(path)
    for sentence in sentences:
        out.print(f"{sentence}.")
    for row in changed:
        out.print(line_of(row))
    of = f"the certificate of {certificate['month']}, {certificate['mode']} mode, made {certificate['made_at']}"
    if sentences:
        out.print(f"The tables differ from {of}.", style="bold red", soft_wrap=True)
    else:
        out.print(f"The tables hold exactly the rows of {of}.", style="bold", soft_wrap=True)
    return not sentences


def prove_tables() -> Summary:
    """Evaluate every check, store the outcomes, show these in Dagster, and return their summary.

    Raises `StripePipelineError`.
    """
    from stripe_pipeline.assets.checks import nightly_evaluations
    from stripe_pipeline.assets.keys import Names
    from stripe_pipeline.proof.summary import summarize
    from stripe_pipeline.sync.pipeline import Pipeline

    with Display() as display, dagster_instance() as instance, Pipeline.from_environment(display) as pipeline:
        pipeline.prove()
        with pipeline.warehouse.session():
            for evaluation in nightly_evaluations(pipeline, Names()):
                instance.report_runless_asset_event(evaluation)
            return summarize(pipeline.warehouse.proofs.stored())


def show_summary(lines: Iterable[str]) -> None:
    """Print the lines of a summary."""
    *outcomes, sentence = lines
    for line in outcomes:
        shown = Text(line)
        for word, style in (("failed", "red"), ("open", "yellow")):
            shown.highlight_regex(rf"^{word}\b", style)
        out.print(shown, soft_wrap=True)
    out.print(sentence, style="bold", soft_wrap=True)
