"""Payments, invoices, customers and balance from Stripe in DuckDB, equal to Stripe, kept fresh by Dagster.

For notebooks: `stripe_pipeline.query("SELECT … FROM live.charges")` gives a DataFrame of the published file.
For Dagster projects: the component `stripe_pipeline.StripeWarehouse`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from stripe_pipeline.component import StripeWarehouse

__all__ = ["StripeWarehouse", "query"]


def __getattr__(name: str) -> object:
    # Importing Dagster takes a second, which commands and notebooks need not wait for.
    if name == "StripeWarehouse":
        from stripe_pipeline.component import StripeWarehouse

        return StripeWarehouse
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    # `dg list components` looks here.
    return sorted({*globals(), *__all__})


def query(sql: str, *, pipeline: str = "stripe") -> pd.DataFrame:
    """The result of `sql` on the published file, as a DataFrame.

    Opens the version that is newest now, read-only, and closes it again: the one in the data folder, or on machines
    without it, the one in the bucket that `STRIPE_PIPELINE_PUBLISH` names. `pipeline`: the name of the pipeline, if a
    project has several. Raises `WarehouseError` if nothing has been published yet, and DuckDB's own errors for the SQL.
    """
    from stripe_pipeline.settings.configuration import Configuration
    from stripe_pipeline.warehouse.readers import open_published

    with open_published(Configuration(pipeline).folder) as connection:
        return connection.execute(sql).df()
