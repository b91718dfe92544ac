"""Payments, invoices, customers and balance from Stripe in DuckDB, equal to Stripe, kept fresh by Dagster.

For notebooks: `stripe_pipeline.query("SELECT … FROM live.charges")` gives a DataFrame of the published file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["query"]


def query(sql: str) -> pd.DataFrame:
    """The result of `sql` on the published file, as a DataFrame.

    Opens the version that is newest now, read-only, and closes it again. Raises `WarehouseError` if nothing has been
    published yet, and DuckDB's own errors for the SQL.
    """
    import duckdb

    from stripe_pipeline.data_folder import DataFolder
    from stripe_pipeline.errors import WarehouseError

    published = DataFolder.from_environment().published
    if not published.exists():
        raise WarehouseError(f"{published} does not exist yet", "Run `stripe-pipeline sync` first")
    with duckdb.connect(str(published), read_only=True) as connection:
        return connection.execute(sql).df()
