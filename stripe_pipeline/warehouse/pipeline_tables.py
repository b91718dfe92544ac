"""The tables of the schema `pipeline`: what the pipeline knows about the rows, beside the rows themselves.

Each table's columns, types and meanings are declared here; the file's layout, its comments and docs/tables.md follow.
The modules that read and write a table have its SQL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PipelineTable:
    """One table of the schema `pipeline`."""

    description: str
    """The meaning of the table and of one row, in sentences of Markdown."""
    columns: Mapping[str, tuple[str, str]]
    """The SQL type and the meaning of each column, by name."""

    @property
    def definition(self) -> str:
        """The columns with their types, as CREATE TABLE has them."""
        return ", ".join(f'"{name}" {sql_type}' for name, (sql_type, _) in self.columns.items())


PIPELINE_TABLES: Mapping[str, PipelineTable] = {
    "coverage": PipelineTable(
        "Which days are known to be complete: one row per table, account, mode and UTC day of `created` that"
        " was listed completely.",
        {
            "object_type": ("VARCHAR", "Name of the table"),
            "account": ("VARCHAR", "Stripe account, as in `_account`"),
            "livemode": ("BOOLEAN", "True for live data, false for test data"),
            "day": ("DATE", "UTC day of `created`; for children, the parent's"),
            "listed_at": ("TIMESTAMPTZ", "When the listing began; the start of `day` if the day must be listed again"),
            "listed_until": (
                "TIMESTAMPTZ",
                "Exclusive upper bound of `created` in the listing; at most the end of `day`",
            ),
            "rows": ("BIGINT", "Rows stored for the day when it was listed, less the rows pruned since"),
            "how": ("VARCHAR", "Why the day was listed: `first load`, `sync`, `webhook`, `backfill` or `sweep`"),
            "listed": ("BIGINT", "Objects that the listing returned, including those too old to be kept"),
            "first_request": (
                "VARCHAR",
                "Stripe's ID of the request for the first page of the listing, as in the Dashboard's request logs",
            ),
            "last_request": ("VARCHAR", "Stripe's ID of the request for the last page"),
        },
    ),
    "proof": PipelineTable(
        "What was compared, and the outcome: one row per check, mode and scope. [Proofs](operating.md#proofs)"
        " explains the checks.",
        {
            "name": ("VARCHAR", "Name of the check"),
            "livemode": ("BOOLEAN", "True for live data, false for test data"),
            "object_type": ("VARCHAR", "Name of the table that is checked"),
            "currency": ("VARCHAR", "Currency of both sides; null for a check of all currencies, or of no amounts"),
            "scope": (
                "VARCHAR",
                "What the row is about: empty for the whole table, or the ID of the object that fails",
            ),
            "left_side": ("HUGEINT", "What the table holds, in minor units of `currency`"),
            "right_side": ("HUGEINT", "What the table should hold, in the same units"),
            "difference": ("HUGEINT", "`left_side` less `right_side`"),
            "verdict": ("VARCHAR", "`proved`, `open` or `failed`"),
            "reason": ("VARCHAR", "Why the verdict is not `proved`"),
            "rows": ("BIGINT", "Number of rows that were compared"),
            "checked_at": ("TIMESTAMPTZ", "When the check ran"),
        },
    ),
    "balances": PipelineTable(
        "Readings of Stripe's balance: one row per reading, currency and `balance_type`.",
        {
            "account": ("VARCHAR", "Stripe account, as in `_account`"),
            "livemode": ("BOOLEAN", "True for live data, false for test data"),
            "read_at": ("TIMESTAMPTZ", "When the balance was read, on Stripe's clock"),
            "currency": ("VARCHAR", "Currency of the amount"),
            "balance_type": (
                "VARCHAR",
                "`payments`, `issuing` or `refund_and_dispute_prefunding`, as in balance transactions",
            ),
            "amount": ("BIGINT", "What is available and pending, in minor units of `currency`"),
            "tied": (
                "BOOLEAN",
                "Whether the stored balance transactions add up to the amount; null while that is open",
            ),
        },
    ),
    "drift": PipelineTable(
        "Rows that differed from Stripe although no event had announced a change, each with how that was"
        " found. All of them were corrected at once.",
        {
            "object_type": ("VARCHAR", "Name of the table"),
            "livemode": ("BOOLEAN", "True for live data, false for test data"),
            "id": ("VARCHAR", "ID of the object"),
            "difference": (
                "VARCHAR",
                "`changed`, `missing` (the object had no row) or `deleted` (the object is gone from Stripe)",
            ),
            "fields": ("VARCHAR", "Columns that differed, separated by commas"),
            "found_by": (
                "VARCHAR",
                "`sample` (the nightly sample), `sweep`, `seal` (the list of a day after its end) or `backfill`",
            ),
            "found_at": ("TIMESTAMPTZ", "When the difference was found, on Stripe's clock"),
            "read_at": ("TIMESTAMPTZ", "When the row had last been read"),
            "created": ("TIMESTAMPTZ", "When the object was created"),
            "healed": ("BOOLEAN", "Whether the row was corrected"),
        },
    ),
    "samples": PipelineTable(
        "How many rows the nightly samples read again: one row per night, mode and table.",
        {
            "livemode": ("BOOLEAN", "True for live data, false for test data"),
            "object_type": ("VARCHAR", "Name of the table"),
            "sampled_at": ("TIMESTAMPTZ", "When the sample was read, on Stripe's clock"),
            "rows": ("BIGINT", "Rows that were read again"),
            "drifted": ("BIGINT", "Rows among them that differed"),
        },
    ),
    "cursors": PipelineTable(
        "How far each mode has been read.",
        {
            "account": ("VARCHAR", "Stripe account, as in `_account`"),
            "livemode": ("BOOLEAN", "True for live data, false for test data"),
            "name": (
                "VARCHAR",
                "`events`, `balance_transactions` (listing of new ones) or `sweep` (time of the last sweep)",
            ),
            "read_until": ("TIMESTAMPTZ", "The point in time reached, on Stripe's clock"),
        },
    ),
    "inbox": PipelineTable(
        "Notifications that could not be applied yet, with the reason. The table shows the state at the time"
        " of the last publish. Once the cause is gone, `stripe-pipeline webhooks retry` retries the ones that"
        " were given up.",
        {
            "event_id": (
                "VARCHAR",
                "ID of the event, or `read_<object>_<id>` if the object was found without an event",
            ),
            "livemode": ("BOOLEAN", "True for live data, false for test data"),
            "object": ("VARCHAR", "Stripe's name of the object's type, such as `charge`"),
            "object_id": ("VARCHAR", "ID of the object"),
            "received_at": ("TIMESTAMPTZ", "When the notification was received, on the local clock"),
            "attempts": ("INTEGER", "How often reading the object has failed"),
            "state": ("VARCHAR", "`waiting` if it is tried again, `dead` after five failed attempts"),
            "error": ("VARCHAR", "The last error"),
        },
    ),
    "published": PipelineTable(
        "One row that identifies the version of the published file that you are reading. The moments say how far each"
        " mode was read: a type that could not be read, a finished day that was not listed since, and a change that"
        " waits for its object to be read hold the moment back. Objects that were given up do not; they are in"
        " `pipeline.inbox`.",
        {
            "version": ("BIGINT", "Version of the file; it increases whenever something has changed"),
            "published_at": ("TIMESTAMPTZ", "When this version was published, on the local clock"),
            "live_read_until": (
                "TIMESTAMPTZ",
                "Moment up to which every enabled type of live data is known to be read, on Stripe's clock; null if one"
                " of them was never read",
            ),
            "test_read_until": ("TIMESTAMPTZ", "The same for test data"),
        },
    ),
    "erased": PipelineTable(
        "Customers that were erased with `stripe-pipeline erase`, and the objects that belong to them. The"
        " pipeline keeps their personal data out of everything that it reads later.",
        {
            "customer": ("VARCHAR", "ID of the customer; a keyed hash if the ID was not generated by Stripe"),
            "object_type": ("VARCHAR", "Name of the table"),
            "id": ("VARCHAR", "ID of the customer or its keyed hash, or ID of an object that belongs to the customer"),
            "created": ("TIMESTAMPTZ", "When the object was created, if that is known"),
        },
    ),
    "lacking": PipelineTable(
        "Fields that rows do not have because the settings left them out when the rows were read. `stripe-"
        " pipeline check` shows the backfill that loads them.",
        {
            "object_type": ("VARCHAR", "Name of the table"),
            "fields": (
                "VARCHAR",
                "Name or path of the field; `column (table.field)` for an object embedded in a column",
            ),
            "since": ("TIMESTAMPTZ", "Days listed before this time lack the field"),
        },
    ),
    "backfills": PipelineTable(
        "Internal: backfills that were started and have not finished.",
        {
            "request": ("VARCHAR", "Hash of the tables and days"),
            "account": ("VARCHAR", "Stripe account, as in `_account`"),
            "livemode": ("BOOLEAN", "True for live data, false for test data"),
            "began": ("TIMESTAMPTZ", "When the backfill began, on Stripe's clock"),
        },
    ),
    "gone": PipelineTable(
        "Internal: objects that were recently found deleted or too old to keep, and have no row that records it.",
        {
            "object_type": ("VARCHAR", "Name of the table"),
            "id": ("VARCHAR", "ID of the object"),
            "found_at": ("TIMESTAMPTZ", "When the request that found it was sent, on Stripe's clock"),
            "livemode": ("BOOLEAN", "True for live data, false for test data; null for a row that format 4 wrote"),
        },
    ),
    "applied": PipelineTable(
        "Internal: the settings that the file was last migrated to, and work that is still to be done.",
        {
            "name": ("VARCHAR", "Name of the entry"),
            "value": ("VARCHAR", "Its value"),
        },
    ),
    "keys": PipelineTable(
        "Internal: the API keys that have written to this warehouse.",
        {
            "fingerprint": ("VARCHAR", "First 16 hexadecimal digits of the key's SHA-256"),
            "account": ("VARCHAR", "Stripe account of the key, as in `_account`"),
            "livemode": ("BOOLEAN", "True for a live key, false for a test key"),
        },
    ),
    "clock": PipelineTable(
        "Internal: bounds of the difference between Stripe's clock and the local one.",
        {
            "lowest": ("DOUBLE", "Least number of seconds by which Stripe's clock is ahead; negative if it is behind"),
            "highest": ("DOUBLE", "Greatest number of seconds by which Stripe's clock is ahead"),
        },
    ),
    "meta": PipelineTable(
        "Internal: one row about the file itself.",
        {
            "format": ("INTEGER", "Version of the file's layout"),
            "revision": (
                "BIGINT",
                "Number that increases with every change; `pipeline.published.version` when published",
            ),
            "id": ("VARCHAR", "ID of this warehouse; copies of the file share it"),
        },
    ),
}
"""The tables by name, in the order in which docs/tables.md shows them."""
