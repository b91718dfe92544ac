"""Which fields an object has in an API version, from `types.yaml` and `shapes.yaml`."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

VERSIONS = (
    "2020-08-27",
    "2023-08-16",
    "2024-06-20",
    "2024-12-18.acacia",
    "2025-02-24.acacia",
    "2025-10-29.clover",
    "2026-03-25.dahlia",
)
"""The API versions of the recorded responses."""

_SECTION = re.compile(r"(?P<part>fields|sometimes|) ?(since (?P<since>\S+))? ?(before (?P<before>\S+))?")


@dataclass(frozen=True)
class Fields:
    """The fields of an object in one API version, with their shapes by name."""

    always: dict[str, Any] = field(default_factory=dict)
    sometimes: dict[str, Any] = field(default_factory=dict)
    """Fields that not every object has."""


def is_declared(kind: str) -> bool:
    """Whether there are objects of this kind in any version."""
    return kind in _sections()


@functools.cache
def declared_fields(kind: str, version: str) -> Fields:
    """The fields of an object, or of a nested shape, in an API version."""
    fields = Fields()
    for name, shapes in _sections()[kind].items():
        section = _SECTION.fullmatch(name)
        assert section is not None, f"{kind} has a section {name!r}"
        since, before = section["since"] or "", section["before"] or "9999"
        if since <= version < before:
            (fields.sometimes if section["part"] == "sometimes" else fields.always).update(shapes)
    # A field that every object of this version has is not an occasional one.
    for name in fields.always.keys() & fields.sometimes.keys():
        del fields.sometimes[name]
    return fields


@functools.cache
def _sections() -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    return dict(_read("types.yaml")) | dict(_read("shapes.yaml"))


def _read(name: str) -> Iterator[tuple[str, Mapping[str, Mapping[str, Any]]]]:
    yield from yaml.safe_load((Path(__file__).parent / name).read_text(encoding="utf-8")).items()
