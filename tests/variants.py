"""Divides the cases of a parametrized test between `make test` and `make test-thorough`.

For tests whose further cases repeat a mechanism with other values. A test without cases that takes long has the mark
`thorough` itself.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest


def varied(values: Iterable[object], *, quick: int = 1) -> list[pytest.ParameterSet]:
    """The cases for `parametrize`, with the mark `thorough` on all but the first `quick`.

    A tuple has the values of several arguments.
    """
    cases = [_case(value) for value in values]
    return cases[:quick] + [
        pytest.param(*case.values, marks=[*case.marks, pytest.mark.thorough], id=case.id) for case in cases[quick:]
    ]


def _case(value: object) -> pytest.ParameterSet:
    if isinstance(value, pytest.ParameterSet):
        return value
    return pytest.param(*value) if isinstance(value, tuple) else pytest.param(value)
