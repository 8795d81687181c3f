"""Which known function an activation computes, determined from its values, not its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from kat.errors import InputError
from kat.nn.functions import FUNCTIONS

SUPPORTED = (
    "gelu", "gelu_tanh", "quick_gelu", "silu", "mish", "relu", "leaky_relu", "tanh", "sigmoid",
    "softplus",
)  # fmt: skip
"""Names in :data:`kat.nn.functions.FUNCTIONS`. The closest two, both GELUs, differ by 4.7e-4."""

_TOLERANCE = 1e-6


def known_function(activation: Callable[..., Any]) -> str | None:
    """The name of the function that an activation computes, or None if it is not a known one.

    ``"identity"`` stands for modules that only reshape, observe or, in evaluation mode, drop.

    The activation is called at 321 points of [-16, 16] in float64 on the CPU. The state of the
    random number generator is restored.

    Args:
        activation: a module without parameters, or a function.
    """
    x = torch.linspace(-16, 16, 321, dtype=torch.float64)
    y = _values(activation, x[None])
    if y is None:
        return None
    for name in ("identity", *SUPPORTED):
        if torch.allclose(y, FUNCTIONS[name](x), rtol=0, atol=_TOLERANCE):
            return name
    return None


def unsupported(name: str, activation: object) -> InputError:
    """The error for an MLP whose activation is not a known function."""
    return InputError(
        f"{name}: the activation {kind_of(activation)} is not supported, only"
        f" {', '.join(SUPPORTED)} are; choose other blocks with only="
    )


def kind_of(activation: object) -> str:
    """The name of a function, or of the class of a module."""
    name: str = getattr(activation, "__name__", type(activation).__name__)
    return name


@torch.no_grad()
def _values(activation: Callable[..., Any], x: torch.Tensor) -> torch.Tensor | None:
    """Its values at x (1, k), or None if it fails or does not return a value for each point."""
    # forward, not __call__, which would run the hooks of whoever observes the module.
    function = activation.forward if isinstance(activation, nn.Module) else activation
    with torch.random.fork_rng(devices=[]):
        try:
            y = function(x.clone())  # a clone, as an activation may work in place
        except Exception:  # a foreign module can raise anything; it is no known function then
            return None
    if not isinstance(y, torch.Tensor) or y.shape != x.shape or y.device != x.device:
        return None
    return y[0].double()
