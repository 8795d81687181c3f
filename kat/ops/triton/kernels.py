"""The rational function F(x) = P(x) / Q(x), the gate F(x) v, and their gradients in Triton.

:mod:`kat.ops.triton.memory` divides memory among programs; :mod:`kat.ops.triton.arithmetic` has the
arithmetic; :mod:`kat.ops.triton.launch` launches the kernels.

The backward kernel writes each program's partial sums of da and db, and a small last kernel adds
them in a fixed order. There are no atomics, so gradients have the same bits in every run.

A program first computes in float32 as if nothing over- or underflowed. Meanwhile it tracks the
largest |x| and the smallest nonzero output gradient, and at the end it checks the sums. If a limit
is exceeded, its share is computed again in float64, which is slower and holds for every x and
gradient. The forward kernel does so itself, where one of the lanes has such an x. In the backward
pass, where both together would need more registers than there are, a separate kernel follows.

Positions and offsets are counted without gaps between rows; x and v of a gate may have rows that
lie further apart, as the halves of one tensor do.
"""

# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton concatenates tuples but does not unpack them)

from __future__ import annotations

import triton
import triton.language as tl

from kat.ops.triton.arithmetic import (
    add_powers,
    add_products,
    any_overflows,
    finite,
    is_beyond,
    least_gradient_of,
    limit_of,
    powers_of,
    rational,
    rows_of,
)
from kat.ops.triton.memory import (
    inside,
    lane_zeros,
    load_vectors,
    narrowed,
    offsets_of,
    share_of,
    store_vectors,
    vectors_at,
)


@triton.jit
def _gaps(
    first, start, groups, run, gap,
    LANES: tl.constexpr, FLAT: tl.constexpr, V: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    """Return the number of elements in gaps before the vectors at the positions from ``first`` on.

    ``gap`` vectors lie between two rows. Flat, the step of a program is a number of rows, so that
    the lanes' rows are divided once.
    """
    if APART:
        if FLAT:
            row = groups * run
            rows = (start + tl.arange(0, LANES)) // row + (first - start) // row
        else:
            rows = (first + tl.arange(0, LANES)) // run
        result = rows * (gap * V)
    else:
        result = tl.zeros([LANES], tl.int32)
    return result


@triton.jit
def _pattern(product, grad, v):
    """2 |product| - 1 in its bits, largest for an exact zero and least for one that underflowed."""
    bits = product.to(tl.uint32, bitcast=True) * 2 - 1
    lost = (product == 0) & (tl.minimum(tl.abs(grad), tl.abs(v)) > 0)
    return tl.where(lost, 1, bits)


@triton.jit(do_not_specialize=["count", "groups", "run", "gap"])
def forward_kernel(
    x_ptr, v_ptr, y_ptr, a_ptr, b_ptr, count, groups, run, gap,
    A: tl.constexpr, B: tl.constexpr, SHARED_A: tl.constexpr, SHARED_B: tl.constexpr,
    FORM_A: tl.constexpr, V: tl.constexpr, LANES: tl.constexpr, FLAT: tl.constexpr,
    WIDE: tl.constexpr, GATED: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    """y = F(x), or F(x) v if GATED, for ``count`` vectors: in all if FLAT, else of each group.

    APART: ``gap`` vectors lie between two rows of x and v.
    """
    start, step, group = share_of(FLAT, LANES, groups, run, WIDE)
    a, b = rows_of(a_ptr, b_ptr, group, A, B, SHARED_A, SHARED_B, FORM_A, tl.float32)
    largest = tl.zeros([LANES], tl.float32)
    for first in range(start, count, step):
        position = first + tl.arange(0, LANES)
        offsets = offsets_of(position, group, groups, run, FLAT, V)
        inputs = offsets
        if APART:
            inputs += _gaps(first, start, groups, run, gap, LANES, FLAT, V, APART)[:, None]
        mask = (position < count)[:, None]
        xs = load_vectors(x_ptr + inputs, mask, LANES, V, tl.float32)
        if GATED:
            vs = load_vectors(v_ptr + inputs, mask, LANES, V, tl.float32)
        ys = ()
        for k in tl.static_range(V):
            largest = tl.maximum(largest, tl.abs(xs[k]))
            y, _, _, _, _ = rational(xs[k], a, b, FORM_A)
            if GATED:
                y = y * vs[k]
            ys = ys + (y,)
        store_vectors(y_ptr + offsets, ys, mask, LANES, V)
    limit = limit_of(a, b)
    if tl.max(is_beyond(largest, limit).to(tl.int32), axis=0):
        for first in range(start, count, step):
            position = first + tl.arange(0, LANES)
            vector = vectors_at(position, group, groups, run, FLAT)
            gaps = _gaps(first, start, groups, run, gap, LANES, FLAT, V, APART)
            mask = position < count
            for k in range(V):
                offsets = vector * V + k
                x = tl.load(x_ptr + offsets + gaps, mask=mask, other=0.0).to(tl.float32)
                beyond = mask & is_beyond(x, limit)
                if tl.max(beyond.to(tl.int32), axis=0):
                    # Loaded for each x: to hold them costs the loop above registers.
                    p, q = rows_of(
                        a_ptr, b_ptr, group, A, B, SHARED_A, SHARED_B, FORM_A, tl.float64
                    )
                    y, _, _, _, _ = rational(finite(x, A, B), p, q, FORM_A)
                    if GATED:
                        v = tl.load(v_ptr + offsets + gaps, mask=mask, other=0.0)
                        y = y * v.to(tl.float64)
                    tl.store(y_ptr + offsets, narrowed(y, y_ptr.dtype.element_ty), mask=beyond)


@triton.jit(do_not_specialize=["count", "groups", "run", "gap"])
def backward_kernel(
    grad_ptr, x_ptr, v_ptr, dx_ptr, dv_ptr, a_ptr, b_ptr,
    partial_a_ptr, partial_b_ptr, again_ptr,
    count, groups, run, gap,
    A: tl.constexpr, B: tl.constexpr, SHARED_A: tl.constexpr, SHARED_B: tl.constexpr,
    FORM_A: tl.constexpr, V: tl.constexpr, LANES: tl.constexpr, FLAT: tl.constexpr,
    WIDE: tl.constexpr, GATED: tl.constexpr, APART: tl.constexpr,
    SEGMENT_A: tl.constexpr, SEGMENT_B: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Return the gradients, with w = grad / Q:  dx = w (P' - y Q'), and this program's partial sums

        da_i = sum w x^i,   db_j ~ sum w y sgn(s) base^j,   base = |x| (form A) or x (form B)

    db lacks its factor -sgn(b_j) (form A) or -1 (form B) here. Without SUMS there are none.
    again_ptr[pid] = 1 where float32 failed; float64_backward_kernel then computes again.
    GATED: these are for the gradient grad v of F, and dv = grad F(x).
    """
    start, step, group = share_of(FLAT, LANES, groups, run, WIDE)
    a, b = rows_of(a_ptr, b_ptr, group, A, B, SHARED_A, SHARED_B, FORM_A, tl.float32)
    sums_a = lane_zeros(A, LANES, tl.float32)
    sums_b = lane_zeros(B, LANES, tl.float32)
    largest = tl.zeros([LANES], tl.float32)
    least = tl.zeros([LANES], tl.uint32) - 1  # 2 |grad| - 1 in the bits of |grad|: largest for 0
    for first in range(start, count, step):
        position = first + tl.arange(0, LANES)
        offsets = offsets_of(position, group, groups, run, FLAT, V)
        inputs = offsets
        if APART:
            inputs += _gaps(first, start, groups, run, gap, LANES, FLAT, V, APART)[:, None]
        mask = inside(first, position, count, LANES, V, WIDE)
        xs = load_vectors(x_ptr + inputs, mask, LANES, V, tl.float32)
        if GATED:
            vs = load_vectors(v_ptr + inputs, mask, LANES, V, tl.float32)
        grads = load_vectors(grad_ptr + offsets, mask, LANES, V, tl.float32)
        dxs = ()
        dvs = ()
        for k in tl.static_range(V):
            x = xs[k]
            y, r, slope, even, odd = rational(x, a, b, FORM_A)
            grad = grads[k]
            if GATED:
                grad = grad * vs[k]
            w = grad * r
            largest = tl.maximum(largest, tl.abs(x), propagate_nan=tl.PropagateNan.ALL)
            if GATED:
                least = tl.minimum(least, _pattern(grad, grads[k], vs[k]))
            else:
                least = tl.minimum(least, grad.to(tl.uint32, bitcast=True) * 2 - 1)
            if SUMS:
                powers = powers_of(w, x, max(A, B + 1))
                sums_a = add_powers(sums_a, powers)
                sums_b = add_products(sums_b, even, odd, powers)
            dxs = dxs + (w * slope,)
            if GATED:
                dvs = dvs + (grads[k] * y,)
        store_vectors(dx_ptr + offsets, dxs, mask, LANES, V)
        if GATED:
            store_vectors(dv_ptr + offsets, dvs, mask, LANES, V)
    least_grad = ((least + 1) >> 1).to(tl.float32, bitcast=True)  # 0 if there is none
    limit = limit_of(a, b)
    tiny = (least_grad > 0) & (least_grad < least_gradient_of(tl.minimum(largest, limit), b))
    again = tl.max((is_beyond(largest, limit) | tiny).to(tl.int32), axis=0)
    if SUMS:
        again = again | any_overflows(sums_a + sums_b)
        store_partials(partial_a_ptr, sums_a, LANES, SEGMENT_A)
        store_partials(partial_b_ptr, sums_b, LANES, SEGMENT_B)
    tl.store(again_ptr + tl.program_id(0), again)


@triton.jit(do_not_specialize=["count", "groups", "run", "gap"])
def float64_backward_kernel(
    grad_ptr, x_ptr, v_ptr, dx_ptr, dv_ptr, a_ptr, b_ptr,
    partial_a_ptr, partial_b_ptr, again_ptr,
    count, groups, run, gap,
    A: tl.constexpr, B: tl.constexpr, SHARED_A: tl.constexpr, SHARED_B: tl.constexpr,
    FORM_A: tl.constexpr, V: tl.constexpr, LANES: tl.constexpr, FLAT: tl.constexpr,
    WIDE: tl.constexpr, GATED: tl.constexpr, APART: tl.constexpr,
    SEGMENT_A: tl.constexpr, SEGMENT_B: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Compute the sums of backward_kernel again, in float64, where again_ptr says so.

    Also dx for x beyond the limit and for tiny gradients, and dv for x beyond the limit.
    """
    if tl.load(again_ptr + tl.program_id(0)) != 0:
        start, step, group = share_of(FLAT, LANES, groups, run, WIDE)
        a, b = rows_of(a_ptr, b_ptr, group, A, B, SHARED_A, SHARED_B, FORM_A, tl.float32)
        limit = limit_of(a, b)
        least = least_gradient_of(limit, b)
        a, b = rows_of(a_ptr, b_ptr, group, A, B, SHARED_A, SHARED_B, FORM_A, tl.float64)
        sums_a = lane_zeros(A, LANES, tl.float64)
        sums_b = lane_zeros(B, LANES, tl.float64)
        for first in range(start, count, step):
            position = first + tl.arange(0, LANES)
            vector = vectors_at(position, group, groups, run, FLAT)
            gaps = _gaps(first, start, groups, run, gap, LANES, FLAT, V, APART)
            mask = position < count
            for k in range(V):
                offsets = vector * V + k
                near = tl.load(x_ptr + offsets + gaps, mask=mask, other=0.0).to(tl.float32)
                x = finite(near, A, B)
                y_grad = tl.load(grad_ptr + offsets, mask=mask, other=0.0).to(tl.float64)
                grad = y_grad
                if GATED:
                    v = tl.load(v_ptr + offsets + gaps, mask=mask, other=0.0).to(tl.float64)
                    grad = y_grad * v
                y, r, slope, even, odd = rational(x, a, b, FORM_A)
                w = grad * r
                if SUMS:
                    powers = powers_of(w, x, max(A, B + 1))
                    sums_a = add_powers(sums_a, powers)
                    sums_b = add_products(sums_b, even, odd, powers)
                beyond = mask & is_beyond(near, limit)
                tiny = mask & (tl.abs(grad) < least)
                dx = narrowed(w * slope, dx_ptr.dtype.element_ty)
                tl.store(dx_ptr + offsets, dx, mask=beyond | tiny)
                if GATED:
                    dv = narrowed(y * y_grad, dv_ptr.dtype.element_ty)
                    tl.store(dv_ptr + offsets, dv, mask=beyond)
        if SUMS:
            store_partials(partial_a_ptr, sums_a, LANES, SEGMENT_A)
            store_partials(partial_b_ptr, sums_b, LANES, SEGMENT_B)


@triton.jit
def store_partials(ptr, sums, LANES: tl.constexpr, SEGMENT: tl.constexpr):
    """ptr[i, pid, s] = the sum of sums_i over segment s of the lanes."""
    SEGMENTS: tl.constexpr = LANES // SEGMENT
    for i in tl.static_range(len(sums)):
        row = (i * tl.num_programs(0) + tl.program_id(0)) * SEGMENTS
        partial = tl.sum(tl.reshape(sums[i], (SEGMENTS, SEGMENT)), axis=1)
        tl.store(ptr + row + tl.arange(0, SEGMENTS), partial)


@triton.jit
def _row_sum(ptr, row, total, count, stride, width, LANES: tl.constexpr):
    """Return the sum of a row's ``count`` partial sums, which lie ``width`` at a time, ``stride``
    apart.

    ptr[i, q] is partial sum q of ``total`` for coefficient i, and row is (group, i).
    """
    sums = tl.zeros([LANES], tl.float64)
    first = ptr + row[1] * total + row[0] * width
    for start in range(0, count, LANES):
        e = start + tl.arange(0, LANES)
        sums += tl.load(first + e // width * stride + e % width, mask=e < count, other=0.0)
    return tl.sum(sums, axis=0)


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
    """da and db, one element a program: its partial sums, added in float64 and a fixed order."""
    item = tl.program_id(0)
    if item < rows_a * A:
        row = (item // A, item % A)
        da = _row_sum(partial_a_ptr, row, total_a, count_a, stride_a, width_a, LANES)
        tl.store(da_ptr + item, narrowed(da, da_ptr.dtype.element_ty))
    else:
        item -= rows_a * A
        row = (item // B, item % B)
        db = _row_sum(partial_b_ptr, row, total_b, count_b, stride_b, width_b, LANES)
        if FORM_A:
            b = tl.load(b_ptr + item).to(partial_b_ptr.dtype.element_ty)
            db = tl.where(b < 0, -db, db)
        tl.store(db_ptr + item, narrowed(-db, db_ptr.dtype.element_ty))
