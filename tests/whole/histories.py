"""The changes that can happen in a shop, chosen by numbers, for `test_histories` and the soak."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from stripe_emulator import Shop
from stripe_emulator.store import reference
from stripe_emulator.types import LISTED
from stripe_pipeline.days import DAY
from stripe_pipeline.objects import BY_STRIPE_OBJECT, OBJECT_TYPES

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

    def catalog(self) -> None:
        """A new product, price, coupon, promotion code or tax rate."""
        price_of = self._any("products")
        creations: tuple[Callable[..., object], ...] = (
            self.shop.create_product,
            lambda **on: self.shop.create_price(price_of["id"] if price_of else None, amount=self._number, **on),
            lambda **on: self.shop.create_price(amount=self._number, monthly=False, inline=True, **on),
            self.shop.create_coupon,
            self.shop.create_promotion_code,
            self.shop.create_tax_rate,
        )
        creations[self._number % len(creations)](**self._creation)

    def out_of_sale(self) -> None:
        """A price or a promotion code is made inactive, a coupon or a product deleted."""
        type_name = ("prices", "promotion_codes", "coupons", "products")[self._number % 4]
        if obj := self._any(type_name):
            match type_name:
                case "coupons":
                    self.shop.delete_coupon(obj["id"], **self._on)
                case "products":
                    self.shop.delete_product(obj["id"], **self._on)
                case _:
                    self.shop.update(type_name, obj["id"], active=not obj["active"], **self._on)

    def subscription(self) -> None:
        """A customer subscribes: to one to twelve prices, with or without a trial and a coupon."""
        if customer := self._any("customers"):
            coupon = self._any("coupons") if self._number % 2 else None
            subscription = self.shop.create_subscription(
                customer["id"],
                coupon=coupon["id"] if coupon else None,
                trial_days=7 * (self._number % 3),
                **self._creation,
            )
            for _ in range(self._number % 12):
                self.shop.add_subscription_item(subscription["id"], **self._on)

    def subscription_changes(self) -> None:
        """A subscription gets another item, another quantity or one item less, is paused, resumed or canceled."""
        subscription = self._any("subscriptions", lambda obj: obj["status"] != "canceled")
        if subscription is None:
            return
        items = self.shop.collection("subscription_items", self._on["livemode"])
        of_subscription = sorted(items.with_value("subscription", subscription["id"]))
        item = of_subscription[self._number % len(of_subscription)] if of_subscription else None
        match self._number % 7:
            case 0:
                self.shop.add_subscription_item(subscription["id"], **self._on)
            case 1 if item:
                self.shop.change_subscription_item(item, quantity=self._number, **self._on)
            case 2 if item:
                self.shop.remove_subscription_item(item, **self._on)
            case 3:
                self.shop.pause_subscription(subscription["id"], **self._on)
            case 4:
                self.shop.resume_subscription(subscription["id"], **self._on)
            case 5:
                self.shop.cancel_subscription(subscription["id"], at_period_end=self._number % 2 == 0, **self._on)

    def subscription_invoiced(self) -> None:
        """A period of a subscription begins."""
        if subscription := self._any("subscriptions", lambda obj: obj["status"] != "canceled"):
            self.shop.invoice_subscription(subscription["id"], **self._on)

    def credit_note(self) -> None:
        """An open or paid invoice is reduced, by up to twelve lines."""
        reducible = self._any(
            "invoices", lambda obj: (obj["amount_remaining"] if obj["status"] == "open" else obj["amount_paid"]) > 50
        )
        if reducible and reducible["status"] in ("open", "paid"):
            self.shop.create_credit_note(
                reducible["id"],
                24,
                n_lines=1 + self._number % 12,
                to_balance=self._number % 2 == 0,
                **self._on,
            )

    def credit_note_voided(self) -> None:
        """A credit note of an open invoice is taken back."""
        invoices = self.shop.collection("invoices", self._on["livemode"]).objects
        note = self._any(
            "credit_notes",
            lambda obj: obj["status"] == "issued" and invoices.get(obj["invoice"], {}).get("status") == "open",
        )
        if note:
            self.shop.void_credit_note(note["id"], **self._on)

    def balance_adjusted(self) -> None:
        """A customer owes more or less."""
        if customer := self._any("customers"):
            self.shop.adjust_customer_balance(customer["id"], self._number - 500, **self._on)

    def card(self) -> None:
        """A customer has one more card, or one less."""
        if self._number % 2 and (method := self._any("payment_methods", lambda obj: obj["customer"])):
            self.shop.detach_payment_method(method["id"], **self._on)
        elif customer := self._any("customers"):
            self.shop.attach_payment_method(customer["id"], **self._on)

    def checkout(self) -> None:
        """A session is opened; Stripe sends no event."""
        customer = self._any("customers") if self._number % 2 else None
        self.shop.create_checkout_session(
            customer["id"] if customer else None,
            n_lines=self._number % 13,
            embedded=self._number % 3 == 0,
            **self._creation,
        )

    def checkout_ends(self) -> None:
        """The customer pays, or the session expires."""
        if session := self._any("checkout_sessions", lambda obj: obj["status"] == "open" and obj["amount_total"]):
            end = self.shop.complete_checkout_session if self._number % 2 else self.shop.expire_checkout_session
            end(session["id"], **self._on)

    def destination_charge(self) -> None:
        """A payment whose money goes to a connected account, or a part of such money comes back."""
        transfer = self._any("transfers", lambda obj: obj["amount"] - obj["amount_reversed"] > 100)
        if transfer is None or self._number % 2:
            self.shop.create_payment(
                amount=1000 + self._number, destination="acct_1Connected", application_fee=100, **self._creation
            )
        elif self._number % 4:
            self.shop.reverse_transfer(transfer["id"], 1 + self._number % 90, **self._on)
        else:
            options = {"reverse_transfer": True, "refund_application_fee": True}
            self.shop.refund(transfer["source_transaction"], 50, **options, **self._on)

    def edit(self) -> None:
        """New metadata of any object; no event announces that of a payment intent."""
        types = (
            *("charges", "customers", "disputes", "invoices", "payment_intents", "payouts", "refunds"),
            *("products", "prices", "coupons", "promotion_codes", "tax_rates", "subscriptions", "credit_notes"),
            *("payment_methods", "transfers"),
        )
        type_name = types[self._number % len(types)]
        if obj := self._any(type_name):
            metadata = {"edit": str(self._number)} if self._number % 3 else {}
            self.shop.update(type_name, obj["id"], metadata=metadata, **self._on)

    def vanish(self) -> None:
        """An object vanishes without an event. Stripe keeps the invoices that have a number."""
        type_name = ("customers", "invoices", "products", "coupons")[self._number % 4]
        if obj := self._any(type_name, lambda obj: obj.get("number") is None):
            self.shop.vanish(type_name, obj["id"], livemode=self._on["livemode"])


def stock(shop: Shop) -> None:
    """Create objects of every type in both modes, so that every change has an object from the start."""
    for livemode in (True, False):
        days = itertools.cycle(range(2, 15))
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
        shop.attach_payment_method(customer, **mode)
        coupon = shop.create_coupon(**options())["id"]
        shop.create_promotion_code(coupon, **options())
        shop.create_tax_rate(**options())
        subscription = shop.create_subscription(customer, coupon=coupon, **options())["id"]
        shop.pay_invoice(shop.invoice_subscription(subscription, **mode)["id"], **mode)
        shop.create_checkout_session(customer, **options())
        shop.create_payment(amount=2000, destination="acct_1Connected", application_fee=100, **options())


PARTS = {
    "discount": {
        "customers": "customer",
        "subscriptions": "subscription",
        "coupons": "source",
        "promotion_codes": "promotion_code",
    },
    "dispute": {"charges": "charge"},
    "refund": {"charges": "charge"},
    "invoice_payment": {"invoices": "invoice"},
}
"""The tables in which an event changes a row that names such a part of the row, and the part's field with the row's
id."""
ACTIONS = tuple(name for name in vars(Trade) if not name.startswith("_"))


def _named_by(obj: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The table and the id of each object that an event announces which carries this object."""
    if obj["object"] in BY_STRIPE_OBJECT:
        yield BY_STRIPE_OBJECT[obj["object"]].name, obj["id"]
    for table, field in PARTS.get(obj["object"], {}).items():
        yield table, obj[field]["coupon"] if field == "source" else obj[field]


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
            for table, object_id in _named_by(obj):
                visible_from[table, livemode, object_id] = max(now, visible_at)
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
        for table, object_id in _named_by(obj):
            if (key := (table, livemode, object_id)) in self.known_from:
                self.known_from[key] = min(self.known_from[key], self.shop.clock.now())

    def _events(self, livemode: bool) -> set[str]:
        return set(self.shop.collection("events", livemode).objects)

    def _event(self, event_id: str, livemode: bool) -> tuple[dict[str, Any], float]:
        events = self.shop.collection("events", livemode)
        return orjson.loads(events.rendered[event_id]), events.objects[event_id]["visible_at"]

    def _state(self, livemode: bool) -> dict[Key, Any]:
        state: dict[Key, Any] = {}
        for name in LISTED:
            for object_id, obj in self.shop.objects(name, livemode).items():
                state[name, livemode, object_id] = (obj, [])
        for child in OBJECT_TYPES.values():
            if child.parent and child.name != "fee_details":  # fees are in the transaction itself
                for key, obj in self.shop.objects(child.name, livemode).items():
                    owner = key[0] if isinstance(key, tuple) else reference(obj[f"{child.parent_key}"])
                    if (of_parent := state.get((child.parent, livemode, owner))) is not None:
                        of_parent[1].append((child.name, key, obj))
        return state
