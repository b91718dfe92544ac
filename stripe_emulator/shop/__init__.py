"""The shop behind the emulator: its objects in live and test mode, and what can happen to them.

Every action changes objects the way Stripe does and announces the change as Stripe does, with events that hold the
object as it was then. How new objects look belongs to `templates`, HTTP to `app` and `api`.

Differences from Stripe, on purpose: where Stripe changes a second object silently (a charge that becomes disputed),
the shop announces it, so that the only silent changes are a balance transaction that becomes available and an edited
payment intent. Nothing is refused for business reasons except deleting a finalised invoice.

`Shop` is assembled from one class per kind of action: `State` (what is stored) ← `Events` ← `Changes` ← `Customers`,
`Balance`, `InvoiceLines`, `WebhookEndpoints`, … ← `Actions` (all of them) ← `Shop`, which adds made-up trade.
"""

from stripe_emulator.shop.events import EVENTS_KEPT
from stripe_emulator.shop.shop import Shop
from stripe_emulator.shop.state import EMBEDDED

__all__ = ["EMBEDDED", "EVENTS_KEPT", "Shop"]
