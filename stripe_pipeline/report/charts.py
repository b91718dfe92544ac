"""The report's charts as SVG, made with Altair; a chart holds no script, no font and no data but its marks.

Colors are placeholders until `colored`: the page replaces them with its CSS variables, an image that stands alone with
colors on a white ground.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from stripe_pipeline.days import DAY, day_start
from stripe_pipeline.errors import StripePipelineError
from stripe_pipeline.report.overview import (
    COVERAGE_DAYS,
    KEPT_DAYS,
    LAG_HOURS,
    STEPS,
    Bridge,
    DayState,
    Kept,
    Lag,
    Stretch,
)

if TYPE_CHECKING:
    import altair as alt

# Placeholders are valid colors that no chart contains otherwise.
PALETTE: Mapping[str, str] = {
    "text": "#000001",
    "line": "#000002",
    "plus": "#000003",
    "minus": "#000004",
    "soft": "#000005",
    "good": "#000006",
    "bad": "#000007",
    "unread": "#000008",
    "none": "#000009",
    "ground": "#00000a",
}
"""The placeholder of each color by its name."""
LIGHT: Mapping[str, str] = {
    "text": "#3c4048",
    "line": "#e3e5e9",
    "plus": "#2f6f9f",
    "minus": "#b4543a",
    "soft": "#a9c4d8",
    "good": "#5b9a78",
    "bad": "#c62828",
    "unread": "#e0a33e",
    "none": "#e9ebee",
    "ground": "#ffffff",
}
"""The colors of a chart on a white ground."""
DARK: Mapping[str, str] = {
    **LIGHT,
    "text": "#c4c8d0",
    "line": "#33373f",
    "plus": "#6ba6d6",
    "minus": "#dd8468",
    "soft": "#3f6484",
    "good": "#5f9f7d",
    "bad": "#ef6a6a",
    "unread": "#cf9a3f",
    "none": "#2a2d34",
    "ground": "#17191d",
}
"""The colors of a chart on the page's dark ground."""
_STATES = {
    DayState.COMPLETE: PALETTE["good"],
    DayState.UNFINISHED: PALETTE["soft"],
    DayState.DIFFERS: PALETTE["bad"],
    DayState.UNREAD: PALETTE["unread"],
    DayState.NOT_KEPT: PALETTE["none"],
}
_ARIA = re.compile(r' (?:role|aria-[a-z]+)="[^"]*"')
_HIDDEN = re.compile(r' (?:class|pointer-events)="[^"]*"')
_NUMBER = re.compile(r"\d+\.\d{3,}")
# Fonts differ in width from the one that the library measures with; labels stand on the left.
_PADDING = {"left": 28, "right": 12, "top": 4, "bottom": 4}
SMALL = 330
"""Width in pixels of a chart that fits a telephone; charts of this width stand side by side elsewhere."""
WIDE = 880


def install_message() -> str:
    """What to install where the charts' libraries are missing."""
    return "Install the libraries of the charts: `pip install 'stripe-pipeline[report]'`"


def check_libraries() -> None:
    """Raises `StripePipelineError`, which says what to install, if a library of the charts is missing."""
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise StripePipelineError(f"The report cannot be made ({error})", install_message()) from None


def colored(svg: str, colors: Mapping[str, str] | None = None) -> str:
    """The chart in these colors; by default in the CSS variables `--text`, `--line` and so on."""
    for name, placeholder in PALETTE.items():
        svg = svg.replace(placeholder, colors[name] if colors else f"var(--{name})")
    return svg


def kept_by_day(kept: Kept, today: date) -> str:
    """What was kept in one currency, a bar for each day; the present day's bar is pale."""
    import altair as alt

    rows = [
        {
            "day": _noon(day),
            "amount": float(amount),
            "kind": "unfinished" if day >= today else "minus" if amount < 0 else "plus",
        }
        for day, amount in kept.by_day.items()
    ]
    first, last = day_start(today) - KEPT_DAYS * DAY, day_start(today) + DAY
    chart = (
        alt.Chart(_data(rows), width=SMALL - 90, height=110)
        .mark_bar(size=(SMALL - 90) / (KEPT_DAYS + 1) * 0.75)
        .encode(
            x=_time("day", first * 1000, last * 1000, "%b %-d", [_noon(today - timedelta(n)) for n in (0, 20, 40, 60)]),
            y=alt.Y("amount:Q", title=None, axis=alt.Axis(format="~s", tickCount=4)),
            color=alt.Color(
                "kind:N",
                legend=None,
                scale=alt.Scale(
                    domain=["unfinished", "plus", "minus"], range=[PALETTE["soft"], PALETTE["plus"], PALETTE["minus"]]
                ),
            ),
        )
    )
    return _svg(chart)


def coverage(stretches: Sequence[Stretch], *, width: int) -> str:
    """Which days of each table are complete: a row for each table, a column for each day."""
    import altair as alt

    last = max(stretch.last for stretch in stretches)
    begin = day_start(last) - (COVERAGE_DAYS - 1) * DAY
    rows = [
        {
            "table": stretch.table,
            "from": max(begin, day_start(stretch.first)) * 1000,
            "to": (day_start(stretch.last) + DAY) * 1000,
            "state": str(stretch.state),
        }
        for stretch in stretches
        if day_start(stretch.last) >= begin
    ]
    shown = [state for state in _STATES if any(row["state"] == str(state) for row in rows)]
    tables = list(dict.fromkeys(stretch.table for stretch in stretches))
    inner = width - 220 if width > SMALL else SMALL - 190
    days = [{"day": (begin + n * DAY) * 1000} for n in range(COVERAGE_DAYS + 1)]
    bars = (
        alt.Chart(_data(rows), width=inner, height=len(tables) * 18)
        .mark_bar(height=15)
        .encode(
            x=_time(
                "from",
                begin * 1000,
                (day_start(last) + DAY) * 1000,
                "%b %-d",
                [_noon(last - timedelta(n)) for n in range(0, COVERAGE_DAYS, 7 if width > SMALL else 28)],
            ),
            x2="to:Q",
            y=alt.Y("table:N", sort=tables, title=None, axis=alt.Axis(grid=False, labelLimit=190)),
            color=alt.Color(
                "state:N",
                title=None,
                scale=alt.Scale(domain=[str(state) for state in shown], range=[_STATES[state] for state in shown]),
                legend=alt.Legend(orient="top", columns=5 if width > SMALL else 1, labelLimit=200),
            ),
        )
    )
    between = (
        alt.Chart(_data(days))
        .mark_rule(strokeWidth=1 if width > SMALL else 0.5, color=PALETTE["ground"])
        .encode(x=alt.X("day:T"))
    )
    return _svg(bars + between)


def bridge(of: Bridge) -> str:
    """How the balance went from its opening to its closing amount."""
    import altair as alt

    level = float(of.opening or 0)
    rows: list[dict[str, Any]] = []
    if of.opening is not None:
        rows.append({"step": "opening", "from": 0.0, "to": level, "kind": "total"})
    for name in STEPS:
        change = float(of.steps[name])
        if change:
            kind = "plus" if change > 0 else "minus"
            rows.append({"step": name, "from": level, "to": level + change, "kind": kind})
            level += change
    if of.closing is not None:
        rows.append({"step": "closing", "from": 0.0, "to": float(of.closing), "kind": "total"})
    chart = (
        alt.Chart(_data(rows), width=SMALL - 115, height=len(rows) * 18)
        .mark_bar(height=13)
        .encode(
            x=alt.X("from:Q", title=None, axis=alt.Axis(format="~s", tickCount=4)),
            x2="to:Q",
            y=alt.Y("step:N", sort=None, title=None, axis=alt.Axis(grid=False)),
            color=alt.Color(
                "kind:N",
                legend=None,
                scale=alt.Scale(
                    domain=["total", "plus", "minus"], range=[PALETTE["soft"], PALETTE["plus"], PALETTE["minus"]]
                ),
            ),
        )
    )
    return _svg(chart)


def lag(of: Sequence[Lag], at: datetime, *, width: int) -> str:
    """The percentiles by hour, in seconds on a logarithmic scale."""
    import altair as alt

    rows = [
        {"hour": hour.hour.timestamp() * 1000, "seconds": max(value, 0.5), "percentile": name}
        for hour in of
        for name, value in (("p50", hour.p50), ("p95", hour.p95))
    ]
    end = at.timestamp()
    chart = (
        alt.Chart(_data(rows), width=width - 90, height=120)
        .mark_line(point=alt.OverlayMarkDef(size=18), strokeWidth=1.5)
        .encode(
            x=_time(
                "hour",
                (end - LAG_HOURS * 3600) * 1000,
                end * 1000,
                "%b %-d, %H:%M",
                [int(end - n * 3600) * 1000 for n in ((0, 12, 24, 36) if width > SMALL else (0, 24))],
            ),
            y=alt.Y(
                "seconds:Q",
                title=None,
                scale=alt.Scale(type="log"),
                axis=alt.Axis(
                    values=[1, 10, 60, 600, 3600, 36000],
                    labelExpr="datum.value < 60 ? datum.value + ' s'"
                    " : datum.value < 3600 ? datum.value / 60 + ' min' : datum.value / 3600 + ' h'",
                ),
            ),
            color=alt.Color(
                "percentile:N",
                title=None,
                legend=alt.Legend(orient="top"),
                scale=alt.Scale(domain=["p50", "p95"], range=[PALETTE["plus"], PALETTE["minus"]]),
            ),
        )
    )
    return _svg(chart)


def _data(rows: list[dict[str, Any]]) -> alt.Data:
    import altair as alt

    return alt.Data(values=rows)  # type: ignore[no-untyped-call]


def _noon(day: date) -> int:
    return (day_start(day) + 43_200) * 1000


def _time(field: str, first: float, last: float, form: str, ticks: list[int]) -> alt.X:
    import altair as alt

    return alt.X(
        f"{field}:T",
        title=None,
        scale=alt.Scale(type="utc", domain=[first, last], nice=False),
        axis=alt.Axis(format=form, values=ticks, grid=False, labelFlush=True),
    )


def _svg(chart: alt.Chart | alt.LayerChart) -> str:
    """The chart as SVG, in placeholders, without what only scripts and tools for testing use."""
    import vl_convert

    text, line = PALETTE["text"], PALETTE["line"]
    configured = (
        chart.configure(aria=False, font="system-ui, sans-serif", background=PALETTE["ground"], padding=_PADDING)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=text, gridColor=line, domainColor=line, tickColor=line, labelFontSize=11, labelPadding=5
        )
        .configure_legend(labelColor=text, labelFontSize=11)
    )
    svg = vl_convert.vegalite_to_svg(configured.to_dict(validate=False))
    svg = _HIDDEN.sub("", _ARIA.sub("", svg))
    return _NUMBER.sub(lambda number: f"{float(number[0]):.2f}", svg)
