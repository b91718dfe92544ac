"""How DuckDB reaches S3, or a server in its place.

This module writes DuckDB's secret. `bucket` and `ducklake` say with which credentials.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import duckdb

from stripe_pipeline.warehouse.sql import literal


def endpoint_url() -> str | None:
    """The address of the server in place of S3 that AWS's standard variables name."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def create_secret(
    connection: duckdb.DuckDBPyConnection,
    *,
    key_id: str | None,
    secret: str | None,
    session_token: str | None,
    region: str | None,
) -> None:
    """Lets the connection use these credentials. A server in place of S3 is asked with the bucket in the path of the
    address: its certificate and its name need not know the bucket. Certificates are verified with the file that AWS's
    standard variable names, if any."""
    options = {"KEY_ID": key_id, "SECRET": secret, "SESSION_TOKEN": session_token, "REGION": region}
    given = [f"{name} {literal(value)}" for name, value in options.items() if value]
    if address := endpoint_url():
        server = urlsplit(address)
        given += [f"ENDPOINT {literal(server.netloc)}", "URL_STYLE 'path'", f"USE_SSL {server.scheme == 'https'}"]
    connection.execute(f"CREATE OR REPLACE SECRET (TYPE s3, {', '.join(given)})")
    if authorities := os.environ.get("AWS_CA_BUNDLE"):
        # For the session alone it does not apply where a file is attached.
        connection.execute(f"SET GLOBAL ca_cert_file = {literal(authorities)}")


def create_secret_of_environment(connection: duckdb.DuckDBPyConnection) -> None:
    """Lets the connection use the credentials in the environment."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION")
    key_id, secret, token, region, default_region = map(os.environ.get, names)
    create_secret(connection, key_id=key_id, secret=secret, session_token=token, region=region or default_region)
