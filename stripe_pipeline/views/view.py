"""The definition of a view: its name, its SELECT in each mode, its columns and its content.

This module holds the parts that all views share. Each view's SELECT is in its own module, and `catalog` lists the
views.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

MODES = {"live": True, "test": False}
"""The schemas of the views on objects, and the `livemode` of their rows."""
FINANCE = {"finance": "live", "finance_test": "test"}
"""The schemas of the finance views, each with the schema of `MODES` that its views select from."""
FIVETRAN = {"fivetran": "live", "fivetran_test": "test"}
"""The schemas of the views with Fivetran's columns, as `FINANCE`; they exist if the settings ask for them. Not one for
both modes: dbt_stripe does not tell live from test balance transactions."""
BI = {"bi": "live", "bi_test": "test"}
"""The schemas of the views for BI tools, as `FINANCE`; they exist if the settings ask for them."""
BELOW = {**FINANCE, **FIVETRAN, **BI}
"""The schemas whose views select from those of another schema, and that schema."""
SCHEMAS = {**MODES, **{schema: MODES[below] for schema, below in BELOW.items()}}
"""All schemas of views, and the `livemode` of their rows."""


@dataclass(frozen=True)
class DescribedColumn:
    """A column of a table or view as people see it."""

    name: str
    sql_type: str
    """As DuckDB writes the type, except TIMESTAMPTZ."""
    description: str = ""
    """Plain text or Markdown, without a full stop."""
    nullable: bool = True
    sources: tuple[tuple[str, str], ...] = ()
    """The table and the column of each value that the column is computed from; empty if this is not declared."""
    rules: frozenset[str] | None = None
    """What the settings do to values of the column: `excluded`, for example for some nested fields, and `hashed`. None
    for what they do to the whole of `sources`."""


def with_sources(
    columns: Iterable[DescribedColumn], sources: Mapping[str, str], *, table: str = ""
) -> Iterator[DescribedColumn]:
    """The columns with their sources, which `sources` has by the column's name, as in `charges.id refunds.status`.

    A column that is not in `sources` is computed from the column of `table` with the same name, if there is a table.
    """
    for column in columns:
        named = sources.get(column.name, f"{table}.{column.name}" if table else "")
        pairs = [source.partition(".") for source in named.split()]
        yield replace(column, sources=tuple((of, name) for of, _, name in pairs))


@dataclass(frozen=True, kw_only=True)
class View:
    """One view, which exists in a schema of each mode."""

    name: str
    title: str
    """The name shown to people."""
    description: str
    """The meaning of one row, in sentences."""
    describe: Callable[[], tuple[DescribedColumn, ...]]
    """Returns the columns in the order of the SELECT; a sync needs none of the descriptions."""
    tables: tuple[str, ...]
    """Names of the object types shown."""
    rows_of: str | None
    """The one of `tables` whose objects each have one row in the view; None for a view that groups or unites rows.
    Dagster shows the number of these objects, as counting the view's own rows would run its query at every sync."""
    select: Callable[[str], str]
    """The SELECT in one of `schemas`."""
    schemas: tuple[str, ...] = tuple(MODES)
    """The schemas in which the view exists, one for each mode: those of `MODES` or of `BELOW`."""

    @property
    def columns(self) -> tuple[DescribedColumn, ...]:
        """The columns in the order of the SELECT."""
        return self.describe()

    @property
    def on_one_table(self) -> bool:
        """Whether this is the view on the base table of its name; other schemas may have views of the
        same name."""
        return self.schemas == tuple(MODES) and self.tables == (self.name,)
