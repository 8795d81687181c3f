"""The rational fitter and the presets it wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest

from kat.nn import fitting
from kat.nn.fitting import FUNCTIONS, Fit, evaluate, fit

PRESETS: dict[str, Any] = json.loads(
    Path(fitting.__file__).with_name("presets.json").read_text(encoding="utf-8")
)
CASES = [(name, form) for name in sorted(FUNCTIONS) for form in ("A", "B")]

EXACT: dict[str, Callable[[Any], Any]] = {
    "identity": lambda x: x,
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "gelu": lambda x: x * mpmath.ncdf(x),
    "relu": lambda x: max(x, mpmath.mpf(0)),
    "leaky_relu": lambda x: x if x > 0 else x * mpmath.mpf("0.01"),
    "tanh": mpmath.tanh,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "mish": lambda x: x * mpmath.tanh(mpmath.log(1 + mpmath.exp(x))),
    "softplus": lambda x: mpmath.log(1 + mpmath.exp(x)),
}


def rational(x: np.ndarray, numerator: Any, denominator: Any, form: str) -> np.ndarray:
    """P / Q by explicit sums of powers, sharing no code with the fitter."""
    top = sum(a * x**i for i, a in enumerate(numerator))
    if form == "A":
        inner = sum(abs(b) * np.abs(x) ** j for j, b in enumerate(denominator, start=1))
    else:
        inner = abs(sum(b * x**j for j, b in enumerate(denominator, start=1)))
    return np.asarray(top / (1.0 + inner))


def preset_error(name: str, form: str, half_width: float, dtype: type = np.float64) -> float:
    entry = PRESETS["presets"][name][form]
    x = np.linspace(-half_width, half_width, 50001)
    numerator = np.asarray(entry["numerator"], dtype=dtype).astype(np.float64)
    denominator = np.asarray(entry["denominator"], dtype=dtype).astype(np.float64)
    difference = rational(x, numerator, denominator, form) - FUNCTIONS[name](x)
    return float(np.max(np.abs(difference)))


@pytest.mark.parametrize("form", ["A", "B"])
def test_evaluate_agrees_with_mpmath(form: str) -> None:
    numerator, denominator = (0.3, -1.0, 0.7, 2.0), (-0.5, 0.25, -1.5)
    points = np.linspace(-4.0, 4.0, 17)
    values = evaluate(points, numerator, denominator, form)
    for x, value in zip(points, values, strict=True):
        t = mpmath.mpf(float(x))
        top = mpmath.polyval([mpmath.mpf(a) for a in numerator[::-1]], t)
        signed = [mpmath.mpf(b) * t**j for j, b in enumerate(denominator, start=1)]
        inner = sum(abs(s) for s in signed) if form == "A" else abs(sum(signed))
        assert value == pytest.approx(float(top / (1 + inner)), rel=1e-13, abs=1e-13)


def test_evaluate_keeps_the_shape_and_allows_no_denominator() -> None:
    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(evaluate(x, (1.0, 2.0), (), "B"), 1.0 + 2.0 * x)


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


@pytest.mark.parametrize(
    ("form", "denominator"),
    [
        ("A", (0.4, 0.3, 0.2, 0.1)),
        ("B", (0.0, 0.6, 0.2, 0.1)),
        ("B", (0.7, 0.0, 0.2, 0.0)),
    ],
)
def test_recovers_a_rational_of_the_family(form: str, denominator: tuple[float, ...]) -> None:
    numerator = (0.1, 1.0, -0.5, 0.25, 0.3, -0.2)

    def member(x: np.ndarray) -> np.ndarray:
        return rational(x, numerator, denominator, form)

    result = fit(member, (5, 4), form)
    assert result.function == "member"
    assert result.max_error < 1e-12
    np.testing.assert_allclose(result.numerator, numerator, atol=1e-9)
    np.testing.assert_allclose(result.denominator, denominator, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "limit"),
    [("silu", 5e-7), ("gelu", 1.3e-3), ("relu", 1.3e-2), ("tanh", 1e-6)],
)
def test_form_a_reaches_the_known_error(name: str, limit: float) -> None:
    result = fit(name, (5, 4), "A")
    assert result.max_error < limit
    assert result.rms_error < result.max_error
    assert min(result.denominator) >= 0.0


def test_form_b_trades_the_line_for_the_interval() -> None:
    """The smallest error for gelu needs a denominator that returns to 1 beyond the interval."""
    tight = fit("gelu", (5, 4), "B", whole_line=False)
    safe = fit("gelu", (5, 4), "B")
    assert tight.max_error < 4.5e-4
    assert safe.max_error < 1.3e-3
    x = np.linspace(-1000.0, 1000.0, 200001)
    inner = sum(b * x**j for j, b in enumerate(safe.denominator, start=1))
    assert np.min(inner) >= 0.0


def test_the_error_is_levelled() -> None:
    """A best odd approximation with 5 free coefficients attains its error 6 times for x > 0."""
    result = fit("tanh", (5, 4), "B")
    x = np.linspace(0.0, 3.0, 30001)
    error = rational(x, result.numerator, result.denominator, "B") - np.tanh(x)
    touching = error[np.abs(error) > 0.99 * result.max_error]
    alternations = 1 + np.count_nonzero(np.diff(np.sign(touching)))
    assert alternations == 6


@pytest.mark.parametrize(
    ("degree", "form", "limit"),
    [
        ((3, 2), "A", 3.2e-3),
        ((7, 6), "A", 2e-11),
        ((9, 8), "A", 1e-13),
        ((9, 8), "B", 1e-13),
        ((5, 0), "B", 1.3e-2),
        ((1, 1), "B", 0.68),
    ],
)
def test_other_degrees(degree: tuple[int, int], form: str, limit: float) -> None:
    result = fit("silu", degree, form)
    assert result.degree == degree
    assert (len(result.numerator), len(result.denominator)) == (degree[0] + 1, degree[1])
    assert result.max_error < limit


def test_an_interval_beside_zero() -> None:
    result = fit("softplus", (3, 2), "B", (0.5, 4.0), whole_line=False)
    x = np.linspace(0.5, 4.0, 1000)
    values = rational(x, result.numerator, result.denominator, "B")
    assert np.max(np.abs(values - np.log1p(np.exp(x)))) <= result.max_error * (1 + 1e-6)
    assert result.max_error < 2e-5


@pytest.mark.parametrize("form", ["A", "B"])
def test_the_same_fit_twice(form: str) -> None:
    assert fit("mish", (4, 3), form) == fit("mish", (4, 3), form)


def test_identity_is_exact() -> None:
    assert fit("identity", (2, 1), "B", (-1, 2)) == Fit(
        "identity", "B", (2, 1), (-1.0, 2.0), (0.0, 1.0, 0.0), (0.0,), 0.0, 0.0
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"function": "sliu"}, "did you mean 'silu'"),
        ({"degree": (0, 4)}, "m >= 1"),
        ({"degree": (5, -1)}, "n >= 0"),
        ({"degree": (5.5, 4)}, "integers"),
        ({"degree": (5,)}, "integers"),
        ({"form": "C"}, "form"),
        ({"interval": (3.0, -3.0)}, "increasing"),
        ({"interval": (1.0, 1.0)}, "increasing"),
        ({"interval": (-math.inf, 3.0)}, "finite"),
        ({"interval": (0.0, math.nan)}, "finite"),
        ({"interval": (0.0, 1.0, 2.0)}, "interval"),
        ({"function": lambda x: np.full_like(x, np.nan)}, "finite value"),
        ({"function": lambda x: 1.0}, "one finite value per point"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(**{"function": "silu", **arguments})


def test_evaluate_rejects_an_unknown_form() -> None:
    with pytest.raises(ValueError, match="form"):
        evaluate(0.0, (0.0, 1.0), (), "a")


def test_presets_cover_every_function() -> None:
    assert PRESETS["interval"] == [-3, 3]
    assert sorted(PRESETS["presets"]) == sorted([*FUNCTIONS, *fitting.NARROW])
    for entry in PRESETS["presets"].values():
        assert sorted(entry) == ["A", "B"]


@pytest.mark.parametrize(("name", "form"), CASES)
def test_preset_has_its_recorded_error(name: str, form: str) -> None:
    entry = PRESETS["presets"][name][form]
    assert (entry["degree"], entry["interval"]) == ([5, 4], [-3, 3])
    assert (len(entry["numerator"]), len(entry["denominator"])) == (6, 4)
    assert preset_error(name, form, 3.0) == pytest.approx(entry["max_error"], rel=1e-6, abs=1e-14)
    assert entry["rms_error"] <= entry["max_error"]
    assert max(map(abs, entry["numerator"] + entry["denominator"])) < 10.0


@pytest.mark.parametrize(("name", "form"), CASES)
def test_preset_survives_rounding_to_float32(name: str, form: str) -> None:
    recorded = PRESETS["presets"][name][form]["max_error"]
    assert preset_error(name, form, 3.0, np.float32) < max(2.0 * recorded, 1e-6)


@pytest.mark.parametrize(("name", "form"), CASES)
def test_preset_stays_close_beyond_the_interval(name: str, form: str) -> None:
    assert preset_error(name, form, 6.0) < 0.75
    assert preset_error(name, form, 10.0) < 2.5


def test_main_writes_the_same_bytes_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = {name: FUNCTIONS[name] for name in ("tanh", "identity")}
    monkeypatch.setattr(fitting, "FUNCTIONS", some)
    monkeypatch.setattr(fitting, "NARROW", {})
    paths = [tmp_path / "first.json", tmp_path / "second.json"]
    for path in paths:
        assert fitting.main(["--output", str(path)]) == 0
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.json", "second.json"]
    entry = json.loads(paths[0].read_text(encoding="utf-8"))["presets"]["tanh"]["A"]
    stored = PRESETS["presets"]["tanh"]["A"]
    assert entry["max_error"] == pytest.approx(stored["max_error"], rel=1e-2)
