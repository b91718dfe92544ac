"""Fictional people, prices and goods of the demo shop.

This module draws the data; `history` and `trading` use the data.
"""

from __future__ import annotations

from random import Random

from stripe_emulator import templates
from stripe_emulator.store import Json

CURRENCIES = (("usd", "US", 50), ("eur", "DE", 25), ("gbp", "GB", 12), ("jpy", "JP", 8), ("kwd", "KW", 5))
"""Currency, country, and weight in the customer base."""
PLANS = (("Starter", 19), ("Team", 79), ("Business", 249))
"""Plans and their monthly prices, in dollars."""
GOODS = ("Desk lamp", "Mug", "Notebook", "Poster", "T-shirt", "Water bottle", "Sticker set")
DISPUTE_REASONS = (
    "fraudulent",
    "product_not_received",
    "subscription_canceled",
    "product_unacceptable",
    "duplicate",
)

_FIRST_NAMES = ("Ada", "Noor", "Jürgen", "Mei", "Zoë", "Søren", "Łukasz", "Yuki", "Olu", "Inês", "Chloé", "花子")
_LAST_NAMES = ("Lovelace", "Okafor", "Müller", "Chen", "O'Brien", "Nowak", "Tanaka", "Al-Sabah", "García", "山田")
_CITIES = {
    "US": ("Portland", "97201", "OR"),
    "DE": ("Köln", "50667", None),
    "GB": ("Leeds", "LS1 4AP", None),
    "JP": ("大阪市", "530-0001", None),
    "KW": ("Kuwait City", "13001", None),
}


def price(dollars: float, currency: str) -> int:
    """Returns a price in dollars as an amount in minor units."""
    amount = dollars * templates.PER_DOLLAR[currency] * templates.minor_units(currency)
    # Three-decimal currencies are charged in steps of ten.
    return round(amount / 10) * 10 if currency in templates.THREE_DECIMAL else max(1, round(amount))


def order_price(random: Random, currency: str) -> int:
    """Returns a random order amount, in minor units."""
    return price(random.uniform(6, 190), currency)


def person(random: Random) -> Json:
    """Returns the fields of a new customer."""
    name = _name(random)
    currency, country, _ = random.choices(CURRENCIES, [weight for *_, weight in CURRENCIES])[0]
    city, postal_code, state = _CITIES[country]
    return {
        "name": name,
        "email": f"customer.{random.randint(1, 999_999)}@example.com",
        "currency": currency,
        "address": {
            "city": city,
            "country": country,
            "line1": f"{random.randint(1, 400)} Main Street",
            "line2": None,
            "postal_code": postal_code,
            "state": state,
        },
        "phone": _phone(random) if random.random() < 0.5 else None,
        "preferred_locales": ["ja"] if country == "JP" else ["en"],
        "metadata": {"crm_id": str(random.randint(1, 99_999)), "plan": random.choice(PLANS)[0]}
        if random.random() < 0.7
        else {},
        "tax_exempt": "reverse" if country == "DE" and random.random() < 0.2 else "none",
    }


def edit(random: Random, metadata: Json) -> Json:
    """Returns changed fields for a customer with this `metadata`."""
    return random.choice(
        (
            {"email": f"new.{random.randint(1, 999_999)}@example.com"},
            {"phone": _phone(random)},
            {"metadata": metadata | {"note": random.choice(("VIP 🎉", "called", "wants an invoice by post"))}},
            {"metadata": {}},
            {"name": _name(random)},
        )
    )


def _name(random: Random) -> str:
    return f"{random.choice(_FIRST_NAMES)} {random.choice(_LAST_NAMES)}"


def _phone(random: Random) -> str:
    return f"+1555{random.randint(1_000_000, 9_999_999)}"
