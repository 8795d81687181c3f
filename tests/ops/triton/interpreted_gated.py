"""The GPU kernels of the gate without a GPU, against float64; run as interpreted.py is."""

from __future__ import annotations

import pytest
import torch

import kat

pytest.importorskip("triton")

from kat.ops.triton.launch import Sharing
from tests.marks import both_forms
from tests.ops.test_gated import of_elements
from tests.ops.triton.interpreted import SLACK, backward, inputs
from tests.ops.triton.interpreted import _patched_once as _patched_once
from tests.ops.triton.interpreted import _poisoned_memory as _poisoned_memory
from tests.ops.triton.interpreted import pytestmark as pytestmark
from tests.oracle import assert_near, random_elements

NAMES = ("y", "dx", "dv", "da", "db")


def _results(impl, tensors, grad, form):
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = kat.gated_rational(*leaves, form=form, impl=impl)
    return (y.detach(), *torch.autograd.grad(y, leaves, grad))


def _check(shape, rows=(1, 8), degree=(5, 4), dtype=torch.float32, form="A", apart=False):
    grad, x, a, b = inputs(shape, rows, degree, dtype)
    v = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    if apart:
        v, x = torch.cat([v, x], -1).chunk(2, -1) if apart is True else (apart(v), x)
    got = _results("triton", (x, v, a, b), grad, form)
    eager = _results("reference", (x, v, a, b), grad, form)
    exact = _results("reference", [t.double() for t in (x, v, a, b)], grad.double(), form)
    assert_near(got, exact, eager, SLACK.get(dtype, 2.0), names=NAMES)
    dx, da, db, dv = backward(grad, x, a, b, v, form=form, coefficients=False)
    assert (da, db) == (None, None)
    assert torch.equal(dx, got[1])
    assert torch.equal(dv, got[2])


@pytest.mark.parametrize(
    ("dtype", "form", "apart"),
    [
        (torch.float32, "A", True),
        (torch.bfloat16, "B", False),
        (torch.float32, "A", lambda v: torch.cat([v, v], -1)[..., :96]),
        (torch.float32, "A", lambda v: v[:, :1].expand_as(v)),
        (torch.float32, "A", lambda v: v.mT.contiguous().mT),
        pytest.param(torch.float16, "A", True, marks=pytest.mark.release),
    ],
)
def test_dtypes_with_several_blocks_a_program(dtype, form, apart):
    _check((2, 43, 96), dtype=dtype, form=form, apart=apart)


@pytest.mark.parametrize("apart", [False, pytest.param(True, marks=pytest.mark.release)])
@pytest.mark.parametrize(
    ("shape", "rows", "degree"),
    [
        ((7, 4 * 257), (1, 1), (3, 2)),
        ((3, 8 * 4 * 263), (8, 8), (3, 2)),  # divided by group
        ((9, 30), (5, 5), (1, 0)),
        ((96,), (8, 1), (7, 7)),
    ],
)
def test_shapes_shares_and_degrees(shape, rows, degree, apart):
    _check(shape, rows, degree, apart=apart)


@pytest.mark.parametrize("rows", [slice(1), slice(None, None, 2)])
def test_some_rows_of_two_halves(rows):
    grad, h, a, b = inputs((3, 4, 96))
    x, v = h[:, rows].chunk(2, dim=-1)
    grad = grad[:, rows, :48]
    found = _results("triton", (x, v, a, b), grad, "A")
    expected = _results("triton", (x.contiguous(), v.contiguous(), a, b), grad, "A")
    assert all(map(torch.equal, found, expected))


def test_the_shapes_cover_both_divisions_of_memory():
    flat = [Sharing.of(37 * w, g, w // g, 4, 4).flat for w, g in ((96, 8), (8 * 4 * 263, 8))]
    assert flat == [True, False]


@both_forms
def test_x_and_gradients_of_all_sizes(form):
    dtype = torch.float32
    elements = random_elements((5, 4), form, dtype, 24, rows=24)
    v, grad = of_elements(elements)
    x, a, b = elements.x, elements.a, elements.b
    _, dx, dv, da, db = _results("triton", (x, v, a, b), grad, form)
    f = kat.rational(x, a, b, form=form, impl="triton")
    elements.assert_right((f, dx, da, db))
    true = kat.rational(x.double(), a.double(), b.double(), form=form, impl="reference")
    expected = (true * grad.double()).to(dtype)
    torch.testing.assert_close(dv, expected, rtol=1e-2, atol=2 * torch.finfo(dtype).tiny)
