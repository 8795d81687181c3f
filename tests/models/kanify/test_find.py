"""Which MLPs are found, and why others are not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision.ops import Permute

import kat
from kat.errors import InputError
from tests.models.kanify.models import MODELS, ByKeyword, vit

pytestmark = pytest.mark.filterwarnings("ignore:kanify.*the fit to")  # ReLU's kink


@pytest.mark.parametrize("name", MODELS)
def test_mlps_are_found_by_what_the_code_does(name):
    build, activations = MODELS[name]
    plan = kat.kanify(build(), dry_run=True)
    assert [r.site.activation for r in plan.replacements] == activations


def test_a_linear_map_whose_output_is_also_used_elsewhere_is_skipped():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.one, self.two = nn.GELU(), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            hidden = self.one(x)
            return hidden + self.two(self.act(hidden))

    with pytest.raises(InputError, match="used elsewhere"):
        kat.kanify(Residual())


def test_code_with_side_effects_leaves_no_trace_in_a_dry_run():
    class Counting(ByKeyword):
        def __init__(self):
            super().__init__()
            self.register_buffer("steps", torch.zeros(()))
            self.inputs, self.outputs = [], {}
            self.notes = SimpleNamespace(last=None)

        def forward(self, x):
            self.steps += 1
            self.inputs.append(x)
            self.outputs["scale"] = torch.rand([])
            self.notes.last = x
            return super().forward(x)

    model = nn.Sequential(Counting())
    random = torch.get_rng_state()
    plan = kat.kanify(model, dry_run=True)
    assert len(plan.replacements) == 1
    assert torch.equal(torch.get_rng_state(), random)
    assert model[0].steps == 0
    assert not model[0].inputs
    assert model[0].outputs == {}
    assert model[0].notes.last is None


def test_hooks_do_not_run():
    model, calls = nn.Sequential(vit()), []
    model[0].blocks[0].register_forward_hook(lambda *_: calls.append(1))
    model[0].blocks[0].mlp.register_forward_pre_hook(lambda *_: calls.append(2))
    assert len(kat.kanify(model, dry_run=True).replacements) == 4
    assert not calls


def test_an_activation_with_two_names_is_found_under_both():
    gelu = nn.GELU()
    model = nn.Sequential(nn.Linear(8, 8), gelu, nn.Linear(8, 8), gelu, nn.Linear(8, 8))
    plan = kat.kanify(model, dry_run=True)
    assert [r.site.activation for r in plan.replacements] == ["1", "3"]


@pytest.mark.parametrize(
    ("between", "second", "why"),
    [
        ([nn.GELU()], nn.Linear(8, 4), "its 16 channels are not the 8 of the next linear map"),
        ([nn.GELU(), nn.Flatten()], nn.Linear(16, 4), "its output goes to Flatten, not a"),
        (
            [Permute([1, 0]), nn.GELU(), Permute([1, 0])],
            nn.Linear(16, 4),
            "its channels is unclear",
        ),
    ],
)
def test_what_stands_between_linear_maps_and_is_no_mlp_is_named(between, second, why):
    with pytest.raises(InputError, match=why):
        kat.kanify(nn.Sequential(nn.Linear(8, 16), *between, second))


@pytest.mark.parametrize("norm", [nn.LayerNorm(8, elementwise_affine=False), nn.InstanceNorm1d(8)])
def test_a_norm_without_parameters_is_no_activation(norm):
    model = nn.Sequential(nn.Linear(8, 8), norm, nn.Linear(8, 8))
    with pytest.raises(InputError, match="no MLP"):
        kat.kanify(model)
