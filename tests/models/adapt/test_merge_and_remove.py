"""Adapters that leave the model: merged into it, or removed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import kat
from kat.errors import InputError
from tests.models.adapt.models import KINDS, X, model_for, output, plain, trained


@pytest.mark.parametrize("share", ["numerator", "denominator", "none"])
@pytest.mark.parametrize("kind", ["rational", "low_rank"])
def test_merged_coefficients_are_plain(kind, share):
    """Loaded by their names into a rational of that size, they are the function."""
    model = plain()
    kat.kanify(model, config=kat.KanifyConfig(share=share))
    adapters = kat.adapt(model, kind, "1", rank=3 if kind == "low_rank" else None)
    expected = output(trained(model))
    adapters.merge()
    act = model[1]
    assert torch.equal(output(model), expected)
    assert type(act) is kat.GroupRational
    assert act.share == ("none" if kind == "low_rank" else share)
    again = kat.GroupRational(8, share=act.share)
    again.load_state_dict(act.state_dict())
    hidden = torch.randn(4, 32)
    assert torch.equal(again(hidden), act(hidden))
    with pytest.raises(InputError, match="were merged or removed"):
        adapters.save("folder")


@pytest.mark.parametrize("kind", KINDS)
def test_removed_adapters_leave_the_model_before(kind):
    model = model_for()
    model[0].bias.requires_grad_(False)
    before = [(name, p.requires_grad) for name, p in model.named_parameters()], output(model)
    adapters = kat.adapt(model, kind)
    trained(model)
    adapters.remove()
    assert [(name, p.requires_grad) for name, p in model.named_parameters()] == before[0]
    assert torch.equal(output(model), before[1])


def test_removed_adapters_follow_the_dtype_of_the_model():
    model = kat.GRKANMlp(16, 32)
    adapters = kat.adapt(model, "rational")
    model.to(torch.bfloat16)
    adapters.remove()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model(X.bfloat16()).dtype == torch.bfloat16


def test_adapters_after_others_leave_them_trainable():
    model = nn.Sequential(kat.GRKANMlp(16, 32), kat.GRKANMlp(16, 32))
    before = [(name, p.requires_grad) for name, p in model.named_parameters()]
    first = kat.adapt(model, "rational", "0.act1")
    second = kat.adapt(model, "low_rank", "1.act2")
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert {name.split(".parametrizations")[0] for name in trainable} == {"0.act1", "1.act2"}
    second.merge()
    first.remove()
    assert [(name, p.requires_grad) for name, p in model.named_parameters()] == before


@pytest.mark.parametrize("leave", ["merge", "remove"])
@pytest.mark.parametrize("kind", ["rational", "low_rank"])
def test_a_copy_of_the_model_keeps_its_adapters(kind, leave):
    model = model_for()
    adapters = kat.adapt(model, kind)
    copied = copy.deepcopy(trained(model))
    expected = output(copied)
    getattr(adapters, leave)()
    assert torch.equal(output(copied), expected)


@pytest.mark.parametrize("kind", ["rational", "low_rank"])
def test_tied_coefficients_are_merged_once(kind):
    model = nn.Sequential(*(kat.GroupRational(8, init="silu") for _ in range(2)))
    model[1].weight_numerator = model[0].weight_numerator
    adapters = kat.adapt(model, kind)
    expected = output(trained(model))
    adapters.merge()
    assert torch.equal(output(model), expected)
