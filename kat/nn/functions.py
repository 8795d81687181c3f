"""The functions that rationals stand for, evaluated in float64 without overflow or cancellation."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Function = Callable[[Tensor], Tensor]


def _identity(x: Tensor) -> Tensor:
    """f(x) = x."""
    return x


def _gelu(x: Tensor) -> Tensor:
    """f(x) = x (1 + erf(x / sqrt(2))) / 2, with erfc for the negative tail."""
    return 0.5 * x * torch.erfc(-x / math.sqrt(2.0))


def _gelu_tanh(x: Tensor) -> Tensor:
    """f(x) = x (1 + tanh(u)) / 2 = x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3): the tanh
    approximation of GELU, as in GPT-2."""
    u = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
    return x * torch.sigmoid(2.0 * u)


def _quick_gelu(x: Tensor) -> Tensor:
    """f(x) = x / (1 + exp(-1.702 x)): the sigmoid approximation of GELU, as in CLIP."""
    return x * torch.sigmoid(1.702 * x)


def _softplus(x: Tensor) -> Tensor:
    """f(x) = log(1 + exp(x)); torch's own is x beyond 20."""
    return torch.logaddexp(x.new_zeros(()), x)


FUNCTIONS: dict[str, Function] = {
    "identity": _identity,
    "silu": functional.silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "relu": torch.relu,
    "leaky_relu": functional.leaky_relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "mish": functional.mish,
    "softplus": _softplus,
}
"""Functions by name; each maps a float64 tensor to one of its shape."""
