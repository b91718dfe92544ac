"""The layout of the warehouse's file: schemas, tables, columns, views and comments, and bringing a file to it.

What was stored and is no longer wanted, because the settings leave it out now, is erased here. Rows are written by
`warehouse`, the views' text comes from `views`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import duckdb
import orjson

from stripe_pipeline.data_folder import CATALOG
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.fields import SECRET, UNKNOWN, FieldFilter, FieldRules, kept_secrets, path_from, without_secrets
from stripe_pipeline.objects import OBJECT_TYPES, Column, Kind, ObjectType, family_of
from stripe_pipeline.settings.ages import FOREVER, Age
from stripe_pipeline.settings.model import OnDelete, Settings
from stripe_pipeline.views import one_type as views

FORMAT = 4
"""Layout of the file; raised when older code could no longer write it rightly."""
ROW_GROUP = 10_240
"""Rows that are compressed and written together: about what a backfill loads at once. DuckDB's own 122,880 are kept in
memory until they are full, and compressed anew at each load till then."""
_CHILDREN_COUNTED = "coverage counts children"
"""Noted where `pipeline.coverage.listed` of a child counts the children."""
_SECRETS_TAKEN_OUT = 2
"""Raised when `fields.without_secrets` finds more than it did, so that existing files are brought to that."""
NOW, AT_ONCE, DAILY = "now", "at once", "daily"
"""How soon a file must be compacted, so that nothing is left in it of what was erased. With `NOW` the settings have
changed, and what runs have on their way is of no use any more."""
_PIPELINE_TABLES = {
    "meta": "format INTEGER, revision BIGINT, id VARCHAR",
    "keys": "fingerprint VARCHAR, account VARCHAR, livemode BOOLEAN",
    "clock": "lowest DOUBLE, highest DOUBLE",
    "cursors": "account VARCHAR, livemode BOOLEAN, name VARCHAR, read_until TIMESTAMPTZ",
    # Found gone, or too old to be kept, where no row tells it: a list on its way may still hold them.
    "gone": "object_type VARCHAR, id VARCHAR, found_at TIMESTAMPTZ",
    "coverage": "object_type VARCHAR, account VARCHAR, livemode BOOLEAN, day DATE, listed_at TIMESTAMPTZ,"
    ' listed_until TIMESTAMPTZ, "rows" BIGINT, how VARCHAR, listed BIGINT',
    # What the inbox holds and was tried in vain, as of the last publish.
    "inbox": "event_id VARCHAR, livemode BOOLEAN, object VARCHAR, object_id VARCHAR, received_at TIMESTAMPTZ,"
    " attempts INTEGER, state VARCHAR, error VARCHAR",
    # Backfills that were begun and have not ended.
    "backfills": "request VARCHAR, account VARCHAR, livemode BOOLEAN, began TIMESTAMPTZ",
    # The settings that the file was brought to, and what is still to be done for them.
    "applied": "name VARCHAR, value VARCHAR",
    # Customers that were erased, and the objects that belong to them: none of it is to come back. `customer` is an id
    # that Stripe made, or a keyed hash of one that the shop chose.
    "erased": "customer VARCHAR, object_type VARCHAR, id VARCHAR, created TIMESTAMPTZ",
    # One row: which version of the published file this is, and up to when events were read for it.
    "published": "version BIGINT, published_at TIMESTAMPTZ, live_read_until TIMESTAMPTZ, test_read_until TIMESTAMPTZ",
    # Fields, a row each, that rows listed before `since` lack, because the settings did not want them then.
    "lacking": "object_type VARCHAR, fields VARCHAR, since TIMESTAMPTZ",
}


class Layout:
    """What the settings make of the file; `hash_key` is there where they hash."""

    def __init__(
        self, settings: Settings, hash_key: bytes | None, settings_now: Callable[[], Settings] | None = None
    ) -> None:
        """`settings_now` tells what the settings are by now; without it they stay as they are."""
        self._settings = settings
        self._settings_now = settings_now
        self._hash_key = hash_key
        self._views = views.definitions(settings)

    @cached_property
    def fingerprint(self) -> str:
        """The same for settings that ask for the same tables, fields and views."""
        rules = [
            f"{t.name} {self._settings.rules(t)} {self._settings.on_delete_of(t)} {self._kept(t)}"
            for t in self._settings.types.values()
        ]
        said = [self._views, list(self._comments()), rules, self._hash_key_name, self._secrets]
        return hashlib.sha256(orjson.dumps(said)).hexdigest()

    @cached_property
    def _kept_secrets(self) -> Mapping[str, frozenset[str]]:
        return kept_secrets({name: self._settings.rules(it) for name, it in self._settings.types.items()})

    @property
    def _secrets(self) -> str:
        """Which secrets of Stripe's are taken out of what is stored."""
        kept = sorted(f"{it}.{name}" for it, names in self._kept_secrets.items() for name in names)
        return f"{_SECRETS_TAKEN_OUT} {' '.join(kept)}".strip()

    @property
    def _hash_key_name(self) -> str:
        """Tells one key from another and not what it is."""
        return hashlib.sha256(b"stripe_pipeline " + self._hash_key).hexdigest()[:16] if self._hash_key else ""

    def ensure(self, connection: duckdb.DuckDBPyConnection, path: Path, *, commit: bool = True) -> None:
        """Bring the attached file to this layout: make what is missing, take out what is no longer wanted.

        Without `commit` the transaction stays open. Raises `WarehouseError` for a file of another program or of a newer
        version, and where the settings are others by now: then another run has brought the file to those, or will.
        """
        columns = _columns(connection)
        if columns and "pipeline.meta" not in columns:
            raise WarehouseError(
                f"{path} is a DuckDB file of another program",
                "Move it away, or name another folder in STRIPE_PIPELINE_DATA",
            )
        if columns:
            [(found,)] = connection.execute("SELECT format FROM pipeline.meta").fetchall()
            if found > FORMAT:
                raise WarehouseError(
                    f"{path} was written by a newer stripe_pipeline (format {found}, this one knows {FORMAT})",
                    "Upgrade stripe_pipeline",
                )
        statements = list(self._missing(columns))
        connection.execute("BEGIN")
        for statement in statements:
            connection.execute(statement)
        if applied(connection, _CHILDREN_COUNTED) is None:
            # Earlier versions counted the parents here. Null until the day is listed again.
            children = ", ".join(f"'{it.name}'" for it in OBJECT_TYPES.values() if it.parent)
            connection.execute(f"UPDATE pipeline.coverage SET listed = NULL WHERE object_type IN ({children})")
            note(connection, _CHILDREN_COUNTED, "yes")
        if applied(connection, "layout") != self.fingerprint:
            if self._settings_now and Layout(self._settings_now(), self._hash_key).fingerprint != self.fingerprint:
                raise settings_changed()
            if columns:
                self._change(connection, columns)
            for name, select in self._views.items():
                connection.execute(f"CREATE OR REPLACE VIEW {name} AS {select}")
            for statement in self._comments():
                connection.execute(statement)
            for object_type in self._settings.types.values():
                note(connection, f"fields of {object_type.name}", str(self._settings.rules(object_type)))
                note(connection, f"retention of {object_type.name}", self._kept(object_type))
            note(connection, "hash key", self._hash_key_name)
            note(connection, "secrets", self._secrets)
            note(connection, "layout", self.fingerprint)
            if columns:
                connection.execute("UPDATE pipeline.meta SET revision = revision + 1 WHERE revision > 0")
        if commit:
            connection.execute("COMMIT")

    def _missing(self, columns: Mapping[str, set[str]]) -> Iterator[str]:
        for schema in ("raw", *views.MODES, "pipeline"):
            yield f"CREATE SCHEMA IF NOT EXISTS {schema}"
        for name, body in _PIPELINE_TABLES.items():
            yield f"CREATE TABLE IF NOT EXISTS pipeline.{name} ({body})"
        if "pipeline.coverage" in columns and "listed" not in columns["pipeline.coverage"]:
            yield "ALTER TABLE pipeline.coverage ADD COLUMN listed BIGINT"  # since format 3
        if "pipeline.meta" in columns and "id" not in columns["pipeline.meta"]:
            yield "ALTER TABLE pipeline.meta ADD COLUMN id VARCHAR"  # since format 3
            yield "UPDATE pipeline.meta SET id = uuid()"
        if columns:
            yield f"UPDATE pipeline.meta SET format = {FORMAT} WHERE format <> {FORMAT}"
        else:
            yield f"INSERT INTO pipeline.meta VALUES ({FORMAT}, 0, uuid())"
        for object_type in self._settings.types.values():
            table = f"raw.{object_type.name}"
            declared = {column.name: _definition(column) for column in object_type.table_columns}
            missing = [definition for name, definition in declared.items() if name not in columns.get(table, set())]
            if table not in columns:
                yield f"CREATE TABLE {table} ({', '.join(declared.values())})"
            else:
                yield from (f"ALTER TABLE {table} ADD COLUMN {definition}" for definition in missing)
            for schema in views.MODES:
                name = f"{schema}.{object_type.name}"
                if name not in columns:
                    yield f"CREATE OR REPLACE VIEW {name} AS {self._views[name]}"

    def _comments(self) -> Iterator[str]:
        for object_type in self._settings.types.values():
            title = self._settings.title(object_type)
            said = f"{title[:1].upper()}{title[1:]}. {object_type.description}"
            yield f"COMMENT ON TABLE raw.{object_type.name} IS {literal(said)}"
            for schema in views.MODES:
                of_mode = f"{said} {schema.capitalize()} mode only, without deleted objects."
                yield f"COMMENT ON VIEW {schema}.{object_type.name} IS {literal(of_mode)}"

    def _change(self, connection: duckdb.DuckDBPyConnection, columns: Mapping[str, set[str]]) -> None:
        """Make what is stored what the settings now want of it, and note what only reading again can bring."""
        known_key = applied(connection, "hash key")
        other_key = known_key is not None and known_key != self._hash_key_name
        erased = False
        again: dict[str, FieldRules] = {}
        hashed_before: dict[str, frozenset[tuple[str, ...]]] = {}
        for object_type in OBJECT_TYPES.values():
            table = object_type.name
            rules = self._settings.rules(object_type)
            before = set((applied(connection, f"fields of {table}") or "").splitlines())
            now = set(str(rules).splitlines())
            # What was hashed cannot be told any more, nor be hashed with another key.
            blank = {it for it in before if it[0] == "#" and (it not in now or other_key)}
            left_out = {it for it in now - before if it[0] == "-"}
            hashed = {it for it in now - before if it[0] == "#" and f"-{it[1:]}" not in before}
            hashed_before[table] = frozenset(path_from(it[1:]) for it in (before & now) - blank if it[0] == "#")
            # Secrets that others hold are looked for everywhere, below.
            secrets = {f"-{name}" for name in object_type.secrets}
            again[table] = FieldRules(
                frozenset(path_from(it[1:]) for it in (left_out - secrets) | blank if it[1:] != UNKNOWN),
                frozenset(path_from(it[1:]) for it in hashed),
                keep_unknown=f"-{UNKNOWN}" not in left_out,
            )
            lacking = {it[1:] for it in (before - now) | blank if f"-{it[1:]}" not in now}
            if lacking:
                self._note_lacking(connection, object_type, lacking)
            for path in (it[1:] for it in now if it[0] == "-"):
                connection.execute(
                    "DELETE FROM pipeline.lacking WHERE object_type = ? AND (fields = ? OR starts_with(fields, ?))"
                    " OR contains(fields, ?) OR contains(fields, ?)",
                    [table, path, f"{path}.", f"({table}.{path})", f"({table}.{path}."],
                )
            for name in sorted(rules.left_out & columns.get(f"raw.{table}", set())):
                connection.execute(f'ALTER TABLE raw.{table} DROP COLUMN "{name}"')
                erased = True
            if self._settings.on_delete_of(object_type) is OnDelete.REMOVE:
                removed = connection.execute(f"DELETE FROM raw.{table} WHERE _deleted_at IS NOT NULL RETURNING 1")
                erased |= bool(removed.fetchall())
        for object_type in self._settings.types.values():
            self._forget_days(connection, object_type)
        if any(again.values()):
            self._filter_again(connection, FieldFilter(again, self._hash_key, hashed_before), again)
            erased = True
        if applied(connection, "secrets") != self._secrets:
            erased |= self._take_out_secrets(connection)
        if erased:
            want_compaction(connection, NOW)

    def _note_lacking(self, connection: duckdb.DuckDBPyConnection, object_type: ObjectType, fields: set[str]) -> None:
        """Note that rows of the type, and of others that hold its objects, were read without these fields."""
        lacking = {object_type.name: fields}
        listed = family_of(object_type)
        for other in self._settings.types.values():
            if family_of(other) is listed:
                continue  # they are read together
            for column in other.table_columns:
                if column.kind is Kind.NESTED and _exists(connection, other, column, f'"object":"{listed.object}"'):
                    of_column = lacking.setdefault(other.name, set())
                    of_column |= {f"{column.name} ({object_type.name}.{it})" for it in fields}
        for table, names in lacking.items():
            # By Stripe's clock, as lists are: behind the last of them.
            connection.execute(
                "INSERT INTO pipeline.lacking SELECT ?, unnest(?), last + INTERVAL 1 MICROSECOND"
                " FROM (SELECT max(listed_at) AS last FROM pipeline.coverage WHERE object_type = ?)"
                " WHERE last IS NOT NULL",
                [table, sorted(names), table],
            )
        # What one that was stopped has read lacks them too.
        connection.execute("DELETE FROM pipeline.backfills")

    def _kept(self, object_type: ObjectType) -> str:
        """How long rows are kept, and by which date."""
        return f"{self._settings.retention_of(object_type) or FOREVER}\n{object_type.date_field}"

    def _forget_days(self, connection: duckdb.DuckDBPyConnection, object_type: ObjectType) -> None:
        """Take days for unknown that lack what was too old until now, so that the next tick lists them."""
        before, _, date_field = (applied(connection, f"retention of {object_type.name}") or "").partition("\n")
        if (age := Age.from_text(before)) is None:
            return
        cutoff = age.before(datetime.now(UTC).date())
        wanted = self._settings.cutoff(object_type)
        if wanted is None or wanted < cutoff or object_type.date_field != date_field:
            of_days = f" AND day < DATE '{cutoff}'" if date_field == "created" else ""
            connection.execute(f"DELETE FROM pipeline.coverage WHERE object_type = '{object_type.name}'{of_days}")

    def _filter_again(
        self, connection: duckdb.DuckDBPyConnection, fields: FieldFilter, rules: Mapping[str, FieldRules]
    ) -> None:
        """Put every stored value that the new rules concern through them."""

        def filtered(table: str, column: str, value: str) -> str:
            nested = OBJECT_TYPES[table].kind_of(column) is Kind.NESTED
            kept = fields.column(table, column, orjson.loads(value) if nested else value)
            if kept is None or (column == UNKNOWN and not kept):
                return ""
            return orjson.dumps(kept).decode() if nested else str(kept)

        connection.create_function("filtered", filtered, ["VARCHAR"] * 3, "VARCHAR")
        try:
            for table, object_type in self._settings.types.items():
                for column in object_type.table_columns:
                    if where := _concerned(object_type, column, rules):
                        name = f'"{column.name}"'
                        connection.execute(
                            f"UPDATE raw.{table}"
                            f" SET {name} = nullif(filtered('{table}', '{column.name}', {name}::VARCHAR), '')"
                            f" WHERE {name} IS NOT NULL AND {where}"
                        )
        finally:
            connection.remove_function("filtered")

    def _take_out_secrets(self, connection: duckdb.DuckDBPyConnection) -> bool:
        """Take secrets out of every stored value; whether there were any."""

        def secretless(table: str, column: str, value: str) -> str:
            nested = OBJECT_TYPES[table].kind_of(column) is Kind.NESTED
            kept = without_secrets(orjson.loads(value) if nested else value, self._kept_secrets, name=column)
            if column == UNKNOWN and not kept:
                return ""
            return orjson.dumps(kept).decode() if nested else str(kept)

        found = False
        connection.create_function("secretless", secretless, ["VARCHAR"] * 3, "VARCHAR")
        try:
            for table, object_type in self._settings.types.items():
                stay = self._kept_secrets.get(object_type.object, frozenset()) | {"metadata"}
                for column in object_type.table_columns:
                    if column.kind not in (Kind.TEXT, Kind.NESTED) or column.name in stay:
                        continue
                    name = f'"{column.name}"'
                    [(changed,)] = connection.execute(
                        f"UPDATE raw.{table}"
                        f" SET {name} = nullif(secretless('{table}', '{column.name}', {name}::VARCHAR), '')"
                        f" WHERE contains({name}::VARCHAR, '{SECRET}')"
                    ).fetchall()
                    found |= bool(changed)
        finally:
            connection.remove_function("secretless")
        return found


def _concerned(object_type: ObjectType, column: Column, rules: Mapping[str, FieldRules]) -> str:
    """The condition for values of this column that the rules may concern; empty if they cannot."""
    own = rules[object_type.name]
    if any(path[0] == column.name for path in own.exclude | own.hash):
        return "true"
    if column.kind is not Kind.NESTED:
        return ""
    if column.name == UNKNOWN and own:
        return "true"
    holding = []
    for table, them in rules.items():
        held = OBJECT_TYPES[table]
        if them and held.parent == object_type.name and held.embedded_in == column.name:
            return "true"
        if them:
            # A child may be without a name of its own in its parent.
            names = {held.object, family_of(held).object}
            holding += [f'contains("{column.name}"::VARCHAR, \'"{name}"\')' for name in sorted(names)]
    return f"({' OR '.join(holding)})" if holding else ""


def _exists(connection: duckdb.DuckDBPyConnection, object_type: ObjectType, column: Column, text: str) -> bool:
    """Whether any row has this text in the column."""
    [(found,)] = connection.execute(
        f'SELECT EXISTS (FROM raw.{object_type.name} WHERE contains("{column.name}"::VARCHAR, {literal(text)}))'
    ).fetchall()
    return bool(found)


def settings_changed() -> WarehouseError:
    """What a run that began before a change of the settings ends with."""
    return WarehouseError("The settings were changed while this run was under way", "Run again; nothing was stored")


def applied(connection: duckdb.DuckDBPyConnection, name: str) -> str | None:
    """What is noted of the settings that the file was brought to."""
    found = connection.execute(f"SELECT value FROM pipeline.applied WHERE name = {literal(name)}").fetchall()
    return str(found[0][0]) if found else None


def note(connection: duckdb.DuckDBPyConnection, name: str, value: str | None) -> None:
    """Note it in place of what was noted before; nothing for None."""
    connection.execute("DELETE FROM pipeline.applied WHERE name = ?", [name])
    if value is not None:
        connection.execute("INSERT INTO pipeline.applied VALUES (?, ?)", [name, value])


def want_compaction(connection: duckdb.DuckDBPyConnection, when: str) -> None:
    """Note that something was erased which must not stay in any file.

    `NOW` and `AT_ONCE` it is compacted at the next look, `DAILY` when it is next pruned.
    """
    by_urgency = (None, DAILY, AT_ONCE, NOW)
    if by_urgency.index(applied(connection, "compact")) < by_urgency.index(when):
        note(connection, "compact", when)


def attach(connection: duckdb.DuckDBPyConnection, path: Path, catalog: str = CATALOG) -> None:
    """Attach the file, which is made if it is not there, so that DuckDB 1.4 to 2.0 can read it."""
    made = "" if path.exists() else ", STORAGE_VERSION 'v1.4.0'"
    connection.execute(f"ATTACH {literal(str(path))} AS {catalog} (TYPE duckdb, ROW_GROUP_SIZE {ROW_GROUP}{made})")


def _columns(connection: duckdb.DuckDBPyConnection) -> dict[str, set[str]]:
    """The columns of every table and view that is there, by qualified name."""
    known = connection.execute(
        f"SELECT schema_name, table_name, column_name FROM duckdb_columns() WHERE database_name = '{CATALOG}'"
    ).fetchall()
    columns: dict[str, set[str]] = {}
    for schema, table, column in known:
        columns.setdefault(f"{schema}.{table}", set()).add(column)
    return columns


def _definition(column: Column) -> str:
    # Nested JSON takes a third of the space with zstd.
    compression = " USING COMPRESSION zstd" if column.kind is Kind.NESTED else ""
    return f'"{column.name}" {column.kind.sql_type}{compression}'


def literal(text: str) -> str:
    """`text` as SQL, for what ticks and loads ask: to bind its first parameter, DuckDB's client loads pandas, 0.3 s."""
    return "'" + text.replace("'", "''") + "'"
