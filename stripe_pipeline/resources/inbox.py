"""The inbox: pokes that say which object to read again, kept until it was.

Every source of news puts its pokes here; payloads are never kept. Which requests a poke costs belongs to `sync`,
receiving webhooks to `webhooks.receiver`, whose process loads nothing heavier than this module.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import filelock
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import BadObject, SettingsError, WarehouseError, scrub, shown
from stripe_pipeline.objects import BY_STRIPE_OBJECT
from stripe_pipeline.rows import is_id
from stripe_pipeline.sqlite_files import sqlite_cause_of
from stripe_pipeline.storage_errors import Cause

if TYPE_CHECKING:  # its module loads DuckDB, which the receiver's process does without
    from stripe_pipeline.resources.warehouse import Identity, Mode

MAX_ATTEMPTS = 5
"""So often what a poke names is read again in vain before the poke is dead."""
FIRST_PAUSE = 10
"""Seconds after the first failed attempt; four times as long after each further one."""
DEFERRED = 60
"""Seconds to the next attempt where Stripe or a missing permission is the trouble: those do not count."""
LONGEST_PAUSE = FIRST_PAUSE << 2 * (MAX_ATTEMPTS - 2)
"""Seconds. A next attempt that is further ahead was set by a clock that has been set back since: it is due."""

_POSTGRES_TIMES = {"connect_timeout": 10, "keepalives_idle": 30, "tcp_user_timeout": 30_000}  # the last in ms
_CHUNK = 500  # ids a statement, well below SQLite's limit of variables
_PROBE = " " * 28  # as long as an event's id, which has no spaces
_PAUSE = 0.01  # seconds before SQLite is asked again for what it does not wait for
_LONGEST_ERROR = 1000  # characters
_SHOWN = 80  # characters of an invalid id in a message
_LARGEST = 2**53  # of a number in JSON
_POSTGRES_DISK_FULL = "53100"  # of SQLSTATE
_POSTGRES_LOCK = 0x57121BE  # any number that nothing else in the database locks while it changes its tables


class State(StrEnum):
    """Where a poke stands that was not applied; derived from what is stored of it."""

    WAITING = "waiting"
    DEAD = "dead"


@dataclass(frozen=True)
class Poke:
    """News that an object was made, changed or deleted; not what it now looks like."""

    event_id: str
    account: str | None
    """The Stripe account; None where the event did not tell, as webhooks of an account itself do not."""
    livemode: bool
    object: str
    """Stripe's `data.object.object`, for example `charge`."""
    object_id: str
    object_created: int | None
    """Unix seconds, where the event told."""
    event_created: int


@dataclass(frozen=True)
class Entry:
    """A poke, and how it fared in the inbox."""

    poke: Poke
    received_at: float
    """Unix seconds, by the local clock."""
    attempts: int
    """How often what it names was read again in vain."""
    error: str | None
    """Why, the last time."""
    not_before: float
    """Unix seconds before which it is not tried again."""
    state: State


@dataclass(frozen=True)
class Summary:
    """How much the inbox holds that was not applied."""

    waiting: int
    dead: int
    oldest_waiting: float | None
    """When the one was received that waits longest: Unix seconds."""


@dataclass(frozen=True)
class Claim:
    """That the inbox belongs to a warehouse."""

    warehouse: Identity
    reopened: int | None = None
    """How many applied pokes wait again because the warehouse lacks, or may lack, what was read for them; None unless
    the inbox belonged to another warehouse, or to a later state of this one."""


def poke_of(event: object, mode: Mode | None = None) -> Poke | None:
    """What an event tells to read again; `mode` where it is known whose events these are.

    None for what tells nothing of a table: other objects, the invoice without an id of `invoice.upcoming`, thin events
    (`v2.core.event`), events of connected accounts, and values that are not events. Raises `BadObject` if the event
    names an object of one of the tables by an id that is not valid.
    """
    if not isinstance(event, dict) or event.get("object", "event") != "event":
        return None
    data = event.get("data")
    obj = data.get("object") if isinstance(data, dict) else None
    livemode = mode.livemode if mode else event.get("livemode")
    event_id, event_created = event.get("id"), _seconds(event.get("created"))
    if not isinstance(obj, dict) or not isinstance(livemode, bool) or event_created is None:
        return None
    # Only events of connected accounts name the account (docs/stripe.md#webhooks).
    if event.get("account") is not None and (mode is None or event["account"] != mode.account):
        return None
    name, object_id = obj.get("object"), obj.get("id")
    if not isinstance(name, str) or name not in BY_STRIPE_OBJECT or not is_id(event_id):
        return None
    if not is_id(object_id):
        if object_id is None and event.get("type") == "invoice.upcoming":
            return None
        said = repr(object_id[:_SHOWN]) if isinstance(object_id, str) else shown(object_id)
        raise BadObject(
            f"The event {event_id} names a {name} whose id is not one: {said}",
            "Report this with the event; a backfill of the day that the object was created on reads it",
        )
    return Poke(
        event_id=str(event_id),
        account=mode.account if mode else None,
        livemode=livemode,
        object=name,
        object_id=str(object_id),
        object_created=_seconds(obj.get("created")),
        event_created=event_created,
    )


def _seconds(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < _LARGEST else None


_METADATA = sa.MetaData()
_POKES = sa.Table(
    "pokes",
    _METADATA,
    sa.Column("event_id", sa.String, primary_key=True),
    sa.Column("account", sa.String, nullable=False),  # empty where it is not known
    sa.Column("livemode", sa.Boolean, nullable=False),
    sa.Column("object", sa.String, nullable=False),
    sa.Column("object_id", sa.String, nullable=False),
    sa.Column("object_created", sa.BigInteger),
    sa.Column("event_created", sa.BigInteger, nullable=False),
    sa.Column("received_at", sa.Double, nullable=False),
    sa.Column("applied_at", sa.Double),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("error", sa.String),
    sa.Column("not_before", sa.Double, nullable=False, server_default="0"),
    sa.Column("applied_revision", sa.BigInteger),  # of the warehouse that has what was read for it
)
# The warehouse that the pokes of a mode are for. One that has no row yet may take the inbox.
_OWNERS = sa.Table(
    "poke_owners",
    _METADATA,
    sa.Column("livemode", sa.Boolean, primary_key=True),
    sa.Column("warehouse", sa.String, nullable=False),  # its id; empty for an inbox made before there were ids
    sa.Column("folder", sa.String, nullable=False),  # its data folder, for people
    sa.Column("revision", sa.BigInteger, nullable=False),  # of the warehouse, the highest that is known
    sa.Column("complete", sa.Boolean, nullable=False),  # false until Stripe's events were read again
)
# In one order, and before any poke: two processes would wait for each other.
_LOCKED_OWNERS = sa.select(_OWNERS).order_by(_OWNERS.c.livemode).with_for_update()
_OPEN = _POKES.c.applied_at.is_(None)
_WAITING = sa.and_(_OPEN, _POKES.c.attempts < MAX_ATTEMPTS)
_DEAD = sa.and_(_OPEN, _POKES.c.attempts >= MAX_ATTEMPTS)
_ANEW: dict[str, Any] = {"attempts": 0, "not_before": 0.0, "error": None}
_UNAPPLIED = _ANEW | {"applied_at": None, "applied_revision": None}
# Answers from one place whether something is due, which is asked ten times a second, however much is applied or dead.
sa.Index("pokes_state", _POKES.c.applied_at, _POKES.c.attempts, _POKES.c.not_before)


class Inbox:
    """The table of pokes, in SQLite in the data folder or in the database that `url` names; thread-safe.

    `url` is an SQLAlchemy URL of SQLite or Postgres; `patience` how many seconds SQLite waits for another process's
    write, which takes milliseconds. Raises `SettingsError` if it is none, and `WarehouseError`, as all
    methods do, if the database does not do what it should. One inbox serves one warehouse, the one that claims it.
    """

    def __init__(self, folder: DataFolder, url: str | None = None, *, patience: float = 60.0) -> None:
        self._folder = folder
        self._in_folder = not url
        self._url = parse_url(url) if url else sa.URL.create("sqlite", database=str(folder.inbox))
        self._is_sqlite = self._url.get_backend_name() == "sqlite"
        self._patience = patience
        self._path = _path_of(self._url) if self._is_sqlite else None
        self._file: tuple[int, int] | None = None
        # SQLite's files only: no connection is in use while the file is opened anew.
        self._one_at_a_time = threading.RLock()
        self._claimed_by: str | None = None
        try:
            # Connections stay open, so that asking whether something is due costs no more than the question.
            self._engine = sa.create_engine(
                self._url,
                connect_args={"timeout": patience} if self._is_sqlite else _POSTGRES_TIMES,
                pool_pre_ping=not self._is_sqlite,
            )
        except ImportError:
            raise SettingsError(
                "STRIPE_PIPELINE_INBOX names a Postgres database, and the client for it is not installed",
                'Install it: pip install "psycopg[binary]"',
            ) from None
        if self._is_sqlite:
            sa.event.listen(self._engine, "connect", _make_durable)
        with self._errors():
            self._make()

    def _make(self) -> None:
        """Make the tables, or add what they lack if an older version made them."""
        if self._path is not None:
            _begin_file(self._path)
        with self._engine.connect() as connection:
            if self._is_sqlite:
                # Readers and the one writer do not block each other.
                self._write_ahead(connection)
            if self._path is not None:
                self._file = _file_id(self._path)
            if not _lacks(connection):
                return
        with self._engine.begin() as connection:
            # Several processes may begin at once: one makes it, the others wait here and look again.
            self._lock(connection)
            there = sa.inspect(connection)
            older = there.has_table(_POKES.name) and not there.has_table(_OWNERS.name)
            _METADATA.create_all(connection)
            for column in _lacks(connection):
                if isinstance(column, sa.Column):
                    added = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
                    connection.exec_driver_sql(f"ALTER TABLE {_POKES.name} ADD COLUMN {added}")
            for index in _lacks(connection):
                assert isinstance(index, sa.Index)
                index.create(connection)
            if older and connection.execute(sa.select(sa.literal(1)).select_from(_POKES).limit(1)).first():
                # It holds what Stripe told so far, and belongs to the first warehouse that comes.
                rows = [_ownership(livemode, "", "", 0, complete=True) for livemode in (True, False)]
                connection.execute(sa.insert(_OWNERS), rows)

    def _lock(self, connection: sa.Connection) -> None:
        """Keep every other process out of this until the transaction ends."""
        if self._is_sqlite:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_POSTGRES_LOCK)))

    def _write_ahead(self, connection: sa.Connection) -> None:
        """Have SQLite write ahead. Where others open the file too, it does not wait for them as it does elsewhere."""
        ends = time.monotonic() + self._patience
        while True:
            try:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            except sa.exc.OperationalError as error:
                if getattr(error.orig, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY or time.monotonic() > ends:
                    raise
                time.sleep(_PAUSE)
            else:
                return

    def claim(self, identity: Callable[[], Identity], modes: Collection[bool], *, take_over: bool = False) -> Claim:
        """Make sure that the inbox belongs to this warehouse, for these modes (their `livemode`).

        `identity` is asked after the inbox: what an inbox knows of a warehouse, that warehouse has stored before.
        Raises `WarehouseError` if the inbox belongs to another warehouse, or to a later state of this one, and is not
        to be taken over. The inbox in the data folder always follows the warehouse beside it. Where it is taken over,
        applied pokes wait again.
        """
        with self._reading() as connection:
            before = connection.execute(sa.select(_OWNERS)).all()
        warehouse = identity()
        known = max((row.revision for row in before), default=0)
        ours = {row.livemode for row in before if row.warehouse == warehouse.id}
        if len(ours) == len(before) and ours >= set(modes) and known <= warehouse.revision:
            self._claimed_by = warehouse.id
            return Claim(warehouse)
        reopened = None
        with self._writing() as connection:
            self._lock(connection)
            rows = connection.execute(_LOCKED_OWNERS).all()
            other = next((row for row in rows if row.warehouse not in ("", warehouse.id)), None)
            # Another process of this warehouse may have met the same meanwhile, and set it right.
            behind = known > warehouse.revision and any(row.revision == known for row in rows)
            if (other or behind) and not (take_over or self._in_folder):
                raise self._belongs_to(other or rows[0], warehouse)
            if other or behind:
                newer = sa.func.coalesce(_POKES.c.applied_revision, _LARGEST) > warehouse.revision
                lacking = sa.true() if other else newer
                reopened = _reopen(connection, lacking)
            kept = {} if other else {row.livemode: row.complete for row in rows}
            connection.execute(sa.delete(_OWNERS))
            claimed = [
                _ownership(
                    livemode,
                    warehouse.id,
                    str(self._folder.root),
                    warehouse.revision,
                    complete=kept.get(livemode, livemode not in warehouse.followed),
                )
                for livemode in sorted(set(modes) | kept.keys())
            ]
            connection.execute(sa.insert(_OWNERS), claimed)
        self._claimed_by = warehouse.id
        return Claim(warehouse, reopened)

    def is_complete(self, warehouse: Identity, livemode: bool | None = None) -> bool:
        """Whether the inbox of this warehouse holds all that Stripe told it of a mode, or of each: one that is new
        lacks what the one before it held."""
        query = sa.select(_OWNERS)
        with self._reading() as connection:
            rows = connection.execute(query if livemode is None else query.where(_OWNERS.c.livemode == livemode)).all()
        return bool(rows) and all(row.complete and row.warehouse == warehouse.id for row in rows)

    def completed(self, livemode: bool) -> None:
        """Note that what Stripe told of this mode is all here."""
        with self._changing() as connection:
            connection.execute(sa.update(_OWNERS).where(_OWNERS.c.livemode == livemode).values(complete=True))

    def _belongs_to(self, owner: Any, warehouse: Identity) -> WarehouseError:
        """What keeps this warehouse from using the inbox of another one."""
        return WarehouseError(
            f"The inbox at {self._url.render_as_string()} belongs to the warehouse in {owner.folder}"
            if owner.warehouse != warehouse.id
            else f"The inbox at {self._url.render_as_string()} has had notifications applied that the warehouse in"
            f" {self._folder.root} lacks: it is a copy, or was restored from one",
            "Name another database in STRIPE_PIPELINE_INBOX for this data folder; or, if no other data folder uses this"
            " one any more, run `stripe-pipeline webhooks adopt`",
        )

    def add(self, pokes: Sequence[Poke], *, again: bool = False) -> int:
        """Store pokes durably; an event that is known already is not stored again. Returns how many were new.

        With `again` one that was applied waits anew; one that waits or is dead stays as it is.
        What it returned for is on the disk, whatever happens to the machine.
        """
        insert = sqlite.insert if self._is_sqlite else postgresql.insert
        now = time.time()
        # In one order everywhere: two processes that store the same events would wait for each other.
        rows = [
            {
                "event_id": poke.event_id,
                "account": poke.account or "",
                "livemode": poke.livemode,
                "object": poke.object,
                "object_id": poke.object_id,
                "object_created": poke.object_created,
                "event_created": poke.event_created,
                "received_at": now,
            }
            for _, poke in sorted({poke.event_id: poke for poke in pokes}.items())
        ]
        if not rows:
            return 0
        statement = insert(_POKES)
        if again:
            statement = statement.on_conflict_do_update(
                index_elements=[_POKES.c.event_id],
                set_=_UNAPPLIED | {"received_at": now},
                where=_POKES.c.applied_at.is_not(None),
            )
        else:
            statement = statement.on_conflict_do_nothing()
        statement = statement.execution_options(preserve_rowcount=True)
        with self._writing() as connection:
            return connection.execute(statement, rows).rowcount

    def has_due(self, now: float | None = None, *, modes: Collection[bool] = (True, False)) -> bool:
        """Whether a poke of these modes (their `livemode`) waits that may be tried at `now` (Unix seconds; the present
        unless given).

        Cheap enough to be asked ten times a second: it looks at one entry of an index.
        """
        query = sa.select(sa.literal(1)).where(_due(now, modes)).limit(1)
        with self._reading() as connection:
            return connection.execute(query).first() is not None

    def objects_due(self, now: float | None = None, *, modes: Collection[bool] = (True, False)) -> int:
        """How many objects those pokes name."""
        objects = sa.select(_POKES.c.object, _POKES.c.object_id).where(_due(now, modes)).distinct().subquery()
        with self._reading() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(objects)).scalar_one()

    def waiting(self, mode: Mode, *, now: float | None = None) -> list[Poke]:
        """Pokes of `mode` that may be tried at `now` (Unix seconds; the present unless given), oldest event first.

        One whose account is not known is of every account: a data folder holds only one.
        """
        query = (
            sa.select(_POKES)
            .where(_due(now, {mode.livemode}), _POKES.c.account.in_(("", mode.account)))
            .order_by(_POKES.c.event_created, _POKES.c.event_id)
        )
        with self._reading() as connection:
            return [_poke(row) for row in connection.execute(query)]

    def applied(self, pokes: Sequence[Poke], *, revision: int = 0) -> None:
        """Note that the objects these pokes name were read again and stored: dead pokes of theirs are applied, too.

        `revision` is the warehouse's that has them.
        """
        applied = {"applied_at": time.time(), "applied_revision": revision}
        objects = sorted({poke.object_id for poke in pokes})
        with self._changing() as connection:
            connection.execute(sa.update(_OWNERS).where(_OWNERS.c.revision < revision).values(revision=revision))
            self._change(connection, pokes, applied)
            for start in range(0, len(objects), _CHUNK):
                named = _POKES.c.object_id.in_(objects[start : start + _CHUNK])
                connection.execute(sa.update(_POKES).where(_DEAD, named).values(applied))

    def defer(self, pokes: Sequence[Poke], error: object, *, now: float | None = None) -> None:
        """Note why these pokes cannot be tried for now, through no fault of what they name: they wait a minute."""
        with self._changing() as connection:
            self._change(connection, pokes, {"error": _told(error), "not_before": _or_now(now) + DEFERRED})

    def failed(self, pokes: Sequence[Poke], error: object, *, now: float | None = None) -> None:
        """Note that the objects these pokes name were read again in vain, and why.

        They wait 10, 40, 160 and 640 seconds before the next attempts; the fifth time they are dead.
        """
        pause = sa.literal(FIRST_PAUSE).bitwise_lshift(2 * _POKES.c.attempts)
        later = {"attempts": _POKES.c.attempts + 1, "error": _told(error), "not_before": _or_now(now) + pause}
        with self._changing() as connection:
            self._change(connection, pokes, later, which=_WAITING)

    def wait_again(self, *, applied_since: float, created_since: float) -> int:
        """Let applied pokes wait again that were applied from `applied_since` on, or whose event Stripe made from
        `created_since` on (Unix seconds, by the local and by Stripe's clock); returns how many.

        For a warehouse that is older than the inbox, because it was restored from a copy.
        """
        since = sa.or_(_POKES.c.applied_at >= applied_since, _POKES.c.event_created >= created_since)
        with self._changing() as connection:
            return _reopen(connection, since)

    def retry(self, event_ids: Collection[str] | None = None) -> int:
        """Let dead pokes wait anew, those of these events or all; returns how many."""
        chosen: Sequence[Any] = [sa.true()]
        if event_ids is not None:
            ids = sorted(event_ids)
            chosen = [_POKES.c.event_id.in_(ids[start : start + _CHUNK]) for start in range(0, len(ids), _CHUNK)]
        with self._writing() as connection:
            return sum(
                connection.execute(sa.update(_POKES).where(_DEAD, some).values(_ANEW)).rowcount for some in chosen
            )

    def rows(self, *, failing: bool = False) -> list[Entry]:
        """All that was not applied, waiting or dead, or only what was tried in vain; in the order it was received."""
        return self._entries(sa.and_(_OPEN, _POKES.c.error.is_not(None)) if failing else _OPEN)

    def dead(self) -> list[Entry]:
        """What was tried in vain as often as it may be, in the order it was received."""
        return self._entries(_DEAD)

    def summary(self) -> Summary:
        """How many wait and how many are dead."""
        query = sa.select(
            sa.func.count().filter(_WAITING),
            sa.func.count().filter(_DEAD),
            sa.func.min(_POKES.c.received_at).filter(_WAITING),
        ).where(_OPEN)
        with self._reading() as connection:
            return Summary(*connection.execute(query).one())

    def check_writable(self) -> None:
        """Raise `WarehouseError` if a poke could not be stored now. Writes one, durably, and leaves nothing of it."""
        probe = {"event_id": _PROBE, "account": "", "livemode": False, "object": "charge", "object_id": "x" * 27}
        times = {"object_created": 0, "event_created": 0, "received_at": 0.0, "applied_at": 0.0}
        with self._writing() as connection:
            # The pages or blocks that both change are written, though nothing is left to be seen.
            connection.execute(sa.insert(_POKES), [probe | times])
            connection.execute(sa.delete(_POKES).where(_POKES.c.event_id == _PROBE))

    def forget(self, *, applied_before: float) -> None:
        """Remove applied pokes older than `applied_before` (Unix seconds)."""
        with self._changing() as connection:
            connection.execute(sa.delete(_POKES).where(_POKES.c.applied_at < applied_before))

    def clear(self) -> None:
        """Remove everything, as if the inbox were new."""
        with self._writing() as connection:
            for table in _METADATA.sorted_tables:
                connection.execute(sa.delete(table))

    def drop_modes(self, keep: Collection[bool]) -> int:
        """Remove what was not applied of a mode whose `livemode` is not in `keep`; returns how much.

        Nobody reads it: there is no key of that mode, and one that is set later loads the history anyway.
        """
        with self._changing() as connection:
            return connection.execute(sa.delete(_POKES).where(_OPEN, _POKES.c.livemode.not_in(set(keep)))).rowcount

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def _entries(self, which: sa.ColumnElement[bool]) -> list[Entry]:
        query = sa.select(_POKES).where(which).order_by(_POKES.c.received_at, _POKES.c.event_id)
        with self._reading() as connection:
            return [
                Entry(
                    _poke(row),
                    row.received_at,
                    row.attempts,
                    row.error,
                    row.not_before,
                    State.DEAD if row.attempts >= MAX_ATTEMPTS else State.WAITING,
                )
                for row in connection.execute(query)
            ]

    def _change(
        self,
        connection: sa.Connection,
        pokes: Sequence[Poke],
        values: dict[str, Any],
        *,
        which: sa.ColumnElement[bool] = _OPEN,
    ) -> None:
        """Set `values` of these pokes, of those that are `which`: by default all that were not applied."""
        ids = sorted({poke.event_id for poke in pokes})
        for start in range(0, len(ids), _CHUNK):
            # Locked in one order everywhere (SQLite has only one writer): two processes would wait for each other.
            chosen = (
                sa.select(_POKES.c.event_id)
                .where(which, _POKES.c.event_id.in_(ids[start : start + _CHUNK]))
                .order_by(_POKES.c.event_id)
                .with_for_update()
            )
            connection.execute(sa.update(_POKES).where(_POKES.c.event_id.in_(chosen)).values(values))

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._errors(), self._one_at_a_time if self._path else nullcontext():
            self._follow_file()
            with self._engine.connect() as connection:
                yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._errors(), self._one_at_a_time if self._path else nullcontext():
            self._follow_file()
            with self._engine.begin() as connection:
                yield connection
            if self._path is not None and _file_id(self._path) != self._file:
                raise WarehouseError(
                    f"The inbox {self._path} was moved away or replaced while it was written", "Try again"
                )

    @contextmanager
    def _changing(self) -> Iterator[sa.Connection]:
        """Writing what only the warehouse may that claimed the inbox: another one may have taken it over since."""
        with self._writing() as connection:
            if self._is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            if self._claimed_by is not None:
                owners = connection.execute(_LOCKED_OWNERS).all()
                if other := next((row for row in owners if row.warehouse not in ("", self._claimed_by)), None):
                    raise WarehouseError(
                        f"The inbox at {self._url.render_as_string()} was taken over by the warehouse in"
                        f" {other.folder} while this run was under way",
                        "Name another database in STRIPE_PIPELINE_INBOX for this data folder, or take it back with"
                        " `stripe-pipeline webhooks adopt`",
                    )
            yield connection

    def _follow_file(self) -> None:
        """Open SQLite's file anew if it was moved away or replaced: nobody reads what is written to the old one."""
        if self._path is not None and _file_id(self._path) != self._file:
            self._engine.dispose()
            self._make()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """The database's errors as ours: without SQL, values and passwords."""
        try:
            yield
        except OSError as error:
            raise WarehouseError(
                f"The inbox {self._path} cannot be made ({error.strerror})",
                "Give this user write access to its folder, or free disk space if it ran out",
            ) from None
        except sa.exc.SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            reason = " ".join(str(cause).split())
            # A driver may name the address it could not use.
            password = str(self._url.password or "")
            for secret in {password, quote(password), quote_plus(password)} - {""}:
                reason = reason.replace(secret, "…")
            if self._is_sqlite:
                raise self._explained(sqlite_cause_of(cause), reason) from None
            full = getattr(cause, "sqlstate", None) == _POSTGRES_DISK_FULL
            raise WarehouseError(
                f"The inbox at {self._url.render_as_string()} cannot be used ({reason})",
                "Free disk space on the database's server"
                if full
                else "Check STRIPE_PIPELINE_INBOX, and that this user may make and write tables there",
            ) from None

    def _explained(self, cause: Cause, reason: str) -> WarehouseError:
        """The error for SQLite's `reason`, with what to do about its cause."""
        file = self._url.database
        name = Path(file or "").name
        match cause:
            case Cause.FULL:
                what = f"The disk has no space left for the inbox {file}"
                remedy = "Free disk space. Stripe sends again what could not be stored, and the next sync finds it too"
            case Cause.IO:
                what = f"The inbox {file} could not be read or written"
                remedy = "Free disk space if it ran out, else check the disk"
            case Cause.DENIED:
                what = f"The inbox {file} cannot be opened or written"
                remedy = "Give this user write access to the file and its folder"
            case Cause.IN_USE:
                what = f"Another process kept the inbox {file} locked for over {self._patience:.0f} seconds"
                remedy = "Stop a stripe-pipeline or Dagster process that hangs, then try again"
            case _:
                damaged = cause is Cause.DAMAGED
                what = f"The inbox {file} {'is damaged' if damaged else 'cannot be used'}"
                remedy = (
                    f"Stop the processes that use it (`dev`, `webhooks serve`), move it away together with {name}-wal"
                    f" and {name}-shm, and start them again: the next sync makes a new one and reads Stripe's events of"
                    " the last 30 days again"
                )
        return WarehouseError(f"{what} ({reason})", remedy)


def parse_url(url: str) -> sa.URL:
    """`url` with the driver that the project has. Raises `SettingsError` if it is none of SQLite or Postgres."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.SQLAlchemyError, ValueError):  # their messages show the password
        parsed = None
    backend = parsed.get_backend_name() if parsed else None
    # With a password that is not encoded a part of it is taken for the host or the database, and would be shown.
    if not parsed or backend not in ("sqlite", "postgresql", "postgres") or "@" in f"{parsed.host}{parsed.database}":
        raise SettingsError(
            "STRIPE_PIPELINE_INBOX is no address of a database that can be used",
            "Give one like postgresql://user:password@host/database (with %40 for an @ in the password),"
            " or unset it to keep the inbox in the data folder",
        )
    return parsed if backend == "sqlite" else parsed.set(drivername="postgresql+psycopg")


def _make_durable(connection: Any, _: object) -> None:
    """SQLite: a commit is on the disk before it returns, even in WAL mode and if the machine loses power."""
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")  # macOS keeps it in the drive's cache otherwise


def _path_of(url: sa.URL) -> Path | None:
    """The file of an SQLite database; None for one in memory or named by a URI of SQLite's."""
    return None if not url.database or url.database.startswith((":", "file:")) else Path(url.database)


def _file_id(path: Path) -> tuple[int, int] | None:
    """What tells this file from another one of the same name; None if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _begin_file(path: Path) -> None:
    """Make an empty file if there is none, without what SQLite kept beside one that was moved away.

    It is its owner's only; SQLite gives the files beside it the same mode.
    """
    if path.exists():
        return
    with filelock.FileLock(f"{path}.lock", mode=0o600):
        if not path.exists():
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            path.touch(mode=0o600)


def _reopen(connection: sa.Connection, which: sa.ColumnElement[bool]) -> int:
    """Let applied pokes wait again, those that are `which`; returns how many."""
    statement = sa.update(_POKES).where(_POKES.c.applied_at.is_not(None), which).values(_UNAPPLIED)
    return connection.execute(statement).rowcount


def _ownership(livemode: bool, warehouse: str, folder: str, revision: int, *, complete: bool) -> dict[str, Any]:
    return {
        "livemode": livemode,
        "warehouse": warehouse,
        "folder": folder,
        "revision": revision,
        "complete": complete,
    }


def _lacks(connection: sa.Connection) -> list[sa.Table | sa.Column[Any] | sa.Index]:
    """The tables, columns and indexes that the database has not got."""
    there = sa.inspect(connection)
    if not (there.has_table(_POKES.name) and there.has_table(_OWNERS.name)):
        return [_POKES, _OWNERS]
    columns = {column["name"] for column in there.get_columns(_POKES.name)}
    indexes = {index["name"] for index in there.get_indexes(_POKES.name)}
    return [
        *(column for column in _POKES.columns if column.name not in columns),
        *(index for index in _POKES.indexes if index.name not in indexes),
    ]


def _due(now: float | None, modes: Collection[bool]) -> sa.ColumnElement[bool]:
    """The condition of pokes of these modes that may be tried at `now`."""
    at = _or_now(now)
    not_before = _POKES.c.not_before
    due = sa.and_(_WAITING, sa.or_(not_before <= at, not_before > at + LONGEST_PAUSE))
    return due if {True, False} <= set(modes) else sa.and_(due, _POKES.c.livemode.in_(set(modes)))


def _told(error: object) -> str:
    return scrub(str(error))[:_LONGEST_ERROR]


def _or_now(now: float | None) -> float:
    return time.time() if now is None else now


def _poke(row: Any) -> Poke:
    return Poke(
        row.event_id,
        row.account or None,
        row.livemode,
        row.object,
        row.object_id,
        row.object_created,
        row.event_created,
    )
