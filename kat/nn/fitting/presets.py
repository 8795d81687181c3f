"""The presets that the package ships, and how each was fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kat.nn.fitting.fitter import DEGREE, FORMS, INTERVAL, Fit, fit, measured
from kat.nn.fitting.functions import FUNCTIONS

_WIDE = (-10.0, 10.0)
_DIGITS = 12
"""Of the coefficients that are shipped: float32 holds fewer, and other machines' rounding shows in
more."""


@dataclass(frozen=True)
class Preset:
    """A minimax fit of a function, by name.

    function: the name in FUNCTIONS.
    interval: where it is fitted.
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


def fit_preset(name: str, degree: tuple[int, int] = DEGREE, form: str = "A") -> Fit:
    """The fit behind a preset.

    name: a name in PRESETS.
    degree, form: as in :func:`kat.nn.fitting.fit`.
    """
    preset = PRESETS[name]
    return fit(preset.function, degree, form, preset.interval, whole_line=preset.whole_line)


def fit_presets() -> dict[str, dict[str, Fit]]:
    """Every preset in both forms, its coefficients rounded to 12 significant digits."""
    return {
        name: {form: _rounded(fit_preset(name, DEGREE, form)) for form in FORMS} for name in PRESETS
    }


def table(presets: dict[str, dict[str, Fit]]) -> dict[str, Any]:
    """What presets.json holds."""
    return {
        "interval": list(INTERVAL),
        "presets": {
            name: {form: _entry(result) for form, result in forms.items()}
            for name, forms in presets.items()
        },
    }


def _rounded(result: Fit) -> Fit:
    a, b = (_significant(c) for c in (result.numerator, result.denominator))
    return measured(result.function, FUNCTIONS[result.function], result.form, result.interval, a, b)


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
