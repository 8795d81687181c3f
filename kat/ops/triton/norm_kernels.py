"""F(LayerNorm(x)) and its gradients as Triton kernels.

A program holds whole rows, ROWS at a time: lane l has V channels of row l // COLUMNS, from channel
V (l % COLUMNS) on. COLUMNS is a power of two, so the last lanes of a row may be idle. Each lane has
the same channels in every row, and keeps their coefficients, weights and gradient sums in
registers.

Arithmetic, checks and partial sums of F are those of :mod:`kat.ops.triton.kernels`, of which the
gradients' last kernel is used as it is.
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
from kat.ops.triton.memory import lane_zeros, load_vectors, rows_of, store_vectors
from kat.ops.triton.scaled import least_gradient_of, scaled_rational


@triton.jit
def _pair_plus(a, b, c, d):
    return a + c, b + d


@triton.jit
def _of_rows(values, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The sums of a tuple of V values, (ROWS, COLUMNS)."""
    total = values[0]
    for k in tl.static_range(1, len(values)):
        total += values[k]
    return tl.reshape(total, (ROWS, COLUMNS))


@triton.jit
def _row_means(first, second, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The means over each row of two tuples of V values, (ROWS, 1)."""
    pair = (_of_rows(first, ROWS, COLUMNS), _of_rows(second, ROWS, COLUMNS))
    a, b = tl.reduce(pair, 1, _pair_plus)
    return (a / channels)[:, None], (b / channels)[:, None]


@triton.jit
def _to_lanes(of_row, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """(ROWS, 1) as a value a lane."""
    return tl.reshape(tl.broadcast_to(of_row, (ROWS, COLUMNS)), (ROWS * COLUMNS,))


@triton.jit
def _standardized(
    xs, inside, there, channels,
    EPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """(x - mean) / sqrt(var + eps), and 1 / sqrt(var + eps) of each lane's row, 0 if not ``there``.

    A second mean removes what the rounding of the first, which may be large, leaves.
    """
    mean = tl.sum(_of_rows(xs, ROWS, COLUMNS), axis=1) / channels
    mean = _to_lanes(mean[:, None], ROWS, COLUMNS)
    centered = ()
    squares = ()
    for k in tl.static_range(len(xs)):
        apart = tl.where(inside, xs[k] - mean, 0.0)
        centered = centered + (apart,)
        squares = squares + (apart * apart,)
    rest, variance = _row_means(centered, squares, channels, ROWS, COLUMNS)
    variance = variance - rest * rest
    variance = tl.where(variance < 0, 0.0, variance)
    scale = tl.where(there, _to_lanes(1.0 / tl.sqrt(variance + EPS), ROWS, COLUMNS), 0.0)
    rest = _to_lanes(rest, ROWS, COLUMNS)
    result = ()
    for k in tl.static_range(len(xs)):
        result = result + ((centered[k] - rest) * scale,)
    return result, scale


@triton.jit
def _lanes(width, run, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Of each lane: its row among ROWS, its vector in the row, whether there is one, its group."""
    lane = tl.arange(0, ROWS * COLUMNS)
    column = lane % COLUMNS
    inside = column < width
    return lane // COLUMNS, column, inside, tl.where(inside, column // run, 0)


@triton.jit
def _load_parameters(
    weight_ptr, bias_ptr, column, inside,
    LANES: tl.constexpr, V: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """V weights and V biases of each lane."""
    offsets = (column * V)[:, None] + tl.arange(0, V)[None, :]
    weights = load_vectors(weight_ptr + offsets, inside[:, None], LANES, V, COMPUTE)
    biases = load_vectors(bias_ptr + offsets, inside[:, None], LANES, V, COMPUTE)
    return weights, biases


@triton.jit
def _offsets(rows, column, width, V: tl.constexpr, WIDE: tl.constexpr):
    """The element offsets (LANES, V) of the lanes' vectors."""
    if WIDE:
        rows = rows.to(tl.int64)
    return ((rows * width + column) * V)[:, None] + tl.arange(0, V)[None, :]


@triton.jit(do_not_specialize=["count", "width", "run"])
def forward_kernel(
    x_ptr, y_ptr, weight_ptr, bias_ptr, a_ptr, b_ptr, count, width, run,
    A: tl.constexpr, B: tl.constexpr, SHARED_A: tl.constexpr, SHARED_B: tl.constexpr,
    FORM_A: tl.constexpr, DOUBLE: tl.constexpr, EPS: tl.constexpr, V: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """y = F(LayerNorm(x)) for ``count`` rows of ``width`` vectors, ``run`` of each group."""
    COMPUTE: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    LANES: tl.constexpr = ROWS * COLUMNS
    own_row, column, inside, group = _lanes(width, run, ROWS, COLUMNS)
    weights, biases = _load_parameters(weight_ptr, bias_ptr, column, inside, LANES, V, COMPUTE)
    a, b = rows_of(a_ptr, b_ptr, group, A, B, SHARED_A, SHARED_B, FORM_A, COMPUTE)
    largest = tl.zeros([LANES], COMPUTE)
    start = tl.program_id(0) * ROWS
    step = tl.num_programs(0) * ROWS
    for first in range(start, count, step):
        rows = first + own_row
        offsets = _offsets(rows, column, width, V, WIDE)
        mask = (inside & (rows < count))[:, None]
        xs = load_vectors(x_ptr + offsets, mask, LANES, V, COMPUTE)
        ns, _ = _standardized(xs, inside, rows < count, width * V, EPS, ROWS, COLUMNS)
        ys = ()
        for k in tl.static_range(V):
            z = ns[k] * weights[k] + biases[k]
            largest = tl.maximum(largest, tl.abs(z))
            y, _, _, _, _ = plain_rational(z, a, b, FORM_A)
            ys = ys + (y,)
        store_vectors(y_ptr + offsets, ys, mask, LANES, V)
    if any_beyond(largest, a, b):
        a, b = rows_of(a_ptr, b_ptr, group, A, B, SHARED_A, SHARED_B, FORM_A, COMPUTE)
        for first in range(start, count, step):
            rows = first + own_row
            offsets = _offsets(rows, column, width, V, WIDE)
            mask = (inside & (rows < count))[:, None]
            xs = load_vectors(x_ptr + offsets, mask, LANES, V, COMPUTE)
            ns, _ = _standardized(xs, inside, rows < count, width * V, EPS, ROWS, COLUMNS)
            ys = ()
            for k in tl.static_range(V):
                z = ns[k] * weights[k] + biases[k]
                ys = ys + (_any_value(z, a, b, FORM_A),)
            store_vectors(y_ptr + offsets, ys, mask, LANES, V)


@triton.jit
def _any_value(z, a, b, FORM_A: tl.constexpr):
    """F(z) for every z: by plain arithmetic where that holds."""
    plain, _, _, _, _ = plain_rational(z, a, b, FORM_A)
    scaled, _, _, _ = scaled_rational(z, z, a, b, FORM_A)
    return tl.where(is_beyond(z, a, b), scaled, plain)


@triton.jit(do_not_specialize=["count", "width", "run"])
def backward_kernel(
    grad_ptr, x_ptr, dx_ptr, y_ptr, weight_ptr, bias_ptr, a_ptr, b_ptr,
    partial_ptr, partial_a_ptr, partial_b_ptr, again_ptr, count, width, run,
    A: tl.constexpr, B: tl.constexpr, SHARED_A: tl.constexpr, SHARED_B: tl.constexpr,
    FORM_A: tl.constexpr, DOUBLE: tl.constexpr, EPS: tl.constexpr, V: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
    SEGMENT_A: tl.constexpr, SEGMENT_B: tl.constexpr, STORE_Y: tl.constexpr,
    SCALED: tl.constexpr,
):  # fmt: skip
    """With n = (x - mean) / std, dz = grad F'(z) and g = dz weight:

        dx = (g - mean(g) - n mean(g n)) / std,   dweight = sum dz n,   dbias = sum dz

    and the sums of da and db as in :func:`kat.ops.triton.kernels.backward_kernel`. STORE_Y: also
    y = F(z). again_ptr[pid] = 1 where plain arithmetic of F failed. SCALED: what follows there, in
    scaled arithmetic and float64; nothing elsewhere.
    """
    COMPUTE: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    SUMS: tl.constexpr = tl.float64 if DOUBLE or SCALED else tl.float32
    UNSIGNED: tl.constexpr = tl.uint64 if DOUBLE else tl.uint32
    LANES: tl.constexpr = ROWS * COLUMNS
    program = tl.program_id(0)
    if SCALED:  # noqa: SIM102  (a constant, and a value of a tensor)
        if tl.load(again_ptr + program) == 0:
            return
    own_row, column, inside, group = _lanes(width, run, ROWS, COLUMNS)
    weights, biases = _load_parameters(weight_ptr, bias_ptr, column, inside, LANES, V, COMPUTE)
    a, b = rows_of(a_ptr, b_ptr, group, A, B, SHARED_A, SHARED_B, FORM_A, COMPUTE)
    exact_a, exact_b = rows_of(a_ptr, b_ptr, group, A, B, SHARED_A, SHARED_B, FORM_A, SUMS)
    sums_a = lane_zeros(A, LANES, SUMS)
    sums_b = lane_zeros(B, LANES, SUMS)
    sums_weight = lane_zeros(V, LANES, COMPUTE)
    sums_bias = lane_zeros(V, LANES, COMPUTE)
    largest = tl.zeros([LANES], COMPUTE)
    least = tl.zeros([LANES], UNSIGNED) - 1  # as in kernels.backward_kernel
    for first in range(program * ROWS, count, tl.num_programs(0) * ROWS):
        rows = first + own_row
        offsets = _offsets(rows, column, width, V, WIDE)
        mask = (inside & (rows < count))[:, None]
        xs = load_vectors(x_ptr + offsets, mask, LANES, V, COMPUTE)
        grads = load_vectors(grad_ptr + offsets, mask, LANES, V, COMPUTE)
        ns, scale = _standardized(xs, inside, rows < count, width * V, EPS, ROWS, COLUMNS)
        gs = ()
        products = ()
        ys = ()
        d_weights = ()
        d_biases = ()
        for k in tl.static_range(V):
            z = ns[k] * weights[k] + biases[k]
            if SCALED:
                _, dz, terms_a, terms_b = scaled_rational(
                    z.to(SUMS), grads[k].to(SUMS), exact_a, exact_b, FORM_A
                )
                dz = dz.to(COMPUTE)
                sums_a = sum_terms(sums_a, terms_a)
                sums_b = sum_terms(sums_b, terms_b)
                if STORE_Y:
                    ys = ys + (_any_value(z, a, b, FORM_A),)
            else:
                y, r, slope, even, odd = plain_rational(z, a, b, FORM_A)
                w = grads[k] * r
                powers = powers_of(w, z, max(A, B + 1))
                largest = tl.maximum(largest, tl.abs(z), propagate_nan=tl.PropagateNan.ALL)
                least = tl.minimum(least, grads[k].to(UNSIGNED, bitcast=True) * 2 - 1)
                sums_a = add_powers(sums_a, powers)
                sums_b = add_products(sums_b, even, odd, powers)
                dz = w * slope
                ys = ys + (y,)
            d_weights = d_weights + (sums_weight[k] + dz * ns[k],)
            d_biases = d_biases + (sums_bias[k] + dz,)
            g = dz * weights[k]
            gs = gs + (g,)
            products = products + (g * ns[k],)
        sums_weight = d_weights
        sums_bias = d_biases
        if STORE_Y:
            store_vectors(y_ptr + offsets, ys, mask, LANES, V)
        mean, slope = _row_means(gs, products, width * V, ROWS, COLUMNS)
        mean = _to_lanes(mean, ROWS, COLUMNS)
        slope = _to_lanes(slope, ROWS, COLUMNS)
        dxs = ()
        for k in tl.static_range(V):
            dxs = dxs + ((gs[k] - mean - ns[k] * slope) * scale,)
        store_vectors(dx_ptr + offsets, dxs, mask, LANES, V)
    if not SCALED:
        least_grad = ((least + 1) >> 1).to(COMPUTE, bitcast=True)  # 0 if there is none
        tiny = (least_grad > 0) & (least_grad < least_gradient_of(largest, a, b))
        again = tl.max((is_beyond(largest, a, b) | tiny).to(tl.int32), axis=0)
        tl.store(again_ptr + program, again | any_not_finite(sums_a + sums_b))
    store_partials(partial_a_ptr, sums_a, LANES, SEGMENT_A)
    store_partials(partial_b_ptr, sums_b, LANES, SEGMENT_B)
    place = partial_ptr + 2 * program * width * V
    _store_row_sums(place, sums_weight, width, ROWS, COLUMNS)
    _store_row_sums(place + width * V, sums_bias, width, ROWS, COLUMNS)


@triton.jit
def _store_row_sums(ptr, sums, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Stores the sums over ROWS, a row."""
    V: tl.constexpr = len(sums)
    totals = ()
    for k in tl.static_range(V):
        totals = totals + (tl.sum(tl.reshape(sums[k], (ROWS, COLUMNS)), axis=0),)
    columns = tl.arange(0, COLUMNS)
    offsets = (columns * V)[:, None] + tl.arange(0, V)[None, :]
    store_vectors(ptr + offsets, totals, (columns < width)[:, None], COLUMNS, V)
