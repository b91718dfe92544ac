"""The only code that writes rows: a batch becomes inserts, updates and tombstones in one transaction.

This module holds the SQL that merges a batch into its tables. Opening the file belongs to `warehouse`, the `pipeline`
tables to `bookkeeping`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path

import duckdb

from stripe_pipeline.batch import Batch, Changes, Loaded, Mode
from stripe_pipeline.days import DAY, day_start, stretches, utc_day
from stripe_pipeline.objects import Column, ObjectType
from stripe_pipeline.rows import microseconds
from stripe_pipeline.storage_errors import reason
from stripe_pipeline.warehouse.bookkeeping import mode_condition
from stripe_pipeline.warehouse.drift import record_changes, record_deletions
from stripe_pipeline.warehouse.erasure import Erasure, redacted
from stripe_pipeline.warehouse.file_state import DAILY, request_compaction
from stripe_pipeline.warehouse.sql import literal, qualified, stored_children

_LONGEST_RUN = DAY  # seconds from reading a page to loading it
_NEAR = 2048  # rows that DuckDB reads together
_FEW = 500  # rows, or places, to fetch rows from
_KNOWN = "temp.known"


def merge_batch(
    connection: duckdb.DuckDBPyConnection,
    batch: Batch,
    bounds: str,
    loaded: Loaded,
    retention: Mapping[str, str],
    erasure: Erasure | None,
    *,
    in_lake: bool,
) -> None:
    """Stores the rows read, unless newer ones are known.

    `retention`: by table name, the condition for rows young enough to be kept; empty if all are. Of the parent, the
    caller has removed the others.
    """
    parent, rows_like = batch.object_type, _rows_of_times if in_lake else _stored_rows
    known = rows_like(connection, parent, "id", "SELECT id FROM temp.incoming", bounds)
    _classify(connection, parent, batch, known)
    if batch.compared or (batch.days and batch.followed_since is not None):
        record_changes(connection, parent, batch, known)
    if redacted(connection, parent, "temp.accepted", known):
        request_compaction(connection, DAILY)
    refused = connection.execute("SELECT id FROM temp.incoming ANTI JOIN temp.accepted USING (id)").fetchall()
    loaded.refused[parent.name].update(object_id for (object_id,) in refused)
    _replace(
        connection,
        parent,
        "accepted",
        known,
        bounds,
        loaded.changes[parent.name],
        rewrite_unchanged=batch.read_again,
    )
    if batch.without_children:
        changed = connection.execute("SELECT id FROM temp.accepted WHERE _change IN ('inserted', 'updated')").fetchall()
        if changed:
            loaded.changed.append((batch, [object_id for (object_id,) in changed]))
    for child in batch.children:
        stage(connection, child, batch, erasure)
        if retention[child.name]:
            connection.execute(f"DELETE FROM temp.incoming WHERE NOT ({retention[child.name]})")
        assert child.parent_key is not None
        of_child = bounds_of(child, batch.mode, bounds)
        known = rows_like(connection, child, child.parent_key, "SELECT id FROM temp.accepted", of_child)
        _classify_children(connection, child, known)
        if redacted(connection, child, "temp.accepted_children", known):
            request_compaction(connection, DAILY)
        _replace(
            connection,
            child,
            "accepted_children",
            known,
            of_child,
            loaded.changes[child.name],
            rewrite_unchanged=False,
        )


def nothing_stored(connection: duckdb.DuckDBPyConnection, batch: Batch, of_days: str) -> bool:
    """Whether the batch's days are listed for the first time, and no row created on these days is stored."""
    name = batch.object_type.name
    [(known,)] = connection.execute(
        f"SELECT EXISTS (FROM raw.{name} WHERE {of_days})"
        f" OR EXISTS (FROM pipeline.gone WHERE {gone_condition(batch.object_type, batch.mode)})"
        " OR EXISTS (FROM pipeline.coverage SEMI JOIN temp.listed USING (day)"
        f" WHERE object_type = '{name}' AND {mode_condition(batch.mode)})"
    ).fetchall()
    return not (known or batch.tombstones)


def insert_new_days(
    connection: duckdb.DuckDBPyConnection,
    batch: Batch,
    of_days: str,
    loaded: Loaded,
    retention: Mapping[str, str],
    erasure: Erasure | None,
) -> None:
    """Stores the rows of days without any stored state to compare them with; `retention` as for `merge_batch`."""
    parents_gone = False
    for object_type in batch.tables:
        files = batch.files.get(object_type.name)
        if not files:
            continue
        table = f"raw.{object_type.name}"
        inserted = of_days
        if object_type.dated_apart:  # the days are those of the parents
            inserted = f"{rows_of(batch.mode)} AND {object_type.parent_key} IN (SELECT id FROM temp.parents)"
            connection.execute(
                f"CREATE OR REPLACE TEMP TABLE parents AS SELECT DISTINCT {object_type.parent_key} AS id"
                f" FROM ({_lines_of(object_type, files, batch.latest)})"
            )
        names = ", ".join(_quoted(column) for column in object_type.table_columns)
        if erasure:
            # Erased data must not reach the file, not even within a transaction.
            stage(connection, object_type, batch, erasure)
        lines = f"SELECT {names} FROM temp.incoming" if erasure else _lines_of(object_type, files, batch.latest)
        connection.execute(f"INSERT INTO {table} ({names}) {lines}")
        _keep_latest(connection, object_type, table, inserted)
        if retention[object_type.name]:
            # After `_keep_latest`: of two versions, the earlier one may be young enough and wrong.
            [(too_old,)] = connection.execute(
                f"DELETE FROM {table} WHERE {inserted} AND NOT ({retention[object_type.name]})"
            ).fetchall()
            parents_gone |= bool(too_old) and object_type is batch.object_type
        if parents_gone and object_type.parent_key:
            connection.execute(
                f"DELETE FROM {table} WHERE {inserted} AND {object_type.parent_key} NOT IN"
                f" (SELECT id FROM raw.{batch.object_type.name} WHERE {of_days})"
            )
        counted = connection.execute(
            f"SELECT {utc_day('created')}, count(*) FROM {table} WHERE {inserted} GROUP BY ALL"
        ).fetchall()
        loaded.changes[object_type.name].inserted.update(dict(counted))


def _keep_latest(connection: duckdb.DuckDBPyConnection, object_type: ObjectType, table: str, where: str) -> None:
    """Keeps one row per key among these rows: the one requested last."""
    keys = ", ".join(object_type.key)
    source = f"FROM {table} WHERE {where}"
    [(rows, distinct)] = connection.execute(f"SELECT count(*), count(DISTINCT ({keys})) {source}").fetchall()
    if rows > distinct:
        connection.execute(
            f"DELETE FROM {table} WHERE rowid IN (SELECT rowid {source}"
            f" QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY _fetched_at DESC) > 1)"
        )


def _stored_rows(
    connection: duckdb.DuckDBPyConnection, object_type: ObjectType, column: str, ids: str, bounds: str
) -> str:
    """The table or SELECT that holds the stored rows whose `column` is among `ids`, a SELECT.

    For rows in few places, the row ids are found first and only those rows are fetched, into a table that has the row
    id as `_place`: DuckDB would otherwise read every column of each row group that its minimum and maximum do not rule
    out.
    """
    source = f"FROM raw.{object_type.name} WHERE {bounds} AND {column} IN ({ids})"
    found = [row for (row,) in connection.execute(f"SELECT rowid {source} ORDER BY rowid").fetchall()]
    of_table = f"SELECT rowid AS _place, * FROM raw.{object_type.name}"
    if len(found) <= _FEW:
        listed = ", ".join(map(str, found))
        # IN rules out row groups; within the others, the scan computes `list_contains` before it reads other columns.
        rows = f"{of_table} WHERE rowid IN ({listed}) AND list_contains([{listed}], rowid)" if found else ""
    else:
        places: list[tuple[int, int]] = []
        for row in found:
            if places and row - places[-1][1] < _NEAR:
                places[-1] = (places[-1][0], row)
            else:
                places.append((row, row))
        if len(places) > _FEW:
            return f"(SELECT * {source})"
        rows = " UNION ALL ".join(
            f"{of_table} WHERE rowid BETWEEN {first} AND {last}"
            + (f" AND {bounds} AND {column} IN ({ids})" if first < last else "")
            for first, last in places
        )
    connection.execute(f"CREATE OR REPLACE TEMP TABLE known AS {rows or f'{of_table} LIMIT 0'}")
    return _KNOWN


def _rows_of_times(
    connection: duckdb.DuckDBPyConnection, object_type: ObjectType, column: str, ids: str, bounds: str
) -> str:
    """As `_stored_rows`, for a lake: row ids rule out no part of its files, but times of creation do, and each SELECT
    asks the catalog anew."""
    source = f"FROM raw.{object_type.name} WHERE {bounds} AND {column} IN ({ids})"
    created = connection.execute(f"SELECT DISTINCT epoch_us(created) {source}").fetchall()
    if len(created) > _FEW or (None,) in created:
        return f"(SELECT * {source})"
    times = ", ".join(f"make_timestamptz({at})" for (at,) in created)
    rows = f"{source} AND created IN ({times})" if times else f"FROM raw.{object_type.name} LIMIT 0"
    connection.execute(f"CREATE OR REPLACE TEMP TABLE known AS SELECT * {rows}")
    return f"(FROM {_KNOWN})"  # without `_place`


def bounds_of(object_type: ObjectType, mode: Mode, bounds: str) -> str:
    """The condition for rows that meet `bounds`, a condition on `created`, or whose parents meet `bounds`: of children
    with a `created` of their own, all rows of the mode."""
    return rows_of(mode) if object_type.dated_apart else bounds


def touched_rows(batch: Batch) -> str:
    """The condition for rows of the batch's mode created on the days that it touches. Every statement on a base table
    uses this condition: ids are unique within a mode only, and a table may be large."""
    starts = [day_start(listed.day) for listed in batch.days]
    first = min([batch.first, *starts])
    last = max([batch.last + 1, *(start + DAY for start in starts)])
    if first >= last:
        return "false"  # only tombstones
    return f"{rows_of(batch.mode)} AND {created_between(first, last)}"


def created_between(first: int, end: int) -> str:
    """The condition for rows created from `first` until before `end`, Unix seconds."""
    return f"created >= make_timestamptz({first * 1_000_000}) AND created < make_timestamptz({end * 1_000_000})"


def stage(
    connection: duckdb.DuckDBPyConnection, object_type: ObjectType, batch: Batch, erasure: Erasure | None
) -> None:
    """Reads the NDJSON files into `temp.incoming`, one row per key, the one requested last; without erased data."""
    columns = object_type.table_columns
    connection.execute("DROP TABLE IF EXISTS temp.incoming")
    files = batch.files.get(object_type.name, [])
    if not files:
        body = ", ".join(f"{_quoted(column)} {column.kind.sql_type}" for column in columns)
        connection.execute(f"CREATE TEMP TABLE incoming ({body})")
        return
    connection.execute(f"CREATE TEMP TABLE incoming AS {_lines_of(object_type, files, batch.latest)}")
    _keep_latest(connection, object_type, "temp.incoming", "true")
    if erasure:
        erasure.strip_incoming(object_type)


def _lines_of(object_type: ObjectType, files: Sequence[Path], latest: float) -> str:
    """A SELECT of the table's columns from NDJSON files; request times are capped at `latest`, Unix seconds."""
    columns = object_type.table_columns
    spec = ", ".join(f"'{column.name}': '{column.kind.line_type or column.kind.sql_type}'" for column in columns)
    return (
        f"SELECT {', '.join(_read(column, latest) for column in columns)}"
        f" FROM read_json([{', '.join(literal(str(file)) for file in files)}],"
        f" format = 'newline_delimited', columns = {{{spec}}})"
    )


def _read(column: Column, latest: float) -> str:
    name = _quoted(column)
    if column.name == "_fetched_at":  # in microseconds, unlike Stripe's timestamps
        return f"make_timestamptz(least({name}, {microseconds(latest)})) AS {name}"
    return f"{column.kind.read.format(name)} AS {name}"


def _classify(connection: duckdb.DuckDBPyConnection, object_type: ObjectType, batch: Batch, known: str) -> None:
    """Stores in `temp.accepted` the ids of objects not older than the stored state, with the change."""
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE accepted AS"
        f" SELECT i.id, i.created, {_change_kind(object_type)} AS _change"
        f" FROM temp.incoming i LEFT JOIN {known} c ON {_same_key(object_type, 'i', 'c')}"
        f" LEFT JOIN (FROM pipeline.coverage WHERE object_type = '{object_type.name}'"
        f" AND {mode_condition(batch.mode)}) v"
        f" ON v.day = {utc_day('i.created')}"
        f" WHERE (c._fetched_at IS NULL OR i._fetched_at >= c._fetched_at)"
        # A list does not include objects created after its bound, however late it was requested.
        f" AND (v.listed_at IS NULL OR i._fetched_at >= v.listed_at OR i.created >= v.listed_until)"
        f" AND NOT EXISTS (SELECT 1 FROM pipeline.gone g WHERE {gone_condition(object_type, batch.mode)}"
        f" AND g.id = i.id AND g.found_at > i._fetched_at)"
    )


def _classify_children(connection: duckdb.DuckDBPyConnection, child: ObjectType, known: str) -> None:
    """Stores in `temp.accepted_children` the keys of the children of accepted parents, and of children that these
    parents no longer have."""
    of_accepted = f"{child.parent_key} IN (SELECT id FROM temp.accepted)"
    keys = ", ".join(child.key)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE accepted_children AS"
        f" WITH c AS (SELECT * FROM {known} WHERE {of_accepted}),"
        f" i AS (SELECT * FROM temp.incoming WHERE {of_accepted})"
        f" SELECT {qualified('i', child.key)}, i.created, {_change_kind(child)} AS _change"
        f" FROM i LEFT JOIN c ON {_same_key(child, 'i', 'c')}"
        f" UNION ALL BY NAME"
        f" SELECT {keys}, created, 'deleted' AS _change FROM c ANTI JOIN i ON {_same_key(child, 'i', 'c')}"
    )


def _change_kind(object_type: ObjectType) -> str:
    compared = [column for column in object_type.table_columns if column.name != "_fetched_at"]
    # Incoming rows never have the tombstone, so a row that is back counts as updated.
    same = " AND ".join(f"i.{_quoted(column)} IS NOT DISTINCT FROM c.{_quoted(column)}" for column in compared)
    key = object_type.key[0]
    return f"CASE WHEN c.{key} IS NULL THEN 'inserted' WHEN {same} THEN 'unchanged' ELSE 'updated' END"


def _same_key(object_type: ObjectType, left: str, right: str) -> str:
    return " AND ".join(f"{left}.{key} = {right}.{key}" for key in object_type.key)


def _replace(
    connection: duckdb.DuckDBPyConnection,
    object_type: ObjectType,
    table: str,
    known: str,
    bounds: str,
    changes: Changes,
    *,
    rewrite_unchanged: bool,
) -> None:
    """Writes the incoming rows whose keys are in `temp.{table}` in place of the `known` ones, and counts the
    changes."""
    counted = connection.execute(
        f"SELECT _change, {utc_day('created')}, count(*) FROM temp.{table} GROUP BY ALL"
    ).fetchall()
    totals = Counter[str]()
    for change, day, number in counted:
        totals[change] += number
        if change != "unchanged":
            getattr(changes, change)[day] += number
    written = "true" if rewrite_unchanged else "_change <> 'unchanged'"
    if totals.total() > totals["inserted"]:
        replaced = f"{_same_key(object_type, 'old', 'new')} AND {written} AND _change <> 'inserted'"
        if known == _KNOWN:
            places = connection.execute(
                f"SELECT old._place FROM {known} AS old JOIN temp.{table} AS new ON {replaced}"
            ).fetchall()
            rows = f"rowid IN ({', '.join(str(place) for (place,) in places)})" if places else "false"
            connection.execute(f"DELETE FROM raw.{object_type.name} WHERE {rows}")
        else:
            connection.execute(
                f"DELETE FROM raw.{object_type.name} AS old USING temp.{table} AS new"
                f" WHERE {replaced} AND {bounds.replace('created', 'old.created')}"
            )
    names = ", ".join(_quoted(column) for column in object_type.table_columns)
    of_these = f"SELECT {', '.join(object_type.key)} FROM temp.{table} WHERE {written} AND _change <> 'deleted'"
    connection.execute(
        f"INSERT INTO raw.{object_type.name} ({names}) SELECT {names} FROM temp.incoming"
        f" SEMI JOIN ({of_these}) USING ({', '.join(object_type.key)})"
    )


def rows_of(mode: Mode) -> str:
    """The condition for rows of a mode, within which an id is unique (docs/stripe.md#ids-and-secrets)."""
    return f"livemode = {mode.livemode}"


def gone_condition(object_type: ObjectType, mode: Mode) -> str:
    """The condition for entries of a type and mode in `pipeline.gone`; earlier versions did not store the mode."""
    return f"object_type = '{object_type.name}' AND coalesce(livemode, {mode.livemode}) = {mode.livemode}"


def missing_ids(
    connection: duckdb.DuckDBPyConnection, object_type: ObjectType, batch: Batch, bounds: str, retention: str
) -> dict[date, list[str]]:
    """Ids that the table holds for a completely listed day and the list did not name; only of rows that meet
    `retention`."""
    kept_out = ", ".join(literal(object_id) for object_id in sorted(batch.kept_out))
    not_among = f" AND o.id NOT IN ({kept_out})" if kept_out else ""
    rows = connection.execute(
        "SELECT l.day, list(o.id)"
        f" FROM (SELECT * FROM raw.{object_type.name} WHERE {retention} AND {object_type.listed_if}) o"
        f" JOIN temp.listed l ON {utc_day('o.created')} = l.day"
        f" ANTI JOIN temp.incoming i ON o.id = i.id"
        f" WHERE {bounds.replace('created', 'o.created')}"
        f" AND o._account = {literal(batch.mode.account)}"
        f" AND o._deleted_at IS NULL AND o.created < l.until AND o._fetched_at < l.listed_at{not_among} GROUP BY l.day"
    ).fetchall()
    return dict(rows)


def apply_tombstones(connection: duckdb.DuckDBPyConnection, batch: Batch, loaded: Loaded, *, remove: bool) -> None:
    """Marks objects that Stripe reports as gone and their children, also of disabled types; `remove` deletes them.

    Rows that are only marked keep their last values.
    """
    for object_type in (batch.object_type, *stored_children(connection, batch.object_type)):
        key = object_type.parent_key or "id"
        for tombstone in batch.tombstones:
            at = microseconds(tombstone.found_at)
            statement = (
                f"DELETE FROM raw.{object_type.name}"
                if remove
                else f"UPDATE raw.{object_type.name} SET _deleted_at = make_timestamptz({at}),"
                f" _fetched_at = make_timestamptz({at})"
            )
            older = (
                f"WHERE {rows_of(batch.mode)} AND {key} = {literal(tombstone.id)} AND _deleted_at IS NULL"
                f" AND _fetched_at <= make_timestamptz({at})"
            )
            # A lake knows no RETURNING.
            buried = connection.execute(f"SELECT {utc_day('created')} FROM raw.{object_type.name} {older}").fetchall()
            if buried:
                connection.execute(f"{statement} {older}")
            loaded.changes.setdefault(object_type.name, Changes()).deleted.update(day for (day,) in buried)
            if remove and buried:
                request_compaction(connection, DAILY)
    if batch.compared or batch.followed_since is not None:
        record_deletions(connection, batch, [tombstone.id for tombstone in batch.tombstones])
    remember_gone(
        connection, batch, [(tombstone.id, microseconds(tombstone.found_at)) for tombstone in batch.tombstones]
    )
    alive = connection.execute(
        f"SELECT id FROM raw.{batch.object_type.name} WHERE {rows_of(batch.mode)} AND id IN (SELECT unnest(?))"
        " AND _deleted_at IS NULL",
        [[tombstone.id for tombstone in batch.tombstones]],
    ).fetchall()
    loaded.refused[batch.object_type.name].update(object_id for (object_id,) in alive)


def remember_gone(connection: duckdb.DuckDBPyConnection, batch: Batch, objects: Iterable[tuple[str, int]]) -> None:
    """Records deleted or expired objects that have no row, for as long as a run may take.

    `objects`: ids, and when they were requested, in microseconds on Stripe's clock.
    """
    table, livemode = batch.object_type.name, batch.mode.livemode
    for object_id, at in objects:
        connection.execute(
            "INSERT INTO pipeline.gone (object_type, id, found_at, livemode)"
            f" SELECT '{table}', {literal(object_id)}, make_timestamptz({at}), {livemode}"
            f" WHERE NOT EXISTS (SELECT 1 FROM raw.{table} WHERE livemode = {livemode} AND id = {literal(object_id)})"
        )
        connection.execute(
            f"DELETE FROM pipeline.gone WHERE found_at < make_timestamptz({at - _LONGEST_RUN * 1_000_000})"
        )


def row_counts(
    connection: duckdb.DuckDBPyConnection, object_type: ObjectType, days: set[date], *, in_lake: bool
) -> Counter[tuple[date, bool]]:
    """The number of rows in the table that exist in Stripe, by day and livemode."""
    counts = Counter[tuple[date, bool]]()
    times = [f"({created_between(day_start(first), day_start(last) + DAY)})" for first, last in stretches(days)]
    # One statement for all asks a lake's catalog ten times. A file answers several sooner, which compare fewer rows.
    for of_days in [" OR ".join(times)] if in_lake else times:
        counted = connection.execute(
            f"SELECT {utc_day('created')}, livemode, count(*) FROM raw.{object_type.name} WHERE _deleted_at IS NULL"
            f" AND ({of_days}) GROUP BY ALL"
        ).fetchall()
        counts.update({(day, livemode): number for day, livemode, number in counted})
    return counts


def _quoted(column: Column) -> str:
    return f'"{column.name}"'


_ABOUT_VALUES = (duckdb.DataError, duckdb.IntegrityError, duckdb.InvalidInputException)
_PLACE = re.compile(r'[\w ]*JSON[\w ]* in file "[^"]*",(?: at byte \d+)? in line \d+')
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


def first_line(error: BaseException) -> str:
    """DuckDB's or the system's message, without row values, which may be personal data: errors about values quote
    the values."""
    if not isinstance(error, duckdb.Error):
        return reason(error)
    lines = [line.strip() for line in str(error).splitlines()]
    # If a checkpoint fails while the file is detached, the second line says why.
    message = " ".join(lines[: 2 if isinstance(error, duckdb.IOException) else 1]) or type(error).__name__
    kind, _, details = message.partition(": ")
    if isinstance(error, _ABOUT_VALUES):
        place = _PLACE.match(details)
        return f"{kind}: {place[0] if place else 'about a value, which is not shown here'}"
    if isinstance(error, (duckdb.FatalException, duckdb.InternalException)):  # may quote any other error
        return f"{kind}: {_QUOTED.sub('…', details)}"
    return message
