"""Frozen models: the same function with fewer operations; the source is unchanged."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import kat
from kat.compat import KAT_Group2D
from kat.deploy import FrozenRational, freeze
from kat.nn import GroupRational
from tests.equality import assert_equal
from tests.marks import both_forms
from tests.models.small import images, make_model
from tests.oracle import random_case, rational_numpy


def kinds(model: nn.Module) -> set[type]:
    return {type(module) for module in model.modules()}


@both_forms
@pytest.mark.parametrize("share", ["numerator", "denominator", "none"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
def test_a_frozen_rational_is_the_function(form, share, compiled):
    source = GroupRational(4, form=form, share=share, channel_dim=1)
    rows = (len(source.weight_numerator), len(source.weight_denominator))
    x, a, b = random_case((3, 8, 5), rows, (5, 4), torch.float32)
    assert (b < 0).any()
    with torch.no_grad():
        source.weight_numerator.copy_(a)
        source.weight_denominator.copy_(b)
    frozen = freeze(source)
    assert isinstance(frozen, FrozenRational)
    if compiled:
        frozen = torch.export.export(frozen, (x,)).module()
    a, b = (source.weight_numerator.detach(), source.weight_denominator.detach())
    want = rational_numpy(x.movedim(1, -1).numpy(), a.double().numpy(), b.double().numpy(), form)
    torch.testing.assert_close(
        frozen(x).movedim(1, -1).double(), torch.from_numpy(want), rtol=1e-5, atol=1e-5
    )


def test_a_frozen_model_has_the_same_outputs_and_the_source_is_unchanged():
    model, _ = make_model(init_values=0.5, drop_rate=0.1, drop_path_rate=0.1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    frozen = freeze(model.train())
    assert model.training
    assert_equal(before, model.state_dict())
    assert not frozen.training
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    names = {kind.__name__ for kind in kinds(frozen)}
    assert not names & {"GroupRational", "Dropout", "DropPath"}
    torch.testing.assert_close(frozen(images(3)), model.eval()(images(3)), rtol=1e-5, atol=1e-5)


def test_identities_are_removed_but_nothing_close_to_one():
    mlp = kat.GRKANMlp(16, 32, num_groups=4).eval()
    frozen = freeze(mlp)
    assert isinstance(frozen.act1, nn.Identity)
    assert isinstance(frozen.act2, FrozenRational)
    x = torch.randn(5, 16)
    torch.testing.assert_close(frozen(x), mlp(x))
    with torch.no_grad():
        mlp.act1.weight_denominator[2, 1] = -1e-30
    assert isinstance(freeze(mlp).act1, FrozenRational)


def test_a_rational_with_two_names_is_frozen_under_both():
    model = nn.Sequential(kat.GroupRational(), nn.Linear(16, 16))
    model.add_module("again", model[0])
    frozen = freeze(model)
    assert isinstance(frozen.again, FrozenRational)
    assert frozen.again is frozen[0]


def test_what_is_more_than_its_formula_stays():
    """Derived modules, and those with hooks."""

    class Shifted(GroupRational):
        def forward(self, x):
            return super().forward(x) + 1

    class Doubled(nn.Dropout):
        def forward(self, x):
            return 2 * super().forward(x)

    hooked = GroupRational(4), nn.Dropout()
    for module in hooked:
        module.register_forward_hook(lambda module, args, y: 3 * y + 1)
    model = nn.Sequential(nn.Linear(16, 16), Shifted(4), Doubled(), *hooked).eval()
    x = torch.randn(4, 16)
    assert torch.equal(freeze(model)(x), model(x))


@pytest.mark.parametrize("kind", ["authors", "rational", "low_rank"])
def test_every_rational_is_plain_operations_in_graphs(kind):
    """The authors' too, and adapted ones."""
    model, x = KAT_Group2D(8), torch.randn(5, 16, 4, 4)
    if kind != "authors":
        model, x = kat.GRKANMlp(16, 32, num_groups=4), torch.randn(5, 16)
        kat.adapt(model, kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    frozen = freeze(model.eval())
    program = torch.export.export(frozen, (x,))
    assert not [node for node in program.graph.nodes if "kat" in str(node.target)]
    torch.testing.assert_close(frozen(x), model(x))
    torch.testing.assert_close(program.module()(x), model(x))
