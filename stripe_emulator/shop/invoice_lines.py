"""Invoice lines, and the totals derived from the lines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Unpack

from stripe_emulator import templates
from stripe_emulator.shop.changes import Changes
from stripe_emulator.shop.state import Moment, When, deep_copy, locked
from stripe_emulator.store import Json


class InvoiceLines(Changes):
    """Actions on the lines of an invoice."""

    @locked
    def add_invoice_line(
        self,
        invoice_id: str,
        *,
        amount: int = 1000,
        livemode: bool | None = None,
        created: int | None = None,
        announce: bool = True,
        **fields: Any,
    ) -> Json:
        """Prepend a line, since Stripe lists invoice items newest first; returns the line."""
        moment = self._moment_of(
            "invoices", invoice_id, {"livemode": livemode, "created": created, "announce": announce}
        )
        invoice = self._stored("invoices", invoice_id, moment.livemode)
        line = self._new_line(invoice, {"amount": amount} | fields)
        lines = self._sides[moment.livemode].lines.get(invoice_id, {})
        self._set_lines(invoice_id, {line["id"]: line} | lines, moment)
        return deep_copy(line)

    @locked
    def update_invoice_line(
        self,
        invoice_id: str,
        line_id: str,
        *,
        livemode: bool | None = None,
        created: int | None = None,
        announce: bool = True,
        **fields: Any,
    ) -> Json:
        """Replace fields of a line; returns the line."""
        moment = self._moment_of(
            "invoices", invoice_id, {"livemode": livemode, "created": created, "announce": announce}
        )
        lines = self._sides[moment.livemode].lines[invoice_id]
        if "amount" in fields:
            fields.setdefault("subtotal", fields["amount"])
        line = lines[line_id] | fields
        self._set_lines(invoice_id, lines | {line_id: line}, moment)
        return deep_copy(line)

    @locked
    def remove_invoice_line(self, invoice_id: str, line_id: str, **when: Unpack[When]) -> Json:
        """Remove a line from an invoice; returns the invoice."""
        moment = self._moment_of("invoices", invoice_id, when)
        lines = dict(self._sides[moment.livemode].lines[invoice_id])
        del lines[line_id]
        return self._set_lines(invoice_id, lines, moment)

    def _new_line(self, invoice: Json, line: Json) -> Json:
        """Returns a complete line from the given fields, at least `amount`."""
        number = self._random.randint(1, 12)
        return (
            templates.invoice_line(
                line.get("id") or self._id("il"),
                invoice,
                line["amount"],
                description=f"Plan {number}",
                quantity=line.get("quantity", 1),
                item=f"1{invoice['id'][-8:]}{number:04d}",
                price=f"1DemoPlan{number:015d}",
            )
            | line
        )

    def _set_lines(self, invoice_id: str, lines: dict[str, Json], moment: Moment) -> Json:
        self._sides[moment.livemode].lines[invoice_id] = lines
        totals = totals_of(self._stored("invoices", invoice_id, moment.livemode), lines.values())
        if paid := self._paid(invoice_id, moment.livemode):
            totals |= {"amount_paid": paid, "amount_remaining": max(0, totals["amount_due"] - paid)}
        return self._change("invoices", invoice_id, moment, ("invoice.updated",), **totals)

    def _paid(self, invoice_id: str, livemode: bool) -> int:
        """The sum of an invoice's payments."""
        payments = self._sides[livemode].objects["invoice_payments"]
        paid = [payments.objects[payment] for payment in payments.with_value("invoice", invoice_id)]
        return sum(payment["amount_paid"] for payment in paid if payment["status"] == "paid")


def totals_of(invoice: Json, lines: Iterable[Json]) -> Json:
    """Returns the amounts of an invoice derived from its lines."""
    lines = list(lines)
    subtotal = sum(line["amount"] for line in lines)
    discounted: dict[str, int] = {}
    for part in (part for line in lines for part in line["discount_amounts"]):
        discounted[part["discount"]] = discounted.get(part["discount"], 0) + part["amount"]
    total = subtotal - sum(discounted.values())
    due = max(total, 0)
    paid = due if invoice["status"] == "paid" else 0
    return {
        "subtotal": subtotal,
        "subtotal_excluding_tax": subtotal,
        "total": total,
        "total_discount_amounts": [{"amount": amount, "discount": name} for name, amount in discounted.items()],
        "total_excluding_tax": total,
        "amount_due": due,
        "amount_paid": paid,
        "amount_remaining": due - paid,
    }
