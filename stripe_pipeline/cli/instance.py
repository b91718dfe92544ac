"""Dagster's storage as commands use it: opening the instance, and explaining its errors.

With the project's `dagster.yaml` the storage is a folder of SQLite files. Damage to one of them shows late, as an
SQLAlchemy error wherever Dagster happens to read or write.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import StripePipelineError
from stripe_pipeline.inbox.run_locks import RunLocks
from stripe_pipeline.settings.environment import inbox_url
from stripe_pipeline.sqlite_files import is_damaged, sqlite_cause_of
from stripe_pipeline.storage_errors import Cause

if TYPE_CHECKING:
    from dagster import DagsterInstance

_FILES = ("history/runs/index.db", "history/runs.db", "schedules/schedules.db")
_LONGEST_REASON = 200  # characters of another library's message
_WHOLE = "Stripe's data is not affected"


@contextmanager
def dagster_instance() -> Iterator[DagsterInstance]:
    """The Dagster instance that runs are recorded in, in which runs whose process was killed have been reported as
    failed: with cron no schedule does that.

    Raises `StripePipelineError` if the storage cannot be used, also for SQLAlchemy errors in the body of the `with`:
    these can only come from the storage, as the inbox raises its own errors.
    """
    import dagster as dg
    from sqlalchemy.exc import DBAPIError

    from stripe_pipeline.assets.dagster_storage import check_driver
    from stripe_pipeline.assets.keys import Names
    from stripe_pipeline.assets.run_locks import fail_killed_runs

    home = Path(os.environ["DAGSTER_HOME"])
    try:
        # Processes that create the databases at the same time break each other.
        with filelock.FileLock(home / ".dagster.lock", mode=0o600):
            instance = dg.DagsterInstance.get()
            # Opening the instance does not read the index of events.
            instance.get_asset_keys(limit=1)
    except DBAPIError as error:
        raise _explained(error) from error
    except Exception as error:  # whatever YAML, Alembic and Dagster's own checks raise
        if isinstance(error.__cause__, DBAPIError):  # dagster-postgres has given up connecting
            raise _explained(error.__cause__) from error
        reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
        raise StripePipelineError(
            f"Dagster cannot use its storage: {reason}",
            f"Correct dagster.yaml in {home}, or the permissions of the folders it names",
        ) from error
    with instance:
        check_driver(instance)
        for folder in _storage_folders():
            if folder.name == ".dagster":  # it holds logs of runs; another user's folder stays as it is
                with suppress(OSError):
                    folder.chmod(0o700)
        try:
            fail_killed_runs(instance, RunLocks(DataFolder.from_environment(), inbox_url()), Names())
            yield instance
        except DBAPIError as error:
            raise _explained(error) from error


def _explained(error: BaseException) -> StripePipelineError:
    """The meaning of an error of Dagster's storage, with the damaged file if one is found."""
    origin = getattr(error, "orig", None) or error
    reason = " ".join(str(origin).split())[:_LONGEST_REASON] or type(origin).__name__
    cause = sqlite_cause_of(origin)
    folders = _storage_folders()
    where = f" in {folders[0]}" if folders else ""
    if cause is Cause.FULL:
        return StripePipelineError(
            f"The disk has no space left for Dagster's run history{where} ({reason})",
            f"Free disk space, then run again. {_WHOLE}",
        )
    if cause in (Cause.DENIED, Cause.IO):
        return StripePipelineError(
            f"Dagster's run history{where} cannot be read or written ({reason})",
            f"Give this user write access to the folder and everything in it, or free disk space if it ran out, then"
            f" run again. {_WHOLE}",
        )
    if cause is Cause.IN_USE:
        return StripePipelineError(
            f"Another process kept Dagster's run history{where} locked for too long ({reason})",
            f"Stop a Dagster or stripe-pipeline process that hangs, then run again. {_WHOLE}",
        )
    for folder in folders:
        for file in (folder / name for name in _FILES):
            if file.is_file() and is_damaged(file):
                return StripePipelineError(
                    f"The file {file} of Dagster's run history is damaged ({reason})",
                    f"Stop `stripe-pipeline dev` if it runs, move {_movable(folder)} away and run again: Dagster starts"
                    f" with an empty one. {_WHOLE}",
                )
    return StripePipelineError(
        f"Dagster's storage failed: {reason}",
        f"Check the storage that dagster.yaml in {os.environ['DAGSTER_HOME']} names, then run again. {_WHOLE}",
    )


def _storage_folders() -> list[Path]:
    """Where Dagster keeps SQLite files: below the project with its `dagster.yaml`, in DAGSTER_HOME without one."""
    home = Path(os.environ["DAGSTER_HOME"])
    candidates = dict.fromkeys([Path.cwd() / ".dagster", home / ".dagster", home])
    return [folder for folder in candidates if any((folder / name).exists() for name in _FILES)]


def _movable(folder: Path) -> str:
    """The part of this storage folder to move away: a `.dagster` folder holds nothing else."""
    return f"the folder {folder}" if folder.name == ".dagster" else f"{folder / 'history'} and {folder / 'schedules'}"
