"""The known function nearest to a learned rational, up to affine maps before and after it.

For a rational F and a known function f, over the distribution of the rational's inputs x,

    fit       G(x) = c f(a x + b) + d,  with a, b, c, d that minimize the distance
    distance  sqrt(E[(F(x) - G(x))^2] / Var[F(x)])            0: equal; 1: no better than a constant

c and d follow from a and b by linear least squares; a and the shift b / a are searched on a grid,
which is refined around its best point. Functions that are affine maps of each other are one entry:
sigmoid is in tanh, sigmoid(x) = (1 + tanh(x / 2)) / 2. Many functions are nearly straight over a
narrow range, so the nearest function is the one with the fewest parameters among those whose
distance is at most :data:`MARGIN` larger than the smallest. The runner-up is chosen in the same way
among the others.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kat.analysis.inspect.activations import Activation, Array
from kat.nn.fitting import FUNCTIONS
from kat.nn.fitting.targets import Function

MARGIN = 0.015
"""The distance by which a simpler function may be farther. A rational of degree (5, 4) has no kink:
one that is fitted to ReLU is up to 0.014 nearer to a steep GELU than to ReLU."""
CONSTANT = 1e-4
"""A function is constant if its standard deviation is at most this share of its RMS."""
NOT_SHOWN = "not shown"
"""The reading of a group whose inputs are all outside the range that is drawn."""

_SCALES = np.geomspace(1 / 4, 8, 21)
_SHIFTS = np.linspace(-4, 4, 33)
"""Shifts of the grid, in standard deviations of the layer's inputs."""
_REFINEMENTS, _SHRINKAGE = 24, 0.75
_MOVES = np.linspace(-1, 1, 5)
_OFFSETS = np.stack(np.meshgrid(_MOVES, _MOVES), axis=-1).reshape(-1, 2)
_SHOWN = 5e-4
"""Constants below this, next to numbers around 1, are left out of a formula."""


@dataclass(frozen=True)
class Known:
    """A known function: a sum of terms of u = s (x - t) and a constant.

    Args:
        terms: functions of u, by their text; least squares gives their coefficients.
        scaled: |s| is free; else it is 1.
        mirrored: a negative s gives another function.
        shifted: t is free; else it is 0.
    """

    terms: Mapping[str, Function]
    scaled: bool = True
    mirrored: bool = True
    shifted: bool = True

    @property
    def parameters(self) -> int:
        """The number of free parameters: the fewer, the simpler the function."""
        return 1 + len(self.terms) + self.scaled + self.shifted


def _elu(u: Array) -> Array:
    """f(u) = u for u > 0, else exp(u) - 1."""
    return np.where(u > 0, u, np.expm1(np.minimum(u, 0)))


_LINE = {"scaled": False, "mirrored": False, "shifted": False}
KNOWN: dict[str, Known] = {
    "identity": Known({"{u}": FUNCTIONS["identity"]}, **_LINE),
    "quadratic": Known({"{u}^2": np.square, "{u}": FUNCTIONS["identity"]}, **_LINE),
    "relu": Known({"relu({u})": FUNCTIONS["relu"]}, scaled=False),
    "abs": Known({"|{u}|": np.abs}, scaled=False, mirrored=False),
    "leaky_relu": Known(
        {"max({u}, 0)": lambda u: np.maximum(u, 0), "min({u}, 0)": lambda u: np.minimum(u, 0)},
        scaled=False,
        mirrored=False,
    ),
    "silu": Known({"silu({u})": FUNCTIONS["silu"]}),
    "gelu": Known({"gelu({u})": FUNCTIONS["gelu"]}),
    "softplus": Known({"softplus({u})": FUNCTIONS["softplus"]}),
    "elu": Known({"elu({u})": _elu}),
    "tanh": Known({"tanh({u})": FUNCTIONS["tanh"]}, mirrored=False),
    "sine": Known({"sin({u})": np.sin}, mirrored=False),
}


@dataclass(frozen=True)
class Reading:
    """The known function nearest to the function of one group.

    Args:
        layer: its name.
        group: counted from 0.
        nearest: a name in :data:`KNOWN`, or ``"constant"``, or :data:`NOT_SHOWN`, with empty texts
            and NaN for numbers.
        formula: the formula of the nearest function, with its numbers.
        distance: from the learned function; 0 for a constant.
        second: name of the runner-up; empty for a constant.
        second_distance: its distance; 0 for a constant.
        from_start: sqrt(E[(F - F_0)^2] / Var[F]), F_0 the function at the start of the training;
            for a constant without Var[F].

    Examples:
        >>> import kat
        >>> from kat.analysis import learned_activations, read_symbols
        >>> activation = learned_activations(kat.models.create_model("kat_micro", depth=1))[1]
        >>> reading = read_symbols(activation)[0]
        >>> reading.nearest
        'silu'
    """

    layer: str
    group: int
    nearest: str
    formula: str = ""
    distance: float = math.nan
    second: str = ""
    second_distance: float = math.nan
    from_start: float = math.nan


class _Target:
    """Functions y (G, N) at x (N,), to be fitted under weights (G, N) that sum to 1."""

    def __init__(self, x: Array, y: Array, weights: Array) -> None:
        self.x, self.weights = x, weights
        self.mean = (weights * y).sum(1)
        self.centered = y - self.mean[:, None]
        self.variance = (weights * self.centered**2).sum(1)
        pooled = weights.mean(0)
        self.center = float(pooled @ x)
        self.spread = float(np.sqrt(pooled @ (x - self.center) ** 2))

    def is_constant(self, group: int) -> bool:
        """Return True if the function of a group is constant."""
        moment = self.variance[group] + self.mean[group] ** 2
        return bool(self.variance[group] <= CONSTANT**2 * moment)


@dataclass(frozen=True)
class _Fits:
    """The best fit of one known function to each of G functions.

    Args:
        place: (G, 2), s and t.
        coefficients: (G, terms).
        constant: (G,).
        distance: (G,).
    """

    place: Array
    coefficients: Array
    constant: Array
    distance: Array


def read_symbols(activation: Activation) -> list[Reading]:
    """Return the nearest known function of each group over its inputs, by default N(0, 1).

    Examples:
        >>> import kat
        >>> from kat.analysis import learned_activations, read_symbols
        >>> model = kat.models.create_model("kat_micro", depth=1, act_init="gelu")
        >>> for activation in learned_activations(model):
        ...     print(activation.name, {reading.nearest for reading in read_symbols(activation)})
        blocks.0.mlp.act1 {'identity'}
        blocks.0.mlp.act2 {'gelu'}
    """
    weights = activation.densities()
    readings = [Reading(activation.name, group, NOT_SHOWN) for group in range(len(weights))]
    groups = np.flatnonzero(weights.sum(1))
    if not len(groups):
        return readings
    weights, y, start = weights[groups], activation.learned[groups], activation.start[groups]
    target = _Target(activation.x, y, weights / weights.sum(1, keepdims=True))
    fits = {name: _nearest(known, target) for name, known in KNOWN.items()}
    changes = np.sqrt((target.weights * (y - start) ** 2).sum(1)).tolist()
    for place, group in enumerate(groups.tolist()):
        readings[group] = _read(readings[group], place, target, fits, changes[place])
    return readings


def _read(
    reading: Reading, place: int, target: _Target, fits: Mapping[str, _Fits], change: float
) -> Reading:
    """Return the reading of the group that has this place among the fitted functions."""
    if target.is_constant(place):
        return replace(
            reading,
            nearest="constant",
            formula=f"{target.mean[place]:.3g}",
            distance=0.0,
            second_distance=0.0,
            from_start=change,
        )
    spread = float(np.sqrt(target.variance[place]))
    distances = {name: float(fit.distance[place]) for name, fit in fits.items()}
    first = _simplest(distances)
    second = _simplest({name: value for name, value in distances.items() if name != first})
    formula = _formula(KNOWN[first], fits[first], place, _SHOWN * spread)
    return replace(
        reading,
        nearest=first,
        formula=formula,
        distance=distances[first],
        second=second,
        second_distance=distances[second],
        from_start=change / spread,
    )


def _simplest(distances: Mapping[str, float]) -> str:
    """Return the simplest function among the nearest ones; of equally simple ones the nearest."""
    most = min(distances.values()) + MARGIN
    near = [name for name, distance in distances.items() if distance <= most]
    return min(near, key=lambda name: (KNOWN[name].parameters, distances[name]))


def _nearest(known: Known, target: _Target) -> _Fits:
    """Return the best fit on the grid, then on finer and finer grids around it."""
    scales = _SCALES / target.spread if known.scaled else np.ones(1)
    scales = np.concatenate([scales, -scales]) if known.mirrored else scales
    shifts = target.center + target.spread * _SHIFTS if known.shifted else np.zeros(1)
    grid = np.stack(np.meshgrid(scales, shifts), axis=-1).reshape(1, -1, 2)
    best = _best(known, target, grid)
    factor = np.log(_SCALES[1] / _SCALES[0]) * known.scaled
    step = target.spread * (_SHIFTS[1] - _SHIFTS[0]) * known.shifted
    for level in range(_REFINEMENTS if known.scaled or known.shifted else 0):
        moves = _OFFSETS * _SHRINKAGE**level
        s = best.place[:, :1] * np.exp(factor * moves[:, 0])
        t = best.place[:, 1:] + step * moves[:, 1]
        best = _best(known, target, np.stack([s, t], axis=-1))
    return best


def _best(known: Known, target: _Target, places: Array) -> _Fits:
    """Return the best of the places (1 or G, P, 2) for each function, by linear least squares."""
    u = places[..., :1] * (target.x - places[..., 1:])
    terms = np.stack([term(u) for term in known.terms.values()], axis=-2)  # (1 or G, P, k, N)
    weights = target.weights[:, None, :, None]
    mean = (terms @ weights)[..., 0]
    weighted = terms * weights[..., 0][..., None, :]
    covariance = weighted @ terms.swapaxes(-1, -2) - mean[..., :, None] * mean[..., None, :]
    with_y = (weighted @ target.centered[:, None, :, None])[..., 0]
    coefficients = _solve(covariance, with_y)
    explained = (coefficients * with_y).sum(-1)
    chosen = explained.argmax(1)
    groups = np.arange(len(chosen))
    c = coefficients[groups, chosen]
    variance = np.where(target.variance > 0, target.variance, 1.0)
    return _Fits(
        place=np.broadcast_to(places, (len(groups), *places.shape[1:]))[groups, chosen],
        coefficients=c,
        constant=target.mean - (c * mean[groups, chosen]).sum(-1),
        distance=np.sqrt(np.clip(1 - explained[groups, chosen] / variance, 0, None)),
    )


def _solve(covariance: Array, with_y: Array) -> Array:
    """Return least-squares coefficients (..., k); 0 for a term that is constant."""
    deviation = np.sqrt(np.clip(np.diagonal(covariance, axis1=-2, axis2=-1), 0, None))
    scale = np.where(deviation > 1e-12, 1 / np.maximum(deviation, 1e-12), 0)
    correlation = covariance * scale[..., :, None] * scale[..., None, :]
    regular = correlation + 1e-10 * np.eye(correlation.shape[-1])
    return np.asarray(np.linalg.solve(regular, (with_y * scale)[..., None])[..., 0] * scale)


def _formula(known: Known, fit: _Fits, group: int, least: float) -> str:
    """Return a formula such as ``1.02 gelu(1.1 x - 0.3)``, without a constant below ``least``."""
    s, t = fit.place[group]
    inner = _sum([(s, "x"), (-s * t, "")], _SHOWN)
    terms = [
        (coefficient, text.format(u=inner))
        for coefficient, text in zip(fit.coefficients[group], known.terms, strict=True)
    ]
    return _sum([*terms, (fit.constant[group], "")], least)


def _sum(terms: Sequence[tuple[float, str]], least: float) -> str:
    text = ""
    for coefficient, factor in terms:
        if not factor and abs(coefficient) < least:
            continue
        sign = "-" if coefficient < 0 else "+"
        number = f"{abs(coefficient):.3g}"
        text += f" {sign} {factor if factor and number == '1' else f'{number} {factor}'.strip()}"
    return f"-{text[3:]}" if text.startswith(" - ") else text[3:]


def median(values: Iterable[float]) -> float:
    """Return the median of the values that are not NaN; NaN without any."""
    found = [value for value in values if not math.isnan(value)]
    return statistics.median(found) if found else math.nan
