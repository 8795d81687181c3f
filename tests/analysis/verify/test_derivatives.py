"""Derivatives and kinks of the rational, against autograd, mpmath and the closed form."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch

import kat
from kat.analysis.verify.derivatives import TARGETS, derivatives, kinks

A, B = (0.3, 1.1, -0.4, 0.2, 0.05, 0.02), (0.3, -0.5, 0.2, 0.1)


def _mpmath(x, a, b, form):
    powers = [mpmath.mpf(b[j]) * x ** (j + 1) for j in range(len(b))]
    q = sum(abs(term) for term in powers) if form == "A" else abs(sum(powers))
    return sum(mpmath.mpf(a[i]) * x**i for i in range(len(a))) / (1 + q)


@pytest.mark.parametrize("form", ["A", "B"])
def test_against_mpmath_and_autograd(form):
    x = np.array([-2.7, -0.6, -1e-3, 1e-3, 0.2, 1.3, 2.9])
    ours = derivatives(x, A, B, form)
    with mpmath.workdps(60):
        function = lambda t: _mpmath(t, A, B, form)  # noqa: E731
        exact = [[float(mpmath.diff(function, v, k, h=1e-15)) for v in x] for k in range(4)]
    np.testing.assert_allclose(ours, exact, rtol=1e-9, atol=1e-12)
    points = torch.tensor(x).reshape(-1, 1).requires_grad_()
    a, b = (torch.tensor([c], dtype=torch.float64) for c in (A, B))
    y = kat.rational(points, a, b, form=form)
    for expected in ours:
        np.testing.assert_allclose(y.detach().numpy()[:, 0], expected, rtol=1e-10, atol=1e-13)
        (y,) = torch.autograd.grad(y.sum(), points, create_graph=True)


@pytest.mark.parametrize("form", ["A", "B"])
def test_the_first_jump_at_zero_is_the_closed_form(form):
    """-2 (p + q)! a_q |b_p|, with leading zeros of a (q) and b (p) from none to two."""
    for q in range(3):
        for p in (1, 3):
            a = (0.0,) * q + A[: 6 - q]
            b = (0.0,) * (p - 1) + B[: 5 - p]
            at_zero = [kink for kink in kinks(a, b, form, order=5) if kink.x == 0.0]
            assert [kink.order for kink in at_zero] == [p + q]
            expected = -2 * math.factorial(p + q) * a[q] * abs(b[p - 1])
            assert at_zero[0].jumps[p + q - 1] == pytest.approx(expected, rel=1e-12)


def test_the_jumps_of_form_a_up_to_the_third():
    (kink,) = kinks(A, B, "A")
    (a0, a1, a2), (b1, b2, b3) = A[:3], (abs(b) for b in B[:3])
    third = -12 * (a2 * b1 + a0 * (b3 - 2 * b1 * b2 + b1**3))
    assert kink.jumps == pytest.approx((-2 * a0 * b1, -4 * a1 * b1, third))


@pytest.mark.parametrize("form", ["A", "B"])
def test_jumps_are_the_differences_of_the_two_sides(form):
    """In mpmath, from points 1e-20 to either side."""
    b = (0.3, -0.5, 0.1, 0.02)
    found = kinks(A, b, form)
    assert len(found) == (1 if form == "A" else 2 + sum(np.isreal(np.roots(b[::-1]))) - 1)
    with mpmath.workdps(80):
        for kink in found:
            h = mpmath.mpf(10) ** -10
            for k, jump in enumerate(kink.jumps, start=1):
                right, left = (
                    mpmath.diff(lambda t: _mpmath(t, A, b, form), kink.x + side * h, k, h=1e-20)
                    for side in (1, -1)
                )
                assert jump == pytest.approx(float(right - left), rel=1e-6, abs=1e-7)
            beside = [derivatives(kink.x, A, b, form, side=side) for side in (1, -1)]
            if kink.x == 0:
                np.testing.assert_allclose((beside[0] - beside[1])[1:], kink.jumps)


@pytest.mark.parametrize(
    ("b", "form"),
    [((0.0, 0.2, 0.0, 0.1), "A"), ((0.0, 0.2, 0.0, 0.1), "B"), ((), "A"), ((0.0,), "B")],
)
def test_even_denominators_have_no_kink(b, form):
    assert kinks(A, b, form) == []
    np.testing.assert_array_equal(
        derivatives(0.0, A, b, form, side=1), derivatives(0.0, A, b, form, side=-1)
    )


EXACT = {
    "identity": lambda x: x,
    "relu": lambda x: max(x, mpmath.mpf(0)),
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "gelu": lambda x: x * mpmath.ncdf(x),
    "tanh": mpmath.tanh,
}


@pytest.mark.parametrize("name", TARGETS)
def test_derivatives_of_the_functions_that_presets_stand_for(name):
    x = np.array([-4.0, -1.1, -0.3, 0.2, 0.9, 3.5])
    with mpmath.workdps(60):
        exact = [[float(mpmath.diff(EXACT[name], v, k, h=1e-15)) for v in x] for k in range(4)]
    np.testing.assert_allclose(TARGETS[name](x), exact, rtol=1e-12, atol=1e-13)
