"""Payment intents and their charges."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any, Unpack

from stripe_emulator import templates
from stripe_emulator.shop.balance import Balance
from stripe_emulator.shop.state import Moment, When, locked
from stripe_emulator.store import Json, reference

_CARDS = (("visa", "4242"), ("mastercard", "4444"), ("amex", "0005"), ("visa", "1881"), ("discover", "1117"))


class Payments(Balance):
    """Actions on payments."""

    @locked
    def create_payment(
        self,
        customer: str | None = None,
        *,
        amount: int = 2000,
        currency: str = "usd",
        outcome: str = "succeeded",
        fees: Sequence[Json] | None = None,
        application_fee: int | None = None,
        settlement_currency: str | None = None,
        destination: str | None = None,
        captured_after: int | None = None,
        livemode: bool = False,
        created: int | None = None,
        announce: bool = True,
        **fields: Any,
    ) -> Json:
        """Add a payment intent and try to collect it; `fields` are the intent's.

        `fees` replaces the processing fee; `settlement_currency` is the currency of the balance, if different (US
        dollars only). `destination`: the connected account that receives the money of a destination charge and returns
        the application fee. Without `destination`, the shop's account pays the fee, as for direct charges.
        `captured_after`: seconds until the charge gets its balance transaction.
        """
        moment = self._moment(livemode=livemode, created=created, announce=announce)
        manual = {"capture_method": "manual"} if outcome == "requires_capture" else {}
        obj = templates.payment_intent(fields.get("id") or self._id("pi"), moment.at, livemode, amount, currency)
        obj |= {"customer": customer, "application_fee_amount": application_fee} | manual | fields
        if destination is not None:
            obj["transfer_data"] = {"destination": destination}
        elif application_fee is not None:
            obj["application"] = "ca_DemoPlatform000000000000000000"
        self._add("payment_intents", obj, moment, ("payment_intent.created",))
        return self.attempt_payment(
            obj["id"],
            outcome=outcome,
            fees=fees,
            settlement_currency=settlement_currency,
            captured_after=captured_after,
            **moment.when,
        )

    @locked
    def attempt_payment(
        self,
        payment_intent_id: str,
        *,
        outcome: str = "succeeded",
        decline_code: str = "generic_decline",
        fees: Sequence[Json] | None = None,
        settlement_currency: str | None = None,
        captured_after: int | None = None,
        **when: Unpack[When],
    ) -> Json:
        """Try to collect a payment intent: once more after a failure, or for the first time."""
        moment = self._moment_of("payment_intents", payment_intent_id, when)
        intent = self._stored("payment_intents", payment_intent_id, moment.livemode)
        intent = intent | {"payment_method": intent["payment_method"] or self._id("pm")}
        if outcome == "requires_action":
            return self._require_action(intent, moment)
        charge = self._new_charge(intent, moment)
        change = {
            "latest_charge": charge["id"],
            "payment_method": intent["payment_method"],
            "last_payment_error": None,
            "next_action": None,
        }
        match outcome:
            case "succeeded":
                if captured_after is None and fees is None and settlement_currency is None:
                    captured_after = self._capture_delay()
                if captured_after is None:
                    charge |= self._book_capture(charge, charge["amount"], moment, fees, settlement_currency)
                else:
                    charge |= {"amount_captured": charge["amount"], "captured": True}
                    capturing = self._sides[moment.livemode].capturing
                    heapq.heappush(capturing, (moment.at + captured_after, charge["id"], moment.announce))
                change |= {"status": "succeeded", "amount_received": charge["amount"]}
                events = ("charge.succeeded", "payment_intent.succeeded")
            case "failed":
                declined, error = templates.declined(decline_code)
                charge |= declined
                change |= {
                    "status": "requires_payment_method",
                    "payment_method": None,
                    "last_payment_error": error | {"charge": charge["id"]},
                }
                events = ("charge.failed", "payment_intent.payment_failed")
            case "requires_capture":
                change |= {"status": "requires_capture", "amount_capturable": charge["amount"]}
                events = ("charge.succeeded", "payment_intent.amount_capturable_updated")
            case "processing":
                charge |= {"status": "pending", "paid": False}
                change |= {"status": "processing"}
                events = ("charge.pending", "payment_intent.processing")
            case _:
                raise ValueError(f"unknown outcome {outcome!r}")
        self._add("charges", charge, moment, events[:1])
        return self._change("payment_intents", payment_intent_id, moment, events[1:], **change)

    @locked
    def capture(self, payment_intent_id: str, amount: int | None = None, **when: Unpack[When]) -> Json:
        """Capture a payment that requires capture, or is still processing."""
        moment = self._moment_of("payment_intents", payment_intent_id, when)
        intent = self._stored("payment_intents", payment_intent_id, moment.livemode)
        charge = self._stored("charges", reference(intent["latest_charge"]), moment.livemode)
        amount = charge["amount"] if amount is None else amount
        change = self._book_capture(charge, amount, moment) | {"status": "succeeded", "paid": True}
        kind = "charge.succeeded" if charge["status"] == "pending" else "charge.captured"
        self._change("charges", charge["id"], moment, (kind,), **change)
        return self._change(
            "payment_intents",
            payment_intent_id,
            moment,
            ("payment_intent.succeeded",),
            status="succeeded",
            amount_capturable=0,
            amount_received=amount,
        )

    @locked
    def cancel_payment(
        self, payment_intent_id: str, *, reason: str = "requested_by_customer", **when: Unpack[When]
    ) -> Json:
        """Cancel an uncollected payment."""
        moment = self._moment_of("payment_intents", payment_intent_id, when)
        return self._change(
            "payment_intents",
            payment_intent_id,
            moment,
            ("payment_intent.canceled",),
            status="canceled",
            canceled_at=moment.at,
            cancellation_reason=reason,
            amount_capturable=0,
            next_action=None,
        )

    def _require_action(self, intent: Json, moment: Moment) -> Json:
        return self._change(
            "payment_intents",
            intent["id"],
            moment,
            ("payment_intent.requires_action",),
            status="requires_action",
            next_action={"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}},
            payment_method=intent["payment_method"],
        )

    def _new_charge(self, intent: Json, moment: Moment) -> Json:
        """Returns an authorised charge on a random card."""
        brand, last4 = self._random.choice(_CARDS)
        person = self._customer(reference(intent["customer"]), moment.livemode)
        country = ((person and person.get("address")) or {}).get("country") or "US"
        details = templates.card(brand, last4, country, intent["amount"])
        return templates.charge(self._id("ch"), moment.at, moment.livemode, intent, details, person)

    def _capture_delay(self) -> int | None:
        """Returns the seconds until the next charge gets its balance transaction; None if immediately."""
        if self.async_capture and self._capture_random.random() < self.async_capture:
            return self._capture_random.randint(2, 60)
        return None
