"""Launches the GPU kernels of F(LayerNorm(x))."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from kat.ops.arguments import compute_dtype
from kat.ops.triton import norm_kernels
from kat.ops.triton.launch import (
    BACKWARD_PROGRAMS,
    FORWARD_PROGRAMS,
    INT32_ELEMENTS,
    LANES,
    SEGMENT,
    VECTOR_BYTES,
    CoefficientSums,
    constants,
    multiprocessors,
)

LONGEST_VECTOR = 4
"""Elements. With more, the sums of the backward kernel do not fit the registers."""
MOST_LANES = 1024
"""The most threads of a program, one a lane."""


@dataclass(frozen=True)
class RowSharing:
    """How rows are divided among programs; see :mod:`kat.ops.triton.norm_kernels`.

    Attributes:
        vector: elements in a vector.
        width: vectors in a row.
        run: vectors of a group in a row.
        columns: lanes of a row.
        rows: rows that a program holds at a time.
        programs: the size of the grid.
    """

    vector: int
    width: int
    run: int
    columns: int
    rows: int
    programs: int

    @classmethod
    def of(
        cls, rows: int, channels: int, groups: int, itemsize: int, programs: int, processors: int
    ) -> RowSharing:
        """Divides ``rows``, among ``programs`` of the usual size on each multiprocessor."""
        run = channels // groups
        vector = math.gcd(run, LONGEST_VECTOR, VECTOR_BYTES // itemsize)
        width = channels // vector
        columns = triton.next_power_of_2(width)
        together = max(1, LANES // columns)
        target = max(1, programs * LANES // (together * columns)) * processors
        grid = min(triton.cdiv(rows, together), target)
        return cls(vector, width, run // vector, columns, together, grid)

    @property
    def lanes(self) -> int:
        """Lanes of a program."""
        return self.rows * self.columns

    def constants(self, rows: int) -> dict[str, Any]:
        """The kernels' constants. WIDE: some offset needs int64."""
        reach = (rows + self.programs * self.rows) * self.columns * self.vector
        return {
            "V": self.vector,
            "ROWS": self.rows,
            "COLUMNS": self.columns,
            "WIDE": reach >= INT32_ELEMENTS,
        }

    def options(self) -> dict[str, Any]:
        """Of the compiler."""
        return {"num_warps": self.lanes // 32, "enable_fp_fusion": True}

    def segment(self, shared: bool) -> int:
        """As :meth:`kat.ops.triton.launch.Sharing.segment`."""
        return SEGMENT if shared else math.gcd(self.run, SEGMENT)

    def partials(self, shared: bool) -> tuple[int, int, int, int]:
        """As :meth:`kat.ops.triton.launch.Sharing.partials`."""
        segment = self.segment(shared)
        total = self.programs * self.lanes // segment
        if shared:
            return total, total, 0, total
        width = self.run // segment
        return total, self.programs * self.rows * width, self.columns // segment, width


def fits(x: Tensor, numerator: Tensor, denominator: Tensor) -> bool:
    """Whether a program holds a row of x."""
    return _share(x, numerator, denominator, 1).columns <= MOST_LANES


def forward_into(
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    eps: float,
    form: str,
) -> None:
    """y <- F(LayerNorm(x)); arguments as in :func:`kat.ops.cpu.norm.forward_into`."""
    a, b = numerator.contiguous(), denominator.contiguous()
    share, count = _share(x, a, b, FORWARD_PROGRAMS), x.shape[:-1].numel()
    with torch.cuda.device_of(x):
        norm_kernels.forward_kernel[(share.programs,)](
            *(x, y, weight.contiguous(), bias.contiguous(), a, b, count, share.width, share.run),
            **constants(x, a, b, form),
            **share.constants(count),
            EPS=eps,
            **share.options(),
        )


def backward_into(
    dx: Tensor,
    y: Tensor | None,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    eps: float,
    form: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fills dx, and y if given; returns the gradients of weight, bias and the coefficients.

    Arguments as in :func:`kat.ops.cpu.norm.backward_into`.
    """
    a, b = numerator.contiguous(), denominator.contiguous()
    weight, bias = weight.contiguous(), bias.contiguous()
    share, count = _share(x, a, b, BACKWARD_PROGRAMS), x.shape[:-1].numel()
    sums = CoefficientSums(share, a, b)
    partial = torch.empty(
        share.programs, 2, x.shape[-1], dtype=compute_dtype(x.dtype), device=x.device
    )
    tensors = (grad, x, dx, dx if y is None else y, weight, bias, a, b, partial, *sums.tensors)
    with torch.cuda.device_of(x):
        for scaled in (False, True):
            norm_kernels.backward_kernel[(share.programs,)](
                *(*tensors, count, share.width, share.run),
                **constants(x, a, b, form),
                **share.constants(count),
                **sums.constants,
                EPS=eps,
                STORE_Y=y is not None,
                SCALED=scaled,
                **share.options(),
            )
        da, db = sums.reduced(form)
    d_weight, d_bias = partial.sum(0, dtype=torch.float64)
    return d_weight, d_bias, da, db


def _share(x: Tensor, numerator: Tensor, denominator: Tensor, programs: int) -> RowSharing:
    channels, groups = x.shape[-1], max(numerator.shape[0], denominator.shape[0])
    processors = multiprocessors(x.device)
    rows = x.shape[:-1].numel()
    return RowSharing.of(rows, channels, groups, x.element_size(), programs, processors)
