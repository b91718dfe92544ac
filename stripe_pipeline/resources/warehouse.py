"""The warehouse: the private DuckDB file, who may open it when, and the one path that writes rows.

The file's layout belongs to `schema`, removing what is too old to `pruning`, making the file visible to analysts to
`publisher`, deciding what to read to `sync`.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import filelock

from stripe_pipeline.account import UNNAMED, other_account
from stripe_pipeline.at_work import abandoned
from stripe_pipeline.data_folder import CATALOG, DataFolder
from stripe_pipeline.days import DAY, day_start, stretches, utc_day
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.fields import load_hash_key
from stripe_pipeline.objects import CUSTOMERS, OBJECT_TYPES, Column, Kind, ObjectType, children_of
from stripe_pipeline.resources import future_times
from stripe_pipeline.resources.erasure import Erased, Erasure, load_order, redacted
from stripe_pipeline.resources.pruning import Pruned, expire, prune, young_enough
from stripe_pipeline.resources.publisher import Publisher
from stripe_pipeline.resources.recovery import (
    LINEAGE,
    Restored,
    StandIn,
    cannot_be_restored,
    is_whole,
    read_through,
    remove,
    restore,
    restored_since,
    stand_ins,
)
from stripe_pipeline.resources.relations import JUST_BEFORE, followed, named_by
from stripe_pipeline.resources.schema import (
    AT_ONCE,
    DAILY,
    NOW,
    Layout,
    applied,
    attach,
    literal,
    note,
    settings_changed,
    want_compaction,
)
from stripe_pipeline.resources.server_clock import Reading
from stripe_pipeline.rows import microseconds
from stripe_pipeline.settings import OnDelete, Settings
from stripe_pipeline.storage_errors import Cause, cause_of, reason, remedy

if TYPE_CHECKING:
    from stripe_pipeline.resources.inbox import Entry

_LOCK_TIMEOUT = 600  # seconds; loads hold the lock for seconds at most, so a longer wait is a process that hangs
_LONGEST_RUN = DAY  # seconds from reading a page to loading it
_DEFAULTS = Settings()
_NEAR = 2048  # rows that DuckDB reads together
_FEW = 500  # places to fetch rows from
_BOOKKEEPING = ("cursors", "coverage", "backfills")  # tables of `pipeline` with an account and a mode
_DELETABLE = ("customers", "invoices")  # docs/stripe.md#deletions
_NAMED = 5  # fields in a sentence
_LISTED_AHEAD = 5  # seconds; a list's bound is a little ahead of when it is asked for
_LOOKED_INTO = 30 * DAY  # seconds that a damaged file is kept
_EMPTY_FILE = 12_288  # bytes of a database without tables
_SMALL = 64  # blocks of 256 KB that are not worth compacting


@dataclass(frozen=True)
class Mode:
    """One side of one account: rows of two modes never mix."""

    account: str
    """Empty (`account.UNNAMED`) as long as nothing names it."""
    livemode: bool


@dataclass(frozen=True)
class Example:
    """An object that is stored, by its table and id, and the account of its row."""

    table: str
    id: str
    account: str


@dataclass(frozen=True)
class Identity:
    """Which warehouse this is, and in which state."""

    id: str
    """Its file's own; copies of the file have it too."""
    revision: int
    """Increases with every load."""
    followed: frozenset[bool]
    """The `livemode` of the modes that have a cursor of events."""
    restored: Restored | None = None
    """What is still to be done after the file was restored: reading again what was read since."""


@dataclass(frozen=True)
class ListedDay:
    """A UTC day of `created` that was listed completely, up to `until`."""

    day: date
    listed_at: float
    """When the earliest of its requests was sent: seconds on Stripe's clock. Whatever was requested before is older."""
    until: float
    """The list's exclusive upper bound of `created`: the day's end, or for today when it was read."""
    how: str = ""
    """Why it was listed, for `pipeline.coverage`."""
    objects: Mapping[str, int] = field(default_factory=dict)
    """How many objects of the type and of each child the list held, by table name, including those too old to keep."""


@dataclass(frozen=True)
class Tombstone:
    """An object that Stripe says is gone."""

    id: str
    found_at: float
    """When the request that found it gone was sent: seconds on Stripe's clock."""


@dataclass
class Batch:
    """What was read of one listed type and its children, to be loaded as one."""

    object_type: ObjectType
    children: tuple[ObjectType, ...]
    """Those that were read with it: one that is switched off is not."""
    mode: Mode
    files: dict[str, list[Path]] = field(default_factory=dict)
    """NDJSON files of `rows.shape`'s lines by table name: the type's own and its children's."""
    first: int = 2**62
    last: int = -1
    """The smallest and largest `created` in the files, Unix seconds."""
    days: list[ListedDay] = field(default_factory=list)
    tombstones: list[Tombstone] = field(default_factory=list)
    kept_out: frozenset[str] = frozenset()
    """Ids that the days' lists held and that are not in the files: they are not gone."""
    nothing_missing: bool = False
    """The days hold more than what was read: do not look for objects that these days' lists left out."""
    read_again: bool = False
    """The rows were asked for one by one: even where nothing changed they are now known as of this request."""
    latest: float = 2.0**40
    """Unix seconds: nothing of it was requested later than that."""

    def limit(self, latest: float) -> None:
        """Let nothing of it be taken for requested later than `latest`, Stripe's time.

        A time beyond that came from a wrong idea of Stripe's clock. A day whose list has one counts as listed at its
        beginning, so that it is listed again.
        """
        self.latest = latest
        self.days = [
            replace(
                it,
                listed_at=it.listed_at if it.listed_at <= latest else day_start(it.day),
                until=min(it.until, latest + _LISTED_AHEAD),
            )
            for it in self.days
        ]
        self.tombstones = [replace(it, found_at=min(it.found_at, latest)) for it in self.tombstones]

    @property
    def tables(self) -> tuple[ObjectType, ...]:
        """The type and its children."""
        return (self.object_type, *self.children)


@dataclass
class Changes:
    """What a load did to one table, by UTC day of `created`."""

    inserted: Counter[date] = field(default_factory=Counter)
    updated: Counter[date] = field(default_factory=Counter)
    deleted: Counter[date] = field(default_factory=Counter)
    rows: dict[date, int] = field(default_factory=dict)
    """Rows that exist in Stripe (not deleted) after the load, of both modes, of every day touched."""

    def update(self, other: Changes) -> None:
        """Add a later load's changes."""
        self.inserted.update(other.inserted)
        self.updated.update(other.updated)
        self.deleted.update(other.deleted)
        self.rows.update(other.rows)

    @property
    def days(self) -> set[date]:
        """Days in which a row was inserted, updated or deleted."""
        return {day for counter in (self.inserted, self.updated, self.deleted) for day, n in counter.items() if n}


@dataclass
class Loaded:
    """The result of one load."""

    changes: dict[str, Changes] = field(default_factory=dict)
    """By table name."""
    missing: list[tuple[Batch, dict[date, list[str]]]] = field(default_factory=list)
    """Ids by day that the table holds and a complete list of their day did not name. Those days were loaded but not
    recorded as listed: whether the objects are gone must be asked first."""
    revision: int = 0
    """The warehouse's, after it."""
    refused: dict[str, set[str]] = field(default_factory=dict)
    """Ids by table name of what was not stored because something newer is known, or nothing of it any more."""


@dataclass(frozen=True)
class Covered:
    """What `pipeline.coverage` knows of one type and day."""

    listed_at: float
    until: float
    rows: int
    """How many are kept."""
    listed: int
    """How many the list held, including those too old to keep."""


@dataclass(frozen=True)
class StoppedBackfill:
    """A backfill that was begun and has not ended; seconds on Stripe's clock."""

    began: float
    last_listed: float
    """When it listed a day for the last time; when it began if it did not."""


@dataclass(frozen=True)
class Lacking:
    """Fields that rows of some days lack, because the settings did not want them when these were read."""

    table: str
    fields: tuple[str, ...]
    """In alphabetical order."""
    first: date
    last: date

    def __str__(self) -> str:
        """For people, with what to do."""
        named = ", ".join(self.fields[:_NAMED])
        more = f" and {len(self.fields) - _NAMED} more" if len(self.fields) > _NAMED else ""
        return (
            f"{self.table}: days from {self.first} to {self.last} were read without {named}{more};"
            f" `stripe-pipeline backfill --from {self.first} --to {self.last} --only {self.table}` brings that in"
        )


class Warehouse:
    """The private file. Opened only for a load or a look, by one process at a time; safe to share between threads."""

    def __init__(
        self,
        folder: DataFolder,
        settings: Settings = _DEFAULTS,
        hash_key: bytes | None = None,
        *,
        as_it_is: bool = False,
        settings_now: Callable[[], Settings] | None = None,
    ) -> None:
        """The file is brought to `settings` when it is first opened, unless it is only to be looked at `as_it_is`: then
        one that is not there is taken for an empty one, and nothing is made.

        `hash_key` is needed where the settings hash fields. `settings_now` tells what the settings are by then: to any
        but those the file is not brought.
        """
        self.folder = folder
        self.publisher = Publisher(folder, settings.published.readable_by)
        self._settings = settings
        self._hash_key = hash_key
        self._layout = Layout(settings, hash_key, settings_now)
        self._thread_lock = threading.Lock()
        self._process_lock = filelock.FileLock(folder.lock, timeout=_LOCK_TIMEOUT, thread_local=False, mode=0o600)
        self._as_it_is = as_it_is
        self._prepared = False
        self._lineage: str | None = None
        self._duckdb: duckdb.DuckDBPyConnection | None = None
        self._session: tuple[int, duckdb.DuckDBPyConnection] | None = None
        """The thread that keeps the file open, and its connection."""
        self._unwritten = False  # whether what was loaded is in the write-ahead log alone

    def close(self) -> None:
        """Give the memory back; the warehouse may be used again."""
        with self._thread_lock:
            self._end_duckdb()

    @contextmanager
    def _open(self, what: str = "{} cannot be read") -> Iterator[duckdb.DuckDBPyConnection]:
        """The file's only connection, with the schema in place; closed, and the lock freed, on the way out.

        `what` is what a `WarehouseError` says of the file (`{}`) where DuckDB fails.
        """
        if self._session and self._session[0] == threading.get_ident():
            with self._explained(what):
                yield self._session[1]
            return
        with self._locked(), self._attached(what) as connection:
            yield connection

    @contextmanager
    def session(self) -> Iterator[None]:
        """Keep the file open between several looks and loads of this thread, each of which opens it otherwise.

        Every other process waits meanwhile: nothing may be asked of Stripe in it, and nothing published.
        """
        with self._open() as connection:
            outer, self._session = self._session, (threading.get_ident(), connection)
            try:
                yield
            finally:
                self._session = outer
            if self._unwritten and not outer:
                self._checkpoint(connection)

    @contextmanager
    def _locked(self, *, look: bool = False) -> Iterator[None]:
        """Keep all others away from the file. One that is to be looked at and is not there needs no lock."""
        look = look or self._as_it_is
        with self._thread_lock:
            if look:
                self.folder.check_access()
                if not self.folder.private.exists():
                    yield
                    return
            elif not self._prepared:
                self.folder.prepare()
            try:
                self._process_lock.acquire()
            except filelock.Timeout:
                raise WarehouseError(
                    f"Another process has been writing to {self.folder.private} for over {_LOCK_TIMEOUT} seconds",
                    "See whether a stripe-pipeline or Dagster process hangs, and end it",
                ) from None
            except OSError as error:
                raise WarehouseError(
                    f"The lock {self.folder.lock} cannot be taken ({reason(error)})", remedy(error, self.folder.lock)
                ) from error
            try:
                yield
            finally:
                self._process_lock.release()

    @contextmanager
    def _attached(self, what: str = "{} cannot be read", *, look: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """The connection to the file, brought to the settings unless it is only to be looked at.

        A damaged file is restored: at once where it cannot be opened, else for the next run, and this one fails.
        """
        look = look or self._as_it_is
        try:
            with self._explained(what):
                if look:
                    connection = self._attach_to_look()
                else:
                    connection = self._attach()
                    self._prepare(connection)
                yield connection
                connection.execute("USE memory")
                connection.execute(f"DETACH {CATALOG}")
        except BaseException as error:
            # Whatever state it is in, nothing of it is kept.
            self._end_duckdb()
            if not look and self._is_damaged(error):
                restored = restore(self.folder, _first_line(_origin(error)))
                raise WarehouseError(
                    f"{restored}. This run had begun with what the damaged file held, and was ended", "Run again"
                ) from None
            raise

    @contextmanager
    def _explained(self, what: str, then: str = "") -> Iterator[None]:
        """Turn DuckDB's errors into a `WarehouseError`: `what` failed, with the file for its `{}`, why, what is the
        state of things `then`, and what to do."""
        try:
            yield
        except (duckdb.Error, OSError) as error:
            said = f"{what.format(self.folder.private)}: {_first_line(error)}"
            raise WarehouseError(f"{said}. {then}" if then else said, self._remedy(error)) from None

    def _remedy(self, error: Exception) -> str:
        if self.folder.private.is_dir():
            return "Move this folder away, then run again"
        if cause_of(error) is Cause.IN_USE:
            return (
                "Another program has it open: close that program, then run again. To query, open"
                f" {self.folder.published} instead"
            )
        if cause_of(error) is Cause.DAMAGED:  # and only looked at
            if versions := stand_ins(self.folder):
                return _restoring(versions[0])
            return cannot_be_restored(self.folder).remedy
        return remedy(error, self.folder.private)

    def _is_damaged(self, error: BaseException) -> bool:
        """Whether it was damage to the file that led to `error`."""
        return cause_of(error) in (Cause.DAMAGED, Cause.SUSPECT) and not is_whole(self.folder.private)

    def _prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Bring the file to the settings, unless that was done."""
        if self._prepared:
            return
        consequence = "Until this works, fields that the settings leave out may still be in it"
        with self._explained("{} could not be brought to the settings", consequence):
            self._layout.ensure(connection, self.folder.private)
            self._lineage = applied(connection, LINEAGE)
            if applied(connection, "compact") in (NOW, AT_ONCE):
                self._compact(connection)
        self._prepared = True

    def _duckdb_of_ours(self) -> duckdb.DuckDBPyConnection:
        """DuckDB, with nothing attached: one for all looks and loads. To start it takes 16 ms, to attach the file 1."""
        if self._duckdb is None:
            self._duckdb = duckdb.connect(":memory:")
            self._duckdb.execute("SET TimeZone = 'UTC'")
            self._duckdb.execute("SET preserve_insertion_order = false")
            self._duckdb.execute("SET enable_progress_bar = false")  # it goes into logs
            self._duckdb.execute(f"SET temp_directory = {literal(str(self.folder.spill))}")
        return self._duckdb

    def _attach(self) -> duckdb.DuckDBPyConnection:
        """Attach the private file. One that is missing or cannot be opened any more is restored from the published
        file; where nothing was ever published it is made."""
        private = self.folder.private
        if not private.exists():
            if stand_ins(self.folder):
                restore(self.folder, "the file is missing")
            else:
                self._make()
        connection = self._duckdb_of_ours()
        try:
            attach(connection, private)
        except duckdb.Error as error:
            if not self._is_damaged(error):
                raise
            connection = self._attach_restored(_first_line(error))
        if private.stat().st_size <= _EMPTY_FILE and _is_empty(connection) and stand_ins(self.folder):
            connection = self._attach_restored("it is empty")
        connection.execute(f"USE {CATALOG}")
        return connection

    def _attach_restored(self, why: str) -> duckdb.DuckDBPyConnection:
        self._end_duckdb()
        restore(self.folder, why)
        connection = self._duckdb_of_ours()
        attach(connection, self.folder.private)
        return connection

    def _make(self) -> None:
        """Make the private file: whole, or not at all."""
        made = self.folder.private.with_name("new.duckdb")
        remove(made)
        connection = self._duckdb_of_ours()
        try:
            attach(connection, made)
            connection.execute(f"USE {CATALOG}")
            self._layout.ensure(connection, made)
            connection.execute("USE memory")
            connection.execute(f"DETACH {CATALOG}")
            made.chmod(0o600)
            made.replace(self.folder.private)
        except BaseException:
            self._end_duckdb()
            remove(made)
            raise

    def _attach_to_look(self) -> duckdb.DuckDBPyConnection:
        """Attach the private file, or an empty one in memory where there is none."""
        private, connection = self.folder.private, self._duckdb_of_ours()
        if private.exists():
            attach(connection, private)
            if not _is_empty(connection):
                connection.execute(f"USE {CATALOG}")
                return connection
            connection.execute(f"DETACH {CATALOG}")
        if versions := stand_ins(self.folder):
            raise WarehouseError(
                f"The warehouse {private} is missing or empty",
                _restoring(versions[0]),
            )
        connection.execute(f"ATTACH ':memory:' AS {CATALOG}")
        connection.execute(f"USE {CATALOG}")
        self._layout.ensure(connection, private)
        return connection

    def caught_up(self) -> None:
        """Note that what had to be done after the file was restored was done."""
        with self._open() as connection:
            restored_since(connection, forget=True)

    def _compact(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Put everything into a new file in the private one's place, so that nothing is left of what was erased."""
        if applied(connection, "compact"):
            remove(self.folder.damaged)
        if applied(connection, "compact") == NOW:
            # Of runs that were killed, or that began before the settings changed and cannot be stored any more.
            for on_its_way in self.folder.spool.rglob("*.ndjson"):
                on_its_way.unlink(missing_ok=True)
        for left_over in self.folder.spill.glob("*"):
            left_over.unlink(missing_ok=True)
        compacted = self.folder.private.with_name("compacted.duckdb")
        remove(compacted)
        try:
            self._copy_to(compacted, connection)
        except BaseException:
            self._end_duckdb()
            remove(compacted)  # or it keeps the disk full
            raise
        compacted.chmod(0o600)
        compacted.replace(self.folder.private)
        self._attach()

    def _copy_to(self, compacted: Path, connection: duckdb.DuckDBPyConnection) -> None:
        """Copy everything into a new file, and detach both."""
        attach(connection, compacted, "compacted")
        connection.execute("SET preserve_insertion_order = true")  # rows lie by day, which is how they are looked for
        connection.execute(f"COPY FROM DATABASE {CATALOG} TO compacted")
        connection.execute("SET preserve_insertion_order = false")
        connection.execute("USE compacted")
        note(connection, "compact", None)
        [(revision,)] = connection.execute(
            "UPDATE pipeline.meta SET revision = revision + 1 RETURNING revision"
        ).fetchall()
        # Versions published before hold what this one no longer does.
        note(connection, "erased", str(revision))
        connection.execute("USE memory")
        connection.execute("CHECKPOINT compacted")
        connection.execute("DETACH compacted")
        connection.execute(f"DETACH {CATALOG}")

    def _end_duckdb(self) -> None:
        if self._duckdb is not None:
            self._duckdb.close()
            self._duckdb = None

    def load(
        self,
        batches: Sequence[Batch],
        *,
        cursors: dict[tuple[Mode, str], float] | None = None,
        clock: Reading | None = None,
    ) -> Loaded:
        """Write what was read, with its coverage and cursors, in one transaction.

        A row is replaced by what was requested at the same time or later on Stripe's clock, never by anything older.
        `cursors`: seconds on Stripe's clock by mode and name. `clock`: what is known of that clock; nothing is stored
        as read later than it can be. Raises `WarehouseError`; then nothing was written.
        """
        loaded = Loaded()
        if clock:
            for batch in batches:
                batch.limit(clock.latest)
            # Where a cursor truly stands is not known then: it stays, and the same is read again.
            cursors = {which: at for which, at in (cursors or {}).items() if at <= clock.latest}
        with self._open("Loading into {} failed") as connection:
            # Lists come in beside the threads that go on reading. Two threads of DuckDB take twice the CPU of one for
            # them and end little earlier; news are found in large tables, where all of them help.
            lists = any(batch.days for batch in batches)
            connection.execute("SET threads = 1" if lists else "RESET threads")
            with self._explained("Loading into {} failed", "Nothing of this load was stored"):
                connection.execute("BEGIN")
                if applied(connection, "layout") != self._layout.fingerprint:
                    raise settings_changed()
                if applied(connection, LINEAGE) != self._lineage:
                    raise WarehouseError(
                        f"The warehouse {self.folder.private} was damaged and restored while this run was under way;"
                        " nothing of this load was stored",
                        "Run again",
                    )
                erasure = self._erasure(connection)
                if erasure:
                    batches = sorted(batches, key=lambda batch: load_order(batch.object_type))
                for batch in batches:
                    self._load_batch(connection, batch, loaded, erasure)
                    if not batch.mode.account:
                        _name_late(connection, batch.mode)
                if erasure:
                    erasure.finish()
                for (mode, name), at in (cursors or {}).items():
                    _set_cursor(connection, mode, name, at)
                if clock and clock.bounds:
                    _set_clock(connection, *clock.bounds)
                [(loaded.revision,)] = connection.execute(
                    "UPDATE pipeline.meta SET revision = revision + 1 RETURNING revision"
                ).fetchall()
                connection.execute("COMMIT")
            self._unwritten = True
            if not self._session:
                self._checkpoint(connection)
        return loaded

    def _checkpoint(self, connection: duckdb.DuckDBPyConnection) -> None:
        with self._explained("{} could not be written to the end", "What was loaded is in its write-ahead log"):
            connection.execute(f"CHECKPOINT {CATALOG}")
        self._unwritten = False

    def _erasure(self, connection: duckdb.DuckDBPyConnection, *, even_none: bool = False) -> Erasure | None:
        """What keeps out those who were erased; None where nobody was, unless `even_none`."""
        erasure = Erasure(
            connection,
            self._settings.types,
            hash_key=self._hash_key,
            own_key=lambda: load_hash_key(self.folder, environment={}),
        )
        if not even_none and not erasure.has_any():
            return None
        erasure.begin()
        return erasure

    def _load_batch(
        self, connection: duckdb.DuckDBPyConnection, batch: Batch, loaded: Loaded, erasure: Erasure | None
    ) -> None:
        parent = batch.object_type
        for object_type in batch.tables:
            loaded.changes.setdefault(object_type.name, Changes())
        loaded.refused.setdefault(parent.name, set())
        bounds = _bounds(batch)
        kept = {object_type.name: self._kept(object_type) for object_type in batch.tables}
        if batch.days:
            _stage_days(connection, batch.days)
        of_days = f"{bounds} AND {utc_day('created')} IN (FROM temp.listed SELECT day)"
        if batch.days and _nothing_known(connection, batch, of_days):
            _fill(connection, batch, of_days, loaded, kept, erasure)
        else:
            _stage(connection, parent, batch, erasure)
            if kept[parent.name] and parent.name in batch.files:
                expired = expire(connection, parent, kept[parent.name], bounds)
                if not batch.days:  # else their days' coverage refuses what was requested earlier
                    _note_gone(connection, parent, expired)
            if batch.days and not batch.nothing_missing:
                missing = _missing(connection, parent, batch, bounds, kept[parent.name] or "true")
                if missing:
                    loaded.missing.append((batch, missing))
                    connection.execute("DELETE FROM temp.listed WHERE day IN (SELECT unnest(?))", [list(missing)])
            if parent.name in batch.files:  # else many a statement would find nothing to do
                _take_in(connection, batch, bounds, loaded, kept, erasure)
        if batch.tombstones:
            _bury(connection, batch, loaded, remove=self._settings.on_delete_of(parent) is OnDelete.REMOVE)
        for object_type in batch.tables:
            table_changes = loaded.changes[object_type.name]
            touched = table_changes.days | {listed.day for listed in batch.days}
            if touched:
                counts = _row_counts(connection, object_type, touched)
                table_changes.rows.update({day: counts[day, True] + counts[day, False] for day in touched})
                if batch.days:
                    _record_coverage(connection, object_type, batch, counts)
        for table in ("listed", "incoming", "known", "accepted", "accepted_children"):
            connection.execute(f"DROP TABLE IF EXISTS temp.{table}")

    def _kept(self, object_type: ObjectType) -> str:
        """The condition for rows young enough to be kept; empty where all are."""
        cutoff = self._settings.cutoff(object_type)
        return young_enough(object_type, cutoff) if cutoff else ""

    def publish(self, *, force: bool = True, failing: Sequence[Entry] | None = None) -> bool:
        """Make what is committed visible in the published file, if it is not yet; False where it has to wait.

        `failing` is what `pipeline.inbox` is to show; without it that stays as it is. Without `force` only where it is
        due: publishing takes at most about a tenth of the time.
        """
        if not force and not self.publisher.due():
            return False
        with self._locked():
            with self._attached("{} could not be prepared for publishing") as connection:
                if failing is not None:
                    _show_failing(connection, failing)
                [(revision,)] = connection.execute("SELECT revision FROM pipeline.meta").fetchall()
                if revision in (0, self.publisher.published_revision()):
                    return True  # nothing was ever loaded, or nothing since
                erased = int(applied(connection, "erased") or 0)
                _name_version(connection, revision)
                connection.execute(f"CHECKPOINT {CATALOG}")
            # Detached, so that no write-ahead log is left beside the file: the file alone is the whole database.
            self.publisher.publish(revision, remove_before=erased)
        return True

    def identity(self) -> Identity:
        """Which warehouse this is, and in which state.

        From here on loads belong to the file as it is now: if it is restored meanwhile, `load` refuses what was read
        before.
        """
        with self._open() as connection:
            self._lineage = applied(connection, LINEAGE)
            [(name, revision, followed)] = connection.execute(
                "SELECT id, revision, (SELECT list(DISTINCT livemode) FROM pipeline.cursors WHERE name = 'events')"
                " FROM pipeline.meta"
            ).fetchall()
            return Identity(name, revision, frozenset(followed or ()), restored_since(connection))

    def failing(self) -> list[tuple[str, bool, str, str, int]]:
        """What `pipeline.inbox` shows: id of the event, `livemode`, object, id of the object, and when it was received,
        Unix seconds."""
        return self.ask("SELECT event_id, livemode, object, object_id, epoch(received_at)::BIGINT FROM pipeline.inbox")

    def cursors(self, mode: Mode) -> dict[str, float]:
        """The cursors of `mode` by name, seconds on Stripe's clock."""
        rows = self.ask(f"SELECT name, epoch_us(read_until) / 1e6 FROM pipeline.cursors WHERE {_of(mode)}")
        return {str(name): float(at) for name, at in rows}

    def clock(self) -> tuple[float, float] | None:
        """The bounds, in seconds, between which Stripe's clock was last found to be ahead of the local one."""
        found = self.ask("SELECT lowest, highest FROM pipeline.clock")
        return (float(found[0][0]), float(found[0][1])) if found else None

    def coverage(self, mode: Mode) -> dict[tuple[str, date], Covered]:
        """What is known to be listed completely, by table name and day."""
        # A file that an earlier version made has no such column until it is brought to the layout.
        listed = '"rows"' if self._as_it_is else 'coalesce(listed, "rows")'
        found = self.ask(
            'SELECT object_type, day, epoch_us(listed_at) / 1e6, epoch_us(listed_until) / 1e6, "rows",'
            f" {listed} FROM pipeline.coverage WHERE {_of(mode)}"
        )
        return {(table, day): Covered(*known) for table, day, *known in found}

    def forget_coverage(self, mode: Mode, tables: Iterable[str]) -> None:
        """Take these tables' days for not complete any more."""
        with self._open() as connection:
            for table in sorted(tables):
                of_table = f"object_type = '{table}' AND {_of(mode)}"
                first = self._settings.first_listed(self._settings.types[table])
                connection.execute(f"DELETE FROM pipeline.coverage WHERE {of_table} AND day >= DATE '{first}'")
                # Nothing else tells that older ones were ever loaded.
                connection.execute(f"UPDATE pipeline.coverage SET listed_at = {_start_of('day')} WHERE {of_table}")

    def put_times_right(self, mode: Mode, *, now: float, clock: Reading, events_since: int) -> float | None:
        """Bring times of `mode` that lie ahead of Stripe's clock back; see `future_times.put_right`.

        Where the local clock is wrong, what is known of Stripe's is stored for runs that begin meanwhile: of two runs
        with estimates of their own, the one that reads an object later could take it for older.
        """
        with self._open() as connection:
            if clock.bounds and not clock.bounds[0] <= 0.0 <= clock.bounds[1]:
                connection.execute("BEGIN")
                _set_clock(connection, *clock.bounds)
                connection.execute("COMMIT")
            return future_times.put_right(
                connection,
                mode.account,
                livemode=mode.livemode,
                now=now,
                latest=clock.latest,
                events_since=events_since,
            )

    def stopped_backfill(self, mode: Mode, request: str) -> StoppedBackfill | None:
        """The backfill that was begun and has not ended; `request` is the same for the same tables and days."""
        found = self.ask(
            "SELECT epoch_us(began) / 1e6, epoch_us(coalesce((SELECT max(listed_at) FROM pipeline.coverage"
            f" WHERE how = 'backfill' AND {_of(mode)} AND listed_at >= began), began)) / 1e6"
            f" FROM pipeline.backfills WHERE request = {literal(request)} AND {_of(mode)}"
        )
        return StoppedBackfill(*map(float, found[0])) if found else None

    def begin_backfill(self, mode: Mode, request: str, now: float) -> None:
        """Note that this backfill begins, in place of an earlier one for the same tables and days."""
        of_it = f"request = {literal(request)} AND {_of(mode)}"
        with self._open() as connection:
            connection.execute("BEGIN")
            connection.execute(f"DELETE FROM pipeline.backfills WHERE {of_it}")
            connection.execute(
                f"INSERT INTO pipeline.backfills VALUES ({literal(request)}, {literal(mode.account)}, {mode.livemode},"
                f" make_timestamptz({microseconds(now)}))"
            )
            connection.execute("COMMIT")

    def end_backfill(self, mode: Mode, request: str) -> None:
        """Note that this backfill has ended: the same one reads everything again."""
        with self._open() as connection:
            connection.execute(f"DELETE FROM pipeline.backfills WHERE request = {literal(request)} AND {_of(mode)}")

    def pending_balance_transactions(self, mode: Mode, now: float) -> list[tuple[str, int]]:
        """Ids and `created` of balance transactions that should have become available by `now`.

        No event announces it (docs/stripe.md#object-types).
        """
        columns = self._settings.types["balance_transactions"].column_names
        if "status" not in columns:
            return []
        available_on = "available_on" if "available_on" in columns else "created"
        an_hour_ago = microseconds(now - 3600)  # one that stays pending past its date is asked about once an hour
        rows = self.ask(
            "SELECT id, epoch_us(created) // 1000000 FROM raw.balance_transactions"
            f" WHERE _account = {literal(mode.account)} AND livemode = {mode.livemode}"
            f" AND status = 'pending' AND _deleted_at IS NULL"
            f" AND {available_on} <= make_timestamptz({microseconds(now)})"
            f" AND _fetched_at < make_timestamptz({an_hour_ago})"
        )
        return [(str(object_id), int(created)) for object_id, created in rows]

    def lacking_targets(
        self, mode: Mode, target: ObjectType, *, since: float, days: Mapping[str, Collection[date]]
    ) -> dict[str, int]:
        """Ids of `target`, a listed type, that rows name and its table lacks, each with `created` (Unix seconds) of the
        first row that names it.

        The rows are those requested `since` then (seconds on Stripe's clock), and those made on `days`, by table name.
        Left out: what was asked for after the row was read and is gone; and what is named by rows of days that no list
        of `target` has covered yet, which the next list brings, or whose rows are too old to be kept.
        """
        cutoff = self._settings.cutoff(target)
        fetched = f"_fetched_at >= make_timestamptz({microseconds(since)})"
        covered = f"FROM pipeline.coverage WHERE object_type = '{target.name}' AND {_of(mode)}"
        selects = []
        for object_type in self._settings.enabled:
            spans = stretches(days.get(object_type.name, ()))
            made = [f"({_between(day_start(first), day_start(last) + DAY)})" for first, last in spans]
            of_mode = f"_account = {literal(mode.account)} AND livemode = {mode.livemode}"
            rows = f"{of_mode} AND ({' OR '.join([fetched, *made])})"
            selects += [
                named_by(object_type, reference, rows)
                for reference in followed(self._settings, object_type)
                if reference.target == target.name and object_type.parent != target.name
            ]
        if not selects:
            return {}
        with self._open() as connection:
            connection.execute(
                "CREATE OR REPLACE TEMP TABLE named AS"
                " SELECT id, min(created) AS created, max(_fetched_at) AS fetched_at"
                f" FROM ({' UNION ALL '.join(selects)}) GROUP BY id"
            )
            [(first,)] = connection.execute("SELECT epoch_us(min(created)) FROM temp.named").fetchall()
            found = (
                []
                if first is None
                else connection.execute(
                    "SELECT id, epoch_us(created) // 1000000 FROM temp.named n"
                    f" ANTI JOIN (SELECT id FROM raw.{target.name}"
                    f" WHERE created >= make_timestamptz({first}) - {JUST_BEFORE}) t USING (id)"
                    f" ANTI JOIN (FROM pipeline.gone WHERE object_type = '{target.name}') g"
                    " ON g.id = n.id AND g.found_at >= n.fetched_at"
                    f" WHERE ({utc_day('created')} IN (SELECT day {covered})"
                    f" OR {utc_day('created')} > (SELECT max(day) {covered}))"
                    + (f" AND {young_enough(replace(target, date_field='created'), cutoff)}" if cutoff else "")
                ).fetchall()
            )
            connection.execute("DROP TABLE temp.named")
        return {str(object_id): int(created) for object_id, created in found}

    def account_of(self, fingerprint: str) -> str | None:
        """The account that a key with this fingerprint was found to belong to, which may be `UNNAMED`; None for a key
        that was never used here."""
        if not self.folder.private.exists():
            return None
        rows = self.ask(f"SELECT account FROM pipeline.keys WHERE fingerprint = {literal(fingerprint)}")
        return str(rows[0][0]) if rows else None

    def accounts(self) -> set[str]:
        """The accounts whose keys have written here, `UNNAMED` among them; empty where there is no warehouse yet."""
        return self.accounts_of(livemode=True) | self.accounts_of(livemode=False)

    def accounts_of(self, *, livemode: bool) -> set[str]:
        """The accounts whose keys of one mode have written here."""
        return {account for (account,) in self.ask(f"SELECT account FROM pipeline.keys WHERE livemode = {livemode}")}

    def examples(self, *, livemode: bool) -> list[Example]:
        """The newest object of each listed type that exists in Stripe, those first that cannot be deleted there."""
        newest = (
            f"(SELECT '{table}', id, _account FROM raw.{table} WHERE livemode = {livemode} AND _deleted_at IS NULL"
            " ORDER BY created DESC LIMIT 1)"
            for table in sorted(OBJECT_TYPES, key=lambda name: name in _DELETABLE)
            if OBJECT_TYPES[table].endpoint
        )
        found = [row for each in newest for row in self.ask(each)]
        return [Example(*row) for row in found]

    def modes(self) -> set[bool]:
        """The `livemode` of keys that have written here."""
        return {livemode for (livemode,) in self.ask("SELECT livemode FROM pipeline.keys")}

    def remember_key(self, fingerprint: str, mode: Mode) -> None:
        """Note whose key this is; what was stored of its mode without a name gets the account's, in one transaction.

        Raises `WarehouseError` if the warehouse belongs to another account.
        """
        with self._open() as connection:
            others = connection.execute(
                "SELECT account FROM pipeline.keys WHERE account NOT IN (?, ?)", [mode.account, UNNAMED]
            ).fetchall()
            if others and mode.account:
                raise other_account(self.folder, others[0][0], mode.account)
            connection.execute("BEGIN")
            if _proves_nothing(connection, fingerprint, mode):
                for table in _BOOKKEEPING:
                    connection.execute(f"DELETE FROM pipeline.{table} WHERE {_of(Mode(UNNAMED, mode.livemode))}")
            connection.execute(
                "INSERT INTO pipeline.keys SELECT ?, ?, ? WHERE ? NOT IN (SELECT fingerprint FROM pipeline.keys)",
                [fingerprint, mode.account, mode.livemode, fingerprint],
            )
            if mode.account:
                _name_account(connection, mode)
            connection.execute("COMMIT")

    def prune(self, *, dry_run: bool = False) -> dict[str, Pruned]:
        """Remove what is older than its retention, or with `dry_run` only count it, by table name.

        Space that becomes free is used for new rows; the file is compacted where that at least halves it, and where
        something was deleted that must not stay in it. Raises `WarehouseError`, which says what was done.
        """
        if not dry_run and _is_old(self.folder.damaged):
            remove(self.folder.damaged)
        what = "{} cannot be read" if dry_run else "Pruning {} failed"
        with self._locked(look=dry_run), self._attached(what, look=dry_run) as connection:
            if not dry_run:
                # A damaged block is found while an undamaged published version may still be there.
                read_through(connection)
            with self._explained("Pruning {} failed", "Nothing was removed"):
                if dry_run:
                    self._layout.ensure(connection, self.folder.private, commit=False)
                else:
                    connection.execute("BEGIN")
                pruned = prune(connection, self._settings)
                gone = sum(them.rows for them in pruned.values())
                if gone and not dry_run:
                    connection.execute("UPDATE pipeline.meta SET revision = revision + 1")
                    if gone >= _rows_left(connection):
                        want_compaction(connection, DAILY)  # noted with the deletion: this may not come so far
                connection.execute("ROLLBACK" if dry_run else "COMMIT")
            if not dry_run:
                self._give_back(connection)
        return pruned

    def erase(self, customers: Sequence[str], *, dry_run: bool = False) -> dict[str, Erased]:
        """Remove these customers (their ids) and what other rows copied of them from the private file and every
        published version, and keep them out from now on; what concerned each of them, by id.

        With `dry_run` it is only counted. Raises `WarehouseError`, which says what was done.
        """
        with self._open("Erasing from {} failed") as connection:
            with self._explained("Erasing from {} failed", "Nothing was erased"):
                connection.execute("BEGIN")
                erasure = self._erasure(connection, even_none=True)
                assert erasure
                found = {customer: erasure.add(customer) for customer in customers}
                if dry_run:
                    connection.execute("ROLLBACK")
                    return found
                erasure.apply()
                connection.execute("UPDATE pipeline.meta SET revision = revision + 1")
                connection.execute("COMMIT")
            with self._explained(
                "The customers were erased from the tables, but {} could not be rewritten",
                "Until it is, the files still hold what was erased",
            ):
                connection.execute(f"CHECKPOINT {CATALOG}")
                self._compact(connection)
        remove(self.folder.damaged)
        for lock in abandoned(self.folder.spool):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        self.publish()
        return found

    def keep_out_no_longer(self, customer: str) -> list[date] | None:
        """Let an erased customer (an id) come back with the next list or event. The UTC days of `created` that hold
        what was erased, in ascending order; None if this customer was not erased."""
        with self._open() as connection:
            erasure = self._erasure(connection, even_none=True)
            assert erasure
            return erasure.forget(customer)

    def unidentified_references(self) -> list[str]:
        """Columns that name customers and that the settings leave out, for example `charges.customer`: by them nobody's
        rows can be found."""
        return [
            f"{name}.{reference.column}"
            for name, object_type in OBJECT_TYPES.items()
            for reference in object_type.references
            if reference.target == CUSTOMERS.name and reference.column not in self._settings.types[name].column_names
        ]

    def _give_back(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Compact the file where that is due."""
        with self._explained("What is too old was removed, but {} could not be made smaller"):
            connection.execute(f"CHECKPOINT {CATALOG}")
            if applied(connection, "compact") or _mostly_free(connection):
                self._compact(connection)

    def covered_days(self) -> dict[str, dict[date, int]]:
        """How many rows every day that is known to be listed has, of all modes, by table name."""
        found = self.ask('SELECT object_type, day, sum("rows")::BIGINT FROM pipeline.coverage GROUP BY ALL')
        covered: dict[str, dict[date, int]] = {}
        for table, day, rows in found:
            covered.setdefault(table, {})[day] = rows
        return covered

    def lacking(self, mode: Mode) -> list[Lacking]:
        """What rows of `mode` lack because the settings did not want it when they were read, in table order; of what
        the settings keep, and so could be read again."""
        kept = " OR ".join(
            f"object_type = '{it.name}' AND day >= DATE '{self._settings.first_listed(it)}'"
            for it in self._settings.enabled
        )
        found = self.ask(
            "SELECT object_type, list(DISTINCT fields), min(day), max(day) FROM pipeline.lacking"
            f' JOIN pipeline.coverage USING (object_type) WHERE {_of(mode)} AND listed_at < since AND "rows" > 0'
            f" AND ({kept})"
            " GROUP BY object_type ORDER BY object_type"
        )
        return [Lacking(table, tuple(sorted(fields)), first, last) for table, fields, first, last in found]

    def repeated(self, object_type: ObjectType, *, most: int) -> list[str]:
        """Keys of this type that several rows have, of which there should be none, at most so many."""
        keys = ", ".join(object_type.key)
        table = f"raw.{object_type.name}"
        # Of ten million keys the hashes fit into memory.
        [(rows, distinct)] = self.ask(f"SELECT count(*), count(DISTINCT hash({keys})) FROM {table}")
        if rows == distinct:
            return []
        found = self.ask(
            f"SELECT concat_ws(' ', {keys}) FROM {table} GROUP BY {keys} HAVING count(*) > 1 ORDER BY 1 LIMIT {most}"
        )
        return [str(key) for (key,) in found]

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows that a SELECT on the private file gives."""
        with self._open() as connection:
            return connection.execute(sql).fetchall()

    def shown(self, tables: Iterable[str]) -> dict[str, tuple[int, float | None]]:
        """What these tables or views hold, by qualified name, for example `live.charges`: how many rows, and when the
        one that was read last was asked for, in seconds on Stripe's clock; None where there is none."""
        each = (f"SELECT '{it}', count(*), epoch_us(max(_fetched_at)) / 1e6 FROM {it}" for it in tables)
        return {str(table): (int(rows), at) for table, rows, at in self.ask(" UNION ALL ".join(each))}


def _take_in(
    connection: duckdb.DuckDBPyConnection,
    batch: Batch,
    bounds: str,
    loaded: Loaded,
    kept: Mapping[str, str],
    erasure: Erasure | None,
) -> None:
    """Store what was read, where nothing newer is known; of a child only what is `kept`."""
    parent = batch.object_type
    known = _known(connection, parent, "id", "SELECT id FROM temp.incoming", bounds)
    _judge(connection, parent, batch, known)
    if redacted(connection, parent, "temp.accepted", known):
        want_compaction(connection, DAILY)
    refused = connection.execute("SELECT id FROM temp.incoming ANTI JOIN temp.accepted USING (id)").fetchall()
    loaded.refused[parent.name].update(object_id for (object_id,) in refused)
    _replace(connection, parent, "accepted", bounds, loaded.changes[parent.name], even_unchanged=batch.read_again)
    for child in batch.children:
        _stage(connection, child, batch, erasure)
        if kept[child.name]:
            connection.execute(f"DELETE FROM temp.incoming WHERE NOT ({kept[child.name]})")
        assert child.parent_key is not None
        known = _known(connection, child, child.parent_key, "SELECT id FROM temp.accepted", bounds)
        _judge_children(connection, child, known)
        if redacted(connection, child, "temp.accepted_children", known):
            want_compaction(connection, DAILY)
        _replace(connection, child, "accepted_children", bounds, loaded.changes[child.name], even_unchanged=False)


def _nothing_known(connection: duckdb.DuckDBPyConnection, batch: Batch, of_days: str) -> bool:
    """Whether the batch's days are listed for the first time, and nothing was stored of what was made in them."""
    name = batch.object_type.name
    [(known,)] = connection.execute(
        f"SELECT EXISTS (FROM raw.{name} WHERE {of_days} AND livemode = {batch.mode.livemode})"
        f" OR EXISTS (FROM pipeline.gone WHERE object_type = '{name}')"
        " OR EXISTS (FROM pipeline.coverage SEMI JOIN temp.listed USING (day)"
        f" WHERE object_type = '{name}' AND {_of(batch.mode)})"
    ).fetchall()
    return not (known or batch.tombstones)


def _fill(
    connection: duckdb.DuckDBPyConnection,
    batch: Batch,
    of_days: str,
    loaded: Loaded,
    kept: Mapping[str, str],
    erasure: Erasure | None,
) -> None:
    """Store what was read of days of which nothing is known that it could be compared with; only what is `kept`."""
    parents_gone = False
    for object_type in batch.tables:
        files = batch.files.get(object_type.name)
        if not files:
            continue
        table = f"raw.{object_type.name}"
        names = ", ".join(_name(column) for column in object_type.table_columns)
        if erasure:
            # What was erased must not reach the file, not even for the length of a transaction.
            _stage(connection, object_type, batch, erasure)
        lines = f"SELECT {names} FROM temp.incoming" if erasure else _lines_of(object_type, files, batch.latest)
        connection.execute(f"INSERT INTO {table} ({names}) {lines}")
        of_mode = f"{of_days} AND livemode = {batch.mode.livemode}"
        _keep_latest(connection, object_type, table, of_mode)
        if kept[object_type.name]:
            # Behind it: of two versions the earlier one may be young enough and wrong.
            removed = connection.execute(f"DELETE FROM {table} WHERE {of_mode} AND NOT ({kept[object_type.name]})")
            [(too_old,)] = removed.fetchall()
            parents_gone |= bool(too_old) and object_type is batch.object_type
        if parents_gone and object_type.parent_key:
            connection.execute(
                f"DELETE FROM {table} WHERE {of_mode} AND {object_type.parent_key} NOT IN"
                f" (SELECT id FROM raw.{batch.object_type.name} WHERE {of_mode})"
            )
        counted = connection.execute(
            f"SELECT {utc_day('created')}, count(*) FROM {table} WHERE {of_mode} GROUP BY ALL"
        ).fetchall()
        loaded.changes[object_type.name].inserted.update(dict(counted))


def _keep_latest(connection: duckdb.DuckDBPyConnection, object_type: ObjectType, table: str, where: str) -> None:
    """Leave one row a key of those rows: the one requested last."""
    keys = ", ".join(object_type.key)
    those = f"FROM {table} WHERE {where}"
    [(rows, distinct)] = connection.execute(f"SELECT count(*), count(DISTINCT ({keys})) {those}").fetchall()
    if rows > distinct:
        connection.execute(
            f"DELETE FROM {table} WHERE rowid IN (SELECT rowid {those}"
            f" QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY _fetched_at DESC) > 1)"
        )


def _known(connection: duckdb.DuckDBPyConnection, object_type: ObjectType, column: str, ids: str, bounds: str) -> str:
    """What to join to find the stored rows whose `column` is among `ids`, a SELECT.

    A few are looked for by that column alone and fetched by their places: DuckDB reads all columns of whatever a
    condition on them does not rule out by ranges, which takes as long as the table is large.
    """
    found = f"FROM raw.{object_type.name} WHERE {bounds} AND {column} IN ({ids})"
    places: list[tuple[int, int]] = []
    for (row,) in connection.execute(f"SELECT rowid {found} ORDER BY rowid").fetchall():
        if places and row - places[-1][1] < _NEAR:
            places[-1] = (places[-1][0], row)
        else:
            places.append((row, row))
    if len(places) > _FEW:
        return f"(SELECT * {found})"
    rows = " UNION ALL ".join(
        f"SELECT * FROM raw.{object_type.name} WHERE rowid BETWEEN {first} AND {last}"
        + (f" AND {column} IN ({ids})" if first < last else "")
        for first, last in places
    )
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE known AS {rows or f'SELECT * FROM raw.{object_type.name} LIMIT 0'}"
    )
    return "temp.known"


def _bounds(batch: Batch) -> str:
    """The condition that keeps every statement within the touched days, however large the table is."""
    starts = [day_start(listed.day) for listed in batch.days]
    first = min([batch.first, *starts])
    last = max([batch.last + 1, *(start + DAY for start in starts)])
    if first >= last:
        return "false"  # nothing but tombstones
    return _between(first, last)


def _between(first: int, end: int) -> str:
    """The condition for rows made from `first` until before `end`, Unix seconds."""
    return f"created >= make_timestamptz({first * 1_000_000}) AND created < make_timestamptz({end * 1_000_000})"


def _start_of(day: str) -> str:
    """SQL of the first moment of a UTC day, a DATE."""
    return f"make_timestamptz(epoch_us({day}::TIMESTAMP))"


def _stage_days(connection: duckdb.DuckDBPyConnection, days: Sequence[ListedDay]) -> None:
    """Put the completely listed days into `temp.listed`."""
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE listed (day DATE, listed_at TIMESTAMPTZ, until TIMESTAMPTZ, how VARCHAR)"
    )
    values = ", ".join(
        f"('{listed.day}', make_timestamptz({microseconds(listed.listed_at)}),"
        f" make_timestamptz({microseconds(listed.until)}), '{listed.how}')"
        for listed in days
    )
    connection.execute(f"INSERT INTO temp.listed VALUES {values}")


def _stage(
    connection: duckdb.DuckDBPyConnection, object_type: ObjectType, batch: Batch, erasure: Erasure | None
) -> None:
    """Read the NDJSON files into `temp.incoming`, one row a key: the one requested last; without what was erased."""
    columns = object_type.table_columns
    connection.execute("DROP TABLE IF EXISTS temp.incoming")
    files = batch.files.get(object_type.name, [])
    if not files:
        body = ", ".join(f"{_name(column)} {column.kind.sql_type}" for column in columns)
        connection.execute(f"CREATE TEMP TABLE incoming ({body})")
        return
    connection.execute(f"CREATE TEMP TABLE incoming AS {_lines_of(object_type, files, batch.latest)}")
    _keep_latest(connection, object_type, "temp.incoming", "true")
    if erasure:
        erasure.strip_incoming(object_type)


def _lines_of(object_type: ObjectType, files: Sequence[Path], latest: float) -> str:
    """A SELECT of the table's columns from NDJSON files; nothing was requested after `latest`, Unix seconds."""
    columns = object_type.table_columns
    spec = ", ".join(
        f"'{column.name}': '{'BIGINT' if column.kind is Kind.TIMESTAMP else column.kind.sql_type}'"
        for column in columns
    )
    return (
        f"SELECT {', '.join(_read(column, latest) for column in columns)}"
        f" FROM read_json([{', '.join(literal(str(file)) for file in files)}],"
        f" format = 'newline_delimited', columns = {{{spec}}})"
    )


def _read(column: Column, latest: float) -> str:
    name = _name(column)
    if column.kind is not Kind.TIMESTAMP:
        return name
    if column.name == "_fetched_at":
        return f"make_timestamptz(least({name}, {microseconds(latest)})) AS {name}"
    return f"make_timestamptz({name} * 1000000) AS {name}"


def _judge(connection: duckdb.DuckDBPyConnection, object_type: ObjectType, batch: Batch, known: str) -> None:
    """Put into `temp.accepted` the ids of what is not older than what is known, with what it changes."""
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE accepted AS"
        f" SELECT i.id, i.created, {_verdict(object_type)} AS _change"
        f" FROM temp.incoming i LEFT JOIN {known} c ON {_same_key(object_type, 'i', 'c')}"
        f" LEFT JOIN (FROM pipeline.coverage WHERE object_type = '{object_type.name}' AND {_of(batch.mode)}) v"
        f" ON v.day = {utc_day('i.created')}"
        f" WHERE (c._fetched_at IS NULL OR i._fetched_at >= c._fetched_at)"
        # A list knows nothing of what was made after its bound, however late it was requested.
        f" AND (v.listed_at IS NULL OR i._fetched_at >= v.listed_at OR i.created >= v.listed_until)"
        f" AND NOT EXISTS (SELECT 1 FROM pipeline.gone g WHERE g.object_type = '{object_type.name}' AND g.id = i.id"
        f" AND g.found_at > i._fetched_at)"
    )


def _judge_children(connection: duckdb.DuckDBPyConnection, child: ObjectType, known: str) -> None:
    """Put into `temp.accepted_children` the keys of the children of accepted parents, and of those they no longer
    have."""
    of_accepted = f"{child.parent_key} IN (SELECT id FROM temp.accepted)"
    keys = ", ".join(child.key)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE accepted_children AS"
        f" WITH c AS (SELECT * FROM {known} WHERE {of_accepted}),"
        f" i AS (SELECT * FROM temp.incoming WHERE {of_accepted})"
        f" SELECT {_named('i', child.key)}, i.created, {_verdict(child)} AS _change"
        f" FROM i LEFT JOIN c ON {_same_key(child, 'i', 'c')}"
        f" UNION ALL BY NAME"
        f" SELECT {keys}, created, 'deleted' AS _change FROM c ANTI JOIN i ON {_same_key(child, 'i', 'c')}"
    )


def _verdict(object_type: ObjectType) -> str:
    compared = [column for column in object_type.table_columns if column.name != "_fetched_at"]
    # The tombstone is never in what was read, so a row that is back counts as updated.
    same = " AND ".join(f"i.{_name(column)} IS NOT DISTINCT FROM c.{_name(column)}" for column in compared)
    key = object_type.key[0]
    return f"CASE WHEN c.{key} IS NULL THEN 'inserted' WHEN {same} THEN 'unchanged' ELSE 'updated' END"


def _same_key(object_type: ObjectType, left: str, right: str) -> str:
    return " AND ".join(f"{left}.{key} = {right}.{key}" for key in object_type.key)


def _replace(
    connection: duckdb.DuckDBPyConnection,
    object_type: ObjectType,
    table: str,
    bounds: str,
    changes: Changes,
    *,
    even_unchanged: bool,
) -> None:
    """Write the incoming rows whose keys are in `temp.{table}`, and count what that changes."""
    counted = connection.execute(
        f"SELECT _change, {utc_day('created')}, count(*) FROM temp.{table} GROUP BY ALL"
    ).fetchall()
    totals = Counter[str]()
    for change, day, number in counted:
        totals[change] += number
        if change != "unchanged":
            getattr(changes, change)[day] += number
    written = "true" if even_unchanged else "_change <> 'unchanged'"
    if totals.total() > totals["inserted"]:
        connection.execute(
            f"DELETE FROM raw.{object_type.name} AS old USING temp.{table} AS new"
            f" WHERE {_same_key(object_type, 'old', 'new')} AND {written} AND _change <> 'inserted'"
            f" AND {bounds.replace('created', 'old.created')}"
        )
    names = ", ".join(_name(column) for column in object_type.table_columns)
    of_these = f"SELECT {', '.join(object_type.key)} FROM temp.{table} WHERE {written} AND _change <> 'deleted'"
    connection.execute(
        f"INSERT INTO raw.{object_type.name} ({names}) SELECT {names} FROM temp.incoming"
        f" SEMI JOIN ({of_these}) USING ({', '.join(object_type.key)})"
    )


def _missing(
    connection: duckdb.DuckDBPyConnection, object_type: ObjectType, batch: Batch, bounds: str, kept: str
) -> dict[date, list[str]]:
    """Ids that the table holds for a completely listed day and the list did not name, of those that are `kept`."""
    kept_out = ", ".join(literal(object_id) for object_id in sorted(batch.kept_out))
    there = f" AND o.id NOT IN ({kept_out})" if kept_out else ""
    rows = connection.execute(
        f"SELECT l.day, list(o.id) FROM (SELECT * FROM raw.{object_type.name} WHERE {kept}) o"
        f" JOIN temp.listed l ON {utc_day('o.created')} = l.day"
        f" ANTI JOIN temp.incoming i ON o.id = i.id"
        f" WHERE {bounds.replace('created', 'o.created')}"
        f" AND o._account = {literal(batch.mode.account)} AND o.livemode = {batch.mode.livemode}"
        f" AND o._deleted_at IS NULL AND o.created < l.until AND o._fetched_at < l.listed_at{there} GROUP BY l.day"
    ).fetchall()
    return dict(rows)


def _bury(connection: duckdb.DuckDBPyConnection, batch: Batch, loaded: Loaded, *, remove: bool) -> None:
    """Mark what Stripe says is gone, with its children, also those switched off, or `remove` it.

    What is only marked keeps its last columns.
    """
    for object_type in (batch.object_type, *children_of(batch.object_type)):
        key = object_type.parent_key or "id"
        for tombstone in batch.tombstones:
            at = microseconds(tombstone.found_at)
            what = (
                f"DELETE FROM raw.{object_type.name}"
                if remove
                else f"UPDATE raw.{object_type.name} SET _deleted_at = make_timestamptz({at}),"
                f" _fetched_at = make_timestamptz({at})"
            )
            buried = connection.execute(
                f"{what} WHERE {key} = ? AND _deleted_at IS NULL AND _fetched_at <= make_timestamptz({at})"
                f" RETURNING {utc_day('created')}",
                [tombstone.id],
            ).fetchall()
            loaded.changes.setdefault(object_type.name, Changes()).deleted.update(day for (day,) in buried)
            if remove and buried:
                want_compaction(connection, DAILY)
    _note_gone(connection, batch.object_type, [(it.id, microseconds(it.found_at)) for it in batch.tombstones])
    alive = connection.execute(
        f"SELECT id FROM raw.{batch.object_type.name} WHERE id IN (SELECT unnest(?)) AND _deleted_at IS NULL",
        [[tombstone.id for tombstone in batch.tombstones]],
    ).fetchall()
    loaded.refused[batch.object_type.name].update(object_id for (object_id,) in alive)


def _note_gone(connection: duckdb.DuckDBPyConnection, object_type: ObjectType, gone: Iterable[tuple[str, int]]) -> None:
    """Remember what is not kept any more and has no row that tells, for as long as a run may take.

    `gone`: ids, and when they were asked for, in microseconds on Stripe's clock.
    """
    for object_id, at in gone:
        connection.execute(
            f"INSERT INTO pipeline.gone SELECT '{object_type.name}', {literal(object_id)}, make_timestamptz({at})"
            f" WHERE NOT EXISTS (SELECT 1 FROM raw.{object_type.name} WHERE id = {literal(object_id)})"
        )
        connection.execute(
            f"DELETE FROM pipeline.gone WHERE found_at < make_timestamptz({at - _LONGEST_RUN * 1_000_000})"
        )


def _row_counts(
    connection: duckdb.DuckDBPyConnection, object_type: ObjectType, days: set[date]
) -> Counter[tuple[date, bool]]:
    """How many rows that exist in Stripe the table holds, by day and livemode."""
    counts = Counter[tuple[date, bool]]()
    for first, last in stretches(days):
        counted = connection.execute(
            f"SELECT {utc_day('created')}, livemode, count(*) FROM raw.{object_type.name} WHERE _deleted_at IS NULL"
            f" AND {_between(day_start(first), day_start(last) + DAY)} GROUP BY ALL"
        ).fetchall()
        counts.update({(day, livemode): number for day, livemode, number in counted})
    return counts


def _record_coverage(
    connection: duckdb.DuckDBPyConnection, object_type: ObjectType, batch: Batch, counts: Counter[tuple[date, bool]]
) -> None:
    where = f"object_type = '{object_type.name}' AND {_of(batch.mode)}"
    # Another run may have listed a day later and stored it sooner.
    connection.execute(
        "DELETE FROM temp.listed AS l USING pipeline.coverage AS c"
        f" WHERE c.day = l.day AND c.listed_at > l.listed_at AND {where}"
    )
    connection.execute(f"DELETE FROM pipeline.coverage USING temp.listed AS l WHERE coverage.day = l.day AND {where}")
    name = object_type.name
    rows = ", ".join(
        f"(DATE '{it.day}', {counts[it.day, batch.mode.livemode]}, {it.objects.get(name, 0)})" for it in batch.days
    )
    connection.execute(
        f"INSERT INTO pipeline.coverage SELECT '{object_type.name}', {literal(batch.mode.account)},"
        f" {batch.mode.livemode}, l.day, l.listed_at, l.until, r.number, l.how, greatest(r.objects, r.number)"
        f" FROM temp.listed l JOIN (VALUES {rows}) r(day, number, objects) ON r.day = l.day"
    )


def _mostly_free(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether half of the file's blocks are free, and enough to be worth it."""
    [(total, free)] = connection.execute(
        "SELECT total_blocks, free_blocks FROM pragma_database_size() WHERE database_name = ?", [CATALOG]
    ).fetchall()
    return bool(total > _SMALL and 2 * free >= total)


def _rows_left(connection: duckdb.DuckDBPyConnection) -> int:
    counts = " UNION ALL ".join(f"SELECT count(*) AS number FROM raw.{table}" for table in OBJECT_TYPES)
    [(left,)] = connection.execute(f"SELECT sum(number) FROM ({counts})").fetchall()
    return int(left)


def _name_version(connection: duckdb.DuckDBPyConnection, revision: int) -> None:
    """Let the copy that is about to be published tell which version it is. This alone is no reason to publish."""
    connection.execute("BEGIN")
    connection.execute("DELETE FROM pipeline.published")
    connection.execute(
        f"INSERT INTO pipeline.published SELECT {revision}, now(), max(read_until) FILTER (livemode),"
        " max(read_until) FILTER (NOT livemode) FROM pipeline.cursors WHERE name = 'events'"
    )
    connection.execute("COMMIT")


def _show_failing(connection: duckdb.DuckDBPyConnection, failing: Sequence[Entry]) -> None:
    """Renew `pipeline.inbox` where it differs."""
    columns = "event_id, livemode, object, object_id, epoch_us(received_at), attempts, state, error"
    rows = [
        (
            entry.poke.event_id,
            entry.poke.livemode,
            entry.poke.object,
            entry.poke.object_id,
            microseconds(entry.received_at),
            entry.attempts,
            str(entry.state),
            entry.error,
        )
        for entry in failing
    ]
    if connection.execute(f"SELECT {columns} FROM pipeline.inbox ORDER BY received_at, event_id").fetchall() == rows:
        return
    connection.execute("BEGIN")
    connection.execute("DELETE FROM pipeline.inbox")
    if rows:
        connection.execute(
            "INSERT INTO pipeline.inbox SELECT r[1], r[2]::BOOLEAN, r[3], r[4], make_timestamptz(r[5]::BIGINT),"
            " r[6]::INTEGER, r[7], r[8] FROM (SELECT unnest(?::VARCHAR[][]) AS r)",
            [[[None if value is None else str(value) for value in row] for row in rows]],
        )
    connection.execute("UPDATE pipeline.meta SET revision = revision + 1")
    connection.execute("COMMIT")


def _of(mode: Mode) -> str:
    """The condition for what the bookkeeping holds of `mode`."""
    return f"account = {literal(mode.account)} AND livemode = {mode.livemode}"


def _proves_nothing(connection: duckdb.DuckDBPyConnection, fingerprint: str, mode: Mode) -> bool:
    """Whether the key is new and no row of its mode is stored that it could be asked for: what was listed without
    naming the account may have been another one's, which was empty."""
    known = connection.execute("SELECT 1 FROM pipeline.keys WHERE fingerprint = ?", [fingerprint]).fetchall()
    rows = " OR ".join(f"EXISTS (FROM raw.{table} WHERE livemode = {mode.livemode})" for table in OBJECT_TYPES)
    [(stored,)] = connection.execute(f"SELECT {rows}").fetchall()
    return not known and not stored


def _name_account(connection: duckdb.DuckDBPyConnection, mode: Mode) -> None:
    """Give the account's name to everything that was stored of `mode` without one."""
    unnamed = f"{{}} = '{UNNAMED}' AND livemode = {mode.livemode}"
    for table in _BOOKKEEPING:
        # Where the account has been read under its name, too, that is complete by itself.
        connection.execute(
            f"DELETE FROM pipeline.{table} WHERE {unnamed.format('account')}"
            f" AND EXISTS (FROM pipeline.{table} WHERE {_of(mode)})"
        )
    renamed = 0
    for table, column in (
        *((f"pipeline.{it}", "account") for it in ("keys", *_BOOKKEEPING)),
        *((f"raw.{it}", "_account") for it in OBJECT_TYPES),
    ):
        [(rows,)] = connection.execute(
            f"UPDATE {table} SET {column} = {literal(mode.account)} WHERE {unnamed.format(column)}"
        ).fetchall()
        renamed += rows
    if renamed:
        connection.execute("UPDATE pipeline.meta SET revision = revision + 1")


def _name_late(connection: duckdb.DuckDBPyConnection, mode: Mode) -> None:
    """Name what a run has just stored without a name, if another run has learned the name meanwhile."""
    accounts = connection.execute(f"SELECT account FROM pipeline.keys WHERE livemode = {mode.livemode}").fetchall()
    names = {account for (account,) in accounts}
    if names and UNNAMED not in names:
        _name_account(connection, Mode(min(names), mode.livemode))


def _set_cursor(connection: duckdb.DuckDBPyConnection, mode: Mode, name: str, at: float) -> None:
    """Move a cursor forward; a run that ends late never moves it back."""
    where = f"{_of(mode)} AND name = {literal(name)}"
    found = connection.execute(f"SELECT epoch_us(read_until) FROM pipeline.cursors WHERE {where}").fetchall()
    if found and found[0][0] >= microseconds(at):
        return
    connection.execute(f"DELETE FROM pipeline.cursors WHERE {where}")
    connection.execute(
        f"INSERT INTO pipeline.cursors VALUES ({literal(mode.account)}, {mode.livemode}, {literal(name)},"
        f" make_timestamptz({microseconds(at)}))"
    )


def _set_clock(connection: duckdb.DuckDBPyConnection, lowest: float, highest: float) -> None:
    """Narrow the bounds of the clock's offset, or replace them where these contradict them: a clock was set."""
    for known_lowest, known_highest in connection.execute("SELECT lowest, highest FROM pipeline.clock").fetchall():
        if max(lowest, known_lowest) <= min(highest, known_highest):
            lowest, highest = max(lowest, known_lowest), min(highest, known_highest)
    connection.execute("DELETE FROM pipeline.clock")
    connection.execute(f"INSERT INTO pipeline.clock VALUES ({lowest!r}, {highest!r})")


def _named(table: str, columns: Iterable[str]) -> str:
    return ", ".join(f"{table}.{column}" for column in columns)


def _name(column: Column) -> str:
    return f'"{column.name}"'


_ABOUT_VALUES = (duckdb.DataError, duckdb.IntegrityError, duckdb.InvalidInputException)
_PLACE = re.compile(r'[\w ]*JSON[\w ]* in file "[^"]*",(?: at byte \d+)? in line \d+')
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


def _first_line(error: BaseException) -> str:
    """What DuckDB or the system says, without values of rows, which may be people's data: errors about values quote
    them."""
    if not isinstance(error, duckdb.Error):
        return reason(error)
    lines = [line.strip() for line in str(error).splitlines()]
    # Of a checkpoint that fails while the file is detached the second line says why.
    said = " ".join(lines[: 2 if isinstance(error, duckdb.IOException) else 1]) or type(error).__name__
    kind, _, details = said.partition(": ")
    if isinstance(error, _ABOUT_VALUES):
        place = _PLACE.match(details)
        return f"{kind}: {place[0] if place else 'about a value, which is not shown here'}"
    if isinstance(error, (duckdb.FatalException, duckdb.InternalException)):  # may quote any other error
        return f"{kind}: {_QUOTED.sub('…', details)}"
    return said


def _restoring(stand_in: StandIn) -> str:
    return (
        f"The next run, such as `stripe-pipeline sync`, restores it from its state of {stand_in}; `stripe-pipeline"
        " clean` removes it, to begin anew"
    )


def _is_empty(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether the attached file has no table."""
    [(tables,)] = connection.execute(
        f"SELECT count(*) FROM duckdb_tables() WHERE database_name = '{CATALOG}'"
    ).fetchall()
    return not tables


def _origin(error: BaseException) -> BaseException:
    """The first of the errors that led to this one."""
    before = error.__cause__ or error.__context__
    return error if before is None else _origin(before)


def _is_old(path: Path) -> bool:
    """Whether the file is there and has been for longer than anyone will still look into it."""
    return path.exists() and time.time() - path.stat().st_mtime > _LOOKED_INTO
