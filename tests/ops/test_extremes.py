"""Every finite x: wherever the exact result is a number of the dtype, so is ours, to rounding.

Held against mpmath, whose exponents have no bounds.
"""

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import kat
from kat.ops import cpu
from tests.oracle import is_rounded, rational_exactly

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
DEGREES = ((5, 4), (3, 2), (9, 8), (1, 0), (2, 5))
KERNEL = pytest.mark.skipif(isinstance(cpu._library(), str), reason="the C++ kernel is missing")
BACKENDS = ("reference", pytest.param("cpu", marks=KERNEL))


def wrong(impl, x, a, b, form, dtype, grad=1.0) -> list[str]:
    """The results for one x that are not as they should be."""
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    xs = torch.tensor([[x]], dtype=dtype, requires_grad=True)
    a_row = torch.tensor([a], dtype=compute, requires_grad=True)
    b_row = torch.tensor([b], dtype=compute).reshape(1, len(b)).requires_grad_()
    y = kat.rational(xs, a_row, b_row, form=form, impl=impl)
    y.backward(torch.tensor([[grad]], dtype=dtype))
    got = {"y": y.item(), "dx": xs.grad.item()}
    got |= {f"a{i}": value for i, value in enumerate(a_row.grad[0].tolist())}
    got |= {f"b{j}": value for j, value in enumerate(b_row.grad[0].tolist(), 1)}
    exact = rational_exactly(xs.item(), a_row[0].tolist(), b_row[0].tolist(), form, grad)
    return [
        f"{name}: {value}, exactly {exact[name].value}"
        for name, value in got.items()
        if not is_rounded(value, exact[name], dtype if name in ("y", "dx") else compute, compute)
    ]


def sizes(dtype: torch.dtype) -> list[float]:
    """From 0 and the smallest subnormal to the dtype's maximum, of both signs."""
    info = torch.finfo(dtype)
    decades = [10.0**k for k in range(-5, 309) if 10.0**k < info.max and (k < 10 or k % 6 == 0)]
    found = [0.0, info.smallest_normal * info.eps, info.smallest_normal, *decades, info.max]
    return [*found, *(-x for x in found)]


def coefficients(kind: str, degree: tuple[int, int]) -> tuple[list[float], list[float]]:
    generator = torch.Generator().manual_seed(len(kind) + 10 * degree[0])
    a = torch.randn(degree[0] + 1, generator=generator, dtype=torch.float64)
    b = torch.randn(degree[1], generator=generator, dtype=torch.float64)
    if kind == "huge":
        a, b = 1e6 * a, 1e6 * b
    if kind == "tiny":
        a, b = 1e-30 * a, 1e-30 * b
    if kind == "no denominator":
        b = 0 * b
    if kind == "zero leading":
        a[len(a) // 2 + 1 :], b[len(b) // 2 :] = 0, 0
    if kind == "as trained":
        a[2:], b = 1e-3 * a[2:], 1e-5 * b
    return a.tolist(), b.tolist()


@pytest.mark.parametrize("impl", BACKENDS)
@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize(
    "kind", ["normal", "huge", "tiny", "no denominator", "zero leading", "as trained"]
)
def test_all_sizes_of_x(impl, form, degree, kind):
    a, b = coefficients(kind, degree)
    for dtype in DTYPES:
        for x in sizes(dtype):
            assert not wrong(impl, x, a, b, form, dtype), (x, dtype)


@pytest.mark.parametrize("impl", BACKENDS)
def test_a_subnormal_coefficient_that_leads_beside_one_that_does_not(impl):
    """|x| = 2^49: the terms of b_5 and b_2 are 3e33 and 3e29."""
    b = [0.0, 1.0, 0.0, 0.0, 5.538211790704542e-41]
    assert not wrong(impl, 2.0**49, [1.0, 0.0, 1.0], b, "A", torch.float32)


COEFFICIENT = st.one_of(st.just(0.0), st.floats(-1e6, 1e6, width=32))


@pytest.mark.parametrize("impl", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_x_and_any_coefficients(impl, dtype, data):
    width = 64 if dtype == torch.float64 else 32
    x = data.draw(st.floats(allow_nan=False, allow_infinity=False, width=width))
    degree = data.draw(st.sampled_from(DEGREES))
    a = data.draw(st.lists(COEFFICIENT, min_size=degree[0] + 1, max_size=degree[0] + 1))
    b = data.draw(st.lists(COEFFICIENT, min_size=degree[1], max_size=degree[1]))
    form = data.draw(st.sampled_from("AB"))
    assume(form == "A" or not _underflows(x, b, torch.finfo(dtype).tiny))
    assert not wrong(impl, x, a, b, form, dtype)


def _underflows(x: float, b: list[float], tiny: float) -> bool:
    """Whether form B's s is too small for a number of the dtype, and so counts as 0 at its kink."""
    s = mp.fsum(c * mp.mpf(x) ** j for j, c in enumerate(b, 1))
    return 0 < abs(s) < tiny


@pytest.mark.parametrize("impl", BACKENDS)
@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_infinite_x_gives_the_limit(impl, form, dtype):
    """F(x) = (1 + 2x) / (1 + 4|x|) has limits -1/2 and 1/2; x^2 / (1 + |x|) and x have none."""
    x = torch.tensor([[math.inf, -math.inf]], dtype=dtype, requires_grad=True)
    for a, b, limit, slope in (
        ([1.0, 2.0], [4.0], [0.5, -0.5], [0.0, 0.0]),
        ([0.0, 0.0, 1.0], [1.0], [math.inf, math.inf], [1.0, -1.0]),
        ([0.0, 1.0, 0.0], [0.0], [math.inf, -math.inf], [1.0, 1.0]),
        ([3.0, 1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]),
    ):
        y = kat.rational(x, torch.tensor([a]), torch.tensor([b]), form=form, impl=impl)
        (dx,) = torch.autograd.grad(y.sum(), x)
        assert y.tolist() == [limit]
        assert dx.tolist() == [slope]


@pytest.mark.parametrize("impl", BACKENDS)
def test_nan_gives_nan_and_spoils_nothing_else(impl):
    x = torch.randn(4, 32)
    clean = x.clone().requires_grad_()
    x[1, 3] = math.nan
    x.requires_grad_()
    a, b = torch.randn(1, 6), torch.randn(8, 4, requires_grad=True)
    y = kat.rational(x, a, b, impl=impl)
    dx, db = torch.autograd.grad(y.sum(), (x, b))
    assert y.isnan().nonzero().tolist() == dx.isnan().nonzero().tolist() == [[1, 3]]
    assert db.isnan().any(1).nonzero().tolist() == [[0]]
    want = kat.rational(clean, a, b, impl=impl)
    torch.testing.assert_close(y[~y.isnan()], want[~y.isnan()])


@pytest.mark.parametrize("impl", BACKENDS)
@pytest.mark.parametrize("form", ["A", "B"])
def test_one_enormous_x_among_many(impl, form):
    """The others keep their values, and the sums get its terms, in every layout of the groups."""
    generator = torch.Generator().manual_seed(0)
    for shape, groups in (((40, 24), 8), ((700, 96), 8), ((3, 40000), 2), ((50, 7), 1)):
        x = torch.randn(shape, generator=generator)
        a = torch.randn(groups, 6, generator=generator, requires_grad=True)
        b = torch.randn(groups, 4, generator=generator, requires_grad=True)
        other = x.clone()
        x[shape[0] // 2, shape[1] // 2] = 0.0
        other[shape[0] // 2, shape[1] // 2] = 1e20
        results = []
        for inputs in (x, other):
            inputs.requires_grad_()
            y = kat.rational(inputs, a, b, form=form, impl=impl)
            results.append((y, *torch.autograd.grad(y.sum(), (inputs, a, b))))
        group = shape[1] // 2 * groups // shape[1]
        rows = a[group].tolist(), b[group].tolist()
        at_zero, at_other = (rational_exactly(value, *rows, form) for value in (0.0, 1e20))
        same = torch.isclose(results[0][0], results[1][0], rtol=1e-3, atol=1e-4)
        assert (~same).nonzero().tolist() == [[shape[0] // 2, shape[1] // 2]]
        for name, index, place in (("a4", 2, (group, 4)), ("b4", 3, (group, 3))):
            step = float(at_other[name].value - at_zero[name].value)
            before, after = results[0][index][place], results[1][index][place]
            assert float(after - before) == pytest.approx(step, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("impl", BACKENDS)
def test_the_sums_of_enormous_x_do_not_depend_on_threads(impl):
    x = torch.randn(64, 1000) * 10 ** torch.linspace(0, 30, 64)[:, None]
    a, b = torch.randn(1, 6), torch.randn(8, 4, requires_grad=True)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(torch.autograd.grad(kat.rational(x, a, b, impl=impl).sum(), b)[0])
    torch.set_num_threads(1)
    if impl == "cpu":
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])
    assert all(f.isfinite().all() for f in found)
