"""Which known function an activation computes: found by evaluating it, not by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from kat.errors import InputError

SUPPORTED = (
    "gelu", "gelu_tanh", "quick_gelu", "silu", "mish", "relu", "leaky_relu", "tanh", "sigmoid",
    "softplus",
)  # fmt: skip
"""Names in :data:`kat.nn.fitting.FUNCTIONS`. The closest two, both GELUs, are 4.7e-4 apart."""

_TOLERANCE = 1e-6


def known_function(activation: Callable[..., Any]) -> str | None:
    """The name of the function that an activation computes, or None if it is no known one.

    ``"identity"`` for what only reshapes, observes or, in evaluation mode, drops.

    It is called on 321 points of [-16, 16] in float64, on the CPU; random numbers that it draws are
    given back.

    Args:
        activation: a module without parameters, or a function.
    """
    from kat.nn.fitting import FUNCTIONS

    x = torch.linspace(-16, 16, 321, dtype=torch.float64)
    y = _values(activation, x[None])
    if y is None:
        return None
    for name in ("identity", *SUPPORTED):
        if np.allclose(y, FUNCTIONS[name](x.numpy()), rtol=0, atol=_TOLERANCE):
            return name
    return None


def unsupported(name: str, activation: object) -> InputError:
    """The error for an MLP whose activation is no known function."""
    kind = getattr(activation, "__name__", type(activation).__name__)
    return InputError(
        f"{name}: the activation {kind} is not supported, only {', '.join(SUPPORTED)} are; choose"
        " other blocks with only="
    )


@torch.no_grad()
def _values(activation: Callable[..., Any], x: torch.Tensor) -> np.ndarray | None:
    """Its values at x (1, k), or None where it fails or gives no value a point."""
    # Not through __call__, which would run the hooks of whoever watches the module.
    function = activation.forward if isinstance(activation, nn.Module) else activation
    with torch.random.fork_rng(devices=[]):
        try:
            y = function(x.clone())  # a clone: an activation may work in place
        except Exception:  # whatever a foreign module raises, it is not one of ours
            return None
    if not isinstance(y, torch.Tensor) or y.shape != x.shape or y.device != x.device:
        return None
    return y[0].double().numpy()
