"""When a run reads Stripe's balance, and what the reading proves.

At most once an hour while nothing moves, and after each sync that moved the balance. `proof.balance` compares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date

from stripe_pipeline.days import day_start
from stripe_pipeline.errors import AuthenticationFailed, Cancelled, StripePipelineError, WarehouseError
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.proof.balance import (
    BALANCE,
    BalanceReading,
    Compared,
    Part,
    Sums,
    amounts_of,
    compare,
    judge,
    outcome,
    sums,
)
from stripe_pipeline.proof.verdict import Proof, Verdict
from stripe_pipeline.sync.context import Context
from stripe_pipeline.sync.plan import BALANCE_TRANSACTIONS
from stripe_pipeline.views.completeness import complete_since

_ENDPOINT = "/v1/balance"
_UNREADABLE = "Stripe's balance cannot be read"
_HOUR = 3600 - 60  # seconds; a sync may start a little earlier in its hour than the last one
_NEEDED = ("balance_type", "currency", "net")
_LOOKED_BACK = 3  # readings that are compared again with what is stored now


class ControlTotal:
    """The control total of one run with one key."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._api = context.api
        self._mode = context.mode
        self._warehouse = context.warehouse
        self._proofs = context.warehouse.proofs

    def check(self, look_again: Callable[[], None]) -> None:
        """Read the balance, and store the outcome.

        `look_again` loads the balance transactions made since the last sync, in case the first reading does not tie.
        """
        if BALANCE_TRANSACTIONS not in self._context.readers:
            self._store([])  # the type was switched off: what was found before counts no longer
            return
        with self._warehouse.session(only_reads=True):
            readings = self._proofs.readings(self._mode)
            since = self._complete_since()
        if (reason := self._undecidable(since)) or since is None:
            self._store([outcome(self._mode.livemode, Verdict.OPEN, reason)])
            return
        try:
            opening = self._opening(since)
            reading = self._read()
            compared = self._compare(reading, readings, since, opening)
            if compared and not all(of.tied for of in compared.values()):
                look_again()
                reading = self._read()
                compared = self._compare(reading, readings, since, opening)
        except (AuthenticationFailed, Cancelled, WarehouseError):
            raise
        except StripePipelineError as error:
            self._store([outcome(self._mode.livemode, Verdict.OPEN, f"{_UNREADABLE}: {error.what}")])
            return
        if compared is None:
            self._proofs.keep(self._mode, reading)
            reason = f"The account is older than {since}: the next reading shows whether the changes add up"
            self._store([outcome(self._mode.livemode, Verdict.OPEN, reason)])
            return
        reading = reading.with_result(compared)
        earlier = []
        if not reading.is_tied:
            earlier = [(of.read_at, self._compare(of, readings, since, opening) or {}) for of in _untied(readings)]
        elif opening is None:
            total = compare(self._sums(reading), reading.amounts, opening={})
            self._warehouse.state.remember_opening_balance(
                self._mode, since, {part: -of.difference for part, of in total.items()}
            )
        self._proofs.keep(self._mode, reading)
        self._store(list(judge(compared, earlier, livemode=self._mode.livemode, at=reading.read_at)))

    def stored(self) -> list[tuple[Proof, float]]:
        """The last outcomes, each with its time (Unix seconds); none if this run does not read the balance."""
        if BALANCE_TRANSACTIONS not in self._context.readers:
            return []
        return [of for of in self._proofs.stored(names=[BALANCE]) if of[0].livemode is self._mode.livemode]

    def is_due(self, stored: Sequence[tuple[Proof, float]]) -> bool:
        """Whether the sync that has just loaded its rows should read the balance; `stored`: the last outcomes."""
        if BALANCE_TRANSACTIONS not in self._context.readers:
            return False
        an_hour_ago = self._api.now() - _HOUR
        recent = [proof for proof, at in stored if at > an_hour_ago]
        if any((proof.reason or "").startswith(_UNREADABLE) for proof in recent):
            return False
        changes = self._context.report.changes.get(BALANCE_TRANSACTIONS)
        waiting = any(proof.verdict is Verdict.OPEN for proof, _ in stored)
        return not recent or waiting or bool(changes and changes.days)

    def _undecidable(self, since: date | None) -> str | None:
        """Why the rows cannot be added up; None if they can."""
        columns = self._context.settings.types[BALANCE_TRANSACTIONS].column_names
        if left_out := [f"{BALANCE_TRANSACTIONS}.{name}" for name in _NEEDED if name not in columns]:
            return f"The settings leave out {', '.join(left_out)}"
        return f"Not complete in the warehouse: {BALANCE_TRANSACTIONS}" if since is None else None

    def _complete_since(self) -> date | None:
        [(since,)] = self._warehouse.ask(complete_since((BALANCE_TRANSACTIONS,), livemode=self._mode.livemode))
        day: date | None = since
        return day

    def _opening(self, since: date) -> dict[Part, int] | None:
        """What the balance transactions made before this day add up to; None if there are some, and their sum is not
        known. Stripe is asked once for each day whether there are any."""
        known = self._warehouse.state.opening_balance(self._mode)
        if known is None or known[0] != since:
            params = {"created[lt]": day_start(since), "limit": 1}
            page = self._api.page(f"{OBJECT_TYPES[BALANCE_TRANSACTIONS].endpoint}", params)
            known = (since, None if page.objects else {})
            self._warehouse.state.remember_opening_balance(self._mode, *known)
        return known[1]

    def _read(self) -> BalanceReading:
        reply = self._api.get(_ENDPOINT)
        return BalanceReading(reply.sent_at, amounts_of(reply.data), {})

    def _compare(
        self,
        reading: BalanceReading,
        readings: Sequence[BalanceReading],
        since: date,
        opening: Mapping[Part, int] | None,
    ) -> dict[Part, Compared] | None:
        """The comparison with what is stored now; None if that takes an earlier reading, and there is none.

        If the sum of older transactions is not known, the change since an earlier reading is compared.
        """
        if opening is not None:
            return compare(self._sums(reading), reading.amounts, opening=opening)
        base = next((of for of in readings if day_start(since) <= of.read_at < reading.read_at), None)
        if base is None:
            return None
        return compare(self._sums(reading, since=base.read_at), reading.amounts, opening=base.amounts)

    def _sums(self, reading: BalanceReading, since: float = 0.0) -> Sums:
        return sums(self._warehouse.ask, livemode=self._mode.livemode, at=reading.read_at, since=since)

    def _store(self, proofs: list[Proof]) -> None:
        self._proofs.store(proofs, [BALANCE], livemode=self._mode.livemode, now=self._api.now())


def _untied(readings: Sequence[BalanceReading]) -> list[BalanceReading]:
    """Of the readings since the last one that tied, the first one and the newest ones; newest first."""
    since = next((n for n, of in enumerate(readings) if of.is_tied), len(readings))
    return [*readings[:since][:_LOOKED_BACK], *readings[_LOOKED_BACK:since][-1:]]
