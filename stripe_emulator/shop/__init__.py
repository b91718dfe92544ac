"""The shop behind the emulator: its objects in live and test mode, and the actions on these objects.

Every action changes objects as Stripe does and announces the change as Stripe does, with events that hold a snapshot
of the object. The content of new objects belongs to `templates`, HTTP to `app` and `api`.

Deliberate differences from Stripe: where Stripe changes a second object silently (a charge that becomes disputed),
the shop announces the change, so that the only silent changes are a balance transaction that becomes available and an
edited payment intent. The shop refuses no action for business reasons except deleting a finalised invoice.

`Shop` is assembled from one class per kind of action: `State` (what is stored) ← `Events` ← `Changes` ← `Customers`,
`Balance`, `InvoiceLines`, `WebhookEndpoints`, … ← `Actions` (all of them) ← `Shop`, which adds made-up trade.
"""

from stripe_emulator.shop.events import EVENTS_KEPT
from stripe_emulator.shop.shop import Shop
from stripe_emulator.shop.state import EMBEDDED

__all__ = ["EMBEDDED", "EVENTS_KEPT", "Shop"]
