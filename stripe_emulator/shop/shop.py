"""The shop itself: all actions, and trade made of them."""

from __future__ import annotations

from stripe_emulator.shop.actions import Actions
from stripe_emulator.shop.history import seed_history
from stripe_emulator.shop.state import locked
from stripe_emulator.shop.trading import trade


class Shop(Actions):
    """All objects of one account; safe to use from several threads.

    Actions take `created`, the second at which they happen (default: now), and `announce=False` to make no event.
    Actions on an object find its mode from its id unless `livemode` is given, and return the object as the API
    shows it. See `When`.
    """

    @locked
    def seed_history(self, days: int = 60) -> None:
        """Fill both modes with the trade of the last `days` days; the same for the same seed and day.

        Its events are history: no webhooks are sent for them.
        """
        self._seeding = True
        try:
            seed_history(self, days)
            for livemode in (True, False):
                self._complete_captures(livemode)
        finally:
            self._seeding = False

    @locked
    def trade(self, livemode: bool | None = None) -> str:
        """Let one believable thing happen now, mostly in live mode unless a mode is given; returns what it was."""
        return trade(self, self._trade_random, livemode)
