"""A local Stripe API for tests and for the demo.

The emulator shares only `stripe_pipeline.objects` with the pipeline, and none of the code that reads the API.
"""

from stripe_emulator.app import create_app
from stripe_emulator.clock import Clock
from stripe_emulator.faults import LOCK_TIMEOUT, Fault, LoggedRequest
from stripe_emulator.server import Server
from stripe_emulator.shop import Shop
from stripe_emulator.webhooks import Attempt, Webhooks

__all__ = ["LOCK_TIMEOUT", "Attempt", "Clock", "Fault", "LoggedRequest", "Server", "Shop", "Webhooks", "create_app"]
