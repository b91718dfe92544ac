"""The shop itself: all actions, and simulated trade."""

from __future__ import annotations

from collections.abc import Callable

from stripe_emulator.shop.actions import Actions
from stripe_emulator.shop.history import seed_history
from stripe_emulator.shop.state import locked
from stripe_emulator.shop.trading import trade


class Shop(Actions):
    """All objects of one account; safe to use from several threads.

    Actions take `created`, their time in Unix seconds (default: now), and `announce=False` to create no events.
    Actions on an object derive its mode from its id unless `livemode` is given, and return the object as the API
    shows it. See `When`.
    """

    _go_on: Callable[[int], None] | None = None

    @locked
    def seed_history(self, days: int = 60) -> None:
        """Fill both modes with trade of the last `days` days; the same seed and day give the same trade.

        The events of this trade send no webhooks.
        """
        self._seeding = True
        try:
            self._go_on = seed_history(self, days)
            for livemode in (True, False):
                self._complete_captures(livemode)
        finally:
            self._seeding = False

    @locked
    def trade(self, livemode: bool | None = None) -> str:
        """Perform one plausible action now, mostly in live mode unless `livemode` is given; returns its description."""
        return trade(self, self._trade_random, livemode)

    @locked
    def go_on(self) -> None:
        """Perform the actions that the history has scheduled until now: trade continues at the history's pace."""
        if self._go_on is not None:
            self._go_on(int(self.clock.now()))
