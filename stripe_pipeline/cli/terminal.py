"""The consoles that commands print on, and how they print errors."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

# Messages may hold brackets, colons and paths, and no markup.
out = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def complain(error: object) -> None:
    """Print an error."""
    err.print(Text.assemble(("error: ", "red"), str(error)))
