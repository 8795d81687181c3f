"""Marks of cases, for ``pytest.mark.parametrize``."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest

both_forms = pytest.mark.parametrize("form", ["A", "B"])
"""A test of the rational function P / Q in each of its two forms."""


def most_at_night(cases: Iterable[Any], always: Collection[Any]) -> list[Any]:
    """All cases in their order; those that are not in ``always`` have the mark ``release``.

    A case is a value, or a tuple of the values of several arguments.
    """
    listed = list(cases)
    assert all(case in listed for case in always)
    found = []
    for case in listed:
        values = case if isinstance(case, tuple) else (case,)
        marks = () if case in always else pytest.mark.release
        found.append(pytest.param(*values, marks=marks))
    return found
