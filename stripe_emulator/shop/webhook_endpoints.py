"""Webhook endpoints as objects of the shop, and their subscriptions to events.

Their API belongs to `stripe_emulator.webhook_endpoints`, delivery to `stripe_emulator.webhooks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stripe_emulator import templates
from stripe_emulator.shop.changes import Changes
from stripe_emulator.shop.state import locked, random_text
from stripe_emulator.store import Json


class WebhookEndpoints(Changes):
    """Actions on webhook endpoints."""

    @locked
    def create_webhook_endpoint(
        self,
        url: str,
        enabled_events: Sequence[str] = ("*",),
        *,
        secret: str | None = None,
        livemode: bool = False,
        created: int | None = None,
        **fields: Any,
    ) -> Json:
        """Register an endpoint; only this answer contains its `secret` (by default a new secret).

        Several comma-separated secrets emulate a secret that is being rolled: each secret signs.
        """
        moment = self._moment(livemode=livemode, created=created)
        obj = templates.webhook_endpoint(self._id("we"), moment.at, livemode, url, list(enabled_events)) | fields
        secret = secret or f"whsec_{random_text(self._random, 32)}"
        self._sides[livemode].webhook_secrets[obj["id"]] = secret
        return self._add("webhook_endpoints", obj, moment) | {"secret": secret}

    @locked
    def endpoints_for(self, event_id: str, livemode: bool) -> list[str]:
        """Returns the ids of enabled webhook endpoints subscribed to the event's type."""
        return self._listening(self._stored("events", event_id, livemode)["type"], livemode)

    @locked
    def endpoint_to_call(self, endpoint_id: str, livemode: bool) -> tuple[str, str] | None:
        """Returns an endpoint's URL and secret; None if disabled, deleted, or added by `put` without a secret."""
        side = self._sides[livemode]
        endpoint = side.objects["webhook_endpoints"].objects.get(endpoint_id)
        secret = side.webhook_secrets.get(endpoint_id)
        if endpoint is None or endpoint["status"] != "enabled" or secret is None:
            return None
        return endpoint["url"], secret

    @locked
    def webhook_delivered(self, event_id: str, livemode: bool) -> None:
        """Count one of the event's `pending_webhooks` as delivered."""
        rendered = self._sides[livemode].objects["events"].rendered
        # The last occurrence is the event's own: Stripe, not the shop's customers, writes the fields after it.
        before, name, after = rendered[event_id].rpartition(b'"pending_webhooks":')
        number, comma, ending = after.partition(b",")
        if name and number.isdigit():
            rendered[event_id] = b"%b%b%d%b%b" % (before, name, max(int(number) - 1, 0), comma, ending)
