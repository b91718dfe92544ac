"""Disputes."""

from __future__ import annotations

from typing import Any, Unpack

from stripe_emulator import templates
from stripe_emulator.shop.balance import Balance
from stripe_emulator.shop.state import When, locked
from stripe_emulator.store import Json, reference


class Disputes(Balance):
    """Actions on disputes."""

    @locked
    def dispute(
        self,
        charge_id: str,
        *,
        reason: str = "fraudulent",
        amount: int | None = None,
        livemode: bool | None = None,
        created: int | None = None,
        announce: bool = True,
        **fields: Any,
    ) -> Json:
        """Open a dispute: the customer's bank takes back the money of a charge."""
        moment = self._moment_of("charges", charge_id, {"livemode": livemode, "created": created, "announce": announce})
        charge = self._stored("charges", charge_id, moment.livemode)
        amount = charge["amount"] if amount is None else amount
        dispute_id = fields.get("id") or self._id("dp")
        fee = templates.fee(templates.dispute_fee(charge["currency"]), charge["currency"], description="Dispute fee")
        description = f"Chargeback withdrawal for {charge_id}"
        withdrawal = self._book(charge, -amount, moment, "dispute", dispute_id, description, fees=[fee])
        dispute = templates.dispute(dispute_id, moment.at, charge, amount, reason, withdrawal) | fields
        events = ("charge.dispute.created", "charge.dispute.funds_withdrawn")
        shown = self._add("disputes", dispute, moment, events)
        self._change("charges", charge_id, moment, disputed=True)
        return shown

    @locked
    def update_dispute(
        self,
        dispute_id: str,
        *,
        livemode: bool | None = None,
        created: int | None = None,
        announce: bool = True,
        **fields: Any,
    ) -> Json:
        """Replace fields of a dispute; without `fields`, submit evidence."""
        mode = self._mode("disputes", dispute_id, livemode)
        dispute = self._stored("disputes", dispute_id, mode)
        fields = fields or {
            "status": "under_review",
            "evidence": dispute["evidence"] | {"uncategorized_text": "The parcel was signed for."},
            "evidence_details": dispute["evidence_details"] | {"has_evidence": True, "submission_count": 1},
        }
        return self.update("disputes", dispute_id, livemode=mode, created=created, announce=announce, **fields)

    @locked
    def close_dispute(self, dispute_id: str, won: bool, **when: Unpack[When]) -> Json:
        """Close a dispute as won or lost; a won dispute returns the money."""
        moment = self._moment_of("disputes", dispute_id, when)
        if not won:
            return self._change("disputes", dispute_id, moment, ("charge.dispute.closed",), status="lost")
        dispute = self._stored("disputes", dispute_id, moment.livemode)
        charge = self._stored("charges", reference(dispute["charge"]), moment.livemode)
        description = f"Chargeback reversal for {charge['id']}"
        reversal = self._book(charge, dispute["amount"], moment, "dispute_reversal", dispute_id, description)
        return self._change(
            "disputes",
            dispute_id,
            moment,
            ("charge.dispute.funds_reinstated", "charge.dispute.closed"),
            status="won",
            balance_transactions=[*dispute["balance_transactions"], reversal],
        )
