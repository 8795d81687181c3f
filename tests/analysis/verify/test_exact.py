"""The exact values, against mpmath's own numerical derivatives and against limits."""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
from mpmath import mpf

from kat.analysis.verify.exact import Arithmetic, Exact, first_order, second_order

DOUBLE = Arithmetic(2.0**-53, 2.0**-1074)
DEGREES = [(3, 2), (5, 4), (4, 6)]


def first_order_of(x, a, b, form, arithmetic) -> Exact:
    """For output gradients of 1."""
    return first_order(x, np.ones_like(x), a, b, form, arithmetic)


def function(x, a, b, form):
    """F(x) by mpmath's evaluation of polynomials."""
    numerator = mpmath.polyval(list(reversed(a)), x)
    if form == "A":
        inner = mpmath.polyval([*reversed([abs(v) for v in b]), 0], abs(x))
    else:
        inner = abs(mpmath.polyval([*reversed(b), 0], x))
    return numerator / (1 + inner)


def random_function(degree, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=degree[0] + 1).tolist(), rng.normal(size=degree[1]).tolist()


def derivative(x, a, b, form, orders):
    """A partial derivative of F for the places in (x, a_0, ..., b_1, ...) that orders name."""
    places = [x, *a, *b]
    split = 1 + len(a)

    def of_named(*values):
        moved = list(places)
        for place, value in zip(sorted(set(orders)), values, strict=True):
            moved[place] = value
        return function(moved[0], moved[1:split], moved[split:], form)

    named = sorted(set(orders))
    with mpmath.workprec(300):
        at = tuple(mpf(places[place]) for place in named)
        times = tuple(orders.count(place) for place in named)
        return float(
            mpmath.diff(of_named, at if len(at) > 1 else at[0], times if len(at) > 1 else times[0])
        )


@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize("degree", DEGREES)
def test_first_derivatives_are_mpmaths(degree, form):
    a, b = random_function(degree)
    x = np.array([-2.3, -0.4, 0.7, 1.9])
    exact = first_order_of(x, a, b, form, DOUBLE)
    places = range(1 + len(a) + len(b))
    for column, point in enumerate(x.tolist()):
        wanted = [float(function(mpf(point), a, b, form))]
        wanted += [derivative(point, a, b, form, [place]) for place in places]
        assert exact.high[:, column] == pytest.approx(wanted, rel=1e-14)
    assert exact.names[:3] == ("y", "dx", "da_0")
    assert exact.names[-1] == f"db_{degree[1]}"


@pytest.mark.parametrize("form", ["A", "B"])
def test_second_derivatives_are_mpmaths(form):
    a, b = random_function((3, 2))
    x = np.array([-1.3, 0.6])
    exact = second_order(x, a, b, form, DOUBLE)
    of_a, of_b = range(1, 5), range(5, 7)
    pairs = [
        (0, 0),
        *((0, i) for i in of_a),
        *((0, j) for j in of_b),
        *itertools.product(of_a, of_b),
        *itertools.combinations_with_replacement(of_b, 2),
    ]
    for column, point in enumerate(x.tolist()):
        wanted = [derivative(point, a, b, form, list(pair)) for pair in pairs]
        assert exact.high[:, column] == pytest.approx(wanted, rel=1e-13)
    assert len(exact.names) == len(pairs)
    assert exact.names[-3:] == ("db_1 db_1", "db_1 db_2", "db_2 db_2")


def test_high_and_low_together_are_exact():
    exact = first_order_of(np.array([3.0]), [0.0, 1.0], [1.0], "A", DOUBLE)  # 3 / 4, and 1 / 16
    assert exact.high[:2, 0].tolist() == [0.75, 0.0625]
    third = first_order_of(np.array([2.0]), [0.0, 1.0], [1.0], "A", DOUBLE)  # 2 / 3
    with mpmath.workprec(200):
        total = mpf(float(third.high[0, 0])) + mpf(float(third.low[0, 0]))
        assert abs(total - mpf(2) / 3) < mpf(2) ** -105


@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize("zeros", [(0, 0), (1, 0), (0, 1), (2, 0), (0, 2), (6, 0), (0, 4)])
def test_limits_are_those_of_large_x(form, zeros):
    """Large x have the values at infinity, or values that grow beyond every bound."""
    a, b = random_function((5, 4), seed=3)
    a, b = a[: 6 - zeros[0]] + [0.0] * zeros[0], b[: 4 - zeros[1]] + [0.0] * zeros[1]
    for sign in (1, -1):
        limit = first_order_of(np.array([sign * math.inf]), a, b, form, DOUBLE).high[:, 0]
        near = first_order_of(np.array([sign * 1e20, sign * 1e30]), a, b, form, DOUBLE).high
        for wanted, (smaller, larger) in zip(limit, near, strict=True):
            if math.isinf(wanted):
                assert math.copysign(1, larger) == math.copysign(1, wanted)
                assert abs(larger) > 1e9 * abs(smaller)
            else:
                assert larger == pytest.approx(wanted, rel=1e-12, abs=1e-25)


def test_nothing_over_or_underflows_on_the_way():
    a, b = [0.0, 0.0, 0.0, 0.0, 0.0, 1e6], [0.0, 0.0, 0.0, 2e6]
    exact = first_order_of(np.array([1e308, 1e-300]), a, b, "A", DOUBLE)
    assert exact.high[:2, 0] == pytest.approx([5e307, 0.5], rel=1e-12)
    assert exact.high[-1, 1] == 0.0  # -1e6 x^9, below float64's numbers
    assert exact.high[2, 1] == 1.0


def test_subgradients_are_the_packages():
    at_zero = first_order_of(np.array([0.0]), [2.0, 3.0], [0.5], "A", DOUBLE)
    assert at_zero.high[:2, 0].tolist() == [2.0, 3.0]  # d|x|/dx = 0
    zero_b = first_order_of(np.array([-2.0]), [1.0, 0.0], [0.0], "A", DOUBLE)
    assert zero_b.high[-1, 0] == -2.0  # d|b|/db = +1, so -y |x|
    at_zero = first_order_of(np.array([0.0]), [2.0, 3.0], [0.5], "B", DOUBLE)
    assert at_zero.high[1, 0] == 2.0  # d|s|/ds = +1: a_1 - a_0 b_1


def test_either_sign_passes_where_rounding_decides_it():
    b = [1.0, -1.0 + 1e-16]  # s = 1e-16 x at x = 1
    tied = first_order_of(np.array([1.0]), [1.0, 1.0], b, "B", DOUBLE)
    clear = first_order_of(np.array([1.1]), [1.0, 1.0], b, "B", DOUBLE)
    assert tied.spread[-1, 0] >= 2 * abs(tied.high[-1, 0])
    assert clear.spread[-1, 0] < 1e-12


def test_cancelling_terms_widen_the_spread():
    near_root = first_order_of(np.array([1.0]), [-1.0, 1.0 + 1e-12], [1.0], "A", DOUBLE)
    assert near_root.high[0, 0] == pytest.approx(5e-13, rel=1e-3)
    assert near_root.spread[0, 0] == pytest.approx(2.0**-53, rel=1e-3)  # (|-1| + |1|) / 2
