"""Refunds."""

from __future__ import annotations

from typing import Any, Unpack

from stripe_emulator import templates
from stripe_emulator.shop.balance import Balance
from stripe_emulator.shop.state import Moment, When, locked
from stripe_emulator.store import Json, reference


class Refunds(Balance):
    """Actions on refunds."""

    @locked
    def refund(
        self,
        charge_id: str,
        amount: int | None = None,
        *,
        reverse_transfer: bool = False,
        refund_application_fee: bool = False,
        livemode: bool | None = None,
        created: int | None = None,
        announce: bool = True,
        **fields: Any,
    ) -> Json:
        """Refund `amount` of a charge (default: the unrefunded rest).

        For a destination charge, `reverse_transfer` takes the same amount from the connected account, and
        `refund_application_fee` returns the same share of the fee.
        """
        moment = self._moment_of("charges", charge_id, {"livemode": livemode, "created": created, "announce": announce})
        charge = self._stored("charges", charge_id, moment.livemode)
        amount = charge["amount_captured"] - charge["amount_refunded"] if amount is None else amount
        refund_id = fields.get("id") or self._id("re")
        description = f"REFUND FOR CHARGE ({charge['description'] or charge_id})"
        transaction = self._book(charge, -amount, moment, "refund", refund_id, description)
        refund = templates.refund(refund_id, moment.at, charge, amount, transaction["id"]) | fields
        if reverse_transfer:
            refund["transfer_reversal"] = self._reverse_transfer(charge, amount, moment)
        if refund_application_fee:
            self._refund_application_fee(charge, amount, moment)
        shown = self._add("refunds", refund, moment, ("refund.created",))
        self._set_refunded(charge, charge["amount_refunded"] + amount, moment, "charge.refunded")
        return shown

    @locked
    def fail_refund(self, refund_id: str, *, reason: str = "expired_or_canceled_card", **when: Unpack[When]) -> Json:
        """Fail a refund returned by the bank."""
        moment = self._moment_of("refunds", refund_id, when)
        refund = self._stored("refunds", refund_id, moment.livemode)
        charge = self._stored("charges", reference(refund["charge"]), moment.livemode)
        transaction = self._book(
            charge, refund["amount"], moment, "refund_failure", refund_id, f"REFUND FAILURE ({charge['id']})"
        )
        self._set_refunded(charge, charge["amount_refunded"] - refund["amount"], moment, "charge.updated")
        return self._change(
            "refunds",
            refund_id,
            moment,
            ("refund.failed", "refund.updated", "charge.refund.updated"),
            status="failed",
            failure_reason=reason,
            failure_balance_transaction=transaction["id"],
        )

    def _set_refunded(self, charge: Json, amount: int, moment: Moment, event: str) -> None:
        refunded = amount >= charge["amount_captured"]
        self._change("charges", charge["id"], moment, (event,), amount_refunded=amount, refunded=refunded)

    def _reverse_transfer(self, charge: Json, amount: int, moment: Moment) -> str:
        """Take money back from the connected account; returns the id of the reversal."""
        reversal = self._id("trr")
        description = f"REFUND FOR TRANSFER ({charge['transfer']})"
        self._book(charge, amount, moment, "transfer_reversal", reversal, description, kind="transfer_refund")
        return reversal

    def _refund_application_fee(self, charge: Json, amount: int, moment: Moment) -> None:
        """Refund the same share of the application fee as of the charge."""
        part = round(charge["application_fee_amount"] * amount / charge["amount"])
        description, kind = f"Refund of {charge['application_fee']}", "application_fee_refund"
        self._book(charge, -part, moment, "platform_earning_refund", self._id("fr"), description, kind=kind)
