"""Made-up trade: a shop's past, and one believable thing at a time from now on.

A software subscription business with an e-commerce shop beside it, in six currencies, growing, quieter at weekends.
Everything happens through the actions of `shop`, in the order of time, so that a history that ends later on the same
day only goes on from one that ends earlier.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from stripe_emulator import templates
from stripe_emulator.store import Json

if TYPE_CHECKING:
    from stripe_emulator.shop import Shop

DAY = 86400
_LIVE, _TEST = 1.0, 0.1
_SIGNUPS, _ORDERS, _PROJECTS = 6.0, 21.0, 1.2
_WEEKDAYS = (1.15, 1.2, 1.2, 1.15, 1.1, 0.65, 0.55)

_CURRENCIES = (("usd", "US", 50), ("eur", "DE", 25), ("gbp", "GB", 12), ("jpy", "JP", 8), ("kwd", "KW", 5))
_PLANS = (("Starter", 19), ("Team", 79), ("Business", 249))
_GOODS = ("Desk lamp", "Mug", "Notebook", "Poster", "T-shirt", "Water bottle", "Sticker set")
_FIRST_NAMES = ("Ada", "Noor", "Jürgen", "Mei", "Zoë", "Søren", "Łukasz", "Yuki", "Olu", "Inês", "Chloé", "花子")
_LAST_NAMES = ("Lovelace", "Okafor", "Müller", "Chen", "O'Brien", "Nowak", "Tanaka", "Al-Sabah", "García", "山田")
_CITIES = {
    "US": ("Portland", "97201", "OR"),
    "DE": ("Köln", "50667", None),
    "GB": ("Leeds", "LS1 4AP", None),
    "JP": ("大阪市", "530-0001", None),
    "KW": ("Kuwait City", "13001", None),
}
_COUNTRIES = {currency: country for currency, country, _ in _CURRENCIES}
_DECLINES = tuple(templates.DECLINES)
_REASONS = ("fraudulent", "product_not_received", "subscription_canceled", "product_unacceptable", "duplicate")
_HUGE = 2_750_000_000  # beyond 32 bits, and yet a believable price: 27.5 million rupiah are some 1,700 dollars


def seed_history(shop: Shop, days: int) -> None:
    """Live and test trade of the last `days` whole days and of today until now."""
    now = int(shop.clock.now())
    start = (now // DAY - days) * DAY
    diary = _Diary()
    for livemode, size in ((True, _LIVE), (False, _TEST)):
        _Market(shop, diary, livemode, size, start, days).open()
    diary.play(now)


def trade(shop: Shop, random: Random, livemode: bool | None) -> str:
    """One thing that happens now; says what."""
    mode = random.random() < 0.8 if livemode is None else livemode
    choices: list[tuple[Callable[[Shop, Random, bool], str | None], int]] = [
        (_sell, 40),
        (_sign_up, 12),
        (_decline, 8),
        (_give_back, 8),
        (_edit_customer, 12),
        (_bill, 8),
        (_collect, 8),
        (_question, 2),
        (_decide, 1),
        (_tidy, 1),
    ]
    actions, weights = zip(*choices, strict=True)
    done: str | None = None
    while done is None:
        done = random.choices(actions, weights)[0](shop, random, mode)
    return done


class _Diary:
    """What is to happen when, in the order of time."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, int, Callable[[int], None]]] = []
        self._written = 0

    def note(self, at: float, action: Callable[[int], None]) -> None:
        self._written += 1
        heapq.heappush(self._entries, (int(at), self._written, action))

    def play(self, until: int) -> None:
        while self._entries and self._entries[0][0] <= until:
            at, _, action = heapq.heappop(self._entries)
            action(at)


class _Market:
    """The trade of one mode."""

    def __init__(self, shop: Shop, diary: _Diary, livemode: bool, size: float, start: int, days: int) -> None:
        self._shop = shop
        self._diary = diary
        self._live = livemode
        self._size = size
        self._start = start
        self._days = max(days, 1)
        self._random = Random(f"{shop.seed} history {livemode}")
        self._customers: list[Json] = []

    def open(self) -> None:
        self._diary.note(self._start, self._spend_day)
        first = self._start + DAY // 2
        spread = self._days * DAY * 0.8
        for place, event in enumerate(_SPECIAL):
            self._diary.note(first + spread * place / len(_SPECIAL), lambda at, event=event: event(self, at))  # type: ignore[misc]

    def _spend_day(self, at: int) -> None:
        grown = (at - self._start) / (self._days * DAY)
        pace = self._size * (0.5 + grown) * _WEEKDAYS[(at // DAY + 3) % 7]
        plans = ((_SIGNUPS, self._sign_up), (_ORDERS, self._order), (_PROJECTS, self._project))
        for rate, action in plans:
            for _ in range(int(rate * pace + self._random.random())):
                self._diary.note(at + self._random.triangular(0, DAY - 1, DAY * 0.6), action)
        for place, (currency, *_) in enumerate(_CURRENCIES):
            if currency == "usd" or (at // DAY + place) % 7 == 0:
                self._diary.note(at + 3600, lambda moment, currency=currency: self._payout(moment, currency))  # type: ignore[misc]
        self._diary.note(at + DAY, self._spend_day)

    def _sign_up(self, at: int) -> None:
        person = self._shop.create_customer(livemode=self._live, created=at, **_person(self._random))
        self._customers.append(person)
        if self._random.random() < 0.5:
            plan, price = self._random.choice(_PLANS)
            seats = min(40, max(1, int(self._random.expovariate(0.35))))
            subscription = f"sub_1{person['id'][5:]}"
            self._diary.note(
                at + 300, lambda moment: self._renew(moment, person, subscription, plan, price, seats, "create")
            )
        if self._random.random() < 0.25:
            self._diary.note(at + self._random.uniform(1, 40) * DAY, lambda moment: self._edit(moment, person))
        if self._random.random() < 0.04:
            self._diary.note(at + self._random.uniform(2, 30) * DAY, lambda moment: self._leave(moment, person))

    def _edit(self, at: int, person: Json) -> None:
        if person in self._customers:
            self._shop.update_customer(
                person["id"], livemode=self._live, created=at, **_edit(self._random, person["metadata"])
            )

    def _leave(self, at: int, person: Json) -> None:
        self._customers.remove(person)
        self._shop.delete_customer(person["id"], livemode=self._live, created=at)

    def _order(self, at: int) -> None:
        person = self._random.choice(self._customers) if self._customers and self._random.random() < 0.85 else None
        currency = person["currency"] if person else "usd"
        draw = self._random.random()
        outcome = (
            "succeeded"
            if draw < 0.88
            else "failed"
            if draw < 0.94
            else "requires_capture"
            if draw < 0.97
            else "requires_action"
            if draw < 0.985
            else "processing"
        )
        goods = self._random.choice(_GOODS)
        intent = self._shop.create_payment(
            person["id"] if person else None,
            amount=_price(self._random.uniform(6, 190), currency),
            currency=currency,
            outcome=outcome,
            application_fee=_price(1, currency) if self._random.random() < 0.03 else None,
            settlement_currency="usd" if currency == "kwd" else None,
            livemode=self._live,
            created=at,
            description=f"Order: {goods}",
            metadata={"order_id": str(self._random.randint(10_000, 99_999)), "goods": goods},
        )
        self._follow(at, intent, outcome)

    def _follow(self, at: int, intent: Json, outcome: str) -> None:
        """What becomes of a payment after it was made."""
        intent_id, charge, later = intent["id"], intent["latest_charge"], self._random.uniform
        mode = self._live
        match outcome:
            case "failed" if self._random.random() < 0.6:
                self._diary.note(
                    at + later(60, 900),
                    lambda moment: _ignore(self._shop.attempt_payment(intent_id, livemode=mode, created=moment)),
                )
            case "requires_capture":
                taken = None if self._random.random() < 0.8 else intent["amount"] // 2
                self._diary.note(
                    at + later(0.5, 3) * DAY,
                    lambda moment: _ignore(self._shop.capture(intent_id, taken, livemode=mode, created=moment)),
                )
            case "processing":
                self._diary.note(
                    at + later(1, 4) * DAY,
                    lambda moment: _ignore(self._shop.capture(intent_id, livemode=mode, created=moment)),
                )
            case "requires_action":
                self._diary.note(
                    at + DAY,
                    lambda moment: _ignore(self._shop.cancel_payment(intent_id, livemode=mode, created=moment)),
                )
            case "succeeded":
                draw = self._random.random()
                if draw < 0.06:
                    amount = None if draw < 0.035 else max(1, intent["amount"] // 3)
                    self._diary.note(
                        at + later(0.2, 12) * DAY, lambda moment: self._refund(moment, charge, amount, draw < 0.003)
                    )
                elif draw < 0.07:
                    self._diary.note(at + later(4, 20) * DAY, lambda moment: self._dispute(moment, charge))

    def _refund(self, at: int, charge: str, amount: int | None, fails: bool) -> None:
        made = self._shop.refund(charge, amount, livemode=self._live, created=at)
        if fails:
            self._diary.note(
                at + 2 * DAY,
                lambda moment: _ignore(self._shop.fail_refund(made["id"], livemode=self._live, created=moment)),
            )
            return
        arrived = {"reference": made["id"][-12:], "reference_status": "available"}
        details = made["destination_details"] | {"card": made["destination_details"]["card"] | arrived}
        self._diary.note(
            at + DAY,
            lambda moment: _ignore(
                self._shop.update(
                    "refunds",
                    made["id"],
                    livemode=self._live,
                    created=moment,
                    destination_details=details,
                )
            ),
        )

    def _dispute(self, at: int, charge: str) -> None:
        made = self._shop.dispute(charge, reason=self._random.choice(_REASONS), livemode=self._live, created=at)
        won = self._random.random() < 0.4
        dispute = made["id"]
        self._diary.note(
            at + 3 * DAY,
            lambda moment: _ignore(self._shop.update_dispute(dispute, livemode=self._live, created=moment)),
        )
        self._diary.note(
            at + 14 * DAY,
            lambda moment: _ignore(self._shop.close_dispute(dispute, won, livemode=self._live, created=moment)),
        )

    def _renew(self, at: int, person: Json, subscription: str, plan: str, price: int, seats: int, reason: str) -> None:
        if person not in self._customers:
            return
        currency = person["currency"]
        lines: list[Json] = [
            {
                "amount": _price(price * (1 if seat == 0 else 0.2), currency),
                "description": f"{plan} plan, seat {seat + 1}",
            }
            for seat in range(seats)
        ]
        if reason == "cycle" and self._random.random() < 0.1:
            lines.append({"amount": -lines[-1]["amount"] // 2, "description": "Unused time"})
        invoice = self._shop.create_invoice(
            person["id"],
            lines=lines,
            currency=currency,
            subscription=subscription,
            draft=True,
            billing_reason=f"subscription_{reason}",
            livemode=self._live,
            created=at,
        )
        wait = 1 if reason == "create" else 3600
        self._diary.note(at + wait, lambda moment: self._collect(moment, invoice["id"], 1))
        self._diary.note(
            at + 30 * DAY, lambda moment: self._renew(moment, person, subscription, plan, price, seats, "cycle")
        )

    def _collect(self, at: int, invoice: str, attempt: int) -> None:
        if self._random.random() < 0.92:
            self._shop.pay_invoice(invoice, livemode=self._live, created=at)
        elif attempt < 3:
            self._shop.pay_invoice(invoice, outcome="failed", livemode=self._live, created=at)
            self._diary.note(at + 3 * DAY, lambda moment: self._collect(moment, invoice, attempt + 1))
        else:
            self._shop.mark_invoice_uncollectible(invoice, livemode=self._live, created=at)

    def _project(self, at: int) -> None:
        """An invoice sent to a company: paid later, voided, written off, or thrown away as a draft."""
        if not self._customers:
            return
        person = self._random.choice(self._customers)
        invoice = self._shop.create_invoice(
            person["id"],
            n_lines=self._random.randint(1, 12),
            currency=person["currency"],
            draft=True,
            collection_method="send_invoice",
            due_date=at + 30 * DAY,
            livemode=self._live,
            created=at,
        )["id"]
        mode, shop, draw = self._live, self._shop, self._random.random()
        if draw < 0.08:
            return
        if draw < 0.14:
            self._diary.note(
                at + DAY, lambda moment: _ignore(shop.delete_invoice(invoice, livemode=mode, created=moment))
            )
            return
        self._diary.note(
            at + 7200, lambda moment: _ignore(shop.finalize_invoice(invoice, livemode=mode, created=moment))
        )
        end = shop.void_invoice if draw < 0.22 else shop.mark_invoice_uncollectible if draw < 0.28 else shop.pay_invoice
        self._diary.note(
            at + self._random.uniform(1, 25) * DAY,
            lambda moment: _ignore(end(invoice, livemode=mode, created=moment)),
        )

    def _payout(self, at: int, currency: str) -> None:
        if self._shop.balance(currency, self._live, at) > 0:
            self._shop.payout(currency=currency, livemode=self._live, created=at)

    # Things that every history has once, because pipelines stumble over them

    def _odd_metadata(self, at: int) -> None:
        metadata = {"a b": "1", "a_b": "2", "A_B": "3", "emoji 🎉": "naïve 🦄 value", "long": "x" * 500}
        self._shop.create_customer(
            livemode=self._live, created=at, **_person(self._random) | {"metadata": metadata, "currency": "usd"}
        )

    def _own_ids(self, at: int) -> None:
        """Customers whose ids are the shop's own, one of them changed and one deleted later."""
        ids = [f"{own} {'live' if self._live else 'test'}" for own in ("user", "shop/42?#", "50%+é")]
        for own in ids:
            self._shop.create_customer(id=own, name="Chosen Id", currency="usd", livemode=self._live, created=at)
        self._shop.create_payment(ids[0], livemode=self._live, created=at + 60, description="Order: Mug")
        self._shop.update_customer(ids[1], name="Changed Name", livemode=self._live, created=at + 3600)
        self._shop.delete_customer(ids[2], livemode=self._live, created=at + 7200)

    def _huge_amount(self, at: int) -> None:
        person = self._shop.create_customer(
            livemode=self._live, created=at, **_person(self._random) | {"currency": "idr"}
        )
        invoice = self._shop.create_invoice(
            person["id"],
            lines=[{"amount": _HUGE, "description": "Business plan, a year"}],
            currency="idr",
            livemode=self._live,
            created=at,
        )
        self._shop.pay_invoice(invoice["id"], settlement_currency="usd", livemode=self._live, created=at + 60)

    def _equal_fees(self, at: int) -> None:
        radar = templates.fee(5, "usd", description="Radar for Fraud Teams")
        tax = templates.fee(12, "usd", kind="tax", description="VAT")
        fees = [templates.fee(175, "usd"), radar, dict(radar), tax]
        self._shop.create_payment(
            amount=5000, fees=fees, livemode=self._live, created=at, description="Order: Desk lamp"
        )

    def _many_refunds(self, at: int) -> None:
        intent = self._shop.create_payment(
            amount=13_000, livemode=self._live, created=at, description="Order: 13 mugs, all broken"
        )
        for mug in range(13):
            self._shop.refund(
                intent["latest_charge"],
                1000,
                livemode=self._live,
                created=at + 60 * (mug + 1),
                metadata={"mug": str(mug)},
            )

    def _many_lines(self, at: int) -> None:
        invoice = self._shop.create_invoice(n_lines=40, livemode=self._live, created=at)
        self._shop.pay_invoice(invoice["id"], livemode=self._live, created=at + 60)

    def _same_line_twice(self, at: int) -> None:
        """Line ids of old invoices repeat from one invoice to the next."""
        person = self._shop.create_customer(
            livemode=self._live, created=at, **_person(self._random) | {"currency": "usd"}
        )
        for month in range(2):
            invoice = self._shop.create_invoice(
                person["id"],
                lines=[{"id": f"sli_1{person['id'][-12:]}", "amount": 1900 + month}],
                livemode=self._live,
                created=at + month,
            )
            self._shop.pay_invoice(invoice["id"], livemode=self._live, created=at + month)

    def _both_outcomes(self, at: int) -> None:
        """A dispute that is won and one that is lost, whatever chance says of the others."""
        for won in (True, False):
            intent = self._shop.create_payment(amount=8_900, livemode=self._live, created=at, description="Order: Mug")
            dispute = self._shop.dispute(intent["latest_charge"], livemode=self._live, created=at + 3600)
            self._shop.update_dispute(dispute["id"], livemode=self._live, created=at + 7200)
            self._shop.close_dispute(dispute["id"], won, livemode=self._live, created=at + 10_000)

    def _test_clock(self, at: int) -> None:
        if not self._live:
            person = _person(self._random) | {"test_clock": "clock_1DemoShop000000000000000"}
            self._shop.create_customer(livemode=False, created=at, **person)


_SPECIAL: tuple[Callable[[_Market, int], None], ...] = (
    _Market._odd_metadata,
    _Market._own_ids,
    _Market._huge_amount,
    _Market._equal_fees,
    _Market._many_refunds,
    _Market._many_lines,
    _Market._same_line_twice,
    _Market._both_outcomes,
    _Market._test_clock,
)


def _ignore(_: Json) -> None:
    """Make a diary entry of an action whose result nobody needs."""


def _price(units: float, currency: str) -> int:
    """An amount in minor units for a price in dollars."""
    amount = units * templates.PER_DOLLAR[currency] * templates.minor_units(currency)
    # Three-decimal currencies are charged in steps of ten.
    return round(amount / 10) * 10 if currency in templates.THREE_DECIMAL else max(1, round(amount))


def _person(random: Random) -> Json:
    name = f"{random.choice(_FIRST_NAMES)} {random.choice(_LAST_NAMES)}"
    currency, country, _ = random.choices(_CURRENCIES, [weight for *_, weight in _CURRENCIES])[0]
    city, postal_code, state = _CITIES[country]
    return {
        "name": name,
        "email": f"customer.{random.randint(1, 999_999)}@example.com",
        "currency": currency,
        "address": {
            "city": city,
            "country": country,
            "line1": f"{random.randint(1, 400)} Main Street",
            "line2": None,
            "postal_code": postal_code,
            "state": state,
        },
        "phone": f"+1555{random.randint(1_000_000, 9_999_999)}" if random.random() < 0.5 else None,
        "preferred_locales": ["ja"] if country == "JP" else ["en"],
        "metadata": {"crm_id": str(random.randint(1, 99_999)), "plan": random.choice(_PLANS)[0]}
        if random.random() < 0.7
        else {},
        "tax_exempt": "reverse" if country == "DE" and random.random() < 0.2 else "none",
    }


def _edit(random: Random, metadata: Json) -> Json:
    return random.choice(
        (
            {"email": f"new.{random.randint(1, 999_999)}@example.com"},
            {"phone": f"+1555{random.randint(1_000_000, 9_999_999)}"},
            {"metadata": metadata | {"note": random.choice(("VIP 🎉", "called", "wants an invoice by post"))}},
            {"metadata": {}},
            {"name": f"{random.choice(_FIRST_NAMES)} {random.choice(_LAST_NAMES)}"},
        )
    )


# One thing at a time


def _pick(
    shop: Shop, random: Random, type_name: str, livemode: bool, wanted: Callable[[Json], bool] = lambda _: True
) -> Json | None:
    """One of the newer objects that fit."""
    collection = shop.collection(type_name, livemode)
    newest = [object_id for object_id, _ in zip(collection, range(300), strict=False)]
    fitting = [collection.objects[object_id] for object_id in newest if wanted(collection.objects[object_id])]
    return random.choice(fitting) if fitting else None


def _sell(shop: Shop, random: Random, livemode: bool) -> str:
    person = _pick(shop, random, "customers", livemode)
    currency = (person and person["currency"]) or "usd"
    goods = random.choice(_GOODS)
    intent = shop.create_payment(
        person["id"] if person else None,
        amount=_price(random.uniform(6, 190), currency),
        currency=currency,
        livemode=livemode,
        description=f"Order: {goods}",
        metadata={"goods": goods},
    )
    return f"{intent['id']} was paid"


def _decline(shop: Shop, random: Random, livemode: bool) -> str:
    failed = _pick(
        shop, random, "payment_intents", livemode, lambda obj: bool(obj["status"] == "requires_payment_method")
    )
    if failed and random.random() < 0.5:
        shop.attempt_payment(failed["id"], livemode=livemode)
        return f"{failed['id']} was paid at another attempt"
    person = _pick(shop, random, "customers", livemode)
    currency = (person and person["currency"]) or "usd"
    intent = shop.create_payment(
        person["id"] if person else None,
        amount=_price(random.uniform(6, 190), currency),
        currency=currency,
        outcome="failed",
        livemode=livemode,
    )
    return f"{intent['id']} was declined"


def _sign_up(shop: Shop, random: Random, livemode: bool) -> str:
    return f"{shop.create_customer(livemode=livemode, **_person(random))['id']} signed up"


def _edit_customer(shop: Shop, random: Random, livemode: bool) -> str | None:
    person = _pick(shop, random, "customers", livemode)
    if person is None:
        return None
    shop.update_customer(person["id"], livemode=livemode, **_edit(random, person["metadata"]))
    return f"{person['id']} was edited"


def _give_back(shop: Shop, random: Random, livemode: bool) -> str | None:
    charge = _pick(shop, random, "charges", livemode, _refundable)
    if charge is None:
        return None
    left = charge["amount_captured"] - charge["amount_refunded"]
    amount = left if random.random() < 0.5 else max(1, left // 2)
    return f"{shop.refund(charge['id'], amount, livemode=livemode)['id']} went back"


def _bill(shop: Shop, random: Random, livemode: bool) -> str | None:
    person = _pick(shop, random, "customers", livemode)
    if person is None:
        return None
    lines = min(30, 1 + int(random.expovariate(0.3)))
    currency = person["currency"] or "usd"
    invoice = shop.create_invoice(person["id"], n_lines=lines, currency=currency, livemode=livemode)
    return f"{invoice['id']} was sent"


def _collect(shop: Shop, random: Random, livemode: bool) -> str | None:
    invoice = _pick(shop, random, "invoices", livemode, lambda obj: obj["status"] in ("open", "draft"))
    if invoice is None:
        return None
    outcome = "succeeded" if random.random() < 0.85 else "failed"
    shop.pay_invoice(invoice["id"], outcome=outcome, livemode=livemode)
    return f"{invoice['id']}: payment {outcome}"


def _question(shop: Shop, random: Random, livemode: bool) -> str | None:
    charge = _pick(shop, random, "charges", livemode, _refundable)
    if charge is None:
        return None
    return f"{shop.dispute(charge['id'], reason=random.choice(_REASONS), livemode=livemode)['id']} was opened"


def _decide(shop: Shop, random: Random, livemode: bool) -> str | None:
    dispute = _pick(shop, random, "disputes", livemode, lambda obj: obj["status"] in ("needs_response", "under_review"))
    if dispute is None:
        return None
    closed = shop.close_dispute(dispute["id"], random.random() < 0.4, livemode=livemode)
    return f"{dispute['id']} was {closed['status']}"


def _tidy(shop: Shop, random: Random, livemode: bool) -> str | None:
    """Delete a customer, or a draft."""
    draft = _pick(shop, random, "invoices", livemode, lambda obj: bool(obj["status"] == "draft"))
    if draft is not None and random.random() < 0.5:
        shop.delete_invoice(draft["id"], livemode=livemode)
        return f"{draft['id']} was deleted"
    person = _pick(shop, random, "customers", livemode)
    if person is None:
        return None
    shop.delete_customer(person["id"], livemode=livemode)
    return f"{person['id']} was deleted"


def _refundable(charge: Json) -> bool:
    return bool(charge["captured"] and not charge["disputed"] and charge["amount_captured"] > charge["amount_refunded"])
