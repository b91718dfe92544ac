"""The warehouse's own state: cursors, coverage, Stripe's clock, stopped backfills.

This module holds the queries and notes that a run makes between loads. Records of a load itself belong to
`bookkeeping`, keys and accounts to `keys`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date

import duckdb
import orjson

from stripe_pipeline.batch import Mode
from stripe_pipeline.identity import Identity
from stripe_pipeline.proof.balance import Part
from stripe_pipeline.rows import microseconds
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.stripe_api.clock import Reading
from stripe_pipeline.warehouse import future_times
from stripe_pipeline.warehouse.bookkeeping import Covered, MissingFields, StoppedBackfill, mode_condition, set_clock
from stripe_pipeline.warehouse.file_state import CURSORS, LINEAGE, META, RESTORED, STATES, get_state, set_state
from stripe_pipeline.warehouse.recovery import restored_as_of
from stripe_pipeline.warehouse.sql import literal, start_of_day
from stripe_pipeline.warehouse.store import Store


def _opening_balance(mode: Mode) -> str:
    return f"opening balance of {mode.account} {mode.livemode}"


class State:
    """Reads and writes the `pipeline` tables outside a load. Every method raises `WarehouseError`."""

    def __init__(self, file: Store, settings: Settings) -> None:
        self.file = file
        self._settings = settings

    def identity(self) -> Identity:
        """Which warehouse this is, and its state.

        From here on, loads belong to the file as it is now: if the file is restored meanwhile, `load` refuses data
        read before.
        """
        with self.file.reading() as connection:
            applied = dict(self.file.look_up(connection, STATES))
            self.file.lineage = applied.get(LINEAGE)
            [(_, revision, warehouse)] = self.file.look_up(connection, META)
            cursors = self.file.look_up(connection, CURSORS)
            followed = frozenset(livemode for _, livemode, name, _ in cursors if name == "events")
            return Identity(warehouse, revision, followed, restored_as_of(applied.get(RESTORED)))

    def caught_up(self) -> None:
        """Records that the work due after a restoration is done."""
        self.file.write(lambda connection: set_state(connection, RESTORED, None))

    def failing(self) -> list[tuple[str, bool, str, str, int]]:
        """The rows of `pipeline.inbox`: event id, `livemode`, object, object id, and when the event was received, in
        Unix seconds."""
        return self.file.ask(
            "SELECT event_id, livemode, object, object_id, epoch(received_at)::BIGINT FROM pipeline.inbox"
        )

    def cursors(self, mode: Mode) -> dict[str, float]:
        """The cursors of `mode` by name, in seconds on Stripe's clock."""
        with self.file.reading() as connection:
            rows = self.file.look_up(connection, CURSORS)
        return {name: at / 1e6 for account, livemode, name, at in rows if Mode(account, livemode) == mode}

    def clock(self) -> tuple[float, float] | None:
        """The bounds, in seconds, of the last known lead of Stripe's clock over the local clock."""
        bounds = self.file.ask("SELECT lowest, highest FROM pipeline.clock")
        self.file.clock = (float(bounds[0][0]), float(bounds[0][1])) if bounds else None
        return self.file.clock

    def opening_balance(self, mode: Mode) -> tuple[date, dict[Part, int] | None] | None:
        """A UTC day, and what balance transactions created before the day add up to, in minor units by currency and
        `balance_type`: empty if there are none, None if the sums are not known. None if nothing was stored yet."""
        with self.file.reading() as connection:
            stored = get_state(connection, _opening_balance(mode))
        if stored is None:
            return None
        day, parts = orjson.loads(stored)
        return date.fromisoformat(day), None if parts is None else {(a, b): amount for a, b, amount in parts}

    def remember_opening_balance(self, mode: Mode, day: date, amounts: Mapping[Part, int] | None) -> None:
        """Stores what `opening_balance` returns."""
        parts = None if amounts is None else [[*part, amount] for part, amount in amounts.items()]
        stored = orjson.dumps([str(day), parts]).decode()
        self.file.write(lambda connection: set_state(connection, _opening_balance(mode), stored))

    def coverage(self, mode: Mode) -> dict[tuple[str, date], Covered]:
        """The coverage of completely listed days, by table name and day."""
        # A file of an earlier version lacks this column until it is migrated.
        listed = '"rows"' if self.file.read_only else 'coalesce(listed, "rows")'
        rows = self.file.ask(
            'SELECT object_type, day, epoch_us(listed_at) / 1e6, epoch_us(listed_until) / 1e6, "rows",'
            f" {listed} FROM pipeline.coverage WHERE {mode_condition(mode)}"
        )
        return {(table, day): Covered(*known) for table, day, *known in rows}

    def covered_days(self) -> dict[str, dict[date, int]]:
        """The number of rows of every listed day, in all modes, by table name."""
        sums = self.file.ask('SELECT object_type, day, sum("rows")::BIGINT FROM pipeline.coverage GROUP BY ALL')
        covered: dict[str, dict[date, int]] = {}
        for table, day, rows in sums:
            covered.setdefault(table, {})[day] = rows
        return covered

    def forget_coverage(self, mode: Mode, tables: Iterable[str]) -> None:
        """Marks these tables' days as no longer complete."""

        def forget(connection: duckdb.DuckDBPyConnection) -> None:
            for table in sorted(tables):
                of_table = f"object_type = '{table}' AND {mode_condition(mode)}"
                first = self._settings.first_listed(self._settings.types[table])
                connection.execute(f"DELETE FROM pipeline.coverage WHERE {of_table} AND day >= DATE '{first}'")
                # Only these entries show that older days were ever loaded.
                connection.execute(f"UPDATE pipeline.coverage SET listed_at = {start_of_day('day')} WHERE {of_table}")

        self.file.write(forget)

    def put_times_right(self, mode: Mode, *, now: float, clock: Reading, events_since: int) -> float | None:
        """Corrects times of `mode` that lie ahead of Stripe's clock; see `future_times.put_right`.

        If the local clock is wrong, the estimate of Stripe's clock is stored for runs that begin meanwhile: of two runs
        with estimates of their own, the one that reads an object later could treat it as older.
        """
        with self.file.open() as connection:
            if (bounds := clock.bounds) and not bounds[0] <= 0.0 <= bounds[1]:
                self.file.transact(connection, lambda connection: set_clock(connection, *bounds))
            columns = future_times.columns(self._settings.types)
            if not self.file.may_hold_later(columns, clock.latest + future_times.TOLERANCE):
                return None
            furthest = future_times.furthest(connection, mode, latest=clock.latest)
            if furthest is None:
                return None
            self.file.transact(
                connection,
                lambda connection: future_times.put_right(
                    connection, mode, now=now, latest=clock.latest, events_since=events_since
                ),
            )
            return furthest - now

    def stopped_backfill(self, mode: Mode, request: str) -> StoppedBackfill | None:
        """The backfill that has begun and not ended; `request` is the same for the same tables and days."""
        times = self.file.ask(
            "SELECT epoch_us(began) / 1e6, epoch_us(coalesce((SELECT max(listed_at) FROM pipeline.coverage"
            f" WHERE how = 'backfill' AND {mode_condition(mode)} AND listed_at >= began), began)) / 1e6"
            f" FROM pipeline.backfills WHERE request = {literal(request)} AND {mode_condition(mode)}"
        )
        return StoppedBackfill(*map(float, times[0])) if times else None

    def begin_backfill(self, mode: Mode, request: str, now: float) -> None:
        """Records the start of this backfill, replacing an earlier one for the same tables and days."""
        of_request = f"request = {literal(request)} AND {mode_condition(mode)}"

        def replace(connection: duckdb.DuckDBPyConnection) -> None:
            connection.execute(f"DELETE FROM pipeline.backfills WHERE {of_request}")
            connection.execute(
                f"INSERT INTO pipeline.backfills VALUES ({literal(request)}, {literal(mode.account)}, {mode.livemode},"
                f" make_timestamptz({microseconds(now)}))"
            )

        self.file.write(replace)

    def end_backfill(self, mode: Mode, request: str) -> None:
        """Records that this backfill has ended: the same one reads everything again."""
        of_request = f"request = {literal(request)} AND {mode_condition(mode)}"
        self.file.write(lambda connection: connection.execute(f"DELETE FROM pipeline.backfills WHERE {of_request}"))

    def lacking(self, mode: Mode) -> list[MissingFields]:
        """Fields that rows of `mode` lack because the settings left them out when the rows were read, by table; only of
        days that are still kept."""
        kept_days = " OR ".join(
            f"object_type = '{object_type.name}' AND day >= DATE '{self._settings.first_listed(object_type)}'"
            for object_type in self._settings.enabled
        )
        if not self.file.may_hold_rows("pipeline.lacking"):
            return []
        if not self.file.ask("SELECT 1 FROM pipeline.lacking LIMIT 1"):
            return []
        rows = self.file.ask(
            "SELECT object_type, list(DISTINCT fields), min(day), max(day) FROM pipeline.lacking"
            f" JOIN pipeline.coverage USING (object_type) WHERE {mode_condition(mode)}"
            f' AND listed_at < since AND "rows" > 0 AND ({kept_days})'
            " GROUP BY object_type ORDER BY object_type"
        )
        return [MissingFields(table, tuple(sorted(fields)), first, last) for table, fields, first, last in rows]
