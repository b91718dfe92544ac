"""Opening what readers may see, read-only: the published file here or in a bucket, or the lake.

`publisher` writes the published file, `bucket` sends it to a bucket.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from stripe_pipeline.data_folder import CATALOG, DataFolder
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.lake import Lake


@contextmanager
def open_published(folder: DataFolder) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to the newest published version, or to the lake as it is now. On a machine without the published
    file, the version is the one in the bucket that `STRIPE_PIPELINE_PUBLISH` names.

    Raises `WarehouseError` if nothing has been published yet.
    """
    if folder.lake:
        with _open_lake(folder.lake) as connection:
            yield connection
    elif folder.published.exists():
        with duckdb.connect(str(folder.published), read_only=True) as connection:
            yield connection
    elif folder.bucket:
        from stripe_pipeline.warehouse.bucket import Bucket

        with Bucket(folder, folder.bucket).open() as connection:
            yield connection
    else:
        raise WarehouseError(f"{folder.published} does not exist yet", "Run `stripe-pipeline sync` first")


@contextmanager
def _open_lake(lake: Lake) -> Iterator[duckdb.DuckDBPyConnection]:
    from stripe_pipeline.warehouse.ducklake import attach_lake
    from stripe_pipeline.warehouse.lake_catalog import place_of

    with duckdb.connect(":memory:") as connection:
        try:
            attach_lake(connection, lake, read_only=True)
            connection.execute(f"USE {CATALOG}")
            published = connection.execute("SELECT version FROM pipeline.published").fetchall()
        except duckdb.Error:  # whose message may show the password
            published = []
        if not published:
            raise WarehouseError(
                f"{place_of(lake)} cannot be read, or holds no data yet",
                "Run `stripe-pipeline sync`, which says what is wrong",
            )
        yield connection
