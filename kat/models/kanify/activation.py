"""Which function an activation computes, determined from its values, not its name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kat.nn.functions import FUNCTIONS, Function

KNOWN = (
    "gelu", "gelu_tanh", "quick_gelu", "silu", "mish", "relu", "leaky_relu", "tanh", "sigmoid",
    "softplus",
)  # fmt: skip
"""Names in :data:`kat.nn.functions.FUNCTIONS`. The closest two, both GELUs, differ by 4.7e-4."""
LINEAR = "linear"
"""The name of a x + b, among them modules that only reshape, observe or, in evaluation, drop."""

_TOLERANCE = 3e-6
"""Above the error of code that computes in float32."""


def _points() -> Tensor:
    return torch.linspace(-16, 16, 321, dtype=torch.float64, device="cpu")


@dataclass(frozen=True, eq=False)
class Activation:
    """The function of an activation.

    Args:
        name: a known one, or that of the class or function.
        function: maps float64 on the CPU to float64.
    """

    name: str
    function: Function

    @property
    def is_known(self) -> bool:
        """Whether the package has coefficients for it."""
        return self.name in FUNCTIONS

    def __eq__(self, other: object) -> bool:
        """Whether the values at many points are the same."""
        if not isinstance(other, Activation) or self.name != other.name:
            return False
        x = _points()
        return self.is_known or torch.equal(self.function(x), other.function(x))

    def __hash__(self) -> int:
        return hash(self.name)


def activation_function(activation: Callable[..., Any]) -> Activation | None:
    """The function of an activation, None if it is not the same function of every value by itself.

    The activation is called at 321 points of [-16, 16] in float64 on the CPU, in evaluation mode;
    one with parameters as a copy, with their present values. The state of the random number
    generator is restored.

    Args:
        activation: a module or a function.
    """
    x = _points()
    try:
        function = _as_function(activation)
        y, reversed_part, rows = function(x), function(x[:100].flip(0)), function(_rows(x))
    except Exception:  # a foreign module can raise anything; it is no such function then
        return None
    if not torch.allclose(reversed_part.flip(0), y[:100], rtol=0, atol=_TOLERANCE):
        return None
    if not torch.allclose(rows, _rows(y), rtol=0, atol=_TOLERANCE):
        return None
    line = y[0] + (x - x[0]) * (y[-1] - y[0]) / (x[-1] - x[0])
    if torch.allclose(y, line, rtol=0, atol=_TOLERANCE):
        return Activation(LINEAR, function)
    for name in KNOWN:
        if torch.allclose(y, FUNCTIONS[name](x), rtol=0, atol=_TOLERANCE):
            return Activation(name, FUNCTIONS[name])
    return Activation(kind_of(activation), function)


def _rows(x: Tensor) -> Tensor:
    """(2, 3, k), the values in six orders: a mean over rows or images is none of them."""
    return torch.stack([x.roll(50 * shift) for shift in range(6)]).unflatten(0, (2, 3))


def _as_function(activation: Callable[..., Any]) -> Function:
    """The activation as a function of float64 (k,), or of several dimensions, on the CPU."""
    called = activation
    if isinstance(activation, nn.Module):
        # forward, not __call__, which would run the hooks of whoever observes the module.
        called = copy.deepcopy(activation).eval().double().cpu().forward

    @torch.no_grad()
    def function(x: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            y = called(x.clone().reshape(1, -1) if x.ndim == 1 else x.clone())  # it may be in place
        if not isinstance(y, Tensor) or y.numel() != x.numel():
            raise TypeError("it does not return a value for each of its input")
        return y.double().reshape(x.shape)

    return function


def kind_of(activation: object) -> str:
    """The name of a function, or of the class of a module."""
    name: str = getattr(activation, "__name__", type(activation).__name__)
    return name
