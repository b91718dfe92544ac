"""The changes that can happen in a shop, chosen by numbers, for `test_histories` and the soak."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from stripe_emulator import Shop
from stripe_pipeline.days import DAY
from stripe_pipeline.objects import BY_STRIPE_OBJECT

OUTCOMES = ("succeeded", "succeeded", "failed", "requires_capture", "processing", "requires_action")
UNPAID = ("requires_payment_method", "requires_action", "requires_capture")
ANNOUNCEMENTS = ("at once", "at once", "late", "twice", "not at all", "in the past")

Happening = tuple[str, bool, str, int]
"""A method of `Trade`, whether in live mode, how the change is announced, and a number that chooses its details."""
Key = tuple[str, bool, str]
"""Type, mode and id of an object; its children are part of it."""


class Trade:
    """One change in a shop; does nothing if the shop has no object that fits."""

    def __init__(
        self, shop: Shop, own_ids: Iterator[int], *, livemode: bool, number: int, announce: bool = True, ago: int = 0
    ) -> None:
        """`own_ids` numbers the customers of this mode whose ids the shop chooses."""
        self.shop = shop
        self._own_ids = own_ids
        self._number = number
        self._on: dict[str, Any] = {"livemode": livemode, "announce": announce}
        self._creation = self._on | ({"created": int(shop.clock.now()) - ago} if ago else {})

    def _any(self, type_name: str, wanted: Callable[[dict[str, Any]], object] = bool) -> dict[str, Any] | None:
        held = self.shop.collection(type_name, self._on["livemode"]).objects.values()
        matching = [obj for obj in held if wanted(obj)]
        return matching[self._number % len(matching)] if matching else None

    def _line(self) -> tuple[str, str] | None:
        invoice = self._any("invoices", lambda obj: self.shop.lines(obj["id"], self._on["livemode"]))
        if invoice is None:
            return None
        lines = self.shop.lines(invoice["id"], self._on["livemode"])
        return invoice["id"], lines[self._number % len(lines)]["id"]

    def customer(self) -> None:
        """A new customer, every third one with an id that the shop chooses, which the other mode may have, too."""
        chosen: dict[str, Any] = {"id": f"shop/?#%+é {next(self._own_ids)}"} if self._number % 3 == 0 else {}
        self.shop.create_customer(name=f"Customer {self._number}", **chosen, **self._creation)

    def payment(self) -> None:
        """A payment of any outcome, some of them settled in another currency or with two equal fees."""
        customer = self._any("customers")
        fee = {"amount": 30, "application": None, "currency": "usd", "description": "Fee", "type": "stripe_fee"}
        special: tuple[dict[str, Any], ...] = (
            {},
            {"currency": "jpy", "settlement_currency": "usd"},
            {"fees": [fee, fee]},
            {"application_fee": 100},
        )
        self.shop.create_payment(
            customer["id"] if customer else None,
            amount=100 + self._number,
            outcome=OUTCOMES[self._number % len(OUTCOMES)],
            **special[self._number % len(special)],
            **self._creation,
        )

    def attempt(self) -> None:
        """Another attempt after a payment failed."""
        if intent := self._any("payment_intents", lambda obj: obj["status"] == "requires_payment_method"):
            self.shop.attempt_payment(intent["id"], outcome=OUTCOMES[self._number % len(OUTCOMES)], **self._on)

    def capture(self) -> None:
        """A payment that waited for its capture is captured."""
        if intent := self._any("payment_intents", lambda obj: obj["status"] in ("requires_capture", "processing")):
            self.shop.capture(intent["id"], **self._on)

    def cancel(self) -> None:
        """A payment is given up."""
        if intent := self._any("payment_intents", lambda obj: obj["status"] in UNPAID):
            self.shop.cancel_payment(intent["id"], **self._on)

    def refund(self) -> None:
        """A part of a charge, or all of it, is refunded."""
        if charge := self._any("charges", lambda obj: obj["amount_captured"] > obj["amount_refunded"]):
            left = charge["amount_captured"] - charge["amount_refunded"]
            self.shop.refund(charge["id"], min(left, 1 + self._number), **self._on)

    def refund_fails(self) -> None:
        """The bank sends a refund back."""
        if refund := self._any("refunds", lambda obj: obj["status"] == "succeeded"):
            self.shop.fail_refund(refund["id"], **self._on)

    def dispute(self) -> None:
        """A charge is disputed."""
        if charge := self._any("charges", lambda obj: obj["captured"] and not obj["disputed"]):
            self.shop.dispute(charge["id"], **self._on)

    def evidence(self) -> None:
        """Evidence is submitted for a dispute."""
        if dispute := self._any("disputes"):
            self.shop.update_dispute(dispute["id"], metadata={"n": str(self._number)}, **self._on)

    def dispute_closes(self) -> None:
        """Won or lost."""
        if dispute := self._any("disputes", lambda obj: obj["status"] not in ("won", "lost")):
            self.shop.close_dispute(dispute["id"], won=self._number % 2 == 0, **self._on)

    def payout(self) -> None:
        """Money leaves the balance; no event announces its balance transaction."""
        self.shop.payout(self._number, **self._on)

    def payout_ends(self) -> None:
        """A payout arrives, is sent back by the bank, or is canceled."""
        if payout := self._any("payouts", lambda obj: obj["status"] == "pending"):
            ends = (self.shop.complete_payout, self.shop.fail_payout, self.shop.cancel_payout)
            ends[self._number % 3](payout["id"], **self._on)

    def invoice(self) -> None:
        """An invoice of up to 25 lines, every other one a draft."""
        customer = self._any("customers")
        self.shop.create_invoice(
            customer["id"] if customer else None,
            n_lines=self._number % 26,
            draft=self._number % 2 == 0,
            **self._creation,
        )

    def finalize(self) -> None:
        """A draft becomes an invoice."""
        if invoice := self._any("invoices", lambda obj: obj["status"] == "draft"):
            self.shop.finalize_invoice(invoice["id"], **self._on)

    def pay_invoice(self) -> None:
        """An invoice is paid, or not."""
        if invoice := self._any("invoices", lambda obj: obj["status"] == "open"):
            outcome = OUTCOMES[: len(OUTCOMES) // 2][self._number % 3]
            self.shop.pay_invoice(invoice["id"], outcome=outcome, **self._on)

    def void(self) -> None:
        """An invoice is taken back or written off."""
        if invoice := self._any("invoices", lambda obj: obj["status"] == "open"):
            end = self.shop.void_invoice if self._number % 2 else self.shop.mark_invoice_uncollectible
            end(invoice["id"], **self._on)

    def line_added(self) -> None:
        """One more line."""
        if invoice := self._any("invoices"):
            self.shop.add_invoice_line(invoice["id"], amount=self._number, **self._on)

    def line_changed(self) -> None:
        """Another description, or another amount."""
        if place := self._line():
            change = {"amount": self._number} if self._number % 2 else {"description": f"Line {self._number}"}
            invoice, line = place
            self.shop.update_invoice_line(invoice, line, **change, **self._on)

    def line_removed(self) -> None:
        """One line less."""
        if place := self._line():
            self.shop.remove_invoice_line(*place, **self._on)

    def draft_deleted(self) -> None:
        """A draft is deleted, with its lines."""
        if invoice := self._any("invoices", lambda obj: obj["status"] == "draft"):
            self.shop.delete_invoice(invoice["id"], **self._on)

    def customer_deleted(self) -> None:
        """A customer is deleted."""
        if customer := self._any("customers"):
            self.shop.delete_customer(customer["id"], **self._on)

    def edit(self) -> None:
        """New metadata of any object; no event announces that of a payment intent."""
        types = ("charges", "customers", "disputes", "invoices", "payment_intents", "payouts", "refunds")
        type_name = types[self._number % len(types)]
        if obj := self._any(type_name):
            metadata = {"edit": str(self._number)} if self._number % 3 else {}
            self.shop.update(type_name, obj["id"], metadata=metadata, **self._on)

    def vanish(self) -> None:
        """An object vanishes without an event."""
        type_name = ("customers", "invoices")[self._number % 2]
        if obj := self._any(type_name):
            self.shop.vanish(type_name, obj["id"], livemode=self._on["livemode"])


def stock(shop: Shop) -> None:
    """Create objects of every type in both modes, so that every change has an object from the start."""
    for livemode in (True, False):
        days = iter(range(2, 15))
        mode: Any = {"livemode": livemode, "announce": False}

        def options(mode: Any = mode, days: Any = days) -> Any:
            return mode | {"created": int(shop.clock.now()) - next(days) * DAY}

        customer = shop.create_customer(**options())["id"]
        for outcome in OUTCOMES:
            shop.create_payment(customer, outcome=outcome, **options())
        paid = [shop.create_payment(customer, amount=5000, **options())["latest_charge"] for _ in range(2)]
        for charge, change in zip(paid, (shop.refund, shop.dispute), strict=True):
            change(charge, amount=500, **mode)
        for lines, draft in ((1, True), (12, True), (25, False)):
            shop.create_invoice(customer, n_lines=lines, draft=draft, **options())
        shop.payout(100, **options())


ACTIONS = tuple(name for name in vars(Trade) if not name.startswith("_"))


class ChangeLog:
    """The changes in a shop, and from when on each of them can be known."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.known_from: dict[Key, float] = {}
        """When each object's present state can be known (Stripe's clock), infinite if no event announces it."""
        self._announced: list[tuple[str, dict[str, Any], bool]] = []
        self._own_ids = {True: itertools.count(), False: itertools.count()}

    def happen(self, happening: Happening) -> None:
        """Make a change, and record from when on it can be known."""
        name, livemode, announced, number = happening
        with self.shop.lock:
            self._happen(name, livemode, announced, number)

    def _happen(self, name: str, livemode: bool, announced: str, number: int) -> None:
        before, earlier = self._state(livemode), self._events(livemode)
        self.shop.event_delay = 1 + number % 55 if announced == "late" else 0
        trade = Trade(
            self.shop,
            self._own_ids[livemode],
            livemode=livemode,
            number=number,
            announce=announced not in ("not at all", "in the past"),
            # Not announced: Stripe has no events of objects that are created in the past.
            ago=number % 15 * DAY + number if announced == "in the past" else 0,
        )
        getattr(trade, name)()
        now = self.shop.clock.now()
        after = self._state(livemode)
        visible_from = {}
        for event_id in self._events(livemode) - earlier:
            event, visible_at = self._event(event_id, livemode)
            obj = event["data"]["object"]
            visible_from[BY_STRIPE_OBJECT[obj["object"]].name, livemode, obj["id"]] = max(now, visible_at)
            self._announced.append((event["type"], obj, livemode))
        for key in before.keys() | after.keys():
            if before.get(key) == after.get(key):
                continue
            created_now = key[0] == "balance_transactions" and key not in before and announced != "in the past"
            self.known_from[key] = now if created_now else visible_from.get(key, math.inf)
        if announced == "twice":
            self.announce_again(number)

    def announce_again(self, number: int) -> None:
        """Emit an event with an old payload, now."""
        if not self._announced:
            return
        kind, obj, livemode = self._announced[number % len(self._announced)]
        self.shop.emit_event(kind, obj, livemode=livemode, visible_after=0)
        key = BY_STRIPE_OBJECT[obj["object"]].name, livemode, obj["id"]
        if key in self.known_from:
            self.known_from[key] = min(self.known_from[key], self.shop.clock.now())

    def _events(self, livemode: bool) -> set[str]:
        return set(self.shop.collection("events", livemode).objects)

    def _event(self, event_id: str, livemode: bool) -> tuple[dict[str, Any], float]:
        events = self.shop.collection("events", livemode)
        return orjson.loads(events.rendered[event_id]), events.objects[event_id]["visible_at"]

    def _state(self, livemode: bool) -> dict[Key, Any]:
        state: dict[Key, Any] = {}
        for object_type in BY_STRIPE_OBJECT.values():
            for object_id, obj in self.shop.objects(object_type.name, livemode).items():
                lines = self.shop.lines(object_id, livemode) if object_type.name == "invoices" else None
                state[object_type.name, livemode, object_id] = (obj, lines)
        return state
