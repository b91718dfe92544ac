"""Stored proofs, and readings of Stripe's balance.

This module writes the tables `proof` and `balances` of the schema `pipeline`. What is compared, and how, belongs to the
package `proof`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import duckdb

from stripe_pipeline.batch import Mode
from stripe_pipeline.days import DAY, utc_day
from stripe_pipeline.inbox.notification import Notification
from stripe_pipeline.proof.balance import BalanceReading
from stripe_pipeline.proof.verdict import Ask, Proof, Verdict
from stripe_pipeline.rows import microseconds
from stripe_pipeline.warehouse.bookkeeping import mode_condition
from stripe_pipeline.warehouse.drift import forget_announced
from stripe_pipeline.warehouse.sql import literal
from stripe_pipeline.warehouse.store import Store

_ALL_KEPT = 2 * DAY
"""For how many seconds all readings are kept; of an earlier day, only the last one."""


class Proofs:
    """Reads and writes the outcomes of checks, and readings of the balance. Every method raises `WarehouseError`."""

    def __init__(self, file: Store) -> None:
        self.file = file

    def store(self, proofs: Collection[Proof], names: Collection[str], *, livemode: bool, now: float) -> None:
        """Replaces the stored outcomes of the checks `names` of one mode; `now`: seconds on Stripe's clock."""
        at = f"make_timestamptz({microseconds(now)})"

        def replace(connection: duckdb.DuckDBPyConnection) -> None:
            connection.execute(f"DELETE FROM pipeline.proof WHERE livemode = {livemode} AND name IN ({_listed(names)})")
            if proofs:
                rows = ", ".join(f"({', '.join(map(_value, _row(proof)))}, {at})" for proof in proofs)
                connection.execute(f"INSERT INTO pipeline.proof VALUES {rows}")
            connection.execute("UPDATE pipeline.meta SET revision = revision + 1")

        self.file.write(replace)

    def stored(self, *, names: Collection[str] = ()) -> list[tuple[Proof, float]]:
        """The outcomes of these checks, by default of all, each with the time of the check (Unix seconds)."""
        return outcomes(self.file.ask, f"list_contains([{_listed(names)}], name)" if names else "true")

    def keep_sample(self, table: str, *, livemode: bool, at: float, rows: int, drifted: int) -> None:
        """Records how many rows of a table a sample compared, and how many differed."""
        self.file.write(
            lambda connection: connection.execute(
                f"INSERT INTO pipeline.samples VALUES ({livemode}, {literal(table)},"
                f" make_timestamptz({microseconds(at)}), {rows}, {drifted})"
            )
        )

    def forget_announced(self, notifications: Sequence[Notification]) -> None:
        """Removes the drift that these notifications explain."""
        with self.file.open() as connection:
            if connection.execute("SELECT 1 FROM pipeline.drift LIMIT 1").fetchall():
                self.file.transact(connection, lambda connection: forget_announced(connection, notifications))

    def readings(self, mode: Mode) -> list[BalanceReading]:
        """The stored readings of the balance, newest first."""
        rows = self.file.ask(
            "SELECT epoch_us(read_at) / 1e6, list((currency, balance_type, amount, tied)) FROM pipeline.balances"
            f" WHERE {mode_condition(mode)} GROUP BY read_at ORDER BY read_at DESC"
        )
        return [
            BalanceReading(
                float(at),
                {(currency, kind): amount for currency, kind, amount, _ in parts},
                {(currency, kind): tied for currency, kind, _, tied in parts},
            )
            for at, parts in rows
        ]

    def keep(self, mode: Mode, reading: BalanceReading) -> None:
        """Stores a reading, in place of an earlier one of the same time, and thins out those of earlier days."""
        of_mode = mode_condition(mode)
        at = f"make_timestamptz({microseconds(reading.read_at)})"
        rows = ", ".join(
            f"({literal(mode.account)}, {mode.livemode}, {at}, {literal(currency)}, {literal(kind)}, {amount},"
            f" {_value(reading.tied.get((currency, kind)))})"
            for (currency, kind), amount in reading.amounts.items()
        )
        before = f"make_timestamptz({microseconds(reading.read_at - _ALL_KEPT)})"

        def replace(connection: duckdb.DuckDBPyConnection) -> None:
            connection.execute(f"DELETE FROM pipeline.balances WHERE {of_mode} AND read_at = {at}")
            if rows:
                connection.execute(f"INSERT INTO pipeline.balances VALUES {rows}")
            connection.execute(
                f"DELETE FROM pipeline.balances WHERE {of_mode} AND read_at < {before} AND read_at NOT IN (SELECT"
                f" max(read_at) FROM pipeline.balances WHERE {of_mode} GROUP BY {utc_day('read_at')})"
            )

        self.file.write(replace)


def outcomes(ask: Ask, where: str) -> list[tuple[Proof, float]]:
    """The outcomes in `pipeline.proof` that fulfil a condition, each with the time of the check (Unix seconds)."""
    rows = ask(
        "SELECT name, livemode, object_type, currency, scope, left_side, right_side, verdict, reason, rows,"
        f" epoch_us(checked_at) / 1e6 FROM pipeline.proof WHERE {where}"
        " ORDER BY livemode DESC, name, object_type, currency, scope"
    )
    return [
        (
            Proof(
                name=name,
                livemode=livemode,
                object_type=object_type,
                currency=currency,
                scope=scope,
                left=left,
                right=right,
                verdict=Verdict(verdict),
                reason=reason,
                rows=number,
            ),
            float(at),
        )
        for name, livemode, object_type, currency, scope, left, right, verdict, reason, number, at in rows
    ]


def _row(proof: Proof) -> Sequence[Any]:
    return (
        proof.name,
        proof.livemode,
        proof.object_type,
        proof.currency,
        proof.scope,
        proof.left,
        proof.right,
        proof.difference,
        str(proof.verdict),
        proof.reason,
        proof.rows,
    )


def _value(value: str | int | None) -> str:
    return "NULL" if value is None else literal(value) if isinstance(value, str) else str(value)


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(literal, sorted(names)))
