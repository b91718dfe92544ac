"""Balance transactions that stored rows refer to and the table lacks, read by id."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import date

from stripe_pipeline.sync.context import Context
from stripe_pipeline.sync.loading import Loading
from stripe_pipeline.sync.plan import (
    BALANCE_TRANSACTIONS,
    oldest_kept,
    plan_type,
)


class NamedTransactions:
    """The referenced transactions of one run."""

    def __init__(self, context: Context, loading: Loading) -> None:
        self._loading = loading
        self._api = context.api
        self._mode = context.mode
        self._warehouse = context.warehouse
        self._settings = context.settings
        self._readers = context.readers

    def lacking(self, *, since: float, days: Mapping[str, Collection[date]]) -> Callable[[], dict[str, int]]:
        """Finds the balance transactions that stored rows name and the table lacks, with `created` in Unix seconds.

        The rows examined are those requested since `since` and those made on `days` (by table name). A transaction may
        appear long after its charge with the charge's `created`, so that no list of new transactions contains it
        (docs/stripe.md#asynchronous-capture).
        """
        reader = self._readers.get(BALANCE_TRANSACTIONS)
        if reader is None:
            return dict
        return lambda: self._warehouse.rows.lacking_targets(self._mode, reader.object_type, since=since, days=days)

    def read(self, named: Callable[[], dict[str, int]], wanted: Mapping[str, int], *, how: str) -> bool:
        """Read the transactions `wanted` from `named`; whether that succeeded."""
        if not wanted:
            return True
        reader = self._readers[BALANCE_TRANSACTIONS]
        coverage = self._warehouse.state.coverage(self._mode)
        plan = plan_type(reader.object_type, wanted, (), coverage, self._api.now(), young_since=None)
        ids = plan.ids
        if plan.days:
            if self._loading.list_days({BALANCE_TRANSACTIONS: dict.fromkeys(plan.days, how)}):
                return False
            ids = set(named())  # made on a day other than the naming row's
        # The rows that name the transactions are not examined again: the inbox retries.
        oldest = oldest_kept(reader.object_type, self._settings, coverage)
        batch = self._loading.read_again(BALANCE_TRANSACTIONS, ids, since=oldest)
        if batch is None:
            return False
        self._loading.load([batch])
        return True
