"""Precision: the dtypes of the passes, and the scaling of the loss."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kat.training.engine.loop import fit
from kat.training.optim.precision import NAMES, Precision
from tests.training.small import batches, make_run

CPU = torch.device("cpu")
PASSES = {
    "32-true": (torch.float32, torch.float32),
    "64-true": (torch.float64, torch.float64),
    "bf16-mixed": (torch.float32, torch.bfloat16),
    "16-mixed": (torch.float32, torch.float16),
}
"""The dtypes of weights and of products."""


@pytest.mark.parametrize("name", NAMES)
def test_dtypes_of_a_run(name):
    weights, products = PASSES[name]
    run = make_run(batches(2), epochs=1, precision=name)
    given, made = [], []
    run.model.patch_embed.register_forward_pre_hook(lambda m, args: given.append(args[0].dtype))
    run.model.head.register_forward_hook(lambda m, args, y: made.append(y.dtype))
    fit(run)
    assert set(given) == {weights}
    assert set(made) == {products}
    assert {p.dtype for p in run.model.parameters()} == {weights}
    assert {p.grad.dtype for p in run.model.parameters() if p.grad is not None} <= {weights}
    assert run.precision.scaler.is_enabled() == (name == "16-mixed")


def _step(precision, gradient):
    """A step of SGD by a weight of 1; the weight, and its gradient when it was unscaled."""
    weight = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    precision.backward(weight * gradient)
    precision.unscale(optimizer)
    seen = weight.grad.item()
    precision.step(optimizer)
    return weight.item(), seen


@pytest.mark.parametrize("name", NAMES)
def test_a_step_takes_the_gradient_without_the_scale(name):
    precision = Precision(name, CPU)
    assert precision.loss_scale == (2.0**16 if name == "16-mixed" else 1)
    assert _step(precision, 0.25) == (0.75, 0.25)


def test_a_scaled_gradient_that_is_not_finite_is_skipped_and_halves_the_scale():
    precision = Precision("16-mixed", CPU)
    weight, seen = _step(precision, 1e38)  # times the scale it is more than float32 holds
    assert (weight, seen) == (1.0, torch.inf)
    assert precision.loss_scale == 2.0**15
