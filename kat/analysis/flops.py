"""Parameters and floating-point operations of a model, by counting."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from kat import ops  # noqa: F401  (registers the operator that is counted)


def rational_flops(elements: int, degree: tuple[int, int]) -> int:
    """2m + 2n + 3 for each element: two Horner chains, an absolute value, an addition, a division.

    Source: arXiv 2409.10594, section 4.3.
    """
    m, n = degree
    return elements * (2 * m + 2 * n + 3)


@register_flop_formula(torch.ops.kat.rational)
def _count_rational(
    x: torch.Size, numerator: torch.Size, denominator: torch.Size, *_: Any, **__: Any
) -> int:
    return rational_flops(torch.Size(x).numel(), (numerator[1] - 1, denominator[1]))


@dataclass
class Cost:
    """The cost of a model on one image.

    Args:
        parameters: trainable numbers.
        flops: floating-point operations of a forward pass: two for each multiply-add of a matrix
            product, 2m + 2n + 3 for each element of a rational; other elementwise work is not
            counted, as is usual.
    """

    parameters: int
    flops: int


def count(model: nn.Module, input_size: tuple[int, int, int]) -> Cost:
    """Counts a forward pass over one image, on the meta device: no arithmetic is done.

    Args:
        model: maps (1, C, H, W) to something.
        input_size: (C, H, W).
    """
    ghost = deepcopy(model).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        ghost(torch.empty(1, *input_size, device="meta"))
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Cost(parameters, counter.get_total_flops())
