"""Parallel adapters: a bottleneck beside each MLP."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

import kat
from kat.errors import InputError
from tests.models.adapt.models import X, output, plain, trained
from tests.models.kanify.models import TwoModules, encoder


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: kat.GRKANMlp(16, 32), X),
        (TwoModules, X),
        (lambda: encoder(activation="gelu", dropout=0.0), X[None]),
        (lambda: timm.create_model("vit_micro_patch2_8", in_chans=1), torch.randn(2, 1, 8, 8)),
        (lambda: timm.create_model("kat_micro_patch2_8", in_chans=1), torch.randn(2, 1, 8, 8)),
    ],
    ids=["GRKANMlp", "two modules", "TransformerEncoder", "ViT", "KAT"],
)
def test_a_parallel_adapter_is_beside_every_mlp(make, x):
    model = make()
    before = output(model, x)
    adapters = kat.adapt(model, "parallel", width=6)
    torch.testing.assert_close(output(model, x), before)
    trained(model)
    assert not torch.allclose(output(model, x), before, atol=1e-3)
    assert torch.equal(output(copy.deepcopy(model), x), output(model, x))
    assert len(adapters.modules) == len(getattr(model, "blocks", getattr(model, "layers", [0])))
    adapters.remove()
    assert torch.equal(output(model, x), before)


def test_a_parallel_adapter_adds_a_bottleneck_of_the_input_to_the_output():
    model = plain()
    kat.adapt(model, "parallel", width=12)
    trained(model)
    beside = model[2].parallel
    act = beside.up.act
    hidden = functional.linear(X, beside.down.weight, beside.down.bias)
    value = kat.rational(hidden, act.weight_numerator, act.weight_denominator, impl="reference")
    expected = functional.linear(value, beside.up.fc.weight, beside.up.fc.bias)
    torch.testing.assert_close(model(X), plain()(X) + expected)
    assert act.num_groups == 6


def test_a_parallel_adapter_beside_an_mlp_that_drops_tokens_is_an_error():
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.act, self.two = nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)

        def forward(self, x):
            return self.two(self.act(self.one(x)[:, 0]))

    model = First()
    kat.adapt(model, "parallel")
    with pytest.raises(InputError, match="each token"):
        model(torch.randn(5, 5, 16))


def test_threads_may_call_at_once():
    """Both are between the first and the last map of the MLP at the same time."""
    model = TwoModules()
    kat.adapt(model, "parallel", width=4)
    trained(model).eval()
    inputs = [X, 2 * X + 1]
    expected = [output(model, x) for x in inputs]
    barrier = threading.Barrier(2, timeout=60)

    def meet(*_: object) -> None:
        barrier.wait()

    handle = model.inner.register_forward_hook(meet)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(partial(output, model), inputs))
    handle.remove()
    torch.testing.assert_close(found, expected)
