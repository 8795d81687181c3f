"""The GPU kernels one by one: forward, backward, and backward for x alone, of F(x) and F(x) v."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gpu.plan import STAND_IN
from kat.ops import plain
from kat.ops.arguments import Rational, compute_dtype
from kat.ops.operators import run_backward, run_forward
from kat.ops.triton import backend as triton

ARRAYS = {False: (2, 3, 3), True: (3, 5, 5)}
"""By gated: arrays of x's size that each kernel must at least read or write.

x and y; x, grad and dx. Of F(x) v also v, and dv.
"""
HUGE = 1e8
"""Its powers overflow float32, so that the kernels compute in float64."""


@dataclass(frozen=True)
class Case:
    """The arguments of a kernel.

    Attributes:
        form: "A" or "B".
        dtype: of x.
        shape: of x.
        rows: of numerator and denominator.
        gated: F(x) v.
        huge: x is about HUGE in size.
    """

    form: str
    dtype: str
    shape: tuple[int, ...]
    rows: tuple[int, int] = (1, 8)
    gated: bool = False
    huge: bool = False

    def tensors(self, device: str) -> list[Tensor]:
        """grad, x, numerator, denominator, v if gated: the same in every call."""
        generator = torch.Generator().manual_seed(0)
        shapes = [self.shape] * (3 if self.gated else 2)
        large = [torch.randn(shape, generator=generator) for shape in shapes]
        if self.huge:
            large[1] *= HUGE
        a = torch.randn(self.rows[0], 6, generator=generator)
        b = torch.randn(self.rows[1], 4, generator=generator)
        dtype = getattr(torch, self.dtype)
        grad, x, *gate = (t.to(device, dtype) for t in large)
        return [grad, x, a.to(device), b.to(device), *gate]

    def calls(self, grad: Tensor, *tensors: Tensor) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
        """Functions that run each kernel once. They return y, all gradients, or those for x and v.

        Raises:
            BackendUnavailable: Triton does not run here.
        """
        x, a, b, *gate = tensors
        f = Rational(a, b, self.form)
        triton.check_available(f, x, *gate)

        def gradients(coefficients: bool) -> tuple[Tensor, ...]:
            found = run_backward(f, grad, x, *gate, backend=triton, coefficients=coefficients)
            return tuple(gradient for gradient in found if gradient is not None)

        return {
            "forward": lambda: (run_forward(f, x, *gate, backend=triton),),
            "backward": partial(gradients, True),
            "backward of x": partial(gradients, False),
        }

    def expected(self, grad: Tensor, *tensors: Tensor) -> dict[str, tuple[Tensor, ...]]:
        """The results of :meth:`calls` by the reference, in the dtypes of the arguments."""
        x, a, b, *gate = tensors
        f = Rational(a, b, self.form)
        y = plain.forward(f, x, *gate)
        dx, da, db, dv = plain.backward(f, grad, x, *gate)
        of_v = (dv,) if self.gated else ()
        return {"forward": (y,), "backward": (dx, da, db, *of_v), "backward of x": (dx, *of_v)}


def pairs_of_settings(
    shapes: tuple[tuple[int, ...], ...], half: str = "bfloat16"
) -> Iterator[Case]:
    """Eight cases in which all pairs of settings occur, each of ordinary and then of huge x.

    With two groups, so that a row can be wide enough to be divided by group.

    Args:
        shapes: two of them.
        half: the dtype beside float32.
    """
    forms, dtypes, rows = ("A", "B"), ("float32", half), ((1, 2), (2, 1))
    for i, j, k, huge in itertools.product(range(2), range(2), range(2), (False, True)):
        gated = (i + k) % 2 == 1
        yield Case(forms[i], dtypes[j], shapes[(i + j) % 2], rows[k], gated, huge)


def largest_error(
    found: tuple[Tensor, ...], exact: tuple[Tensor, ...], plain: tuple[Tensor, ...], slack: float
) -> float:
    """The largest error / allowed error of tensors; above 1, or NaN, one of them is wrong.

    Allowed is ``slack`` times the error of plain PyTorch, and four roundings of the largest value.
    """
    ratios = []
    for got, want, other in zip(found, exact, plain, strict=True):
        eps = max(torch.finfo(t).eps for t in (got.dtype, compute_dtype(found[0].dtype)))
        allowed = (other.double() - want).abs().max() + 4 * eps * want.abs().max()
        ratios.append((got.double() - want).abs().max() / (slack * allowed))
    return float(torch.stack(ratios).max())


def run_all(device: str) -> None:
    """Runs every kernel once on small tensors, for tools that watch the GPU."""
    for case in pairs_of_settings(STAND_IN.smoke):
        for call in case.calls(*case.tensors(device)).values():
            for tensor in call():
                tensor.cpu()  # waits for the GPU
