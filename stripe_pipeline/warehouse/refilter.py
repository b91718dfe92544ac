"""Applies changed settings to stored values: fields left out or hashed, secrets, retention.

This module changes rows that are already stored. Tables, columns and views belong to `schema`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import duckdb
import orjson

from stripe_pipeline.fields import SECRET, UNKNOWN, FieldFilter, FieldRules, path_from, path_text, without_secrets
from stripe_pipeline.objects import OBJECT_TYPES, Column, ObjectType, family_of
from stripe_pipeline.settings.ages import FOREVER, Age
from stripe_pipeline.settings.model import OnDelete, Settings
from stripe_pipeline.warehouse.file_state import NOW, get_state, request_compaction, set_states
from stripe_pipeline.warehouse.sql import exists

_FIELDS = "fields of {}"
"""The name in `pipeline.applied` of the rules that the stored rows of a table follow, as JSON."""


class Refilter:
    """Migrates a file to these settings from the settings last applied, which the file records."""

    def __init__(
        self,
        settings: Settings,
        types: Mapping[str, ObjectType],
        hash_key: bytes | None,
        kept_secrets: Mapping[str, frozenset[str]],
        secrets: str,
        hash_key_name: str,
    ) -> None:
        """`types` are those that have a table. `secrets` and `hash_key_name` are the values that the file stores: see
        `Layout`."""
        self._settings = settings
        self._types = types
        self._hash_key = hash_key
        self._kept_secrets = kept_secrets
        self._secrets = secrets
        self._hash_key_name = hash_key_name

    def apply(self, connection: duckdb.DuckDBPyConnection, columns: Mapping[str, set[str]]) -> None:
        """Makes stored data match the settings, and records the fields that only reading again can provide."""
        known_key = get_state(connection, "hash key")
        other_key = known_key is not None and known_key != self._hash_key_name
        erased = False
        again: dict[str, FieldRules] = {}
        hashed_before: dict[str, frozenset[tuple[str, ...]]] = {}
        for object_type in OBJECT_TYPES.values():
            table = object_type.name
            rules = self._settings.rules(object_type)
            before = _recorded_rules(connection, object_type)
            # A hashed value's original is unknown and cannot be hashed with another key.
            blank = before.hash if other_key else before.hash - rules.hash
            hashed_before[table] = (before.hash & rules.hash) - blank
            # Secrets in other types' rows are searched for below.
            secrets = {(name,) for name in object_type.secrets}
            again[table] = FieldRules(
                exclude=(rules.exclude - before.exclude - secrets) | blank,
                hash=rules.hash - before.hash - before.exclude,
                keep_unknown=rules.keep_unknown or not before.keep_unknown,
            )
            lacking = {path_text(path) for path in ((before.exclude | blank) - rules.exclude)}
            if rules.keep_unknown and not before.keep_unknown:
                lacking.add(UNKNOWN)
            if lacking:
                self._note_lacking(connection, object_type, lacking)
            self._forget_lacking(connection, object_type, rules)
            for name in sorted(rules.left_out & columns.get(f"raw.{table}", set())):
                connection.execute(f'ALTER TABLE raw.{table} DROP COLUMN "{name}"')
                erased = True
            if table in self._types and self._settings.on_delete_of(object_type) is OnDelete.REMOVE:
                [(removed,)] = connection.execute(f"DELETE FROM raw.{table} WHERE _deleted_at IS NOT NULL").fetchall()
                erased |= bool(removed)
        for object_type in self._settings.types.values():
            self._forget_days(connection, object_type)
        if any(again.values()):
            self._filter_again(connection, FieldFilter(again, self._hash_key, hashed_before), again)
            erased = True
        if get_state(connection, "secrets") != self._secrets:
            erased |= self._take_out_secrets(connection)
        if erased:
            request_compaction(connection, NOW)

    def _note_lacking(self, connection: duckdb.DuckDBPyConnection, object_type: ObjectType, fields: set[str]) -> None:
        """Records that rows of the type, and of others that hold its objects, were read without these fields."""
        lacking = {object_type.name: fields}
        listed = family_of(object_type)
        for other in self._types.values():
            if family_of(other) is listed:
                continue  # both are read together
            for column in other.table_columns:
                if column.kind.is_nested and exists(connection, other, column, f'"object":"{listed.object}"'):
                    of_column = lacking.setdefault(other.name, set())
                    of_column |= {f"{column.name} ({object_type.name}.{field})" for field in fields}
        for table, names in lacking.items():
            # Just after the last list, on Stripe's clock like the time of the list.
            connection.execute(
                "INSERT INTO pipeline.lacking SELECT ?, unnest(?), last + INTERVAL 1 MICROSECOND"
                " FROM (SELECT max(listed_at) AS last FROM pipeline.coverage WHERE object_type = ?)"
                " WHERE last IS NOT NULL",
                [table, sorted(names), table],
            )
        # Rows read by a stopped backfill lack the fields, too.
        connection.execute("DELETE FROM pipeline.backfills")

    def _forget_lacking(
        self, connection: duckdb.DuckDBPyConnection, object_type: ObjectType, rules: FieldRules
    ) -> None:
        """Removes the records of missing fields that the rules leave out now."""
        table = object_type.name
        for path in [*map(path_text, rules.exclude), *([] if rules.keep_unknown else [UNKNOWN])]:
            connection.execute(
                "DELETE FROM pipeline.lacking WHERE object_type = ? AND (fields = ? OR starts_with(fields, ?))"
                " OR contains(fields, ?) OR contains(fields, ?)",
                [table, path, f"{path}.", f"({table}.{path})", f"({table}.{path}."],
            )

    def _forget_days(self, connection: duckdb.DuckDBPyConnection, object_type: ObjectType) -> None:
        """Marks days as unknown if the previous retention removed rows of them that the present one keeps, so that the
        next sync lists them."""
        before, _, date_field = (get_state(connection, f"retention of {object_type.name}") or "").partition("\n")
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
        """Applies the new rules to every stored value that they concern."""

        def filtered(table: str, column: str, value: str) -> str:
            nested = OBJECT_TYPES[table].kind_of(column).is_nested
            allowed = fields.column(table, column, orjson.loads(value) if nested else value)
            if allowed is None or (column == UNKNOWN and not allowed):
                return ""
            return orjson.dumps(allowed).decode() if nested else str(allowed)

        connection.create_function("filtered", filtered, ["VARCHAR"] * 3, "VARCHAR")
        try:
            for table, object_type in self._types.items():
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
        """Removes secrets from every stored value; returns whether any existed."""

        def secretless(table: str, column: str, value: str) -> str:
            nested = OBJECT_TYPES[table].kind_of(column).is_nested
            allowed = without_secrets(orjson.loads(value) if nested else value, self._kept_secrets, name=column)
            if column == UNKNOWN and not allowed:
                return ""
            return orjson.dumps(allowed).decode() if nested else str(allowed)

        any_changed = False
        connection.create_function("secretless", secretless, ["VARCHAR"] * 3, "VARCHAR")
        try:
            for table, object_type in self._types.items():
                stay = self._kept_secrets.get(object_type.object, frozenset()) | {"metadata"}
                for column in object_type.table_columns:
                    if not column.kind.may_hold_secret or column.name in stay:
                        continue
                    name = f'"{column.name}"'
                    [(changed,)] = connection.execute(
                        f"UPDATE raw.{table}"
                        f" SET {name} = nullif(secretless('{table}', '{column.name}', {name}::VARCHAR), '')"
                        f" WHERE contains({name}::VARCHAR, '{SECRET}')"
                    ).fetchall()
                    any_changed |= bool(changed)
        finally:
            connection.remove_function("secretless")
        return any_changed


def _recorded_rules(connection: duckdb.DuckDBPyConnection, object_type: ObjectType) -> FieldRules:
    """The rules that the stored rows of a type follow."""
    stored = get_state(connection, _FIELDS.format(object_type.name))
    return FieldRules.from_json(stored) if stored else FieldRules()


def recorded_rules(object_type: ObjectType, rules: FieldRules) -> dict[str, str]:
    """The state, by name, that records which rules the stored rows of a type follow."""
    return {_FIELDS.format(object_type.name): rules.to_json()}


def convert_rules(connection: duckdb.DuckDBPyConnection) -> None:
    """Converts the rules that a file of format 5 or earlier records: a line for each path, after `-` if the field is
    left out, after `#` if it is hashed."""
    converted: dict[str, str] = {}
    for object_type in OBJECT_TYPES.values():
        lines = (get_state(connection, _FIELDS.format(object_type.name)) or "").split("\n")
        left_out = {path_from(line[1:]) for line in lines if line.startswith("-")}
        hashed = {path_from(line[1:]) for line in lines if line.startswith("#")}
        unknown = (UNKNOWN,)
        rules = FieldRules(frozenset(left_out - {unknown}), frozenset(hashed), unknown not in left_out)
        converted |= recorded_rules(object_type, rules)
    set_states(connection, converted)


def retention_note(settings: Settings, object_type: ObjectType) -> str:
    """How long rows are kept and by which date, as the file stores it."""
    return f"{settings.retention_of(object_type) or FOREVER}\n{object_type.date_field}"


def _concerned(object_type: ObjectType, column: Column, rules: Mapping[str, FieldRules]) -> str:
    """The condition for values of this column that the rules may concern; empty if they cannot."""
    own = rules[object_type.name]
    if any(path[0] == column.name for path in own.exclude | own.hash):
        return "true"
    if not column.kind.is_nested:
        return ""
    if column.name == UNKNOWN and own:
        return "true"
    holding = []
    for table, of_table in rules.items():
        held = OBJECT_TYPES[table]
        if of_table and held.parent == object_type.name and held.embedded_in == column.name:
            return "true"
        if of_table:
            # A child may lack an `object` of its own in its parent.
            names = {held.object, family_of(held).object}
            holding += [f'contains("{column.name}"::VARCHAR, \'"{name}"\')' for name in sorted(names)]
    return f"({' OR '.join(holding)})" if holding else ""
