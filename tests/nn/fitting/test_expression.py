"""Expressions in x: what they mean, and what is refused."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from kat.errors import InputError
from kat.nn.fitting import parse_expression

X = np.array([-2.5, -1.0, 0.0, 0.25, 3.0])


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("x", lambda x: x),
        ("-x**2 + 3*x/4 - +1", lambda x: -(x**2) + 3 * x / 4 - 1),
        (" 2 ** -x", lambda x: mpmath.power(2, -x)),
        ("x * sigmoid(1.702*x)", lambda x: x / (1 + mpmath.exp(-1.702 * x))),
        ("max(x, 0) + min(0.1*x, 0)", lambda x: max(x, 0) + min(x / 10, 0)),
        ("erf(x/sqrt(2)) + cos(pi*x) + e",
         lambda x: 2 * mpmath.ncdf(x) + mpmath.cospi(x) - 1 + mpmath.e),
        ("swish(x) + gelu(x) + relu(x)",
         lambda x: x / (1 + mpmath.exp(-x)) + x * mpmath.ncdf(x) + max(x, 0)),
        ("log1p(exp(x)) + expm1(x) + abs(x) + sign(x)",
         lambda x: mpmath.log(1 + mpmath.exp(x)) + mpmath.exp(x) - 1 + abs(x) + mpmath.sign(x)),
        ("sin(x) * tan(x) + atan(x) + sinh(x) - cosh(x)",
         lambda x: mpmath.sin(x) * mpmath.tan(x) + mpmath.atan(x) - mpmath.exp(-x)),
        ("log(x + 4) + erfc(x)", lambda x: mpmath.log(x + 4) + mpmath.erfc(x)),
        ("elu(x)", lambda x: x if x > 0 else mpmath.expm1(x)),
        ("3", lambda x: 3),
    ],
)  # fmt: skip
def test_means_what_mathematics_says(text, exact):
    values = parse_expression(text)(X)
    assert values.shape == X.shape
    assert values.dtype == np.float64
    expected = [float(exact(mpmath.mpf(float(x)))) for x in X]
    np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sliu(x)", "unknown function 'sliu'; did you mean 'silu'"),
        ("y + 1", "'y' is not supported"),
        ("x ^ 2", r"'x \^ 2' is not supported; .* \*\* for powers"),
        ("exp(x, out=x)", "not supported"),
        ("__import__('os').system('true')", "not supported"),
        ("x +", "is not a function of x"),
        ("x - mean(x)", "at one x depends on other x"),
    ],
)
def test_everything_else_is_refused_by_name(text, message):
    with pytest.raises(InputError, match=message):
        parse_expression(text)


def test_big_powers_end_at_once():
    assert np.isinf(parse_expression("9**9**9**9")(X)).all()


def test_poles_give_no_warning():
    assert np.isnan(parse_expression("log(x)")(X)[0])
    assert np.isinf(parse_expression("1/x")(X)[2])
