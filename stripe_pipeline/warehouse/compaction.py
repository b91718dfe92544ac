"""Rewriting the private file, so that no erased data is left in it and free space is returned."""

from __future__ import annotations

from pathlib import Path

import duckdb

from stripe_pipeline.data_folder import CATALOG, DataFolder
from stripe_pipeline.warehouse.file_state import NOW, get_state, set_state
from stripe_pipeline.warehouse.recovery import remove
from stripe_pipeline.warehouse.sql import attach

_SMALL = 64  # blocks of 256 KB that are not worth compacting


def rewrite(folder: DataFolder, connection: duckdb.DuckDBPyConnection) -> None:
    """Copies everything into a new file that replaces the private one, so that no erased data is left.

    No file is attached afterwards. After a failure, `discard` removes the remains once DuckDB has ended.
    """
    discard_working_files(folder, get_state(connection, "compact"))
    compacted = _compacted(folder)
    remove(compacted)
    _copy_to(compacted, connection)
    compacted.chmod(0o600)
    compacted.replace(folder.private)


def discard_working_files(folder: DataFolder, due: str | None) -> None:
    """Removes the files of the data folder that may hold erased data, beside the one that is compacted; `due`: how soon
    compacting was requested."""
    if due:
        remove(folder.damaged)
    if due == NOW:
        # Files of killed runs, and of runs that began before the settings changed, which can no longer store them.
        for on_its_way in folder.spool.rglob("*.ndjson"):
            on_its_way.unlink(missing_ok=True)
    for left_over in folder.spill.glob("*"):
        left_over.unlink(missing_ok=True)


def discard(folder: DataFolder) -> None:
    """Removes an unfinished copy, which would keep a full disk full."""
    remove(_compacted(folder))


def is_due(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether the file is to be rewritten: data was erased, or half of the file is free."""
    return bool(get_state(connection, "compact")) or _mostly_free(connection)


def _compacted(folder: DataFolder) -> Path:
    return folder.private.with_name("compacted.duckdb")


def _copy_to(compacted: Path, connection: duckdb.DuckDBPyConnection) -> None:
    """Copies everything into a new file, and detaches both."""
    attach(connection, compacted, "compacted")
    connection.execute("SET preserve_insertion_order = true")  # rows are ordered by day, as queries need them
    connection.execute(f"COPY FROM DATABASE {CATALOG} TO compacted")
    connection.execute("SET preserve_insertion_order = false")
    connection.execute("USE compacted")
    set_state(connection, "compact", None)
    [(revision,)] = connection.execute("UPDATE pipeline.meta SET revision = revision + 1 RETURNING revision").fetchall()
    # Earlier published versions hold data that this file no longer does.
    set_state(connection, "erased", str(revision))
    connection.execute("USE memory")
    connection.execute("CHECKPOINT compacted")
    connection.execute("DETACH compacted")
    connection.execute(f"DETACH {CATALOG}")


def _mostly_free(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether at least half of the file's blocks are free and rewriting the file is worthwhile."""
    [(total, free)] = connection.execute(
        "SELECT total_blocks, free_blocks FROM pragma_database_size() WHERE database_name = ?", [CATALOG]
    ).fetchall()
    return bool(total > _SMALL and 2 * free >= total)
