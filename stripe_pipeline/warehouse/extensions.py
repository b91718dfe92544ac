"""DuckDB's extensions: loading them from installed packages, else from DuckDB's own store."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

import duckdb

from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.warehouse.merge import first_line


def load_extensions(connection: duckdb.DuckDBPyConnection, names: Iterable[str]) -> None:
    """Loads extensions by name. Raises `WarehouseError` for one that is neither installed nor to be had."""
    for name in names:
        try:
            if packaged := _packaged(name):
                connection.load_extension(str(packaged))
            else:
                connection.install_extension(name)
                connection.load_extension(name)
        except duckdb.Error as error:
            package = f"duckdb-extension-{name.replace('_', '-')}=={duckdb.__version__}"
            raise WarehouseError(
                f"DuckDB {duckdb.__version__} cannot load its extension {name} ({first_line(error)})",
                f"Install the package (`pip install --no-deps {package}`), or run `INSTALL {name}` in DuckDB once where"
                " the internet can be reached",
            ) from None


def starting_options(names: Iterable[str]) -> dict[str, str]:
    """The options to start a DuckDB with that loads these extensions and runs no SQL of users.

    Those of installed packages are trusted as the other packages are: verifying DuckDB's signature reads the whole
    file, which takes 0.1 s each.
    """
    if not all(map(_packaged, names)):
        return {}
    return dict.fromkeys(("autoload_known_extensions", "autoinstall_known_extensions"), "false") | {
        "allow_unsigned_extensions": "true"
    }


def _packaged(name: str) -> Path | None:
    """The extension's file in the Python package `duckdb_extension_<name>`, if it is for this version of DuckDB."""
    package = importlib.util.find_spec(f"duckdb_extension_{name}")
    if package is None or package.origin is None:
        return None
    file = Path(package.origin).parent / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
    return file if file.exists() else None
