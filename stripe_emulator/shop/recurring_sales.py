"""Simulated subscriptions: sold, renewed, upgraded, past due and canceled."""

from __future__ import annotations

from functools import partial
from random import Random

from stripe_emulator.clock import DAY
from stripe_emulator.shop.actions import Actions
from stripe_emulator.shop.demo_data import PLANS, person, price
from stripe_emulator.shop.state import When
from stripe_emulator.shop.timeline import Timeline
from stripe_emulator.store import Json


class RecurringSales:
    """The subscriptions of one mode."""

    def __init__(self, shop: Actions, timeline: Timeline, livemode: bool, random: Random) -> None:
        self._shop = shop
        self._timeline = timeline
        self._livemode = livemode
        self._random = random
        self._prices: dict[tuple[str, float, str], str] = {}
        self._coupon_id = ""
        self._growing = ""

    def subscribe(self, customer: Json, at: int) -> None:
        """Subscribe a customer to a plan, some of them with further seats, a trial or a coupon."""
        shop, random = self._shop, self._random
        plan, dollars = random.choice(PLANS)
        seats = min(40, max(1, int(random.expovariate(0.35))))
        currency = customer["currency"]
        prices = {self._price(plan, dollars, currency, at): 1}
        # Each further seat is an item of its own.
        prices |= {self._price(f"Seat {seat + 1}", 0.2 * dollars, currency, at): 1 for seat in range(1, seats)}
        shop.attach_payment_method(customer["id"], livemode=self._livemode, created=at)
        trial_days = 14 if random.random() < 0.15 else 0
        code: Json = {}
        if random.random() < 0.12:
            code = shop.create_promotion_code(self._coupon(at), livemode=self._livemode, created=at)
        subscription = shop.create_subscription(
            customer["id"],
            prices,
            trial_days=trial_days,
            coupon=code["promotion"]["coupon"] if code else None,
            promotion_code=code.get("id"),
            livemode=self._livemode,
            created=at,
        )["id"]
        self._timeline.add(at + trial_days * DAY, partial(self._renew, subscription, "create"))

    def subscribe_growing(self, at: int) -> None:
        """Subscribe a customer who pays for each period and adds seats in its middle.

        Thus every history of more than a month has prorations, on whichever day it begins.
        """
        fields = person(Random("growing")) | {"currency": "usd"}
        customer = self._shop.create_customer(livemode=self._livemode, created=at, **fields)
        plan, dollars = PLANS[0]
        prices = {self._price(plan, dollars, "usd", at): 1}
        created = self._shop.create_subscription(customer["id"], prices, livemode=self._livemode, created=at)
        self._growing = str(created["id"])
        self._renew(self._growing, "create", at)

    def _price(self, name: str, dollars: float, currency: str, at: int) -> str:
        """Returns the id of the monthly price of a plan or seat, which is added with its product when first needed."""
        key = (name, dollars, currency)
        if key not in self._prices:
            product = self._shop.create_product(name, livemode=self._livemode, created=at)["id"]
            amount = price(dollars, currency)
            added = self._shop.create_price(
                product, amount=amount, currency=currency, livemode=self._livemode, created=at
            )
            self._prices[key] = str(added["id"])
        return self._prices[key]

    def _coupon(self, at: int) -> str:
        """Returns the id of the coupon that all promotion codes share, which is added when first needed."""
        if not self._coupon_id:
            self._coupon_id = str(self._shop.create_coupon(livemode=self._livemode, created=at)["id"])
        return self._coupon_id

    def _renew(self, subscription: str, reason: str, at: int) -> None:
        """Invoice a period of a subscription; `reason` is `create` for the first one, otherwise `cycle`."""
        shop = self._shop
        if shop.collection("subscriptions", self._livemode).objects[subscription]["status"] == "canceled":
            return
        draw = 1.0 if subscription == self._growing else self._random.random()
        if reason == "cycle" and draw < 0.04:
            shop.cancel_subscription(subscription, livemode=self._livemode, created=at)
            return
        invoice = shop.invoice_subscription(subscription, reason=reason, livemode=self._livemode, created=at)
        if draw > 0.9:
            [item, *_] = sorted(
                shop.collection("subscription_items", self._livemode).with_value("subscription", subscription)
            )
            self._timeline.later(at + 10 * DAY, self._livemode, self._upgrade, item)
        wait = 1 if reason == "create" else 3600
        self._timeline.add(at + wait, partial(self._collect, invoice["id"], 1, subscription == self._growing))
        self._timeline.add(at + 30 * DAY, partial(self._renew, subscription, "cycle"))

    def _upgrade(self, item: str, *, livemode: bool, created: int) -> None:
        """Add seats to an item in the middle of a period, unless the subscription was canceled."""
        stored = self._shop.collection("subscription_items", livemode).objects[item]
        subscription = self._shop.collection("subscriptions", livemode).objects[stored["subscription"]]
        if subscription["status"] != "canceled":
            quantity = stored["quantity"] + 2
            self._shop.change_subscription_item(item, quantity=quantity, livemode=livemode, created=created)

    def _collect(self, invoice: str, attempt: int, is_certain: bool, at: int) -> None:
        """Collect the invoice of a subscription, which is past due after a failed attempt and canceled after three."""
        when: When = {"livemode": self._livemode, "created": at}
        if is_certain or self._random.random() < 0.92:
            paid = self._shop.pay_invoice(invoice, **when)
            self._set_status(invoice, "active", when)
            if paid["amount_paid"] > 100 and self._random.random() < 0.04:
                to_balance = self._random.random() < 0.5
                credit, amount = self._shop.create_credit_note, paid["amount_paid"] // 3
                self._timeline.later(at + 4 * DAY, self._livemode, credit, invoice, amount, to_balance=to_balance)
        elif attempt < 3:
            self._shop.pay_invoice(invoice, outcome="failed", **when)
            self._set_status(invoice, "past_due", when)
            self._timeline.add(at + 3 * DAY, partial(self._collect, invoice, attempt + 1, False))
        else:
            self._shop.mark_invoice_uncollectible(invoice, **when)
            self._set_status(invoice, "canceled", when)

    def _set_status(self, invoice: str, status: str, when: When) -> None:
        """Give the subscription of an invoice this status, unless it was canceled."""
        parent = self._shop.collection("invoices", self._livemode).objects[invoice]["parent"]
        subscription = parent["subscription_details"]["subscription"]
        stored = self._shop.collection("subscriptions", self._livemode).objects[subscription]
        if stored["status"] in (status, "canceled"):
            return
        if status == "canceled":
            self._shop.cancel_subscription(subscription, **when)
        else:
            self._shop.update("subscriptions", subscription, status=status, **when)
