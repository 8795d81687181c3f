"""The GPU kernels of F(LayerNorm(x)) under Triton's interpreter, against float64.

Run as interpreted.py is:

    TRITON_INTERPRET=1 pytest tests/ops/triton/interpreted_norm.py
"""

from __future__ import annotations

import pytest
import torch

from kat.errors import BackendUnavailable
from kat.ops import layer_norm_rational, norm
from kat.ops.triton import norm_launch
from tests.ops.test_norm import NAMES, by_hand, case, results, two_operators
from tests.ops.triton.interpreted import SLACK
from tests.ops.triton.interpreted import _poisoned_memory as _poisoned_memory
from tests.oracle import assert_near, random_elements


def _check(shape, rows=(1, 8), degree=(5, 4), dtype=torch.float32, form="A", offset=0.0):
    *tensors, grad = case(shape, rows, degree, dtype, offset=offset)

    def call(*inputs):
        return layer_norm_rational(*inputs, form=form, impl="triton")

    got = results(call, tensors, grad)
    doubles = [t.double() for t in (*tensors, grad)]
    exact = results(lambda *inputs: by_hand(*inputs, form), doubles[:-1], doubles[-1])
    if dtype == torch.float64:
        for name, ours, true in zip(NAMES, got, exact, strict=True):
            assert (ours - true).abs().max() <= 1e-11 * true.abs().max(), name
    else:
        eager = results(lambda *inputs: two_operators(*inputs, form), tensors, grad)
        assert_near(got, exact, eager, SLACK.get(dtype, 2.0), names=NAMES)
    *gradients, y = norm._backward_recompute_by(norm.triton, grad, *tensors, 1e-5, form)
    for first, second in zip(got, (y, *gradients), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("dtype", "form"),
    [
        (torch.float32, "A"),
        (torch.float32, "B"),
        (torch.bfloat16, "A"),
        (torch.float16, "B"),
        (torch.float64, "B"),
    ],
)
def test_dtypes_with_several_blocks_a_program(dtype, form):
    _check((2, 43, 96), dtype=dtype, form=form)


@pytest.mark.parametrize(
    ("shape", "rows", "degree"),
    [
        ((21, 192), (1, 8), (5, 4)),
        ((5, 768), (8, 1), (5, 4)),
        ((3, 3072), (1, 8), (5, 4)),
        ((7, 4 * 257), (1, 1), (3, 2)),
        ((9, 30), (5, 5), (1, 0)),
        ((40, 5), (1, 1), (3, 2)),
        ((96,), (8, 1), (9, 8)),
        ((300, 2), (2, 2), (2, 1)),
    ],
)
def test_shapes_shares_and_degrees(shape, rows, degree):
    _check(shape, rows, degree)


def test_a_large_mean_costs_no_digits():
    *tensors, grad = case((5, 192), dtype=torch.float32, offset=1e4)
    got = results(lambda *i: layer_norm_rational(*i, impl="triton"), tensors, grad)
    doubles = [t.double() for t in (*tensors, grad)]
    for ours, true in zip(got, results(by_hand, doubles[:-1], doubles[-1]), strict=True):
        assert (ours.double() - true).abs().max() <= 1e-5 * true.abs().max()


def test_without_eps_rows_that_a_program_lacks_add_nothing():
    *tensors, grad = case((3, 16), dtype=torch.float32)
    impls = ("triton", "reference")
    got, expected = (
        results(lambda *i, impl=impl: layer_norm_rational(*i, eps=0.0, impl=impl), tensors, grad)
        for impl in impls
    )
    for name, ours, wanted in zip(NAMES, got, expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize("rows", [24, 1])
def test_z_and_gradients_of_all_sizes(form, rows):
    elements = random_elements((5, 4), form, torch.float32, 24, rows=rows)
    channels = elements.x.shape[1]
    x = torch.randn(1, channels, generator=torch.Generator().manual_seed(0))
    tensors = (x, torch.zeros(channels), elements.x[0], elements.a, elements.b)
    y, _, _, d_bias, da, db = results(
        lambda *i: layer_norm_rational(*i, form=form, impl="triton"), tensors, elements.grad
    )
    elements.assert_right((y, d_bias[None], da, db))


def test_rows_that_no_program_holds():
    *tensors, _ = case((2, 8 * 1024), dtype=torch.float32)
    x, _, _, a, b = tensors
    assert not norm_launch.fits(x, a, b)
    assert norm_launch.fits(x[:, :4096], a, b)
    with pytest.raises(BackendUnavailable, match="a program does not hold 8192 channels"):
        layer_norm_rational(*tensors, impl="triton")
