"""The control total: what the stored balance transactions add up to, and the balance that Stripe reports.

This module judges readings. Reading the balance, and when, belongs to `sync.control_total`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from stripe_pipeline.proof.verdict import SETTLING, Ask, Proof, Verdict
from stripe_pipeline.rows import microseconds

BALANCE = "balance"
"""The name of the check."""
_PARTS = {
    "payments": (("available",), ("pending",)),
    "issuing": (("issuing", "available"),),
    "refund_and_dispute_prefunding": (
        ("refund_and_dispute_prefunding", "available"),
        ("refund_and_dispute_prefunding", "pending"),
    ),
}
"""For each `balance_type` of balance transactions, where Stripe's balance holds its amounts (docs/stripe.md)."""
_CLOCK = 3.0  # seconds by which a reading and a balance transaction of about the same time may be out of order

Part = tuple[str, str]
"""A currency and a `balance_type`."""


def amounts_of(balance: Mapping[str, Any]) -> dict[Part, int]:
    """The amounts of Stripe's balance by currency and `balance_type`, in minor units: available and pending."""
    amounts: dict[Part, int] = {}
    for kind, paths in _PARTS.items():
        for path in paths:
            for item in _at(balance, path):
                if isinstance(item, Mapping) and isinstance(amount := item.get("amount"), int):
                    part = (str(item.get("currency")), kind)
                    amounts[part] = amounts.get(part, 0) + amount
    return amounts


def _at(balance: Mapping[str, Any], path: Iterable[str]) -> Sequence[Any]:
    value: Any = balance
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, list) else []


@dataclass(frozen=True)
class Sums:
    """The sums of `net` of balance transactions, by currency and `balance_type`."""

    rows: Mapping[Part, int]
    """How many balance transactions were added up."""
    within: Mapping[Part, int]
    """The sum of those that clearly belong to the period."""
    first: Mapping[Part, Sequence[int]]
    """The amounts at about the beginning of the period, in the order of creation."""
    last: Mapping[Part, Sequence[int]]
    """The amounts at about its end."""

    def possible(self, part: Part) -> set[int]:
        """The sums that the period may have."""
        beginnings = accumulate(reversed(self.first.get(part, ())), initial=self.within.get(part, 0))
        return {sum_ for begun in beginnings for sum_ in accumulate(self.last.get(part, ()), initial=begun)}

    @property
    def parts(self) -> set[Part]:
        """The currencies and kinds of balance that have balance transactions."""
        return set(self.rows)


def sums(ask: Ask, *, livemode: bool, at: float, since: float = 0.0) -> Sums:
    """What the stored balance transactions of one mode, created after `since`, add up to at a moment; seconds on
    Stripe's clock."""

    def about(moment: float) -> str:
        low, high = (f"make_timestamptz({microseconds(max(0.0, moment + by))})" for by in (-_CLOCK, _CLOCK))
        return f"created > {low} AND created <= {high}"

    first, last = about(since), about(at)
    # A value of an unexpected type is stored as null.
    rows = ask(
        f"SELECT coalesce(currency, ''), coalesce(balance_type, ''), count(*), "
        f" coalesce(sum(net) FILTER (NOT ({first}) AND NOT ({last})), 0)::HUGEINT,"
        f" list(coalesce(net, 0) ORDER BY created, id) FILTER ({first} AND NOT ({last})),"
        f" list(coalesce(net, 0) ORDER BY created, id) FILTER ({last}) FROM raw.balance_transactions"
        f" WHERE livemode = {livemode} AND _deleted_at IS NULL"
        f" AND created > make_timestamptz({microseconds(max(0.0, since - _CLOCK))})"
        f" AND created <= make_timestamptz({microseconds(at + _CLOCK)}) GROUP BY ALL"
    )
    return Sums(
        rows={(currency, kind): number for currency, kind, number, *_ in rows},
        within={(currency, kind): within for currency, kind, _, within, *_ in rows},
        first={(currency, kind): amounts or () for currency, kind, *_, amounts, _ in rows},
        last={(currency, kind): amounts or () for currency, kind, *_, amounts in rows},
    )


@dataclass(frozen=True)
class Compared:
    """One part of a reading, and what the rows add up to."""

    left: int
    """The sum of the stored balance transactions that is nearest to the reading, in minor units."""
    right: int
    """The reading."""
    rows: int

    @property
    def difference(self) -> int:
        """The rows less the reading."""
        return self.left - self.right

    @property
    def tied(self) -> bool:
        """Whether both are equal."""
        return not self.difference


@dataclass(frozen=True)
class BalanceReading:
    """What Stripe's balance held at a time."""

    read_at: float
    """Seconds on Stripe's clock."""
    amounts: Mapping[Part, int]
    """Minor units, available and pending."""
    tied: Mapping[Part, bool | None]
    """Whether the stored balance transactions added up to the amount; None while that is open."""

    @property
    def is_tied(self) -> bool:
        """Whether all parts of the reading tied."""
        return bool(self.tied) and all(self.tied.values())

    def with_result(self, compared: Mapping[Part, Compared]) -> BalanceReading:
        """The reading with the outcome of its comparison; a part without rows and money ties."""
        parts = {*self.amounts, *compared}
        return BalanceReading(
            self.read_at,
            {part: self.amounts.get(part, 0) for part in parts},
            {part: (compared[part].tied or None) if part in compared else True for part in parts},
        )


def compare(of: Sums, amounts: Mapping[Part, int], *, opening: Mapping[Part, int]) -> dict[Part, Compared]:
    """Compares a reading with the rows up to it; `opening`: the balance before the first of these rows."""
    compared = {}
    for part in sorted(of.parts | {part for part in {*amounts, *opening} if amounts.get(part) or opening.get(part)}):
        right, before = amounts.get(part, 0), opening.get(part, 0)
        left = min((before + total for total in of.possible(part)), key=lambda total: abs(total - right))
        compared[part] = Compared(left, right, of.rows.get(part, 0))
    return compared


def judge(
    now: Mapping[Part, Compared],
    earlier: Sequence[tuple[float, Mapping[Part, Compared]]],
    *,
    livemode: bool,
    at: float,
) -> Iterator[Proof]:
    """The outcome of a reading of the balance `at` a time, in seconds on Stripe's clock.

    `earlier`: the times of the readings since the last one that tied, newest first, each compared with what is stored
    now. Money may be in flight: only a difference that lasts is wrong.
    """
    if not now:
        yield outcome(livemode, Verdict.PROVED, rows=0)
    for part, compared in now.items():
        verdict, reason = Verdict.PROVED, None
        if not compared.tied:
            lasting = any(
                at - read_at >= SETTLING and part in of and of[part].difference == compared.difference
                for read_at, of in earlier
            )
            verdict = Verdict.FAILED if lasting else Verdict.OPEN
            reason = None if lasting else "Money may be in flight: the next sync reads the balance again"
        yield outcome(
            livemode, verdict, reason, part=part, left=compared.left, right=compared.right, rows=compared.rows
        )


def outcome(
    livemode: bool, verdict: Verdict, reason: str | None = None, *, part: Part | None = None, **sides: int | None
) -> Proof:
    """The row of this check for one part of the balance, or for all of it."""
    currency, kind = part or (None, "")
    return Proof(
        name=BALANCE,
        livemode=livemode,
        object_type="balance_transactions",
        currency=currency,
        scope=kind,
        verdict=verdict,
        reason=reason,
        left=sides.get("left"),
        right=sides.get("right"),
        rows=sides.get("rows"),
    )
