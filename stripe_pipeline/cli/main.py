"""The command line: what people type, what they read, and the exit status.

Exit status: 0 if all of it worked, 1 if something failed, 2 if it could not be started as asked. The work itself
belongs to `sync` and `assets`; runs are recorded in the same Dagster instance as those of the UI. What takes long to
import (Dagster, DuckDB) is imported where it is needed: `webhooks serve` does without.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

from stripe_pipeline.cli import check, runs, serve  # noqa: F401  (each registers its commands)
from stripe_pipeline.cli.app import app
from stripe_pipeline.cli.terminal import complain, err
from stripe_pipeline.cli.webhooks import app as webhooks
from stripe_pipeline.errors import SettingsError, StripePipelineError
from stripe_pipeline.storage_errors import Cause, cause_of, reason, remedy

app.add_typer(webhooks, name="webhooks")

__all__ = ["app", "main"]

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
