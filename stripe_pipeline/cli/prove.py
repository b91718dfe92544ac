"""The command that proves the tables: `prove`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from stripe_pipeline.cli.app import app, check_environment
from stripe_pipeline.cli.display import Display, short_path
from stripe_pipeline.cli.instance import dagster_instance
from stripe_pipeline.cli.terminal import out
from stripe_pipeline.days import today
from stripe_pipeline.errors import SettingsError
from stripe_pipeline.settings.loading import load_settings

if TYPE_CHECKING:
    from stripe_pipeline.proof.certificate import Changed, Month
    from stripe_pipeline.proof.summary import Summary
    from stripe_pipeline.proof.verdict import Proof

_SHOWN = 20


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
        raise typer.Exit(0 if _verify(verify) else 1)
    certified = _month(month) if month else None
    check_environment()
    summary = prove_tables()
    show_summary(summary)
    if certified:
        _certify(certified)
    if summary.verdict is Verdict.FAILED:
        raise typer.Exit(1)


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
        certificate = certified.certificate
        rows = sum(table["rows"] for table in certificate["tables"])
        out.print(f"\nCertificate of {month}, {certificate['mode']} mode: {certificate['verdict']}, {rows:,} rows")
        out.print(f"  Rows (SHA-256)  {certificate['rows_sha256']}")
        out.print(f"  Page            {short_path(certified.html)}")
        out.print(f"  To verify       stripe-pipeline prove --verify {short_path(certified.json)}", soft_wrap=True)
        if certified.replaced:
            same = "are the same as" if not certified.is_new else "differ from those"
            out.print(
                f"  The rows {same} in the certificate of {certified.replaced['made_at']}, which this one replaces."
            )
        _show_changed(certified.changed)


def _verify(path: Path) -> bool:
    """Compare the tables with a certificate, and print how they differ; whether they are equal."""
    from stripe_pipeline.sync.certifying import Certificates
    from stripe_pipeline.sync.pipeline import look

    with look() as warehouse:
        certificate, sentences, changed = Certificates(warehouse, load_settings()).verify(path)
    for sentence in sentences:
        out.print(f"{sentence}.")
    _show_changed(changed)
    of = f"the certificate of {certificate['month']}, {certificate['mode']} mode, made {certificate['made_at']}"
    if sentences:
        out.print(f"The tables differ from {of}.", style="bold red", soft_wrap=True)
    else:
        out.print(f"The tables hold exactly the rows of {of}.", style="bold", soft_wrap=True)
    return not sentences


def _show_changed(changed: Sequence[Changed]) -> None:
    for row in changed:
        out.print(f"  {row.table} {row.id}, created {row.day}: {row.why}", soft_wrap=True)


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


def show_summary(summary: Summary) -> None:
    """Print the verdict, and what failed or is open."""
    _print_proofs("failed", summary.failed, "red")
    _print_proofs("open", summary.open, "yellow")
    out.print(summary.sentence, style="bold", soft_wrap=True)


def _print_proofs(word: str, proofs: Sequence[Proof], style: str) -> None:
    for proof in proofs[:_SHOWN]:
        subject = " ".join(filter(None, (proof.object_type, proof.currency, proof.scope)))
        parts = [proof.reason] if proof.reason else []
        if proof.difference:
            parts.append(f"{proof.left:,} stored, {proof.right:,} expected, difference {proof.difference:,}")
        mode = "live" if proof.livemode else "test"
        text = f" {proof.name}: {subject} ({mode}): {'; '.join(parts)}"
        out.print(Text.assemble((f"{word:6}", style), text), soft_wrap=True)
    if len(proofs) > _SHOWN:
        out.print(f"       and {len(proofs) - _SHOWN} more in pipeline.proof")
