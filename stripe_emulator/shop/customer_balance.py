"""The balance that a customer has with the shop."""

from __future__ import annotations

from typing import Any, Unpack

from stripe_emulator import billing_templates as templates
from stripe_emulator.shop.customers import Customers
from stripe_emulator.shop.state import Moment, When, locked
from stripe_emulator.store import Json


class CustomerBalance(Customers):
    """Actions on the balances of customers."""

    @locked
    def adjust_customer_balance(self, customer_id: str, amount: int, **when: Unpack[When]) -> Json:
        """Change what a customer owes; a negative amount is a credit."""
        moment = self._moment_of("customers", customer_id, when)
        return self._move_balance(customer_id, amount, "adjustment", moment)

    def _move_balance(self, customer_id: str, amount: int, kind: str, moment: Moment, **fields: Any) -> Json:
        """Add a transaction and change the customer's balance."""
        customer = self._stored("customers", customer_id, moment.livemode)
        transaction = templates.customer_balance_transaction(
            self._id("cbtxn"), moment.at, customer, amount, customer.get("currency") or "usd", kind, **fields
        )
        shown = self._add("customer_balance_transactions", transaction, moment)
        balance = transaction["ending_balance"]
        self._change("customers", customer_id, moment, ("customer.updated",), balance=balance)
        return shown
