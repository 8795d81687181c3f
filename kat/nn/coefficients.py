"""Coefficients of the rational function: the shipped presets, and the gain of a set of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

from kat.errors import unknown
from kat.nn import fitting

ALIASES = {"swish": "silu"}

_HALF_WIDTH = 12.0
"""The normal density beyond 12 is 1e-32: nothing is lost by cutting the integral there."""


@dataclass(frozen=True)
class Coefficients:
    """Coefficients of F = P/Q that stand for a known function.

    Args:
        numerator: a_0 .. a_m.
        denominator: b_1 .. b_n.
        form: the form of Q for which they were fitted, ``"A"`` or ``"B"``.
        interval: where they were fitted.
        max_error: the largest |F - function| on the interval.
    """

    numerator: tuple[float, ...]
    denominator: tuple[float, ...]
    form: str
    interval: tuple[float, float]
    max_error: float

    @property
    def degree(self) -> tuple[int, int]:
        """The degrees (m, n) of numerator and denominator."""
        return len(self.numerator) - 1, len(self.denominator)


def preset_names() -> list[str]:
    """The names that ``init=`` accepts."""
    return sorted([*_table(), *ALIASES])


@cache
def preset(name: str, degree: tuple[int, int] = (5, 4), form: str = "A") -> Coefficients:
    """The coefficients of a known function, for one form and degree.

    Degree (5, 4) comes from the table that the package ships; any other degree is fitted on first
    use (some seconds, then remembered) on the same interval.

    Args:
        name: one of :func:`preset_names`.
        degree: (m, n), the degrees of numerator and denominator.
        form: ``"A"`` or ``"B"``.

    Raises:
        ValueError: an unknown name or form, a degree with m < 1 or n < 0.
    """
    function = ALIASES.get(name, name)
    if function not in _table():
        raise unknown("function", name, preset_names())
    if form not in ("A", "B"):
        raise ValueError(f"form must be 'A' or 'B', got {form!r}")
    m, n = degree
    if m < 1 or n < 0:
        raise ValueError(f"degree must be (m, n) with m >= 1 and n >= 0, got {degree}")
    if function == "identity":
        return Coefficients((0.0, 1.0) + (0.0,) * (m - 1), (0.0,) * n, form, (-3.0, 3.0), 0.0)
    if degree == (5, 4):
        stored = _table()[function][form]
        return Coefficients(
            tuple(stored["numerator"]),
            tuple(stored["denominator"]),
            form,
            (stored["interval"][0], stored["interval"][1]),
            stored["max_error"],
        )
    fit = fitting.fit_preset(function, degree, form)
    return Coefficients(fit.numerator, fit.denominator, form, fit.interval, fit.max_error)


@cache
def _table() -> dict[str, dict[str, dict]]:
    return json.loads((files("kat.nn") / "presets.json").read_text())["presets"]


def expectation(function: Callable[[Tensor], Tensor]) -> Tensor:
    """E[f(x)] for x ~ N(0, 1), by Gauss-Legendre quadrature on either side of the kink at 0.

    Args:
        function: maps a float64 tensor (nodes,) to (nodes,) or (groups, nodes).

    Returns:
        A number, or one for each group, in float64.

    Raises:
        ValueError: the function is not finite on [-12, 12].
    """
    nodes, weights = _quadrature()
    result = (function(nodes).double() * weights).sum(-1)
    if not result.isfinite().all():
        raise ValueError(f"the expectation is {result}: the function is not finite on [-12, 12]")
    return result


def gain(function: Callable[[Tensor], Tensor]) -> float:
    """alpha = 1 / E[f(x)^2] for x ~ N(0, 1), so that Var[W] = alpha / d_in keeps the variance.

    Exact values: identity 1, ReLU 2, GELU 2.3517, tanh 2.5362, SiLU 2.8108.

    Args:
        function: as in :func:`expectation`; with groups, E[f(x)^2] is their mean.

    Raises:
        ValueError: the function is zero almost everywhere, or not finite.

    Source: arXiv 2409.10594, section 4.4 (there estimated by sampling).
    """
    moment = expectation(lambda x: function(x).double().square()).mean().item()
    if moment == 0:
        raise ValueError("the function is zero everywhere, so no gain preserves the variance")
    return 1 / moment


@cache
def _quadrature() -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(200)
    positive = _HALF_WIDTH * (nodes + 1) / 2
    density = np.exp(-np.square(positive) / 2) / np.sqrt(2 * np.pi)
    weights = _HALF_WIDTH / 2 * weights * density
    return (
        torch.from_numpy(np.concatenate([-positive, positive])),
        torch.from_numpy(np.concatenate([weights, weights])),
    )
