"""Launches the GPU kernels: how many programs run, and which part of memory each one gets."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
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
"""Registers and threads of a multiprocessor; some GPUs have more threads."""
INT32_ELEMENTS = 2**31
WARP = 64 if torch.version.hip else 32
OPTIONS: dict[str, Any] = {"num_warps": LANES // WARP, "enable_fp_fusion": True}


@dataclass(frozen=True)
class Sharing:
    """The division of a tensor's vectors among programs; see :mod:`kat.ops.triton.memory`.

    Attributes:
        groups: groups of channels.
        vector: elements in a vector.
        run: vectors in a run, the contiguous memory of one group's channels.
        count: vectors to divide: all of them if ``flat``, else the vectors of one group.
        flat: each program visits blocks of all groups in turn, not one group alone.
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
        """The number of lanes that add their sums: of one group, or of any if the groups share."""
        return math.gcd(self.run, SEGMENT) if self.flat and not shared else SEGMENT

    def partials(self, shared: bool) -> tuple[int, int, int, int]:
        """Partial sums of a coefficient in all, and of one row: count, stride and width."""
        segment = self.segment(shared)
        total = self.programs * LANES // segment
        if shared:
            return total, total, 0, total
        width = (self.run if self.flat else LANES) // segment
        return total, total // self.groups, self.groups * width, width


@dataclass(frozen=True)
class Launch:
    """A kernel, its grid, and the arguments that follow its tensors.

    A launch by Triton itself first compares all arguments with those for which it has compiled the
    kernel, in every call; on the host that takes longer than the rest of a call.

    Attributes:
        run: launches the compiled kernel; None where Triton is to launch it.
        following: what ``run`` takes after the tensors.
    """

    kernel: Any
    programs: int
    numbers: tuple[int, ...]
    constants: dict[str, Any]
    run: Callable[..., None] | None
    following: tuple[Any, ...]

    @classmethod
    def of(
        cls,
        kernel: Any,
        tensors: Sequence[Tensor],
        numbers: tuple[int, ...],
        constants: dict[str, Any],
        programs: int,
    ) -> Launch:
        """Compile a kernel for such tensors; the other arguments belong to the launch."""
        made = compiled(kernel, tensors, numbers, constants)
        ordered = [constants[name] for name in kernel.arg_names if name in constants]
        aligned = all(t.data_ptr() % VECTOR_BYTES == 0 for t in tensors)
        run = made[(programs, 1, 1)] if made is not None and aligned else None
        return cls(kernel, programs, numbers, constants, run, (*numbers, *ordered))

    def __call__(self, *tensors: Tensor) -> None:
        """Launch the kernel on the current device."""
        if self.run is None:
            launch = self.kernel[(self.programs,)]
            launch(*tensors, *self.numbers, **self.constants, **OPTIONS)
        else:
            self.run(*tensors, *self.following)


@dataclass(frozen=True)
class Plan:
    """The parts of a call that the layouts of its tensors decide.

    Attributes:
        order: the dimensions of the output, outermost in memory first.
        share: the division among programs.
        copies: whether x and v are copied, and whether the gradient is.
        launches: in order.
        sums: the shapes of the partial sums of da and db.
    """

    order: list[int]
    share: Sharing
    copies: tuple[bool, bool]
    launches: tuple[Launch, ...]
    sums: tuple[tuple[int, int], ...] = ()


PLANS: dict[Any, Plan] = {}
MOST_PLANS = 4096
"""More layouts than this come from inputs whose sizes vary; the plans are then made again."""


def layout(tensor: Tensor | None) -> Any:
    """What of a tensor decides on a plan: its layout, dtype and alignment."""
    if tensor is None:
        return None
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.data_ptr() % VECTOR_BYTES


def plan_of(key: tuple[Any, ...], make: Callable[[], Plan]) -> Plan:
    """The plan of a call, made once for each key: the function, GPU, form and layouts."""
    plan = PLANS.get(key)
    if plan is None:
        if len(PLANS) >= MOST_PLANS:
            PLANS.clear()
        plan = PLANS[key] = make()
    return plan


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
    }


def forward(
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    v: Tensor | None = None,
    *,
    form: str,
    y: Tensor,
) -> None:
    """y <- F(x), or F(x) v.

    Args:
        x: not empty. One that is not laid out like y is copied, but for the rows of a gate.
        numerator, denominator, v, form: as in :func:`kat.ops.reference.forward`.
        y: dense; contiguous if there is a v.
    """
    a, b = numerator.contiguous(), denominator.contiguous()
    key = ("forward", y.device, form, layout(x), layout(v), layout(a), layout(b), layout(y))
    with on_device(x.device):
        plan = plan_of(key, lambda: _plan_forward(x, a, b, v, form=form, y=y))
        if plan.copies[0]:
            x, v, _ = _inputs(x, v, plan.order, plan.share)
        plan.launches[0](x, x if v is None else v, y, a, b)


def _plan_forward(
    x: Tensor, a: Tensor, b: Tensor, v: Tensor | None, *, form: str, y: Tensor
) -> Plan:
    order, divide = _division(y, a, b, x.element_size())
    share = divide(1)
    read_x, read_v, gap = _inputs(x, v, order, share)
    tensors = (read_x, read_x if read_v is None else read_v, y, a, b)
    common = {**constants(x, a, b, form), "GATED": v is not None, "APART": gap != 0}
    share, launch = _launch(triton_kernels.forward_kernel, tensors, (gap,), common, divide)
    return Plan(order, share, (_differ((read_x, x), (read_v, v)), False), (launch,))


def backward(
    grad: Tensor,
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    v: Tensor | None = None,
    *,
    form: str,
    dx: Tensor,
    dv: Tensor | None = None,
    coefficients: bool = True,
) -> tuple[Tensor, Tensor] | None:
    """Fills dx, and dv of a gate; returns the gradients of the coefficients if asked for.

    Args:
        grad: of the output.
        x, numerator, denominator, v, form: as in :func:`forward`.
        dx: like y in :func:`forward`. With a v, dx and dv may be the halves of one contiguous
            tensor.
        dv: if there is a v.
        coefficients: compute their gradients; without their sums a third of the work is left.
    """
    a, b = numerator.contiguous(), denominator.contiguous()
    key = (
        "backward", coefficients, dx.device, form,
        layout(grad), layout(x), layout(v), layout(a), layout(b), layout(dx), layout(dv),
    )  # fmt: skip
    with on_device(x.device):
        plan = plan_of(
            key,
            lambda: _plan_backward(
                grad, x, a, b, v, form=form, dx=dx, dv=dv, coefficients=coefficients
            ),
        )
        if plan.copies[0]:
            x, v, _ = _inputs(x, v, plan.order, plan.share)
        if plan.copies[1]:
            grad = grad.permute(plan.order).contiguous()
        partial_a, partial_b = (a.new_empty(shape, dtype=torch.float64) for shape in plan.sums)
        again = torch.empty(plan.share.programs, dtype=torch.int32, device=a.device)
        v, dv = x if v is None else v, dx if dv is None else dv
        main, scaled, *reduce = plan.launches
        for launch in (main, scaled):
            launch(grad, x, v, dx, dv, a, b, partial_a, partial_b, again)
        if not coefficients:
            return None
        da, db = torch.empty_like(a), torch.empty_like(b)
        reduce[0](partial_a, partial_b, b, da, db)
    return da, db


def _plan_backward(
    grad: Tensor,
    x: Tensor,
    a: Tensor,
    b: Tensor,
    v: Tensor | None,
    *,
    form: str,
    dx: Tensor,
    dv: Tensor | None,
    coefficients: bool,
) -> Plan:
    order, divide = _division(dx, a, b, max(grad.element_size(), x.element_size()))
    share = divide(1)
    read_x, read_v, gap = _inputs(x, v, order, share)
    read_grad = grad.permute(order).contiguous()
    rows_apart = 0 if v is None else dx.view(read_x.shape).stride(0) - read_x.shape[1]
    out_gap = rows_apart // share.vector if len(read_x) > 1 else 0
    shared_a, shared_b = a.shape[0] == 1, b.shape[0] == 1
    common = {
        **constants(x, a, b, form),
        **segments(share, shared_a, shared_b),
        "GATED": v is not None,
        "APART": gap != 0,
        "OUT_APART": out_gap != 0,
        "SUMS": coefficients,
    }
    partial = a.new_empty(0, dtype=torch.float64)
    again = torch.empty(0, dtype=torch.int32, device=a.device)
    read_v = read_x if read_v is None else read_v
    write_dv = dx if dv is None else dv
    tensors = (read_grad, read_x, read_v, dx, write_dv, a, b, partial, partial, again)
    gaps = (gap, out_gap)
    share, launch = _launch(triton_kernels.backward_kernel, tensors, gaps, common, divide)
    scaled = Launch.of(
        triton_kernels.float64_backward_kernel,
        tensors,
        launch.numbers,
        launch.constants,
        share.programs,
    )
    copies = _differ((read_x, x), (read_v, v)), _differ((read_grad, grad))
    if not coefficients:
        return Plan(order, share, copies, (launch, scaled), ((0, 0), (0, 0)))
    of_a, of_b = share.partials(shared_a), share.partials(shared_b)
    reduce = Launch.of(
        triton_kernels.reduce_kernel,
        (partial, partial, b, a, b),
        (a.shape[0], *of_a, *of_b),
        {"A": a.shape[1], "B": b.shape[1], "FORM_A": form == "A", "LANES": REDUCE_LANES},
        a.numel() + b.numel(),
    )
    shapes = (a.shape[1], of_a[0]), (b.shape[1], of_b[0])
    return Plan(order, share, copies, (launch, scaled, reduce), shapes)


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Make a GPU the current device, on which Triton launches."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


def _division(
    like: Tensor, a: Tensor, b: Tensor, itemsize: int
) -> tuple[list[int], Callable[[int], Sharing]]:
    """The order of a dense tensor's dimensions in memory, outermost first, and its division.

    The latter is a function of the number of programs for each multiprocessor.
    """
    strides = like.stride()
    order = sorted(range(like.dim()), key=lambda d: -strides[d])
    inner = order[order.index(like.dim() - 1) + 1 :]
    groups = max(a.shape[0], b.shape[0])
    run = like.shape[-1] // groups * math.prod(like.shape[d] for d in inner)
    units = multiprocessors(like.device)
    return order, lambda each: Sharing.of(like.numel(), groups, run, itemsize, each * units)


def _launch(
    kernel: Any,
    tensors: Sequence[Tensor],
    gaps: tuple[int, ...],
    common: dict[str, Any],
    divide: Callable[[int], Sharing],
) -> tuple[Sharing, Launch]:
    """The division among as many programs as run at the same time, and the kernel's launch."""
    share = divide(1)
    numbers = (share.count, share.groups, share.run, *gaps)
    made = compiled(kernel, tensors, numbers, common | share.constants(max(gaps)))
    share = divide(resident(made))
    complete = common | share.constants(max(gaps))
    return share, Launch.of(kernel, tensors, numbers, complete, share.programs)


def compiled(
    kernel: Any, tensors: Sequence[Tensor], numbers: tuple[int, ...], constants: dict[str, Any]
) -> Any:
    """The kernel compiled for such arguments, and loaded; None where Triton is to launch it.

    Raises:
        RuntimeError: the kernel is not compiled, and a CUDA graph is being captured.
    """
    dtypes = tuple(t.dtype for t in tensors)
    wide = tuple(n >= INT32_ELEMENTS for n in numbers)
    return _compiled(kernel, tensors[0].device, dtypes, wide, **constants)


@functools.cache
def _compiled(
    kernel: Any,
    device: torch.device,
    dtypes: tuple[torch.dtype, ...],
    wide: tuple[bool, ...],
    **constants: Any,
) -> Any:
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "kernels cannot be compiled while a CUDA graph is captured; before the capture, call"
            " kat.ops.warmup with the same arguments"
        )
    if not NVIDIA.value or not hasattr(kernel, "warmup"):
        return None
    numbers = [INT32_ELEMENTS if w else 2 for w in wide]
    made = kernel.warmup(*dtypes, *numbers, grid=(1,), **constants, **OPTIONS)
    # Triton documents none of these names. To read ``run`` loads the kernel and sets ``n_regs``.
    known = [hasattr(made, name) for name in ("run", "n_regs", "__getitem__")]
    return made if all(known) else None


def resident(made: Any) -> int:
    """The number of programs of a kernel that a multiprocessor runs at once, by their registers."""
    if made is None:
        return PROGRAMS
    registers = -(-made.n_regs // 8) * 8
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


def _differ(*pairs: tuple[Tensor | None, Tensor | None]) -> bool:
    """Return True if a tensor of a pair is not where the other one is: it was copied."""
    return any(a is not None and b is not None and a.data_ptr() != b.data_ptr() for a, b in pairs)


def multiprocessors(device: torch.device) -> int:
    """The number of multiprocessors of a GPU; 1 where the interpreter runs."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
