"""The smallest sum of squares: Gauss-Newton steps within a search space.

Each step minimizes |J d + e|^2 over the allowed d: a least-distance problem, which non-negative
least squares solves exactly (Lawson and Hanson, Solving Least Squares Problems, chapter 23). The
start is the minimax fit, so the result is as reproducible.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from kat.nn.fitting.functions import Array
from kat.nn.fitting.minimax import minimax
from kat.nn.fitting.problem import Problem, directions, trimmed
from kat.nn.fitting.samples import Samples
from kat.nn.fitting.search_spaces import SearchSpace

_MAX_STEPS = 200
_CONVERGED = 1e-12


def least_squares(space: SearchSpace, samples: Samples) -> tuple[Array, Array, float]:
    """Minimizes the sum of w^2 (f - P / Q)^2 over the samples within a search space.

    Args:
        space: the space of P and Q.
        samples: the points of the sum.

    Returns:
        a and b, in the scaled variable, and the root mean square of the weighted error: a local
        minimum, no larger than that of the minimax fit.
    """
    problem = Problem(space, samples)

    def cost(a: Array, b: Array) -> float:
        return float(np.sqrt(np.mean(np.square(problem.errors(a, b)))))

    a, b, _ = minimax(space, samples)
    best = cost(a, b)
    for _ in range(_MAX_STEPS):
        if best <= problem.rounding():
            break
        step = _step(problem, a, b)
        before = best
        for length in 0.25 ** np.arange(10):
            new_a = a + length * step[: len(a)]
            new_b = space.repaired(b + length * step[len(a) :])
            if cost(new_a, new_b) < best:
                a, b, best = new_a, new_b, cost(new_a, new_b)
                break
        if best > (1.0 - _CONVERGED) * before:
            break
    return trimmed(problem, a, b, cost)


def _step(problem: Problem, a: Array, b: Array) -> Array:
    """The d that minimizes |J d + e|^2 with C (b + d_b) >= lower."""
    value, q = problem.values(a, b)
    jacobian = problem.slopes(value, q)
    size = float(np.max(problem.space.last_bound(), initial=1.0))
    along = directions(jacobian, size)
    change = jacobian @ along / np.sqrt(len(jacobian))  # orthonormal columns
    free = -change.T @ problem.errors(a, b) / np.sqrt(len(jacobian))
    rows = problem.space.constraint @ along[len(a) :]
    slack = problem.space.constraint @ b - problem.space.lower + rows @ free
    return np.asarray(along @ (free + _least_distance(rows, -slack)))


def _least_distance(rows: Array, bound: Array) -> Array:
    """The shortest z with rows z >= bound; zero if the rows contradict each other."""
    if np.all(bound <= 0.0):
        return np.zeros(rows.shape[1])
    scale = np.maximum(np.linalg.norm(rows, axis=1), 1e-300)
    system = np.vstack([(rows / scale[:, None]).T, bound / scale])
    wanted = np.append(np.zeros(rows.shape[1]), 1.0)
    residual = system @ nnls(system, wanted)[0] - wanted
    return -residual[:-1] / residual[-1] if residual[-1] != 0.0 else residual[:-1]
