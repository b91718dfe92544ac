"""Payouts: money that leaves the balance, arrives at the bank or comes back."""

from __future__ import annotations

from typing import Unpack

from stripe_emulator import templates
from stripe_emulator.clock import DAY
from stripe_emulator.shop.balance import Balance
from stripe_emulator.shop.state import When, locked
from stripe_emulator.store import Json


class Payouts(Balance):
    """Actions on payouts."""

    @locked
    def payout(
        self,
        amount: int | None = None,
        *,
        currency: str = "usd",
        livemode: bool = False,
        created: int | None = None,
        announce: bool = True,
    ) -> Json:
        """Begin to pay out `amount` by hand, or the available balance of a currency automatically; returns the balance
        transaction."""
        moment = self._moment(livemode=livemode, created=created, announce=announce)
        side = self._sides[livemode]
        automatic = amount is None
        paid = self._unpaid(currency, livemode, moment.at) if automatic else []
        total = sum(obj["net"] for obj in paid) if amount is None else amount
        payout_id = self._id("po")
        side.paid_out |= {obj["id"]: payout_id for obj in paid}
        obj = templates.balance_transaction(
            self._id("txn"),
            moment.at,
            -total,
            currency,
            kind="payout",
            category="payout",
            source=payout_id,
            description="STRIPE PAYOUT",
            available_on=moment.at + DAY if automatic else moment.at,
            fees=[],
        )
        if automatic:
            side.paid_out[obj["id"]] = payout_id
        transaction = self._add_transaction(obj, moment)
        payout = templates.payout(payout_id, moment.at, livemode, total, currency, obj["id"], moment.at + DAY)
        if not automatic:
            payout |= {"automatic": False, "reconciliation_status": "not_applicable"}
        self._add("payouts", payout, moment, ("payout.created",))
        return transaction

    @locked
    def complete_payout(self, payout_id: str, **when: Unpack[When]) -> Json:
        """Let a payout arrive at the bank, and complete its reconciliation."""
        moment = self._moment_of("payouts", payout_id, when)
        if self._stored("payouts", payout_id, moment.livemode)["automatic"]:
            self._change(
                "payouts",
                payout_id,
                moment,
                ("payout.reconciliation_completed", "payout.updated"),
                reconciliation_status="completed",
            )
        trace = {"status": "supported", "value": payout_id[-12:]}
        return self._change(
            "payouts", payout_id, moment, ("payout.paid", "payout.updated"), status="paid", trace_id=trace
        )

    @locked
    def fail_payout(self, payout_id: str, *, reason: str = "account_closed", **when: Unpack[When]) -> Json:
        """Fail a payout returned by the bank: the money is back in the balance."""
        return self._return_payout(
            payout_id,
            when,
            "payout_failure",
            status="failed",
            failure_code=reason,
            failure_message="The bank account has been closed.",
        )

    @locked
    def cancel_payout(self, payout_id: str, **when: Unpack[When]) -> Json:
        """Cancel a payout that has not been sent to the bank."""
        return self._return_payout(payout_id, when, "payout_cancel", status="canceled")

    def _return_payout(self, payout_id: str, when: When, kind: str, *, status: str, **fields: str) -> Json:
        """Book the balance transaction that returns the money of a payout, and give the payout its last status."""
        moment = self._moment_of("payouts", payout_id, when)
        payout = self._stored("payouts", payout_id, moment.livemode)
        transaction = templates.balance_transaction(
            self._id("txn"),
            moment.at,
            payout["amount"],
            payout["currency"],
            kind=kind,
            category="payout_reversal",
            source=payout_id,
            description=f"{payout['description']} RETURNED",
            available_on=moment.at,
            fees=[],
        )
        self._add_transaction(transaction, moment)
        return self._change(
            "payouts",
            payout_id,
            moment,
            (f"payout.{status}", "payout.updated"),
            status=status,
            failure_balance_transaction=transaction["id"],
            **fields,
        )
