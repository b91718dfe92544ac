"""What docs/connect.md says about opening the file and about seeing new rows, for the tools that run here."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from stripe_emulator import Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.sync.pipeline import Pipeline
from tests.conftest import MakePipeline
from tests.documents.test_readme import CLI, REPOSITORY, not_installed
from tests.stripe_state import days_ago

ENGINE = REPOSITORY / ".venv/duckdb-engine"
PAGE = (REPOSITORY / "docs/connect.md").read_text(encoding="utf-8")
VERSION = "SELECT version FROM pipeline.published"

SQLALCHEMY = """
import sys
import sqlalchemy as sa
pools = {"default": {}, "null": {"poolclass": sa.pool.NullPool}}
engines = {
    name: sa.create_engine("duckdb:///" + sys.argv[1], connect_args={"read_only": True}, **pool)
    for name, pool in pools.items()
}
def show():
    for name, engine in engines.items():
        with engine.connect() as connection:
            version = connection.execute(sa.text("SELECT version FROM pipeline.published")).scalar()
            amounts = connection.execute(sa.text("SELECT amount_decimal, created FROM bi_test.payments")).all()
        print(name, version, *(type(value).__name__ for value in amounts[0]), flush=True)
show()
for line in sys.stdin:
    if line.strip() == "dispose":
        engines["default"].dispose()
    show()
"""


@pytest.fixture
def publishing(make_pipeline: MakePipeline, shop: Shop) -> Pipeline:
    """A pipeline with views for BI tools, which has published a file with one payment."""
    shop.create_payment(created=days_ago(shop, 2))
    pipeline = make_pipeline(bi=True)
    pipeline.sync()
    return pipeline


def publish(pipeline: Pipeline, folder: DataFolder, shop: Shop) -> None:
    """Publish another version."""
    before = folder.published.resolve()
    shop.create_customer()
    pipeline.sync()
    assert folder.published.resolve() != before


def test_duckdbs_command_line_sees_new_rows_after_it_opens_the_file_again(
    publishing: Pipeline, folder: DataFolder, shop: Shop
) -> None:
    assert "`.open --readonly data/stripe.duckdb`" in PAGE
    if not CLI.exists():
        not_installed("DuckDB's command line")
    with subprocess.Popen(
        [sys.executable, CLI, "-readonly", "-csv", "-noheader", folder.published],
        env=os.environ | {"PYTHONPATH": f"{CLI.parent.parent}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as cli:
        assert cli.stdin is not None
        assert cli.stdout is not None

        def version() -> int:
            print(f"{VERSION};", file=cli.stdin, flush=True)
            return int(cli.stdout.readline())  # type: ignore[union-attr]

        first = version()
        publish(publishing, folder, shop)
        assert version() == first
        print(f".open --readonly {folder.published}", file=cli.stdin, flush=True)
        assert version() > first
        cli.stdin.close()


def test_sqlalchemy_sees_new_rows_with_each_connection_or_when_its_pool_is_disposed(
    publishing: Pipeline, folder: DataFolder, shop: Shop
) -> None:
    assert "poolclass=sa.pool.NullPool" in PAGE
    if not ENGINE.exists():
        not_installed("duckdb-engine")
    with subprocess.Popen(
        [sys.executable, "-c", SQLALCHEMY, folder.published],
        env=os.environ | {"PYTHONPATH": f"{ENGINE}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def shown() -> dict[str, int]:
            lines = [process.stdout.readline().split() for _ in range(2)]  # type: ignore[union-attr]
            assert [line[2:] for line in lines] == [["Decimal", "datetime"]] * 2
            return {line[0]: int(line[1]) for line in lines}

        first = shown()
        assert first["default"] == first["null"]
        publish(publishing, folder, shop)
        print("again", file=process.stdin, flush=True)
        second = shown()
        assert second["default"] == first["default"]
        assert second["null"] > first["null"]
        print("dispose", file=process.stdin, flush=True)
        assert shown()["default"] == second["null"]
        process.stdin.close()
