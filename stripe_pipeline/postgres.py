"""Sessions in Postgres: how soon the server and this host notice that the other one is gone, and how they are named.

The inbox and a lake's catalog connect with these; what they ask belongs to `inbox.database` and
`warehouse.lake_catalog`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

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


def prepare(connection: psycopg.Connection[Any]) -> None:
    """Set what a new session needs, whatever the server's own configuration; raises `psycopg.Error`."""
    wanted = ", ".join(f"('{name}', '{value}')" for name, value in _SESSION.items())
    # An older server lacks some of the parameters.
    connection.execute(
        f"SELECT set_config(name, value, false) FROM (VALUES {wanted}) AS wanted (name, value)"
        " WHERE current_setting(name, true) IS NOT NULL"
    )
    connection.commit()
