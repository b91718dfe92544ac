"""Sessions in Postgres: how soon the server and this host notice that the other one is gone, how they are named, and
whether they last.

The inbox, a lake's catalog and the removal of Dagster's old records connect with these; what they ask belongs to
`inbox.database`, `warehouse.lake_catalog` and `assets.dagster_history`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from typing import TYPE_CHECKING, Any

from stripe_pipeline.errors import SettingsError

if TYPE_CHECKING:
    import psycopg
    import sqlalchemy as sa
    from sqlalchemy.engine.interfaces import DBAPIConnection

CONNECT: dict[str, Any] = {
    "connect_timeout": 10,  # seconds
    "fallback_application_name": "stripe_pipeline",
    # This host notices within half a minute that the server is gone, also in the middle of a statement.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds
}
"""How this host connects."""
_SESSION = {
    # The server notices within half a minute that this host is gone, and releases its locks. By default Linux looks
    # after two hours. Keepalives are not sent while data is not acknowledged: for that there is the user timeout.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30s",
    # A session that waits, or only holds a lock, keeps its connection.
    "idle_session_timeout": "0",
}


def engine(url: sa.URL, **options: Any) -> sa.Engine:
    """Connections to the database at `url`, with its driver; `options` are SQLAlchemy's. Raises `ImportError` without
    the driver."""
    import sqlalchemy as sa

    made = sa.create_engine(url, connect_args=CONNECT, **options)
    sa.event.listen(made, "connect", lambda connection, _: prepare(connection))
    return made


def prepare(connection: psycopg.Connection[Any] | DBAPIConnection) -> None:
    """Set what a new session needs, whatever the server's own configuration; raises the driver's `Error`."""
    wanted = ", ".join(f"('{name}', '{value}')" for name, value in _SESSION.items())
    # An older server lacks some of the parameters.
    with closing(connection.cursor()) as cursor:
        cursor.execute(
            f"SELECT set_config(name, value, false) FROM (VALUES {wanted}) AS wanted (name, value)"
            " WHERE current_setting(name, true) IS NOT NULL"
        )
    connection.commit()


def require_session(
    connection: psycopg.Connection[Any],
    another: Callable[[], AbstractContextManager[psycopg.Connection[Any]]],
    place: str,
    variable: str,
) -> None:
    """Raise `SettingsError` if a pooler in front of Postgres gives the session of `connection` to others, too.

    Such a pooler, like PgBouncer with `pool_mode = transaction`, lends one session of the server to several clients in
    turn: all of them then hold a lock that one of them has taken. `another` opens a second connection to the same
    address, which is needed behind a pooler only; `place` and `variable` are for the message. No transaction is open.
    Raises `psycopg.Error`.
    """
    # A pooler answers with a number of its own when a client connects.
    if _server_process(connection) == connection.info.backend_pid:
        return
    with another() as other:
        # A pooler may prefer the session that was used last, or the one that has been idle for longest.
        order = (connection, other, connection, connection, other, other, connection)
        asked = [(asked, _server_process(asked)) for asked in order]
    processes = {of: {process for by, process in asked if by is of} for of in (connection, other)}
    if any(len(its) > 1 for its in processes.values()) or processes[connection] & processes[other]:
        raise SettingsError(
            f"{place} is behind a pooler that shares sessions of Postgres between clients, so that locks protect"
            " nothing",
            f"Let {variable} name the address of Postgres itself, or set `pool_mode = session` in PgBouncer for this"
            " database",
        )


def _server_process(connection: psycopg.Connection[Any]) -> int:
    """The process of the server that works for this connection now."""
    [(process,)] = connection.execute("SELECT pg_backend_pid()").fetchall()
    connection.commit()
    return int(process)
