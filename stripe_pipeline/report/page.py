"""The report as one HTML page without scripts, to be read, printed and mailed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from html import escape

from stripe_pipeline.html_page import document, table, verdict_line
from stripe_pipeline.report import charts
from stripe_pipeline.report.money import amount
from stripe_pipeline.report.overview import (
    BRIDGE_DAYS,
    COVERAGE_DAYS,
    KEPT_DAYS,
    LAG_HOURS,
    STEPS,
    DayState,
    Overview,
    percentile,
    span,
)
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.stripe_api.rate_limits import LIVE_ACCOUNT_RATE, READ_ALLOCATION, TEST_ACCOUNT_RATE

_DRAWN = 6
"""Most currencies with a chart; the tables have all."""
_STYLE = """
:root { %s }
@media (prefers-color-scheme: dark) { :root { %s } }
body { background: var(--ground); max-width: 56rem; }
.facts { margin: .2rem 0 0; opacity: .75; font-size: 13px; } .note { font-size: 13px; opacity: .75; max-width: 46rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: .5rem 1.5rem; }
figure { margin: .5rem 0; break-inside: avoid; } figcaption { font-size: 13px; font-weight: 600; }
figcaption span { font-weight: 400; opacity: .75; }
svg { display: block; max-width: 100%%; height: auto; }
h1 { overflow-wrap: anywhere; } .narrow { display: none; } td:first-child { white-space: nowrap; }
@media (max-width: 640px) { .wide { display: none; } .narrow { display: block; } body { margin: 1rem auto; }
  h1 { font-size: 1.25rem; } }
"""


def page(of: Overview, settings: Settings) -> str:
    """The report as HTML."""
    style = _STYLE % tuple(
        " ".join(f"--{name}: {color};" for name, color in colors.items()) for colors in (charts.LIGHT, charts.DARK)
    )
    title = f"Stripe {of.account}".strip() if of.livemode else f"Stripe {of.account}, test mode".replace(" ,", ",")
    until = f"{of.read_until:%Y-%m-%d %H:%M} UTC" if of.read_until else "not known: a table was never read"
    facts = (
        f"{'Live data' if of.livemode else 'Test data, not real money'} · read until {until}"
        f" · published {of.published_at:%Y-%m-%d %H:%M} UTC, version {of.version} · days in {of.time_zone}"
    )
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="facts">{escape(facts)}</p>',
        verdict_line(str(of.summary.verdict), of.summary.sentence),
        *_kept(of),
        *_coverage(of),
        *_bridge(of),
        *_lag(of),
        *_requests(of, settings),
    ]
    return document(title, parts, style=style)


def _kept(of: Overview) -> Iterator[str]:
    yield "<h2>Kept by day</h2>"
    if not of.kept:
        yield f"<p>Nothing moved the balance in the last {KEPT_DAYS} days, or the settings leave that out.</p>"
        return
    yield (
        '<p class="note">Charges less refunds, disputes and fees, in major units of each currency, by the day on which'
        f" the balance moved. Today, {of.today:%b %-d}, is not finished: its bar is pale.</p>"
    )
    yield '<div class="charts">'
    for kept in of.kept[:_DRAWN]:
        yield _figure(kept.currency.upper(), "", charts.kept_by_day(kept, of.today))
    yield "</div>"
    day = timedelta(days=1)
    spans = ((0, 0), (1, 1), (7, 1), (30, 1), (KEPT_DAYS, 31))
    yield table(
        (
            "currency",
            "today, not finished",
            "yesterday",
            "7 days before today",
            "30 days before today",
            "the 30 days before",
        ),
        [
            (
                kept.currency.upper(),
                *(
                    amount(kept.between(of.today - first * day, of.today - last * day), kept.currency)
                    for first, last in spans
                ),
            )
            for kept in of.kept
        ],
    )


def _coverage(of: Overview) -> Iterator[str]:
    yield "<h2>Coverage</h2>"
    if not of.coverage:
        yield "<p>No table has been read yet.</p>"
        return
    complete = of.days_in(DayState.COMPLETE)
    due = complete + of.days_in(DayState.DIFFERS, DayState.UNREAD)
    yield (
        f'<p class="note">{complete:,} of {due:,} finished days of the last {COVERAGE_DAYS} are complete, over all'
        " tables: each was listed as a whole after its end (UTC).</p>"
    )
    for name, width in (("wide", charts.WIDE), ("narrow", charts.SMALL)):
        yield f'<div class="{name}">{_figure("", "", charts.coverage(of.coverage, width=width))}</div>'


def _bridge(of: Overview) -> Iterator[str]:
    yield "<h2>Balance</h2>"
    if not of.bridges:
        yield f"<p>Nothing moved the balance in the last {BRIDGE_DAYS} days, or the settings leave that out.</p>"
        return
    yield (
        '<p class="note">From the opening to the closing balance of the last'
        f" {BRIDGE_DAYS} days, today included, available and pending money together.</p>"
    )
    yield '<div class="charts">'
    for bridge in of.bridges[:_DRAWN]:
        days = f"{bridge.first:%b %-d} to {bridge.last:%b %-d}"
        yield _figure(bridge.currency.upper(), days, charts.bridge(bridge))
    yield "</div>"
    yield table(
        ("currency", "opening", *STEPS, "closing"),
        [
            (
                bridge.currency.upper(),
                amount(bridge.opening, bridge.currency),
                *(amount(bridge.steps[step], bridge.currency) for step in STEPS),
                amount(bridge.closing, bridge.currency),
            )
            for bridge in of.bridges
        ],
    )


def _lag(of: Overview) -> Iterator[str]:
    yield "<h2>Lag</h2>"
    if not of.lags:
        yield f"<p>No new object was announced by an event in the last {LAG_HOURS} hours.</p>"
        return
    total = sum(lag.objects for lag in of.lags)
    yield (
        f'<p class="note">Seconds from <code>created</code> until the object was stored, by the hour of creation:'
        f" {total:,} new objects that events or webhooks announced. Stored objects are published within seconds."
        " Objects of the first load, and types without events, are left out.</p>"
    )
    for name, width in (("wide", charts.WIDE), ("narrow", charts.SMALL)):
        yield f'<div class="{name}">{_figure("", "", charts.lag(of.lags, of.published_at, width=width))}</div>'
    worst = max(of.lags, key=lambda lag: lag.p95)
    yield (
        f'<p class="note">Median of the hours {span(percentile([lag.p50 for lag in of.lags], 0.5))}, worst hour'
        f" {span(worst.p95)} (p95, {worst.hour:%b %-d %H:%M} UTC).</p>"
    )


def _requests(of: Overview, settings: Settings) -> Iterator[str]:
    yield "<h2>Requests to Stripe</h2>"
    if not of.requests:
        yield "<p>None were counted yet.</p>"
        return
    account = LIVE_ACCOUNT_RATE if of.livemode else TEST_ACCOUNT_RATE
    recent = [day for day in of.requests if day.day > of.published_at.date() - timedelta(days=30)]
    refused = sum(day.refused for day in recent)
    month = [day for day in recent if (day.day.year, day.day.month) == (of.published_at.year, of.published_at.month)]
    sent = sum(day.sent for day in month)
    yield table(
        ("", "requests", "share"),
        [
            ("this month", f"{sent:,}", f"{sent / READ_ALLOCATION:.0%}"),
            ("last 30 days", f"{of.requests_sent:,}", f"{of.requests_sent / READ_ALLOCATION:.0%}"),
            ("allowed in 30 days", f"{READ_ALLOCATION:,}", "100%"),
        ],
    )
    begun = f"; counted since {of.requests[0].day}" if of.requests[0].day >= recent[0].day else ""
    yield (
        f'<p class="note">Stripe allows every account {READ_ALLOCATION:,} read requests in 30 days, and more to those'
        f" with many transactions. Of the {account:g} requests that Stripe allows a second, this pipeline uses at most"
        f" {account * settings.rate.share:g}, and leaves {account * (1 - settings.rate.share):g} to the shop. Stripe"
        f" refused {refused:,} requests in 30 days for being too fast{begun}.</p>"
    )


def _figure(title: str, detail: str, svg: str) -> str:
    caption = f"<figcaption>{escape(title)} <span>{escape(detail)}</span></figcaption>" if title else ""
    return f"<figure>{caption}{charts.colored(svg)}</figure>"


def drawn(of: Overview) -> Sequence[tuple[str, str]]:
    """The charts that stand alone, each with its title, in placeholders."""
    shown = [(f"Kept by day, {kept.currency.upper()}", charts.kept_by_day(kept, of.today)) for kept in of.kept[:_DRAWN]]
    if of.coverage:
        shown.append(("Coverage", charts.coverage(of.coverage, width=charts.WIDE)))
    shown += [(f"Balance, {bridge.currency.upper()}", charts.bridge(bridge)) for bridge in of.bridges[:_DRAWN]]
    if of.lags:
        shown.append(("Lag from created to stored", charts.lag(of.lags, of.published_at, width=charts.WIDE)))
    return shown
