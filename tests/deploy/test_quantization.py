"""Weights in int8."""

from __future__ import annotations

import torch
from torch import nn

from kat.deploy import freeze, quantize_int8
from tests.deploy.distance import distance
from tests.models.small import images


def test_int8_loses_at_most_half_a_step_of_each_row(stored):
    """q = round(w / s), s = max |w| / 127 a row."""
    frozen = freeze(stored.model)
    quantized = quantize_int8(frozen)
    linears = {n: m for n, m in frozen.named_modules() if isinstance(m, nn.Linear)}
    assert len(linears) == 9
    for name, linear in linears.items():
        held = quantized.get_submodule(name).weight.dequantize()
        step = linear.weight.abs().amax(1, keepdim=True) / 127
        assert ((held - linear.weight).abs() <= 0.51 * step).all()
        assert not torch.equal(held, linear.weight)
    assert distance(quantized(images(4)), stored.model(images(4))) < 0.1
