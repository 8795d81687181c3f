"""The named functions to fit, evaluated in float64 without overflow or cancellation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc, expit

Array = NDArray[np.float64]
Function = Callable[[Array], Array]


def _identity(x: Array) -> Array:
    """f(x) = x."""
    return x


def _relu(x: Array) -> Array:
    """f(x) = max(x, 0)."""
    return np.maximum(x, 0.0)


def _leaky_relu(x: Array) -> Array:
    """f(x) = max(x, 0.01 x)."""
    return np.maximum(x, 0.01 * x)


def _tanh(x: Array) -> Array:
    """f(x) = tanh(x)."""
    return np.asarray(np.tanh(x))


def _sigmoid(x: Array) -> Array:
    """f(x) = 1 / (1 + exp(-x))."""
    return np.asarray(expit(x))


def _silu(x: Array) -> Array:
    """f(x) = x / (1 + exp(-x))."""
    return np.asarray(x * expit(x))


def _gelu(x: Array) -> Array:
    """f(x) = x (1 + erf(x / sqrt(2))) / 2, with erfc for the negative tail."""
    return np.asarray(0.5 * x * erfc(-x / math.sqrt(2.0)))


def _gelu_tanh(x: Array) -> Array:
    """f(x) = x (1 + tanh(u)) / 2 = x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3): the tanh
    approximation of GELU, as in GPT-2."""
    u = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
    return np.asarray(x * expit(2.0 * u))


def _quick_gelu(x: Array) -> Array:
    """f(x) = x / (1 + exp(-1.702 x)): the sigmoid approximation of GELU, as in CLIP."""
    return np.asarray(x * expit(1.702 * x))


def _softplus(x: Array) -> Array:
    """f(x) = log(1 + exp(x))."""
    return np.asarray(np.logaddexp(0.0, x))


def _mish(x: Array) -> Array:
    """f(x) = x tanh(log(1 + exp(x)))."""
    return np.asarray(x * np.tanh(np.logaddexp(0.0, x)))


FUNCTIONS: dict[str, Function] = {
    "identity": _identity,
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "mish": _mish,
    "softplus": _softplus,
}
"""The functions that can be fitted by name, on float64 arrays.

Examples:
    >>> import numpy as np
    >>> from kat.nn.fitting import FUNCTIONS
    >>> float(FUNCTIONS["silu"](np.float64(1)).round(4))
    0.7311
"""
