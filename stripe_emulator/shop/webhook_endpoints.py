"""Webhook endpoints as objects of the shop: which exist, and which of them want an event.

The API that creates them belongs to `stripe_emulator.webhook_endpoints`, delivery to `stripe_emulator.webhooks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stripe_emulator import templates
from stripe_emulator.shop.changes import Changes
from stripe_emulator.shop.state import ALPHABET, locked
from stripe_emulator.store import Json


class WebhookEndpoints(Changes):
    """What can happen to webhook endpoints."""

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
        """Register an endpoint; its `secret` (by default a new one) is in this answer and in no other.

        Several secrets, comma-separated, are those of an endpoint whose secret is being rolled: each signs.
        """
        moment = self._moment(livemode=livemode, created=created)
        obj = templates.webhook_endpoint(self._id("we"), moment.at, livemode, url, list(enabled_events)) | fields
        secret = secret or "whsec_" + "".join(self._random.choices(ALPHABET, k=32))
        self._sides[livemode].webhook_secrets[obj["id"]] = secret
        return self._add("webhook_endpoints", obj, moment) | {"secret": secret}

    @locked
    def endpoints_for(self, event_id: str, livemode: bool) -> list[str]:
        """Ids of the enabled webhook endpoints that want events of this one's type."""
        return self._listening(self._stored("events", event_id, livemode)["type"], livemode)

    @locked
    def endpoint_to_call(self, endpoint_id: str, livemode: bool) -> tuple[str, str] | None:
        """URL and secret of a webhook endpoint; none if it is disabled, deleted, or was put without a secret."""
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
        # The last one is the event's own: what follows it is written by Stripe, not by the shop's customers.
        before, name, after = rendered[event_id].rpartition(b'"pending_webhooks":')
        number, comma, rest = after.partition(b",")
        if name and number.isdigit():
            rendered[event_id] = b"%b%b%d%b%b" % (before, name, max(int(number) - 1, 0), comma, rest)
