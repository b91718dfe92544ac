"""An asset of the project, downstream of a view of stripe_pipeline."""

import dagster as dg

import stripe_pipeline


@dg.asset(
    deps=[dg.AssetKey(["live", "payments"])],
    # Whenever payments have changed; switch `default_automation_condition_sensor` on.
    automation_condition=dg.AutomationCondition.eager(),
    kinds={"duckdb"},
)
def daily_revenue() -> dg.MaterializeResult[None]:
    """What the shop took per day and currency, before fees."""
    revenue = stripe_pipeline.query(
        "SELECT default_day AS day, currency, sum(amount_decimal - amount_refunded_decimal) AS revenue"
        " FROM live.payments WHERE paid AND captured GROUP BY ALL ORDER BY ALL"
    )
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(revenue),
            "last days": dg.MetadataValue.md(f"```\n{revenue.tail(10).to_string(index=False)}\n```"),
        }
    )
