"""All actions of a shop, in one class."""

from __future__ import annotations

from stripe_emulator.shop.checkout import Checkout
from stripe_emulator.shop.credit_notes import CreditNotes
from stripe_emulator.shop.disputes import Disputes
from stripe_emulator.shop.payment_methods import PaymentMethods
from stripe_emulator.shop.payouts import Payouts
from stripe_emulator.shop.subscriptions import Subscriptions
from stripe_emulator.shop.webhook_endpoints import WebhookEndpoints


class Actions(Subscriptions, CreditNotes, Checkout, PaymentMethods, Disputes, Payouts, WebhookEndpoints):
    """All actions; the basis of simulated trade."""
