"""The convex spaces of safe Padé rationals in which the best fit is searched.

F(x) = P(x) / Q(x) with P(x) = a_0 + a_1 x + ... + a_m x^m and

    form A: Q(x) = 1 + |b_1| |x| + ... + |b_n| |x|^n
    form B: Q(x) = 1 + |b_1 x + ... + b_n x^n|

In form A with b_j >= 0, and in form B with a prescribed sign of the inner sum, P and Q are linear
in (a, b), and the allowed b form a convex cone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kat.nn.fitting.targets import Array

# Bounds on |b_j| in the scaled variable, used in turn before the last one, in x itself. With a
# loose bound from the start, the iteration wanders to denominators so large that the constant 1 in
# Q is lost to rounding.
SCALED_BOUNDS = (1.0, 10.0, 100.0)
_LAST_BOUND = 1e3


@dataclass(frozen=True)
class SearchSpace:
    """P and Q in the scaled variable t = x / scale, with C b >= 0.

    Q = 1 + sum_j b_j phi_j(t), P = sum_i a_i t^i.

    Form A: phi_j(t) = |t|^j and C = identity.
    Form B: phi_j(t) = sign(t)^first t^j for j = first..n. The sum is t^first g(t), and the rows of
    C sample g >= 0. With first = 2 the sum has the same sign on both sides of 0, with first = 1 it
    changes sign at 0.

    Args:
        m, n: the degrees of P and Q.
        form: ``"A"`` or ``"B"``.
        first: the lowest power in Q - 1.
        scale: the scale of the variable.
        constraint: C, (rows, number of b).
    """

    m: int
    n: int
    form: str
    first: int
    scale: float
    constraint: Array

    def numerator_basis(self, x: Array) -> Array:
        """d P / d a: (k, m + 1)."""
        return np.asarray((x / self.scale)[:, None] ** np.arange(self.m + 1))

    def denominator_basis(self, x: Array) -> Array:
        """d Q / d b: (k, number of b)."""
        t = x / self.scale
        powers = np.arange(self.first, self.n + 1)
        if self.form == "A":
            return np.asarray(np.abs(t)[:, None] ** powers)
        sign = np.where(t < 0, -1.0, 1.0) ** self.first
        return np.asarray(sign[:, None] * t[:, None] ** powers)

    def unscaled(self, c: Array) -> tuple[Array, Array]:
        """All coefficients in x, from the coefficients in t."""
        a, b = np.split(c, [self.m + 1])
        full = np.concatenate([np.zeros(self.first - 1), b])[: self.n]
        return (
            a / self.scale ** np.arange(self.m + 1),
            full / self.scale ** np.arange(1, self.n + 1),
        )

    def last_bound(self) -> Array:
        """Return the loosest bounds on |b_j|, no tighter than :data:`SCALED_BOUNDS`."""
        bound = _LAST_BOUND * self.scale ** np.arange(self.first, self.n + 1)
        return np.asarray(np.maximum(bound, max(SCALED_BOUNDS)))


def search_spaces(
    degree: tuple[int, int], form: str, interval: tuple[float, float], whole_line: bool
) -> list[SearchSpace]:
    """Return the convex spaces to search, the preferred one first.

    Args:
        degree: (m, n).
        form: ``"A"`` or ``"B"``.
        interval: (low, high), the interval of the fit.
        whole_line: form B only; True if the inner sum keeps its sign on the whole line, False if on
            the interval only.
    """
    m, n = degree
    scale = max(abs(interval[0]), abs(interval[1]))
    if form == "A" or n == 0:
        return [SearchSpace(m, n, form, 1, scale, np.eye(n))]
    lowest = (2, 1) if n >= 2 else (1,)
    return [
        SearchSpace(m, n, "B", first, scale, _positivity(n - first, interval, scale, whole_line))
        for first in lowest
    ]


def chebyshev(interval: tuple[float, float], count: int) -> Array:
    """Extrema of the Chebyshev polynomial on the interval, and 0 if it lies inside."""
    low, high = interval
    nodes = 0.5 * (low + high) - 0.5 * (high - low) * np.cos(np.linspace(0.0, np.pi, count))
    return np.unique(np.append(nodes, 0.0)) if low < 0.0 < high else np.asarray(nodes)


def _positivity(degree: int, interval: tuple[float, float], scale: float, whole: bool) -> Array:
    """Rows that sample g >= 0 for a polynomial g of this degree in t.

    With t = tan(theta) the row is cos(theta)^(degree - j) sin(theta)^j, which is bounded up to
    t = +-infinity. So one grid covers the line and its two ends.
    """
    inside = np.arctan(chebyshev(interval, 201) / scale)
    outside = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 201)
    theta = np.concatenate([inside, outside]) if whole else inside
    j = np.arange(degree + 1)
    cosine = np.where(np.abs(theta) == 0.5 * np.pi, 0.0, np.cos(theta))
    return np.asarray(cosine[:, None] ** (degree - j) * np.sin(theta)[:, None] ** j)
