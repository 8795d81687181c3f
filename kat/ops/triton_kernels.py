"""The rational function on a GPU: F(x) = P(x) / Q(x) and its gradients, in Triton.

With :mod:`kat.ops.triton_scaled`, which has the arithmetic for enormous x, the only module that
imports Triton. :mod:`kat.ops.triton_launch` starts the kernels.

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

The backward kernel writes each program's partial sums of da and db; the last, small kernel adds
them up in a fixed order. There are no atomics, so gradients are the same bits on every run.

A program works as if nothing over- or underflowed, looking at the largest |x| and the least output
gradient but 0 as it goes, and at the sums in the end. If that was wrong its share is done again, in
scaled arithmetic, which is slower and holds for every x and gradient. The forward kernel does that
itself. In the backward pass, where the two together would take more registers than there are, it is
a kernel of its own in between.
"""

# mypy: ignore-errors
# ruff: noqa: RUF005  (the language has tuple concatenation, but no unpacking in older Tritons)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton import knobs

from kat.ops.triton_scaled import is_negative, least_gradient_of, limit_of, scaled_rational, zero_of

INTERPRETED = bool(knobs.runtime.interpret)
"""Whether TRITON_INTERPRET=1 was set on import: then the kernels run on CPU tensors, slowly."""

NVIDIA = tl.constexpr(torch.version.hip is None and not INTERPRETED)
"""Whether PTX instructions may be used for what Triton takes several for."""


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
    if NVIDIA and q.dtype == tl.float32:
        result = tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [q], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        result = 1.0 / q
    return result


@triton.jit
def _minus_product(c, y, q, x):
    """c - y q, but c where x is 0."""
    if NVIDIA and x.dtype == tl.float32:  # a selection more otherwise
        result = tl.inline_asm_elementwise(
            """{
            .reg .pred some;
            .reg .b32 opposite;
            neg.f32 opposite, $3;
            setp.neu.f32 some, $4, 0f00000000;
            mov.b32 $0, $1;
            @some fma.rn.f32 $0, $2, opposite, $1;
            }""",
            "=f,f,f,f,f", [c, y, q, x], dtype=tl.float32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        result = tl.where(x == 0, c, c - y * q)
    return result


@triton.jit
def _with_sign_of(y, x):
    """y, its sign changed where x has its sign bit set."""
    BITS: tl.constexpr = tl.int64 if x.dtype == tl.float64 else tl.int32
    bits = x.to(BITS, bitcast=True)
    sign = bits & (-1 << (BITS.primitive_bitwidth - 1))
    return (y.to(BITS, bitcast=True) ^ sign).to(x.dtype, bitcast=True)


@triton.jit
def _rational(x, a, b, FORM_A: tl.constexpr):
    """y = F(x), r = 1/Q(x), P' - y Q' = Q F'(x), and y sgn(s) base^j / x^j for even and odd j.

    s = sum b_j base^j, base = |x| (form A) or x (form B); b is as _rows has it.
    """
    p, slope = _polynomial(x, a)
    r = 1.0
    y = p
    even = p
    odd = p
    if len(b) > 0:
        if FORM_A:
            q, dq = _polynomial(tl.abs(x), (1.0,) + b)
            r = _reciprocal(q)
            y = p * r
            even = y
            odd = _with_sign_of(y, x)
            slope = _minus_product(slope, odd, dq, x)
        else:
            h, dh = _polynomial(x, b)
            s = x * h + zero_of(b)
            r = _reciprocal(1.0 + tl.abs(s))
            y = p * r
            even = tl.where(is_negative(s) & (x != 0), -y, y)
            odd = even
            slope = slope - even * (x * dh + h)
    return y, r, slope, even, odd


@triton.jit
def _powers(w, x, COUNT: tl.constexpr):
    """w, w x, w x^2, ..., COUNT of them.

    No power of x is formed without w, which may make an ordinary number of one that underflows.
    """
    result = (w,)
    for i in tl.static_range(1, COUNT):
        result = result + (result[i - 1] * x,)
    return result


@triton.jit
def _add_powers(sums, powers):
    """sums_i + w x^i."""
    result = ()
    for i in tl.static_range(len(sums)):
        result = result + (sums[i] + powers[i],)
    return result


@triton.jit
def _add_products(sums, even, odd, powers):
    """sums_j + even w x^j for even j, sums_j + odd w x^j for odd j, j = 1, 2, ..."""
    result = ()
    for j in tl.static_range(1, len(sums) + 1):
        result = result + (sums[j - 1] + (odd if j % 2 else even) * powers[j],)
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
def _signed_zeros(values):
    result = ()
    for i in tl.static_range(len(values)):
        result = result + (tl.where(values[i] == 0, -0.0, values[i]),)
    return result


@triton.jit
def _rows(
    a_ptr, b_ptr, group, A: tl.constexpr, B: tl.constexpr,
    SHARED_A: tl.constexpr, SHARED_B: tl.constexpr, FORM_A: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """a_i, and |b_j| (form A) or b_j (form B; -0 for 0), of each lane's group."""
    a = _coefficients(a_ptr, group, A, SHARED_A, dtype)
    b = _coefficients(b_ptr, group, B, SHARED_B, dtype)
    b = _magnitudes(b) if FORM_A else _signed_zeros(b)
    return a, b


@triton.jit
def _load(ptrs, mask, LANES: tl.constexpr, V: tl.constexpr, dtype: tl.constexpr):
    """A block of LANES vectors of V elements as V values of shape (LANES,), 0 where masked.

    The shape (LANES, V) makes it one access of V elements a lane. Taken apart it stays in
    registers, and sums over V cost additions only.
    """
    parts = (_widen(tl.load(ptrs, mask=mask, other=0.0), V, dtype),)
    for level in tl.static_range(4):
        if V >> level > 1:
            halves = ()
            for k in tl.static_range(1 << level):
                halves = halves + tl.split(tl.reshape(parts[k], (LANES, (V >> level) // 2, 2)))
            parts = halves
    values = ()
    for k in tl.static_range(V):
        values = values + (tl.reshape(parts[k], (LANES,)),)
    return values


@triton.jit
def _store(ptrs, values, mask, LANES: tl.constexpr, V: tl.constexpr):
    """Stores V values as _load returns them."""
    parts = ()
    for k in tl.static_range(V):
        parts = parts + (tl.reshape(values[k].to(ptrs.dtype.element_ty), (LANES, 1)),)
    for level in tl.static_range(4):
        if V >> level > 1:
            wholes = ()
            for k in tl.static_range(V >> level >> 1):
                pair = tl.join(parts[2 * k], parts[2 * k + 1])
                wholes = wholes + (tl.reshape(pair, (LANES, 2 << level)),)
            parts = wholes
    tl.store(ptrs, parts[0], mask=mask)


@triton.jit
def _widen(block, V: tl.constexpr, dtype: tl.constexpr):
    """The block in the dtype to compute in; two bfloat16 values at a time, one instruction each."""
    if NVIDIA and block.dtype == tl.bfloat16 and V > 1:
        result = tl.inline_asm_elementwise(
            "shl.b32 $0, $2, 16; and.b32 $1, $2, 0xffff0000;",
            "=f,=f,r", [block], dtype=tl.float32, is_pure=True, pack=2,
        )  # fmt: skip
    else:
        result = block.to(dtype)
    return result


@triton.jit
def _share(FLAT: tl.constexpr, LANES: tl.constexpr, groups, run, WIDE: tl.constexpr):
    """This program's first position, the step to its next, and the group of each lane."""
    pid = tl.program_id(0)
    programs = tl.num_programs(0)
    if WIDE:
        pid = pid.to(tl.int64)
        programs = programs.to(tl.int64)
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
def _vectors(position, group, groups, run, FLAT: tl.constexpr):
    """The numbers, in memory, of the vectors at these positions."""
    return position if FLAT else (position // run * groups + group) * run + position % run


@triton.jit
def _offsets(position, group, groups, run, FLAT: tl.constexpr, V: tl.constexpr):
    """The element offsets (LANES, V) of the vectors at these positions."""
    return (_vectors(position, group, groups, run, FLAT) * V)[:, None] + tl.arange(0, V)[None, :]


@triton.jit
def _beyond(x, a, b):
    """Whether plain arithmetic does not hold for x; NaN is one."""
    return (tl.abs(x) <= limit_of(a, b)) == 0


@triton.jit
def _any_beyond(largest, a, b):
    return tl.max(_beyond(largest, a, b).to(tl.int32), axis=0)


@triton.jit
def _any_not_finite(sums):
    """Whether a sum of any lane is infinite or NaN."""
    zero = 0.0
    for i in tl.static_range(len(sums)):
        zero += sums[i] * 0.0
    return tl.max((zero != 0.0).to(tl.int32), axis=0)


@triton.jit
def _plus(a, b):
    """a + b, but infinite where both are, with whatever signs: only NaN makes NaN."""
    both = a + b
    return tl.where((both != both) & (a == a) & (b == b), a, both)


@triton.jit
def _total(values, AXIS: tl.constexpr):
    """The sum along an axis, by the rule of _plus."""
    total = tl.sum(values, axis=AXIS)
    some_nan = tl.max((values != values).to(tl.int32), axis=AXIS)
    return tl.where((total != total) & (some_nan == 0), float("inf"), total)


@triton.jit
def _sum(sums, terms):
    result = ()
    for i in tl.static_range(len(sums)):
        result = result + (_plus(sums[i], terms[i]),)
    return result


@triton.jit(do_not_specialize=["count", "groups", "run"])
def forward_kernel(
    x_ptr, y_ptr, a_ptr, b_ptr, count, groups, run,
    A: tl.constexpr, B: tl.constexpr, SHARED_A: tl.constexpr, SHARED_B: tl.constexpr,
    FORM_A: tl.constexpr, V: tl.constexpr, LANES: tl.constexpr, FLAT: tl.constexpr,
    DOUBLE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """y = F(x) for ``count`` vectors (of each group, if not FLAT)."""
    COMPUTE: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    start, step, group = _share(FLAT, LANES, groups, run, WIDE)
    a, b = _rows(a_ptr, b_ptr, group, A, B, SHARED_A, SHARED_B, FORM_A, COMPUTE)
    largest = tl.zeros([LANES], COMPUTE)
    for first in range(start, count, step):
        position = first + tl.arange(0, LANES)
        offsets = _offsets(position, group, groups, run, FLAT, V)
        mask = (position < count)[:, None]
        xs = _load(x_ptr + offsets, mask, LANES, V, COMPUTE)
        ys = ()
        for k in tl.static_range(V):
            largest = tl.maximum(largest, tl.abs(xs[k]))
            y, _, _, _, _ = _rational(xs[k], a, b, FORM_A)
            ys = ys + (y,)
        _store(y_ptr + offsets, ys, mask, LANES, V)
    if _any_beyond(largest, a, b):
        a, b = _rows(a_ptr, b_ptr, group, A, B, SHARED_A, SHARED_B, FORM_A, COMPUTE)
        for first in range(start, count, step):
            position = first + tl.arange(0, LANES)
            vector = _vectors(position, group, groups, run, FLAT)
            for k in range(V):
                offsets = vector * V + k
                mask = position < count
                x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(COMPUTE)
                y, _, _, _ = scaled_rational(x, x, a, b, FORM_A)
                beyond = mask & _beyond(x, a, b)
                tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=beyond)


@triton.jit(do_not_specialize=["count", "groups", "run"])
def backward_kernel(
    grad_ptr, x_ptr, dx_ptr, y_ptr, a_ptr, b_ptr, partial_a_ptr, partial_b_ptr, again_ptr,
    count, groups, run,
    A: tl.constexpr, B: tl.constexpr, SHARED_A: tl.constexpr, SHARED_B: tl.constexpr,
    FORM_A: tl.constexpr, V: tl.constexpr, LANES: tl.constexpr, FLAT: tl.constexpr,
    DOUBLE: tl.constexpr, WIDE: tl.constexpr,
    SEGMENT_A: tl.constexpr, SEGMENT_B: tl.constexpr, STORE_Y: tl.constexpr,
):  # fmt: skip
    """With w = grad / Q:  dx = w (P' - y Q'), and this program's sums for da and db,

        da_i = sum w x^i,   db_j ~ sum w y sgn(s) base^j,   base = |x| (form A) or x (form B)

    db is still without its factor -sgn(b_j) (form A) or -1 (form B). STORE_Y: also y = F(x).
    again_ptr[pid] = 1 where plain arithmetic has not held, for scaled_backward_kernel to go on.
    """
    COMPUTE: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    start, step, group = _share(FLAT, LANES, groups, run, WIDE)
    a, b = _rows(a_ptr, b_ptr, group, A, B, SHARED_A, SHARED_B, FORM_A, COMPUTE)
    sums_a = _zeros(A, LANES, COMPUTE)
    sums_b = _zeros(B, LANES, COMPUTE)
    UNSIGNED: tl.constexpr = tl.uint64 if DOUBLE else tl.uint32
    largest = tl.zeros([LANES], COMPUTE)
    least = tl.zeros([LANES], UNSIGNED) - 1  # 2 |grad| - 1 in the bits of |grad|: 0 is largest
    for first in range(start, count, step):
        position = first + tl.arange(0, LANES)
        offsets = _offsets(position, group, groups, run, FLAT, V)
        mask = (position * V < count * V)[:, None]  # so that no second counter is kept
        xs = _load(x_ptr + offsets, mask, LANES, V, COMPUTE)
        grads = _load(grad_ptr + offsets, mask, LANES, V, COMPUTE)
        dxs = ()
        ys = ()
        for k in tl.static_range(V):
            x = xs[k]
            y, r, slope, even, odd = _rational(x, a, b, FORM_A)
            w = grads[k] * r
            powers = _powers(w, x, max(A, B + 1))
            largest = tl.maximum(largest, tl.abs(x), propagate_nan=tl.PropagateNan.ALL)
            least = tl.minimum(least, grads[k].to(UNSIGNED, bitcast=True) * 2 - 1)
            sums_a = _add_powers(sums_a, powers)
            sums_b = _add_products(sums_b, even, odd, powers)
            dxs = dxs + (w * slope,)
            ys = ys + (y,)
        _store(dx_ptr + offsets, dxs, mask, LANES, V)
        if STORE_Y:
            _store(y_ptr + offsets, ys, mask, LANES, V)
    least_grad = ((least + 1) >> 1).to(COMPUTE, bitcast=True)  # 0: there is none
    tiny = (least_grad > 0) & (least_grad < least_gradient_of(largest, a, b))
    again = tl.max((_beyond(largest, a, b) | tiny).to(tl.int32), axis=0)
    tl.store(again_ptr + tl.program_id(0), again | _any_not_finite(sums_a + sums_b))
    _store_partials(partial_a_ptr, sums_a, LANES, SEGMENT_A)
    _store_partials(partial_b_ptr, sums_b, LANES, SEGMENT_B)


@triton.jit(do_not_specialize=["count", "groups", "run"])
def scaled_backward_kernel(
    grad_ptr, x_ptr, dx_ptr, y_ptr, a_ptr, b_ptr, partial_a_ptr, partial_b_ptr, again_ptr,
    count, groups, run,
    A: tl.constexpr, B: tl.constexpr, SHARED_A: tl.constexpr, SHARED_B: tl.constexpr,
    FORM_A: tl.constexpr, V: tl.constexpr, LANES: tl.constexpr, FLAT: tl.constexpr,
    DOUBLE: tl.constexpr, WIDE: tl.constexpr,
    SEGMENT_A: tl.constexpr, SEGMENT_B: tl.constexpr, STORE_Y: tl.constexpr,
):  # fmt: skip
    """The sums of backward_kernel, again, for the programs that have asked for it, in float64.

    And dx of the x beyond the limit and of tiny gradients, and y of the former, in the dtype of
    forward_kernel's, for the same bits.
    """
    COMPUTE: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    if tl.load(again_ptr + tl.program_id(0)) != 0:
        start, step, group = _share(FLAT, LANES, groups, run, WIDE)
        near_a, near_b = _rows(a_ptr, b_ptr, group, A, B, SHARED_A, SHARED_B, FORM_A, COMPUTE)
        a, b = _rows(a_ptr, b_ptr, group, A, B, SHARED_A, SHARED_B, FORM_A, tl.float64)
        sums_a = _zeros(A, LANES, tl.float64)
        sums_b = _zeros(B, LANES, tl.float64)
        for first in range(start, count, step):
            position = first + tl.arange(0, LANES)
            vector = _vectors(position, group, groups, run, FLAT)
            for k in range(V):
                offsets = vector * V + k
                mask = position < count
                x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float64)
                grad = tl.load(grad_ptr + offsets, mask=mask, other=0.0).to(tl.float64)
                _, dx, terms_a, terms_b = scaled_rational(x, grad, a, b, FORM_A)
                sums_a = _sum(sums_a, terms_a)
                sums_b = _sum(sums_b, terms_b)
                near = x.to(COMPUTE)
                beyond = mask & _beyond(near, near_a, near_b)
                tiny = tl.abs(grad) < least_gradient_of(limit_of(near_a, near_b), near_a, near_b)
                dx = _narrow(dx, dx_ptr.dtype.element_ty)
                tl.store(dx_ptr + offsets, dx, mask=beyond | (mask & tiny))
                if STORE_Y:
                    y, _, _, _ = scaled_rational(near, near, near_a, near_b, FORM_A)
                    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=beyond)
        _store_partials(partial_a_ptr, sums_a, LANES, SEGMENT_A)
        _store_partials(partial_b_ptr, sums_b, LANES, SEGMENT_B)


@triton.jit
def _store_partials(ptr, sums, LANES: tl.constexpr, SEGMENT: tl.constexpr):
    """ptr[i, pid, s] = sums_i added up over segment s of the lanes."""
    SEGMENTS: tl.constexpr = LANES // SEGMENT
    for i in tl.static_range(len(sums)):
        row = (i * tl.num_programs(0) + tl.program_id(0)) * SEGMENTS
        partial = _total(tl.reshape(sums[i], (SEGMENTS, SEGMENT)), 1)
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
        total_sum = _plus(total_sum, partial)
    return _total(total_sum, 0)


@triton.jit
def _narrow(value, dtype: tl.constexpr):
    """A float64 value in any dtype. By way of float32, since not every Triton knows all pairs."""
    if dtype != tl.float64:
        value = value.to(tl.float32)
    return value.to(dtype)


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
        tl.store(da_ptr + item, _narrow(da, da_ptr.dtype.element_ty))
    else:
        item -= rows_a * A
        row = (item // B, item % B)
        db = _row_sum(partial_b_ptr, row, total_b, count_b, stride_b, width_b, LANES)
        if FORM_A:
            b = tl.load(b_ptr + item).to(partial_b_ptr.dtype.element_ty)
            db = tl.where(b < 0, -db, db)
        tl.store(db_ptr + item, _narrow(-db, db_ptr.dtype.element_ty))
