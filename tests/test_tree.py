"""The package's structure: which modules may import which, no cycles, and how long files and classes may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = (
    *("__main__", "cli", "component", "definitions", "automation", "assets", "resources", "preflight", "report"),
    *("sync", "warehouse", "proof", "views", "settings", "webhooks", "stripe_api", "inbox", "html_page"),
    *("fields", "rows", "batch", "run_locks", "postgres", "sqlite_files", "permissions", "data_folder"),
    *("published_folder", "lake", "storage_errors", "identity", "addresses", "project_files", "odd_json", "objects"),
    *("days", "errors", "__init__"),
)
"""Packages and modules from top to bottom: each may import itself and what stands below it."""
LARGEST_FILE = 500
LARGEST_CLASS = 250
DECLARATIONS = {
    *ROOT.glob("stripe_pipeline/objects/*.py"),
    ROOT / "stripe_emulator/templates.py",
    ROOT / "stripe_pipeline/views/fivetran/tables.py",
}
"""Files that hold data, which is read by looking for one entry."""


def modules(package: str) -> dict[str, Path]:
    """The modules of a package by dotted name, packages without `__init__`."""
    files = sorted((ROOT / package).rglob("*.py"))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imported(file: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules among `known` that a file imports, in functions and for types, too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            of_package = {f"{node.module}.{alias.name}" for alias in node.names} & known.keys()
            yield from of_package or {node.module}


def graph(package: str) -> dict[str, set[str]]:
    """The modules of a package that each module of that package imports."""
    known = modules(package)
    return {name: set(imported(file, known)) - {name} for name, file in known.items()}


def layer(module: str) -> int:
    """The place of a module's layer, counted from the top."""
    _, _, rest = module.partition(".")
    return LAYERS.index(rest.split(".")[0] or "__init__")


def test_every_module_belongs_to_a_layer() -> None:
    names = {name.split(".")[1] for name in modules("stripe_pipeline") if "." in name}
    assert names == set(LAYERS) - {"__init__"}


def test_imports_point_down() -> None:
    upwards = [
        f"{module} imports {target}"
        for module, targets in graph("stripe_pipeline").items()
        if module != "stripe_pipeline"
        for target in targets
        if layer(target) < layer(module)
    ]
    assert upwards == []


@pytest.mark.parametrize("package", ["stripe_pipeline", "stripe_emulator"])
def test_no_modules_import_each_other(package: str) -> None:
    TopologicalSorter(graph(package)).prepare()  # raises CycleError, which names the cycle


def test_the_pipeline_does_not_need_the_emulator() -> None:
    emulator = modules("stripe_emulator")
    needing = {name for name, file in modules("stripe_pipeline").items() if set(imported(file, emulator))}
    assert needing == set()


@pytest.mark.parametrize("package", ["stripe_pipeline", "stripe_emulator"])
def test_files_and_classes_are_short(package: str) -> None:
    too_large = []
    for file in set(modules(package).values()) - DECLARATIONS:
        text = file.read_text()
        if len(text.splitlines()) > LARGEST_FILE:
            too_large.append(str(file.relative_to(ROOT)))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and (node.end_lineno or 0) - node.lineno >= LARGEST_CLASS:
                too_large.append(f"{file.relative_to(ROOT)}: {node.name}")
    assert too_large == []


def test_reading_the_settings_does_not_import_slow_packages() -> None:
    modules_loaded = (
        "import sys, stripe_pipeline.settings.loading; print(*{name.split('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", modules_loaded], capture_output=True, text=True, check=True).stdout
    assert {"stripe", "duckdb", "dagster", "pandas"} & set(loaded.split()) == set()
