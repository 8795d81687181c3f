"""The least largest error: differential correction.

Within a convex family (:mod:`kat.nn.fitting.search_spaces`) "the weighted error is at most E" reads
w |f Q - P| <= E Q, which is linear in (a, b).  The smallest E is then the minimum of a quasi-convex
function.  The differential correction algorithm reaches it from the least-squares polynomial by a
short sequence of linear programs, so there is no random start and no local minimum to escape from.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from kat.nn.fitting.functions import Array
from kat.nn.fitting.problem import Problem, directions, trimmed
from kat.nn.fitting.samples import Samples
from kat.nn.fitting.search_spaces import SCALED_BOUNDS, Family

_FIRST_POINTS = 400
_EXCHANGES = 10
_MAX_STEPS = 80
_MISSED = 1e-6
"""By how much, relatively, the error may be larger where the linear programs do not look."""


def minimax(family: Family, samples: Samples) -> tuple[Array, Array, float]:
    """The member of the family with the least max w |f - P / Q| over the samples.

    Args:
        family: where it is sought.
        samples: every point that counts; the linear programs see some of them, to which the
            missed error peaks are added.

    Returns:
        a and b, of the scaled variable, and the error.
    """
    every = Problem(family, samples)
    chosen = np.arange(len(samples.x)) % max(1, len(samples.x) // _FIRST_POINTS) == 0
    chosen[[np.argmin(np.abs(samples.x)), -1]] = True
    problem = Problem(family, samples.at(chosen))
    a, b = problem.polynomial_start()
    for bound in SCALED_BOUNDS:
        a, b = _differential_correction(problem, a, b, np.full(len(b), bound))
    for _ in range(_EXCHANGES):
        a, b = _differential_correction(problem, a, b, family.last_bound())
        if every.largest_error(a, b) <= (1.0 + _MISSED) * problem.largest_error(a, b):
            break
        chosen |= _peaks(np.abs(every.errors(a, b)))
        problem = Problem(family, samples.at(chosen))
    return trimmed(every, a, b, every.largest_error)


def _peaks(error: Array) -> NDArray[np.bool_]:
    padded = np.concatenate([[-np.inf], error, [-np.inf]])
    local = (error >= padded[:-2]) & (error >= padded[2:])
    return np.asarray(local & (error > 0.5 * error.max()))


def _differential_correction(
    problem: Problem, a: Array, b: Array, limit: Array
) -> tuple[Array, Array]:
    """Repeat: minimise u with w |f Q - P| <= E Q + u E Q_k over (P, Q), E the error of P_k / Q_k.

    limit: bounds on |b_j|.
    """
    error = problem.largest_error(a, b)
    for count in range(_MAX_STEPS):
        if error <= problem.rounding():
            break
        linearised = count == 0
        step = _correction(problem, a, b, error, limit, linearised)
        new_a, new_b, new_error = _advance(problem, a, b, step, error)
        converged = new_error > (1.0 - 1e-9) * error
        a, b, error = new_a, new_b, new_error
        if converged and not linearised:
            break
    return a, b


def _advance(
    problem: Problem, a: Array, b: Array, step: Array, error: float
) -> tuple[Array, Array, float]:
    """The first of the step, its fourth, sixteenth, ... to lower the error, or else no move.

    In exact arithmetic the whole step always does; shorter ones absorb the solver's tolerance.
    """
    for length in 0.25 ** np.arange(6):
        new_a = a + length * step[: len(a)]
        new_b = problem.family.repaired(b + length * step[len(a) :])
        new_error = problem.largest_error(new_a, new_b)
        if new_error < error:
            return new_a, new_b, new_error
    return a, b, error


def _correction(
    problem: Problem, a: Array, b: Array, error: float, limit: Array, linearised: bool
) -> Array:
    """The step of one linear program; zeros when the solver finds none.

    linearised drops E (Q - Q_k) from the right-hand side.  That step alone need not lead to the
    minimum, but from a crude start it goes much farther.

    The unknowns are the step's components along the singular vectors of d(w (f Q - P)) / (E Q_k),
    which keeps the solver's absolute tolerances meaningful however small E is and however close to
    dependent the powers are.
    """
    family = problem.family
    q = problem.values(a, b)[1]
    r = problem.errors(a, b) / error
    jacobian = problem.slopes(problem.samples.y, q) / error
    widening = np.hstack([np.zeros_like(problem.numerator), problem.denominator / q[:, None]])
    along = directions(np.vstack([jacobian, widening]), float(np.max(limit, initial=1.0)))
    to_b = along[len(a) :]
    change = jacobian @ along
    growth = np.zeros_like(change) if linearised else widening @ along
    sign_rows, sign_rhs = _scaled_rows(
        -family.constraint @ to_b, family.constraint @ b - family.lower
    )
    box = to_b / limit[:, None]
    z = _smallest_u(
        with_u=np.vstack([change - growth, -change - growth]),
        with_u_rhs=np.concatenate([1.0 - r, 1.0 + r]),
        without_u=np.vstack([sign_rows, box, -box]),
        without_u_rhs=np.concatenate([sign_rhs, 1.0 - b / limit, 1.0 + b / limit]),
    )
    return np.asarray(along @ z)


def _smallest_u(with_u: Array, with_u_rhs: Array, without_u: Array, without_u_rhs: Array) -> Array:
    """Minimise u <= 0 over (z, u) with G z - u <= g and H z <= h; z = 0 when the solver fails."""
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
    """Divide each inequality by its largest coefficient; a row of zeros is left alone."""
    size = np.max(np.abs(rows), axis=1, initial=0.0)
    size = np.where(size > 0.0, size, 1.0)
    return rows / size[:, None], np.maximum(rhs, 0.0) / size
