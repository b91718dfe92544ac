"""The causes of file errors of the operating system and DuckDB, and their remedies.

DuckDB raises one class for a full disk, a damaged file and a file that another process has open; only its messages
distinguish them. `sqlite_files` distinguishes SQLite's errors by their codes.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
import shlex
from collections.abc import Mapping
from enum import Enum, auto
from pathlib import Path


class Cause(Enum):
    """Why a file could not be read or written."""

    FULL = auto()
    """No space is left on the disk, or in the user's quota."""
    DAMAGED = auto()
    """The file's content is not the content that was written."""
    SUSPECT = auto()
    """An internal error of DuckDB, which a damaged file or a bug may have caused."""
    TOO_LARGE = auto()
    """The file may not grow any further: a limit of the user's, or of the file system's."""
    IN_USE = auto()
    """Another process has the file open, or keeps it locked."""
    DENIED = auto()
    """The file's mode or owner, or a read-only file system, forbids it."""
    IO = auto()
    """The system could not read or write the file for an unknown reason. Only SQLite reports this."""
    MEMORY = auto()
    """The memory limit was reached."""
    OTHER = auto()


_BY_NUMBER = {
    errno.ENOSPC: Cause.FULL,
    getattr(errno, "EDQUOT", errno.ENOSPC): Cause.FULL,
    errno.EFBIG: Cause.TOO_LARGE,
    errno.EACCES: Cause.DENIED,
    errno.EPERM: Cause.DENIED,
    errno.EROFS: Cause.DENIED,
}
# In this order: a checkpoint that fails for lack of space is reported as a fatal internal error as well.
_BY_TEXT = (
    (
        Cause.FULL,
        r"no space left|disk quota exceeded|max_temp_directory_size",
    ),
    (Cause.TOO_LARGE, r"file too large"),
    (Cause.IN_USE, r"could not set lock|conflicting lock"),
    (Cause.DENIED, r"permission denied|read-only file system|operation not permitted"),
    (
        Cause.DAMAGED,
        r"not a valid duckdb database file|corrupt (database|wal) file|could not read enough bytes"
        r"|failure while replaying wal|this wal was created for",
    ),
    (Cause.MEMORY, r"out of memory"),
    (Cause.SUSPECT, r"^(internal|fatal|serialization) error|database has been invalidated"),
)
_WITH_CAUSE = re.compile(r"^\w+ Error: (?=\S)")


def cause_of(error: BaseException) -> Cause:
    """Why the file that `error` is about could not be used.

    `error`: an `OSError`, an error of DuckDB, or one that was raised while one of these was handled.
    """
    seen: BaseException | None = error
    while seen is not None:
        number = seen.errno if isinstance(seen, OSError) else None
        if number in _BY_NUMBER:
            return _BY_NUMBER[number]
        for cause, pattern in _BY_TEXT:
            if re.search(pattern, str(seen), re.IGNORECASE):
                return cause
        seen = seen.__cause__ or seen.__context__
    return Cause.OTHER


def reason(error: BaseException) -> str:
    """The first line of the message, without DuckDB's name for the kind of error."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return _WITH_CAUSE.sub("", lines[0]) if lines else type(error).__name__


def remedy(error: BaseException, path: Path) -> str:
    """The remedy for `error` at `path`: an imperative sentence without its full stop."""
    match cause_of(error):
        case Cause.FULL:
            return f"Free disk space on the file system that holds {path}, then run again"
        case Cause.TOO_LARGE:
            return f"Raise the limit on the size of files (`ulimit -f`), or keep {path} on another file system"
        case Cause.IN_USE:
            return "Another process has the file open: end it, then run again"
        case Cause.DENIED:
            return access_remedy(_named(error) or path)
        case Cause.MEMORY:
            return "Give the process more memory, then run again"
        case _:
            return "Run again; if it fails again, please report it with this message"


def data_root(environment: Mapping[str, str] = os.environ, *, default: str = "data") -> Path:
    """The data folder: the one that `STRIPE_PIPELINE_DATA` names, else `default` in the working directory."""
    return Path(environment.get("STRIPE_PIPELINE_DATA") or default).expanduser().absolute()


def access_remedy(path: Path) -> str:
    """The remedy if this user may not use `path`."""
    owner, me = _owner(path), _me()
    if owner is None or owner == me:
        return f"Give {me} read and write access to {path}, then run again"
    return f"It belongs to {owner}, and this process runs as {me}. Run it as {owner}, or {_handing_over(path, me)}"


def _handing_over(path: Path, me: str) -> str:
    """How to make this user the owner of `path`, or of the whole data folder if `path` is in it."""
    account = me.removeprefix("user ")
    folder = data_root()
    if path.is_relative_to(folder):
        command = f"chown -R {account}" if _exists(folder) else f"install -d -m 700 -o {account}"
        return (
            f"give the data folder to {me} (`sudo {command} {shlex.quote(str(folder))}`), or name a folder of your own"
            " in STRIPE_PIPELINE_DATA"
        )
    if _exists(path):
        return f"give it to {me} (`sudo chown -R {account} {shlex.quote(str(path))}`)"
    return f"let {me} write to {path.parent}"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # `path` is in a folder that this user may not search
        return False


def _named(error: BaseException) -> Path | None:
    name = error.filename if isinstance(error, OSError) else None
    return Path(os.fsdecode(name)) if isinstance(name, (str, bytes)) else None


def _owner(path: Path) -> str | None:
    """The owner of `path`, or of the nearest parent folder that this user can see."""
    for place in (path, *path.parents):
        try:
            return place.owner()
        except KeyError:  # a user without a name, as in containers
            return f"user {place.stat().st_uid}"
        except OSError:
            continue
    return None


def _me() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"
