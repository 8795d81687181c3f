"""The coefficients of F_2, and their error against the activation in the dtype of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from kat.errors import InputError
from kat.models.kanify.calibrate import SeenInputs
from kat.nn import Coefficients

if TYPE_CHECKING:
    from kat.nn.fitting import Fit

# kat.nn.fitting is imported within functions: it imports SciPy's optimizers.


@dataclass(frozen=True)
class Fitted:
    """Coefficients of a rational that approximates an activation.

    Args:
        coefficients: as fitted, in float64.
        max_error, rms_error: of F with the coefficients rounded to the dtype of the model; on the
            interval, or if they were fitted to inputs, on these, weighted by their effect.
        seen: whether they were fitted to inputs of the activation.
        relative_error: the RMS error relative to the RMS of the activation, for inputs x ~ N(0, 1)
            in the interval, or if they were fitted to inputs, on these.
    """

    coefficients: Coefficients
    max_error: float
    rms_error: float
    seen: bool
    relative_error: float = 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The interval of the fit."""
        return self.coefficients.interval


def fit_on_interval(
    function: str, degree: Any, form: str, interval: Any, dtype: torch.dtype
) -> Fitted:
    """The minimax fit of a known function on an interval.

    Raises:
        InputError: an invalid degree, form or interval.
    """
    degree, interval = _pair("degree", degree), _pair("interval", interval)
    result = _minimax(function, degree, form, interval)
    x = np.linspace(*result.interval, 20001)
    return _measured(function, result.coefficients, dtype, x)


def fit_to_inputs(function: str, start: Fitted, seen: SeenInputs, dtype: torch.dtype) -> Fitted:
    """The weighted least-squares fit of a known function at the inputs of an activation.

    Args:
        function: its name.
        start: a fit on an interval, of the same degree and form. It is returned if its error on the
            inputs is smaller.
        seen: the inputs.
        dtype: the dtype of the coefficients.
    """
    from kat.nn.fitting import FUNCTIONS, Points, fit

    c = start.coefficients
    points = Points(function, seen.x, FUNCTIONS[function](seen.x), seen.weight)
    result = fit(points, c.degree, c.form, method="least_squares")
    before, after = (
        _measured(function, coefficients, dtype, seen.x, seen.effect)
        for coefficients in (c, result.coefficients)
    )
    return start if before.rms_error < after.rms_error else after


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise InputError(f"{name} must be two numbers, got {value!r}")
    return value[0], value[1]


@cache
def _minimax(
    function: str, degree: tuple[int, int], form: str, interval: tuple[float, float]
) -> Fit:
    from kat.nn.fitting import fit

    return fit(function, degree, form, interval)


def _measured(
    function: str,
    coefficients: Coefficients,
    dtype: torch.dtype,
    x: NDArray[np.float64],
    weight: NDArray[np.float64] | None = None,
) -> Fitted:
    from kat.nn.fitting import FUNCTIONS, evaluate

    a, b = (
        torch.tensor(values, dtype=torch.float64).to(dtype).double().numpy()
        for values in (coefficients.numerator, coefficients.denominator)
    )
    y = FUNCTIONS[function](x)
    error = evaluate(x, a, b, coefficients.form) - y
    rms = float(np.sqrt(np.average(np.square(error), weights=weight)))
    density = np.exp(-np.square(x) / 2) + np.finfo(float).tiny if weight is None else weight
    relative = float(np.sqrt(np.dot(density, np.square(error)) / np.dot(density, np.square(y))))
    return Fitted(coefficients, float(np.max(np.abs(error))), rms, weight is not None, relative)
