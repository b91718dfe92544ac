"""The shop behind the emulator: its objects in live and test mode, and what can happen to them.

Every action changes objects the way Stripe does and announces the change as Stripe does, with events that hold the
object as it was then. How objects look at birth belongs to `templates`, made-up trade to `history`, HTTP to `app`.

Differences from Stripe, on purpose: where Stripe changes a second object silently (a charge that becomes disputed),
the shop announces it, so that the only silent changes are a balance transaction that becomes available and an edited
payment intent. Nothing is refused for business reasons except deleting a finalised invoice.
"""

from __future__ import annotations

import functools
import heapq
import string
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar, cast

import orjson

from stripe_emulator import templates
from stripe_emulator.clock import Clock
from stripe_emulator.store import Collection, Json, Window, reference
from stripe_pipeline.objects import BY_STRIPE_OBJECT

EVENTS_KEPT = 30 * 86400
"""Seconds for which Stripe keeps events."""
EMBEDDED = 10
"""How many lines, payments, … Stripe sends inside an object."""
LISTED = tuple(sorted(object_type.name for object_type in BY_STRIPE_OBJECT.values()))
"""The seven types with a list endpoint."""

_PREFIXES = {
    "txn": "balance_transactions",
    "ch": "charges",
    "py": "charges",
    "cus": "customers",
    "dp": "disputes",
    "du": "disputes",
    "in": "invoices",
    "inpay": "invoice_payments",
    "pi": "payment_intents",
    "re": "refunds",
    "pyr": "refunds",
}
_UPDATED = {
    "charges": ("charge.updated",),
    "customers": ("customer.updated",),
    "disputes": ("charge.dispute.updated",),
    "invoices": ("invoice.updated",),
    "refunds": ("refund.updated", "charge.refund.updated"),
}
_ALSO_HELD = {"invoice_payment": "invoice_payments", "webhook_endpoint": "webhook_endpoints"}
_ALPHABET = string.ascii_letters + string.digits
_CARDS = (("visa", "4242"), ("mastercard", "4444"), ("amex", "0005"), ("visa", "1881"), ("discover", "1117"))

Method = TypeVar("Method", bound=Callable[..., Any])


def type_of(object_id: str) -> str | None:
    """The type an id belongs to by its prefix; none if the shop keeps no such objects."""
    return _PREFIXES.get(object_id.partition("_")[0])


@dataclass
class _Side:
    """Everything the shop holds in one mode."""

    objects: dict[str, Collection] = field(
        default_factory=lambda: {
            name: Collection() for name in (*LISTED, "events", "invoice_payments", "webhook_endpoints")
        }
    )
    lines: dict[str, dict[str, Json]] = field(default_factory=dict)
    """Lines in list order, by invoice."""
    deleted_customers: set[str] = field(default_factory=set)
    pending: list[tuple[int, str]] = field(default_factory=list)
    """Heap of balance transactions that are yet to become available."""
    capturing: list[tuple[int, str, bool]] = field(default_factory=list)
    """Heap of charges that are yet to get their balance transaction: when, which, and whether it is announced."""
    paid_out: dict[str, str] = field(default_factory=dict)
    """The payout that a balance transaction was part of."""
    invoice_intents: dict[str, str] = field(default_factory=dict)
    """The payment intent that collects an invoice."""
    webhook_secrets: dict[str, str] = field(default_factory=dict)
    """By webhook endpoint."""


def _locked(method: Method) -> Method:
    @functools.wraps(method)
    def locked(self: Shop, *args: Any, **kwargs: Any) -> Any:
        with self.lock:
            return method(self, *args, **kwargs)

    return cast(Method, locked)


class Shop:
    """All objects of one account; safe to use from several threads.

    Actions take `created`, the second at which they happen (default: now), and `announce=False` to make no event.
    Actions on an object find its mode from its id unless `livemode` is given, and return the object as the API
    shows it.
    """

    def __init__(self, *, seed: int = 1, clock: Clock | None = None, account: str = "acct_1DemoShop0000000") -> None:
        self.seed = seed
        self.clock = clock or Clock()
        self.account = account
        self.lock = threading.RLock()
        self.event_delay: float = 0.0
        """Seconds by which new events become visible later than their `created`, unless one says otherwise."""
        self.async_capture: float = 0.0
        """Share of successful payments that are captured asynchronously: the charge gets its balance transaction up to
        a minute later, with the charge's `created`, and `charge.updated` announces that
        (docs/stripe.md#asynchronous-capture)."""
        self.event_listeners: list[Callable[[str, bool], object]] = []
        """Called with id and mode of every event that something makes, at once, while the shop is locked."""
        self._random = Random(seed)
        self._event_random = Random(f"{seed} events")
        self._trade_random = Random(f"{seed} trade")
        self._capture_random = Random(f"{seed} capture")
        self._sides = {True: _Side(), False: _Side()}
        self._numbers = 0
        self._seeding = False

    # Reading

    @_locked
    def objects(self, type_name: str, livemode: bool) -> dict[Any, Json]:
        """What Stripe holds now: by id, or for lines and fees by the key of their row; deleted customers left out."""
        if type_name == "invoice_lines":
            return {
                (invoice, line_id): _copy(line)
                for invoice, lines in self._sides[livemode].lines.items()
                for line_id, line in lines.items()
            }
        if type_name == "fee_details":
            return {
                (transaction, position): fee
                for transaction, obj in self.objects("balance_transactions", livemode).items()
                for position, fee in enumerate(obj["fee_details"])
            }
        return {
            object_id: orjson.loads(self.render(type_name, object_id, livemode))
            for object_id in self.collection(type_name, livemode)
        }

    @_locked
    def events(self, livemode: bool) -> list[Json]:
        """The events that can be read now, newest first."""
        events = self.collection("events", livemode)
        return [orjson.loads(events.rendered[event]) for event in events if self.event_is_visible(event, livemode)]

    @_locked
    def collection(self, type_name: str, livemode: bool) -> Collection:
        """The objects of a type as they are now, without embedded lines; to be read only."""
        side = self._sides[livemode]
        self._complete_captures(livemode)
        if type_name == "balance_transactions":
            self._settle(side)
        return side.objects[type_name]

    @_locked
    def render(self, type_name: str, object_id: str, livemode: bool) -> bytes:
        """JSON of one object as the API shows it; a KeyError if there is none."""
        collection = self.collection(type_name, livemode)
        rendered = collection.rendered.get(object_id)
        if rendered is None:
            obj = collection.objects[object_id]
            if type_name == "invoices" and "lines" in obj:
                obj = obj | {"lines": self._embedded_lines(obj, self._sides[livemode])}
            rendered = collection.rendered[object_id] = orjson.dumps(obj)
        return rendered

    @_locked
    def lines(self, invoice_id: str, livemode: bool) -> list[Json]:
        """All lines of an invoice in list order; a KeyError if there is no such invoice."""
        side = self._sides[livemode]
        if invoice_id not in side.objects["invoices"]:
            raise KeyError(invoice_id)
        return list(side.lines.get(invoice_id, {}).values())

    @_locked
    def payments(self, invoice_id: str, livemode: bool) -> list[Json]:
        """All payments of an invoice, newest first."""
        payments = self.collection("invoice_payments", livemode)
        ids, _ = payments.page(Window(limit=len(payments)), among=payments.with_value("invoice", invoice_id))
        return [self._shown("invoice_payments", payment, livemode) for payment in ids]

    @_locked
    def event_body(self, event_id: str, livemode: bool) -> bytes:
        """JSON of an event, visible or not; a KeyError if there is none."""
        return self._sides[livemode].objects["events"].rendered[event_id]

    @_locked
    def mode_of_event(self, event_id: str) -> bool:
        """Whether an event is a live one; a KeyError if there is none."""
        return self._mode("events", event_id, None)

    def event_is_visible(self, event_id: str, livemode: bool) -> bool:
        """Whether an event is out already and still kept."""
        events = self._sides[livemode].objects["events"]
        now = self.clock.now()
        return bool(events.objects[event_id]["visible_at"] <= now <= events.created(event_id) + EVENTS_KEPT)

    def is_deleted_customer(self, object_id: str, livemode: bool) -> bool:
        """Whether this customer existed once."""
        return object_id in self._sides[livemode].deleted_customers

    def payout_of(self, transaction_id: str, livemode: bool) -> str | None:
        """The payout that a balance transaction was part of."""
        return self._sides[livemode].paid_out.get(transaction_id)

    # Customers

    @_locked
    def create_customer(
        self, *, livemode: bool = False, created: int | None = None, announce: bool = True, **fields: Any
    ) -> Json:
        """Add a customer; `fields` overwrite the template's."""
        at = self._at(created)
        obj = templates.customer(fields.get("id") or self._id("cus"), at, livemode) | fields
        return self._add("customers", obj, at, announce and ("customer.created",), livemode)

    @_locked
    def update_customer(
        self,
        customer_id: str,
        *,
        livemode: bool | None = None,
        created: int | None = None,
        announce: bool = True,
        **fields: Any,
    ) -> Json:
        """Replace fields of a customer."""
        return self.update("customers", customer_id, livemode=livemode, created=created, announce=announce, **fields)

    @_locked
    def delete_customer(
        self, customer_id: str, *, livemode: bool | None = None, created: int | None = None, announce: bool = True
    ) -> Json:
        """Delete a customer; the event carries the last whole object."""
        mode = self._mode("customers", customer_id, livemode)
        self._announce(announce and ("customer.deleted",), "customers", customer_id, self._at(created), mode)
        self._sides[mode].objects["customers"].remove(customer_id)
        self._sides[mode].deleted_customers.add(customer_id)
        return templates.deleted_customer(customer_id)

    # Payments

    @_locked
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

        `fees` replaces the processing fee; `settlement_currency` is the currency of the balance, if it is another one
        (US dollars only). `destination`: the connected account that a destination charge transfers its money to; the
        application fee then comes back from there. Without it the fee is taken from this account, as of direct charges.
        `captured_after`: seconds until the charge gets its balance transaction.
        """
        at = self._at(created)
        manual = {"capture_method": "manual"} if outcome == "requires_capture" else {}
        obj = templates.payment_intent(fields.get("id") or self._id("pi"), at, livemode, amount, currency)
        obj |= {"customer": customer, "application_fee_amount": application_fee} | manual | fields
        if destination is not None:
            obj["transfer_data"] = {"amount": None, "destination": destination}
        elif application_fee is not None:
            obj["application"] = "ca_DemoPlatform000000000000000000"
        self._add("payment_intents", obj, at, announce and ("payment_intent.created",), livemode)
        return self.attempt_payment(
            obj["id"],
            outcome=outcome,
            fees=fees,
            settlement_currency=settlement_currency,
            captured_after=captured_after,
            livemode=livemode,
            created=at,
            announce=announce,
        )

    @_locked
    def attempt_payment(
        self,
        payment_intent_id: str,
        *,
        outcome: str = "succeeded",
        decline_code: str = "generic_decline",
        fees: Sequence[Json] | None = None,
        settlement_currency: str | None = None,
        captured_after: int | None = None,
        livemode: bool | None = None,
        created: int | None = None,
        announce: bool = True,
    ) -> Json:
        """Try to collect a payment intent: once more after a failure, or for the first time."""
        at = self._at(created)
        mode = self._mode("payment_intents", payment_intent_id, livemode)
        side = self._sides[mode]
        intent = side.objects["payment_intents"].objects[payment_intent_id]
        intent = intent | {"payment_method": intent["payment_method"] or self._id("pm")}
        if outcome == "requires_action":
            change = {
                "status": "requires_action",
                "next_action": {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}},
                "payment_method": intent["payment_method"],
            }
            events: tuple[str, ...] = ("payment_intent.requires_action",)
            return self._change("payment_intents", payment_intent_id, mode, at, announce and events, **change)
        brand, last4 = self._random.choice(_CARDS)
        person = side.objects["customers"].objects.get(reference(intent["customer"]) or "")
        country = ((person and person.get("address")) or {}).get("country") or "US"
        details = templates.card(brand, last4, country, intent["amount"])
        charge = templates.charge(self._id("ch"), at, mode, intent, details, person)
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
                    charge |= self._captured(charge, charge["amount"], at, mode, fees, settlement_currency)
                else:
                    charge |= {"amount_captured": charge["amount"], "captured": True}
                    heapq.heappush(side.capturing, (at + captured_after, charge["id"], announce))
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
        self._add("charges", charge, at, announce and events[:1], mode)
        return self._change("payment_intents", payment_intent_id, mode, at, announce and events[1:], **change)

    @_locked
    def capture(
        self,
        payment_intent_id: str,
        amount: int | None = None,
        *,
        livemode: bool | None = None,
        created: int | None = None,
        announce: bool = True,
    ) -> Json:
        """Take the money of a payment that waits for capture, or is still processing."""
        at = self._at(created)
        mode = self._mode("payment_intents", payment_intent_id, livemode)
        intent = self._sides[mode].objects["payment_intents"].objects[payment_intent_id]
        charge = self._sides[mode].objects["charges"].objects[reference(intent["latest_charge"])]
        taken = charge["amount"] if amount is None else amount
        change = self._captured(charge, taken, at, mode, None, None) | {"status": "succeeded", "paid": True}
        kind = "charge.succeeded" if charge["status"] == "pending" else "charge.captured"
        self._change("charges", charge["id"], mode, at, announce and (kind,), **change)
        return self._change(
            "payment_intents",
            payment_intent_id,
            mode,
            at,
            announce and ("payment_intent.succeeded",),
            status="succeeded",
            amount_capturable=0,
            amount_received=taken,
        )

    @_locked
    def cancel_payment(
        self,
        payment_intent_id: str,
        *,
        reason: str = "requested_by_customer",
        livemode: bool | None = None,
        created: int | None = None,
        announce: bool = True,
    ) -> Json:
        """Give up a payment that was not collected."""
        at = self._at(created)
        mode = self._mode("payment_intents", payment_intent_id, livemode)
        change = {
            "status": "canceled",
            "canceled_at": at,
            "cancellation_reason": reason,
            "amount_capturable": 0,
            "next_action": None,
        }
        events = ("payment_intent.canceled",)
        return self._change("payment_intents", payment_intent_id, mode, at, announce and events, **change)

    @_locked
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
        """Give back `amount` of a charge, by default all that is left of it.

        Of a destination charge, `reverse_transfer` brings as much back from the connected account, and
        `refund_application_fee` gives back the same part of the fee.
        """
        at = self._at(created)
        mode = self._mode("charges", charge_id, livemode)
        charge = self._sides[mode].objects["charges"].objects[charge_id]
        amount = charge["amount_captured"] - charge["amount_refunded"] if amount is None else amount
        refund_id = fields.get("id") or self._id("re")
        transaction = self._balance(
            at, mode, charge, -amount, "refund", refund_id, f"REFUND FOR CHARGE ({charge['description'] or charge_id})"
        )
        refund = templates.refund(refund_id, at, charge, amount, transaction["id"]) | fields
        if reverse_transfer:
            refund["transfer_reversal"] = reversal = self._id("trr")
            said = f"REFUND FOR TRANSFER ({charge['transfer']})"
            self._balance(at, mode, charge, amount, "transfer_reversal", reversal, said, kind="transfer_refund")
        if refund_application_fee:
            part = round(charge["application_fee_amount"] * amount / charge["amount"])
            said = f"Refund of {charge['application_fee']}"
            of_fee = self._id("fr")
            self._balance(
                at, mode, charge, -part, "platform_earning_refund", of_fee, said, kind="application_fee_refund"
            )
        shown = self._add("refunds", refund, at, announce and ("refund.created",), mode)
        refunded = charge["amount_refunded"] + amount
        self._change(
            "charges",
            charge_id,
            mode,
            at,
            announce and ("charge.refunded",),
            amount_refunded=refunded,
            refunded=refunded >= charge["amount_captured"],
        )
        return shown

    @_locked
    def fail_refund(
        self,
        refund_id: str,
        *,
        reason: str = "expired_or_canceled_card",
        livemode: bool | None = None,
        created: int | None = None,
        announce: bool = True,
    ) -> Json:
        """The bank sends a refund back."""
        at = self._at(created)
        mode = self._mode("refunds", refund_id, livemode)
        refund = self._sides[mode].objects["refunds"].objects[refund_id]
        charge = self._sides[mode].objects["charges"].objects[reference(refund["charge"])]
        transaction = self._balance(
            at, mode, charge, refund["amount"], "refund_failure", refund_id, f"REFUND FAILURE ({charge['id']})"
        )
        left = charge["amount_refunded"] - refund["amount"]
        self._change(
            "charges",
            charge["id"],
            mode,
            at,
            announce and ("charge.updated",),
            amount_refunded=left,
            refunded=left >= charge["amount_captured"],
        )
        return self._change(
            "refunds",
            refund_id,
            mode,
            at,
            announce and ("refund.failed", "refund.updated", "charge.refund.updated"),
            status="failed",
            failure_reason=reason,
            failure_balance_transaction=transaction["id"],
        )

    @_locked
    def payout(
        self,
        amount: int | None = None,
        *,
        currency: str = "usd",
        livemode: bool = False,
        created: int | None = None,
    ) -> Json:
        """Send what is available of a currency, or `amount`, to the bank; returns the balance transaction."""
        at = self._at(created)
        side = self._sides[livemode]
        paid = self._unpaid(currency, livemode, at)
        total = sum(obj["net"] for obj in paid) if amount is None else amount
        payout_id = self._id("po")
        side.paid_out |= {obj["id"]: payout_id for obj in paid}
        obj = templates.balance_transaction(
            self._id("txn"),
            at,
            -total,
            currency,
            kind="payout",
            category="payout",
            source=payout_id,
            description="STRIPE PAYOUT",
            available_on=at + 86400,
            fees=[],
        )
        side.paid_out[obj["id"]] = payout_id
        return self._add_transaction(obj, at, livemode)

    @_locked
    def balance(self, currency: str, livemode: bool, at: int | None = None) -> int:
        """What is available of a currency and was not paid out, in minor units."""
        return sum(obj["net"] for obj in self._unpaid(currency, livemode, self._at(at)))

    # Disputes

    @_locked
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
        """The customer's bank takes the money of a charge back."""
        at = self._at(created)
        mode = self._mode("charges", charge_id, livemode)
        charge = self._sides[mode].objects["charges"].objects[charge_id]
        amount = charge["amount"] if amount is None else amount
        dispute_id = fields.get("id") or self._id("dp")
        fee = templates.fee(templates.dispute_fee(charge["currency"]), charge["currency"], description="Dispute fee")
        withdrawal = self._balance(
            at, mode, charge, -amount, "dispute", dispute_id, f"Chargeback withdrawal for {charge_id}", [fee]
        )
        dispute = templates.dispute(dispute_id, at, charge, amount, reason, withdrawal) | fields
        events = ("charge.dispute.created", "charge.dispute.funds_withdrawn")
        shown = self._add("disputes", dispute, at, announce and events, mode)
        self._change("charges", charge_id, mode, at, announce and ("charge.updated",), disputed=True)
        return shown

    @_locked
    def update_dispute(
        self,
        dispute_id: str,
        *,
        livemode: bool | None = None,
        created: int | None = None,
        announce: bool = True,
        **fields: Any,
    ) -> Json:
        """Replace fields of a dispute; without any, evidence is sent in."""
        mode = self._mode("disputes", dispute_id, livemode)
        dispute = self._sides[mode].objects["disputes"].objects[dispute_id]
        fields = fields or {
            "status": "under_review",
            "evidence": dispute["evidence"] | {"uncategorized_text": "The parcel was signed for."},
            "evidence_details": dispute["evidence_details"] | {"has_evidence": True, "submission_count": 1},
        }
        return self.update("disputes", dispute_id, livemode=mode, created=created, announce=announce, **fields)

    @_locked
    def close_dispute(
        self,
        dispute_id: str,
        won: bool,
        *,
        livemode: bool | None = None,
        created: int | None = None,
        announce: bool = True,
    ) -> Json:
        """The bank decides; a dispute that is won brings the money back."""
        at = self._at(created)
        mode = self._mode("disputes", dispute_id, livemode)
        dispute = self._sides[mode].objects["disputes"].objects[dispute_id]
        if not won:
            events: tuple[str, ...] = ("charge.dispute.closed",)
            return self._change("disputes", dispute_id, mode, at, announce and events, status="lost")
        charge = self._sides[mode].objects["charges"].objects[reference(dispute["charge"])]
        reversal = self._balance(
            at,
            mode,
            charge,
            dispute["amount"],
            "dispute_reversal",
            dispute_id,
            f"Chargeback reversal for {charge['id']}",
        )
        events = ("charge.dispute.funds_reinstated", "charge.dispute.closed")
        transactions = [*dispute["balance_transactions"], reversal]
        return self._change(
            "disputes", dispute_id, mode, at, announce and events, status="won", balance_transactions=transactions
        )

    # Invoices

    @_locked
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
        """Add an invoice, open unless `draft`; a customer is made if none is given.

        Each of `lines` has at least `amount`; without them `n_lines` lines are made up.
        """
        at = self._at(created)
        people = self._sides[livemode].objects["customers"]
        if customer is None:
            customer = self.create_customer(livemode=livemode, created=at, announce=announce)["id"]
        person = people.objects.get(customer) or templates.customer(customer, at, livemode)
        obj = templates.invoice(fields.get("id") or self._id("in"), at, livemode, currency, person, subscription)
        obj |= fields
        if lines is None:
            unit = templates.minor_units(currency) * templates.PER_DOLLAR.get(currency, 1.0)
            lines = [{"amount": round(unit * self._random.randint(5, 90))} for _ in range(n_lines)]
        drawn = [self._line(obj, line) for line in lines]
        side = self._sides[livemode]
        side.lines[obj["id"]] = {line["id"]: line for line in drawn}
        obj |= self._totals(obj, drawn)
        shown = self._add("invoices", obj, at, announce and ("invoice.created",), livemode)
        if draft:
            return shown
        return self.finalize_invoice(obj["id"], livemode=livemode, created=at, announce=announce)

    @_locked
    def finalize_invoice(
        self, invoice_id: str, *, livemode: bool | None = None, created: int | None = None, announce: bool = True
    ) -> Json:
        """Open a draft for payment."""
        at = self._at(created)
        mode = self._mode("invoices", invoice_id, livemode)
        invoice = self._sides[mode].objects["invoices"].objects[invoice_id]
        self._numbers += 1
        return self._change(
            "invoices",
            invoice_id,
            mode,
            at,
            announce and ("invoice.finalized", "invoice.updated"),
            status="open",
            number=f"DEMO-{self._numbers:06d}",
            effective_at=at,
            automatically_finalizes_at=None,
            next_payment_attempt=at,
            hosted_invoice_url=f"https://invoice.stripe.com/i/{self.account}/{invoice_id}",
            invoice_pdf=f"https://pay.stripe.com/invoice/{self.account}/{invoice_id}/pdf",
            status_transitions=invoice["status_transitions"] | {"finalized_at": at},
        )

    @_locked
    def pay_invoice(
        self,
        invoice_id: str,
        *,
        outcome: str = "succeeded",
        settlement_currency: str | None = None,
        livemode: bool | None = None,
        created: int | None = None,
        announce: bool = True,
    ) -> Json:
        """Try to collect an invoice: `succeeded` or `failed`. A draft is finalised first, nothing to pay is paid."""
        at = self._at(created)
        mode = self._mode("invoices", invoice_id, livemode)
        side = self._sides[mode]
        if side.objects["invoices"].objects[invoice_id]["status"] == "draft":
            self.finalize_invoice(invoice_id, livemode=mode, created=at, announce=announce)
        invoice = side.objects["invoices"].objects[invoice_id]
        customer = reference(invoice["customer"])
        if invoice["amount_remaining"] > 0:
            intent = side.invoice_intents.get(invoice_id)
            if intent is None:
                made = self.create_payment(
                    customer,
                    amount=invoice["amount_remaining"],
                    currency=invoice["currency"],
                    outcome=outcome,
                    description="Subscription update" if invoice["parent"] else "Payment for Invoice",
                    settlement_currency=settlement_currency,
                    livemode=mode,
                    created=at,
                    announce=announce,
                )
                intent = side.invoice_intents[invoice_id] = made["id"]
                self._link(invoice, intent, invoice["amount_remaining"], at, is_default=True)
            else:
                self.attempt_payment(
                    intent,
                    outcome=outcome,
                    settlement_currency=settlement_currency,
                    livemode=mode,
                    created=at,
                    announce=announce,
                )
            if outcome == "succeeded":
                self._change_payments(invoice_id, mode, "paid", at, intent)
        paid = outcome == "succeeded"
        person = side.objects["customers"].objects.get(customer)
        if person is not None and bool(person.get("delinquent")) is paid:
            self._change("customers", customer, mode, at, announce and ("customer.updated",), delinquent=not paid)
        change: Json = {"attempted": True, "attempt_count": invoice["attempt_count"] + 1}
        if not paid:
            change["next_payment_attempt"] = at + 3 * 86400
            events: tuple[str, ...] = ("invoice.payment_failed", "invoice.updated")
            return self._change("invoices", invoice_id, mode, at, announce and events, **change)
        change |= {
            "status": "paid",
            "amount_paid": invoice["amount_due"],
            "amount_remaining": 0,
            "next_payment_attempt": None,
            "auto_advance": False,
            "ending_balance": 0,
            "status_transitions": invoice["status_transitions"] | {"paid_at": at},
        }
        events = ("invoice.paid", "invoice.payment_succeeded", "invoice.updated")
        return self._change("invoices", invoice_id, mode, at, announce and events, **change)

    @_locked
    def attach_payment(
        self,
        invoice_id: str,
        payment_intent_id: str,
        amount: int | None = None,
        *,
        livemode: bool | None = None,
        created: int | None = None,
        announce: bool = True,
    ) -> Json:
        """Pay an open invoice, in whole or in part, with a payment that succeeded; by default with all of it.

        One payment may pay several invoices, one invoice may have several payments.
        """
        at = self._at(created)
        mode = self._mode("invoices", invoice_id, livemode)
        invoice = self._sides[mode].objects["invoices"].objects[invoice_id]
        intent = self._sides[mode].objects["payment_intents"].objects[payment_intent_id]
        amount = min(invoice["amount_remaining"], intent["amount_received"] if amount is None else amount)
        self._link(invoice, payment_intent_id, amount, at, is_default=False)
        self._change_payments(invoice_id, mode, "paid", at, payment_intent_id)
        left = invoice["amount_remaining"] - amount
        change: Json = {"amount_paid": invoice["amount_paid"] + amount, "amount_remaining": left}
        events: tuple[str, ...] = ("invoice.updated",)
        if not left:
            change |= {
                "status": "paid",
                "auto_advance": False,
                "next_payment_attempt": None,
                "status_transitions": invoice["status_transitions"] | {"paid_at": at},
            }
            events = ("invoice.paid", "invoice.payment_succeeded", "invoice.updated")
        return self._change("invoices", invoice_id, mode, at, announce and events, **change)

    @_locked
    def void_invoice(
        self, invoice_id: str, *, livemode: bool | None = None, created: int | None = None, announce: bool = True
    ) -> Json:
        """Take back an open invoice."""
        return self._end_invoice(invoice_id, "void", "voided_at", "invoice.voided", livemode, created, announce)

    @_locked
    def mark_invoice_uncollectible(
        self, invoice_id: str, *, livemode: bool | None = None, created: int | None = None, announce: bool = True
    ) -> Json:
        """Write off an open invoice."""
        kind, moment = "invoice.marked_uncollectible", "marked_uncollectible_at"
        return self._end_invoice(invoice_id, "uncollectible", moment, kind, livemode, created, announce)

    @_locked
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
        """Add a line before the others, as Stripe lists invoice items newest first; returns the line."""
        mode = self._mode("invoices", invoice_id, livemode)
        side = self._sides[mode]
        line = self._line(side.objects["invoices"].objects[invoice_id], {"amount": amount} | fields)
        self._set_lines(
            invoice_id, {line["id"]: line} | side.lines.get(invoice_id, {}), mode, self._at(created), announce
        )
        return _copy(line)

    @_locked
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
        mode = self._mode("invoices", invoice_id, livemode)
        lines = self._sides[mode].lines[invoice_id]
        if "amount" in fields:
            fields.setdefault("subtotal", fields["amount"])
        line = lines[line_id] | fields
        self._set_lines(invoice_id, lines | {line_id: line}, mode, self._at(created), announce)
        return _copy(line)

    @_locked
    def remove_invoice_line(
        self,
        invoice_id: str,
        line_id: str,
        *,
        livemode: bool | None = None,
        created: int | None = None,
        announce: bool = True,
    ) -> Json:
        """Take a line off an invoice; returns the invoice."""
        mode = self._mode("invoices", invoice_id, livemode)
        lines = dict(self._sides[mode].lines[invoice_id])
        del lines[line_id]
        return self._set_lines(invoice_id, lines, mode, self._at(created), announce)

    @_locked
    def delete_invoice(
        self, invoice_id: str, *, livemode: bool | None = None, created: int | None = None, announce: bool = True
    ) -> Json:
        """Delete a draft; anything else is a ValueError."""
        mode = self._mode("invoices", invoice_id, livemode)
        side = self._sides[mode]
        if side.objects["invoices"].objects[invoice_id]["status"] != "draft":
            raise ValueError(f"only drafts can be deleted, {invoice_id} is none")
        self._announce(announce and ("invoice.deleted",), "invoices", invoice_id, self._at(created), mode)
        side.objects["invoices"].remove(invoice_id)
        side.lines.pop(invoice_id, None)
        return {"id": invoice_id, "object": "invoice", "deleted": True}

    # Webhook endpoints

    @_locked
    def create_webhook_endpoint(
        self,
        url: str,
        enabled_events: Sequence[str] = ("*",),
        *,
        secret: str | None = None,
        livemode: bool = False,
        created: int | None = None,
        **fields: Any,
    ) -> Json:
        """Register an endpoint; its `secret` (by default a new one) is in this answer and in no other.

        Several secrets, comma-separated, are those of an endpoint whose secret is being rolled: each signs.
        """
        at = self._at(created)
        obj = templates.webhook_endpoint(self._id("we"), at, livemode, url, list(enabled_events)) | fields
        secret = secret or "whsec_" + "".join(self._random.choices(_ALPHABET, k=32))
        self._sides[livemode].webhook_secrets[obj["id"]] = secret
        return self._add("webhook_endpoints", obj, at, False, livemode) | {"secret": secret}

    @_locked
    def endpoints_for(self, event_id: str, livemode: bool) -> list[str]:
        """Ids of the enabled webhook endpoints that want events of this one's type."""
        return self._listening(self._sides[livemode].objects["events"].objects[event_id]["type"], livemode)

    @_locked
    def endpoint_to_call(self, endpoint_id: str, livemode: bool) -> tuple[str, str] | None:
        """URL and secret of a webhook endpoint; none if it is disabled, deleted, or was put without a secret."""
        side = self._sides[livemode]
        endpoint = side.objects["webhook_endpoints"].objects.get(endpoint_id)
        secret = side.webhook_secrets.get(endpoint_id)
        if endpoint is None or endpoint["status"] != "enabled" or secret is None:
            return None
        return endpoint["url"], secret

    @_locked
    def webhook_delivered(self, event_id: str, livemode: bool) -> None:
        """Count one of the event's `pending_webhooks` as delivered."""
        rendered = self._sides[livemode].objects["events"].rendered
        # The last one is the event's own: what follows it is written by Stripe, not by the shop's customers.
        before, name, after = rendered[event_id].rpartition(b'"pending_webhooks":')
        number, comma, rest = after.partition(b",")
        if name and number.isdigit():
            rendered[event_id] = b"%b%b%d%b%b" % (before, name, max(int(number) - 1, 0), comma, rest)

    # Anything

    @_locked
    def update(
        self,
        type_name: str,
        object_id: str,
        announce: bool = True,
        *,
        livemode: bool | None = None,
        created: int | None = None,
        **fields: Any,
    ) -> Json:
        """Replace fields of any object, with the events Stripe has for that; there are none for some types."""
        mode = self._mode(type_name, object_id, livemode)
        events = announce and _UPDATED.get(type_name, ())
        return self._change(type_name, object_id, mode, self._at(created), events, **fields)

    @_locked
    def vanish(self, type_name: str, object_id: str, *, livemode: bool | None = None) -> None:
        """Remove an object, and an invoice's lines, without a trace."""
        side = self._sides[self._mode(type_name, object_id, livemode)]
        side.objects[type_name].remove(object_id)
        if type_name == "invoices":
            side.lines.pop(object_id, None)

    @_locked
    def put(self, obj: Json, *, livemode: bool | None = None, created: int | None = None) -> Json:
        """Add or replace an object exactly as given, with no event and no settlement; returns the object.

        `created` places it in its list (default: the object's own, or now). Lines embedded in an invoice become the
        invoice's lines, all of them unless `has_more` is set; a line is added to its `invoice`; a deleted customer
        becomes one.
        """
        obj = _copy(obj)
        mode = bool(obj.get("livemode", False)) if livemode is None else livemode
        side = self._sides[mode]
        at = self._at(obj.get("created") if created is None else created)
        kind = obj["object"]
        if kind == "line_item":
            lines = side.lines.setdefault(reference(obj["invoice"]), {})
            lines[obj["id"]] = obj
            side.objects["invoices"].rendered.pop(reference(obj["invoice"]), None)
            return obj
        if kind == "event":
            self._keep_event(obj, mode, at)
            return obj
        type_name = _ALSO_HELD.get(kind) or BY_STRIPE_OBJECT[kind].name
        if kind == "customer" and obj.get("deleted"):
            if obj["id"] in side.objects["customers"]:
                side.objects["customers"].remove(obj["id"])
            side.deleted_customers.add(obj["id"])
            return obj
        if kind == "invoice" and isinstance(obj.get("lines"), dict):
            given = {line["id"]: line for line in obj["lines"].get("data", [])}
            held = side.lines.get(obj["id"], {}) if obj["lines"].get("has_more") else {}
            side.lines[obj["id"]] = held | given
        side.deleted_customers.discard(obj["id"])
        side.objects[type_name].put(obj["id"], obj, at)
        return obj

    @_locked
    def emit_event(
        self,
        kind: str,
        obj: Json,
        *,
        livemode: bool,
        created: int | None = None,
        visible_after: float | None = None,
        previous_attributes: Json | None = None,
    ) -> Json:
        """Add an event that carries `obj` as it is now, readable `visible_after` seconds after its `created`."""
        at = self._at(created)
        data: Json = {"object": obj}
        if previous_attributes is not None:
            data["previous_attributes"] = previous_attributes
        listening = len(self._listening(kind, livemode))
        event_id = "evt_1" + "".join(self._event_random.choices(_ALPHABET, k=23))
        event = templates.event(event_id, at, livemode, kind, data, listening)
        if at + EVENTS_KEPT < self.clock.now():
            return event
        self._keep_event(event, livemode, at, self.event_delay if visible_after is None else visible_after)
        for listener in self.event_listeners if not self._seeding else ():
            listener(event_id, livemode)
        return event

    # Trade

    @_locked
    def seed_history(self, days: int = 60) -> None:
        """Fill both modes with the trade of the last `days` days; the same for the same seed and day.

        Its events are history: no webhooks are sent for them.
        """
        from stripe_emulator.history import seed_history

        self._seeding = True
        try:
            seed_history(self, days)
            for livemode in (True, False):
                self._complete_captures(livemode)
        finally:
            self._seeding = False

    @_locked
    def trade(self, livemode: bool | None = None) -> str:
        """Let one believable thing happen now, mostly in live mode unless a mode is given; returns what it was."""
        from stripe_emulator.history import trade

        return trade(self, self._trade_random, livemode)

    # Inside

    def _at(self, created: int | None) -> int:
        return int(self.clock.now()) if created is None else created

    def _id(self, prefix: str) -> str:
        return f"{prefix}_1" + "".join(self._random.choices(_ALPHABET, k=23))

    def _listening(self, kind: str, livemode: bool) -> list[str]:
        if self._seeding:
            return []
        return [
            endpoint_id
            for endpoint_id, endpoint in self._sides[livemode].objects["webhook_endpoints"].objects.items()
            if endpoint["status"] == "enabled" and not {"*", kind}.isdisjoint(endpoint["enabled_events"])
        ]

    def _mode(self, type_name: str, object_id: str, livemode: bool | None) -> bool:
        for mode in (False, True) if livemode is None else (livemode,):
            if object_id in self._sides[mode].objects[type_name]:
                return mode
        raise KeyError(f"the shop has no {object_id} among its {type_name}")

    def _add(self, type_name: str, obj: Json, created: int, announce: Iterable[str] | bool, livemode: bool) -> Json:
        self._sides[livemode].objects[type_name].put(obj["id"], obj, created)
        self._announce(announce, type_name, obj["id"], created, livemode)
        return self._shown(type_name, obj["id"], livemode)

    def _change(
        self,
        type_name: str,
        object_id: str,
        livemode: bool,
        at: int,
        announce: Iterable[str] | bool,
        **fields: Any,
    ) -> Json:
        collection = self._sides[livemode].objects[type_name]
        before = collection.objects[object_id]
        after = before | fields
        collection.change(object_id, after)
        self._announce(announce, type_name, object_id, at, livemode, _difference(before, after))
        return self._shown(type_name, object_id, livemode)

    def _announce(
        self,
        kinds: Iterable[str] | bool,
        type_name: str,
        object_id: str,
        at: int,
        livemode: bool,
        previous: Json | None = None,
    ) -> None:
        for kind in kinds if not isinstance(kinds, bool) else ():
            changed = previous if kind.endswith(("updated", "refunded", "closed", "captured")) else None
            obj = self._shown(type_name, object_id, livemode)
            self.emit_event(kind, obj, livemode=livemode, created=at, previous_attributes=changed)

    def _shown(self, type_name: str, object_id: str, livemode: bool) -> Json:
        shown: Json = orjson.loads(self.render(type_name, object_id, livemode))
        return shown

    def _keep_event(self, event: Json, livemode: bool, at: int, visible_after: float = 0.0) -> None:
        row = {"id": event["id"], "type": event["type"], "visible_at": at + visible_after}
        events = self._sides[livemode].objects["events"]
        events.put(event["id"], row, at)
        # Frozen here: whatever happens to the object later, the event keeps saying what it says now.
        events.rendered[event["id"]] = orjson.dumps(event)

    def _capture_delay(self) -> int | None:
        """Seconds until the charge of the next payment gets its balance transaction; None if it has one at once."""
        if self.async_capture and self._capture_random.random() < self.async_capture:
            return self._capture_random.randint(2, 60)
        return None

    def _complete_captures(self, livemode: bool) -> None:
        """Give the charges that are due their balance transactions."""
        side, now = self._sides[livemode], self.clock.now()
        while side.capturing and side.capturing[0][0] <= now:
            due, charge_id, announce = heapq.heappop(side.capturing)
            charge = side.objects["charges"].objects.get(charge_id)
            if charge is not None:
                taken = self._captured(charge, charge["amount_captured"], charge["created"], livemode, None, None)
                self._change("charges", charge_id, livemode, due, announce and ("charge.updated",), **taken)

    def _settle(self, side: _Side) -> None:
        transactions, now = side.objects["balance_transactions"], self.clock.now()
        while side.pending and side.pending[0][0] <= now:
            object_id = heapq.heappop(side.pending)[1]
            if object_id in transactions:
                transactions.change(object_id, transactions.objects[object_id] | {"status": "available"})

    def _unpaid(self, currency: str, livemode: bool, at: int) -> list[Json]:
        side = self._sides[livemode]
        return [
            obj
            for object_id, obj in side.objects["balance_transactions"].objects.items()
            if object_id not in side.paid_out and obj["currency"] == currency and obj["available_on"] <= at
        ]

    def _captured(
        self,
        charge: Json,
        amount: int,
        at: int,
        livemode: bool,
        fees: Sequence[Json] | None,
        settlement_currency: str | None,
    ) -> Json:
        """The fields of a charge whose money is taken; makes the balance transaction."""
        currency, settled, rate = charge["currency"], amount, None
        if settlement_currency not in (None, currency):
            currency = "usd"
            settled, rate = templates.to_usd(amount, charge["currency"])
        if fees is None:
            fees = [templates.fee(templates.processing_fee(settled, currency), currency)]
            if charge["application_fee_amount"] and not charge["transfer_data"]:
                kind, description = "application_fee", "Demo Platform application fee"
                taken = charge["application_fee_amount"]
                if rate is not None:
                    taken, _ = templates.to_usd(taken, charge["currency"])
                fees.append(templates.fee(taken, currency, kind=kind, description=description))
        transaction = templates.balance_transaction(
            self._id("txn"),
            at,
            settled,
            currency,
            kind="charge",
            category="charge",
            source=charge["id"],
            description=charge["description"],
            available_on=(at // 86400 + 3) * 86400,
            fees=list(fees),
            exchange_rate=rate,
        )
        self._add_transaction(transaction, at, livemode)
        application_fee = self._id("fee") if charge["application_fee_amount"] else None
        taken = {
            "amount_captured": amount,
            "application_fee": application_fee,
            "balance_transaction": transaction["id"],
            "captured": True,
        }
        if not charge["transfer_data"]:
            return taken
        transfer = self._id("tr")
        charge = charge | taken
        said = f"Transfer to {charge['transfer_data']['destination']}"
        self._balance(at, livemode, charge, -amount, "transfer", transfer, said)
        if application_fee:
            said = f"Application fee from {charge['transfer_data']['destination']}"
            fee = charge["application_fee_amount"]
            self._balance(at, livemode, charge, fee, "platform_earning", application_fee, said, kind="application_fee")
        return taken | {"transfer": transfer}

    def _balance(
        self,
        at: int,
        livemode: bool,
        charge: Json,
        amount: int,
        category: str,
        source: str,
        description: str,
        fees: Sequence[Json] = (),
        kind: str | None = None,
    ) -> Json:
        """A movement that takes or brings back money of a charge; it counts at once."""
        kind = kind or ("adjustment" if category.startswith("dispute") else category)
        currency, rate = charge["currency"], None
        settled = (
            self._sides[livemode]
            .objects["balance_transactions"]
            .objects.get(reference(charge.get("balance_transaction")) or "")
        )
        if settled is not None and settled["currency"] != currency:
            amount, rate = templates.to_usd(amount, currency)
            fees = [
                fee | {"amount": templates.to_usd(fee["amount"], fee["currency"])[0], "currency": "usd"} for fee in fees
            ]
            currency = "usd"
        transaction = templates.balance_transaction(
            self._id("txn"),
            at,
            amount,
            currency,
            kind=kind,
            category=category,
            source=source,
            description=description,
            available_on=at,
            fees=list(fees),
            exchange_rate=rate,
        )
        return self._add_transaction(transaction, at, livemode)

    def _add_transaction(self, obj: Json, at: int, livemode: bool) -> Json:
        if obj["status"] == "pending":
            heapq.heappush(self._sides[livemode].pending, (obj["available_on"], obj["id"]))
        return self._add("balance_transactions", obj, at, False, livemode)

    def _line(self, invoice: Json, line: Json) -> Json:
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

    def _totals(self, invoice: Json, lines: Iterable[Json]) -> Json:
        total = sum(line["amount"] for line in lines)
        due = max(total, 0)
        paid = due if invoice["status"] == "paid" else 0
        return {
            "subtotal": total,
            "subtotal_excluding_tax": total,
            "total": total,
            "total_excluding_tax": total,
            "amount_due": due,
            "amount_paid": paid,
            "amount_remaining": due - paid,
        }

    def _set_lines(self, invoice_id: str, lines: dict[str, Json], livemode: bool, at: int, announce: bool) -> Json:
        side = self._sides[livemode]
        side.lines[invoice_id] = lines
        totals = self._totals(side.objects["invoices"].objects[invoice_id], lines.values())
        return self._change("invoices", invoice_id, livemode, at, announce and ("invoice.updated",), **totals)

    def _end_invoice(
        self,
        invoice_id: str,
        status: str,
        moment: str,
        kind: str,
        livemode: bool | None,
        created: int | None,
        announce: bool,
    ) -> Json:
        at = self._at(created)
        mode = self._mode("invoices", invoice_id, livemode)
        if status == "void":
            self._change_payments(invoice_id, mode, "canceled", at)
        transitions = self._sides[mode].objects["invoices"].objects[invoice_id]["status_transitions"]
        return self._change(
            "invoices",
            invoice_id,
            mode,
            at,
            announce and (kind, "invoice.updated"),
            status=status,
            auto_advance=False,
            next_payment_attempt=None,
            status_transitions=transitions | {moment: at},
        )

    def _link(self, invoice: Json, intent: str, amount: int, at: int, *, is_default: bool) -> None:
        payment = templates.invoice_payment(self._id("inpay"), at, invoice, intent, amount, is_default=is_default)
        self._add("invoice_payments", payment, at, False, invoice["livemode"])

    def _change_payments(
        self, invoice_id: str, livemode: bool, status: str, at: int, intent: str | None = None
    ) -> None:
        """The open payments of an invoice, or only those with this intent, are `paid` or `canceled`."""
        for payment in self.payments(invoice_id, livemode):
            if payment["status"] == "open" and intent in (None, payment["payment"]["payment_intent"]):
                transitions = payment["status_transitions"] | {f"{status}_at": at}
                paid = payment["amount_requested"] if status == "paid" else None
                change = {"status": status, "amount_paid": paid, "status_transitions": transitions}
                self._change("invoice_payments", payment["id"], livemode, at, False, **change)

    def _embedded_lines(self, invoice: Json, side: _Side) -> Json:
        lines = list(side.lines.get(invoice["id"], {}).values())
        shell: Json = invoice["lines"] | {"data": lines[:EMBEDDED], "has_more": len(lines) > EMBEDDED}
        if "total_count" in shell:
            shell["total_count"] = len(lines)
        return shell


def _copy(obj: Json) -> Json:
    copied: Json = orjson.loads(orjson.dumps(obj))
    return copied


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Json:
    """What `previous_attributes` says of a change: the old values of what differs, down into objects."""
    changed: Json = {}
    for name in before.keys() | after.keys():
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        changed[name] = _difference(old, new) if isinstance(old, dict) and isinstance(new, dict) else old
    return changed
