"""The rational function in Triton, and the checks that nothing over- or underflows in float32."""

# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton concatenates tuples but does not unpack them)

from __future__ import annotations

import triton
import triton.language as tl

from kat.ops.triton.memory import NVIDIA, coefficients_of


@triton.jit
def rows_of(
    a_ptr, b_ptr, group, A: tl.constexpr, B: tl.constexpr,
    SHARED_A: tl.constexpr, SHARED_B: tl.constexpr, FORM_A: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """Return the a_i of each lane's group, and |b_j| (form A) or b_j with -0 for 0 (form B)."""
    a = coefficients_of(a_ptr, group, A, SHARED_A, dtype)
    given = coefficients_of(b_ptr, group, B, SHARED_B, dtype)
    b = ()
    for j in tl.static_range(B):
        b = b + (tl.abs(given[j]) if FORM_A else tl.where(given[j] == 0, -0.0, given[j]),)
    return a, b


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
def _zero_of(b):
    """Return the constant term of s = b_1 x + ... in form B: -0, which keeps a zero's sign.

    A product in Horner's rule that underflows leaves a zero of its own sign, and adding -0 keeps
    it. With -0 in place of each b_j = 0 as well, s has the sign bit of the exact s. Where all b_j
    are 0 the constant is 0, for sgn(s) = +1.
    """
    some = b[0] != 0
    for j in tl.static_range(1, len(b)):
        some = some | (b[j] != 0)
    return tl.where(some, -0.0, 0.0).to(b[0].dtype)


@triton.jit
def _is_negative(value):
    """Return True if the sign bit is set."""
    BITS: tl.constexpr = tl.int64 if value.dtype == tl.float64 else tl.int32
    return value.to(BITS, bitcast=True) < 0


@triton.jit
def rational(x, a, b, FORM_A: tl.constexpr):
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
            s = x * h + _zero_of(b)
            r = _reciprocal(1.0 + tl.abs(s))
            y = p * r
            even = tl.where(_is_negative(s) & (x != 0), -y, y)
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
def limit_of(a, b):
    """Return the largest |x| for float32: there |P| <= 2^96 and Q <= 2^40."""
    size = 1.0
    for i in tl.static_range(len(a)):
        size += tl.abs(a[i])
    limit = (96.0 - tl.log2(size)) / (len(a) - 1)
    if len(b) > 0:
        size = 1.0
        for j in tl.static_range(len(b)):
            size += tl.abs(b[j])
        limit = tl.minimum(limit, (40.0 - tl.log2(size)) / len(b))
    return tl.exp2(limit)


@triton.jit
def least_gradient_of(x, b):
    """Return the smallest nonzero |output gradient| for float32 up to this |x|.

    Where |x| > 1, a power of x may make a subnormal grad / Q large again, without the digits it
    lost. So grad / Q must be a normal number; it is at least |grad| / q for q >= Q.
    """
    q = 1.0
    power = 1.0
    for j in tl.static_range(len(b)):
        q += tl.abs(b[j])
        power *= tl.maximum(x, 1.0)
    return 2.0**-126 * q * power


@triton.jit
def is_beyond(x, limit):
    """Return True where x is too large for float32, or NaN."""
    return (tl.abs(x) <= limit) == 0


@triton.jit
def finite(x, A: tl.constexpr, B: tl.constexpr):
    """x in float64; infinity is cut off where a power of it would overflow."""
    LIMIT: tl.constexpr = 2.0 ** (960 // max(A - 1, B))
    x = tl.minimum(x.to(tl.float64), LIMIT, propagate_nan=tl.PropagateNan.ALL)
    return tl.maximum(x, -LIMIT, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def any_overflows(sums):
    """Return True if any lane's sum is NaN, or so large that a sum of lanes may be infinite."""
    zero = 0.0
    for i in tl.static_range(len(sums)):
        zero += sums[i] * 1024.0 * 0.0
    return tl.max((zero != 0.0).to(tl.int32), axis=0)
