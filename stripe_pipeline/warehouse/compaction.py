"""Rewriting the private file, so that nothing is left of what was erased and free space is given back."""

from __future__ import annotations

from pathlib import Path

import duckdb

from stripe_pipeline.data_folder import CATALOG, DataFolder
from stripe_pipeline.warehouse.file_state import NOW, get_state, set_state
from stripe_pipeline.warehouse.recovery import remove
from stripe_pipeline.warehouse.sql import attach

_SMALL = 64  # blocks of 256 KB that are not worth compacting


def rewrite(folder: DataFolder, connection: duckdb.DuckDBPyConnection) -> None:
    """Put everything into a new file in the private one's place, so that nothing is left of what was erased.

    Afterwards no file is attached. What a failure leaves is to be removed with `discard` once DuckDB has ended.
    """
    if get_state(connection, "compact"):
        remove(folder.damaged)
    if get_state(connection, "compact") == NOW:
        # Of runs that were killed, or that began before the settings changed and cannot be stored any more.
        for on_its_way in folder.spool.rglob("*.ndjson"):
            on_its_way.unlink(missing_ok=True)
    for left_over in folder.spill.glob("*"):
        left_over.unlink(missing_ok=True)
    compacted = _compacted(folder)
    remove(compacted)
    _copy_to(compacted, connection)
    compacted.chmod(0o600)
    compacted.replace(folder.private)


def discard(folder: DataFolder) -> None:
    """Remove an unfinished copy, which would keep a full disk full."""
    remove(_compacted(folder))


def is_due(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether the file is to be rewritten: something was erased, or half of it is free."""
    return bool(get_state(connection, "compact")) or _mostly_free(connection)


def _compacted(folder: DataFolder) -> Path:
    return folder.private.with_name("compacted.duckdb")


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


def _mostly_free(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether half of the file's blocks are free, and enough to be worth it."""
    [(total, free)] = connection.execute(
        "SELECT total_blocks, free_blocks FROM pragma_database_size() WHERE database_name = ?", [CATALOG]
    ).fetchall()
    return bool(total > _SMALL and 2 * free >= total)
