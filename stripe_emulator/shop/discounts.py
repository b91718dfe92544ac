"""Discounts: granted to a customer or a subscription, replaced and ended.

A discount is announced by its own events alone: Stripe does not promise one of the customer, the subscription, the
coupon or the promotion code that change with it (docs/stripe.md#events).
"""

from __future__ import annotations

from typing import Unpack

from stripe_emulator import billing_templates as templates
from stripe_emulator.shop.catalog import Catalog
from stripe_emulator.shop.customers import Customers
from stripe_emulator.shop.state import Moment, When, locked
from stripe_emulator.store import Json


class Discounts(Customers, Catalog):
    """Actions on discounts, which have no endpoint."""

    @locked
    def discount_customer(
        self, customer: str, coupon: str, *, promotion_code: str | None = None, **when: Unpack[When]
    ) -> Json:
        """Grant a customer a discount, in place of the current one; returns the discount."""
        moment = self._moment_of("customers", customer, when)
        before = self._stored("customers", customer, moment.livemode).get("discount")
        discount = self._grant(customer, coupon, promotion_code, None, moment)
        self._change("customers", customer, moment, discount=discount)
        self._announce_discount("updated" if before else "created", discount, moment, before)
        return discount

    @locked
    def discount_subscription(
        self, subscription: str, coupon: str, *, promotion_code: str | None = None, **when: Unpack[When]
    ) -> Json:
        """Add a discount to those of a subscription; returns the discount."""
        moment = self._moment_of("subscriptions", subscription, when)
        stored = self._stored("subscriptions", subscription, moment.livemode)
        discount = self._grant(stored["customer"], coupon, promotion_code, subscription, moment)
        self._change("subscriptions", subscription, moment, discounts=[*stored["discounts"], discount["id"]])
        self._announce_discount("created", discount, moment)
        return discount

    @locked
    def end_discount(self, discount_id: str, **when: Unpack[When]) -> None:
        """Take a discount from its customer or subscription; invoices that name the discount go on to."""
        moment = self._new_moment(when)
        livemode = moment.livemode
        discount = self.discount(discount_id, livemode)
        if subscription := discount["subscription"]:
            named = self._stored("subscriptions", subscription, livemode)["discounts"]
            left = [name for name in named if name != discount_id]
            self._change("subscriptions", subscription, moment, discounts=left)
        else:
            self._change("customers", discount["customer"], moment, discount=None)
        self._announce_discount("deleted", discount, moment)

    def _grant(
        self, customer: str, coupon: str, promotion_code: str | None, subscription: str | None, moment: Moment
    ) -> Json:
        """Add a discount, which counts as a redemption of the coupon and the promotion code."""
        named = {"subscription": subscription, "promotion_code": promotion_code}
        discount = templates.discount(self._id("di"), moment.at, customer, coupon, **named)
        self._sides[moment.livemode].discounts[discount["id"]] = discount
        for type_name, object_id in (("coupons", coupon), ("promotion_codes", promotion_code)):
            if object_id is not None:
                redeemed = self._stored(type_name, object_id, moment.livemode)["times_redeemed"]
                self._change(type_name, object_id, moment, times_redeemed=redeemed + 1)
        return discount

    def _announce_discount(self, change: str, discount: Json, moment: Moment, before: Json | None = None) -> None:
        """Add the event of a discount; `before` is the one that was replaced."""
        if moment.announce:
            self.emit_event(
                f"customer.discount.{change}",
                discount,
                livemode=moment.livemode,
                created=moment.at,
                previous_attributes=before,
            )
