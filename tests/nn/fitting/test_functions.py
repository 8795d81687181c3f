"""The named functions against mpmath."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

from kat.nn.fitting import FUNCTIONS

EXACT: dict[str, Callable[[Any], Any]] = {
    "identity": lambda x: x,
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "gelu": lambda x: x * mpmath.ncdf(x),
    "gelu_tanh": lambda x: (
        x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3)))
    ),
    "quick_gelu": lambda x: x / (1 + mpmath.exp(-mpmath.mpf("1.702") * x)),
    "relu": lambda x: max(x, mpmath.mpf(0)),
    "leaky_relu": lambda x: x if x > 0 else x * mpmath.mpf("0.01"),
    "tanh": mpmath.tanh,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "mish": lambda x: x * mpmath.tanh(mpmath.log(1 + mpmath.exp(x))),
    "softplus": lambda x: mpmath.log(1 + mpmath.exp(x)),
}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_targets_agree_with_mpmath(name: str) -> None:
    with mpmath.workdps(60):
        for x in (-30.0, -7.5, -1.0, -0.125, 0.0, 0.5, 3.0, 40.0):
            exact = float(EXACT[name](mpmath.mpf(x)))
            value = float(FUNCTIONS[name](np.array([x]))[0])
            assert value == pytest.approx(exact, rel=1e-12, abs=1e-150)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_targets_are_finite_far_out(name: str) -> None:
    with np.errstate(over="raise", invalid="raise"):
        assert np.all(np.isfinite(FUNCTIONS[name](np.array([-1e6, 1e6]))))
