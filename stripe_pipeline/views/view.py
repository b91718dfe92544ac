"""The definition of a view: its name, its SELECT in each mode, its columns and its content.

This module holds the parts that all views share. Each view's SELECT is in its own module, and `catalog` lists the
views.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MODES = {"live": True, "test": False}
"""The schemas of the views, and the `livemode` of their rows."""


@dataclass(frozen=True)
class DescribedColumn:
    """A column of a table or view as people see it."""

    name: str
    sql_type: str
    """As DuckDB writes the type, except TIMESTAMPTZ."""
    description: str = ""
    """Plain text or Markdown, without a full stop."""
    nullable: bool = True


@dataclass(frozen=True, kw_only=True)
class View:
    """One view, which exists in the schema of each mode."""

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
    """The SELECT in a schema of `MODES`."""

    @property
    def columns(self) -> tuple[DescribedColumn, ...]:
        """The columns in the order of the SELECT."""
        return self.describe()
