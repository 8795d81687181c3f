"""The rational function in Triton where nothing over- or underflows, and the checks for that.

:mod:`kat.ops.triton.scaled` has the arithmetic for the few other x and output gradients.
"""

# mypy: ignore-errors
# ruff: noqa: RUF005  (older versions of Triton concatenate tuples but do not unpack them)

from __future__ import annotations

import triton
import triton.language as tl

from kat.ops.triton.memory import NVIDIA
from kat.ops.triton.scaled import is_negative, limit_of, zero_of


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
    """1 / q for q >= 1. A division costs seven more instructions, for values that q never has."""
    if NVIDIA and q.dtype == tl.float32:
        result = tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [q], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        result = 1.0 / q
    return result


@triton.jit
def _minus_product(c, y, q, x):
    """c - y q, and c where x is 0."""
    if NVIDIA and x.dtype == tl.float32:  # saves a selection
        result = tl.inline_asm_elementwise(
            """{
            .reg .pred some;
            .reg .b32 opposite;
            neg.f32 opposite, $3;
            setp.neu.f32 some, $4, 0f00000000;
            mov.b32 $0, $1;
            @some fma.rn.f32 $0, $2, opposite, $1;
            }""",
            "=&f,f,f,f,f", [c, y, q, x], dtype=tl.float32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        result = tl.where(x == 0, c, c - y * q)
    return result


@triton.jit
def _with_sign_of(y, x):
    """y with its sign flipped where x has its sign bit set."""
    BITS: tl.constexpr = tl.int64 if x.dtype == tl.float64 else tl.int32
    bits = x.to(BITS, bitcast=True)
    sign = bits & (-1 << (BITS.primitive_bitwidth - 1))
    return (y.to(BITS, bitcast=True) ^ sign).to(x.dtype, bitcast=True)


@triton.jit
def plain_rational(x, a, b, FORM_A: tl.constexpr):
    """y = F(x), r = 1/Q(x), P' - y Q' = Q F'(x), and y sgn(s) base^j / x^j for even and odd j.

    s = sum b_j base^j, base = |x| (form A) or x (form B); b as rows_of returns it.
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
def powers_of(w, x, COUNT: tl.constexpr):
    """w, w x, w x^2, ..., COUNT of them.

    A power of x that underflows by itself may be an ordinary number times w, so none is formed
    without w.
    """
    result = (w,)
    for i in tl.static_range(1, COUNT):
        result = result + (result[i - 1] * x,)
    return result


@triton.jit
def add_powers(sums, powers):
    """sums_i + w x^i."""
    result = ()
    for i in tl.static_range(len(sums)):
        result = result + (sums[i] + powers[i],)
    return result


@triton.jit
def add_products(sums, even, odd, powers):
    """sums_j + even w x^j for even j, sums_j + odd w x^j for odd j, j = 1, 2, ..."""
    result = ()
    for j in tl.static_range(1, len(sums) + 1):
        result = result + (sums[j - 1] + (odd if j % 2 else even) * powers[j],)
    return result


@triton.jit
def is_beyond(x, a, b):
    """True where x is too large for plain arithmetic, or NaN."""
    return (tl.abs(x) <= limit_of(a, b)) == 0


@triton.jit
def any_beyond(largest, a, b):
    return tl.max(is_beyond(largest, a, b).to(tl.int32), axis=0)


@triton.jit
def any_not_finite(sums):
    """Return True if any lane's sum is infinite or NaN."""
    zero = 0.0
    for i in tl.static_range(len(sums)):
        zero += sums[i] * 0.0
    return tl.max((zero != 0.0).to(tl.int32), axis=0)
