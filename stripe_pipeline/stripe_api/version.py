"""The version of Stripe's API.

Here belongs the version alone, so that everything can import it, the processes that load no Stripe SDK included.
"""

from __future__ import annotations

API_VERSION = "2026-10-28.endive"
"""Sent with every request, and given to every webhook endpoint that is made.

`objects` declares the fields of this version. The installed Stripe SDK pins the same one
(`tests/stripe_api/test_api_version.py`).
"""
