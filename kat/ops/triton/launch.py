"""Launches the GPU kernels: how many programs run, and which part of memory each one gets."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kat.ops.triton import kernels as triton_kernels
from kat.ops.triton.memory import INTERPRETED as INTERPRETED
from kat.ops.triton.memory import NVIDIA

LANES = 256
SEGMENT = 32
"""The most lanes whose sums are added inside the backward kernel: a warp."""
REDUCE_LANES = 2048
LONGEST_PERIOD = 256
VECTOR_BYTES = 16
PROGRAMS = 4
"""Programs for each multiprocessor where the registers of a kernel are unknown."""
REGISTERS, THREADS = 65536, 1536
"""Of a multiprocessor; some GPUs have more threads."""
INT32_ELEMENTS = 2**31
WARP = 64 if torch.version.hip else 32
OPTIONS: dict[str, Any] = {"num_warps": LANES // WARP, "enable_fp_fusion": True}


@dataclass(frozen=True)
class Sharing:
    """How a tensor's vectors are divided among programs; see :mod:`kat.ops.triton.memory`.

    Attributes:
        groups: groups of channels.
        vector: elements in a vector.
        run: vectors in a run, the contiguous memory of one group's channels.
        count: vectors to divide: all of them if ``flat``, else those of one group.
        flat: whether each program visits blocks of all groups in turn, or one group alone.
        programs: the size of the grid.
    """

    groups: int
    vector: int
    run: int
    count: int
    flat: bool
    programs: int

    @classmethod
    def of(cls, numel: int, groups: int, run: int, itemsize: int, target: int) -> Sharing:
        """Divide ``numel`` elements, in runs of ``run``, among up to ``target`` programs.

        More only if one period of the blocks, or the groups, need more.
        """
        vector = math.gcd(run, VECTOR_BYTES // itemsize)
        row = groups * run // vector
        period = row // math.gcd(row, LANES)
        flat = period <= LONGEST_PERIOD
        multiple = period if flat else groups
        vectors = numel // vector
        count = vectors if flat else vectors // groups
        blocks = -(-count // LANES) * (1 if flat else groups)
        periods = min(-(-blocks // multiple), max(1, target // multiple))
        return cls(groups, vector, run // vector, count, flat, periods * multiple)

    def constants(self, gap: int = 0) -> dict[str, Any]:
        """The kernels' constants. WIDE: some offset, masked lanes included, needs int64.

        Args:
            gap: vectors between two rows.
        """
        reach = self.count * (1 if self.flat else self.groups) + self.programs * LANES
        apart = 1 + gap / (self.groups * self.run)
        return {
            "V": self.vector,
            "LANES": LANES,
            "FLAT": self.flat,
            "WIDE": reach * apart * self.vector >= INT32_ELEMENTS,
        }

    def segment(self, shared: bool) -> int:
        """How many lanes add up their sums: lanes of one group, or of any if the groups share."""
        return math.gcd(self.run, SEGMENT) if self.flat and not shared else SEGMENT

    def partials(self, shared: bool) -> tuple[int, int, int, int]:
        """Partial sums of a coefficient in all, and of one row: count, stride and width."""
        segment = self.segment(shared)
        total = self.programs * LANES // segment
        if shared:
            return total, total, 0, total
        width = (self.run if self.flat else LANES) // segment
        return total, total // self.groups, self.groups * width, width


class CoefficientSums:
    """The partial sums of da and db that a backward kernel leaves, and how they are added up.

    Args:
        share: the division among programs.
        a, b: numerator and denominator, contiguous.
    """

    def __init__(self, share: Sharing, a: Tensor, b: Tensor) -> None:
        self.a, self.b = a, b
        self.partials_a, self.partials_b = (share.partials(c.shape[0] == 1) for c in (a, b))
        self.sums_a = a.new_empty(a.shape[1], self.partials_a[0], dtype=torch.float64)
        self.sums_b = b.new_empty(b.shape[1], self.partials_b[0], dtype=torch.float64)
        self.again = torch.empty(share.programs, dtype=torch.int32, device=a.device)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """The last tensors of the backward kernel's arguments."""
        return self.sums_a, self.sums_b, self.again

    def reduced(self, form: str) -> tuple[Tensor, Tensor]:
        """da and db."""
        a, b = self.a, self.b
        da, db = torch.empty_like(a), torch.empty_like(b)
        triton_kernels.reduce_kernel[(da.numel() + db.numel(),)](
            *(self.sums_a, self.sums_b, b, da, db),
            *(a.shape[0], *self.partials_a, *self.partials_b),
            A=a.shape[1],
            B=b.shape[1],
            FORM_A=form == "A",
            LANES=REDUCE_LANES,
            **OPTIONS,
        )
        return da, db


def segments(share: Sharing, shared_a: bool, shared_b: bool) -> dict[str, int]:
    """The backward kernels' constants for the partial sums of both coefficient tensors."""
    return {"SEGMENT_A": share.segment(shared_a), "SEGMENT_B": share.segment(shared_b)}


def constants(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> dict[str, Any]:
    """The kernels' constants that depend on the coefficients, the form and the dtype."""
    return {
        "A": numerator.shape[1],
        "B": denominator.shape[1],
        "SHARED_A": numerator.shape[0] == 1,
        "SHARED_B": denominator.shape[0] == 1,
        "FORM_A": form == "A",
        "DOUBLE": x.dtype == torch.float64,
    }


def forward(
    y: Tensor,
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    form: str,
    v: Tensor | None = None,
) -> None:
    """y <- F(x), or F(x) v.

    Args:
        y: dense; contiguous if there is a v.
        x: not empty. One that is not laid out like y is copied, but for the rows of a gate.
        numerator, denominator, form, v: as in :func:`kat.ops.reference.forward`.
    """
    a, b = numerator.contiguous(), denominator.contiguous()
    order, plan = _plan(y, a, b, x.element_size())
    share = plan(1)
    x, v, gap = _inputs(x, v, order, share)
    tensors = (x, x if v is None else v, y, a, b)
    dtypes = tuple(t.dtype for t in tensors)
    common = {**constants(x, a, b, form), "GATED": v is not None, "APART": gap != 0, **OPTIONS}
    kernel = triton_kernels.forward_kernel
    with torch.cuda.device_of(x):
        share = plan(resident(kernel, x.device, dtypes, **share.constants(gap), **common))
        kernel[(share.programs,)](
            *(*tensors, share.count, share.groups, share.run, gap),
            **share.constants(gap),
            **common,
        )


def backward(
    dx: Tensor,
    y: Tensor | None,
    grad: Tensor,
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    form: str,
    v: Tensor | None = None,
    dv: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Fills dx, y if given, and dv of a gate; returns the gradients of the coefficients.

    Args:
        dx, y, x, numerator, denominator, form, v: as in :func:`forward`. With a v, dx and dv may be
            the halves of one contiguous tensor.
        grad: of the output.
        dv: if there is a v.
    """
    a, b = numerator.contiguous(), denominator.contiguous()
    itemsize = max(grad.element_size(), x.element_size())
    order, plan = _plan(dx, a, b, itemsize)
    share = plan(1)
    x, v, gap = _inputs(x, v, order, share)
    rows_apart = 0 if v is None else dx.view(x.shape).stride(0) - x.shape[1]
    out_gap = rows_apart // share.vector if len(x) > 1 else 0
    inputs = (grad.permute(order).contiguous(), x, x if v is None else v)
    outputs = (dx, dx if dv is None else dv, dx if y is None else y)
    tensors = (*inputs, *outputs, a, b)
    common = {
        **constants(x, a, b, form),
        **segments(share, a.shape[0] == 1, b.shape[0] == 1),
        "GATED": v is not None,
        "APART": gap != 0,
        "OUT_APART": out_gap != 0,
        "STORE_Y": y is not None,
        **OPTIONS,
    }
    dtypes = (*(t.dtype for t in tensors), torch.float64, torch.float64, torch.int32)
    kernels = (triton_kernels.backward_kernel, triton_kernels.scaled_backward_kernel)
    gaps = (gap, out_gap)
    with torch.cuda.device_of(x):
        plain = share.constants(max(gaps))
        share = plan(resident(kernels[0], x.device, dtypes, **plain, **common))
        sums = CoefficientSums(share, a, b)
        for kernel in kernels:
            kernel[(share.programs,)](
                *(*tensors, *sums.tensors, share.count, share.groups, share.run, *gaps),
                **share.constants(max(gaps)),
                **common,
            )
        return sums.reduced(form)


def _plan(
    like: Tensor, numerator: Tensor, denominator: Tensor, itemsize: int
) -> tuple[list[int], Callable[[int], Sharing]]:
    """The order of a dense tensor's dimensions in memory, outermost first, and its division.

    The latter is a function of the number of programs for each multiprocessor.
    """
    strides = like.stride()
    order = sorted(range(like.dim()), key=lambda d: -strides[d])
    inner = order[order.index(like.dim() - 1) + 1 :]
    groups = max(numerator.shape[0], denominator.shape[0])
    run = like.shape[-1] // groups * math.prod(like.shape[d] for d in inner)
    units = multiprocessors(like.device)
    return order, lambda each: Sharing.of(like.numel(), groups, run, itemsize, each * units)


@functools.cache
def resident(
    kernel: Any, device: torch.device, dtypes: tuple[torch.dtype, ...], **constants: Any
) -> int:
    """How many programs of a kernel a multiprocessor runs at the same time, by their registers.

    ``dtypes`` are those of the kernel's tensors, its first arguments.

    Raises:
        RuntimeError: the kernel is not compiled, and a CUDA graph is being captured.
    """
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "kernels cannot be compiled while a CUDA graph is captured; before the capture, call"
            " kat.ops.warmup with the same arguments"
        )
    if not NVIDIA.value:
        return PROGRAMS
    numbers = len(set(kernel.arg_names) - set(constants)) - len(dtypes)
    compiled = kernel.warmup(*dtypes, *[2] * numbers, grid=(1,), **constants)
    assert compiled.run  # loads it, and sets its registers
    registers = -(-compiled.n_regs // 8) * 8
    return max(1, min(REGISTERS // registers, THREADS) // LANES)


def _inputs(
    x: Tensor, v: Tensor | None, order: list[int], share: Sharing
) -> tuple[Tensor, Tensor | None, int]:
    """x and v as the kernels read them, and the vectors between a row of a gate and the next.

    x alone is contiguous in the order of its dimensions. With a v both are (rows, channels), copied
    if no whole number of vectors lies between two rows.
    """
    if v is None:
        return x.permute(order).contiguous(), None, 0
    shape = (x.shape[:-1].numel(), x.shape[-1])
    x, v = x.reshape(shape), v.reshape(shape)
    gap = x.stride(0) - x.shape[1]
    if x.stride() != v.stride() or x.stride(1) != 1 or gap < 0 or gap % share.vector:
        x, v, gap = x.contiguous(), v.contiguous(), 0
    return x, v, gap // share.vector if len(x) > 1 else 0


def multiprocessors(device: torch.device) -> int:
    """The number of multiprocessors of a GPU; 1 where the interpreter runs."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
