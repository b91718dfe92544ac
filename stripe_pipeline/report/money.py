"""Amounts in major units as people read them; amounts of different currencies are never added."""

from __future__ import annotations

from decimal import Decimal

from stripe_pipeline.views.money import THREE_DECIMAL, ZERO_DECIMAL


def decimals(currency: str) -> int:
    """How many decimals amounts in major units of this currency have."""
    return 0 if currency in ZERO_DECIMAL else 3 if currency in THREE_DECIMAL else 2


def amount(value: Decimal | None, currency: str) -> str:
    """An amount with thousands separators, without the currency; a dash if it is unknown."""
    return "–" if value is None else f"{value:,.{decimals(currency)}f}".replace("-", "−")
