"""Functions of activations, recognized by their values, and rationals fitted to them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kat.extras import needed_by
from kat.nn import Coefficients, Share
from kat.nn.coefficients import KANIFY_INTERVAL
from kat.nn.functions import FUNCTIONS, Function
from kat.nn.presets import minimax
from kat.ops import Form, rational

KNOWN = (
    "gelu", "gelu_tanh", "quick_gelu", "silu", "mish", "relu", "leaky_relu", "tanh", "sigmoid",
    "softplus",
)  # fmt: skip
"""Names in :data:`kat.nn.functions.FUNCTIONS`. The closest two, both GELUs, differ by 4.7e-4."""
LINEAR = "linear"
"""The name of a x + b, among them modules that only reshape, observe or, in evaluation, drop."""

_TOLERANCE = 3e-6
"""Above the error of code that computes in float32."""


@dataclass(frozen=True)
class Activation:
    """The function of an activation.

    Args:
        name: a known one, or the name of the class or function.
        function: maps float64 on the CPU to float64.
        values: of a function that is not known, by which it equals others.
    """

    name: str
    function: Function = field(compare=False)
    values: tuple[float, ...] = field(default=(), repr=False)


def activation_function(activation: Callable[..., Any]) -> Activation | None:
    """Return the function of an activation, None if it is not elementwise.

    The activation is called at 321 points of [-16, 16] in float64 on the CPU, in evaluation mode;
    one with parameters as a copy, with their present values. The state of the random number
    generator is restored.

    Args:
        activation: a module or a function.
    """
    x = torch.linspace(-16, 16, 321, dtype=torch.float64, device="cpu")
    try:
        function = _as_function(activation)
        y, reversed_part, of_rows = function(x), function(x[:100].flip(0)), function(_rows(x))
    except Exception:  # a foreign module can raise anything; it is no such function then
        return None
    same = functools.partial(torch.allclose, rtol=0, atol=_TOLERANCE)
    if not (same(reversed_part.flip(0), y[:100]) and same(of_rows, _rows(y))):
        return None
    if same(y, y[0] + (x - x[0]) * (y[-1] - y[0]) / (x[-1] - x[0])):
        return Activation(LINEAR, function)
    for name in KNOWN:
        if same(y, FUNCTIONS[name](x)):
            return Activation(name, FUNCTIONS[name])
    return Activation(kind_of(activation), function, tuple(y.tolist()))


def _rows(x: Tensor) -> Tensor:
    """(2, 3, k), the values in six orders: a mean over rows or images is none of them."""
    return torch.stack([x.roll(50 * shift) for shift in range(6)]).unflatten(0, (2, 3))


def _as_function(activation: Callable[..., Any]) -> Function:
    """Return the activation as a function of float64 (k,), or of several dimensions, on the CPU."""
    called = activation
    if isinstance(activation, nn.Module):
        # forward, not __call__, which would run the hooks that others have registered.
        called = copy.deepcopy(activation).eval().double().cpu().forward

    @torch.no_grad()
    def function(x: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            y = called(x.clone().reshape(1, -1) if x.ndim == 1 else x.clone())  # it may be in place
        return y.double().reshape(x.shape)

    return function


def kind_of(activation: object) -> str:
    """Return the name of a function, or of the class of a module."""
    return str(getattr(activation, "__name__", type(activation).__name__))


_EVEN_SHARE = 1e-4
"""Share of the squared size of an activation: enough to bound the error where inputs are rare;
1e-2 costs accuracy where they are dense."""


@dataclass(frozen=True)
class KanifyConfig:
    """The rationals of an MLP that :func:`kat.kanify` replaces.

    Args:
        groups: a divisor of the width of the activation; by default the largest up to 8.
        degree, form, share: see :class:`kat.GroupRational`.
        interval: where F approximates the activation. The fits of degree (5, 4) on [-6, 6] to known
            functions are stored; others need the extra ``[fit]``.

    Examples:
        >>> import kat
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 4))
        >>> plan = kat.kanify(model, config=kat.KanifyConfig(groups=4))
        >>> plan.parameters  # 6 + 4 * 4
        22
    """

    groups: int | None = None
    degree: tuple[int, int] = (5, 4)
    form: Form = "A"
    share: Share = "numerator"
    interval: tuple[float, float] = KANIFY_INTERVAL

    def __post_init__(self) -> None:
        for name in ("degree", "interval"):  # lists, as of a file, are no keys
            object.__setattr__(self, name, tuple(getattr(self, name)))


@dataclass(frozen=True)
class Fitted:
    """Coefficients of a rational that approximates an activation.

    Args:
        coefficients: as fitted, in float64.
        max_error, rms_error: of F with the coefficients rounded to the dtype of the model; on the
            interval; if they were fitted to inputs, the largest is on both, and the RMS is on the
            inputs, weighted by their effect.
        seen: the least and the greatest of the inputs that they were fitted to, empty if to none.
        relative_error: the RMS error relative to the RMS of the activation, for inputs x ~ N(0, 1)
            in the interval, or if they were fitted to inputs, on these.
        largest_relative_error: ``max_error``, relative to the largest value of the activation.
    """

    coefficients: Coefficients
    max_error: float
    rms_error: float
    seen: list[float]
    relative_error: float
    largest_relative_error: float


@dataclass(frozen=True)
class SeenInputs:
    """The inputs of an activation, weighted by their squared effect on the output of the MLP.

    Args:
        x: (k,) float64, increasing: the inputs, and evenly spaced points that cover their range, a
            margin of a tenth of it on both sides, and an interval.
        effect: (k,) float64, the weight of each as an input; their sum is 1.
        even: (k,), the weight of each as one of the even points; their sum is 1.
    """

    x: Tensor
    effect: Tensor
    even: Tensor


def fit_on_interval(activation: Activation, config: KanifyConfig, dtype: torch.dtype) -> Fitted:
    """Return the minimax fit of an activation on an interval.

    Raises:
        InputError: an invalid degree, form or interval, or a function that is not finite there.
        MissingPackage: the fit is not among the stored ones, and NumPy or SciPy is missing.
    """
    if activation.name in FUNCTIONS:
        coefficients = minimax(activation.name, config.degree, config.form, config.interval)
    else:
        with needed_by(f"a fit of {activation.name}", "fit"):
            from kat.nn.fitting import fit

        def function(x: Any) -> Any:
            return activation.function(torch.from_numpy(x)).numpy()

        coefficients = fit(function, config.degree, config.form, config.interval).coefficients
    x = torch.linspace(*coefficients.interval, 20001, dtype=torch.float64, device="cpu")
    return _measured(activation, coefficients, dtype, x)


def fit_to_inputs(
    activation: Activation, start: Fitted, seen: SeenInputs, dtype: torch.dtype
) -> Fitted:
    """Return the weighted least-squares fit of an activation at its inputs.

    Evenly spaced points around the inputs have a small weight.

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
        seen=[] if weight is None else x[weight > 0][[0, -1]].tolist(),
        relative_error=_rms(error, normal) / _rms(y, normal),
        largest_relative_error=(error.abs().max() / y.abs().max()).item(),
    )


def _rms(values: Tensor, weight: Tensor) -> float:
    return ((weight @ values.square()) / weight.sum()).sqrt().item()
