"""The comments in the file: every table, view and column says what it means, in each version of DuckDB."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest

from stripe_emulator import Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.objects.descriptions import FIELDS, OF_TYPE
from tests.conftest import MakePipeline
from tests.documents.test_readme import READERS, read
from tests.stripe_state import ask, days_ago

WITHOUT = """
    SELECT * FROM (
        SELECT schema_name || '.' || table_name || '.' || column_name AS name, comment, internal FROM duckdb_columns()
        UNION ALL SELECT schema_name || '.' || view_name, comment, internal FROM duckdb_views()
        UNION ALL SELECT schema_name || '.' || table_name, comment, internal FROM duckdb_tables()
    )
    WHERE NOT internal AND coalesce(comment, '') = ''
"""
pytestmark = pytest.mark.comments_of_columns
EVERY_TYPE: dict[str, Any] = {name: {"enabled": True} for name in OBJECT_TYPES}


def comments(folder: DataFolder, *, table: str = "charges", schema: str = "raw") -> dict[str, str]:
    """The comments of the columns of a table or view in the published file."""
    sql = f"SELECT column_name, comment FROM duckdb_columns() WHERE schema_name = '{schema}' AND table_name = '{table}'"
    return dict(ask(folder.published, sql))


@pytest.mark.parametrize("version", READERS)
def test_every_table_view_and_column_has_a_comment(
    make_pipeline: MakePipeline, folder: DataFolder, version: str
) -> None:
    make_pipeline().sync()
    columns = "SELECT count(*) FROM duckdb_columns() WHERE NOT internal"
    [without, [[number]]] = read(folder.published, version, [WITHOUT, columns])
    assert without == []
    assert int(number) > 1000


def test_every_type_has_comments_on_all_its_columns_and_no_column_twice(
    make_pipeline: MakePipeline, folder: DataFolder
) -> None:
    pipeline = make_pipeline(objects=EVERY_TYPE)
    pipeline.warehouse.load([])
    pipeline.publish()
    assert ask(folder.published, WITHOUT) == []
    [(tables,)] = ask(folder.published, "SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'raw'")
    assert tables == len(OBJECT_TYPES)
    renamed = (
        "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal AND regexp_matches(column_name, '_1$')"
    )
    assert ask(folder.published, renamed) == []  # DuckDB's name for the second of two columns


def test_descriptions_are_of_fields_that_exist() -> None:
    fields = {column.name for object_type in OBJECT_TYPES.values() for column in object_type.columns}
    assert set(FIELDS) - fields == set()
    assert {(t, name) for t, of in OF_TYPE.items() for name in of if name not in OBJECT_TYPES[t].column_names} == set()
    texts = [*FIELDS.values(), *(text for of in OF_TYPE.values() for text in of.values())]
    assert [text for text in texts if not text or text.endswith(".")] == []


def test_comments_follow_the_settings_in_a_file_that_exists(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.create_payment(created=days_ago(shop, 2))
    make_pipeline().sync()
    assert comments(folder)["receipt_email"] == "Email address to which the receipt is sent"
    before = comments(folder, schema="test")
    assert before["default_day"] == "Day of `created` (UTC)"
    fields = {"exclude": ["description", "billing_details.phone"], "hash": ["receipt_email"]}
    make_pipeline(objects={"charges": {"fields": fields, "date_field": "created"}}, time_zone="Europe/Berlin").sync()
    after = comments(folder)
    assert after["receipt_email"] == "Email address to which the receipt is sent. Hashed"
    assert after["billing_details"] == "Name and contact data given for the payment. Without `phone`"
    assert "description" not in after
    assert "description" not in comments(folder, schema="test")
    assert comments(folder, schema="test")["default_day"] == "Day of `created` (Europe/Berlin)"
    assert ask(folder.published, WITHOUT) == []


def test_comments_stay_when_the_file_is_compacted_and_when_views_are_created_anew(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.create_payment(created=days_ago(shop, 2))
    pipeline = make_pipeline()
    pipeline.sync()
    before = comments(folder), comments(folder, schema="test", table="payments")
    inode = folder.private.stat().st_ino
    with pipeline.warehouse.file.locked(), pipeline.warehouse.file.attached() as connection:
        pipeline.warehouse.file.compact(connection)
    assert folder.private.stat().st_ino != inode, "the file was not rewritten"
    pipeline.publish()
    assert (comments(folder), comments(folder, schema="test", table="payments")) == before
    assert ask(folder.published, WITHOUT) == []
    pipeline.warehouse.make_views(["test.payments"])
    pipeline.publish()
    assert ask(folder.published, WITHOUT) == []


def test_comments_that_a_run_did_not_write_are_written_by_the_next_publish(
    make_pipeline: MakePipeline, folder: DataFolder
) -> None:
    make_pipeline().warehouse.load([])
    make_pipeline(bi=True).warehouse.load([])  # makes the views anew, and ends before it publishes
    assert ask(folder.private, WITHOUT) != []
    make_pipeline(bi=True).publish()
    assert ask(folder.published, WITHOUT) == []


def test_duckdb_stores_no_comments_on_schemas() -> None:
    """When this fails, `warehouse.comments` can describe the schemas, too."""
    with duckdb.connect() as connection:
        connection.execute("CREATE SCHEMA live")
        with pytest.raises(duckdb.Error, match="comments to schemas is not implemented"):
            connection.execute("COMMENT ON SCHEMA live IS 'Live mode'")
