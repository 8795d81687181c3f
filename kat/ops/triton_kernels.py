"""The rational function on a GPU: F(x) = P(x) / Q(x) and its gradients, in Triton.

The only module that imports Triton; :mod:`kat.ops.gpu` imports it on first use.

Memory is a flat run of vectors of 16 bytes (narrower ones where a group's channels do not divide
into them), ``LANES`` vectors a block. A group's channels lie together in a *run* of vectors, and
runs follow each other through the groups, again and again:

    group of vector v = (v // run) mod groups

Two ways to share the vectors out, both with one group a lane for the whole program, so that a
lane reads its coefficients once and keeps its gradient sums in registers:

- flat: block number ``pid``, ``pid + programs``, ... where the number of programs is a multiple
  of the period after which blocks repeat their columns. No division, no idle lane.
- by group: a program walks through the runs of one group, at a division a vector. For periods
  too long for the first, such as images in channels-first memory.

The backward kernel writes each program's partial sums of da and db; a second, small kernel adds
them up in a fixed order. There are no atomics, so gradients are the same bits on every run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LANES = 256
SEGMENT = 32
"""Lanes whose sums are added up inside the backward kernel, at most: a warp."""
REDUCE_LANES = 2048
LONGEST_PERIOD = 1024
VECTOR_BYTES = 16
FORWARD_PROGRAMS = 8
"""Programs for each multiprocessor: what fits beside each other at 32 registers a thread."""
BACKWARD_PROGRAMS = 4
"""The same at 64 registers a thread."""
INT32_ELEMENTS = 2**31
OPTIONS: dict[str, Any] = {"num_warps": LANES // 32, "enable_fp_fusion": True}

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether TRITON_INTERPRET=1 was set on import: then the kernels run on CPU tensors, slowly."""

ONE_INSTRUCTION_RECIPROCAL = tl.constexpr(torch.version.hip is None and not INTERPRETED)


@triton.jit
def _polynomial(x, c):
    """sum_i c_i x^i and its derivative, by Horner's rule."""
    value = c[len(c) - 1]
    slope = 0.0
    for i in tl.static_range(1, len(c)):
        slope = slope * x + value if i > 1 else value
        value = value * x + c[len(c) - 1 - i]
    return value, slope


@triton.jit
def _reciprocal(q):
    """1 / q for q >= 1. Division takes seven instructions more, for ranges that q never has."""
    if ONE_INSTRUCTION_RECIPROCAL and q.dtype == tl.float32:
        result = tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [q], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        result = 1.0 / q
    return result


@triton.jit
def _rational(x, a, b, FORM_A: tl.constexpr):
    """y = F(x), r = 1/Q(x), P'(x), Q'(x) and sgn(s); b holds |b_j| in form A."""
    p, dp = _polynomial(x, a)
    sign = 1.0
    dq = 0.0
    r = 1.0
    if len(b) > 0:
        if FORM_A:
            q, slope = _polynomial(tl.abs(x), (1.0,) + b)
            dq = tl.where(x > 0, slope, tl.where(x < 0, -slope, 0.0))
        else:
            s, slope = _polynomial(x, (0.0,) + b)
            q = 1.0 + tl.abs(s)
            sign = tl.where(s < 0, -1.0, 1.0)
            dq = slope * sign
        r = _reciprocal(q)
    return p * r, r, dp, dq, sign


@triton.jit
def _squares(x, COUNT: tl.constexpr):
    """x^2, x^4, ..., COUNT of them."""
    result = ()
    for k in tl.static_range(COUNT):
        result = result + (x * x if k == 0 else result[k - 1] * result[0],)
    return result


@triton.jit
def _add_terms(sums, even, odd, squares, FIRST: tl.constexpr):
    """sums_i + even x^i for even i, sums_i + odd x^(i - 1) for odd i, i = FIRST, FIRST + 1, ...

    With odd = even x these are the power sums, at one multiply-add each. No power of x is formed
    above the highest even one, which overflows last.
    """
    result = ()
    for i in tl.static_range(FIRST, FIRST + len(sums)):
        term = odd if i % 2 else even
        if i > 1:
            term = term * squares[i // 2 - 1]
        result = result + (sums[i - FIRST] + term,)
    return result


@triton.jit
def _zeros(COUNT: tl.constexpr, LANES: tl.constexpr, dtype: tl.constexpr):
    result = ()
    for _ in tl.static_range(COUNT):
        result = result + (tl.zeros([LANES], dtype),)
    return result


@triton.jit
def _coefficients(ptr, group, COUNT: tl.constexpr, SHARED: tl.constexpr, dtype: tl.constexpr):
    """The row of each lane's group, or the row that all share, as COUNT values."""
    row = 0 if SHARED else group * COUNT
    result = ()
    for i in tl.static_range(COUNT):
        result = result + (tl.load(ptr + row + i).to(dtype),)
    return result


@triton.jit
def _magnitudes(values):
    result = ()
    for i in tl.static_range(len(values)):
        result = result + (tl.abs(values[i]),)
    return result


@triton.jit
def _split(block, LANES: tl.constexpr, V: tl.constexpr, dtype: tl.constexpr):
    """A block of shape (LANES, V) as V values of shape (LANES,), without leaving registers."""
    parts = (block,)
    for level in tl.static_range(4):
        if V >> level > 1:
            halves = ()
            for k in tl.static_range(1 << level):
                halves = halves + tl.split(tl.reshape(parts[k], (LANES, (V >> level) // 2, 2)))
            parts = halves
    result = ()
    for k in tl.static_range(V):
        result = result + (tl.reshape(parts[k], (LANES,)).to(dtype),)
    return result


@triton.jit
def _join(values, LANES: tl.constexpr, V: tl.constexpr, dtype: tl.constexpr):
    """The inverse of _split."""
    parts = ()
    for k in tl.static_range(V):
        parts = parts + (tl.reshape(values[k].to(dtype), (LANES, 1)),)
    for level in tl.static_range(4):
        if V >> level > 1:
            wholes = ()
            for k in tl.static_range(V >> level >> 1):
                pair = tl.join(parts[2 * k], parts[2 * k + 1])
                wholes = wholes + (tl.reshape(pair, (LANES, 2 << level)),)
            parts = wholes
    return parts[0]


@triton.jit
def _share(FLAT: tl.constexpr, LANES: tl.constexpr, groups, run, INDEX: tl.constexpr):
    """This program's first position, the step to its next, and the group of each lane."""
    pid = tl.program_id(0).to(INDEX)
    programs = tl.num_programs(0).to(INDEX)
    if FLAT:
        start = pid * LANES
        step = programs * LANES
        group = ((start + tl.arange(0, LANES)) // run) % groups
    else:
        start = pid // groups * LANES
        step = programs // groups * LANES
        group = pid % groups
    return start, step, group


@triton.jit
def _offsets(position, group, groups, run, FLAT: tl.constexpr, V: tl.constexpr):
    """The element offsets (LANES, V) of the vectors at these positions."""
    vector = position
    if not FLAT:
        vector = (position // run * groups + group) * run + position % run
    return (vector * V)[:, None] + tl.arange(0, V)[None, :]


@triton.jit(do_not_specialize=["count", "groups", "run"])
def forward_kernel(
    x_ptr, y_ptr, a_ptr, b_ptr, count, groups, run,
    A: tl.constexpr, B: tl.constexpr, SHARED_A: tl.constexpr, SHARED_B: tl.constexpr,
    FORM_A: tl.constexpr, V: tl.constexpr, LANES: tl.constexpr, FLAT: tl.constexpr,
    COMPUTE: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """y = F(x) for ``count`` vectors (of each group, if not FLAT)."""
    start, step, group = _share(FLAT, LANES, groups, run, INDEX)
    a = _coefficients(a_ptr, group, A, SHARED_A, COMPUTE)
    b = _coefficients(b_ptr, group, B, SHARED_B, COMPUTE)
    if FORM_A:
        b = _magnitudes(b)
    for first in range(start, count, step):
        position = first + tl.arange(0, LANES)
        offsets = _offsets(position, group, groups, run, FLAT, V)
        mask = (position < count)[:, None]
        xs = _split(tl.load(x_ptr + offsets, mask=mask), LANES, V, COMPUTE)
        ys = ()
        for k in tl.static_range(V):
            y, _, _, _, _ = _rational(xs[k], a, b, FORM_A)
            ys = ys + (y,)
        tl.store(y_ptr + offsets, _join(ys, LANES, V, y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["count", "groups", "run"])
def backward_kernel(
    grad_ptr, x_ptr, dx_ptr, y_ptr, a_ptr, b_ptr, partial_a_ptr, partial_b_ptr,
    count, groups, run,
    A: tl.constexpr, B: tl.constexpr, SHARED_A: tl.constexpr, SHARED_B: tl.constexpr,
    FORM_A: tl.constexpr, V: tl.constexpr, LANES: tl.constexpr, FLAT: tl.constexpr,
    COMPUTE: tl.constexpr, INDEX: tl.constexpr,
    SEGMENT_A: tl.constexpr, SEGMENT_B: tl.constexpr, STORE_Y: tl.constexpr,
):  # fmt: skip
    """With w = grad / Q:  dx = w (P' - y Q'), and this program's sums for da and db,

        da_i = sum w x^i,   db_j ~ sum w y sgn(s) base^j,   base = |x| (form A) or x (form B)

    db is still without its factor -sgn(b_j) (form A) or -1 (form B). STORE_Y: also y = F(x).
    """
    start, step, group = _share(FLAT, LANES, groups, run, INDEX)
    a = _coefficients(a_ptr, group, A, SHARED_A, COMPUTE)
    b = _coefficients(b_ptr, group, B, SHARED_B, COMPUTE)
    if FORM_A:
        b = _magnitudes(b)
    sums_a = _zeros(A, LANES, COMPUTE)
    sums_b = _zeros(B, LANES, COMPUTE)
    for first in range(start, count, step):
        position = first + tl.arange(0, LANES)
        offsets = _offsets(position, group, groups, run, FLAT, V)
        mask = (position < count)[:, None]
        xs = _split(tl.load(x_ptr + offsets, mask=mask, other=0.0), LANES, V, COMPUTE)
        grads = _split(tl.load(grad_ptr + offsets, mask=mask, other=0.0), LANES, V, COMPUTE)
        dxs = ()
        ys = ()
        for k in tl.static_range(V):
            x = xs[k]
            y, r, dp, dq, sign = _rational(x, a, b, FORM_A)
            w = grads[k] * r
            base = tl.abs(x) if FORM_A else x
            v = w * y * sign
            squares = _squares(x, max(A - 1, B) // 2)
            sums_a = _add_terms(sums_a, w, w * x, squares, 0)
            sums_b = _add_terms(sums_b, v, v * base, squares, 1)
            dxs = dxs + (w * (dp - y * dq),)
            ys = ys + (y,)
        tl.store(dx_ptr + offsets, _join(dxs, LANES, V, dx_ptr.dtype.element_ty), mask=mask)
        if STORE_Y:
            tl.store(y_ptr + offsets, _join(ys, LANES, V, y_ptr.dtype.element_ty), mask=mask)
    _store_partials(partial_a_ptr, sums_a, LANES, SEGMENT_A)
    _store_partials(partial_b_ptr, sums_b, LANES, SEGMENT_B)


@triton.jit
def _store_partials(ptr, sums, LANES: tl.constexpr, SEGMENT: tl.constexpr):
    """ptr[i, pid, s] = sums_i added up over segment s of the lanes."""
    SEGMENTS: tl.constexpr = LANES // SEGMENT
    for i in tl.static_range(len(sums)):
        row = (i * tl.num_programs(0) + tl.program_id(0)) * SEGMENTS
        partial = tl.sum(tl.reshape(sums[i], (SEGMENTS, SEGMENT)), axis=1)
        tl.store(ptr + row + tl.arange(0, SEGMENTS), partial)


@triton.jit
def _row_sum(ptr, row, total, count, stride, width, LANES: tl.constexpr):
    """The sum of a row's ``count`` partials: ``width`` of them, then on by ``stride``, and again.

    ptr[i, q] is the partial sum number q of ``total`` for coefficient i, and row is (group, i).
    """
    total_sum = tl.zeros([LANES], tl.float64)
    first = ptr + row[1] * total + row[0] * width
    for start in range(0, count, LANES):
        e = start + tl.arange(0, LANES)
        partial = tl.load(first + e // width * stride + e % width, mask=e < count, other=0.0)
        total_sum += partial.to(tl.float64)
    return tl.sum(total_sum, axis=0)


@triton.jit(
    do_not_specialize=[
        "rows_a", "total_a", "count_a", "stride_a", "width_a",
        "total_b", "count_b", "stride_b", "width_b",
    ]
)  # fmt: skip
def reduce_kernel(
    partial_a_ptr, partial_b_ptr, b_ptr, da_ptr, db_ptr,
    rows_a, total_a, count_a, stride_a, width_a, total_b, count_b, stride_b, width_b,
    A: tl.constexpr, B: tl.constexpr, FORM_A: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """da and db, one element a program: its partial sums added up in float64, in a fixed order."""
    item = tl.program_id(0)
    if item < rows_a * A:
        row = (item // A, item % A)
        da = _row_sum(partial_a_ptr, row, total_a, count_a, stride_a, width_a, LANES)
        tl.store(da_ptr + item, da.to(da_ptr.dtype.element_ty))
    else:
        item -= rows_a * A
        row = (item // B, item % B)
        db = _row_sum(partial_b_ptr, row, total_b, count_b, stride_b, width_b, LANES)
        if FORM_A:
            db = tl.where(tl.load(b_ptr + item) < 0, -db, db)
        tl.store(db_ptr + item, (-db).to(db_ptr.dtype.element_ty))


@dataclass(frozen=True)
class Sharing:
    """How a tensor's vectors are shared out over programs; see the head of this module.

    Attributes:
        groups: groups of channels, with a function each.
        vector: elements a vector.
        run: vectors a run, the stretch of memory that holds one group's channels.
        count: vectors for the programs to share; those of one group, if not ``flat``.
        flat: whether blocks go through all of memory in turn, or a program keeps to one group.
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
        """For ``numel`` elements in runs of ``run`` elements, in about ``target`` programs."""
        vector = math.gcd(run, VECTOR_BYTES // itemsize)
        row = groups * run // vector
        period = row // math.gcd(row, LANES)
        flat = period <= LONGEST_PERIOD
        multiple = period if flat else groups
        vectors = numel // vector
        count = vectors if flat else vectors // groups
        blocks = -(-count // LANES) * (1 if flat else groups)
        programs = -(-min(blocks, target) // multiple) * multiple
        return cls(groups, vector, run // vector, count, flat, programs)

    @property
    def index(self) -> tl.dtype:
        """int64 where an offset, masked lanes included, could leave int32."""
        step = self.programs * LANES
        reach = self.count * (1 if self.flat else self.groups) + step
        return tl.int64 if reach * self.vector >= INT32_ELEMENTS else tl.int32

    def constants(self, compute: tl.dtype) -> dict[str, Any]:
        return {
            "V": self.vector,
            "LANES": LANES,
            "FLAT": self.flat,
            "COMPUTE": compute,
            "INDEX": self.index,
        }

    def segment(self, shared: bool) -> int:
        """Lanes that the backward kernel may add up: all of one group, unless groups share."""
        return math.gcd(self.run, SEGMENT) if self.flat and not shared else SEGMENT

    def partials(self, shared: bool) -> tuple[int, int, int, int]:
        """Partial sums for each coefficient, and the count, stride and width of a row's."""
        segment = self.segment(shared)
        total = self.programs * LANES // segment
        if shared:
            return total, total, 0, total
        width = (self.run if self.flat else LANES) // segment
        return total, total // self.groups, self.groups * width, width


def constants(numerator: Tensor, denominator: Tensor, form: str) -> dict[str, Any]:
    """What the kernels are compiled for besides dtypes and the sharing."""
    return {
        "A": numerator.shape[1],
        "B": denominator.shape[1],
        "SHARED_A": numerator.shape[0] == 1,
        "SHARED_B": denominator.shape[0] == 1,
        "FORM_A": form == "A",
    }


def rational_forward(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    """F(x) = P(x) / Q(x), as :func:`kat.ops.reference.rational_forward`, with x's strides."""
    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    order, run = _memory_order(y, numerator, denominator)
    source = x.permute(order).contiguous()
    share = _sharing(source, numerator, denominator, run, x.element_size(), FORWARD_PROGRAMS)
    with torch.cuda.device_of(x):
        forward_kernel[(share.programs,)](
            source,
            y,
            numerator.contiguous(),
            denominator.contiguous(),
            share.count,
            share.groups,
            share.run,
            **constants(numerator, denominator, form),
            **share.constants(_compute_dtype(x)),
            **OPTIONS,
        )
    return y


def rational_backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, da, db, as :func:`kat.ops.reference.rational_backward`, with the inputs' strides."""
    dx, da, db, _ = _backward(grad, x, numerator, denominator, form, store_y=False)
    return dx, da, db


def rational_backward_recompute(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dx, da, db and y = F(x), for a layer that keeps x alone and needs y in its backward pass."""
    return _backward(grad, x, numerator, denominator, form, store_y=True)


def _backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str, *, store_y: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, y = torch.empty_like(x), torch.empty_like(x) if store_y else x
    a, b = numerator.contiguous(), denominator.contiguous()
    if x.numel() == 0:
        return dx, torch.zeros_like(a), torch.zeros_like(b), y
    order, run = _memory_order(dx, a, b)
    source, grad = x.permute(order).contiguous(), grad.permute(order).contiguous()
    itemsize = max(grad.element_size(), x.element_size())
    share = _sharing(source, a, b, run, itemsize, BACKWARD_PROGRAMS)
    partials_a = share.partials(a.shape[0] == 1)
    partials_b = share.partials(b.shape[0] == 1)
    compute = _compute_dtype(x)
    sums = torch.float64 if compute is tl.float64 else torch.float32
    sums_a = torch.empty(a.shape[1], partials_a[0], dtype=sums, device=x.device)
    sums_b = torch.empty(b.shape[1], partials_b[0], dtype=sums, device=x.device)
    da, db = torch.empty_like(a), torch.empty_like(b)
    with torch.cuda.device_of(x):
        backward_kernel[(share.programs,)](
            grad,
            source,
            dx,
            y,
            a,
            b,
            sums_a,
            sums_b,
            share.count,
            share.groups,
            share.run,
            **constants(a, b, form),
            **share.constants(compute),
            SEGMENT_A=share.segment(a.shape[0] == 1),
            SEGMENT_B=share.segment(b.shape[0] == 1),
            STORE_Y=store_y,
            **OPTIONS,
        )
        reduce_kernel[(da.numel() + db.numel(),)](
            sums_a,
            sums_b,
            b,
            da,
            db,
            a.shape[0],
            *partials_a,
            *partials_b,
            A=a.shape[1],
            B=b.shape[1],
            FORM_A=form == "A",
            LANES=REDUCE_LANES,
            **OPTIONS,
        )
    return dx, da, db, y


def _memory_order(
    dense: Tensor, numerator: Tensor, denominator: Tensor
) -> tuple[list[int], int]:
    """The dimensions of a dense tensor, outermost in memory first, and the elements of a run."""
    order = sorted(range(dense.dim()), key=lambda d: -dense.stride(d))
    inner = order[order.index(dense.dim() - 1) + 1 :]
    groups = max(numerator.shape[0], denominator.shape[0])
    return order, dense.shape[-1] // groups * math.prod(dense.shape[d] for d in inner)


def _sharing(
    x: Tensor, numerator: Tensor, denominator: Tensor, run: int, itemsize: int, programs: int
) -> Sharing:
    groups = max(numerator.shape[0], denominator.shape[0])
    return Sharing.of(x.numel(), groups, run, itemsize, programs * _multiprocessors(x.device))


def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def _compute_dtype(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32
