"""Parameter groups: what is in which, the factor of the coefficients, SGD that does not diverge."""

from __future__ import annotations

import math
from functools import partial

import pytest
import timm
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from timm.optim import create_optimizer_v2
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import kat
from kat.errors import InputError
from kat.nn import clip_coefficient_gradients
from kat.nn.optimizer_groups import coefficient_lr_scale


@pytest.fixture
def model():
    torch.manual_seed(0)
    return timm.create_model("kat_micro_patch2_8", in_chans=1)


@pytest.fixture
def ddp():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield DistributedDataParallel
    dist.destroy_process_group()


def _by_name(model, groups, key):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group[key] for group in groups for p in group["params"]}


def _is_coefficient(name):
    return name.endswith(("weight_numerator", "weight_denominator"))


def test_rates_and_weight_decay_of_every_parameter(model):
    model.blocks[0].mlp.fc1.weight.requires_grad_(False)
    groups = kat.param_groups(model, 0.1, coefficient_lr=0.03, weight_decay=0.2)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters())) - 1
    for name, rate in _by_name(model, groups, "lr").items():
        assert rate == (0.03 if _is_coefficient(name) else 0.1)
    decay = _by_name(model, groups, "weight_decay")
    timms = create_optimizer_v2(model, opt="adamw", lr=0.1, weight_decay=0.2).param_groups
    assert decay == _by_name(model, timms, "weight_decay")
    assert decay["blocks.1.mlp.fc1.weight"] == 0.2
    assert not any(value for name, value in decay.items() if _is_coefficient(name))
    assert {group["lr"] for group in kat.param_groups(model, 0.1)} == {0.1}


def test_wrapped_models_have_the_same_groups(model, ddp):
    make = partial(kat.param_groups, lr=0.1, coefficient_lr="scaled", weight_decay=0.2)
    plain = [(g["lr"], g["weight_decay"], [id(p) for p in g["params"]]) for g in make(model)]
    for wrapped in (ddp(model), torch.compile(model), ddp(torch.compile(model))):
        groups = make(wrapped)
        assert [(g["lr"], g["weight_decay"], [id(p) for p in g["params"]]) for g in groups] == plain


def test_layers_in_a_plain_module():
    model = nn.Sequential(nn.Linear(8, 16), kat.GroupRational(4, init="gelu"), nn.Linear(16, 2))
    first, coefficients, weights = kat.param_groups(model, 0.1, weight_decay=0.2)
    assert [first["rational"], coefficients["rational"], weights["rational"]] == [
        False,
        True,
        False,
    ]
    assert set(coefficients["params"]) == set(model[1].parameters())
    assert (coefficients["weight_decay"], weights["weight_decay"]) == (0, 0.2)


def test_without_a_weight_decay_that_of_the_optimizer_holds():
    model = nn.Sequential(nn.Linear(8, 16), kat.GroupRational(4, init="gelu"), nn.Linear(16, 2))
    for given, expected in (({}, 0.01), ({"weight_decay": 0.3}, 0.3)):
        optimizer = torch.optim.AdamW(kat.param_groups(model, 0.1), **given)
        decays = {p: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
        assert all(
            decay == (expected if name in ("0.weight", "2.weight") else 0)
            for name, decay in ((name, decays[p]) for name, p in model.named_parameters())
        )
    assert all(group["weight_decay"] == 0 for group in kat.param_groups(model, 0.1, weight_decay=0))


def _sum_of_squares(act):
    """S by a sum over a grid, with autograd's derivatives of F."""
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    coefficients = [p.detach().double()[:1].requires_grad_() for p in act.parameters()]

    def function(a, b):
        return kat.rational(x[:, None], a, b, form=act.form, impl="reference")[:, 0]

    slopes = torch.autograd.functional.jacobian(function, tuple(coefficients))
    density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    return sum((slope[:, 0].square() * density[:, None]).sum().item() for slope in slopes)


@pytest.mark.parametrize("init", ["identity", "swish", "gelu"])
@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize("degree", [(5, 4), (3, 2)])
def test_factor_is_a_hundredth_of_one_over_the_squared_slopes(init, form, degree):
    act = kat.GroupRational(4, degree, init, form)
    assert 1 / coefficient_lr_scale(act) == pytest.approx(100 * _sum_of_squares(act), rel=1e-4)


@pytest.mark.parametrize("init", ["identity", "swish"])
def test_factor_of_an_adapter_is_of_what_it_trains(init):
    """S by autograd's derivatives with respect to D, of changed coefficients A_0 + D diag(s)."""
    act = kat.GroupRational(4, init=init).double()
    kat.adapt(act, "rational")
    changes = [act.parametrizations[f"weight_{of}"][0].d for of in ("numerator", "denominator")]
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)

    def function(*changed):
        names = [name for name, p in act.named_parameters() if p.requires_grad]
        state = dict(zip(names, changed, strict=True))
        return torch.func.functional_call(act, state, x[:, None].expand(-1, 4))[:, 0]

    slopes = torch.autograd.functional.jacobian(function, tuple(d.detach() for d in changes))
    density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    total = sum((slope[:, 0].square() * density[:, None]).sum().item() for slope in slopes)
    assert 1 / coefficient_lr_scale(act) == pytest.approx(100 * total, rel=1e-4)


def test_factor_of_the_identity_is_exact():
    """Moments of N(0, 1): 1 + 1 + 3 + 15 + 105 + 945 for P, 3 + 15 + 105 + 945 for Q."""
    assert coefficient_lr_scale(kat.GroupRational(8, init="identity")) == pytest.approx(1 / 213800)


def _digits_loss(seed, scaled, steps=66):
    """The loss after three epochs of SGD at 0.1 on scikit-learn's digits."""
    images, labels = load_digits(return_X_y=True)
    images, labels = torch.tensor(images).float() / 8 - 1, torch.tensor(labels)
    torch.manual_seed(seed)
    hidden = [kat.GRKANLinear(128, 128) for _ in range(3)]
    model = nn.Sequential(nn.Linear(64, 128), *hidden, kat.GRKANLinear(128, 10))
    groups = kat.param_groups(model, 0.1, coefficient_lr="scaled" if scaled else None)
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    if scaled:
        kat.nn.clip_coefficient_gradients(optimizer)
    for batch in (torch.randperm(len(images))[:64] for _ in range(steps)):
        loss = functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.parametrize("seed", [0, 1])
def test_sgd_trains_with_scaled_coefficients_and_diverges_without(seed):
    assert _digits_loss(seed, scaled=True) < 1
    assert not _digits_loss(seed, scaled=False) < 2


def test_clipping_is_of_the_coefficients_alone(model):
    optimizer = torch.optim.SGD(kat.param_groups(model, 0.0), lr=0.0)
    kat.nn.clip_coefficient_gradients(optimizer, 0.5)
    for factor, clipped in ((1e3, True), (1e-6, False)):
        before = {name: factor * torch.ones_like(p) for name, p in model.named_parameters()}
        for name, parameter in model.named_parameters():
            parameter.grad = before[name].clone()
        optimizer.step()
        squares = 0.0
        for name, parameter in model.named_parameters():
            if _is_coefficient(name) and clipped:
                squares += parameter.grad.square().sum().item()
            else:
                assert torch.equal(parameter.grad, before[name])
        assert squares == pytest.approx(0.25 if clipped else 0.0, rel=1e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_clipping_is_of_gradients_without_the_scale_of_mixed_precision(fused):
    moved = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**16)):
        torch.manual_seed(0)
        layer, x = kat.GRKANLinear(8, 4, num_groups=4), torch.randn(100, 8)
        optimizer = torch.optim.SGD(kat.param_groups(layer, 0.1), lr=0.1, fused=fused)
        kat.nn.clip_coefficient_gradients(optimizer, 0.01)
        before = layer.act.weight_numerator.detach().clone()
        loss = layer(x).square().sum()
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
        moved.append(layer.act.weight_numerator.detach() - before)
    torch.testing.assert_close(moved[1], moved[0])
    assert moved[0].any()


def test_coefficients_are_not_for_muon(model):
    """timm's Muon would orthogonalize their gradients; marked, they take AdamW's steps."""
    coefficients = [p for name, p in model.named_parameters() if _is_coefficient(name)]
    start = [p.detach().clone() for p in coefficients]
    optimizer = create_optimizer_v2(kat.param_groups(model, 1e-3), opt="muon", lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    for before, parameter in zip(start, coefficients, strict=True):
        step = (parameter - before).abs()
        torch.testing.assert_close(step, torch.full_like(step, 1e-3), rtol=1e-2, atol=0)


def test_bad_input_is_named(model):
    with pytest.raises(InputError, match="'scaled' or None, got 'auto'"):
        kat.param_groups(model, 0.1, coefficient_lr="auto")
    with pytest.raises(InputError, match="no parameter of the model requires a gradient"):
        kat.param_groups(model.requires_grad_(False), 0.1)


@pytest.mark.parametrize("value", [-0.1, float("nan")])
@pytest.mark.parametrize("name", ["lr", "coefficient_lr", "weight_decay"])
def test_rates_below_zero_are_named_as_torch_checks_those_of_groups_not(model, name, value):
    with pytest.raises(InputError, match=f"{name} must be a number of at least 0, got {value!r}"):
        kat.param_groups(model, **{"lr": 0.1, name: value})


def test_parameters_in_place_of_the_model_are_named(model):
    with pytest.raises(InputError, match=r"model must be an nn\.Module, got generator"):
        kat.param_groups(model.parameters(), 0.1)


def test_clipping_wants_groups_of_coefficients_and_a_bound(model):
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(InputError, match=r"make them with kat\.param_groups"):
        clip_coefficient_gradients(plain)
    optimizer = torch.optim.SGD(kat.param_groups(model, 0.1), lr=0.1)
    with pytest.raises(InputError, match="max_norm must be above 0, got -1"):
        clip_coefficient_gradients(optimizer, -1)


def test_clipping_passes_over_groups_that_are_added_later(model):
    optimizer = torch.optim.SGD(kat.param_groups(model, 0.1), lr=0.0)
    clip_coefficient_gradients(optimizer)
    later = torch.nn.Parameter(torch.ones(2))
    later.grad = torch.full((2,), 10.0)
    optimizer.add_param_group({"params": [later]})
    optimizer.step()
    assert later.grad.tolist() == [10.0, 10.0]
