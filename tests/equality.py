"""Tensors that are equal to the last bit."""

from __future__ import annotations

from typing import Any

from torch.testing import assert_close


def assert_equal(actual: Any, expected: Any) -> None:
    """Sequences have equal tensors in the same places, mappings under the same names."""
    assert_close(actual, expected, rtol=0, atol=0)
