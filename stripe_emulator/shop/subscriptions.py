"""Subscriptions, their items, and the invoices of their periods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from stripe_emulator import billing_templates as templates
from stripe_emulator.clock import DAY
from stripe_emulator.shop.discounts import Discounts
from stripe_emulator.shop.invoices import Invoices
from stripe_emulator.shop.state import Moment, When, locked
from stripe_emulator.store import Json


class Subscriptions(Invoices, Discounts):
    """Actions on subscriptions. `update` of `Changes` edits their fields."""

    @locked
    def create_subscription(
        self,
        customer: str,
        prices: Mapping[str, int] | None = None,
        *,
        trial_days: int = 0,
        coupon: str | None = None,
        promotion_code: str | None = None,
        **when: Unpack[When],
    ) -> Json:
        """Subscribe a customer to `prices` (quantities by id), without these to a new price. `invoice_subscription`
        bills the first period, and the later ones."""
        moment = self._moment_of("customers", customer, when)
        currency = self._stored("customers", customer, moment.livemode).get("currency") or "usd"
        if prices is None:
            prices = {self.create_price(currency=currency, **moment.when)["id"]: 1}
        subscription_id = self._id("sub")
        trial_end = moment.at + trial_days * DAY if trial_days else None
        obj = templates.subscription(subscription_id, moment.at, moment.livemode, customer, currency, trial_end)
        discount = self._grant(customer, coupon, promotion_code, subscription_id, moment) if coupon else None
        if discount:
            obj["discounts"] = [discount["id"]]
        for price, quantity in prices.items():
            self._put_item(subscription_id, price, quantity, moment, end=trial_end)
        added = self._add("subscriptions", obj, moment, ("customer.subscription.created",))
        if discount:
            self._announce_discount("created", discount, moment)
        return added

    @locked
    def add_subscription_item(
        self, subscription_id: str, price: str | None = None, *, quantity: int = 1, **when: Unpack[When]
    ) -> Json:
        """Add an item, without `price` at a new price; returns the subscription."""
        moment = self._moment_of("subscriptions", subscription_id, when)
        currency = self._stored("subscriptions", subscription_id, moment.livemode)["currency"]
        price = price or str(self.create_price(currency=currency, **moment.when)["id"])
        self._put_item(subscription_id, price, quantity, moment)
        return self._touch(subscription_id, moment)

    @locked
    def change_subscription_item(self, item_id: str, *, quantity: int, **when: Unpack[When]) -> Json:
        """Change the quantity in the middle of a period: the next invoice has prorations; returns the subscription."""
        moment = self._moment_of("subscription_items", item_id, when)
        item = self._stored("subscription_items", item_id, moment.livemode)
        left = max(0, item["current_period_end"] - moment.at) / templates.MONTH
        period = {"start": moment.at, "end": max(moment.at, item["current_period_end"])}
        pending = self._sides[moment.livemode].prorations.setdefault(item["subscription"], [])
        for sign, number, text in ((-1, item["quantity"], "Unused time"), (1, quantity, "Remaining time")):
            amount = sign * round(item["price"]["unit_amount"] * number * left)
            pending.append(_line(item, amount, number, f"{text} on {number} seats", period, proration=True))
        self._change("subscription_items", item_id, moment, quantity=quantity)
        return self._touch(item["subscription"], moment)

    @locked
    def remove_subscription_item(self, item_id: str, **when: Unpack[When]) -> Json:
        """Remove an item; returns the subscription."""
        moment = self._moment_of("subscription_items", item_id, when)
        item = self._remove("subscription_items", item_id, moment.livemode)
        return self._touch(item["subscription"], moment)

    @locked
    def cancel_subscription(self, subscription_id: str, *, at_period_end: bool = False, **when: Unpack[When]) -> Json:
        """Cancel at once, or at the end of the period; canceled subscriptions can be retrieved forever."""
        moment = self._moment_of("subscriptions", subscription_id, when)
        details = {"comment": None, "feedback": None, "reason": "cancellation_requested"}
        fields: Json = {"canceled_at": moment.at, "cancellation_details": details}
        if at_period_end:
            ends = [item["current_period_end"] for item in self._items(subscription_id, moment.livemode)]
            fields |= {"cancel_at_period_end": True, "cancel_at": max(ends, default=moment.at)}
            events: Sequence[str] = ("customer.subscription.updated",)
        else:
            fields |= {"status": "canceled", "ended_at": moment.at}
            events = ("customer.subscription.deleted",)
        return self._change("subscriptions", subscription_id, moment, events, **fields)

    @locked
    def pause_subscription(self, subscription_id: str, **when: Unpack[When]) -> Json:
        """Stop collecting payments."""
        pause = {"behavior": "void", "resumes_at": None}
        return self.update("subscriptions", subscription_id, pause_collection=pause, **when)

    @locked
    def resume_subscription(self, subscription_id: str, **when: Unpack[When]) -> Json:
        """Collect payments again."""
        return self.update("subscriptions", subscription_id, pause_collection=None, **when)

    @locked
    def invoice_subscription(self, subscription_id: str, *, reason: str = "cycle", **when: Unpack[When]) -> Json:
        """Add the draft of the invoice for the period that begins now, with the prorations of the last one; returns the
        invoice. `reason` is `create` for the first period."""
        moment = self._moment_of("subscriptions", subscription_id, when)
        side = self._sides[moment.livemode]
        subscription = self._stored("subscriptions", subscription_id, moment.livemode)
        period = {"start": moment.at, "end": moment.at + templates.MONTH}
        lines = side.prorations.pop(subscription_id, [])
        for item in self._items(subscription_id, moment.livemode):
            amount = item["price"]["unit_amount"] * item["quantity"]
            lines.append(_line(item, amount, item["quantity"], f"{item['quantity']} seats", period))
            self._change(
                "subscription_items",
                item["id"],
                moment,
                current_period_start=period["start"],
                current_period_end=period["end"],
            )
        discounts = subscription["discounts"]
        for discount in discounts:
            coupon = self._stored_coupon(side.discounts[discount]["source"]["coupon"], moment.livemode)
            for line in lines:
                if coupon and line["amount"] > 0:
                    part = round(line["amount"] * coupon["percent_off"] / 100)
                    line |= {"discount_amounts": [{"amount": part, "discount": discount}]}
        invoice = self.create_invoice(
            subscription["customer"],
            lines=lines,
            currency=subscription["currency"],
            subscription=subscription_id,
            draft=True,
            billing_reason=f"subscription_{reason}",
            discounts=discounts,
            period_start=period["start"],
            period_end=period["end"],
            livemode=moment.livemode,
            created=moment.at,
            announce=moment.announce,
        )
        status = "active" if subscription["status"] == "trialing" else subscription["status"]
        self._change(
            "subscriptions",
            subscription_id,
            moment,
            ("customer.subscription.updated",),
            latest_invoice=invoice["id"],
            status=status,
        )
        return invoice

    @locked
    def delete_customer(self, customer_id: str, **when: Unpack[When]) -> Json:
        """Delete a customer and cancel the subscriptions."""
        moment = self._moment_of("customers", customer_id, when)
        subscriptions = self._sides[moment.livemode].objects["subscriptions"]
        for subscription in sorted(subscriptions.with_value("customer", customer_id)):
            if subscriptions.objects[subscription]["status"] != "canceled":
                self.cancel_subscription(subscription, **moment.when)
        return super().delete_customer(customer_id, **when)

    def _items(self, subscription_id: str, livemode: bool) -> list[Json]:
        items = self._sides[livemode].objects["subscription_items"]
        return [items.objects[item] for item in sorted(items.with_value("subscription", subscription_id))]

    def _put_item(
        self, subscription_id: str, price: str, quantity: int, moment: Moment, *, end: int | None = None
    ) -> None:
        of_price = self._shown("prices", price, moment.livemode)
        item = templates.subscription_item(self._id("si"), moment.at, subscription_id, of_price, quantity)
        if end is not None:
            item["current_period_end"] = end
        self._add("subscription_items", item, moment)

    def _touch(self, subscription_id: str, moment: Moment) -> Json:
        """Announce a change of the items; returns the subscription."""
        return self._change("subscriptions", subscription_id, moment, ("customer.subscription.updated",))

    def _stored_coupon(self, coupon_id: str, livemode: bool) -> Json | None:
        return self._sides[livemode].objects["coupons"].objects.get(coupon_id)


def _line(
    item: Json, amount: int, quantity: int, description: str, period: Mapping[str, int], *, proration: bool = False
) -> dict[str, Any]:
    """Returns the fields of an invoice line for an item of a subscription."""
    return {
        "amount": amount,
        "description": description,
        "quantity": quantity,
        "period": dict(period),
        "pricing": {
            "price_details": {"price": item["price"]["id"], "product": item["price"]["product"]},
            "type": "price_details",
            "unit_amount_decimal": item["price"]["unit_amount_decimal"],
        },
        "parent": {
            "invoice_item_details": None,
            "subscription_item_details": {
                "invoice_item": None,
                "proration": proration,
                "proration_details": {"credited_items": None},
                "subscription": item["subscription"],
                "subscription_item": item["id"],
            },
            "type": "subscription_item_details",
        },
    }
