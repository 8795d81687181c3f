"""Which MLPs are found, and why others are not."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torchvision.ops import Permute

import kat
from kat.errors import InputError
from tests.models.kanify.models import MODELS, ByKeyword, vit

pytestmark = pytest.mark.filterwarnings("ignore:kanify.*the fit to")  # ReLU's kink


@pytest.mark.parametrize("name", MODELS)
def test_mlps_are_found_by_what_the_code_does(name):
    build, activations = MODELS[name]
    plan = kat.kanify(build(), dry_run=True)
    assert [r.mlp.activation for r in plan.replacements] == activations


@pytest.mark.parametrize("name", ["fc1", "fc2"])
def test_mlps_with_lora_of_peft_are_skipped_with_the_order(name):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = peft.get_peft_model(vit(), peft.LoraConfig(target_modules=[name]))
    with pytest.raises(InputError, match=f"PEFT has changed .*{name}: call kanify first, then"):
        kat.kanify(model)
    elsewhere = peft.get_peft_model(vit(), peft.LoraConfig(target_modules=["qkv"]))
    assert len(kat.kanify(elsewhere).replacements) == len(kat.kanify(vit()).replacements)


def test_a_linear_map_whose_output_is_also_used_elsewhere_is_skipped():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.one, self.two = nn.GELU(), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            hidden = self.one(x)
            return hidden + self.two(self.act(hidden))

    with pytest.raises(InputError, match="its input, from Linear, is also used elsewhere"):
        kat.kanify(Residual())


def test_code_with_side_effects_leaves_no_trace_in_a_dry_run():
    class Counting(ByKeyword):
        def __init__(self):
            super().__init__()
            self.register_buffer("steps", torch.zeros(()))
            self.inputs, self.outputs = [], {"all": []}

        def forward(self, x):
            self.steps += 1
            self.inputs.append(x)
            self.outputs["scale"] = torch.rand([])
            self.outputs["all"].append(x)
            return super().forward(x)

    model = nn.Sequential(Counting())
    random = torch.get_rng_state()
    plan = kat.kanify(model, dry_run=True)
    assert len(plan.replacements) == 1
    assert torch.equal(torch.get_rng_state(), random)
    assert model[0].steps == 0
    assert not model[0].inputs
    assert model[0].outputs == {"all": []}


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
    assert [r.mlp.activation for r in plan.replacements] == ["1", "3"]


@pytest.mark.parametrize(
    ("between", "second", "why"),
    [
        ([nn.GELU()], nn.Linear(8, 4), "its 16 channels are not the 8 of the next linear map"),
        ([nn.GELU(), nn.Upsample(2)], nn.Linear(16, 4), "its output goes to Upsample, not a"),
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
    with pytest.raises(InputError, match="Sequential has no MLP to replace"):
        kat.kanify(model)


class Called(nn.Module):
    """The parts of one MLP, and what the classes below use."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 32), nn.Linear(32, 8)
        self.register_buffer("count", torch.zeros(1))
        self.scale = nn.Parameter(torch.ones(1))

    def mlp(self, x):
        return self.two(functional.gelu(self.one(x)))


class Context(Called):
    def forward(self, x):
        with torch.no_grad():
            x = 2 * x
        return self.mlp(x)


class Noted(Called):
    def __init__(self):
        super().__init__()
        self.notes = SimpleNamespace(last=None)

    def forward(self, x):
        self.notes.last = x
        return self.mlp(x)


class Counted(Called):
    def forward(self, x):
        self.count.add_(1)
        return self.mlp(x)


class Drawn(Called):
    def forward(self, x):
        return x if self.training and torch.rand(1) < 0 else self.mlp(x)  # never, but it draws


class Moded(Called):
    def forward(self, x):
        return self.mlp(torch.tanh(x) if self.training else x)


class Checkpointed(Called):
    def forward(self, x):
        return self.mlp(checkpoint(self.one, x, use_reentrant=False)[..., :8])


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Context, "it changes whether gradients"),
        (Noted, "it changes attributes"),
        (Drawn, "it draws random numbers"),
        (Moded, "it calls other functions in training than in evaluation"),
        (Checkpointed, "torch.fx cannot trace it beyond test_find.py:"),
    ],
)
def test_code_whose_graph_would_lack_something_is_not_regenerated(kind, why):
    model = kind()
    line = inspect.getsourcelines(Called)[1] + 10  # of functional.gelu
    with pytest.raises(InputError) as error:
        kat.kanify(model)
    assert f"at test_find.py:{line} cannot be regenerated: {why}" in str(error.value)
    assert type(model) is kind


def test_buffers_that_the_code_changes_are_changed_by_the_regenerated_code():
    model = Counted()
    kat.kanify(model)
    assert model.count.item() == 0
    model(torch.randn(2, 8))
    assert model.count.item() == 1


class Scaled(Called):
    def forward(self, x):
        return self.two(self.scale * functional.gelu(self.one(x)))


class ScaledAfterwards(Called):
    def forward(self, x):
        hidden, scale = functional.gelu(self.one(x)), self.scale.exp()
        return self.two(hidden) * scale


def test_a_trained_parameter_is_in_no_activation():
    with pytest.raises(InputError, match="it is multiplied by something else"):
        kat.kanify(Scaled())
    model = ScaledAfterwards()
    kat.kanify(model)
    model(torch.randn(2, 8)).sum().backward()
    assert model.scale.grad.abs() > 0
