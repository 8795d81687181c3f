"""The presets that the package ships, and the table that holds them."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import numpy as np
import pytest

from kat.nn.fitting import FUNCTIONS, fit
from tests.marks import both_forms
from tests.nn.fitting.rational import rational

TABLE: dict[str, Any] = json.loads((files("kat.nn") / "presets.json").read_text(encoding="utf-8"))
CASES = [(name, form) for name in sorted(TABLE["presets"]) for form in ("A", "B")]


def _function(name: str) -> str:
    return name.removesuffix("_narrow").removesuffix("_wide")


def preset_error(name: str, form: str, half_width: float, dtype: type = np.float64) -> float:
    entry = TABLE["presets"][name][form]
    x = np.linspace(-half_width, half_width, 50001)
    numerator = np.asarray(entry["numerator"], dtype=dtype).astype(np.float64)
    denominator = np.asarray(entry["denominator"], dtype=dtype).astype(np.float64)
    exact = FUNCTIONS[_function(name)](x)
    return float(np.max(np.abs(rational(x, numerator, denominator, form) - exact)))


def test_the_table_has_every_preset_in_both_forms() -> None:
    assert TABLE["interval"] == [-3, 3]
    assert set(TABLE["presets"]) == {*FUNCTIONS, "gelu_narrow", "gelu_wide", "silu_wide"}
    for entry in TABLE["presets"].values():
        assert sorted(entry) == ["A", "B"]


@pytest.mark.parametrize(("name", "form"), [c for c in CASES if c != ("gelu_narrow", "B")])
def test_preset_stays_close_beyond_the_interval(name: str, form: str) -> None:
    assert preset_error(name, form, 6.0) < 0.75
    assert preset_error(name, form, 10.0) < 2.5


@both_forms
@pytest.mark.parametrize(("name", "error"), [("gelu_wide", 6.7e-3), ("silu_wide", 1.7e-3)])
def test_wide_presets_are_good_to_ten_and_split_the_slope_beyond(
    name: str, error: float, form: str
) -> None:
    entry = TABLE["presets"][name][form]
    assert preset_error(name, form, 10.0) < error
    far = np.array([-1e6, 1e6])
    slopes = rational(far, entry["numerator"], entry["denominator"], form) / far
    np.testing.assert_allclose(slopes, 0.5, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form"), [("tanh", "A"), ("gelu_wide", "A"), ("relu", "B")])
def test_refitting_gives_what_is_shipped(name: str, form: str) -> None:
    """To all but the last digits, where machines differ."""
    entry = TABLE["presets"][name][form]
    result = fit(_function(name), (5, 4), form, tuple(entry["interval"]))
    np.testing.assert_allclose(result.numerator, entry["numerator"], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(result.denominator, entry["denominator"], rtol=1e-7, atol=1e-9)
