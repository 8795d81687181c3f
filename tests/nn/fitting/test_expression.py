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
        ("sliu(x)", "unknown function in 'sliu\\(x\\)': 'sliu'; did you mean 'silu'"),
        ("sliu", "unknown name in 'sliu': 'sliu'; did you mean 'silu'"),
        ("y + 1", "unknown name in .*'y'"),
        ("x ^ 2", r"'\^' .* use \*\*"),
        ("sin", r"'sin' .* needs an argument: sin\(x\)"),
        ("max(x)", "max takes 2"),
        ("exp(x, x)", "exp takes 1"),
        ("exp(x, out=x)", "exp takes 1"),
        ("exp(*x)", r"'\*x' in"),
        ("__import__('os').system('true')", "not supported"),
        ("().__class__", r"'\(\).__class__' in .* is not supported"),
        ("x.real", "'x.real'"),
        ("x[0]", r"'x\[0\]'"),
        ("'x'", "\"'x'\" in"),
        ("True * x", "'True'"),
        ("1j * x", "'1j'"),
        ("x if x else 1", "'x if x else 1'"),
        ("x < 1", "'x < 1'"),
        ("lambda: x", "'lambda: x'"),
        ("[x for x in x]", "not supported"),
        ("(x := 3)", "'x := 3'"),
        ("x // 2", "'x // 2'"),
        ("x +", "is not an expression in x"),
        ("x = 1", "is not an expression in x"),
        ("", "is not an expression in x"),
        ("x\0", "is not an expression in x"),
        ("-" * 900 + "x", "nested"),
        ("x" + "+x" * 300, "nested more than"),
        ("x" + " " * 1000, "may have 1000 characters"),
    ],
)
def test_everything_else_is_refused_by_name(text, message):
    with pytest.raises(InputError, match=message):
        parse_expression(text)


def test_big_powers_and_numbers_end_at_once():
    assert np.isinf(parse_expression("9**9**9**9")(X)).all()
    assert np.isinf(parse_expression("9" * 400)(X)).all()


def test_poles_give_no_warning():
    assert np.isnan(parse_expression("log(x)")(X)[0])
    assert np.isinf(parse_expression("1/x")(X)[2])
