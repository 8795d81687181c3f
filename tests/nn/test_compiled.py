"""Layers and models in compiled code: one graph, for batches and sequences of any length."""

from __future__ import annotations

import pytest
import timm
import torch

import kat


def _tokens(batch=2, length=7):
    return torch.randn(batch, length, 16)


CASES = {
    "rational": (kat.GroupRational, [_tokens(batch) for batch in (2, 3, 8, 64)]),
    "channels first": (
        lambda: kat.GroupRational(channel_dim=1),
        [torch.randn(batch, 16, side, side) for batch, side in ((2, 4), (3, 5), (4, 8))],
    ),
    "mlp": (lambda: kat.GRKANMlp(16, 64), [_tokens(length=length) for length in (4, 7, 9, 100)]),
    "keep": (lambda: kat.GRKANMlp(16, 64, keep="input"), [_tokens(batch) for batch in (2, 3, 64)]),
    "model": (
        lambda: timm.create_model("kat_micro_patch2_8"),
        [torch.randn(batch, 3, 8, 8) for batch in (2, 3, 5)],
    ),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("name", "dynamic", "graphs"), [*((name, True, 1) for name in CASES), ("mlp", None, 2)]
)
def test_sizes_that_change_need_no_graph_of_their_own(name, dynamic, graphs, training):
    """By default the compiler takes a size for fixed until it changes for the first time."""
    make, inputs = CASES[name]
    compiled = []

    def count(graph, examples):
        compiled.append(graph)
        return graph

    torch.compiler.reset()
    module = make().train(training)
    function = torch.compile(module, backend=count, fullgraph=True, dynamic=dynamic)
    with torch.set_grad_enabled(training):
        for x in inputs:
            y = function(x)
            torch.testing.assert_close(y, module(x))
            if training:
                y.sum().backward()
    assert len(compiled) == graphs


@pytest.mark.slow
def test_reduce_overhead_gives_the_same_numbers():
    """On a GPU the mode means CUDA graphs (tests/ops/triton/test_gpu.py), here the default."""
    torch.compiler.reset()
    mlp, x = kat.GRKANMlp(16, 64), _tokens()
    compiled = torch.compile(mlp, mode="reduce-overhead", fullgraph=True)
    for _ in range(3):
        found = torch.autograd.grad(compiled(x).square().sum(), list(mlp.parameters()))
        expected = torch.autograd.grad(mlp(x).square().sum(), list(mlp.parameters()))
        torch.testing.assert_close(found, expected)
