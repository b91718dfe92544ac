"""Why a SQLite file could not be used, by SQLite's result codes (its page "Result and Error Codes")."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from stripe_pipeline.storage_errors import Cause

_BY_CODE = {
    sqlite3.SQLITE_CORRUPT: Cause.DAMAGED,
    sqlite3.SQLITE_NOTADB: Cause.DAMAGED,
    sqlite3.SQLITE_FULL: Cause.FULL,
    sqlite3.SQLITE_IOERR: Cause.IO,
    sqlite3.SQLITE_PERM: Cause.DENIED,
    sqlite3.SQLITE_READONLY: Cause.DENIED,
    sqlite3.SQLITE_CANTOPEN: Cause.DENIED,
    sqlite3.SQLITE_AUTH: Cause.DENIED,
    sqlite3.SQLITE_BUSY: Cause.IN_USE,
    sqlite3.SQLITE_LOCKED: Cause.IN_USE,
}


def sqlite_cause_of(error: BaseException | None) -> Cause:
    """The cause of an error of `sqlite3`; `OTHER` for any other error."""
    code = getattr(error, "sqlite_errorcode", None)
    # The low byte is the primary code, the other bytes give details.
    return _BY_CODE.get(code & 0xFF, Cause.OTHER) if isinstance(code, int) else Cause.OTHER


def is_damaged(path: Path) -> bool:
    """Whether SQLite finds the file damaged. Reads all of it and changes nothing."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return [row[0] for row in connection.execute("PRAGMA quick_check(1)")] != ["ok"]
    except sqlite3.Error as error:
        return sqlite_cause_of(error) is Cause.DAMAGED
