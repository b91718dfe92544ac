"""The address of a warehouse in a lake: `STRIPE_PIPELINE_WAREHOUSE` and `STRIPE_PIPELINE_WAREHOUSE_DATA`.

This module reads and checks the two values. `warehouse.ducklake` opens the lake.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stripe_pipeline.errors import SettingsError

VARIABLE = "STRIPE_PIPELINE_WAREHOUSE"
DATA_VARIABLE = "STRIPE_PIPELINE_WAREHOUSE_DATA"
_ADDRESS = re.compile(r"ducklake:(?:postgres:(?!//)(?P<options>.+)|(?P<url>postgres(?:ql)?://.+))", re.DOTALL)
_BUCKET = re.compile(r"s3://[^/\s]+(/\S*)?")


@dataclass(frozen=True)
class Lake:
    """A DuckLake whose catalog is in Postgres."""

    catalog: str = field(repr=False)
    """The Postgres database, as its client library understands it; may hold a password."""
    data: str
    """The folder or the S3 address of the Parquet files."""
    hash_key: str = field(default="", repr=False)
    """The key for hashing fields that the environment sets; empty if it sets none."""


def lake_of(environment: Mapping[str, str] = os.environ) -> Lake | None:
    """The lake that the environment names; None for a warehouse in the data folder. Raises `SettingsError`."""
    named = environment.get(VARIABLE, "").strip()
    if not named:
        return None
    address = _ADDRESS.fullmatch(named)
    if not address:  # which may hold a password
        raise SettingsError(
            f"{VARIABLE} is not the address of a warehouse",
            "Give an address like ducklake:postgresql://user:password@host/database, or unset it to keep the warehouse"
            " in the data folder",
        )
    data = environment.get(DATA_VARIABLE, "").strip()
    if not (_BUCKET.fullmatch(data) or Path(data).is_absolute()):
        raise SettingsError(
            f"{DATA_VARIABLE} does not name the place of the lake's files",
            "Give a folder that all hosts see under the same absolute path, or an address like s3://bucket/prefix",
        )
    return Lake(
        address["url"] or address["options"],
        f"{data.rstrip('/')}/",
        environment.get("STRIPE_PIPELINE_HASH_KEY", "").strip(),
    )
