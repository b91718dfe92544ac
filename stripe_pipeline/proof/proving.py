"""Evaluates the tie-outs on the stored rows.

This module only reads the tables. `tie_outs` declares what is compared, `warehouse.proofs` stores the outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from stripe_pipeline.days import utc_day
from stripe_pipeline.objects import ObjectType
from stripe_pipeline.proof.tie_outs import TIE_OUTS, TieOut
from stripe_pipeline.proof.verdict import SETTLING, Ask, Proof, Verdict
from stripe_pipeline.rows import microseconds
from stripe_pipeline.settings.model import OnDelete, Settings
from stripe_pipeline.views.columns import selectable
from stripe_pipeline.views.completeness import complete_since

ONCE = "each_object_once"
COUNT = "rows_of_listed_days"
NAMES = (ONCE, COUNT, *(tie_out.name for tie_out in TIE_OUTS))
"""The checks that `prove` evaluates."""
SHOWN = 20
"""How many failing objects of a check have a row of their own."""

_ERASED = "Objects of this day were erased"
_SETTLING = "Read within the last five minutes: Stripe may not show all of a change yet"


def prove(ask: Ask, settings: Settings, *, livemode: bool, now: float, whole: bool) -> list[Proof]:
    """The outcome of every check that needs only the stored rows of one mode.

    `now`: seconds on Stripe's clock. `whole`: whether the account has no balance transactions older than those stored.
    """
    proofs: list[Proof] = []
    for object_type in settings.enabled:
        proofs += once(ask, object_type, livemode=livemode)
        proofs += _counted(ask, object_type, settings, livemode=livemode)
    return proofs + tie_outs_of(ask, settings, livemode=livemode, now=now, whole=whole)


def tie_outs_of(
    ask: Ask, settings: Settings, *, livemode: bool, now: float, whole: bool = False, period: str = "true"
) -> list[Proof]:
    """The outcome of every tie-out, for the rows that meet `period`, a condition on `created`."""
    columns = {name: set(names) for name, names in selectable(settings).items()}
    return [
        proof
        for tie_out in TIE_OUTS
        if tie_out.table in columns
        for proof in _tie(ask, tie_out, columns, livemode=livemode, now=now, whole=whole, period=period)
    ]


def _tie(
    ask: Ask,
    tie_out: TieOut,
    columns: Mapping[str, set[str]],
    *,
    livemode: bool,
    now: float,
    whole: bool,
    period: str,
) -> Iterator[Proof]:
    outcome = _outcomes(tie_out.name, tie_out.table, livemode=livemode)
    if lacking := _lacking(tie_out, columns):
        yield outcome(Verdict.OPEN, f"The settings leave out {lacking}")
        return
    since, incomplete = _complete(ask, tie_out, livemode=livemode)
    if since is None:
        yield outcome(Verdict.OPEN, f"Not complete in the warehouse: {', '.join(incomplete)}")
        return
    of_mode = f"livemode = {livemode} AND _deleted_at IS NULL"
    schema = "live" if livemode else "test"
    pairs = tie_out.select(lambda table: f"(SELECT * FROM raw.{table} WHERE {of_mode})", schema)
    day = utc_day("created")
    old = f"{day} < DATE '{since if whole else since + timedelta(days=tie_out.reaches_back)}'"
    young = f"fetched_at > make_timestamptz({microseconds(now - SETTLING)})"
    counted = ask(
        "SELECT currency, l IS NOT DISTINCT FROM r OR NOT (old OR young) AS decided, count(*), sum(l), sum(r),"
        " count(*) FILTER (l IS DISTINCT FROM r),"
        f" arg_min({{'id': id, 'l': l, 'r': r, 'old': old}}, id, {SHOWN}) FILTER (l IS DISTINCT FROM r)"
        f" FROM (SELECT *, coalesce({old}, false) AS old, coalesce({young}, false) AS young FROM ({pairs})"
        f" WHERE {day} >= DATE '{since}' AND {period}) GROUP BY ALL ORDER BY ALL"
    )
    if not counted:
        yield outcome(Verdict.PROVED, rows=0)
    for currency, decided, number, left, right, differing, examples in counted:
        if decided:
            yield outcome(
                Verdict.FAILED if differing else Verdict.PROVED,
                f"{differing} of {number} {tie_out.table} differ" if differing else None,
                currency=currency,
                left=left,
                right=right,
                rows=number,
            )
        for example in examples or ():
            why = None
            if not decided:
                why = f"May depend on rows from before {since}" if example["old"] else _SETTLING
            yield outcome(
                Verdict.FAILED if decided else Verdict.OPEN,
                why,
                currency=currency,
                scope=example["id"],
                left=example["l"],
                right=example["r"],
                rows=1,
            )


def _lacking(tie_out: TieOut, columns: Mapping[str, set[str]]) -> str:
    """The tables and columns that the settings leave out and the tie-out needs, in words."""
    lacking = []
    for need in tie_out.needs:
        table, *names = need.split()
        if table not in columns:
            lacking.append(table)
        else:
            lacking += [f"{table}.{name}" for name in names if name not in columns[table]]
    return ", ".join(lacking)


def _complete(ask: Ask, tie_out: TieOut, *, livemode: bool) -> tuple[date | None, list[str]]:
    """From which day on all tables of a tie-out are complete, and those that are not."""
    [days] = ask(complete_since(tie_out.tables, livemode=livemode))
    incomplete = [table for table, day in zip(tie_out.tables, days, strict=True) if day is None]
    return (None if incomplete else max(days)), incomplete


def once(ask: Ask, object_type: ObjectType, *, livemode: bool) -> Iterator[Proof]:
    """The outcome of the check that each object has one row: of the whole table, then of each repeated object."""
    outcome = _outcomes(ONCE, object_type.name, livemode=livemode)
    key = ", ".join(object_type.key)
    # For ten million keys, the hashes fit into memory.
    [(rows, objects)] = ask(
        f"SELECT count(*), count(DISTINCT hash({key})) FROM raw.{object_type.name} WHERE livemode = {livemode}"
    )
    repeated: Sequence[tuple[Any, ...]] = ()
    if rows > objects:
        name = f"concat_ws(' ', {key})"
        repeated = ask(
            f"SELECT {name}, count(*) FROM raw.{object_type.name} WHERE livemode = {livemode} GROUP BY {key}"
            f" HAVING count(*) > 1 ORDER BY 1 LIMIT {SHOWN}"
        )
    reason = f"{rows - objects} rows more than objects" if repeated else None
    for scope, left, right in (("", rows, objects), *((scope, number, 1) for scope, number in repeated)):
        verdict = Verdict.PROVED if left == right else Verdict.FAILED
        yield outcome(verdict, None if scope else reason, scope=scope, left=left, right=right, rows=left)


def _counted(ask: Ask, object_type: ObjectType, settings: Settings, *, livemode: bool) -> Iterator[Proof]:
    """No row of a listed day is missing: as many are stored as when the day was listed, or more."""

    outcome = _outcomes(COUNT, object_type.name, livemode=livemode)
    if object_type.singleton or object_type.dated_apart:
        return  # the days of coverage are not those of the rows
    if settings.on_delete_of(object_type) is OnDelete.REMOVE and object_type.deletable:
        yield outcome(Verdict.OPEN, "The settings remove the rows of deleted objects")
        return
    days = ask(
        "SELECT c.day, any_value(c.rows), count(r.at) FROM"
        ' (SELECT day, listed_at, sum("rows") AS rows FROM pipeline.coverage'
        f" WHERE object_type = '{object_type.name}' AND livemode = {livemode} GROUP BY ALL) c LEFT JOIN"
        f" (SELECT {utc_day('created')} AS day, coalesce(_deleted_at, TIMESTAMPTZ 'infinity') AS at"
        f" FROM raw.{object_type.name} WHERE livemode = {livemode}) r ON r.day = c.day AND r.at > c.listed_at"
        " GROUP BY c.day ORDER BY c.day"
    )
    stored, listed = sum(number for *_, number in days), sum(number for _, number, _ in days)
    short = [(day, listed_then, number) for day, listed_then, number in days if number < listed_then]
    if not short:
        # More rows than were listed are objects of these days that became known later.
        yield outcome(Verdict.PROVED, left=stored, right=min(stored, listed), rows=stored)
        return
    erased = {day for (day,) in ask(f"SELECT DISTINCT {utc_day('created')} FROM pipeline.erased")}
    # A child that its parent no longer has, such as a line of a draft, leaves no row.
    failing = [day for day, *_ in short if day not in erased and not object_type.parent]
    explained = "Objects of this day may have lost some, or were erased" if object_type.parent else _ERASED
    reason = f"{len(short)} days have fewer rows than were listed"
    yield outcome(Verdict.FAILED if failing else Verdict.OPEN, reason, left=stored, right=listed, rows=stored)
    for day, listed_then, number in short[:SHOWN]:
        verdict, why = (Verdict.FAILED, None) if day in failing else (Verdict.OPEN, explained)
        yield outcome(verdict, why, scope=str(day), left=number, right=listed_then, rows=number)


def _outcomes(name: str, table: str, *, livemode: bool) -> Callable[..., Proof]:
    """Makes the outcomes of one check of a table, from a verdict, its reason, and further fields of `Proof`."""

    def outcome(verdict: Verdict, reason: str | None = None, **fields: Any) -> Proof:
        return Proof(name=name, livemode=livemode, object_type=table, verdict=verdict, reason=reason, **fields)

    return outcome
