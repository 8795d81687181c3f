"""Adapters that leave the model: merged into it, or removed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import kat
from kat.errors import InputError
from tests.models.adapt.models import (
    X,
    each_kind,
    model_for,
    output,
    plain,
    trainable,
    trained,
)


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
    with pytest.raises(InputError, match="merged or removed"):
        adapters.save("folder")


@each_kind
def test_removed_adapters_leave_the_model_before(kind):
    model = model_for(kind)
    model[0].bias.requires_grad_(False)
    before = trainable(model), output(model)
    adapters = kat.adapt(model, kind, modules_to_save="2")
    trained(model)
    adapters.remove()
    assert trainable(model) == before[0]
    assert torch.equal(output(model), before[1])
    assert not [hook for m in model for hook in (*m._forward_hooks, *m._forward_pre_hooks)]


@pytest.mark.parametrize("saved", [None, "1"])
def test_removed_adapters_restore_buffers(saved):
    model = nn.Sequential(kat.GRKANMlp(16, 32), nn.BatchNorm1d(16)).train()
    adapters = kat.adapt(model, "rational", modules_to_save=saved)
    model(X)
    adapters.remove()
    assert model[1].running_mean.eq(0).all()
    assert model[1].num_batches_tracked == 0


def test_adapters_after_others_leave_them_trainable():
    model = nn.Sequential(kat.GRKANMlp(16, 32), kat.GRKANMlp(16, 32))
    before = trainable(model)
    first = kat.adapt(model, "rational", "0.act1")
    second = kat.adapt(model, "low_rank", "1.act2")
    third = kat.adapt(model, "parallel", "1")
    owners = {name.split(".parametrizations")[0].split(".parallel")[0]
              for name, p in model.named_parameters() if p.requires_grad}  # fmt: skip
    assert owners == {"0.act1", "1.act2", "1"}
    third.remove()
    second.merge()
    first.remove()
    assert trainable(model) == before


@pytest.mark.parametrize("leave", ["merge", "remove"])
@pytest.mark.parametrize("kind", ["rational", "low_rank"])
def test_a_copy_of_the_model_keeps_its_adapters(kind, leave):
    model = model_for(kind)
    adapters = kat.adapt(model, kind)
    copied = copy.deepcopy(trained(model))
    expected = output(copied)
    getattr(adapters, leave)()
    assert torch.equal(output(copied), expected)
