"""Backfills against Stripe's limits: speed, CPU, memory, crowded hours and seconds, limits lower than documented."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from unittest import mock

import duckdb

from benchmarks.bulk import KEY, LONG_INVOICES, Serving, Span, serving
from benchmarks.measuring import LIMIT, Options, Row, Spent, apart, new_folder, peak_memory
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY, day_start, days_between, today
from stripe_pipeline.lake import Lake
from stripe_pipeline.settings.environment import load_keys
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.stripe_api.client import StripeApi
from stripe_pipeline.stripe_api.keys import ApiKey
from stripe_pipeline.stripe_api.rate_limits import RateLimits
from stripe_pipeline.sync.pipeline import Pipeline

DAYS = 100
ACCOUNT_LIMIT = 100.0
ENDPOINT_LIMIT = 25.0
PAGE = 100
WORKED_IN = 10.0
"""Seconds in which the rate should settle."""


@dataclass(frozen=True)
class Backfilled:
    """The cost of a backfill."""

    rows: int
    """In the published file."""
    seconds: float
    cpu: float
    peak: float
    """MB."""


def pipeline_of(url: str, folder: Path, first: date, *, lake: Lake | None = None) -> Pipeline:
    """A pipeline that uses all of Stripe's limits; with its tables in a lake, if there is one."""
    return Pipeline(
        settings=Settings.model_validate({"history": first, "rate": {"share": "100%"}}),
        keys=load_keys({"STRIPE_API_KEY": KEY}),
        folder=DataFolder(folder, lake=lake),
        base_url=url,
    )


def unlimited() -> RateLimits:
    """As fast as the machine can."""
    return RateLimits(account=1e6, endpoint=1e6)


def backfill(url: str, folder: Path, first: date, last: date, tables: Sequence[str], *, limits: bool) -> Backfilled:
    """Backfill these days and tables; to be called in a process of its own."""
    free = mock.patch.object(RateLimits, "of_stripe", return_value=unlimited())
    with nullcontext() if limits else free, pipeline_of(url, folder, first) as pipeline, Spent() as spent:
        report = pipeline.backfill(days_between(first, last), tables)
    if report.failures:
        raise RuntimeError(f"the backfill failed: {report.failures}")
    with duckdb.connect(str(pipeline.folder.published), read_only=True) as connection:
        counts = [connection.execute(f"SELECT count(*) FROM raw.{table}").fetchall()[0][0] for table in tables]
    return Backfilled(sum(counts), spent.seconds, spent.cpu, peak_memory())


def finished_days(count: int) -> tuple[date, date]:
    """The last so many whole days."""
    return today() - timedelta(days=count), today() - timedelta(days=1)


def evenly(count: int, days: int = DAYS) -> Span:
    """So many objects over the last whole days."""
    first, last = finished_days(days)
    return Span(day_start(first), day_start(last) + DAY, count)


def charges(options: Options) -> list[Row]:
    """100 days of 2,000 charges, into the published file."""
    days = options.scaled(DAYS, 10, 1)
    count = days * 2000
    with serving(Serving({"charges": [evenly(count, days)]})) as stripe, new_folder(options) as folder:
        took = apart(backfill, stripe.url, folder, *finished_days(days), ["charges"], limits=True)
        log = stripe.requests()
    assert took.rows == count
    share = took.rows / took.seconds / LIMIT
    refused = _refused(log)
    title = f"backfill of charges, {days} days × 2,000, 100 ms ± 20 % a request"
    return [
        Row(
            title,
            "≥ 90 % of 2,500 objects/s, 0 × 429",
            f"{share:.0%} ({took.rows / took.seconds:,.0f}/s, {took.seconds:.1f} s), {refused} × 429,"
            f" {took.peak:,.0f} MB",
            share >= 0.9 and not refused,
        ),
        _cpu_row("the same", took),
    ]


def _cpu_row(title: str, took: Backfilled) -> Row:
    per_object = took.cpu / took.rows * 1e6
    return Row(f"{title}: CPU an object, API to table", "≤ 100 µs", f"{per_object:.0f} µs", per_object <= 100)


def all_types(options: Options) -> list[Row]:
    """All types side by side."""
    share = options.scaled(1, 10, 200)
    counts = {
        "balance_transactions": 200_000 // share,
        "charges": 200_000 // share,
        "customers": 50_000 // share,
        "disputes": 2_000 // share,
        "invoices": 40_000 // share,
        "payment_intents": 200_000 // share,
        "refunds": 10_000 // share,
    }
    requests = {name: math.ceil(count / PAGE) for name, count in counts.items()}
    requests["invoices/lines"] = counts["invoices"] // LONG_INVOICES
    allowed = max(sum(requests.values()) / ACCOUNT_LIMIT, max(requests.values()) / ENDPOINT_LIMIT)
    spans = {name: [evenly(count)] for name, count in counts.items()}
    with serving(Serving(spans)) as stripe, new_folder(options) as folder:
        took = apart(backfill, stripe.url, folder, *finished_days(DAYS), list(counts), limits=True)
        log = stripe.requests()
    assert took.rows == sum(counts.values())
    times = took.seconds / allowed
    return [
        Row(
            f"all types together ({took.rows:,} objects)",
            "≤ 1.2 × what the limits allow",
            f"{times:.2f} × ({took.seconds:.1f} s of {allowed:.1f} s), {_refused(log)} × 429, {took.peak:,.0f} MB",
            times <= 1.2,
        ),
        _cpu_row("the same", took),
    ]


def memory(options: Options) -> list[Row]:
    """A backfill so large that memory that grows with it would show."""
    count = options.scaled(options.memory, options.memory // 10, options.memory // 100)
    held = Serving({"charges": [evenly(count)]}, latency_ms=0, limits=False)
    with serving(held) as stripe, new_folder(options) as folder:
        took = apart(backfill, stripe.url, folder, *finished_days(DAYS), ["charges"], limits=False)
    assert took.rows == count
    title = f"peak memory of a backfill of {count:,} charges (no latency, no limits: reading is ahead of loading)"
    return [
        Row(title, "≤ 500 MB", f"{took.peak:,.0f} MB", took.peak <= 500),
        _cpu_row(f"the same, {took.rows / took.seconds:,.0f} objects/s", took),
    ]


def crowded(options: Options) -> list[Row]:
    """Many objects in an hour, and in a second."""
    [day] = {*finished_days(1)}
    noon = day_start(day) + DAY // 2
    many = options.scaled(100_000, 30_000, 5000)
    hour = [Span(noon, noon + 3600, many)]
    second = [Span(noon - DAY // 2, noon, 1000), Span(noon, noon + 1, 1000), Span(noon + 1, noon + DAY // 2, 1000)]
    return [
        _crowd(f"a day with {many:,} charges in one hour", options, day, hour),
        _crowd("a day of 2,000 charges, and 1,000 in one second of it", options, day, second),
    ]


def _crowd(title: str, options: Options, day: date, spans: Sequence[Span]) -> Row:
    count = sum(span.count for span in spans)
    with serving(Serving({"charges": spans})) as stripe, new_folder(options) as folder:
        apart(backfill, stripe.url, folder, day, day, ["charges"], limits=True)
        lists = [path for _, path, _ in stripe.requests() if path == "/v1/charges"]
        stored = apart(_ids, folder)
    with serving(Serving({"charges": spans}, latency_ms=0, limits=False)) as stripe:
        serially = apart(_serially, stripe.url, day)
    pages = math.ceil(count / PAGE)
    same = stored == sorted(serially) and len(serially) == count
    ratio = len(lists) / pages
    return Row(
        title,
        "same ids as serially, requests ≤ 1.15 × pages",
        f"{'same ids' if same else 'OTHER IDS'}, {ratio:.2f} × ({len(lists)} requests, {pages} pages)",
        same and ratio <= 1.15,
    )


def _ids(folder: Path) -> list[str]:
    with duckdb.connect(str(DataFolder(folder).published), read_only=True) as connection:
        return [charge for (charge,) in connection.execute("SELECT id FROM live.charges ORDER BY id").fetchall()]


def _serially(url: str, day: date) -> list[str]:
    window = {"created[gte]": day_start(day), "created[lt]": day_start(day) + DAY}
    with StripeApi(ApiKey.from_text(KEY), base_url=url, limits=unlimited()) as api:
        return [obj["id"] for page in api.pages("/v1/charges", window) for obj in page.objects]


def slower(options: Options) -> list[Row]:
    """A real limit that is lower than documented, and one that is shared."""
    seconds = options.scaled(75, 45, 15)
    return [
        _settles("an account whose real limit is 10 requests/s", options, Serving({}, per_endpoint=10), 10, seconds),
        _settles("a limit of 25/s of which other traffic takes 5/s", options, Serving({}, others=5), 20, seconds),
    ]


def _settles(title: str, options: Options, limits: Serving, left: float, seconds: int) -> Row:
    """How much of the rate that is `left` (requests a second) a backfill of about so many seconds uses."""
    spans = {"charges": [evenly(int(left * seconds * PAGE))]}
    held = Serving(spans, per_endpoint=limits.per_endpoint, others=limits.others)
    with serving(held) as stripe, new_folder(options) as folder:
        apart(backfill, stripe.url, folder, *finished_days(DAYS), ["charges"], limits=True)
        lists = [(at, status) for at, path, status in stripe.requests() if path == "/v1/charges"]
    first, last = lists[0][0], lists[-1][0]
    good = [at - first for at, status in lists if status == 200]
    # Without the last second, in which fewer requests are left to send than the limit allows.
    length = last - first - 1
    settled = len([at for at in good if WORKED_IN <= at < length]) / (length - WORKED_IN) / left
    before = len([at for at in good if at < WORKED_IN]) / WORKED_IN / left
    refused = len([status for _, status in lists if status == 429]) / len(lists)
    return Row(
        title,
        "≥ 85 % of what is left after 10 s, ≤ 2 % × 429",
        f"{settled:.0%} (first 10 s: {before:.0%}), {refused:.1%} × 429",
        settled >= 0.85 and refused <= 0.02,
    )


def _refused(log: Sequence[tuple[float, str, int]]) -> int:
    return len([status for _, _, status in log if status == 429])
