"""Erasing customers from the warehouse's tables, and keeping out what was erased; noticing what Stripe redacted.

Which fields may hold something about a person is declared in `objects`. Compacting the file, so that nothing is left of
them in its bytes, and publishing it belong to `warehouse`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import duckdb
import orjson

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import utc_day
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.fields import UNKNOWN, FieldFilter, FieldRules, hashed, load_hash_key, path_from
from stripe_pipeline.objects import CUSTOMERS, OBJECT_TYPES, Kind, ObjectType, Reference
from stripe_pipeline.storage_errors import remedy
from stripe_pipeline.warehouse.file_state import AT_ONCE, DAILY, request_compaction
from stripe_pipeline.warehouse.sql import literal

_STRIPES_OWN = r"cus_[A-Za-z0-9]+"
"""Customer ids that Stripe makes. Others are chosen by the shop and may be e-mail addresses."""

_FIRST = ("customers", "payment_intents", "invoices", "charges", "refunds", "disputes")
"""Tables in an order in which what names a customer comes before what names only that."""

_BARE = FieldFilter(
    {
        it.name: FieldRules(frozenset(path_from(path) for path in (*it.personal, *it.about_person)), keep_unknown=False)
        for it in OBJECT_TYPES.values()
    }
)
"""Leaves of each object what bookkeeping needs: ids, amounts, dates, states. Unknown fields may hold anything."""

_LIST = "temp.erased"


@dataclass
class Erased:
    """What concerns one customer."""

    rows: dict[str, int] = field(default_factory=dict)
    """How many rows lose their personal data, by table name; of `customers`, how many are removed."""
    known: bool = False
    """Whether the tables hold anything of this customer, or did before an earlier erasure."""


class Erasure:
    """What was erased from the file that `connection` has attached, within the transaction under way."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        types: Mapping[str, ObjectType],
        *,
        hash_key: bytes | None,
        own_key: Callable[[], bytes],
    ) -> None:
        """`types` have the columns that the settings keep. `hash_key` is what the settings hash with, if they do.
        `own_key` gives the data folder's own key, by which customers whose id the shop chose are recognized."""
        self._connection = connection
        self._types = types
        self._hash_key = hash_key
        self._own_key = own_key
        self._fresh = False

    def has_any(self) -> bool:
        """Whether anybody was erased."""
        [(found,)] = self._connection.execute("SELECT EXISTS (FROM pipeline.erased)").fetchall()
        return bool(found)

    def begin(self) -> None:
        """Make the list of what was erased; the other methods need it."""
        self._connection.execute(
            "CREATE OR REPLACE TEMP TABLE erased AS SELECT *, id AS written, false AS fresh FROM pipeline.erased"
        )
        if self._hash_key is not None:
            # Where the settings hash a reference, rows hold this in place of the id.
            entries = self._connection.execute(f"SELECT customer, object_type, id, created FROM {_LIST}").fetchall()
            for customer, table, object_id, created in entries:
                name = hashed(object_id, self._hash_key)
                self._add(customer, table, name, written=name, created=created, fresh=False)

    def add(self, customer: str) -> Erased:
        """Put a customer on the list, with everything in the tables that belongs to this customer."""
        known = Erased()
        name = self._pseudonym(customer)
        [(listed,)] = self._connection.execute(
            f"SELECT EXISTS (FROM {_LIST} WHERE object_type = 'customers' AND id = {literal(name)})"
        ).fetchall()
        created = self._connection.execute(
            f"SELECT created FROM raw.customers WHERE id = {literal(customer)}"
        ).fetchall()
        for (at,) in created or [(None,)]:  # in both modes, if the shop chose the same id there
            if not listed:
                self._add(name, "customers", name, written=name, fresh=True, created=at)
        if name != customer:
            self._add(name, "customers", customer, written=name, fresh=False)
        if self._hash_key is not None and (in_rows := hashed(customer, self._hash_key)) != name:
            # Of an id that the shop chose this has to be kept too: later the id itself is not known any more.
            self._add(name, "customers", in_rows, written=in_rows, fresh=name != customer and not listed)
        self._spread()
        for object_type in self._types.values():
            [(rows,)] = self._connection.execute(
                f"SELECT count(*) FROM raw.{object_type.name} WHERE {self._of(object_type, literal(name))}"
            ).fetchall()
            if rows:
                known.rows[object_type.name] = int(rows)
        known.known = bool(listed or known.rows)
        return known

    def apply(self) -> None:
        """Remove the listed customers from the tables, and what others copied of them; keep them out from now on."""
        with self._functions():
            for object_type in self._types.values():
                self._strip(f"raw.{object_type.name}", object_type)
        self._keep()
        request_compaction(self._connection, AT_ONCE)

    def strip_incoming(self, object_type: ObjectType) -> None:
        """Take out of `temp.incoming`, rows of `object_type` on their way in, what was erased."""
        if object_type.parent is None:
            self._recognize(object_type)
            self._find(object_type, "temp.incoming")
        of_erased = f"SELECT EXISTS (FROM temp.incoming WHERE {self._of(object_type)})"
        if self._connection.execute(of_erased).fetchall() == [(True,)]:
            with self._functions():
                self._strip("temp.incoming", object_type)

    def finish(self) -> None:
        """Strip what lies in the tables and only now turns out to belong to an erased customer; end the list."""
        if self._fresh and self._spread():
            with self._functions():
                for object_type in self._types.values():
                    self._strip(f"raw.{object_type.name}", object_type)
            request_compaction(self._connection, DAILY)
        self._keep()

    def forget(self, customer: str) -> dict[str, set[date]] | None:
        """Keep a customer out no longer. The UTC days of `created` of what was erased, by table name; None if this
        customer was not."""
        name = self._pseudonym(customer)
        removed = self._connection.execute(
            f"DELETE FROM pipeline.erased WHERE customer = {literal(name)} RETURNING object_type, {utc_day('created')}"
        ).fetchall()
        days: dict[str, set[date]] = {}
        for table, day in removed:
            if day is not None:
                days.setdefault(table, set()).add(day)
        return days if removed else None

    def _pseudonym(self, customer: str) -> str:
        """How the file names an erased customer: by the id if Stripe made it, else by a keyed hash of it."""
        return customer if re.fullmatch(_STRIPES_OWN, customer) else hashed(customer, self._own_key())

    def _add(
        self, customer: str, table: str, object_id: str, *, written: str, fresh: bool, created: object = None
    ) -> None:
        self._connection.execute(
            f"INSERT INTO {_LIST} (customer, object_type, id, created, written, fresh) VALUES (?, ?, ?, ?, ?, ?)",
            [customer, table, object_id, created, written, fresh],
        )

    def _recognize(self, object_type: ObjectType) -> None:
        """List the ids, chosen by the shop, of erased customers among the incoming rows."""
        names = self._connection.execute(
            f"SELECT id FROM {_LIST} WHERE object_type = 'customers' AND NOT regexp_full_match(id, '{_STRIPES_OWN}')"
        ).fetchall()
        if not names:
            return
        erased = {name for (name,) in names}
        columns = ["id"] if object_type.name == CUSTOMERS.name else []
        columns += [it.column for it in self._references(object_type) if it.target == CUSTOMERS.name]
        for column in columns:
            by_shop = f"NOT regexp_full_match({column}, '{_STRIPES_OWN}')"
            found = self._connection.execute(f"SELECT DISTINCT {column} FROM temp.incoming WHERE {by_shop}").fetchall()
            for (chosen,) in found:
                name = hashed(chosen, self._own_key())
                if name in erased and chosen not in erased:
                    self._add(name, "customers", chosen, written=name, fresh=False)

    def _references(self, object_type: ObjectType) -> list[Reference]:
        """The references whose column is the id of what is named, of those that the settings keep."""
        names = self._types[object_type.name].column_names
        return [it for it in object_type.references if not it.path and it.column in names]

    def _find(self, object_type: ObjectType, rows: str) -> bool:
        """List what in `rows` names something listed; whether there was any that was not listed yet."""
        if "id" not in object_type.key or object_type.name == CUSTOMERS.name or object_type.parent:
            return False
        naming = " UNION ALL ".join(
            f"SELECT r.id, r.created, e.customer FROM {rows} r JOIN {_LIST} e"
            f" ON e.object_type = '{it.target}' AND e.id = r.\"{it.column}\""
            for it in self._references(object_type)
        )
        if not naming:
            return False
        [(found,)] = self._connection.execute(
            f"INSERT INTO {_LIST} (customer, object_type, id, created, written, fresh)"
            f" SELECT any_value(customer), '{object_type.name}', id, min(created), id, true FROM ({naming})"
            f" WHERE id NOT IN (SELECT id FROM {_LIST} WHERE object_type = '{object_type.name}') GROUP BY id"
        ).fetchall()
        self._fresh |= bool(found)
        return bool(found)

    def _spread(self) -> bool:
        """List what in the tables belongs to what is listed; whether there was any that was not listed yet."""
        found = False
        while sum(self._find(object_type, f"raw.{object_type.name}") for object_type in self._types.values()):
            found = True
        return found

    def _of(self, object_type: ObjectType, customer: str | None = None) -> str:
        """The condition for rows of what is listed; of one customer (SQL) if that is given."""
        those = f" AND customer = {customer}" if customer else ""
        key, owner = (object_type.parent_key, object_type.parent) if object_type.parent else ("id", object_type.name)
        return f"{key} IN (SELECT id FROM {_LIST} WHERE object_type = '{owner}'{those})"

    def _strip(self, rows: str, object_type: ObjectType) -> None:
        """Leave in `rows` what bookkeeping needs of those that are listed; of customers nothing."""
        if object_type.name == CUSTOMERS.name:
            self._connection.execute(f"DELETE FROM {rows} WHERE {self._of(object_type)}")
            return
        declared = OBJECT_TYPES[object_type.name]
        whole = {*declared.personal, *declared.about_person}
        customers = {it.column for it in declared.references if it.target == CUSTOMERS.name and not it.path}
        changes = []
        for column in self._types[object_type.name].table_columns:
            name = f'"{column.name}"'
            if column.name in whole:
                changes.append(f"{name} = NULL")
            elif column.kind is Kind.NESTED:
                bare = f"bare('{object_type.name}', '{column.name}', {name}::VARCHAR)"
                changes.append(f"{name} = CASE WHEN {name} IS NOT NULL THEN nullif({bare}, '') END")
            elif column.name in customers:
                written = (
                    f"SELECT any_value(e.written) FROM {_LIST} e WHERE e.object_type = 'customers' AND e.id = {name}"
                )
                changes.append(f"{name} = coalesce(({written}), {name})")
        self._connection.execute(f"UPDATE {rows} SET {', '.join(changes)} WHERE {self._of(object_type)}")

    def _keep(self) -> None:
        """Keep out from now on what was listed in this transaction."""
        self._connection.execute(
            f"INSERT INTO pipeline.erased SELECT customer, object_type, id, created FROM {_LIST} WHERE fresh"
        )
        self._connection.execute(f"UPDATE {_LIST} SET fresh = false")
        self._fresh = False

    @contextmanager
    def _functions(self) -> Iterator[None]:
        def bare(table: str, column: str, value: str) -> str:
            kept = _BARE.column(table, column, orjson.loads(value))
            return "" if kept is None or (column == UNKNOWN and not kept) else orjson.dumps(kept).decode()

        self._connection.create_function("bare", bare, ["VARCHAR"] * 3, "VARCHAR")
        try:
            yield
        finally:
            self._connection.remove_function("bare")


def own_key(folder: DataFolder) -> bytes:
    """The data folder's own key, by which erased customers whose ids the shop chose are recognized.

    The environment's key does not take its place: it may change. Raises `WarehouseError` if the key cannot be kept.
    """
    try:
        return load_hash_key(folder, environment={})
    except WarehouseError as error:
        if isinstance(error.__cause__, OSError):
            advice = remedy(error.__cause__, folder.hash_key)
        else:
            advice = (
                "Put back what it held. If that is lost, remove it: the next run makes another key; erased customers"
                " whose ids your shop chose are no longer recognized then, so erase them again"
            )
        raise WarehouseError(error.what, advice) from error.__cause__


def load_order(object_type: ObjectType) -> int:
    """The place of a type among those that are loaded together: whose an object is should be known before its own."""
    return _FIRST.index(object_type.name) if object_type.name in _FIRST else len(_FIRST)


def redacted(connection: duckdb.DuckDBPyConnection, object_type: ObjectType, accepted: str, known: str) -> bool:
    """Whether the rows in `temp.incoming` whose keys are in `accepted` as updated lack personal data that the rows in
    `known` hold, or have a placeholder in its place (`[redacted]`, docs.stripe.com/privacy/redaction)."""
    names = object_type.column_names
    lasting = [name for name in object_type.personal if name in names]
    others = {path_from(path)[0] for path in object_type.about_person} & set(names)
    looked_at = [*lasting, *sorted(others), UNKNOWN]
    if connection.execute(f"SELECT EXISTS (FROM {accepted} WHERE _change = 'updated')").fetchall() == [(False,)]:
        return False
    keys = " AND ".join(f"a.{key} = i.{key} AND a.{key} = c.{key}" for key in object_type.key)
    pairs = ", ".join(f'c."{name}"::VARCHAR, i."{name}"::VARCHAR' for name in looked_at)
    differ = " OR ".join(f'i."{name}" IS DISTINCT FROM c."{name}"' for name in looked_at)
    rows = connection.execute(
        f"SELECT {pairs} FROM {accepted} a, temp.incoming i, {known} c WHERE {keys} AND a._change = 'updated'"
        f" AND ({differ})"
    ).fetchall()
    for row in rows:
        for place, name in enumerate(looked_at):
            before, after = row[2 * place], row[2 * place + 1]
            if before is None or before == after:
                continue
            if "redacted" in (after or "").lower() and "redacted" not in before.lower():
                return True
            if name in lasting:
                nested = object_type.kind_of(name) is Kind.NESTED
                if _lost(
                    orjson.loads(before) if nested else before, orjson.loads(after or "null") if nested else after
                ):
                    return True
    return False


def _lost(before: Any, after: Any) -> bool:
    """Whether anything that was there is empty or missing."""
    if before in (None, "", [], {}):
        return False
    if after in (None, "", [], {}):
        return True
    if isinstance(before, dict) and isinstance(after, dict):
        return any(_lost(value, after.get(name)) for name, value in before.items())
    if isinstance(before, list) and isinstance(after, list):
        return len(after) < len(before) or any(_lost(*both) for both in zip(before, after, strict=False))
    return False
