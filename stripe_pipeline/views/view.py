"""What a view of the file is: its name, its SELECT in each mode, its columns and what it shows.

Here belongs what all views have in common. Each view's own SELECT stands in a module of its own, and `catalog` lists
them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MODES = {"live": True, "test": False}
"""The schemas of the views, and the `livemode` of what they show."""


@dataclass(frozen=True)
class DescribedColumn:
    """A column of a table or view as people see it."""

    name: str
    sql_type: str
    """As DuckDB writes it, but TIMESTAMPTZ."""
    description: str = ""
    """Plain text or Markdown, without a full stop."""
    nullable: bool = True


@dataclass(frozen=True, kw_only=True)
class View:
    """One view, which exists in the schema of each mode."""

    name: str
    title: str
    """What people call it."""
    description: str
    """What one row is, in sentences."""
    columns: tuple[DescribedColumn, ...]
    """In the order of the SELECT."""
    tables: tuple[str, ...]
    """Names of the object types that it shows. It has a row for each row of the first one that exists in Stripe."""
    select: Callable[[str], str]
    """The SELECT in a schema of `MODES`."""
