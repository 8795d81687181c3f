"""Devices and systems that are not here: what kat does there is decided by their names alone."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import kat
from kat.ops import scaled


class WithoutFloat64(TorchDispatchMode):
    """As on Apple's GPUs, a float64 tensor cannot be made."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, torch.Tensor) and each.dtype == torch.float64:
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return result


def test_only_apples_gpus_have_no_float64():
    assert scaled.widest_dtype(torch.device("mps")) == torch.float32
    assert scaled.widest_dtype(torch.device("cpu")) == torch.float64
    assert scaled.widest_dtype(torch.device("cuda")) == torch.float64


@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_reference_works_without_float64(form, dtype, monkeypatch):
    """A dispatch mode hides values, as a GPU does: both arithmetics run."""
    torch.manual_seed(0)
    x, a, b = torch.randn(6, 16).to(dtype), torch.randn(1, 6), torch.randn(8, 4)
    inputs = [tensor.requires_grad_() for tensor in (x, a, b)]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = kat.rational(*exact, form=form, impl="reference")
    expected_gradients = torch.autograd.grad(expected.sum(), exact)
    monkeypatch.setattr(scaled, "widest_dtype", lambda device: torch.float32)
    with WithoutFloat64():
        y = kat.rational(*inputs, form=form, impl="reference")
        gradients = torch.autograd.grad(y.sum(), inputs)
    tolerance = (
        {"rtol": 2e-5, "atol": 2e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 2e-2}
    )
    torch.testing.assert_close(y.double(), expected, **tolerance)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(found.double(), wanted, **tolerance)
