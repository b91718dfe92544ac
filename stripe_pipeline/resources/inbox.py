"""The inbox: pokes that say which object to read again, kept until it was.

Every source of news puts its pokes here; payloads are never kept. Which requests a poke costs belongs to `sync`,
receiving webhooks to `webhooks.receiver`, whose process loads nothing heavier than this module.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import BadObject, SettingsError, WarehouseError, scrub, shown
from stripe_pipeline.objects import BY_STRIPE_OBJECT

if TYPE_CHECKING:  # its module loads DuckDB, which the receiver's process does without
    from stripe_pipeline.resources.warehouse import Mode

MAX_ATTEMPTS = 5
"""So often what a poke names is read again in vain before the poke is dead."""
FIRST_PAUSE = 10
"""Seconds after the first failed attempt; four times as long after each further one."""
DEFERRED = 60
"""Seconds to the next attempt where Stripe or a missing permission is the trouble: those do not count."""

_POSTGRES_TIMES = {"connect_timeout": 10, "keepalives_idle": 30, "tcp_user_timeout": 30_000}  # the last in ms
_CHUNK = 500  # ids a statement, well below SQLite's limit of variables
_PAUSE = 0.01  # seconds before SQLite is asked again for what it does not wait for
_LONGEST_ERROR = 1000  # characters
_SHOWN = 80  # characters of what is not an id
_LARGEST = 2**53  # of a number in JSON
_POSTGRES_LOCK = 0x57121BE  # any number that nothing else in the database locks while it changes its tables

# Shops may choose the ids of their customers. Percent-encoded, an id of this length still fits into a URL.
_ID = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,500}")


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


def poke_of(event: object, mode: Mode | None = None) -> Poke | None:
    """What an event tells to read again; `mode` where it is known whose events these are.

    None for what tells nothing of a table: other objects, the invoice without an id of `invoice.upcoming`, thin events
    (`v2.core.event`), events of connected accounts, and whatever is no event at all. Raises `BadObject` for an event
    of a table whose object has an id that no object can have.
    """
    if not isinstance(event, dict) or event.get("object", "event") != "event":
        return None
    data = event.get("data")
    obj = data.get("object") if isinstance(data, dict) else None
    livemode = mode.livemode if mode else event.get("livemode")
    event_id, event_created = event.get("id"), _seconds(event.get("created"))
    if not isinstance(obj, dict) or not isinstance(livemode, bool) or event_created is None:
        return None
    # Only events of connected accounts name the account (FACTS.md, Webhooks, and Stripe's page "Connect webhooks").
    if event.get("account") is not None and (mode is None or event["account"] != mode.account):
        return None
    name, object_id = obj.get("object"), obj.get("id")
    if not isinstance(name, str) or name not in BY_STRIPE_OBJECT or not _is_id(event_id):
        return None
    if not _is_id(object_id):
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


def _is_id(value: object) -> bool:
    return isinstance(value, str) and _ID.fullmatch(value) is not None


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
)
_OPEN = _POKES.c.applied_at.is_(None)
_WAITING = sa.and_(_OPEN, _POKES.c.attempts < MAX_ATTEMPTS)
_DEAD = sa.and_(_OPEN, _POKES.c.attempts >= MAX_ATTEMPTS)
# Answers from one place whether something is due, which is asked ten times a second, however much is applied or dead.
sa.Index("pokes_state", _POKES.c.applied_at, _POKES.c.attempts, _POKES.c.not_before)


class Inbox:
    """The table of pokes, in SQLite in the data folder or in the database that `url` names; thread-safe.

    `url` is an SQLAlchemy URL of SQLite or Postgres; `patience` how many seconds SQLite waits for another process's
    write, which takes milliseconds. Raises `SettingsError` if it is none, and `WarehouseError`, as all
    methods do, if the database does not do what it should. One inbox serves one data folder and one account.
    """

    def __init__(self, folder: DataFolder, url: str | None = None, *, patience: float = 60.0) -> None:
        self._url = parse_url(url) if url else sa.URL.create("sqlite", database=str(folder.inbox))
        self._is_sqlite = self._url.get_backend_name() == "sqlite"
        self._patience = patience
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
        """Make the table, or add what it lacks if an older version made it."""
        with self._engine.connect() as connection:
            if self._is_sqlite:
                # Readers and the one writer do not block each other.
                self._write_ahead(connection)
            if not _lacks(connection):
                return
        with self._engine.begin() as connection:
            # Several processes may begin at once: one makes it, the others wait here and look again.
            if self._is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_POSTGRES_LOCK)))
            _METADATA.create_all(connection)
            for column in _lacks(connection):
                if isinstance(column, sa.Column):
                    added = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
                    connection.exec_driver_sql(f"ALTER TABLE {_POKES.name} ADD COLUMN {added}")
            for index in _lacks(connection):
                assert isinstance(index, sa.Index)
                index.create(connection)

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

    def add(self, pokes: Sequence[Poke]) -> int:
        """Store pokes durably; an event that is known already is not stored again. Returns how many were new.

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
        statement = insert(_POKES).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
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

    def applied(self, pokes: Sequence[Poke]) -> None:
        """Note that the objects these pokes name were read again and stored: dead pokes of theirs are applied, too."""
        now = time.time()
        self._change(pokes, {"applied_at": now})
        objects = sorted({poke.object_id for poke in pokes})
        with self._writing() as connection:
            for start in range(0, len(objects), _CHUNK):
                named = _POKES.c.object_id.in_(objects[start : start + _CHUNK])
                connection.execute(sa.update(_POKES).where(_DEAD, named).values(applied_at=now))

    def defer(self, pokes: Sequence[Poke], error: object, *, now: float | None = None) -> None:
        """Note why these pokes cannot be tried for now, through no fault of what they name: they wait a minute."""
        self._change(pokes, {"error": _told(error), "not_before": _or_now(now) + DEFERRED})

    def failed(self, pokes: Sequence[Poke], error: object, *, now: float | None = None) -> None:
        """Note that the objects these pokes name were read again in vain, and why.

        They wait 10, 40, 160 and 640 seconds before the next attempts; the fifth time they are dead.
        """
        pause = sa.literal(FIRST_PAUSE).bitwise_lshift(2 * _POKES.c.attempts)
        self._change(
            pokes,
            {
                "attempts": _POKES.c.attempts + 1,
                "error": _told(error),
                "not_before": _or_now(now) + pause,
            },
        )

    def retry(self, event_ids: Collection[str] | None = None) -> int:
        """Let dead pokes wait anew, those of these events or all; returns how many."""
        anew = {"attempts": 0, "not_before": 0.0, "error": None}
        chosen: Sequence[Any] = [sa.true()]
        if event_ids is not None:
            ids = sorted(event_ids)
            chosen = [_POKES.c.event_id.in_(ids[start : start + _CHUNK]) for start in range(0, len(ids), _CHUNK)]
        with self._writing() as connection:
            return sum(
                connection.execute(sa.update(_POKES).where(_DEAD, some).values(anew)).rowcount for some in chosen
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
        """Raise `WarehouseError` if pokes could not be stored now; changes nothing."""
        with self._writing() as connection:
            connection.execute(sa.delete(_POKES).where(_POKES.c.event_id == ""))

    def forget(self, *, applied_before: float) -> None:
        """Remove applied pokes older than `applied_before` (Unix seconds)."""
        with self._writing() as connection:
            connection.execute(sa.delete(_POKES).where(_POKES.c.applied_at < applied_before))

    def drop_modes(self, keep: Collection[bool]) -> int:
        """Remove what was not applied of a mode whose `livemode` is not in `keep`; returns how much.

        Nobody reads it: there is no key of that mode, and one that is set later loads the history anyway.
        """
        with self._writing() as connection:
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

    def _change(self, pokes: Sequence[Poke], values: dict[str, Any]) -> None:
        """Set `values` of these pokes, unless they were applied."""
        ids = sorted({poke.event_id for poke in pokes})
        with self._writing() as connection:
            for start in range(0, len(ids), _CHUNK):
                # Locked in one order everywhere (SQLite has only one writer): two processes would wait for each other.
                chosen = (
                    sa.select(_POKES.c.event_id)
                    .where(_OPEN, _POKES.c.event_id.in_(ids[start : start + _CHUNK]))
                    .order_by(_POKES.c.event_id)
                    .with_for_update()
                )
                connection.execute(sa.update(_POKES).where(_POKES.c.event_id.in_(chosen)).values(values))

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._errors(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._errors(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """The database's errors as ours: without SQL, values and passwords."""
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            reason = " ".join(str(cause).split())
            # A driver may name the address it could not use.
            password = str(self._url.password or "")
            for secret in {password, quote(password), quote_plus(password)} - {""}:
                reason = reason.replace(secret, "…")
            if self._is_sqlite:
                raise WarehouseError(
                    f"The inbox {self._url.database} cannot be used ({reason})",
                    "If the file is damaged, move it away: the next tick finds the last 30 days' news again",
                ) from None
            raise WarehouseError(
                f"The inbox at {self._url.render_as_string()} cannot be used ({reason})",
                "Check STRIPE_PIPELINE_INBOX, and that this user may make and write tables there",
            ) from None


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


def _lacks(connection: sa.Connection) -> list[sa.Column[Any] | sa.Index]:
    """The columns and indexes that the table in the database has not got."""
    there = sa.inspect(connection)
    if not there.has_table(_POKES.name):
        return [*_POKES.columns, *_POKES.indexes]
    columns = {column["name"] for column in there.get_columns(_POKES.name)}
    indexes = {index["name"] for index in there.get_indexes(_POKES.name)}
    return [
        *(column for column in _POKES.columns if column.name not in columns),
        *(index for index in _POKES.indexes if index.name not in indexes),
    ]


def _due(now: float | None, modes: Collection[bool]) -> sa.ColumnElement[bool]:
    """The condition of pokes of these modes that may be tried at `now`."""
    due = sa.and_(_WAITING, _POKES.c.not_before <= _or_now(now))
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
