"""The gate y = F(x) v and its gradients as Triton kernels.

As in :mod:`kat.ops.triton.kernels`, of which the gradients' last kernel is used as it is. Positions
and offsets are those of rows without gaps; x and v, and dx and dv, may have rows that lie further
apart, as the halves of one tensor do.
"""

# mypy: ignore-errors
# ruff: noqa: RUF005  (the language has tuple concatenation, but no unpacking in older Tritons)

from __future__ import annotations

import triton
import triton.language as tl

from kat.ops.triton.arithmetic import (
    add_powers,
    add_products,
    any_beyond,
    any_not_finite,
    is_beyond,
    plain_rational,
    powers_of,
)
from kat.ops.triton.kernels import store_partials, sum_terms
from kat.ops.triton.memory import (
    inside,
    lane_zeros,
    load_vectors,
    narrowed,
    offsets_of,
    rows_of,
    share_of,
    store_vectors,
    vectors_at,
)
from kat.ops.triton.scaled import least_gradient_of, limit_of, scaled_rational


@triton.jit
def _gaps(
    first, start, groups, run, gap,
    LANES: tl.constexpr, FLAT: tl.constexpr, V: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    """How many elements of gaps lie before the vectors at the positions from ``first`` on.

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


@triton.jit(do_not_specialize=["count", "groups", "run", "gap"])
def forward_kernel(
    x_ptr, v_ptr, y_ptr, a_ptr, b_ptr, count, groups, run, gap,
    A: tl.constexpr, B: tl.constexpr, SHARED_A: tl.constexpr, SHARED_B: tl.constexpr,
    FORM_A: tl.constexpr, V: tl.constexpr, LANES: tl.constexpr, FLAT: tl.constexpr,
    DOUBLE: tl.constexpr, WIDE: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    """y = F(x) v for ``count`` vectors: in all if FLAT, else of each group."""
    COMPUTE: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    start, step, group = share_of(FLAT, LANES, groups, run, WIDE)
    a, b = rows_of(a_ptr, b_ptr, group, A, B, SHARED_A, SHARED_B, FORM_A, COMPUTE)
    largest = tl.zeros([LANES], COMPUTE)
    for first in range(start, count, step):
        position = first + tl.arange(0, LANES)
        offsets = offsets_of(position, group, groups, run, FLAT, V)
        inputs = offsets + _gaps(first, start, groups, run, gap, LANES, FLAT, V, APART)[:, None]
        mask = (position < count)[:, None]
        xs = load_vectors(x_ptr + inputs, mask, LANES, V, COMPUTE)
        vs = load_vectors(v_ptr + inputs, mask, LANES, V, COMPUTE)
        ys = ()
        for k in tl.static_range(V):
            largest = tl.maximum(largest, tl.abs(xs[k]))
            f, _, _, _, _ = plain_rational(xs[k], a, b, FORM_A)
            ys = ys + (f * vs[k],)
        store_vectors(y_ptr + offsets, ys, mask, LANES, V)
    if any_beyond(largest, a, b):
        a, b = rows_of(a_ptr, b_ptr, group, A, B, SHARED_A, SHARED_B, FORM_A, COMPUTE)
        for first in range(start, count, step):
            position = first + tl.arange(0, LANES)
            vector = vectors_at(position, group, groups, run, FLAT)
            gaps = _gaps(first, start, groups, run, gap, LANES, FLAT, V, APART)
            mask = position < count
            for k in range(V):
                offsets = vector * V + k
                x = tl.load(x_ptr + offsets + gaps, mask=mask, other=0.0).to(COMPUTE)
                v = tl.load(v_ptr + offsets + gaps, mask=mask, other=0.0).to(COMPUTE)
                f, _, _, _ = scaled_rational(x, x, a, b, FORM_A)
                y = (f * v).to(y_ptr.dtype.element_ty)
                tl.store(y_ptr + offsets, y, mask=mask & is_beyond(x, a, b))


@triton.jit
def _pattern(product, grad, v, UNSIGNED: tl.constexpr):
    """2 |product| - 1 in its bits, largest for an exact zero and least for one that underflowed."""
    bits = product.to(UNSIGNED, bitcast=True) * 2 - 1
    lost = (product == 0) & (tl.minimum(tl.abs(grad), tl.abs(v)) > 0)
    return tl.where(lost, 1, bits)


@triton.jit(do_not_specialize=["count", "groups", "run", "gap", "out_gap"])
def backward_kernel(
    grad_ptr, x_ptr, v_ptr, dx_ptr, dv_ptr, y_ptr, a_ptr, b_ptr,
    partial_a_ptr, partial_b_ptr, again_ptr,
    count, groups, run, gap, out_gap,
    A: tl.constexpr, B: tl.constexpr, SHARED_A: tl.constexpr, SHARED_B: tl.constexpr,
    FORM_A: tl.constexpr, V: tl.constexpr, LANES: tl.constexpr, FLAT: tl.constexpr,
    DOUBLE: tl.constexpr, WIDE: tl.constexpr, APART: tl.constexpr, OUT_APART: tl.constexpr,
    SEGMENT_A: tl.constexpr, SEGMENT_B: tl.constexpr, STORE_Y: tl.constexpr,
):  # fmt: skip
    """dv = grad F(x), and dx and the partial sums of da and db for the gradient grad v of F.

    Those are as in :func:`kat.ops.triton.kernels.backward_kernel`. STORE_Y: also y = F(x) v.
    """
    COMPUTE: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    start, step, group = share_of(FLAT, LANES, groups, run, WIDE)
    a, b = rows_of(a_ptr, b_ptr, group, A, B, SHARED_A, SHARED_B, FORM_A, COMPUTE)
    sums_a = lane_zeros(A, LANES, COMPUTE)
    sums_b = lane_zeros(B, LANES, COMPUTE)
    UNSIGNED: tl.constexpr = tl.uint64 if DOUBLE else tl.uint32
    largest = tl.zeros([LANES], COMPUTE)
    least = tl.zeros([LANES], UNSIGNED) - 1
    for first in range(start, count, step):
        position = first + tl.arange(0, LANES)
        offsets = offsets_of(position, group, groups, run, FLAT, V)
        inputs = offsets + _gaps(first, start, groups, run, gap, LANES, FLAT, V, APART)[:, None]
        mask = inside(first, position, count, LANES, V, WIDE)
        xs = load_vectors(x_ptr + inputs, mask, LANES, V, COMPUTE)
        vs = load_vectors(v_ptr + inputs, mask, LANES, V, COMPUTE)
        grads = load_vectors(grad_ptr + offsets, mask, LANES, V, COMPUTE)
        dxs = ()
        dvs = ()
        ys = ()
        for k in tl.static_range(V):
            x = xs[k]
            f, r, slope, even, odd = plain_rational(x, a, b, FORM_A)
            of_f = grads[k] * vs[k]
            w = of_f * r
            powers = powers_of(w, x, max(A, B + 1))
            largest = tl.maximum(largest, tl.abs(x), propagate_nan=tl.PropagateNan.ALL)
            least = tl.minimum(least, _pattern(of_f, grads[k], vs[k], UNSIGNED))
            sums_a = add_powers(sums_a, powers)
            sums_b = add_products(sums_b, even, odd, powers)
            dxs = dxs + (w * slope,)
            dvs = dvs + (grads[k] * f,)
            ys = ys + (f * vs[k],)
        outputs = offsets
        outputs += _gaps(first, start, groups, run, out_gap, LANES, FLAT, V, OUT_APART)[:, None]
        store_vectors(dx_ptr + outputs, dxs, mask, LANES, V)
        store_vectors(dv_ptr + outputs, dvs, mask, LANES, V)
        if STORE_Y:
            store_vectors(y_ptr + offsets, ys, mask, LANES, V)
    least_grad = ((least + 1) >> 1).to(COMPUTE, bitcast=True)  # 0 if there is none
    tiny = (least_grad > 0) & (least_grad < least_gradient_of(largest, a, b))
    again = tl.max((is_beyond(largest, a, b) | tiny).to(tl.int32), axis=0)
    tl.store(again_ptr + tl.program_id(0), again | any_not_finite(sums_a + sums_b))
    store_partials(partial_a_ptr, sums_a, LANES, SEGMENT_A)
    store_partials(partial_b_ptr, sums_b, LANES, SEGMENT_B)


@triton.jit(do_not_specialize=["count", "groups", "run", "gap", "out_gap"])
def scaled_backward_kernel(
    grad_ptr, x_ptr, v_ptr, dx_ptr, dv_ptr, y_ptr, a_ptr, b_ptr,
    partial_a_ptr, partial_b_ptr, again_ptr,
    count, groups, run, gap, out_gap,
    A: tl.constexpr, B: tl.constexpr, SHARED_A: tl.constexpr, SHARED_B: tl.constexpr,
    FORM_A: tl.constexpr, V: tl.constexpr, LANES: tl.constexpr, FLAT: tl.constexpr,
    DOUBLE: tl.constexpr, WIDE: tl.constexpr, APART: tl.constexpr, OUT_APART: tl.constexpr,
    SEGMENT_A: tl.constexpr, SEGMENT_B: tl.constexpr, STORE_Y: tl.constexpr,
):  # fmt: skip
    """Computes the sums of backward_kernel again, in float64, where again_ptr says so.

    Also dx for x beyond the limit and for tiny gradients, and dv and y for x beyond the limit, y in
    the dtype of forward_kernel, for the same bits.
    """
    COMPUTE: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    if tl.load(again_ptr + tl.program_id(0)) != 0:
        start, step, group = share_of(FLAT, LANES, groups, run, WIDE)
        near_a, near_b = rows_of(a_ptr, b_ptr, group, A, B, SHARED_A, SHARED_B, FORM_A, COMPUTE)
        a, b = rows_of(a_ptr, b_ptr, group, A, B, SHARED_A, SHARED_B, FORM_A, tl.float64)
        sums_a = lane_zeros(A, LANES, tl.float64)
        sums_b = lane_zeros(B, LANES, tl.float64)
        for first in range(start, count, step):
            position = first + tl.arange(0, LANES)
            vector = vectors_at(position, group, groups, run, FLAT)
            gaps = _gaps(first, start, groups, run, gap, LANES, FLAT, V, APART)
            out_gaps = _gaps(first, start, groups, run, out_gap, LANES, FLAT, V, OUT_APART)
            mask = position < count
            for k in range(V):
                offsets = vector * V + k
                x = tl.load(x_ptr + offsets + gaps, mask=mask, other=0.0).to(tl.float64)
                v = tl.load(v_ptr + offsets + gaps, mask=mask, other=0.0).to(tl.float64)
                grad = tl.load(grad_ptr + offsets, mask=mask, other=0.0).to(tl.float64)
                of_f = grad * v
                f, dx, terms_a, terms_b = scaled_rational(x, of_f, a, b, FORM_A)
                sums_a = sum_terms(sums_a, terms_a)
                sums_b = sum_terms(sums_b, terms_b)
                near = x.to(COMPUTE)
                beyond = mask & is_beyond(near, near_a, near_b)
                tiny = tl.abs(of_f) < least_gradient_of(limit_of(near_a, near_b), near_a, near_b)
                dx = narrowed(dx, dx_ptr.dtype.element_ty)
                tl.store(dx_ptr + offsets + out_gaps, dx, mask=beyond | (mask & tiny))
                dv = narrowed(f * grad, dv_ptr.dtype.element_ty)
                tl.store(dv_ptr + offsets + out_gaps, dv, mask=beyond)
                if STORE_Y:
                    near_f, _, _, _ = scaled_rational(near, near, near_a, near_b, FORM_A)
                    y = (near_f * v.to(COMPUTE)).to(y_ptr.dtype.element_ty)
                    tl.store(y_ptr + offsets, y, mask=beyond)
        store_partials(partial_a_ptr, sums_a, LANES, SEGMENT_A)
        store_partials(partial_b_ptr, sums_b, LANES, SEGMENT_B)
