"""The samples of a fit: x, f(x) and the weight of the error, from functions or CSV files."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kat.errors import InputError
from kat.files import open_input
from kat.nn.fitting.functions import Array, Function

WEIGHTS = ("uniform", "normal")


@dataclass(frozen=True)
class Points:
    """A function known at points only.

    Args:
        name: its name in messages.
        x: (k,), increasing.
        y: (k,), the values.
        weight: (k,), weights of the squared errors, such as frequencies, none negative; equal by
            default.

    Raises:
        InputError: they are not of one length, not finite, x is not increasing, or a weight is
            negative.

    Examples:
        >>> import numpy as np
        >>> from kat.nn.fitting import Points, fit
        >>> x = np.linspace(-2, 2, 50)
        >>> fit(Points("measured", x, np.tanh(x))).max_error < 1e-4
        True
    """

    name: str
    x: Array
    y: Array
    weight: Array | None = None

    def __post_init__(self) -> None:
        """Checks the points."""
        arrays = [np.asarray(a) for a in (self.x, self.y, self.weight) if a is not None]
        if len({array.shape for array in arrays}) > 1 or arrays[0].ndim != 1:
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise InputError(f"the points of {self.name} must be of one length, got {shapes}")
        if not all(np.isfinite(array).all() for array in arrays):
            raise InputError(f"the points of {self.name} must be finite")
        if (np.diff(self.x) <= 0).any():
            raise InputError(f"x of {self.name} must increase: sort the points by x")
        if self.weight is not None and (np.asarray(self.weight) < 0).any():
            raise InputError(f"the weights of {self.name} must not be negative")

    def within(self, low: float, high: float) -> Points:
        """The points with low <= x <= high."""
        inside = (self.x >= low) & (self.x <= high)
        weight = None if self.weight is None else self.weight[inside]
        return Points(self.name, self.x[inside], self.y[inside], weight)


@dataclass(frozen=True)
class Samples:
    """x, y = f(x), and the weight w(x) of the error: (k,) each."""

    x: Array
    y: Array
    weight: Array

    def at(self, chosen: NDArray[np.bool_]) -> Samples:
        """The samples where the mask is True."""
        return Samples(self.x[chosen], self.y[chosen], self.weight[chosen])


def sample(function: Function, x: Array, weight: str) -> Samples:
    """The values of a function at the points x.

    Raises:
        InputError: the function does not return one finite value per point.
    """
    y = np.asarray(function(x), dtype=np.float64)
    if y.shape != x.shape:
        raise InputError("the function must return one finite value per point of the interval")
    if not np.all(np.isfinite(y)):
        where = x[~np.isfinite(y)][0]
        raise InputError(
            f"the function must return one finite value per point of the interval, but is not"
            f" finite at x = {where:g}; choose another interval"
        )
    return Samples(x, y, error_weight(x, weight))


def error_weight(x: Array, weight: str) -> Array:
    """The weight w(x) of the error, scaled to a maximum of 1.

    ``"uniform"``: 1. ``"normal"``: exp(-x^2 / 4), the square root of the density of N(0, 1).
    """
    if weight == "uniform":
        return np.ones_like(x)
    return np.asarray(np.exp((np.min(np.square(x)) - np.square(x)) / 4))


def chebyshev(interval: tuple[float, float], count: int) -> Array:
    """Extrema of the Chebyshev polynomial on the interval, and 0 if it lies inside."""
    low, high = interval
    nodes = 0.5 * (low + high) - 0.5 * (high - low) * np.cos(np.linspace(0.0, np.pi, count))
    return np.unique(np.append(nodes, 0.0)) if low < 0.0 < high else np.asarray(nodes)


def read_points(path: str | Path) -> Points:
    r"""Reads a CSV file with columns x and y, with or without a header, in any order of x.

    A repeated point counts once.

    Raises:
        InputError: the file is missing, a line is not a point, or an x has two values.

    Examples:
        >>> from pathlib import Path
        >>> from kat.nn.fitting import read_points
        >>> _ = Path("points.csv").write_text("x,y\n0,0\n2,4\n1,1\n")
        >>> read_points(Path("points.csv")).x
        array([0., 1., 2.])
    """
    path = Path(path)
    values: dict[float, tuple[float, int]] = {}
    for number, row in _rows(path):
        x, y = _point(path, number, row)
        known, line = values.setdefault(x, (y, number))
        if known != y:
            raise InputError(
                f"{path}, lines {line} and {number}: x = {x:g} has the values {known:g} and {y:g};"
                " keep one, or their mean"
            )
    if not values:
        raise InputError(f"{path} holds no points")
    points = [(x, values[x][0]) for x in sorted(values)]
    return Points(path.name, *np.array(points).T)


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The lines that hold points, with their numbers."""
    try:
        with io.TextIOWrapper(open_input(path), encoding="utf-8-sig", newline="") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), start=1)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV: {error}") from None
    rows = [(number, row) for number, row in rows if any(cell.strip() for cell in row)]
    return rows[1:] if rows and _is_header(rows[0][1]) else rows


def _is_header(row: list[str]) -> bool:
    return all(cell.strip() and _number(cell) is None for cell in row)


def _point(path: Path, number: int, row: list[str]) -> tuple[float, float]:
    numbers = [_number(cell) for cell in row]
    if len(row) != 2 or any(value is None or not math.isfinite(value) for value in numbers):
        raise InputError(
            f"{path}, line {number}: {','.join(row)!r} is not a point: two finite numbers x,y"
        )
    x, y = numbers
    assert x is not None
    assert y is not None
    return x + 0.0, y


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
