"""Paying invoices."""

from __future__ import annotations

from typing import Unpack

from stripe_emulator import templates
from stripe_emulator.clock import DAY
from stripe_emulator.shop.invoices import Invoices
from stripe_emulator.shop.payments import Payments
from stripe_emulator.shop.state import Moment, When, locked
from stripe_emulator.store import Json, reference

_PAID = ("invoice.paid", "invoice.payment_succeeded", "invoice.updated")


class InvoicePayments(Invoices, Payments):
    """Actions that pay invoices."""

    @locked
    def pay_invoice(
        self,
        invoice_id: str,
        *,
        outcome: str = "succeeded",
        settlement_currency: str | None = None,
        **when: Unpack[When],
    ) -> Json:
        """Try to collect an invoice: `succeeded` or `failed`. Drafts are finalised first; a zero total is paid."""
        moment = self._moment_of("invoices", invoice_id, when)
        if self._stored("invoices", invoice_id, moment.livemode)["status"] == "draft":
            self.finalize_invoice(invoice_id, **moment.when)
        invoice = self._stored("invoices", invoice_id, moment.livemode)
        if invoice["amount_remaining"] > 0:
            intent = self._collect(invoice, outcome, settlement_currency, moment)
            if outcome == "succeeded":
                self._close_payments(invoice_id, "paid", moment, intent)
        paid = outcome == "succeeded"
        self._set_delinquent(reference(invoice["customer"]), not paid, moment)
        attempts = {"attempted": True, "attempt_count": invoice["attempt_count"] + 1}
        if not paid:
            events = ("invoice.payment_failed", "invoice.updated")
            next_attempt = moment.at + 3 * DAY
            return self._change("invoices", invoice_id, moment, events, **attempts, next_payment_attempt=next_attempt)
        return self._change(
            "invoices",
            invoice_id,
            moment,
            _PAID,
            **attempts,
            status="paid",
            amount_paid=invoice["amount_due"],
            amount_remaining=0,
            next_payment_attempt=None,
            auto_advance=False,
            ending_balance=0,
            status_transitions=invoice["status_transitions"] | {"paid_at": moment.at},
        )

    @locked
    def attach_payment(
        self, invoice_id: str, payment_intent_id: str, amount: int | None = None, **when: Unpack[When]
    ) -> Json:
        """Pay an open invoice, fully or partly, with a successful payment (default: the payment's whole amount).

        A payment may pay several invoices; an invoice may have several payments.
        """
        moment = self._moment_of("invoices", invoice_id, when)
        invoice = self._stored("invoices", invoice_id, moment.livemode)
        intent = self._stored("payment_intents", payment_intent_id, moment.livemode)
        amount = min(invoice["amount_remaining"], intent["amount_received"] if amount is None else amount)
        self._link(invoice, payment_intent_id, amount, moment, is_default=False)
        self._close_payments(invoice_id, "paid", moment, payment_intent_id)
        left = invoice["amount_remaining"] - amount
        change: Json = {"amount_paid": invoice["amount_paid"] + amount, "amount_remaining": left}
        if left:
            return self._change("invoices", invoice_id, moment, ("invoice.updated",), **change)
        change |= {
            "status": "paid",
            "auto_advance": False,
            "next_payment_attempt": None,
            "status_transitions": invoice["status_transitions"] | {"paid_at": moment.at},
        }
        return self._change("invoices", invoice_id, moment, _PAID, **change)

    def _collect(self, invoice: Json, outcome: str, settlement_currency: str | None, moment: Moment) -> str:
        """Try to collect the remaining amount; returns the payment intent, created on the first attempt."""
        intents = self._sides[moment.livemode].invoice_intents
        intent = intents.get(invoice["id"])
        if intent is not None:
            self.attempt_payment(intent, outcome=outcome, settlement_currency=settlement_currency, **moment.when)
            return intent
        amount = invoice["amount_remaining"]
        created = self.create_payment(
            reference(invoice["customer"]),
            amount=amount,
            currency=invoice["currency"],
            outcome=outcome,
            description="Subscription update" if invoice["parent"] else "Payment for Invoice",
            settlement_currency=settlement_currency,
            livemode=moment.livemode,
            created=moment.at,
            announce=moment.announce,
        )
        intent = intents[invoice["id"]] = str(created["id"])
        self._link(invoice, intent, amount, moment, is_default=True)
        return intent

    def _link(self, invoice: Json, intent: str, amount: int, moment: Moment, *, is_default: bool) -> None:
        """Add the invoice payment that links an invoice and a payment intent."""
        payment = templates.invoice_payment(
            self._id("inpay"), moment.at, invoice, intent, amount, is_default=is_default
        )
        self._add("invoice_payments", payment, moment)

    def _set_delinquent(self, customer_id: str | None, delinquent: bool, moment: Moment) -> None:
        person = self._customer(customer_id, moment.livemode)
        if person is not None and bool(person.get("delinquent")) is not delinquent:
            self._change("customers", person["id"], moment, ("customer.updated",), delinquent=delinquent)
