"""Credit notes: reductions of finalized invoices."""

from __future__ import annotations

from typing import Any, Unpack

from stripe_emulator import billing_templates as templates
from stripe_emulator.shop.customer_balance import CustomerBalance
from stripe_emulator.shop.invoice_payments import InvoicePayments
from stripe_emulator.shop.refunds import Refunds
from stripe_emulator.shop.state import Moment, When, locked
from stripe_emulator.store import Json, reference


class CreditNotes(InvoicePayments, Refunds, CustomerBalance):
    """Actions on credit notes."""

    @locked
    def create_credit_note(
        self, invoice_id: str, amount: int, *, n_lines: int = 1, to_balance: bool = False, **when: Unpack[When]
    ) -> Json:
        """Reduce an open invoice, or give a part of a paid invoice back: to the card, or `to_balance` of the customer.

        Of `n_lines`, the first names a line of the invoice.
        """
        moment = self._moment_of("invoices", invoice_id, when)
        invoice = self._stored("invoices", invoice_id, moment.livemode)
        paid = invoice["status"] == "paid"
        note_id = self._id("cn")
        customer = reference(invoice["customer"])
        fields: Json = {}
        if paid and to_balance and self._customer(customer, moment.livemode):
            transaction = self._move_balance(
                customer, -amount, "credit_note", moment, credit_note=note_id, invoice=invoice_id
            )
            fields["customer_balance_transaction"] = transaction["id"]
        elif paid and (charge := self._charge_of(invoice_id, moment.livemode)):
            refund = self.refund(charge, amount, **moment.when)
            fields["refunds"] = [
                {"amount_refunded": amount, "payment_record_refund": None, "refund": refund["id"], "type": "refund"}
            ]
        elif paid:
            fields["out_of_band_amount"] = amount
        self._numbers += 1
        note = templates.credit_note(
            note_id,
            moment.at,
            invoice,
            f"{invoice['number']}-CN-{self._numbers:02d}",
            amount,
            post_payment=paid,
            **fields,
        )
        lines = list(self._sides[moment.livemode].lines.get(invoice_id, {}))
        parts = [amount - amount // n_lines * (n_lines - 1), *([amount // n_lines] * (n_lines - 1))]
        for place, part in enumerate(parts):
            line = templates.credit_note_line(self._id("cnli"), note, part, lines[0] if lines and not place else None)
            self._add("credit_note_lines", line, moment)
        shown = self._add("credit_notes", note, moment, ("credit_note.created",))
        self._reduce(invoice_id, amount, moment)
        return shown

    @locked
    def void_credit_note(self, note_id: str, **when: Unpack[When]) -> Json:
        """Take back the credit note of an open invoice."""
        moment = self._moment_of("credit_notes", note_id, when)
        note = self._stored("credit_notes", note_id, moment.livemode)
        if self._stored("invoices", note["invoice"], moment.livemode)["status"] != "open":
            raise ValueError(f"only credit notes of open invoices can be voided, {note_id} is not of one")
        self._reduce(note["invoice"], -note["amount"], moment)
        return self._change(
            "credit_notes", note_id, moment, ("credit_note.voided",), status="void", voided_at=moment.at
        )

    def _reduce(self, invoice_id: str, amount: int, moment: Moment) -> None:
        invoice = self._stored("invoices", invoice_id, moment.livemode)
        if invoice["status"] == "paid":
            name = "post_payment_credit_notes_amount"
            fields: dict[str, Any] = {}
        else:
            name = "pre_payment_credit_notes_amount"
            fields = {field: invoice[field] - amount for field in ("amount_due", "amount_remaining")}
        fields[name] = invoice[name] + amount
        self._change("invoices", invoice_id, moment, ("invoice.updated",), **fields)

    def _charge_of(self, invoice_id: str, livemode: bool) -> str | None:
        """The successful charge of an invoice's payment, if one can be refunded."""
        for payment in self.payments(invoice_id, livemode):
            intent = self._sides[livemode].objects["payment_intents"].objects.get(payment["payment"]["payment_intent"])
            charge = intent and reference(intent["latest_charge"])
            if charge and self._stored("charges", charge, livemode)["amount_captured"]:
                return str(charge)
        return None
