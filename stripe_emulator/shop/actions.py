"""All actions of a shop, in one class."""

from __future__ import annotations

from stripe_emulator.shop.disputes import Disputes
from stripe_emulator.shop.invoice_payments import InvoicePayments
from stripe_emulator.shop.payouts import Payouts
from stripe_emulator.shop.refunds import Refunds
from stripe_emulator.shop.webhook_endpoints import WebhookEndpoints


class Actions(InvoicePayments, Refunds, Disputes, Payouts, WebhookEndpoints):
    """All actions; the basis of simulated trade."""
