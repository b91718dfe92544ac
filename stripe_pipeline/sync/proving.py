"""The proofs of one run with one key: the control total after a sync, and every check when these are asked for.

This module has the order of work. The single proofs belong to `control_total`, `sample` and the package `proof`.
"""

from __future__ import annotations

from collections.abc import Sequence

from stripe_pipeline.proof.proving import NAMES, prove
from stripe_pipeline.proof.verdict import Proof
from stripe_pipeline.sync.context import EVENTS, Context
from stripe_pipeline.sync.control_total import ControlTotal
from stripe_pipeline.sync.loading import Loading
from stripe_pipeline.sync.plan import BALANCE_TRANSACTIONS, OVERLAP
from stripe_pipeline.sync.sample import Sample
from stripe_pipeline.sync.working_files import rows_lost


class Proving:
    """The proofs of one run with one key."""

    def __init__(self, context: Context, loading: Loading) -> None:
        self._context = context
        self._loading = loading
        self._control_total = ControlTotal(context)
        self._sample = Sample(context, loading)

    def last_balance(self) -> list[tuple[Proof, float]]:
        """The last outcomes of comparing with the balance, for `balance_is_due`."""
        return self._control_total.stored()

    def balance_is_due(self, stored: Sequence[tuple[Proof, float]]) -> bool:
        """Whether the sync that has just loaded its rows should compare them with the balance; `stored`: what
        `last_balance` returned."""
        return self._control_total.is_due(stored)

    def compare_balance(self) -> None:
        """Compare the balance transactions with the balance."""
        self._control_total.check(self._list_money)

    def all(self, *, sample: bool) -> None:
        """Evaluate every check, that of the sample only if a `sample` is to be read, and store the outcomes."""
        self.compare_balance()
        if sample:
            self._sample.read()
        warehouse, mode, now = self._context.warehouse, self._context.mode, self._context.api.now()
        with warehouse.session():
            opening = warehouse.state.opening_balance(mode)
            whole = opening is not None and opening[1] == {}
            settings = self._context.settings
            proofs = prove(warehouse.ask, settings, livemode=mode.livemode, now=now, whole=whole)
            warehouse.proofs.store(proofs, NAMES, livemode=mode.livemode, now=now)

    def _list_money(self) -> None:
        """Load the balance transactions made since the sync before this run."""
        cursors = self._context.cursors
        looked = cursors.get(BALANCE_TRANSACTIONS, cursors.get(EVENTS, self._context.api.now()))
        try:
            batch, _ = self._context.readers[BALANCE_TRANSACTIONS].list_since(int(looked) - OVERLAP)
        except OSError as error:
            raise rows_lost(error, self._context.warehouse.folder.spool) from error
        self._loading.load([batch])
