"""Coefficients of the rational function: presets, files, and the gain of a set of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from kat.errors import InputError, unknown

ALIASES = {"swish": "silu", "swish_wide": "silu_wide"}

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

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them; ``init=`` accepts this too."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], source: str = "init") -> Coefficients:
        """Reads the fields from a mapping that may hold more, such as a file of ``kat fit``.

        Args:
            content: from names to numbers and lists of numbers.
            source: what to call it in an error.

        Raises:
            InputError: a field is missing or of the wrong kind.
        """
        try:
            low, high = content["interval"]
            coefficients = cls(
                tuple(float(value) for value in content["numerator"]),
                tuple(float(value) for value in content["denominator"]),
                str(content["form"]),
                (float(low), float(high)),
                float(content["max_error"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{source} does not hold coefficients as 'kat fit' writes them: no valid entry"
                f" ({error})"
            ) from None
        if not all(map(math.isfinite, coefficients.numerator + coefficients.denominator)):
            raise InputError(f"{source} holds coefficients that are not finite")
        if coefficients.form not in ("A", "B") or coefficients.degree[0] < 1:
            raise InputError(
                f"{source} must be of form A or B with two or more numerator coefficients, not of"
                f" form {coefficients.form!r} with {len(coefficients.numerator)}"
            )
        return coefficients


Init: TypeAlias = str | Path | Coefficients | Mapping[str, Any]
"""What ``init=`` accepts: a preset's name, the path of a ``.json`` file of ``kat fit``,
coefficients, or the mapping that such a file holds."""


def given_coefficients(init: Init) -> str | Coefficients:
    """What ``init=`` gives: a preset's name as it is, anything else as coefficients.

    Args:
        init: see :data:`Init`.

    Raises:
        InputError: no such file, a file of something else, or none of what ``init=`` accepts.
    """
    if isinstance(init, Coefficients):
        return init
    if isinstance(init, Path):
        return read_coefficients(init)
    if isinstance(init, str):
        return read_coefficients(Path(init)) if init.endswith(".json") else init
    if isinstance(init, Mapping):
        return Coefficients.from_dict(init)
    raise InputError(
        f"init must be the name of a function, the path of a .json file, or Coefficients,"
        f" got {init!r}"
    )


def coefficients_of(init: str | Coefficients, degree: tuple[int, int], form: str) -> Coefficients:
    """The coefficients of a preset, or those given, checked against a layer's degree and form.

    Args:
        init: from :func:`given_coefficients`.
        degree: (m, n), the degrees of the layer.
        form: the layer's, ``"A"`` or ``"B"``.

    Raises:
        InputError: an unknown name, or coefficients of another degree or form.
    """
    if isinstance(init, str):
        return preset(init, degree, form)
    if (init.degree, init.form) != (degree, form):
        raise InputError(
            f"init has degree {init.degree} and form {init.form}, but the layer has degree"
            f" {degree} and form {form}; build it with degree={init.degree}, form={init.form!r}"
        )
    return init


def read_coefficients(path: Path) -> Coefficients:
    """Reads a file that ``kat fit`` has written.

    Raises:
        InputError: it is missing, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"the file of coefficients {str(path)!r} does not exist") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} does not hold coefficients as 'kat fit' writes them")
    return Coefficients.from_dict(content, str(path))


def preset_names() -> list[str]:
    """The names that ``init=`` accepts."""
    return sorted([*_table(), *ALIASES])


@cache
def preset(name: str, degree: tuple[int, int] = (5, 4), form: str = "A") -> Coefficients:
    """The coefficients of a known function, for one form and degree.

    Degree (5, 4) comes from the table that the package ships; any other degree is fitted on first
    use (a second or so, then remembered) on the same interval.

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
    # Imported where it is needed: it takes SciPy's optimisers along.
    from kat.nn.fitting import fit_preset

    return fit_preset(function, degree, form).coefficients


@cache
def _table() -> dict[str, dict[str, dict]]:
    return json.loads((files("kat.nn") / "presets.json").read_text())["presets"]


Function = Callable[[Tensor], Tensor]
"""Maps a float64 tensor (points,) to (points,) or (groups, points)."""


def expectation(function: Function) -> Tensor:
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
        raise InputError(f"the expectation is {result}: the function is not finite on [-12, 12]")
    return result


def moments(function: Function) -> tuple[Tensor, Tensor]:
    """E[f(x)] and Var[f(x)] for x ~ N(0, 1): a number each, or one for each group, in float64."""
    mean = expectation(function)
    return mean, expectation(lambda x: function(x).square()) - mean.square()


def gain(function: Function) -> float:
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
        raise InputError("the function is zero everywhere, so no gain preserves the variance")
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
