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

from kat.errors import InputError
from kat.nn.fitting.functions import Array
from kat.nn.fitting.samples import chebyshev

# Bounds on |b_j| in the scaled variable, used in turn before the last one, in x itself. With a
# loose bound from the start, the iteration wanders to denominators so large that the constant 1 in
# Q is lost to rounding.
SCALED_BOUNDS = (1.0, 10.0, 100.0)
_LAST_BOUND = 1e3
# For a prescribed slope at infinity the highest power must not vanish, or the slope would change.
_SMALLEST_LEADING = 1e-3


@dataclass(frozen=True)
class SearchSpace:
    """P and Q in the scaled variable t = x / scale, with C b >= lower.

    Q = 1 + sum_j b_j phi_j(t), P = sum_i a_i t^i. With a prescribed slope for m = n + 1, the last
    term of P is slope scale b_n t^m: a_m is tied to b_n.

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
        lower: (rows,).
        slope: the limit of F(x) / x as x goes to infinity; None if it is free.
    """

    m: int
    n: int
    form: str
    first: int
    scale: float
    constraint: Array
    lower: Array
    slope: float | None = None

    def numerator_basis(self, x: Array) -> Array:
        """d P / d a: (k, m + 1), without the last column if a_m is tied to b_n."""
        return np.asarray((x / self.scale)[:, None] ** np.arange(self.m + (not self._tied)))

    def denominator_basis(self, x: Array) -> Array:
        """d Q / d b: (k, number of b)."""
        t = x / self.scale
        powers = np.arange(self.first, self.n + 1)
        if self.form == "A":
            return np.asarray(np.abs(t)[:, None] ** powers)
        sign = np.where(t < 0, -1.0, 1.0) ** self.first
        return np.asarray(sign[:, None] * t[:, None] ** powers)

    def tied_basis(self, x: Array) -> Array:
        """d P / d b: (k, number of b), zero except for a_m tied to b_n."""
        tied = np.zeros((len(x), self.constraint.shape[1]))
        if self._tied:
            assert self.slope is not None
            tied[:, -1] = self.slope * self.scale * (x / self.scale) ** self.m
        return tied

    @property
    def _tied(self) -> bool:
        return self.slope is not None and self.m == self.n + 1

    def evaluate(self, x: Array, a: Array, b: Array) -> Array:
        """P / Q at the points."""
        top = self.numerator_basis(x) @ a + self.tied_basis(x) @ b
        return np.asarray(top / (1.0 + self.denominator_basis(x) @ b))

    def start(self) -> Array:
        """The denominator of the space that is closest to Q = 1."""
        b = np.zeros(self.constraint.shape[1])
        if self.slope is not None:
            b[-1] = _SMALLEST_LEADING
        return b

    def repaired(self, b: Array) -> Array:
        """b, with values that rounding took below their bounds set to these; form A only."""
        return np.maximum(b, self.lower) if self.form == "A" else b

    def removable(self) -> range:
        """The entries of (a, b) that may be set to zero without changing the slope."""
        count = self.m + (not self._tied) + self.constraint.shape[1]
        return range(count - (self.slope is not None))

    def unscaled(self, a: Array, b: Array) -> tuple[Array, Array]:
        """All coefficients in x, from those in t."""
        if self._tied:
            assert self.slope is not None
            a = np.append(a, self.slope * self.scale * b[-1])
        full = np.concatenate([np.zeros(self.first - 1), b])[: self.n]
        return (
            a / self.scale ** np.arange(self.m + 1),
            full / self.scale ** np.arange(1, self.n + 1),
        )

    def last_bound(self) -> Array:
        """The loosest bounds on |b_j|, no tighter than :data:`SCALED_BOUNDS`."""
        bound = _LAST_BOUND * self.scale ** np.arange(self.first, self.n + 1)
        return np.asarray(np.maximum(bound, max(SCALED_BOUNDS)))


def search_spaces(
    degree: tuple[int, int],
    form: str,
    interval: tuple[float, float],
    *,
    slopes: tuple[float, float] | None,
    whole_line: bool,
) -> list[SearchSpace]:
    """The convex spaces to search, the preferred one first.

    Args:
        degree: (m, n).
        form: ``"A"`` or ``"B"``.
        interval: (low, high), the interval of the fit.
        slopes: the limits of F(x) / x on the left and on the right, see :func:`right_slope`.
        whole_line: form B only; whether the inner sum keeps its sign on the whole line or only on
            the interval.
    """
    m, n = degree
    scale = max(abs(interval[0]), abs(interval[1]))
    slope = None if slopes is None else right_slope(degree, slopes)
    if form == "A" or n == 0:
        lower = np.zeros(n)
        if slope is not None:
            lower[-1] = _SMALLEST_LEADING
        return [SearchSpace(m, n, form, 1, scale, np.eye(n), lower, slope)]
    firsts: tuple[int, ...] = (2, 1) if n >= 2 else (1,)
    if slope is not None:
        # A g of odd degree changes sign unless b_n = 0, which would change the slope.
        firsts = tuple(first for first in firsts if (n - first) % 2 == 0)
    return [
        _form_b(m, n, first, scale, slope, _positivity(n - first, interval, scale, whole_line))
        for first in firsts
    ]


def _form_b(
    m: int, n: int, first: int, scale: float, slope: float | None, rows: Array
) -> SearchSpace:
    lower = np.zeros(len(rows))
    if slope is not None:
        rows = np.vstack([rows, np.eye(n - first + 1)[-1]])
        lower = np.append(lower, _SMALLEST_LEADING)
    return SearchSpace(m, n, "B", first, scale, rows, lower, slope)


def right_slope(degree: tuple[int, int], slopes: tuple[float, float]) -> float:
    """The limit of F(x) / x on the right, if a rational with these limits exists.

    In both forms, for m = n + 1, F(x) / x tends to a_m / |b_n| on the right and to
    (-1)^n a_m / |b_n| on the left. For m <= n both limits are 0, for m > n + 1 there are none.

    Raises:
        InputError: no rational of this degree has these limits; the message says which exist.
    """
    m, n = degree
    left, right = slopes
    if n == 0 or m > n + 1:
        raise InputError(
            f"a slope at infinity needs n >= 1 and m <= n + 1, so that F(x)/x has a limit; got"
            f" degree ({m}, {n})"
        )
    if not (np.isfinite(left) and np.isfinite(right)):
        raise InputError(f"slopes at infinity must be finite, got {left:g} and {right:g}")
    if m <= n and (left, right) != (0.0, 0.0):
        raise InputError(
            f"with degree ({m}, {n}) F is bounded and its slope at infinity is 0 on both sides, not"
            f" {left:g} and {right:g}; use m = n + 1, i.e. degree ({n + 1}, {n})"
        )
    sign = -1.0 if n % 2 else 1.0
    if left != sign * right:
        relation = "minus the right one" if n % 2 else "the right one"
        hint = ""
        if left == -sign * right:
            hint = f"; they are possible with degree ({n + 2}, {n + 1})"
        raise InputError(
            f"slopes at infinity {left:g} and {right:g} are impossible: F(x)/x tends to"
            f" a_m/|b_n| on the right and (-1)^n a_m/|b_n| on the left, so for n = {n} the left"
            f" one is {relation}{hint}"
        )
    return right


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
