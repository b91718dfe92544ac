"""Two Stripe accounts in one code location: `dagster dev -f two_accounts.py`.

The first pipeline reads STRIPE_API_KEY into `data/stripe.duckdb`; its assets are `raw/charges`, …, its jobs `sync` and
`nightly`. The second reads STRIPE_EU_API_KEY into `data-stripe_eu/stripe.duckdb`; its assets are
`stripe_eu/raw/charges`, …, its jobs `stripe_eu_sync` and `stripe_eu_nightly`.
"""

import dagster as dg

import stripe_pipeline
from stripe_pipeline.definitions import build_defs


@dg.asset(deps=[dg.AssetKey(["live", "payments"]), dg.AssetKey(["stripe_eu", "live", "payments"])])
def revenue_of_both_accounts() -> dg.MaterializeResult[None]:
    """What both accounts took per currency, before fees."""
    sql = "SELECT currency, count(*) AS payments, sum(amount_decimal) AS gross FROM live.payments WHERE paid GROUP BY 1"
    main, europe = stripe_pipeline.query(sql), stripe_pipeline.query(sql, pipeline="stripe_eu")
    return dg.MaterializeResult(metadata={"payments": int(main["payments"].sum() + europe["payments"].sum())})


defs = dg.Definitions.merge(
    build_defs(settings={"history": "12 months"}),
    build_defs(name="stripe_eu", settings={"history": "24 months", "time_zone": "Europe/Berlin"}),
    dg.Definitions(assets=[revenue_of_both_accounts]),
)
