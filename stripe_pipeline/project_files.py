"""The files that begin a project: `dagster.yaml`, `stripe_pipeline.yaml`, `.env`.

This module holds their texts. `cli.project` writes them, and `component` makes a `defs.yaml` of the settings.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGED = Path(__file__).parent / "project"
"""In a wheel; pyproject.toml copies the files there."""
_CLONE = Path(__file__).parents[1]


def template(name: str) -> str:
    """The text of `dagster.yaml`, `stripe_pipeline.yaml` or `.env.example`."""
    packaged = _PACKAGED / name
    return (packaged if packaged.is_file() else _CLONE / name).read_text(encoding="utf-8")
