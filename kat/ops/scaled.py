"""The rational function for x of any size, infinity included: no intermediate result overflows.

Write x = f 2^e with e >= 0, and |f| < 1 where e > 0. A polynomial of degree d is then

    p(x) = 2^(e d) h(f, 2^-e),    h(f, c) = sum_i c_i f^i c^(d - i).

h is of ordinary size whatever x is, products with powers of two are exact, and exponents are added
as integers until the end. d is the index of the last nonzero coefficient. For |x| < 1, e = 0 and
h = p. Infinity counts as a number with an enormous exponent, which gives the limits.

As in :mod:`kat.ops.reference`, everything consists of differentiable torch operations; exponents
and degrees are constants to differentiation.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from kat.ops.arguments import Rational
from kat.ops.reference import absolute, sign, sign_of_sum

_HEADROOM = {torch.float32: 64, torch.float64: 512}
"""log2 of a factor on the coefficients, which keeps subnormal ones exact."""
_EXPONENTS = {torch.float32: (127, 23, torch.int32), torch.float64: (1023, 52, torch.int64)}
_INFINITE_EXPONENT = 1 << 20


class _Homogeneous(NamedTuple):
    """p(x) = value 2^exponent, and dp/dx = slope 2^(exponent - e)."""

    value: Tensor
    slope: Tensor
    exponent: Tensor


class _Terms(NamedTuple):
    """The parts of F and its gradient: Q = q 2^q_exponent, its slope, and the sign of s."""

    e: Tensor
    p: _Homogeneous
    q: Tensor
    q_exponent: Tensor
    q_slope: Tensor
    sign: Tensor

    @property
    def ratio(self) -> Tensor:
        return self.p.value / self.q


def value(f: Rational, x: Tensor) -> Tensor:
    """F(x) for x (..., G, D), float32 or float64 like the coefficients."""
    t = _terms(f, x)
    return times_power(t.ratio, t.p.exponent - t.q_exponent)


def widest_dtype(device: torch.device) -> torch.dtype:
    """float64, which Apple's GPUs do not have."""
    return torch.float32 if device.type == "mps" else torch.float64


def gradients(f: Rational, grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """dx, da and db of ``sum(grad * F(x))``, for grad of x's shape; all in float64 if there is one.

    float64 has room for the sums, and for derivatives of dx where dx is beyond float32's maximum.
    """
    dtype = widest_dtype(x.device)
    grad, x = grad.to(dtype), x.to(dtype)
    a, b = f.numerator.to(dtype), f.denominator.to(dtype)
    t = _terms(Rational(a, b, f.form), x)
    g, g_exponent = _parts(grad)
    w, exponent = g / t.q, g_exponent - t.q_exponent
    slope = torch.where(t.ratio == 0, t.p.slope, t.p.slope - t.ratio * t.q_slope)
    dx = times_power(w * slope, exponent + t.p.exponent - t.e)
    fraction, e = _parts(x)
    da = [_total(w * fraction**i, exponent + i * e, a) for i in range(a.shape[1])]
    base, side, db_sign = fraction, t.sign, torch.ones_like(b)
    if f.form == "A":
        base, side, db_sign = absolute(fraction), torch.ones_like(t.sign), sign(b)
    w, exponent = -w * t.ratio * side, exponent + t.p.exponent - t.q_exponent
    db = [_total(w * base**j, exponent + j * e, b) for j in range(1, b.shape[1] + 1)]
    return dx, _columns(da, a), _columns(db, b) * db_sign


def _total(terms: Tensor, exponent: Tensor, coefficients: Tensor) -> Tensor:
    """Return the sum of terms 2^exponent over each group, or over all: one column of the gradient.

    Infinite terms of both signs sum to infinity; only a NaN gives NaN.
    """
    terms = times_power(terms, exponent).movedim(-2, 0).flatten(1)
    terms = terms if len(coefficients) == len(terms) else terms.reshape(1, -1)
    total = terms.sum(1)
    return torch.where(total.isnan() & ~terms.isnan().any(1), torch.inf, total)


def _columns(columns: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(columns, 1) if columns else torch.zeros_like(like)


def times_power(value: Tensor, exponent: Tensor) -> Tensor:
    """value 2^exponent for any integer exponent; exact up to the last rounding."""
    bias, shift, integer = _EXPONENTS[value.dtype]
    for _ in range(3):
        step = exponent.clamp(1 - bias, bias)
        exponent = exponent - step
        value = value * _same_bits((step.to(integer) + bias) << shift, value.dtype)
    return value


def _terms(f: Rational, x: Tensor) -> _Terms:
    a, b, form = f
    fraction, e = _parts(x)
    fraction, e = torch.where(e < 0, x, fraction), e.clamp(min=0)
    p = _homogeneous(fraction, e, a)
    base = absolute(fraction) if form == "A" else fraction
    inner = absolute(b) if form == "A" else b
    s = _homogeneous(base, e, torch.cat([b.new_zeros(len(b), 1), inner], 1))
    s_sign = sign(s.value)
    if form == "B":
        s_sign = torch.where(e > 0, s_sign, sign_of_sum(fraction, b))
    x_sign = fraction.sign() if form == "A" else s_sign
    size = torch.where(s.value == 0, 0, _parts(s.value)[1] + s.exponent).clamp(min=0)
    one = times_power(torch.ones_like(x), -size)
    q = one + times_power(s.value * s_sign, s.exponent - size)
    slope = times_power(s.slope, s.exponent - size) * x_sign
    return _Terms(e, p, q, size, slope, s_sign)


def _parts(x: Tensor) -> tuple[Tensor, Tensor]:
    """Fraction and exponent of x; the exponent is a constant to differentiation."""
    exponent = _exponent(x.detach())
    exponent = torch.where(x.isfinite(), exponent, torch.where(x.isnan(), 0, _INFINITE_EXPONENT))
    return torch.where(x.isinf(), x.sign(), times_power(x, -exponent)), exponent


def _exponent(x: Tensor) -> Tensor:
    """Return the e of x = f 2^e with 0.5 <= |f| < 1, for finite x; 0 for x = 0.

    ``torch.frexp`` of float64 does not compile for CPUs (torch 2.13), so this reads the bits. A
    subnormal number has no exponent of its own until it is scaled up.
    """
    bias, shift, integer = _EXPONENTS[x.dtype]
    subnormal = x.abs() < 2.0 ** (1 - bias)
    bits = _same_bits(torch.where(subnormal, x * 2.0**shift, x), integer)
    exponent = (bits >> shift & (2 * bias + 1)) - shift * subnormal.to(integer) - (bias - 1)
    return torch.where(x == 0, 0, exponent)


def _same_bits(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x with its bits read as another type of the same size."""
    try:
        return x.view(dtype)
    except RuntimeError:  # vmap of torch 2.10 knows the copy alone, and warns that it is slow
        with warnings.catch_warnings(action="ignore"):
            return torch.view_copy(x, dtype)


def _homogeneous(f: Tensor, e: Tensor, coefficients: Tensor) -> _Homogeneous:
    headroom = _HEADROOM[f.dtype]
    places = torch.arange(coefficients.shape[1], device=f.device)
    degree = torch.where(coefficients != 0, places, 0).amax(1)[:, None]
    c, power = times_power(torch.ones_like(f), -e), torch.full_like(f, 2.0**headroom)
    columns = coefficients[:, :, None].unbind(1)
    value, slope = columns[-1] * power, torch.zeros_like(f)
    for i in range(len(columns) - 2, -1, -1):
        power = torch.where(i < degree, power * c, power)
        slope = slope * f + value
        value = value * f + columns[i] * power
    return _Homogeneous(value, slope, e * degree - headroom)
