"""The CPU kernel as a caller sees it: whether it is available, and loaded again."""

from __future__ import annotations

import pytest
import torch

import kat
from kat.errors import BackendUnavailable
from kat.ops.cpu.library import find_library


def problem() -> str:
    """Why the CPU kernel is unavailable; empty if it is not."""
    try:
        kat.rational(torch.zeros(1), torch.zeros(1, 2), torch.zeros(1, 1), impl="cpu")
    except BackendUnavailable as error:
        return str(error)
    return ""


def load_again() -> None:
    """Makes the next call look for the kernel again, with the environment as it is then."""
    find_library.cache_clear()


needs_kernel = pytest.mark.skipif(bool(problem()), reason=problem())
each_backend = pytest.mark.parametrize(
    "impl", ["reference", pytest.param("cpu", marks=needs_kernel)]
)
