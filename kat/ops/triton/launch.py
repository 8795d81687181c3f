"""Launches the GPU kernels: how many programs run, and which part of memory each one gets.

What happens in a call, forward or backward:

1. x, and the gradient of the output, are copied if they are not laid out like the result. A gate
   reads x and v in place where their rows lie apart, as the halves of one tensor do.
2. The layouts of all tensors are looked up in :data:`PLANS`. The first call of each makes a plan:
   it divides memory (:class:`Sharing`), compiles the kernel, lets as many programs run as its
   registers allow, and so decides the order of the sums.
3. The kernels are launched (:class:`Launch`): one forward; backward the gradients, what of them
   float32 does not hold in float64, and, if gradients of coefficients are asked for, their sums.

Leave as they are: a plan depends on its key alone, for the number of programs and the lanes decide
the order of the sums, and so their bits; and a compiled kernel takes its arguments by position.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kat.ops.arguments import Rational
from kat.ops.triton import kernels as triton_kernels
from kat.ops.triton.memory import INTERPRETED as INTERPRETED
from kat.ops.triton.memory import NVIDIA
from kat.ops.triton.selfcheck import refuse_capture

LANES = 256
SEGMENT = 32
"""The most lanes whose sums are added inside the backward kernel: a warp."""
REDUCE_LANES = 2048
LONGEST_PERIOD = 256
VECTOR_BYTES = 16
PROGRAMS = 4
"""Programs for each multiprocessor where the registers of a kernel are unknown."""
REGISTERS, THREADS = 65536, 2048
"""Of a multiprocessor, where torch does not tell them; no GPU has more threads."""
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
        multiple: the size of the grid is a multiple of this.
        programs: the size of the grid.
    """

    groups: int
    vector: int
    run: int
    count: int
    flat: bool
    multiple: int
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
        programs = -(-blocks // multiple) * multiple
        whole = cls(groups, vector, run // vector, count, flat, multiple, programs)
        return whole.limited(target)

    def limited(self, target: int) -> Sharing:
        """Return the same division among up to ``target`` programs."""
        periods = max(1, target // self.multiple)
        return replace(self, programs=min(self.programs, periods * self.multiple))

    def is_wide(self, gap: int = 0) -> bool:
        """Return True if some offset, masked lanes included, needs int64.

        Args:
            gap: vectors between two rows.
        """
        reach = self.count * (1 if self.flat else self.groups) + self.programs * LANES
        apart = 1 + gap / (self.groups * self.run)
        return reach * apart * self.vector >= INT32_ELEMENTS

    def segment(self, shared: bool) -> int:
        """Return the number of lanes that add their sums: of one group, or of any if shared."""
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
        constants: of the kernel, in its order.
        resident: programs that a multiprocessor runs at once.
        run: launches the compiled kernel; None where Triton is to launch it.
        following: what ``run`` takes after the tensors.
    """

    kernel: Any
    programs: int
    numbers: tuple[int, ...]
    constants: dict[str, Any]
    resident: int
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
        """Compile a kernel for such tensors; the other arguments belong to the launch.

        Args:
            constants: may include constants of other kernels.
        """
        constants = {name: constants[name] for name in kernel.arg_names if name in constants}
        device = tensors[0].device
        dtypes = tuple(tensor.dtype for tensor in tensors)
        # Compiled once for all numbers that int32 holds.
        widths = tuple(map(_as_wide, numbers))
        made = compiled(kernel, device, dtypes, widths, **constants)
        aligned = all(t.data_ptr() % VECTOR_BYTES == 0 for t in tensors)
        run = made[(programs, 1, 1)] if made is not None and aligned else None
        following = (*numbers, *constants.values())
        return cls(kernel, programs, numbers, constants, resident(made, device), run, following)

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
        launches: in order.
        sums: the shapes of the partial sums of da and db.
    """

    launches: tuple[Launch, ...]
    sums: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))


PLANS: dict[Any, Plan] = {}
MOST_PLANS = 4096
"""More layouts than this come from inputs whose sizes vary; the plans are then made again."""


def layout(tensor: Tensor) -> Any:
    """Return the part of a plan's key that a tensor gives: its layout, dtype and alignment."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.data_ptr() % VECTOR_BYTES


def keep_plan(key: Any, plan: Plan) -> Plan:
    """Keep a plan for the next call with this key."""
    if len(PLANS) >= MOST_PLANS:
        PLANS.clear()
    PLANS[key] = plan
    return plan


def laid_out_like(pattern: Tensor, tensor: Tensor) -> Tensor:
    """``tensor`` with the strides of the pattern; a copy only if it has others."""
    if tensor.stride() == pattern.stride():
        return tensor
    return torch.empty_like(pattern, dtype=tensor.dtype).copy_(tensor)


def inputs(x: Tensor, v: Tensor | None, pattern: Tensor) -> tuple[Tensor, Tensor]:
    """x and v as the kernels read them; x in the place of v where there is none.

    They are copied if they are not laid out like the pattern, but for the rows of a gate, which may
    lie apart.
    """
    if v is None:
        x = laid_out_like(pattern, x)
        return x, x
    if rows_alike(x, v):
        return x, v
    return x.contiguous(), v.contiguous()


def rows_alike(x: Tensor, v: Tensor) -> bool:
    """Return True if x and v have rows of one stride, a whole number of vectors."""
    if x.is_contiguous() and v.is_contiguous():
        return True
    rows = x.reshape(-1, x.shape[-1])
    if x.stride() != v.stride() or rows.stride(1) != 1 or rows.data_ptr() != x.data_ptr():
        return False
    stride = rows.stride(0)
    return stride >= rows.shape[1] and stride * x.element_size() % VECTOR_BYTES == 0


def forward(
    f: Rational, x: Tensor, v: Tensor | None = None, *, y: Tensor, programs: int = 2**31
) -> None:
    """y <- F(x), or F(x) v.

    Args:
        f, v: as in :func:`kat.ops.reference.forward`.
        x: not empty. One that is not laid out like y is copied, but for the rows of a gate.
        y: dense; contiguous if there is a v.
        programs: the most that run.
    """
    a, b = f.numerator.contiguous(), f.denominator.contiguous()
    gated = v is not None
    x, v = inputs(x, v, y)
    distinct = (x, v, y, a, b) if gated else (x, y, a, b)
    key = (f.form, programs, y.device, *map(layout, distinct))
    with on_device(y.device):
        plan = PLANS.get(key)
        if plan is None:
            share = _shared(y, a, b, x.element_size()).limited(programs)
            gap = _gap(x, share, gated)
            own = constants(a, b, share, form=f.form, gated=gated, gap=gap)
            main = _main_launch(triton_kernels.forward_kernel, (x, v, y, a, b), gap, own, share)
            plan = keep_plan(key, Plan((main,)))
        plan.launches[0](x, v, y, a, b)


def backward(
    f: Rational,
    grad: Tensor,
    x: Tensor,
    v: Tensor | None = None,
    *,
    dx: Tensor,
    dv: Tensor | None = None,
    coefficients: bool = True,
    programs: int = 2**31,
) -> tuple[Tensor, Tensor] | None:
    """Fill dx, and dv of a gate; return the gradients of the coefficients if asked for.

    Args:
        f, x, v: as in :func:`forward`.
        grad: of the output.
        dx, dv: like y in :func:`forward`.
        coefficients: compute their gradients; without their sums a third of the work is left out.
        programs: the most that run.
    """
    a, b = f.numerator.contiguous(), f.denominator.contiguous()
    gated = v is not None
    x, v = inputs(x, v, dx)
    grad = laid_out_like(dx, grad)
    dv = dx if dv is None else dv
    tensors = (grad, x, v, dx, dv, a, b)
    distinct = tensors if gated else (grad, x, dx, a, b)
    key = (f.form, coefficients, programs, dx.device, *map(layout, distinct))
    with on_device(dx.device):
        plan = PLANS.get(key)
        if plan is None:
            made = _plan_backward(
                tensors, form=f.form, gated=gated, coefficients=coefficients, programs=programs
            )
            plan = keep_plan(key, made)
        main, in_float64, *reduce = plan.launches
        partial_a, partial_b = (a.new_empty(shape, dtype=torch.float64) for shape in plan.sums)
        again = torch.empty(main.programs, dtype=torch.int32, device=a.device)
        main(*tensors, partial_a, partial_b, again)
        in_float64(*tensors, partial_a, partial_b, again)
        if not coefficients:
            return None
        da, db = torch.empty_like(a), torch.empty_like(b)
        reduce[0](partial_a, partial_b, b, da, db)
    return da, db


def _plan_backward(
    tensors: tuple[Tensor, ...], *, form: str, gated: bool, coefficients: bool, programs: int
) -> Plan:
    grad, x, _, dx, _, a, b = tensors
    itemsize = max(grad.element_size(), x.element_size())
    share = _shared(dx, a, b, itemsize).limited(programs)
    gap = _gap(x, share, gated)
    partial = a.new_empty(0, dtype=torch.float64)
    again = torch.empty(0, dtype=torch.int32, device=a.device)
    tensors = (*tensors, partial, partial, again)
    own = constants(a, b, share, form=form, gated=gated, gap=gap, sums=coefficients)
    main = _main_launch(triton_kernels.backward_kernel, tensors, gap, own, share)
    in_float64 = Launch.of(
        triton_kernels.float64_backward_kernel, tensors, main.numbers, own, main.programs
    )
    if not coefficients:
        return Plan((main, in_float64))
    share = replace(share, programs=main.programs)
    of_a, of_b = share.partials(len(a) == 1), share.partials(len(b) == 1)
    reduce = Launch.of(
        triton_kernels.reduce_kernel,
        (partial, partial, b, a, b),
        (len(a), *of_a, *of_b),
        own | {"LANES": REDUCE_LANES},
        a.numel() + b.numel(),
    )
    sums = (a.shape[1], of_a[0]), (b.shape[1], of_b[0])
    return Plan((main, in_float64, reduce), sums)


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Make a GPU the current device, on which Triton launches."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


def constants(
    a: Tensor,
    b: Tensor,
    share: Sharing,
    *,
    form: str,
    gated: bool,
    gap: int = 0,
    sums: bool = False,
) -> dict[str, Any]:
    """Return the constants of all kernels."""
    shared_a, shared_b = len(a) == 1, len(b) == 1
    return {
        "A": a.shape[1],
        "B": b.shape[1],
        "SHARED_A": shared_a,
        "SHARED_B": shared_b,
        "SEGMENT_A": share.segment(shared_a),
        "SEGMENT_B": share.segment(shared_b),
        "FORM_A": form == "A",
        "GATED": gated,
        "SUMS": sums,
        "V": share.vector,
        "LANES": LANES,
        "FLAT": share.flat,
        "WIDE": share.is_wide(gap),
        "APART": gap != 0,
    }


def _shared(out: Tensor, a: Tensor, b: Tensor, itemsize: int) -> Sharing:
    """Return the division of a dense tensor among the programs that run at the same time."""
    channel = out.stride(-1)
    inner = [n for n, stride in zip(out.shape, out.stride(), strict=True) if stride < channel]
    groups = max(len(a), len(b))
    run = out.shape[-1] // groups * math.prod(inner)
    target = THREADS // LANES * multiprocessors(out.device)
    return Sharing.of(out.numel(), groups, run, itemsize, target)


def _gap(x: Tensor, share: Sharing, gated: bool) -> int:
    """Return the vectors between a row of a gate and the next."""
    rows = x.reshape(-1, x.shape[-1])
    return (rows.stride(0) - rows.shape[1]) // share.vector if gated else 0


def _main_launch(
    kernel: Any, tensors: Sequence[Tensor], gap: int, constants: dict[str, Any], share: Sharing
) -> Launch:
    """Return the launch of as many programs as run at the same time."""
    numbers = (share.count, share.groups, share.run, gap)
    alone = Launch.of(kernel, tensors, numbers, constants, 1)
    most = alone.resident * multiprocessors(tensors[0].device)
    return Launch.of(kernel, tensors, numbers, constants, share.limited(most).programs)


@functools.cache
def compiled(
    kernel: Any,
    device: torch.device,
    dtypes: tuple[torch.dtype, ...],
    numbers: tuple[int, ...],
    **constants: Any,
) -> Any:
    """Return the kernel compiled for such arguments, and loaded; None where Triton is to launch it.

    Args:
        numbers: as wide as those of the launch, 32 or 64 bits; it cuts longer ones off.

    Raises:
        RuntimeError: the kernel is not compiled, and a CUDA graph is being captured.
    """
    refuse_capture()
    if not NVIDIA.value or not hasattr(kernel, "warmup"):
        return None
    made = kernel.warmup(*dtypes, *numbers, grid=(1,), **constants, **OPTIONS)
    # Triton documents none of these names. To read ``run`` loads the kernel and sets ``n_regs``.
    known = [hasattr(made, name) for name in ("run", "n_regs", "__getitem__")]
    return made if all(known) else None


def _as_wide(number: int) -> int:
    """Return one number for all that have 32 bits, and one for all that need 64."""
    return 2**31 if number >= 2**31 else 2


def resident(made: Any, device: torch.device) -> int:
    """Return the programs of a kernel that run on a multiprocessor at once."""
    if made is None:
        return PROGRAMS
    registers = -(-made.n_regs // 8) * 8
    threads = _property(device, "max_threads_per_multi_processor", THREADS)
    of_registers = _property(device, "regs_per_multiprocessor", REGISTERS) // registers
    return max(1, min(of_registers, threads) // LANES)


def multiprocessors(device: torch.device) -> int:
    """Return the number of multiprocessors of a GPU; 1 where the interpreter runs."""
    return _property(device, "multi_processor_count", 1)


def _property(device: torch.device, name: str, otherwise: int) -> int:
    """Return a property of a GPU, or ``otherwise`` where torch does not tell it."""
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return getattr(gpu, name, otherwise)
