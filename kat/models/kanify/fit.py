"""The coefficients of F_2, and their error against the activation in the dtype of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kat.extras import needed_by
from kat.models.kanify.activation import Activation
from kat.models.kanify.calibrate import SeenInputs
from kat.models.kanify.config import KanifyConfig
from kat.nn import Coefficients
from kat.nn.presets import minimax
from kat.ops import rational

_EVEN_SHARE = 1e-4
"""Of the squared size of an activation: enough to bound the error where inputs are rare; 1e-2 costs
accuracy where they are dense."""


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


def fit_on_interval(activation: Activation, config: KanifyConfig, dtype: torch.dtype) -> Fitted:
    """The minimax fit of an activation on an interval.

    Raises:
        InputError: an invalid degree, form or interval, or a function that is not finite there.
        MissingPackage: the fit is not among the stored ones, and NumPy or SciPy is missing.
    """
    if activation.is_known:
        coefficients = minimax(activation.name, config.degree, config.form, config.interval)
    else:
        with needed_by(f"a fit of {activation.name}", "fit"):
            from kat.nn.fitting import fit

        def function(x: Any) -> Any:
            return activation.function(torch.from_numpy(x)).numpy()

        coefficients = fit(function, config.degree, config.form, config.interval).coefficients
    x = torch.linspace(*coefficients.interval, 20001, dtype=torch.float64, device="cpu")
    return _measured(activation, coefficients, dtype, x)


def check_fitter() -> None:
    """Checks that :func:`fit_to_inputs` can fit, before the model runs.

    Raises:
        MissingPackage: NumPy or SciPy is missing.
    """
    with needed_by("calibration", "fit"):
        import kat.nn.fitting  # noqa: F401


def fit_to_inputs(
    activation: Activation, start: Fitted, seen: SeenInputs, dtype: torch.dtype
) -> Fitted:
    """The weighted least-squares fit of an activation at its inputs, and loosely between them.

    Args:
        activation: the function.
        start: a fit on an interval, of the same degree and form. It is returned if its error on the
            inputs is smaller.
        seen: the inputs.
        dtype: the dtype of the coefficients.
    """
    from kat.nn.fitting import Points, fit

    c = start.coefficients
    y = activation.function(seen.x)
    # Relative to the size of the values at both, so that small inputs are not lost beside [-6, 6].
    size = (seen.effect @ y.square()) / (seen.even @ y.square())
    even = _EVEN_SHARE * size.clamp(min=1e-6).item()
    weight = seen.effect + even * seen.even
    points = Points(activation.name, seen.x.numpy(), y.numpy(), weight.numpy())
    result = fit(points, c.degree, c.form, method="least_squares")
    before, after = (
        _measured(activation, coefficients, dtype, seen.x, seen.effect)
        for coefficients in (c, result.coefficients)
    )
    return start if before.rms_error < after.rms_error else after


def _measured(
    activation: Activation,
    coefficients: Coefficients,
    dtype: torch.dtype,
    x: Tensor,
    weight: Tensor | None = None,
) -> Fitted:
    a, b = (
        torch.tensor(values, dtype=torch.float64, device="cpu").to(dtype).double()
        for values in (coefficients.numerator, coefficients.denominator)
    )
    y = activation.function(x)
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
