"""The version of Stripe's API.

This module has only the version, so that all processes can import it, even those that do not load Stripe's SDK.
"""

from __future__ import annotations

API_VERSION = "2026-10-28.endive"
"""Sent with every request, and set on every webhook endpoint at creation.

`objects` declares the fields of this version. The installed Stripe SDK pins the same one
(`tests/stripe_api/test_api_version.py`).
"""
