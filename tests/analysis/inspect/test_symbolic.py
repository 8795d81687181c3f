"""What a rational is read as: functions known beforehand, behind affine maps, over given inputs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import erf

from kat.analysis.inspect.activations import Activation
from kat.analysis.inspect.symbolic import KNOWN, NOT_SHOWN, median, read_symbols
from kat.nn.fitting import fit

TARGETS = {
    "identity": "x",
    "quadratic": "x**2",
    "relu": "relu(x)",
    "abs": "abs(x)",
    "leaky_relu": "max(x, 0.3 * x)",
    "silu": "silu(x)",
    "gelu": "gelu(x)",
    "softplus": "softplus(2 * x)",  # softplus(x) is a parabola over N(0, 1)
    "elu": "max(x, 0) + expm1(min(x, 0))",
    "tanh": "tanh(x)",
    "sine": "sin(1.2 * x)",
}
X = np.linspace(-3, 3, 401)


def activation(y, start=None, **more):
    learned = np.atleast_2d(y)
    start = np.zeros_like(learned) if start is None else np.broadcast_to(start, learned.shape)
    return Activation("layer", "A", len(learned), X, learned, start, **more)


@pytest.fixture(scope="module")
def rationals():
    """The safe Padé rational of each known function, on an interval that holds the inner maps."""
    return {name: fit(text, (5, 4), "A", (-4.5, 4.5)) for name, text in TARGETS.items()}


@pytest.mark.parametrize("name", KNOWN)
def test_a_rational_fitted_to_a_function_is_named_after_it(rationals, name):
    random = np.random.default_rng(3)
    scale, outer = random.uniform(0.7, 1.3, 8), random.uniform(0.2, 3, 8)
    signs = random.choice([-1, 1], (2, 8))
    shift, constant = random.uniform(-0.5, 0.5, 8), random.uniform(-2, 2, 8)
    inner = (signs[0] * scale)[:, None] * X + shift[:, None]
    y = (signs[1] * outer)[:, None] * rationals[name](inner) + constant[:, None]
    readings = read_symbols(activation(y))
    assert [reading.nearest for reading in readings] == [name] * 8
    for reading in readings:
        assert reading.second != name
        assert reading.distance < 0.06
    if name == "gelu":  # once
        assert readings == read_symbols(activation(y))


def evaluate(formula, x):
    """What a formula says, by Python."""
    text = formula.replace("^", "**").replace(" x", " * x").replace("-x", "-1 * x")
    while "|" in text:
        text = text.replace("|", "abs(", 1).replace("|", ")", 1)
    for name in ("gelu", "silu", "relu", "tanh", "abs", "max", "min"):
        text = text.replace(f" {name}(", f" * {name}(")
    text = text.replace("+ *", "+").replace("- *", "-").replace("( *", "(")
    names = {"x": x, "gelu": _gelu, "silu": _silu, "relu": lambda u: np.maximum(u, 0)}
    names |= {"tanh": np.tanh, "abs": np.abs, "max": np.maximum, "min": np.minimum}
    return eval(text, names)


def _gelu(x):
    return x * (1 + erf(x / math.sqrt(2))) / 2


def _silu(x):
    return x / (1 + np.exp(-x))


EXACT = {
    "identity": -1.5 * X + 0.25,
    "quadratic": 0.5 * (X - 1) ** 2 - 2,
    "relu": 2 * np.maximum(0.5 - X, 0) + 1,
    "abs": -np.abs(X + 0.7),
    "leaky_relu": np.where(X < 0.4, 0.2, 1.1) * (X - 0.4) + 3,
    "silu": -0.8 * _silu(-1.7 * X + 0.3) - 1,
    "gelu": 1.2 * _gelu(0.6 * X + 0.5),
    "tanh": 3 * np.tanh(1.3 * X - 0.4) + 0.1,
}


@pytest.mark.parametrize("name", EXACT)
def test_the_formula_is_the_function(name):
    (reading,) = read_symbols(activation(EXACT[name]))
    assert reading.nearest == name
    assert reading.distance < 1e-3
    difference = evaluate(reading.formula, X) - EXACT[name]
    assert np.abs(difference).max() < 0.02 * EXACT[name].std()


def test_distances_are_relative_root_mean_squares():
    density = np.exp(-(X**2) / 2)
    weights = density / density.sum()
    y = X + 0.3 * np.sin(5 * X)
    slope, constant = np.polyfit(X, y, 1, w=np.sqrt(weights))
    residual = y - slope * X - constant
    variance = weights @ (y - weights @ y) ** 2
    (reading,) = read_symbols(activation(y, start=X))
    found = {reading.nearest: reading.distance, reading.second: reading.second_distance}
    assert found["identity"] == pytest.approx(math.sqrt(weights @ residual**2 / variance))
    change = weights @ (0.3 * np.sin(5 * X)) ** 2
    assert reading.from_start == pytest.approx(math.sqrt(change / variance))


def test_inputs_decide_what_a_function_is():
    """Of SiLU on the right of 0 nothing is seen but a line, on the left something else."""
    edges = np.array([-3.0, -2.0, -1.0, 2.0, 2.5, 3.0])
    histogram = np.array([[0, 0, 0, 2.0, 0], [0.2, 0.2, 0.2, 0.2, 0.2]])
    seen = activation(np.stack([_silu(X), _silu(X)]), edges=edges, histogram=histogram)
    right, everywhere = read_symbols(seen)
    assert (right.nearest, everywhere.nearest) == ("identity", "silu")
    assert everywhere.formula == "silu(x)"


def test_constants_and_simple_functions():
    wiggle = 1e-7 * np.sin(X)
    y = np.stack([np.full_like(X, 0.7), wiggle + 2, np.zeros_like(X), 1e-9 * X, X + 1e-4 * X**3])
    readings = read_symbols(activation(y, start=np.full_like(X, 0.5)))
    names = [reading.nearest for reading in readings]
    assert names == ["constant", "constant", "constant", "identity", "identity"]
    assert readings[0].formula == "0.7"
    assert readings[0].from_start == pytest.approx(0.2)
    assert (readings[0].second, readings[0].distance) == ("", 0)
    assert readings[3].formula == "1e-09 x"


def test_a_group_that_is_not_shown_leaves_the_others_as_they_are():
    shape = 1 / (1 + np.exp(-X))
    edges, seen = np.linspace(-3, 3, 7), [0.1, 0.2, 0.3, 0.2, 0.1, 0.1]
    histogram = np.array([seen, [0] * 6, seen[::-1]])
    found = read_symbols(activation([shape, X, X * shape], edges=edges, histogram=histogram))
    alone = read_symbols(activation([shape, X * shape], edges=edges, histogram=histogram[::2]))
    assert [found[0], replace(found[2], group=1)] == alone
    assert (found[1].group, found[1].nearest, found[1].formula) == (1, NOT_SHOWN, "")
    assert math.isnan(found[1].distance)
    assert median(reading.distance for reading in found) == np.median([r.distance for r in alone])
    (nothing,) = read_symbols(activation(X, edges=edges, histogram=np.zeros((1, 6))))
    assert nothing.nearest == NOT_SHOWN
    assert math.isnan(median([nothing.distance]))
