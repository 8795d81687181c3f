"""The two kinds of best fit within a convex search space (:mod:`kat.nn.fitting.search_spaces`).

The smallest largest error, by differential correction: "the weighted error is at most E" means
w |f Q - P| <= E Q, which is linear in (a, b). So the smallest E is the minimum of a quasi-convex
function, which a short sequence of linear programs reaches from the least-squares polynomial,
without random starts and without local minima.

The smallest sum of squares, by Gauss-Newton steps from there: each minimizes |J d + e|^2 over the
allowed d, a least-distance problem, which sequential least squares solves in one step (Lawson and
Hanson, Solving Least Squares Problems, chapter 23).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, linprog, minimize

from kat.nn.fitting.search_spaces import SCALED_BOUNDS, SearchSpace
from kat.nn.fitting.targets import Array

Cost = Callable[[Array], float]
"""The size of the errors of coefficients c = (a, b)."""

_FIRST_POINTS = 400
_EXCHANGES = 10
_MAX_STEPS = 80
_MISSED = 1e-6
"""Relative excess of the error that is allowed at samples outside the linear programs."""
_TOLERANCE = 1e-9
"""A linear program that lowers the error by less than this part is the last one."""
_START_TOLERANCE = 0.02
"""The same for the start of the least squares. Of 151 fits of eight activations, 1e-9 led 150 to
the same minimum, and one to a worse one."""
_MAX_SQUARES_STEPS = 200
_CONVERGED = 1e-12


@dataclass(frozen=True)
class Samples:
    """x, y = f(x), and the weight w(x) of the error: (k,) each."""

    x: Array
    y: Array
    weight: Array

    def at(self, chosen: NDArray[np.bool_]) -> Samples:
        """Return the samples where the mask is True."""
        return Samples(self.x[chosen], self.y[chosen], self.weight[chosen])


class Problem:
    """The weighted errors w (f - P / Q) of the members of a search space at the samples.

    Attributes:
        numerator, denominator: d P / d a and d Q / d b at the samples.
    """

    def __init__(self, space: SearchSpace, samples: Samples) -> None:
        self.space = space
        self.samples = samples
        self.numerator = space.numerator_basis(samples.x)
        self.denominator = space.denominator_basis(samples.x)

    def split(self, c: Array) -> tuple[Array, Array]:
        """Return a and b, the two parts of c."""
        return c[: self.space.m + 1], c[self.space.m + 1 :]

    def values(self, c: Array) -> tuple[Array, Array]:
        """P / Q and Q."""
        a, b = self.split(c)
        q = 1.0 + self.denominator @ b
        return (self.numerator @ a) / q, q

    def errors(self, c: Array) -> Array:
        """w (f - P / Q)."""
        return self.samples.weight * (self.samples.y - self.values(c)[0])

    def largest_error(self, c: Array) -> float:
        """max w |f - P / Q|."""
        return float(np.max(np.abs(self.errors(c))))

    def slopes(self, value: Array, q: Array) -> Array:
        """w / Q d(v Q - P) / d(a, b) at constant v: the derivative of the errors for v = P / Q."""
        moved = np.hstack([-self.numerator, value[:, None] * self.denominator])
        return moved * (self.samples.weight / q)[:, None]

    def polynomial_start(self) -> Array:
        """Return the weighted least-squares polynomial, over Q = 1."""
        weight = self.samples.weight
        a = np.linalg.lstsq(self.numerator * weight[:, None], self.samples.y * weight, rcond=None)
        return np.append(a[0], np.zeros(self.denominator.shape[1]))

    def rounding(self) -> float:
        """Return the error due to rounding: a few units in the last place of the largest value."""
        largest = float(np.max(np.abs(self.samples.weight * self.samples.y)))
        return 4.0 * float(np.finfo(np.float64).eps) * max(1.0, largest)


def minimax(
    space: SearchSpace, samples: Samples, tolerance: float = _TOLERANCE
) -> tuple[Array, float]:
    """Minimize max w |f - P / Q| over the samples within a search space.

    Args:
        space: the space of P and Q.
        samples: all points. The linear programs use some of them, and then the missed error peaks.
        tolerance: a linear program that lowers the error by less than this part is the last one.

    Returns:
        c = (a, b), in the scaled variable, and the error.
    """
    every = Problem(space, samples)
    chosen = np.arange(len(samples.x)) % max(1, len(samples.x) // _FIRST_POINTS) == 0
    chosen[[np.argmin(np.abs(samples.x)), -1]] = True
    problem = Problem(space, samples.at(chosen))
    c = problem.polynomial_start()
    for bound in SCALED_BOUNDS:
        c = _differential_correction(problem, c, np.full(len(c) - space.m - 1, bound), tolerance)
    allowed = 1.0 + max(_MISSED, tolerance)
    for _ in range(_EXCHANGES):
        c = _differential_correction(problem, c, space.last_bound(), tolerance)
        if every.largest_error(c) <= allowed * problem.largest_error(c):
            break
        chosen |= _peaks(np.abs(every.errors(c)))
        problem = Problem(space, samples.at(chosen))
    return _trimmed(every, c, every.largest_error)


def _peaks(error: Array) -> NDArray[np.bool_]:
    padded = np.concatenate([[-np.inf], error, [-np.inf]])
    local = (error >= padded[:-2]) & (error >= padded[2:])
    return np.asarray(local & (error > 0.5 * error.max()))


def _differential_correction(problem: Problem, c: Array, limit: Array, tolerance: float) -> Array:
    """Repeats: minimize u with w |f Q - P| <= E Q + u E Q_k over (P, Q), E the error of P_k / Q_k.

    limit: bounds on |b_j|. tolerance: as of :func:`minimax`.
    """
    error = problem.largest_error(c)
    for count in range(_MAX_STEPS):
        if error <= problem.rounding():
            break
        linearized = count == 0
        step = _correction(problem, c, error, limit, linearized)
        new_c, new_error = _advance(problem, c, step, error, problem.largest_error, 6)
        converged = new_error > (1.0 - tolerance) * error
        c, error = new_c, new_error
        if converged and not linearized:
            break
    return c


def _advance(
    problem: Problem, c: Array, step: Array, error: float, cost: Cost, tries: int
) -> tuple[Array, float]:
    """Return the first of 1, 1/4, 1/16, ... of the step that lowers the cost, or no move at all.

    In exact arithmetic the whole step does; shorter ones absorb the tolerance of the solver.
    """
    for length in 0.25 ** np.arange(tries):
        new = c + length * step
        new_error = cost(new)
        if new_error < error:
            return new, new_error
    return c, error


def _correction(problem: Problem, c: Array, error: float, limit: Array, linearized: bool) -> Array:
    """Return the step of one linear program; zeros if the solver finds none.

    linearized drops E (Q - Q_k) from the right-hand side. Such steps need not reach the
    minimum, but from a crude start one gets much farther.

    The unknowns are the components of the step along the singular vectors of
    d(w (f Q - P)) / (E Q_k). So the absolute tolerances of the solver stay meaningful, however
    small E is and however close to dependent the powers are.
    """
    space = problem.space
    q, (a, b) = problem.values(c)[1], problem.split(c)
    r = problem.errors(c) / error
    jacobian = problem.slopes(problem.samples.y, q) / error
    widening = np.hstack([np.zeros_like(problem.numerator), problem.denominator / q[:, None]])
    along = _directions(np.vstack([jacobian, widening]), float(np.max(limit, initial=1.0)))
    to_b = along[len(a) :]
    change = jacobian @ along
    growth = np.zeros_like(change) if linearized else widening @ along
    sign_rows, sign_rhs = _scaled_rows(-space.constraint @ to_b, space.constraint @ b)
    box = to_b / limit[:, None]
    z = _smallest_u(
        with_u=np.vstack([change - growth, -change - growth]),
        with_u_rhs=np.concatenate([1.0 - r, 1.0 + r]),
        without_u=np.vstack([sign_rows, box, -box]),
        without_u_rhs=np.concatenate([sign_rhs, 1.0 - b / limit, 1.0 + b / limit]),
    )
    return np.asarray(along @ z)


def _smallest_u(with_u: Array, with_u_rhs: Array, without_u: Array, without_u_rhs: Array) -> Array:
    """Minimize u <= 0 over (z, u) with G z - u <= g and H z <= h; z = 0 if the solver fails."""
    count = with_u.shape[1]
    matrix = np.vstack([with_u, without_u])
    u_column = np.concatenate([-np.ones(len(with_u)), np.zeros(len(without_u))])
    result = linprog(
        np.append(np.zeros(count), 1.0),
        A_ub=np.column_stack([matrix, u_column]),
        b_ub=np.concatenate([with_u_rhs, without_u_rhs]),
        bounds=[(-1e3, 1e3)] * count + [(None, 0.0)],
        method="highs",
        options={"primal_feasibility_tolerance": 1e-9, "dual_feasibility_tolerance": 1e-9},
    )
    return np.asarray(result.x[:-1]) if result.status == 0 else np.zeros(count)


def _scaled_rows(rows: Array, rhs: Array) -> tuple[Array, Array]:
    """Divide each inequality by its largest coefficient, except rows of zeros."""
    size = np.max(np.abs(rows), axis=1, initial=0.0)
    size = np.where(size > 0.0, size, 1.0)
    return rows / size[:, None], np.maximum(rhs, 0.0) / size


def least_squares(space: SearchSpace, samples: Samples) -> tuple[Array, float]:
    """Minimize the sum of w^2 (f - P / Q)^2 over the samples within a search space.

    Args:
        space: the space of P and Q.
        samples: the points of the sum.

    Returns:
        c = (a, b), in the scaled variable, and the root mean square of the weighted error, a local
        minimum.
    """
    problem = Problem(space, samples)

    def cost(c: Array) -> float:
        return float(np.sqrt(np.mean(np.square(problem.errors(c)))))

    c, _ = minimax(space, samples, _START_TOLERANCE)
    best = cost(c)
    for _ in range(_MAX_SQUARES_STEPS):
        if best <= problem.rounding():
            break
        step = _squares_step(problem, c)
        before = best
        c, best = _advance(problem, c, step, best, cost, 10)
        if best > (1.0 - _CONVERGED) * before:
            break
    return _trimmed(problem, c, cost)


def _squares_step(problem: Problem, c: Array) -> Array:
    """Return the d that minimizes |J d + e|^2 with C (b + d_b) >= lower."""
    (value, q), (a, b) = problem.values(c), problem.split(c)
    jacobian = problem.slopes(value, q)
    size = float(np.max(problem.space.last_bound(), initial=1.0))
    along = _directions(jacobian, size)
    change = jacobian @ along / np.sqrt(len(jacobian))  # orthonormal columns
    free = -change.T @ problem.errors(c) / np.sqrt(len(jacobian))
    rows = problem.space.constraint @ along[len(a) :]
    slack = problem.space.constraint @ b + rows @ free
    return np.asarray(along @ (free + _least_distance(rows, -slack)))


def _least_distance(rows: Array, bound: Array) -> Array:
    """Return the shortest z with rows z >= bound."""
    start = np.zeros(rows.shape[1])
    if np.all(bound <= 0.0):
        return start
    allowed = LinearConstraint(rows, bound)
    found = minimize(lambda z: z @ z / 2, start, jac=lambda z: z, constraints=allowed)
    return np.asarray(found.x)


def _directions(jacobian: Array, largest: float) -> Array:
    """Singular directions, scaled to change the relative error by O(1), one per column.

    Directions lost in rounding are omitted. So are those in which even the largest allowed
    coefficient would not change the present error: they would amplify the solver's tolerance.
    """
    points = math.sqrt(len(jacobian))
    _, singular, vt = np.linalg.svd(jacobian, full_matrices=False)
    keep = singular > max(1e-15 * singular[0], 1e-7 * points / largest)
    return np.asarray(vt[keep].T / singular[keep] * points)


def _trimmed(problem: Problem, c: Array, cost: Cost) -> tuple[Array, float]:
    """Set coefficients to zero that are only rounding noise of the solver.

    A term of 1e-17 x^m in the numerator would dominate far from the interval.

    Args:
        problem: the fitting problem.
        c: the coefficients.
        cost: the size of the errors; it may grow by one part in 10^4.

    Returns:
        c and its cost.
    """
    allowed = max(cost(c) * (1.0 + 1e-4), problem.rounding())
    kept = c
    noise = max(1e-2 * allowed, problem.rounding())
    small = [i for i in range(len(kept)) if 0.0 < abs(kept[i]) < noise]
    for chosen in (small, *([i] for i in small)):
        trial = kept.copy()
        trial[chosen] = 0.0
        if cost(trial) <= allowed:
            kept = trial
    return kept, cost(kept)
