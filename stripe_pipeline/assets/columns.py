"""Columns as asset pages show them. `views` decides which columns there are."""

from collections.abc import Iterable

import dagster as dg

from stripe_pipeline.views.view import DescribedColumn

SCHEMA = "dagster/column_schema"


def table_schema(columns: Iterable[DescribedColumn]) -> dg.TableSchema:
    """The columns of a table or view."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                column.sql_type,
                description=column.description or None,
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
            )
            for column in columns
        ]
    )
