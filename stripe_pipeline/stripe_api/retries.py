"""How patient a client is with Stripe: the one declaration of attempts, pauses and timeouts.

When a request is sent again is decided by `client`; when it may be sent at all, by `rate_limits`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Retries:
    """How long a client tries to read an answer; all times in seconds."""

    max_attempts: int = 6
    """How often a request is sent; requests that are answered 429 do not count."""
    patience: float = 120.0
    """For how long a request that is answered 429 is sent again."""
    first_pause: float = 0.5
    """Upper limit of the random pause after the first failure; each further failure doubles it."""
    longest_pause: float = 8.0
    silence: float = 60.0
    """For how long Stripe may send nothing before the connection counts as dropped."""
    request_time: float = 120.0
    """How long a request may take from the connection to the last byte of its answer, even if bytes keep arriving."""

    def pause(self, attempts: int) -> float:
        """The upper limit of the pause after so many attempts."""
        return min(self.longest_pause, self.first_pause * (1 << min(attempts - 1, 10)))
