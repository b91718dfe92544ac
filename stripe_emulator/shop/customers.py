"""Customers."""

from __future__ import annotations

from typing import Any, Unpack

from stripe_emulator import templates
from stripe_emulator.shop.changes import Changes
from stripe_emulator.shop.state import When, locked
from stripe_emulator.store import Json


class Customers(Changes):
    """Actions on customers."""

    @locked
    def create_customer(
        self, *, livemode: bool = False, created: int | None = None, announce: bool = True, **fields: Any
    ) -> Json:
        """Add a customer; `fields` override those of the template."""
        moment = self._moment(livemode=livemode, created=created, announce=announce)
        obj = templates.customer(fields.get("id") or self._id("cus"), moment.at, livemode) | fields
        if not self.numbers_by_customer:
            obj.pop("next_invoice_sequence", None)
        return self._add("customers", obj, moment, ("customer.created",))

    @locked
    def update_customer(
        self,
        customer_id: str,
        *,
        livemode: bool | None = None,
        created: int | None = None,
        announce: bool = True,
        **fields: Any,
    ) -> Json:
        """Replace fields of a customer."""
        return self.update("customers", customer_id, livemode=livemode, created=created, announce=announce, **fields)

    @locked
    def delete_customer(self, customer_id: str, **when: Unpack[When]) -> Json:
        """Delete a customer; the event carries the last complete object."""
        moment = self._moment_of("customers", customer_id, when)
        self._announce(("customer.deleted",), "customers", customer_id, moment)
        self._remove("customers", customer_id, moment.livemode)
        self._sides[moment.livemode].deleted_customers.add(customer_id)
        return templates.deleted_customer(customer_id)
