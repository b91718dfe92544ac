"""The verdict in one sentence, from the stored outcomes of all checks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from stripe_pipeline.proof.balance import BALANCE
from stripe_pipeline.proof.verdict import Proof, Verdict

PAYOUT = "payout_is_sum_of_its_transactions"
SAMPLED = "sampled_rows_are_equal"
_SHOWN = 20  # outcomes of a verdict that the text names


@dataclass(frozen=True)
class Summary:
    """What is proved, by both modes together."""

    verdict: Verdict
    sentence: str
    failed: Sequence[Proof]
    """The outcomes that failed, those of whole tables before those of single objects."""
    open: Sequence[Proof]
    """The outcomes that could not be decided."""

    @property
    def lines(self) -> list[str]:
        """The summary as text: what failed, what is open, and the sentence."""
        return [*_shown("failed", self.failed), *_shown("open", self.open), self.sentence]


def _shown(word: str, proofs: Sequence[Proof]) -> Iterable[str]:
    for proof in proofs[:_SHOWN]:
        subject = " ".join(filter(None, (proof.object_type, proof.currency, proof.scope)))
        parts = [proof.reason] if proof.reason else []
        if proof.difference:
            parts.append(f"{proof.left:,} stored, {proof.right:,} expected, difference {proof.difference:,}")
        yield f"{word:6} {proof.name}: {subject} ({'live' if proof.livemode else 'test'}): {'; '.join(parts)}"
    if len(proofs) > _SHOWN:
        yield f"{'':6} and {len(proofs) - _SHOWN} more in pipeline.proof"


def summarize(stored: Iterable[tuple[Proof, float]]) -> Summary:
    """The summary of outcomes, each with the time of the check (Unix seconds)."""
    every = sorted(stored, key=lambda outcome: bool(outcome[0].scope))
    proofs = [proof for proof, _ in every]
    failed = [proof for proof in proofs if proof.verdict is Verdict.FAILED]
    undecided = [proof for proof in proofs if proof.verdict is Verdict.OPEN]
    if not proofs:
        return Summary(Verdict.OPEN, "Nothing was proved yet: run `stripe-pipeline prove`.", failed, undecided)
    if failed:
        names = sorted({f"{proof.name} of {proof.object_type}" for proof in failed})
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        sentence = f"Not proved: {', '.join(names[:3])}{more} failed."
        return Summary(Verdict.FAILED, sentence, failed, undecided)
    of_balance = [(proof, at) for proof, at in every if proof.name == BALANCE]
    parts = [*_of_balance([proof for proof, _ in of_balance]), *_of_payouts(proofs), *_of_samples(proofs)]
    at = max((at for _, at in of_balance or every), default=0.0)
    up_to = f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
    checks = len(
        {(proof.name, proof.object_type, proof.livemode) for proof in proofs if proof.verdict is Verdict.PROVED}
    )
    parts.append(_number(checks, "check holds", "checks hold"))
    balance_open = any(proof.verdict is Verdict.OPEN for proof, _ in of_balance)
    sentence = f"{'Open' if balance_open else 'Proved up to ' + up_to}: {', '.join(parts)}."
    return Summary(Verdict.OPEN if balance_open else Verdict.PROVED, sentence, failed, undecided)


def _of_balance(proofs: Sequence[Proof]) -> Iterable[str]:
    if reasons := {str(proof.reason) for proof in proofs if proof.verdict is Verdict.OPEN}:
        yield f"the balance is open ({'; '.join(sorted(reasons))})"
    elif proofs:
        currencies = {proof.currency for proof in proofs if proof.currency}
        yield f"balance ties in {_number(len(currencies), 'currency', 'currencies')}"


def _of_payouts(proofs: Sequence[Proof]) -> Iterable[str]:
    payouts = [proof for proof in proofs if proof.name == PAYOUT]
    tied = sum(proof.rows or 0 for proof in payouts if proof.verdict is Verdict.PROVED)
    open_ = sum(1 for proof in payouts if proof.verdict is Verdict.OPEN and proof.scope)
    if tied or open_:
        yield f"{tied} of {tied + open_} payouts"


def _of_samples(proofs: Sequence[Proof]) -> Iterable[str]:
    samples = [proof for proof in proofs if proof.name == SAMPLED]
    if rows := sum(proof.rows or 0 for proof in samples):
        drifted = sum(-(proof.difference or 0) for proof in samples)
        yield f"{_number(drifted, 'row', 'rows')} drifted in {rows:,} re-read"


def _number(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
