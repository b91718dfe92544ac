"""Checkout sessions: the customer pays on a page of Stripe."""

from __future__ import annotations

from typing import Unpack

from stripe_emulator import payment_templates as templates
from stripe_emulator.shop.catalog import Catalog
from stripe_emulator.shop.payments import Payments
from stripe_emulator.shop.state import When, locked
from stripe_emulator.store import Json


class Checkout(Payments, Catalog):
    """Actions on checkout sessions."""

    @locked
    def create_checkout_session(
        self,
        customer: str | None = None,
        *,
        n_lines: int = 1,
        currency: str = "usd",
        embedded: bool = False,
        **when: Unpack[When],
    ) -> Json:
        """Open a session for so many items, with prices made for this use; Stripe sends no event of it."""
        moment = self._new_moment(when)
        session_id = f"cs_{'live' if moment.livemode else 'test'}{self._id('')}"
        product = self.create_product("Goods", **moment.when)["id"] if n_lines else None
        amount = 0
        for _ in range(n_lines):
            price = self.create_price(
                product,
                amount=self._random.randint(500, 9000),
                currency=currency,
                monthly=False,
                inline=True,
                **moment.when,
            )
            quantity = self._random.randint(1, 3)
            line = templates.checkout_session_line(self._id("li"), session_id, currency, price, quantity)
            amount += line["amount_total"]
            self._add("checkout_session_lines", line, moment)
        obj = templates.checkout_session(
            session_id, moment.at, moment.livemode, customer, currency, amount, embedded=embedded
        )
        return self._add("checkout_sessions", obj, moment)

    @locked
    def complete_checkout_session(self, session_id: str, **when: Unpack[When]) -> Json:
        """Let the customer pay."""
        moment = self._moment_of("checkout_sessions", session_id, when)
        session = self._stored("checkout_sessions", session_id, moment.livemode)
        intent = self.create_payment(
            session["customer"],
            amount=session["amount_total"],
            currency=session["currency"],
            livemode=moment.livemode,
            created=moment.at,
            announce=moment.announce,
        )
        details: Json = {
            "address": None,
            "business_name": None,
            "email": "buyer@example.com",
            "individual_name": None,
            "name": "Buyer",
            "phone": None,
            "tax_exempt": "none",
            "tax_ids": [],
        }
        return self._change(
            "checkout_sessions",
            session_id,
            moment,
            ("checkout.session.completed",),
            status="complete",
            payment_status="paid",
            payment_intent=intent["id"],
            customer_details=details,
            url=None,
        )

    @locked
    def expire_checkout_session(self, session_id: str, **when: Unpack[When]) -> Json:
        """Close a session that was not completed."""
        moment = self._moment_of("checkout_sessions", session_id, when)
        return self._change(
            "checkout_sessions", session_id, moment, ("checkout.session.expired",), status="expired", url=None
        )
