"""Erasing customers from the warehouse's tables, and keeping erased data out; detecting redactions by Stripe.

The fields that may hold personal data are declared in `objects`. Compacting the file, so that no erased data is left in
its bytes, and publishing the file belong to `warehouse`.
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
from stripe_pipeline.objects import CUSTOMERS, OBJECT_TYPES, ObjectType, Reference
from stripe_pipeline.storage_errors import remedy
from stripe_pipeline.warehouse.file_state import AT_ONCE, DAILY, request_compaction
from stripe_pipeline.warehouse.sql import literal

_STRIPES_OWN = r"cus_[A-Za-z0-9]+"
"""Customer ids that Stripe generates. Others are chosen by the shop and may be e-mail addresses."""

_FIRST = ("customers", "payment_intents", "invoices", "charges", "refunds", "disputes")
"""Tables that name customers come before tables that name only rows of these."""

_BARE = FieldFilter(
    {
        object_type.name: FieldRules(
            frozenset(path_from(path) for path in (*object_type.personal, *object_type.about_person)),
            keep_unknown=False,
        )
        for object_type in OBJECT_TYPES.values()
    }
)
"""Keeps only the fields that bookkeeping needs: ids, amounts, dates, states. Unknown fields may hold anything."""

_LIST = "temp.erased"


@dataclass
class Erased:
    """The rows that concern one customer."""

    rows: dict[str, int] = field(default_factory=dict)
    """How many rows lose their personal data, by table name; for `customers`, how many are removed."""
    known: bool = False
    """Whether the tables hold rows of this customer, or did before an earlier erasure."""


class Erasure:
    """The erasures from the file that `connection` has attached, within the current transaction."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        types: Mapping[str, ObjectType],
        *,
        hash_key: bytes | None,
        own_key: Callable[[], bytes],
    ) -> None:
        """`types` are those that have a table, with the columns that the settings keep. `hash_key` is the key of the
        settings if they hash fields. `own_key` returns the data folder's own key, which identifies customers whose id
        the shop chose."""
        self._connection = connection
        self._types = types
        self._hash_key = hash_key
        self._own_key = own_key
        self._fresh = False

    def begin(self) -> None:
        """Creates the list of erased objects, which the other methods need."""
        self._connection.execute(
            "CREATE OR REPLACE TEMP TABLE erased AS SELECT *, id AS written, false AS fresh FROM pipeline.erased"
        )
        if self._hash_key is not None:
            # Where the settings hash a reference, rows hold this value instead of the id.
            entries = self._connection.execute(f"SELECT customer, object_type, id, created FROM {_LIST}").fetchall()
            for customer, table, object_id, created in entries:
                name = hashed(object_id, self._hash_key)
                self._add(customer, table, name, written=name, created=created, fresh=False)

    def add(self, customer: str) -> Erased:
        """Adds a customer to the list, with all objects in the tables that belong to this customer."""
        known = Erased()
        name = self._pseudonym(customer)
        [(listed,)] = self._connection.execute(
            f"SELECT EXISTS (FROM {_LIST} WHERE object_type = 'customers' AND id = {literal(name)})"
        ).fetchall()
        created = self._connection.execute(
            f"SELECT created FROM raw.customers WHERE id = {literal(customer)}"
        ).fetchall()
        for (at,) in created or [(None,)]:  # in both modes, if the shop chose the same id in both
            if not listed:
                self._add(name, "customers", name, written=name, fresh=True, created=at)
        if name != customer:
            self._add(name, "customers", customer, written=name, fresh=False)
        if self._hash_key is not None and (in_rows := hashed(customer, self._hash_key)) != name:
            # If the shop chose the id, its hash must be kept, too: later the id itself is no longer known.
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
        """Removes the listed customers and their data in other rows from the tables; keeps both out from now on."""
        with self._functions():
            for object_type in self._types.values():
                self._strip(f"raw.{object_type.name}", object_type)
        for table, column in (("drift", "id"), ("proof", "scope")):
            self._connection.execute(
                f"DELETE FROM pipeline.{table} WHERE object_type = 'customers'"
                f" AND {column} IN (SELECT id FROM {_LIST} WHERE object_type = 'customers')"
            )
        self._keep()
        request_compaction(self._connection, AT_ONCE)

    def strip_incoming(self, object_type: ObjectType) -> None:
        """Removes erased data from `temp.incoming`, rows of `object_type` about to be stored."""
        if object_type.parent is None:
            self._recognize(object_type)
            self._find(object_type, "temp.incoming")
        of_erased = f"SELECT EXISTS (FROM temp.incoming WHERE {self._of(object_type)})"
        if self._connection.execute(of_erased).fetchall() == [(True,)]:
            with self._functions():
                self._strip("temp.incoming", object_type)

    def finish(self) -> None:
        """Strips stored rows that only now prove to belong to an erased customer; ends the list."""
        if self._fresh and self._spread():
            with self._functions():
                for object_type in self._types.values():
                    self._strip(f"raw.{object_type.name}", object_type)
            request_compaction(self._connection, DAILY)
        self._keep()

    def forget(self, customer: str) -> dict[str, set[date]] | None:
        """Stops keeping a customer out. Returns the UTC days of `created` of erased objects, by table name; None if
        this customer was not erased."""
        name = self._pseudonym(customer)
        of_customer = f"FROM pipeline.erased WHERE customer = {literal(name)}"
        removed = self._connection.execute(f"SELECT object_type, {utc_day('created')} {of_customer}").fetchall()
        self._connection.execute(f"DELETE {of_customer}")
        days: dict[str, set[date]] = {}
        for table, day in removed:
            if day is not None:
                days.setdefault(table, set()).add(day)
        return days if removed else None

    def _pseudonym(self, customer: str) -> str:
        """The file's name for an erased customer: the id if Stripe generated it, else a keyed hash of it."""
        return customer if re.fullmatch(_STRIPES_OWN, customer) else hashed(customer, self._own_key())

    def _add(
        self, customer: str, table: str, object_id: str, *, written: str, fresh: bool, created: object = None
    ) -> None:
        self._connection.execute(
            f"INSERT INTO {_LIST} (customer, object_type, id, created, written, fresh) VALUES (?, ?, ?, ?, ?, ?)",
            [customer, table, object_id, created, written, fresh],
        )

    def _recognize(self, object_type: ObjectType) -> None:
        """Lists the shop-chosen ids of erased customers among the incoming rows."""
        names = self._connection.execute(
            f"SELECT id FROM {_LIST} WHERE object_type = 'customers' AND NOT regexp_full_match(id, '{_STRIPES_OWN}')"
        ).fetchall()
        if not names:
            return
        erased = {name for (name,) in names}
        columns = ["id"] if object_type.name == CUSTOMERS.name else []
        references = self._references(object_type)
        columns += [reference.column for reference in references if reference.target == CUSTOMERS.name]
        for column in columns:
            by_shop = f"NOT regexp_full_match({column}, '{_STRIPES_OWN}')"
            ids = self._connection.execute(f"SELECT DISTINCT {column} FROM temp.incoming WHERE {by_shop}").fetchall()
            for (chosen,) in ids:
                name = hashed(chosen, self._own_key())
                if name in erased and chosen not in erased:
                    self._add(name, "customers", chosen, written=name, fresh=False)

    def _references(self, object_type: ObjectType) -> list[Reference]:
        """The references that the settings keep and whose column holds the target's id."""
        names = self._types[object_type.name].column_names
        return [reference for reference in object_type.references if not reference.path and reference.column in names]

    def _find(self, object_type: ObjectType, rows: str) -> bool:
        """Lists the objects in `rows` that name a listed object; returns whether any was new."""
        if "id" not in object_type.key or object_type.name == CUSTOMERS.name or object_type.parent:
            return False
        naming = " UNION ALL ".join(
            f"SELECT r.id, r.created, e.customer FROM {rows} r JOIN {_LIST} e"
            f" ON e.object_type = '{reference.target}' AND e.id = r.\"{reference.column}\""
            for reference in self._references(object_type)
        )
        if not naming:
            return False
        [(added,)] = self._connection.execute(
            f"INSERT INTO {_LIST} (customer, object_type, id, created, written, fresh)"
            f" SELECT any_value(customer), '{object_type.name}', id, min(created), id, true FROM ({naming})"
            f" WHERE id NOT IN (SELECT id FROM {_LIST} WHERE object_type = '{object_type.name}') GROUP BY id"
        ).fetchall()
        self._fresh |= bool(added)
        return bool(added)

    def _spread(self) -> bool:
        """Lists the objects in the tables that belong to listed objects; returns whether any was new."""
        any_new = False
        while sum(self._find(object_type, f"raw.{object_type.name}") for object_type in self._types.values()):
            any_new = True
        return any_new

    def _of(self, object_type: ObjectType, customer: str | None = None) -> str:
        """The condition for rows of listed objects; only of one customer (SQL) if given."""
        of_customer = f" AND customer = {customer}" if customer else ""
        key, owner = (object_type.parent_key, object_type.parent) if object_type.parent else ("id", object_type.name)
        return f"{key} IN (SELECT id FROM {_LIST} WHERE object_type = '{owner}'{of_customer})"

    def _strip(self, rows: str, object_type: ObjectType) -> None:
        """Strips listed objects in `rows` to the fields that bookkeeping needs; deletes customers."""
        if object_type.name == CUSTOMERS.name:
            self._connection.execute(f"DELETE FROM {rows} WHERE {self._of(object_type)}")
            return
        declared = OBJECT_TYPES[object_type.name]
        emptied = {*declared.personal, *declared.about_person}
        customers = {
            reference.column
            for reference in declared.references
            if reference.target == CUSTOMERS.name and not reference.path
        }
        changes = []
        for column in self._types[object_type.name].table_columns:
            name = f'"{column.name}"'
            if column.name in emptied:
                changes.append(f"{name} = NULL")
            elif column.kind.is_nested:
                bare = f"bare('{object_type.name}', '{column.name}', {name}::VARCHAR)"
                changes.append(f"{name} = CASE WHEN {name} IS NOT NULL THEN nullif({bare}, '') END")
            elif column.name in customers:
                written = (
                    f"SELECT any_value(e.written) FROM {_LIST} e WHERE e.object_type = 'customers' AND e.id = {name}"
                )
                changes.append(f"{name} = coalesce(({written}), {name})")
        self._connection.execute(f"UPDATE {rows} SET {', '.join(changes)} WHERE {self._of(object_type)}")

    def _keep(self) -> None:
        """Stores the list, so that its objects are kept out from now on."""
        self._connection.execute(
            f"INSERT INTO pipeline.erased SELECT customer, object_type, id, created FROM {_LIST} WHERE fresh"
        )
        self._connection.execute(f"UPDATE {_LIST} SET fresh = false")
        self._fresh = False

    @contextmanager
    def _functions(self) -> Iterator[None]:
        def bare(table: str, column: str, value: str) -> str:
            stripped = _BARE.column(table, column, orjson.loads(value))
            return "" if stripped is None or (column == UNKNOWN and not stripped) else orjson.dumps(stripped).decode()

        self._connection.create_function("bare", bare, ["VARCHAR"] * 3, "VARCHAR")
        try:
            yield
        finally:
            self._connection.remove_function("bare")


def any_erased(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether any customer was erased."""
    [(erased,)] = connection.execute("SELECT EXISTS (FROM pipeline.erased)").fetchall()
    return bool(erased)


def own_key(folder: DataFolder) -> bytes:
    """The data folder's own key, which identifies erased customers whose ids the shop chose.

    The key in the environment cannot replace it, because that key may change; only a lake, which has no data folder of
    its own, uses that key. Raises `WarehouseError` if the key cannot be stored.
    """
    try:
        return load_hash_key(folder, environment={})
    except WarehouseError as error:
        if isinstance(error.__cause__, OSError):
            advice = remedy(error.__cause__, folder.hash_key)
        else:
            advice = (
                "Restore the file from a backup. Without a backup, remove the file: the next run makes a new key. A new"
                " key does not identify erased customers whose ids your shop chose, so erase these customers again"
            )
        raise WarehouseError(error.what, advice) from error.__cause__


def load_order(object_type: ObjectType) -> int:
    """The rank of a type among types loaded together: an object's owner should be known before the object."""
    return _FIRST.index(object_type.name) if object_type.name in _FIRST else len(_FIRST)


def redacted(connection: duckdb.DuckDBPyConnection, object_type: ObjectType, accepted: str, known: str) -> bool:
    """Whether updated rows in `temp.incoming`, with keys in `accepted`, lack personal data that the rows in `known`
    hold, or have a placeholder instead (`[redacted]`, docs.stripe.com/privacy/redaction)."""
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
                nested = object_type.kind_of(name).is_nested
                if _lost(
                    orjson.loads(before) if nested else before, orjson.loads(after or "null") if nested else after
                ):
                    return True
    return False


def _lost(before: Any, after: Any) -> bool:
    """Whether any value of `before` is empty or missing in `after`."""
    if before in (None, "", [], {}):
        return False
    if after in (None, "", [], {}):
        return True
    if isinstance(before, dict) and isinstance(after, dict):
        return any(_lost(value, after.get(name)) for name, value in before.items())
    if isinstance(before, list) and isinstance(after, list):
        return len(after) < len(before) or any(_lost(*both) for both in zip(before, after, strict=False))
    return False
