"""Fits the coefficients of F = P / Q to a function or to points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kat.errors import InputError, check_choice
from kat.nn.coefficients import Coefficients, check_degree
from kat.nn.fitting.search_spaces import SearchSpace, chebyshev, search_spaces
from kat.nn.fitting.solvers import Samples, least_squares, minimax
from kat.nn.fitting.targets import FUNCTIONS, Array, Function, Points, Target, resolve
from kat.nn.quadrature import gain
from kat.ops.arguments import check_form

DEGREE = (5, 4)
INTERVAL = (-3.0, 3.0)
Method = Callable[[SearchSpace, Samples], tuple[Array, float]]
METHODS: dict[str, Method] = {"minimax": minimax, "least_squares": least_squares}
WEIGHTS: dict[str, Callable[[Array], Array]] = {
    "uniform": np.ones_like,
    "normal": lambda x: np.exp((np.min(np.square(x)) - np.square(x)) / 4),
}
"""The weight w(x) of the error, scaled to a maximum of 1; normal: the root of N(0, 1)'s density."""

_MINIMAX_POINTS = 8001
_LEAST_SQUARES_POINTS = 4001
_CHECK_POINTS = 50001
# A sign change of the inner sum of form B puts a kink in F, so it must lower the error by a tenth.
_KINK_GAIN = 0.9


@dataclass(frozen=True)
class Fit:
    """F(x) = (sum_i a_i x^i) / Q(x), fitted to a function f or to points.

    Args:
        function: the name of the target.
        form: the form of Q, ``"A"`` or ``"B"``.
        degree: (m, n), the degrees of numerator and denominator.
        interval: (low, high), the interval of the fit.
        numerator: a_0 .. a_m.
        denominator: b_1 .. b_n.
        max_error, rms_error: of e = F - f, on a dense even grid over the interval or at the points.
        normal_rms_error: (sum phi e^2 / sum phi)^(1/2) with phi(x) = exp(-x^2 / 2), on the same
            grid or points: the error for x ~ N(0, 1) restricted to the interval.
        method, weight, whole_line: the arguments of :func:`fit`.

    Examples:
        >>> from kat.nn.fitting import fit
        >>> result = fit("x * sigmoid(1.702 * x)")
        >>> len(result.numerator), len(result.denominator), f"{result.max_error:.1e}"
        (6, 4, '1.7e-05')
    """

    function: str
    form: str
    degree: tuple[int, int]
    interval: tuple[float, float]
    numerator: tuple[float, ...]
    denominator: tuple[float, ...]
    max_error: float
    rms_error: float
    normal_rms_error: float
    method: str = "minimax"
    weight: str = "uniform"
    whole_line: bool = True

    def __call__(self, x: NDArray[Any] | float) -> Array:
        """F(x) in float64."""
        return evaluate(x, self.numerator, self.denominator, self.form)

    @property
    def coefficients(self) -> Coefficients:
        """The coefficients as the layers' ``init=`` accepts them."""
        return Coefficients(
            self.numerator, self.denominator, self.form, self.interval, self.max_error
        )

    def error_on(self, target: Target, interval: tuple[float, float]) -> float:
        """Return the largest |F - f| on an interval; NaN if f is not finite everywhere on it."""
        function = resolve(target)[1]
        assert not isinstance(function, Points)
        x = _even(interval, _CHECK_POINTS)
        return float(np.max(np.abs(self(x) - function(x))))

    def gain(self) -> float:
        """1 / E[F(x)^2] for x ~ N(0, 1), see :func:`kat.nn.gain`."""
        return gain(lambda x: torch.from_numpy(self(x.numpy())))

    def to_dict(self) -> dict[str, Any]:
        """All fields and the gain, as in a ``.json`` file for ``init=``."""
        return {**asdict(self), "gain": self.gain()}


def evaluate(
    x: NDArray[Any] | float,
    numerator: NDArray[Any] | tuple[float, ...] | list[float],
    denominator: NDArray[Any] | tuple[float, ...] | list[float],
    form: str,
) -> Array:
    """F(x) = P(x) / Q(x) in float64, see :mod:`kat.nn.fitting.search_spaces`.

    Args:
        x: points, of any shape.
        numerator: a_0 .. a_m.
        denominator: b_1 .. b_n; may be empty, then Q = 1.
        form: ``"A"`` or ``"B"``.

    Returns:
        F(x), of x's shape.

    Examples:
        >>> import numpy as np
        >>> from kat.nn.fitting import evaluate
        >>> evaluate(np.array([-1.0, 2.0]), [0.0, 1.0], [1.0], "A")  # x / (1 + |x|)
        array([-0.5       ,  0.66666667])
    """
    points = np.asarray(x, dtype=np.float64)
    a = np.asarray(numerator, dtype=np.float64)
    b = np.concatenate([[0.0], np.asarray(denominator, dtype=np.float64)])
    polyval = np.polynomial.polynomial.polyval
    inner = polyval(np.abs(points), np.abs(b)) if form == "A" else np.abs(polyval(points, b))
    return np.asarray(polyval(points, a) / (1.0 + inner), dtype=np.float64)


def fit(
    target: Target,
    degree: tuple[int, int] = DEGREE,
    form: str = "A",
    interval: tuple[float, float] | None = None,
    *,
    method: str = "minimax",
    weight: str = "uniform",
    whole_line: bool = True,
) -> Fit:
    """Minimize the largest error w |P / Q - f| over the interval, or the mean of its square.

    The inner sum of form B may change sign at 0 if that lowers the error clearly, never elsewhere.

    Args:
        target: a name in :data:`FUNCTIONS`, an expression in x, a function of float64 arrays or
            tensors, or points, whose weights ``"least_squares"`` uses.
        degree: (m, n) with m >= 1 and n >= 0.
        form: ``"A"`` or ``"B"``.
        interval: (low, high), finite and increasing; by default [-3, 3], or all the points.
        method: ``"minimax"`` for the largest error, ``"least_squares"`` for the mean square.
        weight: ``"uniform"`` for w^2 = 1, ``"normal"`` for w^2 = exp(-x^2 / 2).
        whole_line: form B only. True keeps b_1 x + ... + b_n x^n from vanishing except at 0, so
            that Q does not return to 1 beyond the interval. False requires that on the interval
            only: the error there may be smaller, but F may spike outside.

    Returns:
        The fit, with its errors.

    Raises:
        InputError: invalid or contradictory arguments, or a target that is not finite.

    Examples:
        >>> from kat.nn.fitting import fit
        >>> result = fit("silu", degree=(5, 4), interval=(-4, 4))
        >>> f"{result.max_error:.1e}", f"{result(1.0):.4f}"
        ('4.8e-06', '0.7311')
    """
    degree = check_degree(degree)
    check_form(form)
    check_choice("method", method, METHODS)
    check_choice("weight", weight, WEIGHTS)
    name, source = resolve(target)
    if interval is None:
        interval = (source.x[0], source.x[-1]) if isinstance(source, Points) else INTERVAL
    low, high = interval = float(interval[0]), float(interval[1])
    if not np.isfinite(high - low) or low >= high:
        raise InputError(f"interval must be finite and increasing, got {interval}")
    if isinstance(source, Points):
        source, needed = source.within(low, high), degree[0] + 1 + degree[1]
        if len(source.x) < needed:
            raise InputError(
                f"{name} has {len(source.x)} points in the interval, but degree {degree} has"
                f" {needed} coefficients and needs as many points; choose a lower degree"
            )
    if source is FUNCTIONS["identity"]:
        a, b = np.eye(degree[0] + 1)[1], np.zeros(degree[1])
    else:
        samples = _samples(source, interval, method, weight)
        a, b = _best(search_spaces(degree, form, interval, whole_line), samples, METHODS[method])
    return measure(
        name, source, form, interval, a, b, method=method, weight=weight, whole_line=whole_line
    )


def _best(spaces: list[SearchSpace], samples: Samples, method: Method) -> tuple[Array, Array]:
    """Return the best member of the first space, unless another space has a clearly better one."""
    c, least = method(spaces[0], samples)
    best = spaces[0].unscaled(c)
    for space in spaces[1:]:
        c, cost = method(space, samples)
        if cost < _KINK_GAIN * least:
            best, least = space.unscaled(c), cost
    return best


def measure(
    name: str,
    source: Function | Points,
    form: str,
    interval: tuple[float, float],
    a: Array,
    b: Array,
    **arguments: Any,
) -> Fit:
    """Coefficients as a :class:`Fit`, with their errors on a grid that was not used for fitting.

    Args:
        name: the name of the target.
        source: the function or the points.
        form: ``"A"`` or ``"B"``.
        interval: (low, high), the interval of the fit.
        a, b: a_0 .. a_m and b_1 .. b_n.
        **arguments: arguments of :func:`fit` that the result records.
    """
    samples = _on_grid(source, _even(interval, _CHECK_POINTS), "normal")
    error = evaluate(samples.x, a, b, form) - samples.y
    squared = error**2
    rms_error = np.sqrt(np.mean(squared))
    normal_rms_error = np.sqrt(np.average(squared, weights=np.square(samples.weight)))
    return Fit(
        function=name,
        form=form,
        degree=(len(a) - 1, len(b)),
        interval=interval,
        # Adding 0.0 turns -0.0 into 0.0.
        numerator=tuple((a + 0.0).tolist()),
        denominator=tuple((b + 0.0).tolist()),
        max_error=float(np.max(np.abs(error))),
        rms_error=float(rms_error),
        normal_rms_error=float(normal_rms_error),
        **arguments,
    )


def _even(interval: tuple[float, float], count: int) -> Array:
    low, high = interval
    return np.linspace(low, high, count)


def _on_grid(source: Function | Points, grid: Array, weight: str) -> Samples:
    """Return the points, or the function on the grid."""
    if isinstance(source, Points):
        return Samples(source.x, source.y, WEIGHTS[weight](source.x))
    y = np.asarray(source(grid), dtype=np.float64)
    if y.shape != grid.shape or not np.isfinite(y).all():
        at = grid[~np.isfinite(y)][:1] if y.shape == grid.shape else grid[:1]
        raise InputError(
            f"the function must return one finite value per point of the interval, but does not at"
            f" x = {at[0]:g}; choose another interval"
        )
    return Samples(grid, y, WEIGHTS[weight](grid))


def _samples(
    source: Function | Points, interval: tuple[float, float], method: str, weight: str
) -> Samples:
    """Sample to fit: denser near the ends for the largest error, and even ones for a mean."""
    if method == "minimax":
        return _on_grid(source, chebyshev(interval, _MINIMAX_POINTS), weight)
    samples = _on_grid(source, _even(interval, _LEAST_SQUARES_POINTS), weight)
    if isinstance(source, Points) and source.weight is not None:
        root = np.sqrt(source.weight / np.max(source.weight))
        return Samples(samples.x, samples.y, samples.weight * root)
    return samples


def twice(interval: tuple[float, float]) -> tuple[float, float]:
    """Return the interval of twice the length about the same center.

    Examples:
        >>> from kat.nn.fitting import twice
        >>> twice((-3.0, 3.0))
        (-6.0, 6.0)
    """
    low, high = interval
    return low - (high - low) / 2, high + (high - low) / 2
