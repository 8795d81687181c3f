"""The size of a block of rows, from the caches of the processor."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from kat.ops.torch_internals import constant_when_compiled

_LEAST_ROWS = 32
_LARGEST_BLOCK = 1 << 24
"""Bytes of the widest layer."""
_LEVEL_2 = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
_UNKNOWN_CACHE = 1 << 20
"""The size of a second-level cache that is assumed where the system does not tell."""


def block_rows(row_bytes: int) -> int:
    """Return the largest number of rows in a block: what twice the second-level caches hold.

    Then a block is in the caches of second and third level, and products are not too small.

    Args:
        row_bytes: of the widest layer.
    """
    return max(_LEAST_ROWS, block_bytes() // row_bytes)


def block_bytes() -> int:
    """Return the most bytes of the widest layer in a block."""
    return min(2 * least_bytes(), _LARGEST_BLOCK)


@constant_when_compiled
def least_bytes() -> int:
    """Return the size of the second-level caches: of a widest layer from which blocks are faster.

    A smaller layer stays in the caches by itself, and what Python does for a block takes longer
    than blocks save.
    """
    return second_level_cache() * torch.get_num_threads()


@functools.cache
def second_level_cache() -> int:
    """Return the size of one core's second-level cache in bytes, as Linux tells it."""
    try:
        return int(_LEVEL_2.read_text().strip().removesuffix("K")) << 10
    except (OSError, ValueError):
        return _UNKNOWN_CACHE


def widest_bytes(x: Tensor, widths: Sequence[int]) -> int:
    """Return the size of the widest of x (..., d_in) and layers of these widths."""
    d_in = x.shape[-1]
    return x.numel() // (d_in or 1) * max((d_in, *widths)) * x.element_size()
