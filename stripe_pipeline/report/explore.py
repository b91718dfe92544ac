"""The interactive page of `stripe-pipeline explore`: a marimo app on the published file, run by the command.

Each query opens the file anew, so that it reads the version that is newest then.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Stripe")

with app.setup:
    from typing import Any

    import altair as alt
    import marimo as mo

    from stripe_pipeline import query


@app.cell
def _() -> Any:
    refresh = mo.ui.refresh(options=["30s", "5m"], label="Read again")
    return (refresh,)


@app.cell
def _() -> Any:
    live = query("SELECT count(*) AS n FROM pipeline.cursors WHERE livemode").iloc[0]["n"] > 0
    mode = "live" if live else "test"
    finance = "finance" if live else "finance_test"
    currencies = query(
        f"SELECT currency FROM {mode}.payments WHERE currency IS NOT NULL GROUP BY currency ORDER BY count(*) DESC"
    )["currency"].tolist()
    currency = mo.ui.dropdown(currencies, value=currencies[0] if currencies else None, label="Currency")
    days = mo.ui.slider(7, 365, value=60, label="Days", show_value=True, debounce=True)
    return currency, days, finance, mode


@app.cell
def _(currency: Any, days: Any, mode: Any, refresh: Any) -> Any:
    published = query("SELECT version, published_at FROM pipeline.published").iloc[0]
    mo.vstack(
        [
            mo.md(
                f"# Stripe, {mode} mode\n\nVersion {published['version']}, published"
                f" {published['published_at']:%Y-%m-%d %H:%M} UTC"
            ),
            mo.hstack([currency, days, refresh], justify="start", gap=2),
        ]
    )
    return


@app.cell
def _(currency: Any, days: Any, finance: Any, refresh: Any) -> Any:
    _ = refresh.value  # marimo runs the cell again when this changes
    trend = query(
        "SELECT day::TIMESTAMP AS day, sum(charges_decimal + refunds_decimal + disputes_decimal + fees_decimal)::DOUBLE"
        f" AS kept FROM {finance}.balance_by_day WHERE currency = '{currency.value or ''}'"
        f" AND day > current_date - {int(days.value)} GROUP BY day ORDER BY day"
    )
    chart = (
        alt.Chart(trend, height=220)
        .mark_bar()
        .encode(
            x=alt.X("day:T", title=None),
            y=alt.Y("kept:Q", title=None),
            tooltip=[alt.Tooltip("day:T"), alt.Tooltip("kept:Q", format=",.2f")],
        )
        .properties(width="container")
    )
    mo.vstack([mo.md("## Kept by day\n\nCharges less refunds, disputes and fees; today is not finished."), chart])
    return


@app.cell
def _() -> Any:
    searched = mo.ui.text(placeholder="charge, customer, invoice or status", label="Search", full_width=True)
    return (searched,)


@app.cell
def _(currency: Any, days: Any, mode: Any, refresh: Any, searched: Any) -> Any:
    _ = refresh.value

    def literal(text: str) -> str:
        return "'" + text.replace("'", "''") + "'"

    wanted = literal(searched.value.strip().lower())
    columns = ("charge", "customer", "customer_name", "invoice_number", "status", "dispute_status", "failure_code")
    found = " OR ".join(f"contains(lower({column}), {wanted})" for column in columns)
    payments = query(
        "SELECT charge, created, status, amount_decimal::DOUBLE AS amount, amount_refunded_decimal::DOUBLE AS refunded,"
        " net_total_decimal::DOUBLE AS kept, balance_currency, customer, customer_name, invoice_number, card_brand,"
        f" dispute_status, failure_code FROM {mode}.payments WHERE currency = {literal(currency.value or '')}"
        f" AND default_day > current_date - {int(days.value)} AND ({found if searched.value.strip() else 'true'})"
        " ORDER BY created DESC LIMIT 10000"
    )
    payments["created"] = payments["created"].dt.tz_convert("UTC").dt.tz_localize(None)
    mo.vstack(
        [
            mo.md("## Payments"),
            searched,
            mo.ui.table(payments, page_size=15, selection=None),
            mo.hstack(
                [
                    mo.md(f"{len(payments):,} payments"),
                    mo.download(
                        payments.to_csv(index=False).encode(), filename="payments.csv", label="Download as CSV"
                    ),
                ],
                justify="start",
                gap=2,
            ),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
