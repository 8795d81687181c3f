"""The gain of a function and the moments behind it, by quadrature over N(0, 1)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from kat.errors import InputError

Function = Callable[[Tensor], Tensor]
"""Maps a float64 tensor (points,) to (points,) or (groups, points)."""

_FIRST, _STEP, _NODES = -3.6, 0.03, 206
"""Of t, on either side of 0; beyond the last x, 11.8, the normal density is below 1e-30."""


def expectation(function: Function) -> Tensor:
    """E[f(x)] for x ~ N(0, 1), by double-exponential quadrature on either side of a kink at 0.

    Args:
        function: maps a float64 tensor (nodes,) to (nodes,) or (groups, nodes).

    Returns:
        A scalar, or one value for each group, in float64.

    Raises:
        InputError: the function is not finite on [-12, 12].

    Examples:
        >>> from kat.nn import expectation
        >>> f"{expectation(lambda x: x**4):.6f}"
        '3.000000'
    """
    nodes, weights = torch.tensor(_quadrature(), dtype=torch.float64, device="cpu")
    result = (evaluable(function)(nodes).double() * weights).sum(-1)
    if not result.isfinite().all():
        raise InputError(f"the expectation is {result}: the function is not finite on [-12, 12]")
    return result


def moments(function: Function) -> tuple[Tensor, Tensor]:
    """E[f(x)] and Var[f(x)] for x ~ N(0, 1), as :func:`expectation` returns them."""
    function = evaluable(function)
    mean = expectation(function)
    return mean, expectation(lambda x: function(x).square()) - mean.square()


def gain(function: Function) -> float:
    """alpha = 1 / E[f(x)^2] for x ~ N(0, 1): weights of variance alpha / d_in keep the variance.

    Exact values: identity 1, ReLU 2, GELU 2.3517, tanh 2.5362, SiLU 2.8108.

    Args:
        function: as in :func:`expectation`; with groups, E[f(x)^2] is averaged over them.

    Raises:
        InputError: the function is zero everywhere, or not finite.

    Source: arXiv 2409.10594, section 4.4 (estimated there by sampling).

    Examples:
        >>> import torch
        >>> from kat.nn import gain
        >>> f"{gain(torch.relu):.4f}", f"{gain(torch.nn.functional.silu):.4f}"
        ('2.0000', '2.8108')
    """
    function = evaluable(function)
    moment = expectation(lambda x: function(x).double().square()).mean().item()
    if not moment:
        raise InputError("no weights keep the variance of a function that is zero everywhere")
    return 1 / moment


def evaluable(function: Function) -> Function:
    """Return a module with parameters, such as a PReLU, as a copy on the CPU in float64."""
    if not isinstance(function, nn.Module) or next(function.parameters(), None) is None:
        return function
    return copy.deepcopy(function).double().cpu()


@cache
def _quadrature() -> tuple[list[float], list[float]]:
    """Nodes and weights for integrals over the normal density.

    The double-exponential rule takes x = exp(t - exp(-t)) at equidistant t, and dx/dt in the
    weight. Nodes are numbers, since a tensor made under a mode such as ``FakeTensorMode`` is of no
    use outside it.

    Source: Takahasi and Mori, Double exponential formulas for numerical integration, 1974.
    """
    positive, weights = [], []
    for i in range(_NODES):
        t = _FIRST + i * _STEP
        x = math.exp(t - math.exp(-t))
        slope = x * (1 + math.exp(-t))
        positive.append(x)
        weights.append(_STEP * slope * math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi))
    return [*(-x for x in positive), *positive], [*weights, *weights]
