"""The certificate of a closed month: what the tables hold of the month, and what proves that this is right.

This module computes a certificate and compares a certificate with the tables. `certificate_page` shows one to people,
`warehouse.certificates` stores the files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson

from stripe_pipeline.days import local_day
from stripe_pipeline.objects import ObjectType
from stripe_pipeline.proof.proving import tie_outs_of
from stripe_pipeline.proof.summary import summarize
from stripe_pipeline.proof.uncompared import uncompared
from stripe_pipeline.proof.verdict import Ask, Proof
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.view import FINANCE, SCHEMAS

FORM = 1
"""The version of the form, to be raised if a certificate of an older form could not be verified any more."""
SHOWN = 20
"""How many changed rows of a table are named."""
_BOOKKEEPING = frozenset({"_account", "_fetched_at", "_deleted_at"})

Certificate = dict[str, Any]


@dataclass(frozen=True)
class Month:
    """A calendar month in the time zone of the settings."""

    first: date

    @classmethod
    def parse(cls, text: str) -> Month:
        """The month that `text`, such as 2026-10, names; raises `ValueError`."""
        return cls(datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC).date())

    @classmethod
    def of(cls, day: date) -> Month:
        """The month of a day."""
        return cls(day.replace(day=1))

    @property
    def end(self) -> date:
        """The first day of the next month."""
        return (self.first + timedelta(days=31)).replace(day=1)

    @property
    def before(self) -> Month:
        """The month before."""
        return Month.of(self.first - timedelta(days=1))

    def __str__(self) -> str:
        return f"{self.first:%Y-%m}"


@dataclass(frozen=True)
class Changed:
    """A row that differs from the one that a certificate counts."""

    table: str
    day: date
    id: str
    why: str


def certify(
    ask: Ask,
    settings: Settings,
    month: Month,
    *,
    livemode: bool,
    account: str,
    version: str,
    layout: str,
    now: float,
    proofs: Sequence[tuple[Proof, float]],
    previous: Certificate | None,
) -> Certificate:
    """The certificate of a closed month of one mode; `now`: seconds on Stripe's clock.

    `layout` identifies the settings, `proofs` are the stored outcomes, each with its time, and `previous` is the
    certificate of the month before.
    """
    of_mode = [(proof, at) for proof, at in proofs if proof.livemode is livemode and proof.object_type]
    of_month = tie_outs_of(ask, settings, livemode=livemode, now=now, period=_within(settings, month))
    # The tie-outs are those of the month; the other checks are about the whole tables.
    names = {proof.name for proof in of_month}
    stated = [(proof, now) for proof in of_month] + [(proof, at) for proof, at in of_mode if proof.name not in names]
    summary = summarize(stated)
    tables = list(_tables(ask, settings, month, livemode=livemode))
    return {
        "form": FORM,
        "month": str(month),
        "time_zone": settings.time_zone,
        "account": account,
        "mode": "live" if livemode else "test",
        "made_at": _moment(now),
        "version": version,
        "settings": layout,
        "verdict": str(summary.verdict),
        "sentence": summary.sentence,
        "rows_sha256": _hash(table["rows_sha256"] for table in tables),
        "previous": previous and {name: previous[name] for name in ("month", "made_at", "rows_sha256")},
        "tables": tables,
        "balance": list(_balance(ask, month, livemode=livemode)),
        "proofs": [_stated(proof, at) for proof, at in stated],
        "drift": _drift(ask, settings, month, livemode=livemode),
        "left_out": _left_out(settings),
    }


def _within(settings: Settings, month: Month, column: str = "created") -> str:
    """The condition for times of the month."""
    day = local_day(column, settings.time_zone)
    return f"{day} >= DATE '{month.first}' AND {day} < DATE '{month.end}'"


def _tables(ask: Ask, settings: Settings, month: Month, *, livemode: bool) -> Iterator[dict[str, Any]]:
    for object_type in settings.enabled:
        if not object_type.dated or object_type.singleton:
            continue
        days = hashes(ask, object_type, settings, month, livemode=livemode)
        [(listed, complete, first, last)] = ask(
            'SELECT count(*), count(*) FILTER ("rows" >= coalesce(listed, "rows")), arg_min(first_request, day),'
            f" arg_max(last_request, day) FROM pipeline.coverage WHERE object_type = '{object_type.name}'"
            f" AND livemode = {livemode} AND day >= DATE '{month.first}' AND day < DATE '{month.end}'"
        )
        yield {
            "table": object_type.name,
            "rows": sum(rows for rows, _ in days.values()),
            "days_listed": listed,
            "days_complete": complete,
            "first_request": first,
            "last_request": last,
            "rows_sha256": _hash(f"{day} {digest}" for day, (_, digest) in sorted(days.items())),
            "days": {str(day): {"rows": rows, "sha256": digest} for day, (rows, digest) in sorted(days.items())},
        }


def hashes(
    ask: Ask, object_type: ObjectType, settings: Settings, month: Month, *, livemode: bool
) -> dict[date, tuple[int, str]]:
    """The number of rows of each day of the month, and the SHA-256 of these rows' values, in the order of their keys.

    The values are those of Stripe's fields, as JSON; fields that change without a change of the object are left out.
    """
    without = _BOOKKEEPING | uncompared(object_type.name)
    columns = sorted(column.name for column in object_type.table_columns if column.name not in without)
    values = ", ".join(f"'{name}': \"{name}\"" for name in columns)
    keys = ", ".join(object_type.key)
    rows = ask(
        f"SELECT day, count(*), sha256(string_agg(digest, '' ORDER BY {keys})) FROM"
        f" (SELECT {local_day('created', settings.time_zone)} AS day, {keys},"
        f" sha256(to_json({{{values}}})::VARCHAR) AS digest FROM raw.{object_type.name}"
        f" WHERE livemode = {livemode} AND _deleted_at IS NULL AND {_within(settings, month)}) GROUP BY day"
    )
    return {day: (number, digest) for day, number, digest in rows}


def _balance(ask: Ask, month: Month, *, livemode: bool) -> Iterator[dict[str, Any]]:
    """What moved the balance in the month, by currency, in minor units."""
    schema = next(schema for schema in FINANCE if SCHEMAS[schema] is livemode)
    moved = ("charges", "refunds", "disputes", "fees", "adjustments", "payouts", "other")
    sums = ", ".join(f"sum({name})" for name in moved)
    rows = ask(
        f"SELECT currency, balance_type, arg_min(opening, day), {sums}, arg_max(closing, day)"
        f" FROM {schema}.balance_by_day WHERE day >= DATE '{month.first}' AND day < DATE '{month.end}'"
        " GROUP BY ALL ORDER BY ALL"
    )
    names = ("currency", "balance_type", "opening", *moved, "closing")
    for row in rows:
        yield {name: int(value) if isinstance(value, int) else value for name, value in zip(names, row, strict=True)}


def _stated(proof: Proof, at: float) -> dict[str, Any]:
    return {
        "check": proof.name,
        "table": proof.object_type,
        "currency": proof.currency,
        "scope": proof.scope,
        "left": proof.left,
        "right": proof.right,
        "difference": proof.difference,
        "rows": proof.rows,
        "verdict": str(proof.verdict),
        "reason": proof.reason,
        "checked_at": _moment(at),
    }


def _drift(ask: Ask, settings: Settings, month: Month, *, livemode: bool) -> dict[str, Any]:
    """What is known about drift of the month's rows, and what the samples of the month found."""
    found = ask(
        "SELECT object_type, found_by, count(*) FROM pipeline.drift"
        f" WHERE livemode = {livemode} AND {_within(settings, month)} GROUP BY ALL ORDER BY ALL"
    )
    [(rows, drifted)] = ask(
        "SELECT coalesce(sum(rows), 0)::BIGINT, coalesce(sum(drifted), 0)::BIGINT FROM pipeline.samples"
        f" WHERE livemode = {livemode} AND {_within(settings, month, 'sampled_at')}"
    )
    return {
        "sampled": rows,
        "sampled_drifted": drifted,
        "found": [{"table": table, "found_by": how, "rows": number} for table, how, number in found],
    }


def _left_out(settings: Settings) -> dict[str, dict[str, list[str]]]:
    """What the settings leave out or hash, by table."""
    left_out = {}
    for object_type in settings.enabled:
        rules = settings.rules(object_type)
        lists = {
            name: sorted(".".join(path) for path in paths)
            for name, paths in (("excluded", rules.exclude), ("hashed", rules.hash))
            if paths
        }
        if lists:
            left_out[object_type.name] = lists
    return left_out


def differing(ask: Ask, settings: Settings, certificate: Mapping[str, Any]) -> tuple[list[str], list[Changed]]:
    """How the tables differ from a certificate: sentences about tables and days, and the rows that changed since.

    Raises `ValueError` if the certificate is of another form.
    """
    if certificate.get("form") != FORM:
        raise ValueError(f"is of form {certificate.get('form')!r}, and this version verifies form {FORM}")
    month, livemode = Month.parse(certificate["month"]), certificate["mode"] == "live"
    types = {object_type.name: object_type for object_type in settings.enabled}
    sentences: list[str] = []
    changed: list[Changed] = []
    if certificate["time_zone"] != settings.time_zone:
        sentences.append(
            f"The certificate counts days in {certificate['time_zone']}, the settings in {settings.time_zone}"
        )
        settings = settings.model_copy(update={"time_zone": certificate["time_zone"]})
    stated = _hash(table["rows_sha256"] for table in certificate["tables"])
    if stated != certificate["rows_sha256"]:
        sentences.append("The hash of all rows is not the hash of the tables' hashes: the file was changed")
    for table in certificate["tables"]:
        name = table["table"]
        days = {date.fromisoformat(day): (of["rows"], of["sha256"]) for day, of in table["days"].items()}
        if _hash(f"{day} {digest}" for day, (_, digest) in sorted(days.items())) != table["rows_sha256"]:
            sentences.append(f"{name}: the hash of the table is not the hash of its days: the file was changed")
        if name not in types:
            sentences.append(f"{name}: the settings switch the type off")
            continue
        present = hashes(ask, types[name], settings, month, livemode=livemode)
        unequal = sorted(day for day in days.keys() | present.keys() if days.get(day) != present.get(day))
        for day in unequal:
            before, now = days.get(day, (0, ""))[0], present.get(day, (0, ""))[0]
            sentences.append(f"{name}, {day}: {before} rows in the certificate, {now} now; their values differ")
        if unequal:
            since = str(certificate["made_at"])
            changed += _changed(ask, types[name], settings, unequal, since, livemode=livemode)
    return sentences, changed


def _changed(
    ask: Ask, object_type: ObjectType, settings: Settings, days: Sequence[date], since: str, *, livemode: bool
) -> Iterator[Changed]:
    """The rows of these days that were written since, at most `SHOWN`."""
    of_days = ", ".join(f"DATE '{day}'" for day in days)
    day = local_day("r.created", settings.time_zone)
    key = f"concat_ws(' ', {', '.join(f'r.{name}' for name in object_type.key)})"
    rows = ask(
        f"SELECT {day}, {key}, CASE WHEN r._deleted_at > TIMESTAMPTZ '{since}' THEN 'deleted in Stripe'"
        " WHEN d.fields IS NOT NULL THEN concat(d.fields, ' differed without an event, found by ', d.found_by)"
        " WHEN d.found_by IS NOT NULL THEN concat(d.difference, ' without an event, found by ', d.found_by)"
        " ELSE 'changed in Stripe' END"
        f" FROM raw.{object_type.name} r LEFT JOIN (SELECT id, arg_max(fields, found_at) AS fields,"
        " arg_max(found_by, found_at) AS found_by, arg_max(difference, found_at) AS difference FROM pipeline.drift"
        f" WHERE object_type = '{object_type.name}' AND livemode = {livemode}"
        f" AND found_at > TIMESTAMPTZ '{since}' GROUP BY id) d ON d.id = r.{object_type.key[0]}"
        f" WHERE r.livemode = {livemode} AND {day} IN ({of_days})"
        f" AND (r._fetched_at > TIMESTAMPTZ '{since}' OR r._deleted_at > TIMESTAMPTZ '{since}')"
        f" ORDER BY 1, 2 LIMIT {SHOWN}"
    )
    for changed_day, object_id, why in rows:
        yield Changed(object_type.name, changed_day, object_id, why)


def to_json(certificate: Certificate) -> bytes:
    """The certificate as a file."""
    return orjson.dumps(certificate, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
