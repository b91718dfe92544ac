"""Restoring a damaged or missing private file from a version of the published file, which is a complete copy of it.

The restored file has the cursors and the coverage of its version, so the next sync continues from there. Changes that
the inbox has considered applied since then must be read again, which the restored file records until this is done.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import orjson

from stripe_pipeline.data_folder import CATALOG, DataFolder
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.identity import Restored
from stripe_pipeline.storage_errors import reason, remedy
from stripe_pipeline.warehouse.file_copies import copy_file
from stripe_pipeline.warehouse.file_state import LINEAGE, RESTORED, get_state, set_state
from stripe_pipeline.warehouse.publisher import versions_of
from stripe_pipeline.warehouse.sql import attach, literal

logger = logging.getLogger(__name__)

_SQLITE = b"SQLite format 3\0"
_MORE_LOADS = 1_000_000  # more than ever happen between two publishes


@dataclass(frozen=True)
class StandIn:
    """A copy that may take the private file's place."""

    path: Path
    copied_at: datetime
    is_published: bool

    def __str__(self) -> str:
        return f"{self.copied_at:%Y-%m-%d %H:%M:%S} UTC"


def stand_ins(folder: DataFolder) -> list[StandIn]:
    """The copies that may take the private file's place, best first.

    The private file itself comes first if its write-ahead log may be the damaged part: all data reported as stored is
    in the file. The published versions follow, newest first.
    """
    copies = [StandIn(path, copied_at, True) for path, copied_at, _ in versions_of(folder)]
    if _log_of(folder.private).exists() and folder.private.is_file():
        written = datetime.fromtimestamp(folder.private.stat().st_mtime, UTC)
        copies.insert(0, StandIn(folder.private, written, False))
    return copies


def holds_warehouse(folder: DataFolder) -> bool:
    """Whether the warehouse of this data folder exists on this host, or can be restored here; a lake is on every
    host."""
    return bool(folder.lake or folder.private.exists() or stand_ins(folder))


def is_whole(path: Path) -> bool:
    """Whether everything in this database can be read: DuckDB has a checksum for each block.

    An SQLite file counts as whole: it belongs to another program and is not damaged.
    """
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(len(_SQLITE)) == _SQLITE:
            return True
    try:
        with duckdb.connect(":memory:") as connection:
            connection.execute("SET enable_progress_bar = false")
            connection.execute(f"ATTACH {literal(str(path))} AS {CATALOG} (TYPE duckdb, READ_ONLY)")
            return ("pipeline", "meta") in read_through(connection)
    except duckdb.Error:
        return False


def read_through(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, str]]:
    """Reads every table of the attached file completely, which raises `duckdb.Error` for a damaged block; returns the
    tables, by schema and name."""
    tables = connection.execute(
        "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = ? ORDER BY ALL", [CATALOG]
    ).fetchall()
    for schema, table in tables:
        connection.execute(f'SELECT bit_xor(hash(t)) FROM {CATALOG}."{schema}"."{table}" t').fetchall()
    return tables


def restore(folder: DataFolder, why: str) -> Restored:
    """Replaces the private file with the best copy and keeps the damaged file beside it; the caller holds its lock.

    If interrupted, the restoration starts again when the file is next opened. Raises `WarehouseError` if no complete
    copy exists or space for another one is lacking; then everything stays as it was.
    """
    private, fresh = folder.private, folder.private.with_name("restored.duckdb")
    try:
        for stand_in in stand_ins(folder):
            remove(fresh)
            copy_file(stand_in.path, fresh)
            if is_whole(fresh):
                break
        else:
            raise cannot_be_restored(folder, why)
        fresh.chmod(0o600)
        aside = private.exists()
        restored = Restored(stand_in.copied_at.timestamp(), _sentence(folder, why, stand_in, aside=aside))
        highest = max((revision for _, _, revision in versions_of(folder)), default=0)
        _note(fresh, restored, revision=highest + 1)
        if aside:
            remove(folder.damaged)
            for path in (_log_of(private), private):
                if path.exists():
                    path.rename(path.with_name(path.name.replace(private.name, folder.damaged.name)))
        else:
            remove(private)  # only a write-ahead log
        fresh.replace(private)
    except (OSError, duckdb.Error) as error:
        raise WarehouseError(
            f"The warehouse {private} is damaged or missing ({why}), and restoring it failed ({reason(error)})",
            remedy(error, private),
        ) from error
    finally:
        with contextlib.suppress(OSError):
            remove(fresh)
    logger.warning("%s.", restored)
    return restored


def restored_as_of(stored: str | None) -> Restored | None:
    """The work due since the file was restored, from what is stored as `RESTORED`."""
    return Restored(*orjson.loads(stored)) if stored else None


def cannot_be_restored(folder: DataFolder, why: str = "") -> WarehouseError:
    """The error if no copy is left."""
    return WarehouseError(
        f"The warehouse {folder.private} is damaged ({why}), and no undamaged published version of it is left",
        "Put a backup of it there, if there is one. Else load everything from Stripe again: `stripe-pipeline clean`,"
        " then `stripe-pipeline sync`. That does not restore data that Stripe no longer has, such as the last state of"
        " deleted objects",
    )


def remove(database: Path) -> None:
    """Removes a database file and its write-ahead log."""
    for path in (database, _log_of(database)):
        path.unlink(missing_ok=True)


def _log_of(database: Path) -> Path:
    return database.with_name(f"{database.name}.wal")


def _sentence(folder: DataFolder, why: str, stand_in: StandIn, *, aside: bool) -> str:
    damaged = f"is damaged ({why})" if aside else f"cannot be opened ({why})"
    source = f"the version published at {stand_in}" if stand_in.is_published else f"its state of {stand_in}"
    damaged_file = f" The damaged file is kept as {folder.damaged} for 30 days" if aside else ""
    return (
        f"The warehouse {folder.private} {damaged}: it was restored from {source}, and the next run reads the changes"
        f" since then.{damaged_file}".rstrip(".")
    )


def _note(file: Path, restored: Restored, *, revision: int) -> None:
    """Records in the restored file the work due since its copy was made."""
    with duckdb.connect(":memory:") as connection, _attached(connection, file):
        connection.execute("CREATE TABLE IF NOT EXISTS pipeline.applied (name VARCHAR, value VARCHAR)")
        earlier = restored_as_of(get_state(connection, RESTORED))
        since = min(restored.since, earlier.since) if earlier else restored.since
        set_state(connection, RESTORED, orjson.dumps([since, restored.said]).decode())
        set_state(connection, LINEAGE, repr(time.time()))
        # Higher than the revision of every version, or the next publish would count as already published. Higher than
        # any revision of the damaged file, or an inbox that knows a later state of this warehouse would refuse it.
        connection.execute(f"UPDATE pipeline.meta SET revision = greatest(revision, {revision}) + {_MORE_LOADS}")


@contextlib.contextmanager
def _attached(connection: duckdb.DuckDBPyConnection, file: Path) -> Iterator[None]:
    attach(connection, file)
    connection.execute(f"USE {CATALOG}")
    yield
    connection.execute("USE memory")
    connection.execute(f"DETACH {CATALOG}")
