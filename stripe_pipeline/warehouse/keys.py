"""Which accounts the warehouse holds, and which keys have written to it.

This module holds stored data on keys. Asking Stripe for a key's account belongs to `sync.account`.
"""

from __future__ import annotations

import duckdb

from stripe_pipeline.batch import Mode
from stripe_pipeline.warehouse.accounts import UNNAMED, other_account
from stripe_pipeline.warehouse.bookkeeping import BOOKKEEPING, Example, mode_condition, name_account, proves_nothing
from stripe_pipeline.warehouse.sql import literal, stored_types
from stripe_pipeline.warehouse.store import Store


class Keys:
    """The keys that have written to the private file. Every method raises `WarehouseError`."""

    def __init__(self, file: Store) -> None:
        self.file = file

    def all(self) -> dict[str, tuple[str, bool]]:
        """The account, which may be `UNNAMED`, and the `livemode` of each key that has written here, by fingerprint."""
        rows = self.file.ask("SELECT fingerprint, account, livemode FROM pipeline.keys")
        return {fingerprint: (account, livemode) for fingerprint, account, livemode in rows}

    def account_of(self, fingerprint: str) -> str | None:
        """The account of the key with this fingerprint, which may be `UNNAMED`; None for a key that was never used
        here."""
        if not self.file.exists():
            return None
        rows = self.file.ask(f"SELECT account FROM pipeline.keys WHERE fingerprint = {literal(fingerprint)}")
        return str(rows[0][0]) if rows else None

    def accounts(self) -> set[str]:
        """The accounts whose keys have written here, `UNNAMED` among them; empty if no warehouse exists yet."""
        return self.accounts_of(livemode=True) | self.accounts_of(livemode=False)

    def accounts_of(self, *, livemode: bool) -> set[str]:
        """The accounts whose keys of one mode have written here."""
        return {
            account for (account,) in self.file.ask(f"SELECT account FROM pipeline.keys WHERE livemode = {livemode}")
        }

    def modes(self) -> set[bool]:
        """The `livemode` values of keys that have written here."""
        return {livemode for (livemode,) in self.file.ask("SELECT livemode FROM pipeline.keys")}

    def examples(self, *, livemode: bool) -> list[Example]:
        """The newest object of each listed type that exists in Stripe, types that cannot be deleted there first."""
        with self.file.reading() as connection:
            listed = [
                object_type
                for object_type in stored_types(connection).values()
                if object_type.endpoint and not object_type.singleton
            ]
        newest = (
            f"(SELECT '{object_type.name}', id, _account FROM raw.{object_type.name}"
            f" WHERE livemode = {livemode} AND _deleted_at IS NULL ORDER BY created DESC LIMIT 1)"
            for object_type in sorted(listed, key=lambda listed_type: listed_type.deletable)
        )
        return [Example(*row) for select in newest for row in self.file.ask(select)]

    def remember_key(self, fingerprint: str, mode: Mode) -> None:
        """Records the key's account, and assigns the account to unnamed data of its mode, in one transaction.

        Raises `WarehouseError` if the warehouse belongs to another account.
        """

        def remember(connection: duckdb.DuckDBPyConnection) -> None:
            others = connection.execute(
                f"SELECT account FROM pipeline.keys WHERE account NOT IN ({literal(mode.account)}, '{UNNAMED}')"
            ).fetchall()
            if others and mode.account:
                raise other_account(self.file.folder, others[0][0], mode.account)
            if proves_nothing(connection, fingerprint, mode):
                for table in BOOKKEEPING:
                    connection.execute(
                        f"DELETE FROM pipeline.{table} WHERE {mode_condition(Mode(UNNAMED, mode.livemode))}"
                    )
            connection.execute(
                f"INSERT INTO pipeline.keys SELECT {literal(fingerprint)}, {literal(mode.account)}, {mode.livemode}"
                f" WHERE {literal(fingerprint)} NOT IN (SELECT fingerprint FROM pipeline.keys)"
            )
            if mode.account:
                name_account(connection, mode)

        self.file.write(remember)
