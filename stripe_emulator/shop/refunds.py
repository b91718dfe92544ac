"""Refunds."""

from __future__ import annotations

from typing import Any, Unpack

from stripe_emulator import payment_templates, templates
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
        `refund_application_fee` returns the same share of the fee. Raises `ValueError` if the charge has no transfer
        (yet), or no fee.
        """
        moment = self._moment_of("charges", charge_id, {"livemode": livemode, "created": created, "announce": announce})
        charge = self._stored("charges", charge_id, moment.livemode)
        amount = charge["amount_captured"] - charge["amount_refunded"] if amount is None else amount
        if reverse_transfer and charge.get("transfer") is None:
            raise ValueError(f"the charge {charge_id} has no transfer that could be reversed")
        if refund_application_fee and charge.get("application_fee") is None:
            raise ValueError(f"the charge {charge_id} has no application fee that could be refunded")
        refund_id = fields.get("id") or self._id("re")
        description = f"REFUND FOR CHARGE ({charge['description'] or charge_id})"
        transaction = self._book(charge, -amount, moment, "refund", refund_id, description)
        refund = templates.refund(refund_id, moment.at, charge, amount, transaction["id"]) | fields
        if reverse_transfer:
            refund["transfer_reversal"] = self._reverse_transfer(charge, amount, moment, refund_id)
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
        self._set_refunded(charge, charge["amount_refunded"] - refund["amount"], moment)
        return self._change(
            "refunds",
            refund_id,
            moment,
            ("refund.failed", "refund.updated", "charge.refund.updated"),
            status="failed",
            failure_reason=reason,
            failure_balance_transaction=transaction["id"],
        )

    def _set_refunded(self, charge: Json, amount: int, moment: Moment, *events: str) -> None:
        refunded = amount >= charge["amount_captured"]
        self._change("charges", charge["id"], moment, events, amount_refunded=amount, refunded=refunded)

    @locked
    def reverse_transfer(self, transfer_id: str, amount: int, **when: Unpack[When]) -> Json:
        """Take a part of a transfer back from the connected account; returns the transfer. Raises `ValueError` if
        less than `amount` is left of it."""
        moment = self._moment_of("transfers", transfer_id, when)
        transfer = self._stored("transfers", transfer_id, moment.livemode)
        if amount > (left := transfer["amount"] - transfer["amount_reversed"]):
            raise ValueError(f"{amount} is more than is left of the transfer {transfer_id}: {left}")
        charge = self._stored("charges", transfer["source_transaction"], moment.livemode)
        self._reverse_transfer(charge, amount, moment, None)
        return self._shown("transfers", transfer_id, moment.livemode)

    def _reverse_transfer(self, charge: Json, amount: int, moment: Moment, refund_id: str | None) -> str:
        """Take money back from the connected account; returns the id of the reversal."""
        reversal_id = self._id("trr")
        description = f"REFUND FOR TRANSFER ({charge['transfer']})"
        booked = self._book(
            charge, amount, moment, "transfer_reversal", reversal_id, description, kind="transfer_refund"
        )
        transfer = self._stored("transfers", charge["transfer"], moment.livemode)
        reversal = payment_templates.transfer_reversal(
            reversal_id, moment.at, transfer, booked["amount"], booked["id"]
        ) | {"source_refund": refund_id}
        self._add("transfer_reversals", reversal, moment)
        total = transfer["amount_reversed"] + booked["amount"]
        self._change(
            "transfers",
            transfer["id"],
            moment,
            ("transfer.reversed",),
            amount_reversed=total,
            reversed=total >= transfer["amount"],
        )
        return reversal_id

    def _refund_application_fee(self, charge: Json, amount: int, moment: Moment) -> None:
        """Refund the same share of the application fee as of the charge."""
        part = round(charge["application_fee_amount"] * amount / charge["amount"])
        description, kind = f"Refund of {charge['application_fee']}", "application_fee_refund"
        refund_id = self._id("fr")
        booked = self._book(charge, -part, moment, "platform_earning_refund", refund_id, description, kind=kind)
        fee = self._sides[moment.livemode].objects["application_fees"].objects.get(charge["application_fee"])
        if fee is None:
            return  # of a direct charge: the fee is the platform's
        obj = payment_templates.application_fee_refund(refund_id, moment.at, fee, -booked["amount"], booked["id"])
        self._add("application_fee_refunds", obj, moment)
        total = fee["amount_refunded"] - booked["amount"]
        self._change(
            "application_fees",
            fee["id"],
            moment,
            ("application_fee.refunded",),
            amount_refunded=total,
            refunded=total >= fee["amount"],
        )
