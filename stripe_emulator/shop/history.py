"""Simulated past trade, to seed a shop.

The business sells software subscriptions and e-commerce goods in six currencies; it grows, and is quieter at weekends.
All trade uses the shop's actions, in chronological order, so that a history that ends later on the same day only
extends a history that ends earlier. Trade from now on belongs to `trading`, special cases to `odd_cases`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from stripe_emulator.clock import DAY
from stripe_emulator.shop.actions import Actions
from stripe_emulator.shop.demo_data import CURRENCIES, DISPUTE_REASONS, GOODS, edit, order_price, person, price
from stripe_emulator.shop.odd_cases import ODD_CASES
from stripe_emulator.shop.recurring_sales import RecurringSales
from stripe_emulator.shop.timeline import Timeline
from stripe_emulator.store import Json

_LIVE, _TEST = 1.0, 0.1
"""The relative volume of trade in each mode."""
_SIGNUPS, _ORDERS, _PROJECTS = 6.0, 21.0, 1.2
"""Average counts per day, in the middle of the history."""
_WEEKDAYS = (1.15, 1.2, 1.2, 1.15, 1.1, 0.65, 0.55)
"""The relative volume of trade per weekday, starting on Monday."""
_ORDER_OUTCOMES = (
    ("succeeded", 0.88),
    ("failed", 0.94),
    ("requires_capture", 0.97),
    ("requires_action", 0.985),
    ("processing", 1.0),
)
"""Outcomes of orders with their cumulative shares."""


def seed_history(shop: Actions, days: int) -> Callable[[int], None]:
    """Simulate live and test trade of the last `days` full days and of today so far.

    Returns a function that goes on with this trade until a given second.
    """
    now = int(shop.clock.now())
    start = (now // DAY - days) * DAY
    timeline = Timeline()
    for livemode, size in ((True, _LIVE), (False, _TEST)):
        _Trade(shop, timeline, livemode, size, start, days).begin()
    timeline.run(now)
    return timeline.run


class _Trade:
    """The trade of one mode."""

    def __init__(self, shop: Actions, timeline: Timeline, livemode: bool, size: float, start: int, days: int) -> None:
        self._shop = shop
        self._timeline = timeline
        self._livemode = livemode
        self._size = size
        self._start = start
        self._days = max(days, 1)
        self._random = Random(f"{shop.seed} history {livemode}")
        self._customers: list[Json] = []
        self._subscriptions = RecurringSales(shop, timeline, livemode, self._random)

    def begin(self) -> None:
        """Schedule the first day and the odd cases."""
        self._timeline.add(self._start, self._trade_for_a_day)
        first = self._start + DAY // 2
        self._timeline.add(first, self._subscriptions.subscribe_growing)
        spread = self._days * DAY * 0.8
        for place, case in enumerate(ODD_CASES):
            self._timeline.add(
                first + spread * place / len(ODD_CASES), partial(case, self._shop, self._random, self._livemode)
            )

    def _later(self, at: float, action: Callable[..., object], *args: object, **kwargs: object) -> None:
        self._timeline.later(at, self._livemode, action, *args, **kwargs)

    def _trade_for_a_day(self, at: int) -> None:
        grown = (at - self._start) / (self._days * DAY)
        pace = self._size * (0.5 + grown) * _WEEKDAYS[(at // DAY + 3) % 7]
        plans = ((_SIGNUPS, self._sign_up), (_ORDERS, self._order), (_PROJECTS, self._project))
        for rate, action in plans:
            for _ in range(int(rate * pace + self._random.random())):
                self._timeline.add(at + self._random.triangular(0, DAY - 1, DAY * 0.6), action)
        for currency, *_ in CURRENCIES:
            self._timeline.add(at + 3600, partial(self._payout, currency))
        self._timeline.add(at + DAY, self._trade_for_a_day)

    def _payout(self, currency: str, at: int) -> None:
        if self._shop.balance(currency, self._livemode, at) > 0:
            payout = self._shop.payout(currency=currency, livemode=self._livemode, created=at)
            self._later(at + DAY, self._shop.complete_payout, payout["source"])

    # Customers

    def _sign_up(self, at: int) -> None:
        customer = self._shop.create_customer(livemode=self._livemode, created=at, **person(self._random))
        self._customers.append(customer)
        if self._random.random() < 0.5:
            self._timeline.add(at + 300, partial(self._subscribe, customer))
        if self._random.random() < 0.25:
            self._timeline.add(at + self._random.uniform(1, 40) * DAY, partial(self._edit, customer))
        if self._random.random() < 0.04:
            self._timeline.add(at + self._random.uniform(2, 30) * DAY, partial(self._leave, customer))

    def _subscribe(self, customer: Json, at: int) -> None:
        if customer in self._customers:
            self._subscriptions.subscribe(customer, at)

    def _edit(self, customer: Json, at: int) -> None:
        if customer in self._customers:
            fields = edit(self._random, customer["metadata"])
            self._shop.update_customer(customer["id"], livemode=self._livemode, created=at, **fields)

    def _leave(self, customer: Json, at: int) -> None:
        self._customers.remove(customer)
        self._shop.delete_customer(customer["id"], livemode=self._livemode, created=at)

    # Orders

    def _order(self, at: int) -> None:
        customer = self._random.choice(self._customers) if self._customers and self._random.random() < 0.85 else None
        currency = customer["currency"] if customer else "usd"
        draw = self._random.random()
        outcome = next(outcome for outcome, share in _ORDER_OUTCOMES if draw < share)
        goods = self._random.choice(GOODS)
        if self._random.random() < 0.05:
            self._check_out(customer, currency, at)
            return
        intent = self._shop.create_payment(
            customer["id"] if customer else None,
            amount=order_price(self._random, currency),
            currency=currency,
            outcome=outcome,
            **self._connected(currency),
            settlement_currency="usd" if currency == "kwd" else None,
            livemode=self._livemode,
            created=at,
            description=f"Order: {goods}",
            metadata={"order_id": str(self._random.randint(10_000, 99_999)), "goods": goods},
        )
        self._follow_up(at, intent, outcome)

    def _connected(self, currency: str) -> Json:
        """Returns the options of payments that involve another account: direct and destination charges."""
        draw = self._random.random()
        if draw > 0.05 or currency == "kwd":
            return {}
        return {"application_fee": price(1, currency), "destination": "acct_1Supplier" if draw < 0.02 else None}

    def _check_out(self, customer: Json | None, currency: str, at: int) -> None:
        """Open a checkout session, which the customer completes or leaves."""
        session = self._shop.create_checkout_session(
            customer["id"] if customer else None,
            n_lines=self._random.randint(1, 4),
            currency=currency,
            livemode=self._livemode,
            created=at,
        )["id"]
        if self._random.random() < 0.7:
            self._later(at + 120, self._shop.complete_checkout_session, session)
        else:
            self._later(at + DAY, self._shop.expire_checkout_session, session)

    def _follow_up(self, at: int, intent: Json, outcome: str) -> None:
        """Schedule the actions that follow a payment."""
        shop, uniform = self._shop, self._random.uniform
        match outcome:
            case "failed" if self._random.random() < 0.6:
                self._later(at + uniform(60, 900), shop.attempt_payment, intent["id"])
            case "requires_capture":
                amount = None if self._random.random() < 0.8 else intent["amount"] // 2
                self._later(at + uniform(0.5, 3) * DAY, shop.capture, intent["id"], amount)
            case "processing":
                self._later(at + uniform(1, 4) * DAY, shop.capture, intent["id"])
            case "requires_action":
                self._later(at + DAY, shop.cancel_payment, intent["id"])
            case "succeeded":
                draw, charge = self._random.random(), intent["latest_charge"]
                if draw < 0.06:
                    amount = None if draw < 0.035 else max(1, intent["amount"] // 3)
                    refund = partial(self._refund, charge, amount, draw < 0.003)
                    self._timeline.add(at + uniform(0.2, 12) * DAY, refund)
                elif draw < 0.07:
                    self._timeline.add(at + uniform(4, 20) * DAY, partial(self._dispute, charge))

    def _refund(self, charge: str, amount: int | None, fails: bool, at: int) -> None:
        refund = self._shop.refund(charge, amount, livemode=self._livemode, created=at)
        if fails:
            self._later(at + 2 * DAY, self._shop.fail_refund, refund["id"])
            return
        arrived = {"reference": refund["id"][-12:], "reference_status": "available"}
        details = refund["destination_details"] | {"card": refund["destination_details"]["card"] | arrived}
        self._later(at + DAY, self._shop.update, "refunds", refund["id"], destination_details=details)

    def _dispute(self, charge: str, at: int) -> None:
        reason = self._random.choice(DISPUTE_REASONS)
        dispute = self._shop.dispute(charge, reason=reason, livemode=self._livemode, created=at)
        won = self._random.random() < 0.4
        self._later(at + 3 * DAY, self._shop.update_dispute, dispute["id"])
        self._later(at + 14 * DAY, self._shop.close_dispute, dispute["id"], won)

    # Invoices

    def _project(self, at: int) -> None:
        """Invoice a company; the invoice is paid later, voided, written off, or deleted as a draft."""
        if not self._customers:
            return
        customer = self._random.choice(self._customers)
        shop = self._shop
        invoice = shop.create_invoice(
            customer["id"],
            n_lines=self._random.randint(1, 12),
            currency=customer["currency"],
            draft=True,
            collection_method="send_invoice",
            due_date=at + 30 * DAY,
            livemode=self._livemode,
            created=at,
        )["id"]
        draw = self._random.random()
        if draw < 0.08:
            return
        if draw < 0.14:
            self._later(at + DAY, shop.delete_invoice, invoice)
            return
        self._later(at + 7200, shop.finalize_invoice, invoice)
        end: Callable[..., object] = (
            shop.void_invoice if draw < 0.22 else shop.mark_invoice_uncollectible if draw < 0.28 else shop.pay_invoice
        )
        self._later(at + self._random.uniform(1, 25) * DAY, end, invoice)
