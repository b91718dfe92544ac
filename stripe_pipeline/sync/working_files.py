"""The files that hold rows on their way from Stripe to the warehouse, one folder per run.

This module creates and removes the folders. Writing the files belongs to `stripe_api.day_files`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.run_locks import SUFFIX, abandoned, holding
from stripe_pipeline.storage_errors import reason, remedy


@contextmanager
def working_folder(folder: DataFolder) -> Iterator[Path]:
    """A folder for the working files of one run; folders of runs that were killed are removed.

    Raises `WarehouseError` if the folder cannot be made.
    """
    for lock in abandoned(folder.spool):
        shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
    for unlocked in folder.spool.glob("tmp*"):  # made by versions without locks
        with suppress(FileNotFoundError):
            if time.time() - unlocked.stat().st_mtime > DAY:
                shutil.rmtree(unlocked, ignore_errors=True)
    working = folder.spool / uuid4().hex
    with ExitStack() as held:
        try:
            held.enter_context(holding(working.with_suffix(SUFFIX)))
            working.mkdir(mode=0o700)
        except OSError as error:
            raise rows_lost(error, folder.spool) from error
        held.callback(shutil.rmtree, working, ignore_errors=True)
        yield working


def rows_lost(error: OSError, spool: Path) -> WarehouseError:
    """The error for a run that cannot write its working files."""
    to_do = (
        "Something removed the run's working files from the data folder: run again"
        if isinstance(error, FileNotFoundError)
        else remedy(error, spool)
    )
    return WarehouseError(f"The working files of this run could not be written ({reason(error)})", to_do)
