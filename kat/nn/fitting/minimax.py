"""The smallest largest error, by differential correction.

Within a convex search space (:mod:`kat.nn.fitting.search_spaces`), "the weighted error is at most
E" means w |f Q - P| <= E Q, which is linear in (a, b). So the smallest E is the minimum of a
quasi-convex function. Differential correction reaches it from the least-squares polynomial by a
short sequence of linear programs, without random starts and without local minima.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from kat.nn.fitting.functions import Array
from kat.nn.fitting.problem import Problem, directions, trimmed
from kat.nn.fitting.samples import Samples
from kat.nn.fitting.search_spaces import SCALED_BOUNDS, SearchSpace

_FIRST_POINTS = 400
_EXCHANGES = 10
_MAX_STEPS = 80
_MISSED = 1e-6
"""How much larger, relatively, the error may be at samples outside the linear programs."""


def minimax(space: SearchSpace, samples: Samples) -> tuple[Array, Array, float]:
    """Minimizes max w |f - P / Q| over the samples within a search space.

    Args:
        space: the space of P and Q.
        samples: all points. The linear programs use some of them, and then the missed error peaks.

    Returns:
        a and b, in the scaled variable, and the error.
    """
    every = Problem(space, samples)
    chosen = np.arange(len(samples.x)) % max(1, len(samples.x) // _FIRST_POINTS) == 0
    chosen[[np.argmin(np.abs(samples.x)), -1]] = True
    problem = Problem(space, samples.at(chosen))
    a, b = problem.polynomial_start()
    for bound in SCALED_BOUNDS:
        a, b = _differential_correction(problem, a, b, np.full(len(b), bound))
    for _ in range(_EXCHANGES):
        a, b = _differential_correction(problem, a, b, space.last_bound())
        if every.largest_error(a, b) <= (1.0 + _MISSED) * problem.largest_error(a, b):
            break
        chosen |= _peaks(np.abs(every.errors(a, b)))
        problem = Problem(space, samples.at(chosen))
    return trimmed(every, a, b, every.largest_error)


def _peaks(error: Array) -> NDArray[np.bool_]:
    padded = np.concatenate([[-np.inf], error, [-np.inf]])
    local = (error >= padded[:-2]) & (error >= padded[2:])
    return np.asarray(local & (error > 0.5 * error.max()))


def _differential_correction(
    problem: Problem, a: Array, b: Array, limit: Array
) -> tuple[Array, Array]:
    """Repeats: minimize u with w |f Q - P| <= E Q + u E Q_k over (P, Q), E the error of P_k / Q_k.

    limit: bounds on |b_j|.
    """
    error = problem.largest_error(a, b)
    for count in range(_MAX_STEPS):
        if error <= problem.rounding():
            break
        linearized = count == 0
        step = _correction(problem, a, b, error, limit, linearized)
        new_a, new_b, new_error = _advance(problem, a, b, step, error)
        converged = new_error > (1.0 - 1e-9) * error
        a, b, error = new_a, new_b, new_error
        if converged and not linearized:
            break
    return a, b


def _advance(
    problem: Problem, a: Array, b: Array, step: Array, error: float
) -> tuple[Array, Array, float]:
    """The first of 1, 1/4, 1/16, ... of the step that lowers the error, or no move at all.

    In exact arithmetic the whole step does; shorter ones absorb the tolerance of the solver.
    """
    for length in 0.25 ** np.arange(6):
        new_a = a + length * step[: len(a)]
        new_b = problem.space.repaired(b + length * step[len(a) :])
        new_error = problem.largest_error(new_a, new_b)
        if new_error < error:
            return new_a, new_b, new_error
    return a, b, error


def _correction(
    problem: Problem, a: Array, b: Array, error: float, limit: Array, linearized: bool
) -> Array:
    """The step of one linear program; zeros if the solver finds none.

    linearized drops E (Q - Q_k) from the right-hand side. Such steps alone need not reach the
    minimum, but from a crude start one gets much farther.

    The unknowns are the components of the step along the singular vectors of
    d(w (f Q - P)) / (E Q_k). So the absolute tolerances of the solver stay meaningful, however
    small E is and however close to dependent the powers are.
    """
    space = problem.space
    q = problem.values(a, b)[1]
    r = problem.errors(a, b) / error
    jacobian = problem.slopes(problem.samples.y, q) / error
    widening = np.hstack([np.zeros_like(problem.numerator), problem.denominator / q[:, None]])
    along = directions(np.vstack([jacobian, widening]), float(np.max(limit, initial=1.0)))
    to_b = along[len(a) :]
    change = jacobian @ along
    growth = np.zeros_like(change) if linearized else widening @ along
    sign_rows, sign_rhs = _scaled_rows(-space.constraint @ to_b, space.constraint @ b - space.lower)
    box = to_b / limit[:, None]
    z = _smallest_u(
        with_u=np.vstack([change - growth, -change - growth]),
        with_u_rhs=np.concatenate([1.0 - r, 1.0 + r]),
        without_u=np.vstack([sign_rows, box, -box]),
        without_u_rhs=np.concatenate([sign_rhs, 1.0 - b / limit, 1.0 + b / limit]),
    )
    return np.asarray(along @ z)


def _smallest_u(with_u: Array, with_u_rhs: Array, without_u: Array, without_u_rhs: Array) -> Array:
    """Minimizes u <= 0 over (z, u) with G z - u <= g and H z <= h; z = 0 if the solver fails."""
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
    """Divides each inequality by its largest coefficient, except rows of zeros."""
    size = np.max(np.abs(rows), axis=1, initial=0.0)
    size = np.where(size > 0.0, size, 1.0)
    return rows / size[:, None], np.maximum(rhs, 0.0) / size
