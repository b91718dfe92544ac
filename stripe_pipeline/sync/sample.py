"""The nightly sample: rows that are read again by id and compared field by field.

The rows are drawn from every type and every age. `warehouse.drift` records the differences.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, zip_longest

from stripe_pipeline.objects import ObjectType
from stripe_pipeline.proof.summary import SAMPLED
from stripe_pipeline.proof.verdict import Proof, Verdict
from stripe_pipeline.rows import microseconds
from stripe_pipeline.stripe_api.paths import is_addressable
from stripe_pipeline.sync.context import EVENTS, Context
from stripe_pipeline.sync.loading import Loading
from stripe_pipeline.warehouse.drift import SAMPLE
from stripe_pipeline.warehouse.pruning import young_enough

_AGES = (1, 7, 30)  # days; rows are drawn from each of the periods between these ages


class Sample:
    """The sample of one run with one key."""

    def __init__(self, context: Context, loading: Loading) -> None:
        self._context = context
        self._loading = loading
        self._warehouse = context.warehouse
        self._mode = context.mode

    def read(self) -> None:
        """Read as many rows again as the settings say, and store the outcome."""
        began = self._context.api.now()
        proofs = []
        for name, ids in self._drawn(began).items():
            rows = self._loading.sample(name, ids)
            [(drifted,)] = self._warehouse.ask(
                f"SELECT count(*) FROM pipeline.drift WHERE found_by = '{SAMPLE}' AND livemode = {self._mode.livemode}"
                f" AND object_type = '{name}' AND found_at >= make_timestamptz({microseconds(began)})"
            )
            if not rows:
                continue
            self._warehouse.proofs.keep_sample(name, livemode=self._mode.livemode, at=began, rows=rows, drifted=drifted)
            proofs.append(
                Proof(
                    name=SAMPLED,
                    livemode=self._mode.livemode,
                    object_type=name,
                    left=rows - drifted,
                    right=rows,
                    verdict=Verdict.OPEN if drifted else Verdict.PROVED,
                    reason=f"{drifted} of {rows} rows differed and were corrected: see pipeline.drift"
                    if drifted
                    else None,
                    rows=rows,
                )
            )
        self._warehouse.proofs.store(proofs, [SAMPLED], livemode=self._mode.livemode, now=began)

    def _drawn(self, now: float) -> dict[str, list[str]]:
        """The ids to read, by table name."""
        wanted = self._context.settings.proofs.sample
        types = [reader.object_type for reader in self._context.readers.values() if _can_be_read(reader.object_type)]
        if not (wanted and types):
            return {}
        with self._warehouse.session(only_reads=True):
            strata = [list(self._of(object_type, now, wanted)) for object_type in types]
        # One of each stratum in turn, so that a table with few rows is not left out.
        in_turn = chain.from_iterable(zip_longest(*chain.from_iterable(strata)))
        drawn: dict[str, list[str]] = {}
        for name, object_id in [of for of in in_turn if of][:wanted]:
            drawn.setdefault(name, []).append(object_id)
        return drawn

    def _of(self, object_type: ObjectType, now: float, wanted: int) -> Iterator[list[tuple[str, str]]]:
        """Ids of each age, in random order, each with the table's name; at most `wanted`."""
        ages = " ".join(
            f"WHEN created > make_timestamptz({microseconds(now - days * 86_400)}) THEN {days}" for days in _AGES
        )
        cutoff = self._context.settings.cutoff(object_type)
        # A row that is too old would be removed instead of compared.
        kept = f" AND {young_enough(object_type, cutoff)}" if cutoff else ""
        rows = self._warehouse.ask(
            f"SELECT arg_min(id, hash(id, {int(now)}), {wanted}) FROM raw.{object_type.name}"
            f" WHERE livemode = {self._mode.livemode} AND _deleted_at IS NULL{kept} GROUP BY CASE {ages} ELSE 0 END"
        )
        for (ids,) in rows:
            yield [(object_type.name, object_id) for object_id in ids if is_addressable(object_id)]


def _can_be_read(object_type: ObjectType) -> bool:
    """Whether a sample can compare objects of this type: Stripe forgets its events, and of other types nobody tested
    whether every object can be retrieved."""
    return not (object_type.singleton or object_type.generated or object_type.name == EVENTS)
