"""Payment methods that are attached to customers. Payments by others name methods that no endpoint lists."""

from __future__ import annotations

from typing import Unpack

from stripe_emulator import payment_templates, templates
from stripe_emulator.shop.customers import Customers
from stripe_emulator.shop.state import When, locked
from stripe_emulator.store import Json

_BRANDS = (("visa", "4242"), ("mastercard", "4444"), ("amex", "0005"))


class PaymentMethods(Customers):
    """Actions on payment methods. `update` of `Changes` edits them."""

    @locked
    def attach_payment_method(self, customer_id: str, **when: Unpack[When]) -> Json:
        """Attach a new card to a customer."""
        moment = self._moment_of("customers", customer_id, when)
        customer = self._stored("customers", customer_id, moment.livemode)
        brand, last4 = self._random.choice(_BRANDS)
        card = templates.card(brand, last4, "US", 100)["card"]
        billing = {
            "address": customer.get("address")
            or dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state")),
            "email": customer.get("email"),
            "name": customer.get("name"),
            "phone": customer.get("phone"),
            "tax_id": None,
        }
        obj = payment_templates.payment_method(self._id("pm"), moment.at, moment.livemode, card, billing)
        return self._add("payment_methods", obj | {"customer": customer_id}, moment, ("payment_method.attached",))

    @locked
    def detach_payment_method(self, method_id: str, **when: Unpack[When]) -> Json:
        """Detach a payment method: lists leave it out, and it can still be retrieved."""
        moment = self._moment_of("payment_methods", method_id, when)
        return self._change("payment_methods", method_id, moment, ("payment_method.detached",), customer=None)

    @locked
    def delete_customer(self, customer_id: str, **when: Unpack[When]) -> Json:
        """Delete a customer and detach the payment methods."""
        moment = self._moment_of("customers", customer_id, when)
        deleted = super().delete_customer(customer_id, **when)
        methods = self._sides[moment.livemode].objects["payment_methods"]
        for method in sorted(methods.with_value("customer", customer_id)):
            self.detach_payment_method(method, **moment.when)
        return deleted
