"""The formulas by which ``torch.utils.flop_counter`` counts the operators.

``import kat`` registers them as soon as ``torch.utils.flop_counter`` is imported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from kat.ops import operators  # noqa: F401  (registers what is counted)


def rational_flops(elements: int, degree: tuple[int, int]) -> int:
    """2m + 2n + 3 per element: two Horner chains, an absolute value, an addition, a division.

    Source: arXiv 2409.10594, section 4.3.
    """
    m, n = degree
    return elements * (2 * m + 2 * n + 3)


@register_flop_formula(torch.ops.kat.rational)
def _count_forward(
    x: Sequence[int], numerator: Sequence[int], denominator: Sequence[int], v: Any = None, **_: Any
) -> int:
    """Return the FLOPs of F(x); the elementwise product with a gate's v is not counted."""
    return rational_flops(math.prod(x), (numerator[1] - 1, denominator[1]))


@register_flop_formula(torch.ops.kat.rational_backward)
def _count_backward(
    grad: Sequence[int],
    x: Sequence[int],
    numerator: Sequence[int],
    denominator: Sequence[int],
    v: Any,
    **_: Any,
) -> int:
    """7m + 7n + 5 per element: the operations of F again, and 5m + 5n + 2.

    P' and Q' take 2m + 2n - 4, dx = g (P' - F Q') / Q takes 4, g / Q and g F / Q take 2, the powers
    of x and |x| m + n - 2, and each of the m + 1 + n coefficients a product and an addition.
    """
    m, n = numerator[1] - 1, denominator[1]
    return math.prod(x) * (7 * m + 7 * n + 5)
