"""The rational function in Triton for the few x and output gradients that over- or underflow.

The arithmetic is as in :mod:`kat.ops.scaled`: x = f 2^e, polynomials h(f, 2^-e) of ordinary size,
exponents added as integers. Infinity counts as a number with an enormous exponent.
"""

# mypy: ignore-errors
# ruff: noqa: RUF005  (older versions of Triton concatenate tuples but do not unpack them)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def limit_of(a, b):
    """The largest |x| for plain arithmetic: there |P| <= 2^96 and Q <= 2^40; more in float64."""
    ROOM: tl.constexpr = 8.0 if a[0].dtype == tl.float64 else 1.0
    size = 1.0
    for i in tl.static_range(len(a)):
        size += tl.abs(a[i])
    limit = (96.0 * ROOM - tl.log2(size)) / (len(a) - 1)
    if len(b) > 0:
        size = 1.0
        for j in tl.static_range(len(b)):
            size += tl.abs(b[j])
        limit = tl.minimum(limit, (40.0 * ROOM - tl.log2(size)) / len(b))
    return tl.exp2(limit)


@triton.jit
def least_gradient_of(x, a, b):
    """The smallest nonzero |output gradient| for plain arithmetic up to this |x|.

    Where |x| > 1, a power of x may make a subnormal grad / Q large again, without the digits it
    lost. So grad / Q must be a normal number; it is at least |grad| / q for q >= Q.
    """
    TINY: tl.constexpr = 2.0**-1022 if a[0].dtype == tl.float64 else 2.0**-126
    x = tl.minimum(x, limit_of(a, b))
    q = 1.0
    power = 1.0
    for j in tl.static_range(len(b)):
        q += tl.abs(b[j])
        power *= tl.maximum(x, 1.0)
    return TINY * q * power


@triton.jit
def zero_of(b):
    """The constant term of s = b_1 x + ... in form B: -0, which keeps the sign of every zero.

    A product in Horner's rule that underflows leaves a zero of its own sign, and adding -0 keeps
    it. With -0 in place of each b_j = 0 as well, s has the sign bit of the exact s. Where all b_j
    are 0 the constant is 0, for sgn(s) = +1.
    """
    some = b[0] != 0
    for j in tl.static_range(1, len(b)):
        some = some | (b[j] != 0)
    return tl.where(some, -0.0, 0.0).to(b[0].dtype)


@triton.jit
def is_negative(value):
    """Return True if the sign bit is set."""
    BITS: tl.constexpr = tl.int64 if value.dtype == tl.float64 else tl.int32
    return value.to(BITS, bitcast=True) < 0


@triton.jit
def scaled_rational(x, grad, a, b, FORM_A: tl.constexpr):
    """y, dx, the terms grad x^i / Q, i = 0..m, and grad y sgn(s) base^j / Q, j = 1..n.

    b holds |b_j| in form A, -0 for 0 in form B; base = |x| (form A) or x (form B).
    """
    unit, unit_exponent = _parts(x)
    f = tl.where(unit_exponent < 0, x, unit)
    e = tl.maximum(unit_exponent, 0)
    g, g_exponent = _parts(grad)
    base = tl.abs(f) if FORM_A else f
    p, dp, p_exponent = _homogeneous(f, e, a)
    zero = 0.0 * f if FORM_A or len(b) == 0 else zero_of(b)
    s, ds, s_exponent = _homogeneous(base, e, (zero,) + b)

    # Q = 1 + |s| = q 2^size, q in [1/2, 2).
    _, s_size = _parts(s)
    size = tl.maximum(tl.where(s == 0, 0, s_size + s_exponent), 0)
    q = _times_power(0.0 * e.to(x.dtype) + 1.0, -size) + _times_power(tl.abs(s), s_exponent - size)
    ratio = p / q
    sign = tl.where(is_negative(s) & (f != 0), -1.0, 1.0)
    flip = tl.where(f > 0, 1.0, tl.where(f < 0, -1.0, 0.0)) if FORM_A else sign
    dq = _times_power(ds, s_exponent - size) * flip
    w = g / q
    exponent = g_exponent - size
    slope = tl.where(ratio == 0, dp, dp - ratio * dq)

    y = _times_power(ratio, p_exponent - size)
    dx = _times_power(w * slope, exponent + p_exponent - e)
    terms_a = _powers(w, unit, unit_exponent, exponent, 0, len(a))
    base = tl.abs(unit) if FORM_A else unit
    v = w * ratio * sign
    terms_b = _powers(v, base, unit_exponent, exponent + p_exponent - size, 1, len(b))
    return y, dx, terms_a, terms_b


@triton.jit
def _powers(w, f, e, exponent, FIRST: tl.constexpr, COUNT: tl.constexpr):
    """w f^i 2^(exponent + i e), i = FIRST, ...; COUNT of them."""
    result = ()
    for i in tl.static_range(FIRST + COUNT):
        if i >= FIRST:
            result = result + (_times_power(w, exponent + i * e),)
        w = w * f
    return result


@triton.jit
def _homogeneous(f, e, c):
    """h(f, 2^-e), its derivative with respect to f, and the exponent of both.

    The coefficients are multiplied by a power of two, which keeps subnormal ones exact.
    """
    HEADROOM: tl.constexpr = 512 if f.dtype == tl.float64 else 64
    FACTOR: tl.constexpr = 2.0**512 if f.dtype == tl.float64 else 2.0**64
    degree = 0 * e
    for i in tl.static_range(1, len(c)):
        degree = tl.where(c[i] != 0, i, degree)
    step = _times_power(0.0 * e.to(f.dtype) + 1.0, -e)
    power = 0.0 * step + FACTOR
    value = c[len(c) - 1] * power
    slope = 0.0 * step
    for k in tl.static_range(1, len(c)):
        power = tl.where(degree > len(c) - 1 - k, power * step, power)
        slope = slope * f + value
        value = value * f + c[len(c) - 1 - k] * power
    return value, slope, e * degree - HEADROOM


@triton.jit
def _times_power(value, exponent):
    """value 2^exponent for any integer exponent; exact up to the last rounding."""
    BIAS: tl.constexpr = 1023 if value.dtype == tl.float64 else 127
    SHIFT: tl.constexpr = 52 if value.dtype == tl.float64 else 23
    BITS: tl.constexpr = tl.int64 if value.dtype == tl.float64 else tl.int32
    for _ in tl.static_range(3):
        step = tl.minimum(tl.maximum(exponent, 1 - BIAS), BIAS)
        exponent = exponent - step
        value = value * ((step.to(BITS) + BIAS) << SHIFT).to(value.dtype, bitcast=True)
    return value


@triton.jit
def _parts(x):
    """Fraction and exponent of x: |fraction| in [1/2, 1), x = fraction 2^exponent."""
    BIAS: tl.constexpr = 1023 if x.dtype == tl.float64 else 127
    SHIFT: tl.constexpr = 52 if x.dtype == tl.float64 else 23
    BITS: tl.constexpr = tl.int64 if x.dtype == tl.float64 else tl.int32
    TINY: tl.constexpr = 2.0 ** (1 - BIAS)
    subnormal = tl.abs(x) < TINY
    normal = tl.where(subnormal, x * 2.0**SHIFT, x)
    pattern = normal.to(BITS, bitcast=True)
    field = ((pattern >> SHIFT) & (2 * BIAS + 1)).to(tl.int32)
    exponent = field - (BIAS - 1) - tl.where(subnormal, SHIFT, 0)
    infinite = field == 2 * BIAS + 1
    exponent = tl.where(infinite, 1 << 20, exponent)
    mantissa = pattern - ((field - (BIAS - 1)).to(BITS) << SHIFT)
    fraction = tl.where((x == 0) | (x != x), x, mantissa.to(x.dtype, bitcast=True))
    exponent = tl.where((x == 0) | (x != x), 0, exponent)
    return fraction, exponent
