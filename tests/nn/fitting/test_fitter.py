"""The fitter against what is known of best approximations, and other solvers."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
from scipy import optimize

from kat.errors import InputError
from kat.nn.fitting import FUNCTIONS, Fit, Points, evaluate, fit
from tests.marks import both_forms
from tests.nn.fitting.rational import rational


@both_forms
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


@pytest.mark.parametrize(
    ("form", "denominator"),
    [("A", (0.4, 0.3, 0.2, 0.1)), ("B", (0.0, 0.6, 0.2, 0.1)), ("B", (0.7, 0.0, 0.2, 0.0))],
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


def solvable(left: np.ndarray, right: np.ndarray, bounds: list[tuple[int | None, None]]) -> bool:
    """Whether left z <= right has a solution; where one solver does not tell, the other does."""
    for method in ("highs-ds", "highs-ipm"):
        result = optimize.linprog(
            np.zeros(len(bounds)), A_ub=left, b_ub=right, bounds=bounds, method=method
        )
        if result.status in (0, 2):
            return bool(result.status == 0)
    raise AssertionError(result.message)


def attainable(
    y: np.ndarray, x: np.ndarray, weight: np.ndarray, degree: tuple[int, int], error: float
) -> bool:
    """Whether form A has a member with w |P / Q - y| <= error: one linear program."""
    t = x / np.max(np.abs(x))
    top = t[:, None] ** np.arange(degree[0] + 1)
    bottom = np.abs(t)[:, None] ** np.arange(1, degree[1] + 1)
    rows, limits = [], []
    for sign in (1.0, -1.0):
        rows.append(np.hstack([-sign * top, bottom * (sign * y - error / weight)[:, None]]))
        limits.append(error / weight - sign * y)
    scale = weight / error
    return solvable(
        np.vstack(rows) * np.tile(scale, 2)[:, None],
        np.concatenate(limits) * np.tile(scale, 2),
        [(None, None)] * (degree[0] + 1) + [(0, None)] * degree[1],
    )


@pytest.mark.parametrize(
    ("name", "degree", "interval", "weight"),
    [
        ("gelu", (5, 4), 3.0, "uniform"),
        ("gelu", (5, 4), 10.0, "uniform"),
        ("silu", (5, 4), 10.0, "uniform"),
        ("relu", (5, 4), 3.0, "uniform"),
        ("mish", (5, 4), 3.0, "uniform"),
        ("tanh", (3, 2), 3.0, "uniform"),
        ("gelu", (3, 2), 4.0, "normal"),
    ],
)
def test_no_member_of_form_a_is_much_better(
    name: str, degree: tuple[int, int], interval: float, weight: str
) -> None:
    result = fit(name, degree, "A", (-interval, interval), weight=weight)
    x = np.linspace(-interval, interval, 801)
    y = FUNCTIONS[name](x)
    w = np.exp(-np.square(x) / 4) if weight == "normal" else np.ones_like(x)
    reached = np.max(w * np.abs(rational(x, result.numerator, result.denominator, "A") - y))
    assert attainable(y, x, w, degree, 1.01 * reached)
    assert not attainable(y, x, w, degree, 0.98 * reached)


def attainable_in_form_b(degree: tuple[int, int], error: float) -> bool:
    """Whether form B has a member with |P / Q - gelu| <= error on [-3, 3] whose inner sum is
    nowhere negative: one linear program."""
    m, n = degree
    t = np.concatenate(
        [np.linspace(-1.0, 1.0, 801), *(s * np.geomspace(1, 1e3, 200) for s in (1, -1))]
    )
    inner = t[:, None] ** np.arange(1, n + 1)
    inside = np.abs(t) <= 1
    top, bottom = t[inside, None] ** np.arange(m + 1), inner[inside]
    y = FUNCTIONS["gelu"](3.0 * t[inside])
    rows = [
        np.hstack([-sign * top, bottom * (sign * y - error)[:, None]]) / error for sign in (1, -1)
    ]
    limits = [(error - sign * y) / error for sign in (1, -1)]
    elsewhere = inner[t != 0]
    positive = -elsewhere / np.max(np.abs(elsewhere), axis=1, keepdims=True)
    return solvable(
        np.vstack([*rows, np.hstack([np.zeros((len(positive), m + 1)), positive])]),
        np.concatenate([*limits, np.zeros(len(positive))]),
        [(None, None)] * (m + 1 + n),
    )


@pytest.mark.slow
def test_no_member_of_form_b_that_keeps_to_the_whole_line_is_much_better() -> None:
    reached = fit("gelu", (5, 4), "B").max_error
    assert attainable_in_form_b((5, 4), 1.01 * reached)
    assert not attainable_in_form_b((5, 4), 0.98 * reached)


@pytest.mark.slow
@pytest.mark.parametrize("weight", ["uniform", "normal"])
@pytest.mark.parametrize("name", ["gelu", "tanh"])
def test_least_squares_is_no_worse_than_random_starts(name: str, weight: str) -> None:
    degree = (3, 2)
    x = np.linspace(-3.0, 3.0, 1001)
    y = FUNCTIONS[name](x)
    factor = np.exp(-np.square(x) / 4) if weight == "normal" else np.ones_like(x)

    def errors(c: np.ndarray) -> np.ndarray:
        return factor * (rational(x, c[:4], c[4:], "A") - y)

    rng = np.random.default_rng(0)
    starts = [optimize.least_squares(errors, rng.normal(size=6)) for _ in range(10)]
    best = min(np.sum(np.square(start.fun)) for start in starts)
    result = fit(name, degree, "A", method="least_squares", weight=weight)
    ours = np.sum(np.square(errors(np.array(result.numerator + result.denominator))))
    assert ours <= 1.01 * best


def test_least_squares_of_points_without_a_denominator_is_polyfit() -> None:
    rng = np.random.default_rng(1)
    x = np.sort(rng.uniform(-2.0, 3.0, 40))
    y = np.cos(x) + 0.1 * rng.normal(size=40)
    result = fit(Points("measured", x, y), (3, 0), method="least_squares")
    np.testing.assert_allclose(result.numerator, np.polyfit(x, y, 3)[::-1], rtol=1e-8)
    error = np.polyval(np.polyfit(x, y, 3), x) - y
    density = np.exp(-np.square(x) / 2)
    assert result.interval == (x[0], x[-1])
    assert result.max_error == pytest.approx(np.max(np.abs(error)))
    assert result.rms_error == pytest.approx(np.sqrt(np.mean(error**2)))
    assert result.normal_rms_error == pytest.approx(
        np.sqrt(np.sum(density * error**2) / np.sum(density))
    )


@pytest.mark.parametrize(
    ("degree", "form", "limit"),
    [
        ((3, 2), "A", 3.2e-3),
        ((7, 6), "A", 2e-11),
        pytest.param((9, 8), "B", 1e-13, marks=pytest.mark.slow),
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


def test_a_step_of_least_squares_that_raises_the_error_is_shortened() -> None:
    """With whole steps alone the mean is 0.70; where each ends differs between machines."""
    waves = ("sin(3*x)", "sin(4*x)", "sin(5*x)", "cos(3*x)")
    fits = [fit(wave, (5, 4), "B", (-4, 4), method="least_squares") for wave in waves]
    assert np.mean([found.rms_error for found in fits]) < 0.66


def test_identity_is_exact() -> None:
    assert fit("identity", (2, 1), "B", (-1, 2)) == Fit(
        "identity", "B", (2, 1), (-1.0, 2.0), (0.0, 1.0, 0.0), (0.0,), 0.0, 0.0, 0.0
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "sliu"}, "did you mean 'silu'"),
        ({"interval": (3.0, -3.0)}, "increasing"),
        ({"method": "remez"}, "method must be one of"),
        ({"weight": "even"}, "weight must be one of"),
        ({"target": lambda x: np.full_like(x, np.nan)}, "finite value per"),
        (
            {"target": Points("p", np.arange(3.0), np.arange(3.0))},
            "p has 3 points .* needs as many",
        ),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(**{"target": "silu", **arguments})


def test_points_count_by_their_weight_in_a_least_squares_fit() -> None:
    rng = np.random.default_rng(0)
    x, weight = np.sort(rng.uniform(-2, 2, 40)), rng.uniform(0.1, 5.0, 40)
    points = Points("line", x, np.exp(x), weight)
    slope, offset = np.polyfit(x, np.exp(x), 1, w=np.sqrt(weight))
    result = fit(points, (1, 0), method="least_squares")
    np.testing.assert_allclose(result.numerator, [offset, slope], rtol=1e-9)
