"""Rewriting the private file, so that nothing is left of what was erased and free space is given back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from stripe_pipeline.data_folder import CATALOG
from stripe_pipeline.warehouse.file_state import NOW, get_state, set_state
from stripe_pipeline.warehouse.recovery import (
    remove,
)
from stripe_pipeline.warehouse.sql import attach

if TYPE_CHECKING:
    pass


if TYPE_CHECKING:
    from stripe_pipeline.warehouse.private_file import PrivateFile

_SMALL = 64  # blocks of 256 KB that are not worth compacting


def compact(file: PrivateFile, connection: duckdb.DuckDBPyConnection) -> None:
    """Put everything into a new file in the private one's place, so that nothing is left of what was erased."""
    if get_state(connection, "compact"):
        remove(file.folder.damaged)
    if get_state(connection, "compact") == NOW:
        # Of runs that were killed, or that began before the settings changed and cannot be stored any more.
        for on_its_way in file.folder.spool.rglob("*.ndjson"):
            on_its_way.unlink(missing_ok=True)
    for left_over in file.folder.spill.glob("*"):
        left_over.unlink(missing_ok=True)
    compacted = file.folder.private.with_name("compacted.duckdb")
    remove(compacted)
    try:
        _copy_to(compacted, connection)
    except BaseException:
        file.end_duckdb()
        remove(compacted)  # or it keeps the disk full
        raise
    compacted.chmod(0o600)
    compacted.replace(file.folder.private)
    file.attach()


def _copy_to(compacted: Path, connection: duckdb.DuckDBPyConnection) -> None:
    """Copy everything into a new file, and detach both."""
    attach(connection, compacted, "compacted")
    connection.execute("SET preserve_insertion_order = true")  # rows lie by day, which is how they are looked for
    connection.execute(f"COPY FROM DATABASE {CATALOG} TO compacted")
    connection.execute("SET preserve_insertion_order = false")
    connection.execute("USE compacted")
    set_state(connection, "compact", None)
    [(revision,)] = connection.execute("UPDATE pipeline.meta SET revision = revision + 1 RETURNING revision").fetchall()
    # Versions published before hold what this one no longer does.
    set_state(connection, "erased", str(revision))
    connection.execute("USE memory")
    connection.execute("CHECKPOINT compacted")
    connection.execute("DETACH compacted")
    connection.execute(f"DETACH {CATALOG}")


def give_back_space(file: PrivateFile, connection: duckdb.DuckDBPyConnection) -> None:
    """Compact the file where that is due."""
    with file.explained("What is too old was removed, but {} could not be made smaller"):
        connection.execute(f"CHECKPOINT {CATALOG}")
        if get_state(connection, "compact") or _mostly_free(connection):
            compact(file, connection)


def _mostly_free(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether half of the file's blocks are free, and enough to be worth it."""
    [(total, free)] = connection.execute(
        "SELECT total_blocks, free_blocks FROM pragma_database_size() WHERE database_name = ?", [CATALOG]
    ).fetchall()
    return bool(total > _SMALL and 2 * free >= total)
