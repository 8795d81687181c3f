"""The coefficients of F_2, and their error against the activation in the dtype of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kat.errors import InputError
from kat.extras import needed_by
from kat.models.kanify.calibrate import SeenInputs
from kat.nn import Coefficients
from kat.nn.functions import FUNCTIONS
from kat.nn.presets import minimax
from kat.ops import rational


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
        MissingPackage: the fit is not among the stored ones, and NumPy or SciPy is missing.
    """
    degree, interval = _pair("degree", degree), _pair("interval", interval)
    coefficients = minimax(function, degree, form, interval)
    x = torch.linspace(*coefficients.interval, 20001, dtype=torch.float64)
    return _measured(function, coefficients, dtype, x)


def check_fitter() -> None:
    """Checks that :func:`fit_to_inputs` can fit, before the model runs.

    Raises:
        MissingPackage: NumPy or SciPy is missing.
    """
    with needed_by("calibration", "fit"):
        import kat.nn.fitting  # noqa: F401


def fit_to_inputs(function: str, start: Fitted, seen: SeenInputs, dtype: torch.dtype) -> Fitted:
    """The weighted least-squares fit of a known function at the inputs of an activation.

    Args:
        function: its name.
        start: a fit on an interval, of the same degree and form. It is returned if its error on the
            inputs is smaller.
        seen: the inputs.
        dtype: the dtype of the coefficients.
    """
    from kat.nn.fitting import Points, fit

    c = start.coefficients
    y = FUNCTIONS[function](seen.x)
    points = Points(function, seen.x.numpy(), y.numpy(), seen.weight.numpy())
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


def _measured(
    function: str,
    coefficients: Coefficients,
    dtype: torch.dtype,
    x: Tensor,
    weight: Tensor | None = None,
) -> Fitted:
    a, b = (
        torch.tensor(values, dtype=torch.float64).to(dtype).double()
        for values in (coefficients.numerator, coefficients.denominator)
    )
    y = FUNCTIONS[function](x)
    form: Any = coefficients.form
    values = rational(x[:, None], a[None], b[None], form=form, impl="reference")
    error = values[:, 0] - y
    even = torch.ones_like(x) if weight is None else weight
    normal = torch.exp(-x.square() / 2) + torch.finfo(x.dtype).tiny if weight is None else weight
    return Fitted(
        coefficients,
        max_error=error.abs().max().item(),
        rms_error=_rms(error, even),
        seen=weight is not None,
        relative_error=_rms(error, normal) / _rms(y, normal),
    )


def _rms(values: Tensor, weight: Tensor) -> float:
    return ((weight @ values.square()) / weight.sum()).sqrt().item()
