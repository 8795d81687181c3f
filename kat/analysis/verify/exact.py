"""Exact values of the rational function and its derivatives, without overflow or underflow.

Numbers are mpmath's, of 160 bits and any exponent, and every polynomial is the sum of its terms. No
formula, order of operations or transformation is shared with the backends.

    F = P / Q,   P = sum_i a_i x^i,   s = sum_j b_j x^j,
    Q = 1 + sum_j |b_j| |x|^j  (form A)   or   1 + |s|  (form B)

The gradients are those of g F, with g the gradient of the output.

**The expected error.** Rounding is relative to the terms of a sum, not to the sum, so each value
has a scale: the same expression with every sum replaced by the sum of the magnitudes of its terms,
written P~, P'~, Q'~. Where s cancels in form B, Q itself is inaccurate by the factor
kappa = (1 + sum_j |b_j x^j|) / Q, which is 1 in form A:

    value                                  scale
    y    = P / Q                           kappa P~ / Q
    dx   = g (P' - y Q') / Q               kappa^2 |g| (P'~ + (P~ / Q) Q'~) / Q
    da_i = g x^i / Q                       kappa |g| |x|^i / Q
    db_j = -g y q_j / Q,  q_j = dQ/db_j    kappa^2 |g| (P~ / Q) |x|^j / Q

The error of a good computation is a small multiple of u scale + eta size, with u the unit roundoff
of its dtype and eta its smallest number. The size matters where products underflow. It is 1, but
for db_j it is P~ / Q where that is above 1, since g |x|^j / Q may underflow before it is multiplied
by y. P~ / Q, P'~ and Q'~ count as at least the smallest normal number of the dtype: below it, sums
are subnormal numbers and have their errors.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import mpmath
import numpy as np
from mpmath import mpf

PRECISION = 160
"""Bits of every number: even after cancellation far more than float64 has."""

_TIE = 64
"""In form B the sign of s counts as undecided where |s| <= 64 u sum_j |b_j x^j|."""


class Arithmetic(NamedTuple):
    """Unit roundoff and the smallest positive number of an arithmetic."""

    roundoff: float
    smallest: float

    @property
    def smallest_normal(self) -> float:
        """The smallest number with full precision."""
        return self.smallest / (2 * self.roundoff)


class _Term(NamedTuple):
    """A value, its scale, and the size for underflow."""

    value: mpf
    scale: mpf
    size: mpf = mpf(1)


class Exact(NamedTuple):
    """Values (rows, points): row r is ``names[r]`` at every x.

    Attributes:
        names: ``"y"``, ``"dx"``, ``"da_0"``, ... ``"db_1"``, ...; for second derivatives ``"dxx"``,
            ``"dxa_0"``, ..., ``"dxb_1"``, ..., ``"da_0 db_1"``, ..., ``"db_1 db_1"``, ...
        high, low: the value is high + low, each a float64; +-inf beyond float64's range.
        spread: u scale + eta size for the given arithmetic.
    """

    names: tuple[str, ...]
    high: np.ndarray
    low: np.ndarray
    spread: np.ndarray


def first_order(
    x: np.ndarray,
    grad: np.ndarray,
    a: Sequence[float],
    b: Sequence[float],
    form: str,
    arithmetic: Arithmetic,
) -> Exact:
    """y, and the gradients dx, da_i and db_j of grad F, at each x.

    The subgradients are those of the package: d|b|/db = +1 at 0, d|x|/dx = 0 at 0, d|s|/ds = +1 at
    0. Where s in form B is so small compared with its terms that rounding decides its sign, the
    spread covers either sign. At x = +-inf the values are the limits, which may be infinite; at NaN
    they are NaN.

    Args:
        x: (points,) in float64, exactly the numbers that the backend gets, like all arguments.
        grad: (points,), gradients of the output.
        a: a_0 .. a_m.
        b: b_1 .. b_n.
        form: ``"A"`` or ``"B"``.
        arithmetic: the arithmetic of the dtype that the backend computes in.
    """
    names = ("y", "dx", *(f"da_{i}" for i in range(len(a))), *_indexed("db", b))

    def values(point: float, g: float) -> list[_Term]:
        if math.isnan(point):
            return [_Term(mpf("nan"), mpf(0))] * len(names)
        if math.isinf(point):
            y, *rest = _limits(1 if point > 0 else -1, a, b, form)
        else:
            t = _Parts(mpf(point), a, b, form, arithmetic)
            y, *rest = _first_order(t, len(a), arithmetic.roundoff)
        return [y, *(_Term(g * value, abs(g) * scale, size) for value, scale, size in rest)]

    return _tabulate(names, itertools.starmap(values, zip(x, grad, strict=True)), arithmetic)


def second_order(
    x: np.ndarray, a: Sequence[float], b: Sequence[float], form: str, arithmetic: Arithmetic
) -> Exact:
    """The second derivatives of F with respect to x, a and b, at finite x away from the kinks.

    d2F/da_i da_k = 0 is left out. Arguments as in :func:`first_order`, for an output gradient of 1.
    """
    names = (
        "dxx",
        *(f"dxa_{i}" for i in range(len(a))),
        *_indexed("dxb", b),
        *(f"da_{i} db_{j}" for i in range(len(a)) for j in _orders(b)),
        *(f"db_{j} db_{k}" for j, k in itertools.combinations_with_replacement(_orders(b), 2)),
    )

    def values(point: float) -> list[_Term]:
        return _second_order(_Parts(mpf(point), a, b, form, arithmetic), len(a))

    return _tabulate(names, map(values, x.tolist()), arithmetic)


def _orders(b: Sequence[float]) -> range:
    return range(1, len(b) + 1)


def _indexed(name: str, b: Sequence[float]) -> list[str]:
    return [f"{name}_{j}" for j in _orders(b)]


def _tabulate(
    names: tuple[str, ...], points: Iterable[list[_Term]], arithmetic: Arithmetic
) -> Exact:
    columns: list[list[tuple[float, float, float]]] = []
    with mpmath.workprec(PRECISION):  # it applies while the points are computed, one by one
        columns += ([_parted(term, arithmetic) for term in terms] for terms in points)
    table = np.array(columns).reshape(-1, len(names), 3).transpose(2, 1, 0)
    return Exact(names, *table)


def _parted(term: _Term, arithmetic: Arithmetic) -> tuple[float, float, float]:
    """The high and low part of the value, and its spread."""
    high = float(term.value)
    low = float(term.value - high) if math.isfinite(high) else 0.0
    return high, low, float(term.scale * arithmetic.roundoff + term.size * arithmetic.smallest)


class _Parts:
    """The parts of the formulas at one finite x: sums of terms and of their magnitudes.

    Where the sign of Q's inner sum is fixed, Q = 1 + sum_j c_j x^j with c_j = |b_j| sgn(x)^j in
    form A (sgn(0) = 0) and c_j = sgn(s) b_j in form B.

    Attributes:
        powers: 1, x, x^2, ...
        p, dp, ddp: P, P', P''; ``p_size``, ...: the sums of the terms' magnitudes.
        y_size: that of y = P/Q.
        q, dq, ddq: the same for Q.
        q_b, dq_b: dQ/db_j, and its derivative with respect to x.
        kappa: (1 + sum of the magnitudes of Q's terms) / Q.
        tied: whether rounding decides the sign of s (form B).
    """

    def __init__(
        self, x: mpf, a: Sequence[float], b: Sequence[float], form: str, arithmetic: Arithmetic
    ) -> None:
        self.powers = _powers(x, max(len(a), len(b) + 1))
        numerator = [*map(mpf, a)]
        self.p, self.p_size = self._sum(numerator, 0, 0)
        self.dp, self.dp_size = self._sum(numerator, 0, 1)
        self.ddp, self.ddp_size = self._sum(numerator, 0, 2)
        denominator = [*map(mpf, b)]
        s, s_size = self._sum(denominator, 1, 0)
        self.tied = form == "B" and s_size > 0 and abs(s) <= _TIE * arithmetic.roundoff * s_size
        if form == "A":
            direction = (x > 0) - (x < 0)
            signs = [_sign(value) * direction**j for j, value in enumerate(denominator, 1)]
        else:
            signs = [_sign(s)] * len(b)
        c = [sign * value for sign, value in zip(signs, denominator, strict=True)]
        inner, inner_size = self._sum(c, 1, 0)
        self.q = 1 + inner
        self.kappa = (1 + inner_size) / self.q
        self.dq, self.dq_size = self._sum(c, 1, 1)
        self.ddq, self.ddq_size = self._sum(c, 1, 2)
        self.q_b = [sign * self.powers[j] for j, sign in enumerate(signs, 1)]
        self.dq_b = [sign * j * self.powers[j - 1] for j, sign in enumerate(signs, 1)]
        self.y_size = max(self.p_size / self.q, arithmetic.smallest_normal)
        self.dp_size = max(self.dp_size, arithmetic.smallest_normal)
        self.dq_size = max(self.dq_size, arithmetic.smallest_normal)

    def _sum(self, c: Sequence[mpf], first: int, derivative: int) -> tuple[mpf, mpf]:
        """A derivative of sum_i c_i x^i, i = first, first + 1, ...: total, sum of magnitudes."""
        terms = [
            math.perm(i, derivative) * value * self.powers[i - derivative]
            for i, value in enumerate(c, first)
            if i >= derivative
        ]
        return sum(terms, mpf(0)), sum(map(abs, terms), mpf(0))


def _powers(x: mpf, count: int) -> list[mpf]:
    return list(itertools.accumulate([x] * (count - 1), operator.mul, initial=mpf(1)))


def _sign(value: mpf) -> int:
    return -1 if value < 0 else 1


def _first_order(t: _Parts, count_a: int, roundoff: float) -> list[_Term]:
    y, y_size = t.p / t.q, t.y_size
    dx_size = t.kappa**2 * (t.dp_size + y_size * t.dq_size) / t.q
    da = [power / t.q for power in t.powers[:count_a]]
    db = [-y * slope / t.q for slope in t.q_b]
    db_size = [t.kappa**2 * y_size * abs(slope) / t.q for slope in t.q_b]
    if t.tied:  # either sign of s is accepted: the difference counts as rounding
        dx_size += 2 * abs(y * t.dq / t.q) / roundoff
        db_size = [size + 2 * abs(v) / roundoff for size, v in zip(db_size, db, strict=True)]
    underflow = max(mpf(1), y_size)
    return [
        _Term(y, t.kappa * y_size),
        _Term((t.dp - y * t.dq) / t.q, dx_size),
        *(_Term(value, t.kappa * abs(value)) for value in da),
        *(_Term(value, size, underflow) for value, size in zip(db, db_size, strict=True)),
    ]


def _second_order(t: _Parts, count_a: int) -> list[_Term]:
    """The quotient rule applied twice; each scale is the formula in magnitudes, times kappa^3."""
    y, y_size = t.p / t.q, t.y_size
    dx, dx_size = (t.dp - y * t.dq) / t.q, (t.dp_size + y_size * t.dq_size) / t.q
    rows = [
        (
            (t.ddp - 2 * dx * t.dq - y * t.ddq) / t.q,
            (t.ddp_size + 2 * dx_size * t.dq_size + y_size * t.ddq_size) / t.q,
        )
    ]
    for i, power in enumerate(t.powers[:count_a]):
        slope = i * t.powers[i - 1] if i else mpf(0)
        rows.append(
            (
                (slope - power / t.q * t.dq) / t.q,
                (abs(slope) + abs(power) / t.q * t.dq_size) / t.q,
            )
        )
    for q_b, dq_b in zip(t.q_b, t.dq_b, strict=True):
        value = (y * q_b * t.dq / t.q - dx * q_b - y * dq_b) / t.q
        size = (y_size * abs(q_b) * t.dq_size / t.q + dx_size * abs(q_b) + y_size * abs(dq_b)) / t.q
        rows.append((value, size))
    for power, q_b in itertools.product(t.powers[:count_a], t.q_b):
        value = -power * q_b / t.q**2
        rows.append((value, abs(value)))
    for one, other in itertools.combinations_with_replacement(t.q_b, 2):
        value = 2 * one * other / t.q**2
        rows.append((y * value, y_size * abs(value)))
    return [_Term(value, mpf("inf") if t.tied else t.kappa**3 * size) for value, size in rows]


def _limits(direction: int, a: Sequence[float], b: Sequence[float], form: str) -> list[_Term]:
    """The limits at x = +inf or -inf, from the leading terms; scales as for finite x."""
    m = max((i for i, value in enumerate(a) if value), default=0)
    n = max((j for j, value in enumerate(b, 1) if value), default=0)
    leading = mpf(b[n - 1]) if n else mpf(1)
    q = abs(leading)  # Q ~ q |x|^n
    lead = mpf(a[m]) * direction**m / q  # F ~ lead |x|^(m - n)
    if form == "A":
        q_b = [_sign(mpf(value)) for value in b]
    else:
        q_b = [_sign(leading * direction**n) * direction**j for j in _orders(b)]
    y, dx = _at_infinity(lead, m - n), _at_infinity(lead * (m - n) * direction, m - n - 1)
    da = [_at_infinity(direction**i / q, i - n) for i in range(len(a))]
    db = [_at_infinity(-lead * sign / q, m + j - 2 * n) for j, sign in enumerate(q_b, 1)]
    cancelled = _Term(dx, (m + n) * abs(lead) if m - n == 1 else mpf(0))  # P' and y Q'
    return [_limit(y), cancelled, *map(_limit, [*da, *db])]


def _limit(value: mpf) -> _Term:
    return _Term(value, abs(value) if mpmath.isfinite(value) else mpf(0))


def _at_infinity(factor: mpf, exponent: int) -> mpf:
    """The limit of factor t^exponent as t goes to +inf."""
    if exponent == 0 or factor == 0:
        return mpf(factor)
    return mpmath.sign(factor) * mpf("inf") if exponent > 0 else mpf(0)
