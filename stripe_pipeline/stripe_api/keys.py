"""API keys: which mode they read, and how to tell them apart without showing them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from stripe_pipeline.errors import SettingsError


@dataclass(frozen=True, repr=False)
class ApiKey:
    """A secret or restricted key of one mode. Only `secret` holds it; `repr` and `str` are masked."""

    secret: str

    @classmethod
    def from_text(cls, value: str) -> ApiKey:
        """The key in `value`, which may have white space around it; raises `SettingsError` if it cannot be one."""
        text = value.strip()
        if len(text) < 12 or not re.fullmatch(r"(sk|rk)_(live|test)_\w+", text, re.ASCII):
            raise SettingsError(
                "This is not a Stripe secret or restricted key",
                "A key starts with sk_live_, rk_live_, sk_test_ or rk_test_: copy it from the Stripe Dashboard "
                "(Developers, API keys)",
            )
        return cls(text)

    @property
    def livemode(self) -> bool:
        """Whether the key reads live data, not test data (docs/stripe.md#object-types)."""
        return self.secret[3:8] == "live_"

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal characters that identify the key without revealing it."""
        return hashlib.sha256(self.secret.encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"ApiKey({self.secret[:8]}…, fingerprint {self.fingerprint})"
