"""The command check: the permissions of each key, the state of webhooks, and the data left to load."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from stripe_pipeline.cli.terminal import complain, err, out
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import (
    PermissionMissing,
    SettingsError,
    StripePipelineError,
    WarehouseError,
    by_cause,
)
from stripe_pipeline.settings.environment import api_base, inbox_url, load_keys
from stripe_pipeline.settings.loading import load_settings
from stripe_pipeline.stripe_api.rate_limits import READ_ALLOCATION

if TYPE_CHECKING:
    from stripe_pipeline.preflight.key_report import KeyReport
from stripe_pipeline.cli.app import app
from stripe_pipeline.cli.display import approximately, print_line
from stripe_pipeline.cli.hosts import check_settings


@app.command()
def check() -> None:
    """Show what each key may read, and how long loading will take.

    Sends some forty requests to Stripe for each key, and changes nothing; once there is a published file, a small file
    beside it shows how fast the file system copies, and is removed again. The exit status is 1 if something is missing
    that loading needs: a key, a permission or the events; or if another host has replaced the settings of this one.
    Webhooks are shown, but do not count.
    """
    reports = key_reports()
    for report in reports:
        out.print(key_of(report), style="bold")
        if report.refused:
            complain(report.refused)
            continue
        _show_report(report)
        complain_of_missing(report)
    apply = _settings_apply()
    _show_copying()
    if not _show_bucket() or not apply or not all(report.complete for report in reports):
        raise typer.Exit(1)


def _settings_apply() -> bool:
    """Whether runs may use the settings of this host; complains if not."""
    try:
        check_settings()
    except SettingsError as error:
        complain(error)
        return False
    return True


def _show_copying() -> None:
    from stripe_pipeline.preflight.copying import try_copying

    if copying := try_copying(DataFolder.from_environment()):
        print_line("Publish", f"{copying}")


def _show_bucket() -> bool:
    """Shows what is in the bucket that versions are sent to; False if that could not be seen."""
    from stripe_pipeline.warehouse.bucket import Bucket

    folder = DataFolder.from_environment()
    if not folder.bucket:
        return True
    try:
        newest = Bucket(folder, folder.bucket).newest()
    except WarehouseError as error:
        complain(error)
        return False
    print_line("Bucket", f"{folder.bucket} has {newest or 'no version yet: the next run sends one'}.")
    return True


def key_reports() -> list[KeyReport]:
    """A report on each key."""
    from stripe_pipeline.preflight.key_report import check_keys

    keys, settings, folder = load_keys(), load_settings(), DataFolder.from_environment()
    with err.status("Asking Stripe …") if err.is_terminal else contextlib.nullcontext():
        return check_keys(keys, settings=settings, folder=folder, base_url=api_base(), inbox_url=inbox_url())


def key_of(report: KeyReport) -> str:
    return f"{'Live' if report.livemode else 'Test'} key" + (f" of {report.account}" if report.account else "")


def _show_report(report: KeyReport) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("table", "to load", "requests", "may read"):
        table.add_column(heading, justify="right" if heading in ("to load", "requests") else "left")
    for checked in report.tables:
        left = checked.left
        counts = [approximately(n, exact=left.exact) for n in (left.objects, left.requests)] if left else ("", "")
        readable = f"with {checked.object_type.parent}" if checked.object_type.parent else "yes"
        table.add_row(checked.object_type.name, *counts, _readable(checked.error, readable))
    if all(checked.object_type.name != "events" for checked in report.tables):
        table.add_row("events", "", "", _readable(report.events, "yes"))
    out.print(table)
    print_line("To load", f"{to_load(report)}.")
    for lacking in report.lacking:
        print_line("", f"{lacking}.")
    for checked in report.tables:
        for path in checked.unseen:
            print_line("Fields", f"{checked.object_type.name}: {path} is in the settings, but no recent object has it.")
    rate = report.rate
    print_line(
        "30 days",
        f"about {report.requests_a_month:,} requests if nothing changes, {report.requests_of_all_types:,} with every"
        f" type on (`objects: all`). Stripe allows every account {READ_ALLOCATION:,}.",
    )
    print_line(
        "Rate",
        f"{rate.account * rate.share:g} requests/s, {rate.endpoint * rate.share:g} of one type: {rate.share:.0%} of"
        f" Stripe's {rate.account:g} and {rate.endpoint:g}.",
    )
    if rate.slowed_down:
        print_line(
            "",
            f"Stripe slowed down {sum(rate.slowed_down.values())} of these requests ({', '.join(rate.slowed_down)}):"
            " something else uses up its limits. Lower rate.share, or load at another time.",
        )
    _show_webhooks(report)


def _readable(error: StripePipelineError | None, yes: str) -> Text:
    if error is None:
        return Text(yes, "green")
    lacking = error.permission if isinstance(error, PermissionMissing) else None
    return Text(f"no: {lacking}" if lacking else "no", "red")


def to_load(report: KeyReport) -> str:
    """The data left to load, and the cost of loading it."""
    left, seconds = report.left, report.seconds
    if not left.requests:
        unreadable = any(table.error for table in report.tables)
        return "nothing that the key may read" if unreadable else "nothing; the stored data is complete"
    if seconds < 60:
        takes = "under a minute"
    else:
        takes = f"about {seconds / 60:.0f} minutes" if seconds < 5400 else f"about {seconds / 3600:.0f} hours"
    rows, requests = (approximately(n, exact=left.exact) for n in (left.objects, left.requests))
    return f"{rows} rows in {requests} requests, {takes}"


def _show_webhooks(report: KeyReport) -> None:
    webhooks = report.webhooks
    if isinstance(webhooks.error, PermissionMissing):
        lacking = webhooks.error.permission or "Webhook Endpoints, read"
        print_line(
            "Webhooks",
            f"the key may not list them (it needs {lacking}); the Stripe Dashboard shows them (Developers, Webhooks).",
        )
    elif webhooks.error:
        print_line("Webhooks", f"{webhooks.error}")
    elif not webhooks.endpoints:
        elsewhere = f", {webhooks.others} elsewhere" if webhooks.others else ""
        print_line(
            "Webhooks",
            f"none registered{elsewhere}: changes come with the next sync. To get them within seconds:"
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
        print_line(
            "Webhooks",
            f"{endpoint.id} is as it should be, and sends to {endpoint.url}"
            if endpoint.sound
            else f"{endpoint.id}: {', '.join(wrong)}. To correct it:"
            f" stripe-pipeline webhooks register --url {endpoint.url}{replace}",
        )
    secret = f"in {webhooks.secret_name}" if webhooks.secret_is_set else f"none; {webhooks.secret_name} is not set"
    print_line("", f"Signing secret: {secret}.")


def complain_of_missing(report: KeyReport) -> None:
    for names, error in by_cause(report.failures):
        complain(f"{', '.join(names)} cannot be read: {error}" if len(names) > 1 else error)
