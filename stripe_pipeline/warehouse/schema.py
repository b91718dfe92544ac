"""The layout of the warehouse's file: schemas, tables, columns and views, and migrating a file to it.

Stored data that the settings now leave out is erased here. Rows are written by `warehouse`, the views' text comes from
`views`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property

import duckdb
import orjson

from stripe_pipeline.data_folder import CATALOG
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.fields import kept_secrets
from stripe_pipeline.objects import GENERATED_DIGEST, OBJECT_TYPES, Column, ObjectType, family_of
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.catalog import selects
from stripe_pipeline.views.view import BI, FINANCE, FIVETRAN, MODES
from stripe_pipeline.warehouse.comments import signature, write_comments
from stripe_pipeline.warehouse.file_state import COMMENTS, get_state, set_state, set_states
from stripe_pipeline.warehouse.pipeline_tables import PIPELINE_TABLES
from stripe_pipeline.warehouse.refilter import Refilter, convert_rules, recorded_rules, retention_note
from stripe_pipeline.warehouse.sql import stored_types

FORMAT = 7
"""The version of the layout; to be raised when older releases could no longer write the file correctly."""
_OPTIONAL = {*BI, *FIVETRAN}
"""The schemas that exist only if the settings ask for them."""
_CHILDREN_COUNTED = "coverage counts children"
"""Stored if `pipeline.coverage.listed` of a child counts the children."""
_SECRETS_TAKEN_OUT = 2
"""Incremented when `fields.without_secrets` detects more secrets than before, so that existing files follow."""


class Layout:
    """The file's layout under the settings; `hash_key` is set if they hash."""

    def __init__(
        self,
        settings: Settings,
        hash_key: bytes | None,
        current_settings: Callable[[], Settings] | None = None,
        *,
        in_lake: bool = False,
    ) -> None:
        """`current_settings` returns the present settings; without it, they are assumed unchanged. A table `in_lake`
        has no settings for its columns' compression, and a view no comments on its columns."""
        self._in_lake = in_lake
        self._settings = settings
        self._current_settings = current_settings
        self._hash_key = hash_key
        self.is_complete = False
        """Whether no comments are known to be missing."""

    @cached_property
    def fingerprint(self) -> str:
        """A hash, equal for settings that require the same tables, fields and views."""
        # Of the many generated types, those that are off change only with their declarations and the standard settings.
        required = {object_type.name for object_type in self._settings.required}
        types = {
            name: object_type
            for name, object_type in self._settings.types.items()
            if not object_type.generated or name in required or name in self._settings.objects
        }
        rules = [
            [
                object_type.name,
                [_definition(column) for column in object_type.table_columns],
                self._settings.rules(object_type).to_json(),
                self._settings.on_delete_of(object_type),
                retention_note(self._settings, object_type),
            ]
            for object_type in types.values()
        ]
        standard = [GENERATED_DIGEST, self._settings.on_delete, str(self._settings.retention)]
        comments = signature(self._settings, types.values())
        tables = [FORMAT, *(table.definition for table in PIPELINE_TABLES.values())]
        own = [self._hash_key_name, self._secrets]
        parts = [tables, self._views_on(types), comments, rules, sorted(required), standard, own]
        return hashlib.sha256(orjson.dumps(parts)).hexdigest()

    @cached_property
    def _kept_secrets(self) -> Mapping[str, frozenset[str]]:
        return kept_secrets(
            {name: self._settings.rules(object_type) for name, object_type in self._settings.types.items()}
        )

    @property
    def _secrets(self) -> str:
        """Which of Stripe's secrets are removed from stored data."""
        fields = sorted(f"{object_name}.{name}" for object_name, names in self._kept_secrets.items() for name in names)
        return f"{_SECRETS_TAKEN_OUT} {' '.join(fields)}".strip()

    @property
    def _hash_key_name(self) -> str:
        """Identifies the key without revealing it."""
        return hashlib.sha256(b"stripe_pipeline " + self._hash_key).hexdigest()[:16] if self._hash_key else ""

    def ensure(self, connection: duckdb.DuckDBPyConnection, place: str, *, commit: bool = True) -> None:
        """Migrates the attached file to this layout: creates missing parts and removes unwanted ones.

        Without `commit` the transaction stays open. Raises `WarehouseError` for a file of another program or of a newer
        version, and if the settings have changed meanwhile: another run has migrated the file to the new ones, or will.
        """
        if self.is_applied(connection):
            connection.execute("BEGIN")
        else:
            self._migrate(connection, place)
        if commit:
            connection.execute("COMMIT")

    def _migrate(self, connection: duckdb.DuckDBPyConnection, place: str) -> None:
        """As `ensure`, in a transaction that stays open."""
        columns = _columns(connection)
        if columns and "pipeline.meta" not in columns:
            raise WarehouseError(
                f"{place} is a DuckDB file of another program",
                "Move it away, or name another folder in STRIPE_PIPELINE_DATA",
            )
        format_before = FORMAT
        if columns:
            [(format_before,)] = connection.execute("SELECT format FROM pipeline.meta").fetchall()
            if format_before > FORMAT:
                raise WarehouseError(
                    f"{place} was written by a newer stripe_pipeline (format {format_before}, this one knows {FORMAT})",
                    "Upgrade stripe_pipeline",
                )
        types = self._types(columns)
        of_types = self._views_on(types)
        statements = list(self._missing(columns, types, of_types))
        connection.execute("BEGIN")
        for statement in statements:
            connection.execute(statement)
        if format_before < 6:
            convert_rules(connection)
        if get_state(connection, _CHILDREN_COUNTED) is None:
            # Earlier versions counted the parents here. Null until the day is listed again.
            children = ", ".join(f"'{child.name}'" for child in OBJECT_TYPES.values() if child.parent)
            connection.execute(f"UPDATE pipeline.coverage SET listed = NULL WHERE object_type IN ({children})")
            set_state(connection, _CHILDREN_COUNTED, "yes")
        if get_state(connection, "layout") != self.fingerprint:
            if (
                self._current_settings
                and Layout(self._current_settings(), self._hash_key).fingerprint != self.fingerprint
            ):
                raise settings_changed()
            if columns:
                refilter = Refilter(
                    self._settings, types, self._hash_key, self._kept_secrets, self._secrets, self._hash_key_name
                )
                refilter.apply(connection, columns)
            self._make_views(connection, types, columns)
            applied = {"hash key": self._hash_key_name, "secrets": self._secrets, "layout": self.fingerprint}
            for object_type in self._settings.types.values():
                applied |= recorded_rules(object_type, self._settings.rules(object_type))
                applied[f"retention of {object_type.name}"] = retention_note(self._settings, object_type)
            set_states(connection, applied)
            if columns:
                connection.execute("UPDATE pipeline.meta SET revision = revision + 1 WHERE revision > 0")

    def is_applied(self, connection: duckdb.DuckDBPyConnection) -> bool:
        """Whether the attached file was last migrated to this layout."""
        try:
            [(version,)] = connection.execute("SELECT format FROM pipeline.meta").fetchall()
            return self.is_same(version, get_state(connection, "layout"))
        except duckdb.CatalogException:
            return False  # a new file, or one of another program

    def is_same(self, version: int, fingerprint: str | None) -> bool:
        """Whether a warehouse with this `format` and this entry `layout` was last migrated to this layout."""
        return version == FORMAT and fingerprint == self.fingerprint

    def make_views(self, connection: duckdb.DuckDBPyConnection, names: Collection[str]) -> None:
        """Recreates all views, because some depend on others, and reads those in `names`, in the open transaction."""
        self._make_views(connection, stored_types(connection, self._settings.types))
        for name in names:
            connection.execute(f"FROM {name} LIMIT 1").fetchall()
        connection.execute("UPDATE pipeline.meta SET revision = revision + 1")

    def _make_views(
        self, connection: duckdb.DuckDBPyConnection, types: Mapping[str, ObjectType], stored: Collection[str] = ()
    ) -> None:
        """Creates all views, and removes those among `stored` in optional schemas that the settings no longer ask
        for."""
        wanted = self._views_on(types)
        for name in set(stored) - wanted.keys():
            if name.partition(".")[0] in _OPTIONAL:
                connection.execute(f"DROP VIEW {name}")
        for schema in _OPTIONAL - _schemas_of(wanted):
            connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        for name, select in wanted.items():
            connection.execute(f"CREATE OR REPLACE VIEW {name} AS {select}")
        set_state(connection, COMMENTS, "due")
        self.is_complete = False
        if self._in_lake:
            # In a later transaction, they would make the schema a newer one than that of rows in the catalog: each
            # process would read both.
            self.complete(connection)

    def complete(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Writes the comments of the attached file that are due, in the open transaction, before it is published. A
        thousand comments take most of a second: meanwhile, a first load reads lists already."""
        if self.is_complete or get_state(connection, COMMENTS) is None:
            return
        types = stored_types(connection, self._settings.types)
        write_comments(connection, self._settings, types.values(), on_view_columns=not self._in_lake)
        set_state(connection, COMMENTS, None)

    def _types(self, columns: Mapping[str, set[str]]) -> dict[str, ObjectType]:
        """The types that are to have a table in a file with these tables: those that the settings require, and those
        that the file holds, with their children."""
        names = {object_type.name for object_type in self._settings.required}
        return {
            name: object_type
            for name, object_type in self._settings.types.items()
            if name in names
            or f"raw.{name}" in columns
            or (not object_type.optional and f"raw.{family_of(object_type).name}" in columns)
        }

    def _views_on(self, types: Mapping[str, ObjectType]) -> dict[str, str]:
        """The SELECT of each view of a file with the tables of these types, by qualified name."""
        return selects(self._settings, types.values())

    def _missing(
        self, columns: Mapping[str, set[str]], types: Mapping[str, ObjectType], of_types: Mapping[str, str]
    ) -> Iterator[str]:
        """The statements that create the parts that a file with these tables lacks; `of_types`: the views."""
        for schema in ("raw", *MODES, *FINANCE, *sorted(_OPTIONAL & _schemas_of(of_types)), "pipeline"):
            yield f"CREATE SCHEMA IF NOT EXISTS {schema}"
        for name in sorted(PIPELINE_TABLES.keys() - {table.removeprefix("pipeline.") for table in columns}):
            yield from self._creating(f"pipeline.{name}", PIPELINE_TABLES[name].definition)
        if "pipeline.coverage" in columns and "listed" not in columns["pipeline.coverage"]:
            yield "ALTER TABLE pipeline.coverage ADD COLUMN listed BIGINT"  # since format 3
        for name in ("first_request", "last_request"):
            if "pipeline.coverage" in columns and name not in columns["pipeline.coverage"]:
                yield f"ALTER TABLE pipeline.coverage ADD COLUMN {name} VARCHAR"  # since format 7
        if "pipeline.meta" in columns and "id" not in columns["pipeline.meta"]:
            yield "ALTER TABLE pipeline.meta ADD COLUMN id VARCHAR"  # since format 3
            yield "UPDATE pipeline.meta SET id = uuid()"
        if "pipeline.gone" in columns and "livemode" not in columns["pipeline.gone"]:
            yield "ALTER TABLE pipeline.gone ADD COLUMN livemode BOOLEAN"  # since format 5
            yield "UPDATE pipeline.coverage SET how = 'sync' WHERE how = 'tick'"
            if "raw.customers" in columns:
                # Before, of two customers with the same id in both modes, the one read last replaced the other.
                yield (
                    "UPDATE pipeline.coverage SET listed_at = make_timestamptz(epoch_us(day::TIMESTAMP))"
                    " WHERE object_type = 'customers' AND (SELECT count(DISTINCT livemode) FROM pipeline.keys) = 2"
                    " AND EXISTS (FROM raw.customers WHERE NOT starts_with(id, 'cus_'))"
                )
        if columns:
            yield f"UPDATE pipeline.meta SET format = {FORMAT} WHERE format <> {FORMAT}"
        else:
            yield f"INSERT INTO pipeline.meta VALUES ({FORMAT}, 0, uuid())"
        for object_type in types.values():
            table = f"raw.{object_type.name}"
            declared = {
                column.name: _definition(column, stored=not self._in_lake) for column in object_type.table_columns
            }
            missing = [definition for name, definition in declared.items() if name not in columns.get(table, set())]
            if table not in columns:
                yield from self._creating(table, ", ".join(declared.values()))
            else:
                yield from (f"ALTER TABLE {table} ADD COLUMN {definition}" for definition in missing)

        if columns:  # `ensure` creates all views of a new file
            for name, select in of_types.items():
                if name not in columns:
                    yield f"CREATE OR REPLACE VIEW {name} AS {select}"

    def _creating(self, table: str, definition: str) -> Iterator[str]:
        """The statements that create a table."""
        yield f"CREATE TABLE {table} ({definition})"
        if self._in_lake:
            # Until a row was written, each statement asks the catalog for the statistics of every column.
            first, _, _ = definition.partition(" ")
            yield f"INSERT INTO {table} ({first}) VALUES (NULL)"
            yield f"DELETE FROM {table}"


def _schemas_of(names: Iterable[str]) -> set[str]:
    """The schemas in qualified names."""
    return {name.partition(".")[0] for name in names}


def settings_changed() -> WarehouseError:
    """The error of a run that began before the settings changed."""
    return WarehouseError("The settings were changed while this run was under way", "Run again; nothing was stored")


def _columns(connection: duckdb.DuckDBPyConnection) -> dict[str, set[str]]:
    """The columns of every existing table and view, by qualified name."""
    known = connection.execute(
        f"SELECT schema_name, table_name, column_name FROM duckdb_columns() WHERE database_name = '{CATALOG}'"
    ).fetchall()
    columns: dict[str, set[str]] = {}
    for schema, table, column in known:
        columns.setdefault(f"{schema}.{table}", set()).add(column)
    return columns


def _definition(column: Column, *, stored: bool = True) -> str:
    """The column as CREATE TABLE has it; `stored`: with how a file stores it."""
    return f'"{column.name}" {column.kind.sql_type} {column.kind.storage if stored else ""}'.rstrip()
