"""How each preset of the package is fitted, and the table of the results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kat.nn.coefficients import KANIFY_INTERVAL
from kat.nn.fitting.fitter import DEGREE, INTERVAL, Fit, fit, measure
from kat.nn.fitting.functions import FUNCTIONS
from kat.ops import FORMS

Fits = dict[str, dict[str, Fit]]
"""By name and form."""

_WIDE = (-10.0, 10.0)
_DIGITS = 12
"""Significant digits of the stored coefficients: more than float32 holds, and few enough to be the
same on every machine."""


@dataclass(frozen=True)
class Preset:
    """A minimax fit of a named function.

    Args:
        function: its name in :data:`FUNCTIONS`.
        interval: (low, high), the interval of the fit.
        whole_line: see :func:`kat.nn.fitting.fit`.
    """

    function: str
    interval: tuple[float, float] = INTERVAL
    whole_line: bool = True


PRESETS: dict[str, Preset] = {
    **{name: Preset(name) for name in FUNCTIONS},
    "gelu_narrow": Preset("gelu", whole_line=False),
    "gelu_wide": Preset("gelu", _WIDE),
    "silu_wide": Preset("silu", _WIDE),
}
"""What each preset is fitted to, and where.

Examples:
    >>> from kat.nn.fitting import PRESETS
    >>> PRESETS["gelu_wide"]
    Preset(function='gelu', interval=(-10.0, 10.0), whole_line=True)
"""


def fit_preset(name: str, degree: tuple[int, int] = DEGREE, form: str = "A") -> Fit:
    """Fits a preset.

    Args:
        name: a name in :data:`PRESETS`.
        degree, form: as in :func:`kat.nn.fitting.fit`.

    Examples:
        >>> from kat.nn.fitting import fit_preset
        >>> f"{fit_preset('tanh', degree=(3, 2)).max_error:.3f}"
        '0.001'
    """
    preset = PRESETS[name]
    return fit(preset.function, degree, form, preset.interval, whole_line=preset.whole_line)


def fit_presets() -> Fits:
    """Fits every preset in both forms, with coefficients of 12 significant digits.

    Examples:
        >>> from kat.nn.fitting import fit_presets
        >>> presets = fit_presets()  # half a minute
        >>> sorted(presets["gelu"])
        ['A', 'B']
    """
    return {
        name: {form: _rounded(fit_preset(name, DEGREE, form)) for form in FORMS} for name in PRESETS
    }


def fit_for_kanify() -> Fits:
    """The fits on the interval of kanify, as :func:`fit_presets` returns those of the presets."""
    return {
        name: {form: _rounded(fit(name, DEGREE, form, KANIFY_INTERVAL)) for form in FORMS}
        for name in FUNCTIONS
        if name != "identity"
    }


def table(presets: Fits, for_kanify: Fits) -> dict[str, Any]:
    """The contents of presets.json."""
    return {
        "interval": list(INTERVAL),
        "presets": _entries(presets),
        "kanify": _entries(for_kanify),
    }


def _entries(fits: Fits) -> dict[str, Any]:
    return {
        name: {form: _entry(result) for form, result in forms.items()}
        for name, forms in fits.items()
    }


def _rounded(result: Fit) -> Fit:
    a, b = (_significant(c) for c in (result.numerator, result.denominator))
    return measure(result.function, FUNCTIONS[result.function], result.form, result.interval, a, b)


def _significant(values: tuple[float, ...]) -> np.ndarray:
    return np.array([float(f"{value:.{_DIGITS}g}") for value in values])


def _entry(result: Fit) -> dict[str, Any]:
    return {
        "numerator": list(result.numerator),
        "denominator": list(result.denominator),
        "degree": list(result.degree),
        "interval": list(result.interval),
        "max_error": float(f"{result.max_error:.6g}"),
        "rms_error": float(f"{result.rms_error:.6g}"),
    }
