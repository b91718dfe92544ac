"""What the shop sells and how prices are reduced or taxed: products, prices, coupons, promotion codes, tax rates."""

from __future__ import annotations

from typing import Any, Unpack

from stripe_emulator import billing_templates as templates
from stripe_emulator.shop.changes import Changes
from stripe_emulator.shop.state import When, locked
from stripe_emulator.store import Json


class Catalog(Changes):
    """Actions on the catalog. `update` of `Changes` edits its objects, and makes prices inactive."""

    @locked
    def create_product(self, name: str = "Plan", **when: Unpack[When]) -> Json:
        """Add a product without prices."""
        moment = self._new_moment(when)
        obj = templates.product(self._id("prod"), moment.at, moment.livemode, name)
        return self._add("products", obj, moment, ("product.created",))

    @locked
    def delete_product(self, product_id: str, **when: Unpack[When]) -> Json:
        """Delete a product; Stripe allows that only for a product without prices."""
        return self._delete("products", product_id, when)

    @locked
    def create_price(
        self,
        product: str | None = None,
        *,
        amount: int = 1000,
        currency: str = "usd",
        monthly: bool = True,
        inline: bool = False,
        **when: Unpack[When],
    ) -> Json:
        """Add a price, without `product` also a product. An `inline` price, made for one use, is in no list."""
        moment = self._new_moment(when)
        product_id = product or str(self.create_product(**moment.when)["id"])
        obj = templates.price(
            self._id("price"), moment.at, moment.livemode, product_id, amount, currency, monthly=monthly
        )
        if inline:
            obj |= {"active": False, "inline": True}
        return self._add("prices", obj, moment, ("price.created",))

    @locked
    def create_coupon(self, percent_off: float = 25.0, **when: Unpack[When]) -> Json:
        """Add a coupon; its id may be chosen by the shop, here it is made up by Stripe."""
        moment = self._new_moment(when)
        obj = templates.coupon(self._id("")[1:9], moment.at, moment.livemode, percent_off)
        return self._add("coupons", obj, moment, ("coupon.created",))

    @locked
    def delete_coupon(self, coupon_id: str, **when: Unpack[When]) -> Json:
        """Delete a coupon; discounts that were granted stay."""
        return self._delete("coupons", coupon_id, when)

    @locked
    def create_promotion_code(self, coupon: str | None = None, **when: Unpack[When]) -> Json:
        """Add a code for a coupon, without `coupon` also a coupon."""
        moment = self._new_moment(when)
        coupon_id = coupon or str(self.create_coupon(**moment.when)["id"])
        object_id = self._id("promo")
        obj = templates.promotion_code(
            object_id, moment.at, moment.livemode, coupon_id, f"CODE{object_id[-6:].upper()}"
        )
        return self._add("promotion_codes", obj, moment, ("promotion_code.created",))

    @locked
    def create_tax_rate(self, percentage: float = 19.0, **when: Unpack[When]) -> Json:
        """Add a tax rate."""
        moment = self._new_moment(when)
        obj = templates.tax_rate(self._id("txr"), moment.at, moment.livemode, percentage, "VAT")
        return self._add("tax_rates", obj, moment, ("tax_rate.created",))

    def _delete(self, type_name: str, object_id: str, when: When) -> Json:
        """Delete an object; the event carries the last complete object."""
        moment = self._moment_of(type_name, object_id, when)
        kind: Any = self._stored(type_name, object_id, moment.livemode)["object"]
        self._announce((f"{kind}.deleted",), type_name, object_id, moment)
        self._remove(type_name, object_id, moment.livemode)
        return {"id": object_id, "object": kind, "deleted": True}
