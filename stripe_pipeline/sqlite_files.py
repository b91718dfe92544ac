"""What went wrong with a SQLite file, told apart by SQLite's result codes (its page "Result and Error Codes")."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from enum import Enum, auto
from pathlib import Path


class Trouble(Enum):
    """The kinds of trouble that need different remedies."""

    DAMAGED = auto()
    """The content is not that of a SQLite database."""
    FULL = auto()
    """The disk, or the quota, has no space left."""
    DISK = auto()
    """The system could not read or write the file."""
    DENIED = auto()
    """The file or its folder may not be opened or written."""
    BUSY = auto()
    """Another process kept it locked for too long."""
    OTHER = auto()


_BY_CODE = {
    sqlite3.SQLITE_CORRUPT: Trouble.DAMAGED,
    sqlite3.SQLITE_NOTADB: Trouble.DAMAGED,
    sqlite3.SQLITE_FULL: Trouble.FULL,
    sqlite3.SQLITE_IOERR: Trouble.DISK,
    sqlite3.SQLITE_PERM: Trouble.DENIED,
    sqlite3.SQLITE_READONLY: Trouble.DENIED,
    sqlite3.SQLITE_CANTOPEN: Trouble.DENIED,
    sqlite3.SQLITE_AUTH: Trouble.DENIED,
    sqlite3.SQLITE_BUSY: Trouble.BUSY,
    sqlite3.SQLITE_LOCKED: Trouble.BUSY,
}


def trouble_of(error: BaseException | None) -> Trouble:
    """The kind of trouble behind an error of `sqlite3`; `OTHER` for any other error."""
    code = getattr(error, "sqlite_errorcode", None)
    # The low byte is the primary code, the others say more of the cause.
    return _BY_CODE.get(code & 0xFF, Trouble.OTHER) if isinstance(code, int) else Trouble.OTHER


def is_damaged(path: Path) -> bool:
    """Whether SQLite finds the file damaged. Reads all of it and changes nothing."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return [row[0] for row in connection.execute("PRAGMA quick_check(1)")] != ["ok"]
    except sqlite3.Error as error:
        return trouble_of(error) is Trouble.DAMAGED
