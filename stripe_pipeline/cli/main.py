"""The command line: commands, output and the exit status.

Exit status: 0 for success, 1 if something failed, 2 if the command could not be started as requested. The work itself
belongs to `sync` and `assets`; runs are recorded in the same Dagster instance as those of the UI. Slow imports
(Dagster, DuckDB) happen only where needed: `webhooks serve` does without them.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

from stripe_pipeline.cli import check, prove, report, runs, serve, settings  # noqa: F401  (each registers its commands)
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
    # SIGTERM acts like Ctrl-C, which shells make background processes ignore.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    # No other user may read the files of this process and its children, libraries' files included.
    os.umask(0o077)
    # Without a handler Python prints the libraries' warnings to the terminal.
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
