"""A fitting problem: a search space and samples, the errors and their derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from kat.nn.fitting.functions import Array
from kat.nn.fitting.samples import Samples
from kat.nn.fitting.search_spaces import SearchSpace


class Problem:
    """The weighted errors w (f - P / Q) of the members of a search space at the samples.

    Attributes:
        numerator, denominator, tied: d P / d a, d Q / d b and d P / d b at the samples.
    """

    def __init__(self, space: SearchSpace, samples: Samples) -> None:
        self.space = space
        self.samples = samples
        self.numerator = space.numerator_basis(samples.x)
        self.denominator = space.denominator_basis(samples.x)
        self.tied = space.tied_basis(samples.x)

    def values(self, a: Array, b: Array) -> tuple[Array, Array]:
        """P / Q and Q."""
        q = 1.0 + self.denominator @ b
        return (self.numerator @ a + self.tied @ b) / q, q

    def errors(self, a: Array, b: Array) -> Array:
        """w (f - P / Q)."""
        return self.samples.weight * (self.samples.y - self.values(a, b)[0])

    def largest_error(self, a: Array, b: Array) -> float:
        """max w |f - P / Q|."""
        return float(np.max(np.abs(self.errors(a, b))))

    def slopes(self, value: Array, q: Array) -> Array:
        """w / Q d(v Q - P) / d(a, b) at constant v: the derivative of the errors for v = P / Q."""
        moved = np.hstack([-self.numerator, value[:, None] * self.denominator - self.tied])
        return moved * (self.samples.weight / q)[:, None]

    def polynomial_start(self) -> tuple[Array, Array]:
        """The weighted least-squares numerator over the simplest denominator of the space."""
        b = self.space.start()
        q = 1.0 + self.denominator @ b
        factor = self.samples.weight / q
        a = np.linalg.lstsq(
            self.numerator * factor[:, None],
            (self.samples.y * q - self.tied @ b) * factor,
            rcond=None,
        )[0]
        return np.asarray(a, dtype=np.float64), b

    def rounding(self) -> float:
        """The error due to rounding: a few units in the last place of the largest value."""
        largest = float(np.max(np.abs(self.samples.weight * self.samples.y)))
        return 4.0 * float(np.finfo(np.float64).eps) * max(1.0, largest)


def directions(jacobian: Array, largest: float) -> Array:
    """Singular directions, scaled to change the relative error by O(1), one per column.

    Directions lost in rounding are omitted. So are those in which even the largest allowed
    coefficient would not change the present error: they would amplify the solver's tolerance.
    """
    points = math.sqrt(len(jacobian))
    _, singular, vt = np.linalg.svd(jacobian, full_matrices=False)
    keep = singular > max(1e-15 * singular[0], 1e-7 * points / largest)
    return np.asarray(vt[keep].T / singular[keep] * points)


def trimmed(
    problem: Problem, a: Array, b: Array, cost: Callable[[Array, Array], float]
) -> tuple[Array, Array, float]:
    """Sets coefficients to zero that are only rounding noise of the solver.

    A term of 1e-17 x^m in the numerator would dominate far from the interval.

    Args:
        problem: the fitting problem.
        a, b: the coefficients.
        cost: the size of the errors; it may grow by one part in 10^4.

    Returns:
        a, b and their cost.
    """
    allowed = max(cost(a, b) * (1.0 + 1e-4), problem.rounding())
    kept = np.concatenate([a, b])
    noise = max(1e-2 * allowed, problem.rounding())
    small = [i for i in problem.space.removable() if 0.0 < abs(kept[i]) < noise]
    for chosen in (small, *([i] for i in small)):
        trial = kept.copy()
        trial[chosen] = 0.0
        if cost(trial[: len(a)], trial[len(a) :]) <= allowed:
            kept = trial
    a, b = kept[: len(a)], kept[len(a) :]
    return a, b, cost(a, b)
