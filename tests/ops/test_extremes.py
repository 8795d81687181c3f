"""Every finite x and output gradient: where the exact result is a number of the dtype, so is ours.

Held against mpmath, whose exponents have no bounds.
"""

from __future__ import annotations

import functools
import math

import pytest
import torch

import kat
from kat.ops.arguments import Rational
from kat.ops.cpu import backend as cpu
from tests.kernels import each_backend, needs_kernel
from tests.marks import both_forms
from tests.oracle import Elements, random_elements

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
DEGREES = ((5, 4), (3, 2), (7, 6), (9, 8), (1, 0), (2, 5))


def assert_right(impl: str, elements: Elements) -> None:
    """Every value and gradient is the exact one to rounding."""
    x, a, b = leaves = [t.detach().requires_grad_() for t in (elements.x, elements.a, elements.b)]
    y = kat.rational(x, a, b, form=elements.form, impl=impl)
    elements.assert_right((y, *torch.autograd.grad(y, leaves, elements.grad)))


def sizes(dtype: torch.dtype) -> list[float]:
    """From 0 and the smallest subnormal to the dtype's maximum, of both signs."""
    info = torch.finfo(dtype)
    decades = [10.0**k for k in range(-5, 309) if 10.0**k < info.max and (k < 10 or k % 6 == 0)]
    found = [0.0, info.smallest_normal * info.eps, info.smallest_normal, *decades, info.max]
    return [*found, *(-x for x in found)]


def output_gradients(dtype: torch.dtype, count: int) -> list[float]:
    """Every other one is 1 or -2; between them, all sizes in turn."""
    info = torch.finfo(dtype)
    top = int(math.log10(info.max))
    decades = [10.0 ** (top * step / 6) for step in range(-6, 7)]
    smallest = info.smallest_normal * info.eps
    extreme = [0.0, info.max, -info.max, smallest, -3 * smallest, info.smallest_normal, *decades]
    return [
        extreme[i // 2 % len(extreme)] if i % 2 else (1.0, -2.0)[i // 2 % 2] for i in range(count)
    ]


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
    return a.tolist(), b.tolist()


@functools.lru_cache(maxsize=1)
def grid(kind: str, degree: tuple[int, int], form: str) -> list[Elements]:
    a, b = coefficients(kind, degree)
    found = []
    for dtype in DTYPES:
        x = sizes(dtype)
        grads = output_gradients(dtype, len(x))
        found.append(Elements(x, grads, [a] * len(x), [b] * len(x), form, dtype))
    return found


@pytest.mark.slow
@each_backend
@both_forms
@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("kind", ["normal", "huge", "tiny", "no denominator", "zero leading"])
def test_all_sizes_of_x_and_of_the_output_gradient(impl, form, degree, kind):
    for elements in grid(kind, degree, form):
        assert_right(impl, elements)


@functools.lru_cache(maxsize=1)
def random_grid(degree: tuple[int, int], form: str, rows: int) -> list[Elements]:
    return [random_elements(degree, form, dtype, 40, rows=rows) for dtype in DTYPES]


@each_backend
@both_forms
@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("rows", [40, 1])
def test_random_sizes_alone_and_side_by_side(impl, form, degree, rows):
    """With one row of coefficients, the sums over elements of all sizes."""
    for elements in random_grid(degree, form, rows):
        assert_right(impl, elements)


FIFTH = [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
FOURTH = [0.0, 0.0, 0.0, 1.0]


@each_backend
@pytest.mark.parametrize(
    ("x", "grad", "a", "b", "form"),
    [
        # |x| = 2^49: the terms of b_5 and b_2 are 3e33 and 3e29; b_5 is subnormal
        (2.0**49, 1.0, [1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0, 5.538211790704542e-41], "A"),
        (2000.0, 1e-33, FIFTH, FOURTH, "A"),  # 1/Q = 6e-14: grad/Q is subnormal
        (2000.0, 1e33, FIFTH, FOURTH, "A"),
        (0.0, 1e35, [1e6, 1.0], [1.0, 1.0], "A"),  # grad F is beyond the maximum, db is 0
        (1e-30, 1.0, [1.0, 1.0], [0.0, 0.0, -1.0], "B"),  # s = -1e-90
        (-1e-30, 1.0, [1.0, 1.0], [0.0, 1e-20], "B"),
        (1e-30, 3e38, [1.0, 1.0], [0.0, 0.0, -1.0], "B"),
        (1e-30, 3e38, [1.0, 1.0], [0.0, 0.0, 0.0, 0.0, -1.0, 1.0], "B"),  # s = -1e-150
        (-1e-30, 3e38, [1.0, 1.0], [0.0, 0.0, 0.0, 0.0, -1.0, 1.0], "B"),
        (0.0, 1.0, [1.0, 1.0], [-1.0, 0.0], "B"),  # sgn(s) = +1
        (-0.0, 1.0, [1.0, 1.0], [1.0, 0.0], "B"),
        (30.0, 1e-45, FIFTH, FOURTH, "A"),  # grad/Q = 1e-51, da_5 = 4e-44
        (30.0, -3e-45, [1e-6, 0.0], FOURTH, "B"),
    ],
)
def test_cases_that_went_wrong(impl, x, grad, a, b, form):
    assert_right(impl, Elements([x], [grad], [a], [b], form, torch.float32))


@needs_kernel
@both_forms
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_value_from_the_backward_pass_beside_tiny_output_gradients(form, dtype):
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    x = [30.0, -30.0, 0.5, -3.0, 0.0, 30.0, 30.0]
    grad = [smallest, -3 * smallest, smallest, 1e6 * smallest, smallest, 0.0, 1.0]
    elements = Elements(x, grad, [FIFTH], [FOURTH], form, dtype)
    y, dx = torch.empty_like(elements.x), torch.empty_like(elements.x)
    f = Rational(elements.a, elements.b, form)
    da, db = cpu.backward(f, elements.grad, elements.x, dx=dx, y=y)
    elements.assert_right((y, dx, da, db))


@each_backend
def test_terms_beyond_the_maximum_that_cancel(impl):
    """da_5 = 1e50 - 1e50."""
    a, b = torch.eye(6)[1:2].requires_grad_(), torch.zeros(1, 4, requires_grad=True)
    y = kat.rational(torch.tensor([[1e10, 1e10]]), a, b, impl=impl)
    da, db = torch.autograd.grad(y, (a, b), torch.tensor([[1.0, -1.0]]))
    assert da.tolist() == [[0.0] * 6]
    assert db.tolist() == [[0.0] * 4]


@each_backend
@both_forms
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


@each_backend
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


@each_backend
@both_forms
def test_one_enormous_x_among_many(impl, form):
    """The others keep their values, and the sums get its terms, in every layout of the groups."""
    for shape, groups in (((40, 24), 8), ((700, 96), 8), ((3, 40000), 2), ((50, 7), 1)):
        x, a, b = torch.randn(shape), torch.randn(groups, 6), torch.randn(groups, 4)
        x[shape[0] // 2, shape[1] // 2] = 1e20
        results = []
        for dtype, backend in ((torch.float32, impl), (torch.float64, "reference")):
            leaves = [t.to(dtype).requires_grad_() for t in (x, a, b)]
            y = kat.rational(*leaves, form=form, impl=backend)
            results.append((y, *torch.autograd.grad(y.sum(), leaves)))
        for ours, exact in zip(*results, strict=True):
            torch.testing.assert_close(ours.double(), exact, rtol=1e-3, atol=1e-2)
