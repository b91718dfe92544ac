"""The balance: its transactions, and when money becomes available. Payouts belong to `payouts`."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from stripe_emulator import payment_templates, templates
from stripe_emulator.clock import DAY
from stripe_emulator.shop.changes import Changes
from stripe_emulator.shop.state import Moment, locked
from stripe_emulator.store import Json, reference


class Balance(Changes):
    """Actions on the balance."""

    @locked
    def balance(self, currency: str, livemode: bool, at: int | None = None) -> int:
        """Returns a currency's available balance not yet paid out, in minor units."""
        return sum(obj["net"] for obj in self._unpaid(currency, livemode, self._at(at)))

    @locked
    def balance_object(self, livemode: bool) -> Json:
        """Returns the balance as the API shows it: all transactions, by currency and by whether they are available.

        What leaves the balance is missing there at once.
        """
        now = self.clock.now()
        available: dict[str, int] = {}
        pending: dict[str, int] = {}
        for obj in self.collection("balance_transactions", livemode).objects.values():
            if not isinstance(obj.get("net"), int):
                continue  # an odd object of a test
            of_kind = available if obj["available_on"] <= now or obj["net"] < 0 else pending
            of_kind[obj["currency"]] = of_kind.get(obj["currency"], 0) + obj["net"]
        currencies = sorted({"usd", *available, *pending})
        return payment_templates.balance(
            livemode,
            [(currency, available.get(currency, 0)) for currency in currencies],
            [(currency, pending.get(currency, 0)) for currency in currencies],
        )

    def _book_capture(
        self,
        charge: Json,
        amount: int,
        moment: Moment,
        fees: Sequence[Json] | None = None,
        settlement_currency: str | None = None,
    ) -> Json:
        """Create the balance transaction of a captured charge; returns the fields of the charge to change.

        `fees` and `settlement_currency` are those of `Payments.create_payment`.
        """
        currency, settled, rate = charge["currency"], amount, None
        if settlement_currency not in (None, currency):
            currency = "usd"
            settled, rate = templates.to_usd(amount, charge["currency"])
        if fees is None:
            fees = self._capture_fees(charge, settled, currency)
        transaction = templates.balance_transaction(
            self._id("txn"),
            moment.at,
            settled,
            currency,
            kind="charge",
            category="charge",
            source=charge["id"],
            description=charge["description"],
            available_on=(moment.at // DAY + 3) * DAY,
            fees=list(fees),
            exchange_rate=rate,
        )
        self._add_transaction(transaction, moment)
        captured = {
            "amount_captured": amount,
            "application_fee": self._id("fee") if charge["application_fee_amount"] else None,
            "balance_transaction": transaction["id"],
            "captured": True,
        }
        if charge["transfer_data"]:
            captured["transfer"] = self._book_transfer(charge | captured, amount, moment)
        return captured

    def _capture_fees(self, charge: Json, settled: int, currency: str) -> list[Json]:
        """Returns the fees of a captured charge, in the `currency` of the balance."""
        fees = [templates.fee(templates.processing_fee(settled, currency), currency)]
        # The application fee of a destination charge is a separate transaction: see `_book_transfer`.
        if charge["application_fee_amount"] and not charge["transfer_data"]:
            amount = charge["application_fee_amount"]
            if currency != charge["currency"]:
                amount, _ = templates.to_usd(amount, charge["currency"])
            description = "Demo Platform application fee"
            fees.append(templates.fee(amount, currency, kind="application_fee", description=description))
        return fees

    def _book_transfer(self, charge: Json, amount: int, moment: Moment) -> str:
        """Transfer the money of a destination charge, and take the application fee back; returns the transfer's id."""
        transfer, destination = self._id("tr"), charge["transfer_data"]["destination"]
        booked = self._book(charge, -amount, moment, "transfer", transfer, f"Transfer to {destination}")
        obj = payment_templates.transfer(transfer, moment.at, charge, -booked["amount"], booked)
        self._add("transfers", obj, moment, ("transfer.created",))
        if charge["application_fee"]:
            booked = self._book(
                charge,
                charge["application_fee_amount"],
                moment,
                "platform_earning",
                charge["application_fee"],
                f"Application fee from {destination}",
                kind="application_fee",
            )
            fee = payment_templates.application_fee(charge["application_fee"], moment.at, charge, booked)
            self._add("application_fees", fee, moment, ("application_fee.created",))
        return transfer

    def _book(
        self,
        charge: Json,
        amount: int,
        moment: Moment,
        category: str,
        source: str,
        description: str,
        *,
        fees: Sequence[Json] = (),
        kind: str | None = None,
    ) -> Json:
        """Book a balance transaction that takes or returns money of a charge; available at once.

        `amount` is in the currency of the charge. `category` is the `reporting_category`; `kind`, the type,
        defaults to the type for the category.
        """
        kind = kind or ("adjustment" if category.startswith("dispute") else category)
        currency, rate = charge["currency"], None
        transactions = self._sides[moment.livemode].objects["balance_transactions"].objects
        captured = transactions.get(reference(charge.get("balance_transaction")) or "")
        if captured is not None and captured["currency"] != currency:
            amount, rate = templates.to_usd(amount, currency)
            fees = [
                fee | {"amount": templates.to_usd(fee["amount"], fee["currency"])[0], "currency": "usd"} for fee in fees
            ]
            currency = "usd"
        transaction = templates.balance_transaction(
            self._id("txn"),
            moment.at,
            amount,
            currency,
            kind=kind,
            category=category,
            source=source,
            description=description,
            available_on=moment.at,
            fees=list(fees),
            exchange_rate=rate,
        )
        return self._add_transaction(transaction, moment)

    def _add_transaction(self, obj: Json, moment: Moment) -> Json:
        if obj["status"] == "pending":
            heapq.heappush(self._sides[moment.livemode].pending, (obj["available_on"], obj["id"]))
        return self._add("balance_transactions", obj, moment)

    def _catch_up(self, type_name: str, livemode: bool) -> None:
        if self._sides[livemode].capturing:
            self._complete_captures(livemode)
        if type_name == "balance_transactions":
            self._release_pending(livemode)

    def _complete_captures(self, livemode: bool) -> None:
        """Create the balance transactions of charges that are due."""
        side, now = self._sides[livemode], self.clock.now()
        while side.capturing and side.capturing[0][0] <= now:
            due, charge_id, announce = heapq.heappop(side.capturing)
            charge = side.objects["charges"].objects.get(charge_id)
            if charge is not None:
                captured = self._book_capture(charge, charge["amount_captured"], Moment(charge["created"], livemode))
                self._change("charges", charge_id, Moment(due, livemode, announce), ("charge.updated",), **captured)

    def _release_pending(self, livemode: bool) -> None:
        """Make due balance transactions available."""
        side, now = self._sides[livemode], self.clock.now()
        transactions = side.objects["balance_transactions"]
        while side.pending and side.pending[0][0] <= now:
            object_id = heapq.heappop(side.pending)[1]
            if object_id in transactions:
                transactions.change(object_id, transactions.objects[object_id] | {"status": "available"})

    def _unpaid(self, currency: str, livemode: bool, at: int) -> list[Json]:
        """Returns the balance transactions that are available and not yet paid out."""
        side = self._sides[livemode]
        return [
            obj
            for object_id, obj in side.objects["balance_transactions"].objects.items()
            if object_id not in side.paid_out and obj["currency"] == currency and obj["available_on"] <= at
        ]
