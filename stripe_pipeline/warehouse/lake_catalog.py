"""The database of a lake's catalog, asked without DuckDB: the lock, and what the catalog knows of all rows at once.

`ducklake` opens the lake itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stripe_pipeline import postgres
from stripe_pipeline.errors import SettingsError, WarehouseError
from stripe_pipeline.lake import VARIABLE, Lake
from stripe_pipeline.storage_errors import reason
from stripe_pipeline.warehouse.store import LOCK_TIMEOUT

if TYPE_CHECKING:
    import psycopg

_LOCK = 5_733_201_846_116_120_385  # any number, always the same one


class LakeCatalog:
    """One connection to the database, which holds the lock; opened when needed. Its methods raise `WarehouseError`."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._connection: psycopg.Connection[Any] | None = None

    @property
    def place(self) -> str:
        """The database and its host."""
        return place_of(self._lake)

    def has_warehouse(self) -> bool:
        """Whether the catalog has the table `pipeline.meta`."""
        made = "SELECT 1 FROM ducklake_table WHERE table_name = 'meta' AND end_snapshot IS NULL"
        return self._ask("SELECT to_regclass('ducklake_table')") != [(None,)] and bool(self._ask(made))

    def lock(self) -> None:
        """Takes the lock, for which other processes and hosts wait."""
        self._connected()  # says what to do without psycopg
        import psycopg

        try:
            self._ask(f"SELECT pg_advisory_lock({_LOCK})")
        except psycopg.errors.LockNotAvailable:
            raise WarehouseError(
                f"Another process has been writing to {self.place} for over {LOCK_TIMEOUT} seconds",
                "See whether a stripe-pipeline or Dagster process hangs on any host, and end it",
            ) from None

    def unlock(self) -> None:
        """Releases the lock. If the connection is lost, so is the lock."""
        import psycopg

        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.execute(f"SELECT pg_advisory_unlock({_LOCK})")

    def may_hold_later(self, columns: Mapping[str, str], moment: float) -> bool:
        """Whether one of these columns, by table, may hold a time after the moment (Unix seconds), by the statistics of
        committed rows."""
        named = ", ".join(f"('{table}', '{column}')" for table, column in columns.items())
        [(later,)] = self._ask(
            "SELECT EXISTS (SELECT FROM ducklake_table_column_stats s"
            " JOIN ducklake_column c USING (table_id, column_id)"
            " JOIN ducklake_table t USING (table_id) JOIN ducklake_schema n USING (schema_id)"
            " WHERE c.end_snapshot IS NULL AND t.end_snapshot IS NULL AND n.end_snapshot IS NULL"
            f" AND (n.schema_name || '.' || t.table_name, c.column_name) IN ({named})"
            " AND CASE WHEN c.column_type = 'timestamptz' THEN s.max_value::timestamptz END"
            f" > to_timestamp({moment!r}))"
        )
        return bool(later)

    def may_hold_rows(self, table: str) -> bool:
        """Whether the table, of a qualified name, ever held a value, by the statistics of committed rows."""
        schema, _, name = table.partition(".")
        [(held,)] = self._ask(
            "SELECT EXISTS (SELECT FROM ducklake_table_column_stats s"
            " JOIN ducklake_table t USING (table_id) JOIN ducklake_schema n USING (schema_id)"
            " WHERE t.end_snapshot IS NULL AND n.end_snapshot IS NULL AND s.min_value IS NOT NULL"
            f" AND n.schema_name = '{schema}' AND t.table_name = '{name}')"
        )
        return bool(held)

    def forget_values(self) -> None:
        """Removes erased values from the catalog: the minimum and maximum of each column, and the remains of rows that
        were inlined."""
        connection = self._connected()
        # Of unknown ones, the lake would take those of the next load for those of the whole table.
        connection.execute(
            "UPDATE ducklake_table_column_stats s SET min_value = '', max_value = chr(1114111) FROM ducklake_column c"
            " WHERE c.table_id = s.table_id AND c.column_id = s.column_id AND c.column_type IN ('varchar', 'json')"
            " AND s.min_value IS NOT NULL"
        )
        inlined = connection.execute("SELECT table_name FROM ducklake_inlined_data_tables").fetchall()
        tables = [table for (table,) in inlined] + ["ducklake_table_column_stats", "ducklake_file_column_stats"]
        columns = connection.execute(
            "SELECT tablename, attname, format_type(atttypid, atttypmod) FROM pg_stats"
            " JOIN pg_attribute USING (attname)"
            " WHERE schemaname = current_schema() AND attrelid = format('%%I.%%I', schemaname, tablename)::regclass"
            " AND tablename = ANY(%s)",
            [tables],
        ).fetchall()
        for table, column, of_type in columns:
            # Postgres then drops its own statistics of the column, which hold values. An ANALYZE of an empty table
            # leaves them.
            connection.execute(f'ALTER TABLE "{table}" ALTER COLUMN "{column}" TYPE {of_type}')
        for table in (*tables, "pg_statistic"):
            connection.execute(f'VACUUM FULL "{table}"')

    def close(self) -> None:
        """Closes the connection; it is opened again when needed."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, sql: str) -> list[Any]:
        """What the catalog's database answers; the connection is opened again if it was lost."""
        connection = self._connected()
        import psycopg

        try:
            try:
                return connection.execute(sql).fetchall()
            except psycopg.OperationalError:
                if not connection.broken:
                    raise
                return self._connected().execute(sql).fetchall()
        except psycopg.errors.LockNotAvailable:
            raise
        except psycopg.Error as error:
            raise WarehouseError(
                f"{self.place} cannot be read: {reason(error)}",
                f"See whether {VARIABLE} names the lake's database, and a user with all rights to it",
            ) from None

    def _connected(self) -> psycopg.Connection[Any]:
        """The connection to the catalog's database, opened again if it was lost."""
        try:
            import psycopg
        except ImportError:
            raise SettingsError(
                f"{VARIABLE} names a Postgres database, but the client for it is not installed",
                'Install the client: pip install "psycopg[binary]"',
            ) from None
        if self._connection is not None and not self._connection.broken:
            return self._connection
        try:
            connection = self._connect()
            try:
                postgres.prepare(connection)
                postgres.require_session(connection, self._connect, self.place, VARIABLE)
                connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}s'")
            except BaseException:
                connection.close()
                raise
        except psycopg.Error as error:
            raise WarehouseError(
                f"{self.place} cannot be reached ({reason(error)})",
                f"See whether the database runs, and whether {VARIABLE} names it and a user who may write there",
            ) from None
        self._connection = connection
        return connection

    def _connect(self) -> psycopg.Connection[Any]:
        import psycopg

        return psycopg.connect(self._lake.catalog, autocommit=True, **postgres.CONNECT)


def place_of(lake: Lake) -> str:
    """The lake as messages name it, without a password."""
    try:
        from psycopg.conninfo import conninfo_to_dict

        parts = conninfo_to_dict(lake.catalog)
    except Exception:  # no client, or an address that it does not understand: the message names no part of it
        parts = {}
    return f"The lake {parts.get('dbname', '')} on {parts.get('host', 'this host')}".replace("  ", " ")
