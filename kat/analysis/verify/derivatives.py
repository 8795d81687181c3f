"""Derivatives of the rational function of any order, and where they jump.

With the power series of P and Q at x, the series of F = P/Q follows from P = F Q:

    F_k = (P_k - sum_{j = 1..k} Q_j F_{k-j}) / Q_0,   F^(k)(x) = k! F_k

|x| and |s| make Q a different polynomial on either side of a kink. Form A has its kink at x = 0,
form B at each root of s = sum_j b_j x^j where s changes sign, nearly always including x = 0. With
a_q and b_p the first nonzero coefficients (in form A the first nonzero b of odd index; in form B p
must be odd), both forms have at x = 0

    F^(p+q)(0+) - F^(p+q)(0-) = -2 (p + q)! a_q |b_p|,

and all lower derivatives are continuous: F' jumps by -2 a_0 |b_1|, and, where a_0 = 0, F'' by
-4 a_1 |b_1|. At a root r of s other than 0, F' jumps by -2 P(r) |s'(r)|.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.polynomial import polynomial
from numpy.typing import ArrayLike, NDArray
from scipy.special import erfc, expit

Array = NDArray[np.float64]

_REAL = 1e-9
"""A root counts as real if its imaginary part is smaller than this, relative to its size."""


@dataclass(frozen=True)
class Kink:
    """A point where a derivative of F is not continuous.

    Args:
        x: the point.
        order: the order of the first derivative that jumps there.
        jumps: F^(k)(x+) - F^(k)(x-) for k = 1, 2, ...
    """

    x: float
    order: int
    jumps: tuple[float, ...]


def derivatives(
    x: ArrayLike,
    numerator: Sequence[float],
    denominator: Sequence[float],
    form: str,
    *,
    order: int = 3,
    side: int = 1,
) -> Array:
    """F^(k)(x) for k = 0..order, in float64, by power series.

    Args:
        x: points, of any shape.
        numerator: a_0 .. a_m.
        denominator: b_1 .. b_n.
        form: ``"A"`` or ``"B"``.
        order: the highest derivative.
        side: at a kink, the derivatives from the right (1) or from the left (-1).

    Returns:
        (order + 1, *x.shape).
    """
    points = np.asarray(x, dtype=np.float64)
    plus, minus = _branches(denominator, form)
    on_plus = _is_plus(points, denominator, form, side)
    p = _series(points, numerator, order)
    q = np.where(on_plus, _series(points, plus, order), _series(points, minus, order))
    return _quotient(p, q)


def kinks(
    numerator: Sequence[float], denominator: Sequence[float], form: str, *, order: int = 3
) -> list[Kink]:
    """The points where one of F' .. F^(order) jumps, in order of x.

    Roots of s other than 0, and the jumps there, are found numerically.

    Args:
        numerator, denominator, form: as in :func:`derivatives`.
        order: the highest derivative.
    """
    plus, minus = _branches(denominator, form)
    found = []
    for x, from_plus_to_minus in _crossings(denominator, form):
        point = np.asarray(x)
        p = _series(point, numerator, order)
        sides = [_quotient(p, _series(point, branch, order)) for branch in (plus, minus)]
        jumps = (sides[1] - sides[0] if from_plus_to_minus else sides[0] - sides[1])[1:]
        if jumps.any():
            found.append(Kink(x, int(np.flatnonzero(jumps)[0]) + 1, tuple(jumps.tolist())))
    return found


def _identity(x: Array) -> tuple[Array, ...]:
    return x, np.ones_like(x), np.zeros_like(x), np.zeros_like(x)


def _relu(x: Array) -> tuple[Array, ...]:
    """The second derivative is a unit mass at 0, which no value at a point represents."""
    return np.maximum(x, 0.0), np.heaviside(x, 0.5), np.zeros_like(x), np.zeros_like(x)


def _tanh(x: Array) -> tuple[Array, ...]:
    t = np.tanh(x)
    slope = 1 - t**2
    return t, slope, -2 * t * slope, slope * (6 * t**2 - 2)


def _silu(x: Array) -> tuple[Array, ...]:
    s = expit(x)
    s1 = s * (1 - s)
    s2 = s1 * (1 - 2 * s)
    return x * s, s + x * s1, 2 * s1 + x * s2, 3 * s2 + x * s1 * (1 - 6 * s1)


def _gelu(x: Array) -> tuple[Array, ...]:
    cumulative = erfc(-x / math.sqrt(2)) / 2
    density = np.exp(-np.square(x) / 2) / math.sqrt(2 * math.pi)
    return (
        x * cumulative,
        cumulative + x * density,
        (2 - x**2) * density,
        (x**3 - 4 * x) * density,
    )


TARGETS: dict[str, Callable[[Array], tuple[Array, ...]]] = {
    "identity": _identity,
    "relu": _relu,
    "silu": _silu,
    "gelu": _gelu,
    "tanh": _tanh,
}
"""Target functions of presets and their first three derivatives, in closed form."""


def _branches(denominator: Sequence[float], form: str) -> tuple[Array, Array]:
    """The two polynomials of Q: for x > 0 and x < 0 (form A), or for s > 0 and s < 0 (form B)."""
    b = np.asarray(denominator, dtype=np.float64)
    if form == "A":
        signs = (-1.0) ** np.arange(1, len(b) + 1)
        return np.append(1.0, np.abs(b)), np.append(1.0, signs * np.abs(b))
    return np.append(1.0, b), np.append(1.0, -b)


def _is_plus(x: Array, denominator: Sequence[float], form: str, side: int) -> Any:
    """Whether Q is on its plus branch at x, or just beside it."""
    inner = [0.0, 1.0] if form == "A" else [0.0, *denominator]
    sign = np.zeros(x.shape)
    for k, coefficient in enumerate(_series(x, inner, len(inner) - 1)):
        sign = np.where(sign == 0.0, np.sign(coefficient) * float(side) ** k, sign)
    return sign >= 0.0


def _crossings(denominator: Sequence[float], form: str) -> list[tuple[float, bool]]:
    """Where Q changes its branch, and whether from plus to minus."""
    if form == "A":
        return [(0.0, False)]
    s = np.append(0.0, np.asarray(denominator, dtype=np.float64))
    if not s.any():
        return []
    others = polynomial.polyroots(np.trim_zeros(s))
    real = others[np.abs(others.imag) <= _REAL * np.abs(others)].real
    roots = np.unique(np.append(real, 0.0))
    between = np.concatenate([roots[:1] - 1.0, (roots[1:] + roots[:-1]) / 2, roots[-1:] + 1.0])
    signs = np.sign(polynomial.polyval(between, s))
    changes = np.flatnonzero(signs[1:] != signs[:-1])
    return [(float(roots[i]), bool(signs[i] > 0)) for i in changes]


def _series(x: Array, coefficients: ArrayLike, order: int) -> Array:
    """The coefficients of h^0 .. h^order of the polynomial at x + h."""
    c = np.asarray(coefficients, dtype=np.float64)
    return np.stack(
        [
            polynomial.polyval(x, polynomial.polyder(c, k)) / math.factorial(k)
            for k in range(order + 1)
        ]
    )


def _quotient(p: Array, q: Array) -> Array:
    """The derivatives of P/Q from the series of P and Q."""
    f = np.empty_like(p)
    for k in range(len(p)):
        f[k] = (p[k] - sum(q[j] * f[k - j] for j in range(1, k + 1))) / q[0]
    return np.stack([math.factorial(k) * f[k] for k in range(len(p))])
