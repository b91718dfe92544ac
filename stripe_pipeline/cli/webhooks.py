"""The `webhooks` commands: their arguments and output. Other modules of the package do the work.

Commands import their modules when they run: the receiver's process stays small and starts fast.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Annotated

import typer

from stripe_pipeline.cli.processes import HOST
from stripe_pipeline.cli.terminal import complain, out
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import SettingsError, StripePipelineError
from stripe_pipeline.settings.environment import api_base, inbox_url, load_keys, webhook_secrets
from stripe_pipeline.settings.loading import load_settings

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Receive Stripe's webhooks, and tell Stripe where to send them."
)
_PATIENCE = 10.0  # seconds, during which a webhook's sender waits


@app.command()
def serve(
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address of this machine to listen on.")] = HOST,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port to listen on; 0 takes any free one.")
    ] = 4242,
) -> None:
    """Receive webhooks until Ctrl-C.

    POST /webhooks/stripe accepts events signed with one of the secrets in STRIPE_WEBHOOK_SECRET and
    STRIPE_TEST_WEBHOOK_SECRET; GET /health shows the state of the inbox. Put a reverse proxy with https in front of it.
    """
    from stripe_pipeline.inbox.inbox import Inbox
    from stripe_pipeline.webhooks.receiver import HEALTH, PATH, create_app
    from stripe_pipeline.webhooks.server import address_of, listen
    from stripe_pipeline.webhooks.server import serve as serve_on

    settings, secrets, folder = load_settings(), webhook_secrets(), DataFolder.from_environment()
    listener = listen(host, port)
    with listener:
        if not inbox_url():
            folder.prepare()
        inbox = Inbox(folder, inbox_url(), patience=_PATIENCE)
        try:
            receiver = create_app(inbox, secrets, {object_type.name for object_type in settings.announcing})
            logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, force=True)
            for noisy in ("uvicorn", "stripe"):
                logging.getLogger(noisy).setLevel(logging.ERROR)
            out.print(f"Ready: POST {address_of(listener)}{PATH}, GET {address_of(listener)}{HEALTH}")
            with contextlib.suppress(KeyboardInterrupt):
                serve_on(receiver, listener)
        finally:
            inbox.close()
    out.print("Stopped.")


@app.command()
def register(
    url: Annotated[str, typer.Option(metavar="URL", help="Public address of the receiver's POST /webhooks/stripe.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Remove endpoints of this URL that have another API version.")
    ] = False,
) -> None:
    """Let Stripe send events to a URL: those that the tables need.

    For each key, creates the webhook endpoint or corrects its event types. Repeating the command changes nothing.
    """
    from stripe_pipeline.webhooks.endpoints import Endpoints, checked_url

    address, event_types = checked_url(url), load_settings().event_types
    complete = True
    for key in load_keys():
        mode = "Live" if key.livemode else "Test"
        with _complaining() as failed:
            done = Endpoints(key, base_url=api_base()).register(address, event_types=event_types, replace=replace)
            if done.secret:
                name = "STRIPE_WEBHOOK_SECRET" if key.livemode else "STRIPE_TEST_WEBHOOK_SECRET"
                out.print(f"{mode}: created {done.id} for {address}, {len(event_types)} event types.")
                out.print(f"  Its signing secret is shown only now. Put it where the receiver runs, into {name}")
                out.print("  (after a comma if that already holds the secret of another endpoint that still sends):")
                out.print(f"  {done.secret}", style="cyan")
            elif done.changes:
                out.print(f"{mode}: changed {done.id}: {'; '.join(done.changes)}.")
            else:
                out.print(f"{mode}: {done.id} is as it should be; nothing changed.")
            for endpoint_id in done.removed:
                out.print(f"  Removed {endpoint_id}, which sent to the same URL.")
            for endpoint_id in done.outdated:
                out.print(
                    f"  {endpoint_id} sends to the same URL, with another API version or as a duplicate. Once the new"
                    f" secret is in place: stripe-pipeline webhooks unregister {endpoint_id}"
                )
        complete = complete and not failed
    if not complete:
        raise typer.Exit(1)


@app.command("list")
def show() -> None:
    """Show the webhook endpoints at Stripe, for each key."""
    from stripe_pipeline.webhooks.endpoints import Endpoints

    shown, complete = 0, True
    for key in load_keys():
        with _complaining() as failed:
            for endpoint in Endpoints(key, base_url=api_base()).all():
                shown += 1
                out.print(
                    "live" if key.livemode else "test",
                    endpoint.id,
                    endpoint.status,
                    f"{endpoint.api_version or 'account version'},",
                    f"{'all' if '*' in endpoint.enabled_events else len(endpoint.enabled_events)} event types,",
                    endpoint.url,
                )
        complete = complete and not failed
    if complete and not shown:
        out.print("No webhook endpoints exist. `stripe-pipeline webhooks register --url https://…` creates one.")
    if not complete:
        raise typer.Exit(1)


@app.command()
def unregister(
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="Its id (we_…), or its URL.")],
) -> None:
    """Remove a webhook endpoint from Stripe.

    Nothing is lost: syncs also find the changes that no webhook announced.
    """
    from stripe_pipeline.webhooks.endpoints import Endpoints

    removed, complete = 0, True
    for key in load_keys():
        with _complaining() as failed:
            endpoints = Endpoints(key, base_url=api_base())
            for existing in endpoints.all():
                if endpoint in (existing.id, existing.url):
                    endpoints.remove(existing.id)
                    removed += 1
                    mode = "Live" if key.livemode else "Test"
                    out.print(f"{mode}: removed {existing.id}, which sent to {existing.url}.")
        complete = complete and not failed
    if complete and not removed:
        raise StripePipelineError(
            f"The webhook endpoint {endpoint} does not exist", "`stripe-pipeline webhooks list` shows those that exist"
        )
    if not complete:
        raise typer.Exit(1)


@app.command()
def retry(
    event_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[EVENT]...", help="Event ids (evt_…); without any, all of them.")
    ] = None,
) -> None:
    """Retry objects that were given up after five failed attempts.

    The table pipeline.inbox shows these objects and the reasons. The next run reads the objects again.
    """
    from stripe_pipeline.cli.web_server import refuse_elsewhere
    from stripe_pipeline.inbox.inbox import Inbox

    folder = DataFolder.from_environment()
    if not inbox_url():
        refuse_elsewhere("webhooks retry")
        folder.prepare()
    inbox = Inbox(folder, inbox_url())
    try:
        dead = {entry.notification.event_id for entry in inbox.dead()}
        if unknown := sorted(set(event_ids or ()) - dead):
            raise StripePipelineError(
                f"These events were not given up: {', '.join(unknown)}",
                "Use event ids that the table pipeline.inbox shows with the state dead",
            )
        count = inbox.retry(event_ids)
    finally:
        inbox.close()
    waiting = f"{count} {'notification waits' if count == 1 else 'notifications wait'} again."
    out.print(waiting if count else "Nothing was given up.")


@app.command()
def adopt() -> None:
    """Give the inbox in STRIPE_PIPELINE_INBOX to this data folder.

    For an inbox whose data folder is gone, or was restored from a copy. Notifications that were applied there are
    applied again here. A data folder that still uses the inbox is refused from then on.
    """
    from stripe_pipeline.sync.pipeline import Pipeline

    with Pipeline.from_environment(take_over=True) as pipeline:
        count = pipeline.adopt_inbox()
    out.print(
        f"The inbox belongs to this data folder; {count} {'notification waits' if count == 1 else 'notifications wait'}"
        " again. `stripe-pipeline sync` applies them, and reads Stripe's events of the last 30 days again."
    )


@contextlib.contextmanager
def _complaining() -> Iterator[list[StripePipelineError]]:
    """Print an error of one key, add it to the list, and go on with the other key.

    Raises `SettingsError`, which concerns both.
    """
    failed: list[StripePipelineError] = []
    try:
        yield failed
    except SettingsError:
        raise
    except StripePipelineError as error:
        failed.append(error)
        complain(error)
