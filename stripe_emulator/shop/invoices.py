"""Invoices, except their lines and their payments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from stripe_emulator import templates
from stripe_emulator.shop.customers import Customers
from stripe_emulator.shop.invoice_lines import InvoiceLines, totals_of
from stripe_emulator.shop.state import Moment, When, locked
from stripe_emulator.store import Json, Window, reference


class Invoices(InvoiceLines, Customers):
    """Actions on invoices."""

    @locked
    def create_invoice(
        self,
        customer: str | None = None,
        *,
        lines: Sequence[Json] | None = None,
        n_lines: int = 1,
        currency: str = "usd",
        draft: bool = False,
        subscription: str | None = None,
        livemode: bool = False,
        created: int | None = None,
        announce: bool = True,
        **fields: Any,
    ) -> Json:
        """Add an invoice, open unless `draft`; without `customer`, also add a customer.

        Each of `lines` has at least `amount`; without `lines`, `n_lines` are generated.
        """
        moment = self._moment(livemode=livemode, created=created, announce=announce)
        if customer is None:
            new_customer = self.create_customer(livemode=livemode, created=moment.at, announce=announce)
            customer = str(new_customer["id"])
        person = self._customer(customer, livemode) or templates.customer(customer, moment.at, livemode)
        invoice_id = fields.get("id") or self._id("in")
        obj = templates.invoice(invoice_id, moment.at, livemode, currency, person, subscription) | fields
        if lines is None:
            unit = templates.minor_units(currency) * templates.PER_DOLLAR.get(currency, 1.0)
            lines = [{"amount": round(unit * self._random.randint(5, 90))} for _ in range(n_lines)]
        new_lines = [self._new_line(obj, line) for line in lines]
        self._sides[livemode].lines[obj["id"]] = {line["id"]: line for line in new_lines}
        obj |= totals_of(obj, new_lines)
        shown = self._add("invoices", obj, moment, ("invoice.created",))
        return shown if draft else self.finalize_invoice(obj["id"], **moment.when)

    @locked
    def finalize_invoice(self, invoice_id: str, **when: Unpack[When]) -> Json:
        """Open a draft for payment."""
        moment = self._moment_of("invoices", invoice_id, when)
        invoice = self._stored("invoices", invoice_id, moment.livemode)
        number = self._next_number(reference(invoice["customer"]), moment)
        return self._change(
            "invoices",
            invoice_id,
            moment,
            ("invoice.finalized", "invoice.updated"),
            status="open",
            number=number,
            effective_at=moment.at,
            automatically_finalizes_at=None,
            next_payment_attempt=moment.at,
            hosted_invoice_url=f"https://invoice.stripe.com/i/{self.account}/{invoice_id}",
            invoice_pdf=f"https://pay.stripe.com/invoice/{self.account}/{invoice_id}/pdf",
            status_transitions=invoice["status_transitions"] | {"finalized_at": moment.at},
        )

    @locked
    def void_invoice(self, invoice_id: str, **when: Unpack[When]) -> Json:
        """Void an open invoice."""
        moment = self._moment_of("invoices", invoice_id, when)
        self._close_payments(invoice_id, "canceled", moment)
        return self._close_invoice(invoice_id, "void", "voided_at", "invoice.voided", moment)

    @locked
    def mark_invoice_uncollectible(self, invoice_id: str, **when: Unpack[When]) -> Json:
        """Write off an open invoice."""
        moment = self._moment_of("invoices", invoice_id, when)
        status, kind = "uncollectible", "invoice.marked_uncollectible"
        return self._close_invoice(invoice_id, status, "marked_uncollectible_at", kind, moment)

    @locked
    def delete_invoice(self, invoice_id: str, **when: Unpack[When]) -> Json:
        """Delete a draft; raises ValueError for other statuses."""
        moment = self._moment_of("invoices", invoice_id, when)
        if self._stored("invoices", invoice_id, moment.livemode)["status"] != "draft":
            raise ValueError(f"only drafts can be deleted, {invoice_id} is not a draft")
        self._announce(("invoice.deleted",), "invoices", invoice_id, moment)
        self._remove("invoices", invoice_id, moment.livemode)
        return {"id": invoice_id, "object": "invoice", "deleted": True}

    @locked
    def payments(self, invoice_id: str, livemode: bool) -> list[Json]:
        """Returns all payments of an invoice, newest first."""
        payments = self.collection("invoice_payments", livemode)
        ids, _ = payments.page(Window(limit=len(payments)), among=payments.with_value("invoice", invoice_id))
        return [self._shown("invoice_payments", payment, livemode) for payment in ids]

    def _next_number(self, customer: str, moment: Moment) -> str:
        """The number of the customer's next invoice."""
        person = self._customer(customer, moment.livemode)
        number = person.get("next_invoice_sequence") if person and self.numbers_by_customer else None
        if person is None or number is None:
            self._numbers += 1
            return f"DEMO-{self._numbers:06d}"
        self._change("customers", customer, moment, ("customer.updated",), next_invoice_sequence=number + 1)
        return f"{person['invoice_prefix']}-{number:04d}"

    def _close_payments(self, invoice_id: str, status: str, moment: Moment, intent: str | None = None) -> None:
        """Set an invoice's open payments to `paid` or `canceled`: all payments, or those of this payment intent."""
        for payment in self.payments(invoice_id, moment.livemode):
            if payment["status"] == "open" and intent in (None, payment["payment"]["payment_intent"]):
                self._change(
                    "invoice_payments",
                    payment["id"],
                    moment,
                    ("invoice_payment.paid",) if status == "paid" else (),
                    status=status,
                    amount_paid=payment["amount_requested"] if status == "paid" else None,
                    status_transitions=payment["status_transitions"] | {f"{status}_at": moment.at},
                )

    def _close_invoice(self, invoice_id: str, status: str, transition: str, event: str, moment: Moment) -> Json:
        transitions = self._stored("invoices", invoice_id, moment.livemode)["status_transitions"]
        return self._change(
            "invoices",
            invoice_id,
            moment,
            (event, "invoice.updated"),
            status=status,
            auto_advance=False,
            next_payment_attempt=None,
            status_transitions=transitions | {transition: moment.at},
        )
