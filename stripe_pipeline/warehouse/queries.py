"""Queries on stored rows for runs, checks and reports.

This module holds SELECTs on base tables and views. Those on the `pipeline` tables belong to `state`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import date

from stripe_pipeline.batch import Mode
from stripe_pipeline.days import DAY, day_start, stretches, utc_day
from stripe_pipeline.objects import ObjectType
from stripe_pipeline.rows import microseconds
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.references import JUST_BEFORE, followed, named_by
from stripe_pipeline.warehouse.bookkeeping import mode_condition, rows_left
from stripe_pipeline.warehouse.merge import created_between, gone_condition, rows_of
from stripe_pipeline.warehouse.pruning import young_enough
from stripe_pipeline.warehouse.sql import literal
from stripe_pipeline.warehouse.store import Store


class RowQueries:
    """Reads rows of the private file. Every method raises `WarehouseError`."""

    def __init__(self, file: Store, settings: Settings) -> None:
        self.file = file
        self._settings = settings

    def pending_balance_transactions(self, mode: Mode, now: float) -> list[tuple[str, int]]:
        """Ids and `created` of balance transactions that should have become available by `now`.

        No event announces this (docs/stripe.md#object-types).
        """
        columns = self._settings.types["balance_transactions"].column_names
        if "status" not in columns:
            return []
        available_on = "available_on" if "available_on" in columns else "created"
        an_hour_ago = microseconds(now - 3600)  # an overdue pending transaction is requested once an hour
        rows = self.file.ask(
            "SELECT id, epoch_us(created) // 1000000 FROM raw.balance_transactions"
            # Of files, `status` rules most out. A lake would ask its catalog for each further column that is compared.
            f" WHERE status = 'pending' AND _deleted_at IS NULL"
            f" AND list_contains([{literal(mode.account)}], _account) AND list_contains([{mode.livemode}], livemode)"
            f" AND epoch_us({available_on}) <= {microseconds(now)} AND epoch_us(_fetched_at) < {an_hour_ago}"
        )
        return [(str(object_id), int(created)) for object_id, created in rows]

    def lacking_targets(
        self, mode: Mode, target: ObjectType, *, since: float, days: Mapping[str, Collection[date]]
    ) -> dict[str, int]:
        """Ids of `target`, a listed type, that rows name and its table lacks, each with `created` (Unix seconds) of the
        first row that names the id.

        The rows are those requested since `since` (seconds on Stripe's clock), and those created on `days`, by table
        name. Left out: ids requested after the row was read and found gone; ids named by rows of days that no list of
        `target` covers yet, which the next list brings; and ids named by rows too old for `target`.
        """
        read = {f"raw.{object_type.name}": "_fetched_at" for object_type in self._settings.enabled}
        if not (any(days.values()) or self.file.may_hold_later(read, since)):
            return {}
        cutoff = self._settings.cutoff(target)
        fetched = f"_fetched_at >= make_timestamptz({microseconds(since)})"
        covered = f"SELECT day FROM pipeline.coverage WHERE object_type = '{target.name}' AND {mode_condition(mode)}"
        selects = []
        for object_type in self._settings.enabled:
            spans = stretches(days.get(object_type.name, ()))
            created = [f"({created_between(day_start(first), day_start(last) + DAY)})" for first, last in spans]
            of_mode = f"_account = {literal(mode.account)} AND livemode = {mode.livemode}"
            rows = f"{of_mode} AND ({' OR '.join([fetched, *created])})"
            selects += [
                named_by(object_type, reference, rows)
                for reference in followed(self._settings, object_type)
                if reference.target == target.name and object_type.parent != target.name
            ]
        if not selects:
            return {}
        with self.file.reading() as connection:
            connection.execute(
                "CREATE OR REPLACE TEMP TABLE named AS"
                " SELECT id, min(created) AS created, max(_fetched_at) AS fetched_at"
                f" FROM ({' UNION ALL '.join(selects)}) GROUP BY id"
            )
            [(first,)] = connection.execute("SELECT epoch_us(min(created)) FROM temp.named").fetchall()
            targets = (
                []
                if first is None
                else connection.execute(
                    f"WITH covered AS MATERIALIZED ({covered})"
                    " SELECT id, epoch_us(created) // 1000000 FROM temp.named n"
                    f" ANTI JOIN (SELECT id FROM raw.{target.name}"
                    f" WHERE {rows_of(mode)} AND created >= make_timestamptz({first}) - {JUST_BEFORE}) t USING (id)"
                    f" ANTI JOIN (FROM pipeline.gone WHERE {gone_condition(target, mode)}) g"
                    " ON g.id = n.id AND g.found_at >= n.fetched_at"
                    f" WHERE ({utc_day('created')} IN (FROM covered)"
                    f" OR {utc_day('created')} > (SELECT max(day) FROM covered))"
                    + (f" AND {young_enough(replace(target, date_field='created'), cutoff)}" if cutoff else "")
                ).fetchall()
            )
            connection.execute("DROP TABLE temp.named")
        return {str(object_id): int(created) for object_id, created in targets}

    def number(self) -> int:
        """How many rows all tables hold."""
        with self.file.reading() as connection:
            return rows_left(connection)

    def shown(self, tables: Iterable[str]) -> dict[str, tuple[int, float | None]]:
        """The content of these tables or views, by qualified name, for example `live.charges`: how many rows, and the
        latest request time of a row, in seconds on Stripe's clock; None without rows."""
        selects = (f"SELECT '{name}', count(*), epoch_us(max(_fetched_at)) / 1e6 FROM {name}" for name in tables)
        return {str(table): (int(rows), at) for table, rows, at in self.file.ask(" UNION ALL ".join(selects))}
