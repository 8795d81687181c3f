"""Parameter groups: what is in which, the steps of coefficients, SGD that does not diverge."""

from __future__ import annotations

import copy
import math
from functools import cache, partial

import pytest
import timm
import torch
from sklearn.datasets import load_digits
from timm.optim import create_optimizer_v2
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import kat
from kat.errors import InputError
from kat.nn import rationals


@pytest.fixture
def model():
    torch.manual_seed(0)
    return timm.create_model("kat_micro_patch2_8", in_chans=1)


@pytest.fixture
def ddp(process_group):
    return DistributedDataParallel


@pytest.mark.parametrize("rate", ["1e-3", -1.0, [1e-3]])
def test_a_rate_that_is_none_is_named(model, rate):
    with pytest.raises(InputError, match="lr must be"):
        kat.param_groups(model, lr=rate)
    with pytest.raises(InputError, match="coefficient_lr must be"):
        kat.param_groups(model, lr=1e-3, coefficient_lr=rate)


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
    make = partial(kat.param_groups, lr=0.1, weight_decay=0.2)
    plain = [(g["lr"], g["weight_decay"], [id(p) for p in g["params"]]) for g in make(model)]
    for wrapped in (ddp(model), torch.compile(model), ddp(torch.compile(model))):
        groups = make(wrapped)
        assert [(g["lr"], g["weight_decay"], [id(p) for p in g["params"]]) for g in groups] == plain


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


def _slopes(act):
    """max(1, max |dF/dc|) over [-6, 6] by autograd, for numerator and denominator."""
    x = torch.linspace(-6, 6, 241, dtype=torch.float64)
    coefficients = [p.detach().double()[:1].requires_grad_() for p in act.parameters()]

    def function(a, b):
        return kat.rational(x[:, None], a, b, form=act.form, impl="reference")[:, 0]

    jacobians = torch.autograd.functional.jacobian(function, tuple(coefficients))
    return [s[:, 0].abs().amax(0).clamp(min=1).tolist() for s in jacobians]


def _step(optimizer, layer, loss, way):
    """One step: after a backward pass, with a closure, or scaled for mixed precision."""
    if way == "closure":

        def closure():
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        optimizer.step(closure)
    elif way == "scaler":
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        scaler.scale(loss()).backward()
        scaler.step(optimizer)
    else:
        loss().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("way", "size"),
    [("backward", 1e-9), ("backward", 1.0), ("closure", 1e6), ("scaler", 1e6),
     ("fused scaler", 1e6), pytest.param("compiled", 1e6, marks=pytest.mark.release)],
)  # fmt: skip
def test_a_step_of_sgd_moves_every_power_alike_and_is_bounded(way, size):
    """-lr g / s^2, with the slopes s, or so much of it as moves F by 0.01."""
    torch.manual_seed(0)
    layer = kat.GRKANLinear(8, 4, num_groups=4, dtype=torch.float64)
    x, lr = torch.randn(100, 8, dtype=torch.float64), 0.5
    start = {n: p.detach().clone() for n, p in layer.named_parameters()}
    (size * layer(x).square().sum()).backward()
    gradients = {n: p.grad.clone() for n, p in layer.named_parameters()}
    layer.zero_grad()
    rows = dict(zip(("numerator", "denominator"), _slopes(layer.act), strict=True))
    whitened = torch.cat(
        [
            (gradients[f"act.weight_{n}"] / torch.tensor(r).double()).flatten()
            for n, r in rows.items()
        ]
    ).norm()
    share = min(1.0, 0.01 / (lr * whitened.item()))
    fused = way.startswith("fused")
    optimizer = torch.optim.SGD(kat.param_groups(layer, lr), lr=lr, fused=fused)
    if way == "compiled":
        (size * layer(x).square().sum()).backward()
        torch.compile(lambda: optimizer.step())()
    else:
        _step(optimizer, layer, lambda: size * layer(x).square().sum(), way.split()[-1])
    for name, row in rows.items():
        parameter = getattr(layer.act, f"weight_{name}").detach()
        step = gradients[f"act.weight_{name}"] / torch.tensor(row).square()
        torch.testing.assert_close(
            parameter - start[f"act.weight_{name}"], -lr * share * step, rtol=1e-3, atol=1e-15
        )
    weights = start["fc.weight"] - lr * gradients["fc.weight"]
    torch.testing.assert_close(layer.fc.weight.detach(), weights, rtol=1e-5, atol=1e-6)


def test_momentum_lowers_the_bound_and_all_functions_share_it():
    torch.manual_seed(0)
    model = nn.Sequential(kat.GRKANMlp(16, 64), kat.GRKANMlp(16, 64))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD(kat.param_groups(model, 0.5), lr=0.5, momentum=0.9)
    (1e6 * model(torch.randn(64, 16)).square().mean()).backward()
    optimizer.step()
    squares = 0.0
    for name, act in rationals(model).items():
        for of, row in zip(("numerator", "denominator"), _slopes(act), strict=True):
            key = f"{name}.weight_{of}"
            moved = getattr(act, f"weight_{of}").detach() - before[key]
            squares += (moved * torch.tensor(row)).square().sum().item()
    assert math.sqrt(squares) == pytest.approx(0.01 * (1 - 0.9), rel=1e-3)


@cache
def _slopes_of_swish():
    return _slopes(kat.GroupRational(4))


def _moved(layer, start):
    """|s dc| of each coefficient tensor since the start."""
    rows = zip(("numerator", "denominator"), _slopes_of_swish(), strict=True)
    return [
        ((getattr(layer.act, f"weight_{n}").detach() - start[n]) * torch.tensor(r)).norm().item()
        for n, r in rows
    ]


def _coefficients(layer):
    return {
        n: getattr(layer.act, f"weight_{n}").detach().clone() for n in ("numerator", "denominator")
    }


def _started(lr, **options):
    torch.manual_seed(0)
    layer = kat.GRKANLinear(8, 4, num_groups=4)
    layer.fc.requires_grad_(False)  # weights would diverge at such gradients
    optimizer = torch.optim.SGD(kat.param_groups(layer, lr), lr=lr, **options)
    return layer, _coefficients(layer), optimizer


def _large_step(layer, optimizer):
    optimizer.zero_grad()
    (1e6 * layer(torch.randn(64, 8)).square().sum()).backward()
    optimizer.step()


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.5, total_steps=12),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: min(1, step / 5)),
    ],
)
def test_the_bound_holds_while_the_rate_rises(schedule):
    """The momentum then holds gradients of lower rates."""
    layer, start, optimizer = _started(0.5, momentum=0.9)
    scheduler = schedule(optimizer)
    for _ in range(10):
        before = _coefficients(layer)
        _large_step(layer, optimizer)
        scheduler.step()
        assert max(_moved(layer, before)) <= 0.01 * (1 + 1e-4)
    assert max(_moved(layer, start)) > 0


@pytest.mark.parametrize("way", ["reversed", "old state", "pickled"])
def test_the_bound_holds_for_changed_groups_and_loaded_states(way, tmp_path):
    layer, start, optimizer = _started(0.5)
    if way == "reversed":
        groups = [{**g, "params": g["params"][::-1]} for g in kat.param_groups(layer, 0.5)]
        optimizer = torch.optim.SGD(groups, lr=0.5)
    if way == "old state":
        optimizer.load_state_dict(torch.optim.SGD(kat.param_groups(layer, 0.5), 0.5).state_dict())
    if way == "pickled":
        torch.save((layer, optimizer), tmp_path / "whole.pt")
        layer, optimizer = torch.load(tmp_path / "whole.pt", weights_only=False)
    _large_step(layer, optimizer)
    moved = _moved(layer, start)
    assert 0 < max(moved) <= 0.01 * (1 + 1e-4)


def test_an_optimizer_that_was_copied_names_what_to_do():
    layer, _, optimizer = _started(0.5)
    layer, optimizer = copy.deepcopy((layer, optimizer))
    with pytest.raises(InputError, match=r"were copied after kat\.param_groups"):
        _large_step(layer, optimizer)
    _large_step(layer, torch.optim.SGD(kat.param_groups(layer, 0.5), lr=0.5))


@pytest.mark.parametrize("lr", [1e-2, 1e-1])
@pytest.mark.parametrize("name", ["ASGD", "RAdam", "radabelief", "radamlegacy", "sgdw"])
def test_first_steps_in_proportion_to_the_gradient_are_bounded(name, lr):
    """Unbounded steps end in NaN, where the same MLP with a fixed activation learns."""
    torch.manual_seed(0)
    mlp, x, target = kat.GRKANMlp(16, 64), torch.randn(40, 16), torch.randn(40, 16)
    groups = kat.param_groups(mlp, lr)
    own = getattr(torch.optim, name, None)
    optimizer = own(groups, lr=lr) if own else create_optimizer_v2(groups, opt=name, lr=lr)
    losses = []
    for _ in range(30):
        losses.append((mlp(x) - target).square().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.Adagrad])
def test_other_optimizers_see_the_gradients_as_they_are(make):
    """Also in groups that SGD has used."""
    steps = []
    for grouped in (True, False):
        torch.manual_seed(0)
        layer = kat.GRKANLinear(8, 4, num_groups=4)
        groups = kat.param_groups(layer, 0.1, weight_decay=0)
        torch.optim.SGD(groups, lr=0.1)
        optimizer = make(groups if grouped else layer.parameters(), lr=0.1, weight_decay=0)
        for _ in range(3):
            optimizer.zero_grad()
            layer(torch.randn(16, 8)).sum().backward()
            optimizer.step()
        steps.append([p.detach() for p in layer.parameters()])
    assert all(map(torch.equal, *steps))


def _digits_loss(grouped):
    """The loss after three epochs of SGD at 0.1 on scikit-learn's digits."""
    images, labels = load_digits(return_X_y=True)
    images, labels = torch.tensor(images).float() / 8 - 1, torch.tensor(labels)
    torch.manual_seed(0)
    hidden = [kat.GRKANLinear(128, 128) for _ in range(3)]
    model = nn.Sequential(nn.Linear(64, 128), *hidden, kat.GRKANLinear(128, 10))
    groups = kat.param_groups(model, 0.1) if grouped else model.parameters()
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    for batch in (torch.randperm(len(images))[:64] for _ in range(66)):
        loss = functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def test_sgd_trains_with_the_groups_and_diverges_without():
    assert _digits_loss(grouped=True) < 1
    assert not _digits_loss(grouped=False) < 2


def _give_gradients(model):
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)


class _Muon(torch.optim.SGD):
    """An optimizer of somebody's own: Muon for the groups that say so, as in modded-nanogpt."""


def _copied(model):
    return copy.deepcopy(model).to_empty(device="cpu")


@pytest.mark.parametrize("prepare", [lambda model: model, _copied])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: torch.optim.AdamW(m.parameters()), r"decays .*kat\.param_groups"),
        (lambda m: torch.optim.SGD(m.parameters(), 0.1, weight_decay=0.1), "SGD decays"),
        (lambda m: torch.optim.Muon([p for p in m.parameters() if p.ndim == 2]), "orthogonal"),
        (lambda m: torch.optim.Muon([g for g in kat.param_groups(m, 0.1) if g["rational"]]),
         r"orthogonal.*kat\.split_parameters"),
        (lambda m: _Muon(m.parameters(), lr=0.1), "orthogonal"),
    ],
)  # fmt: skip
def test_optimizers_that_treat_coefficients_as_matrices_are_named_once(prepare, make, message):
    mlp = prepare(kat.GRKANMlp(16, 64))
    _give_gradients(mlp)
    optimizer = make(mlp)

    def two_steps():
        optimizer.step()
        optimizer.step()

    with pytest.warns(UserWarning, match=message) as caught:
        two_steps()
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_optimizers_that_leave_coefficients_alone_give_no_warning():
    """The tests turn the warning into an error."""
    mlp = kat.GRKANMlp(16, 64)
    _give_gradients(mlp)
    matrices, coefficients, rest = kat.split_parameters(mlp)
    spared = {"params": coefficients, "weight_decay": 0.0, "use_muon": False}
    torch.optim.Muon(matrices).step()
    torch.optim.AdamW([spared, {"params": rest}]).step()
    _Muon([spared, {"params": matrices, "weight_decay": 0.1}], lr=0.1).step()
    torch.optim.AdamW(kat.param_groups(mlp, 1e-3)).step()
    torch.optim.Adam(mlp.parameters()).step()
    torch.optim.AdamW(nn.Linear(4, 4).parameters()).step()
    for parameter in coefficients:
        parameter.requires_grad_(False)
    torch.optim.AdamW(mlp.parameters()).step()


def _gpt():
    """Embedding, a block with attention and a GR-KAN MLP, norm, and a head with tied weights."""
    model = nn.Module()
    model.embed = nn.Embedding(50, 16)
    model.attention = nn.MultiheadAttention(16, 2)
    model.mlp = kat.GRKANMlp(16, 64)
    model.norm = nn.LayerNorm(16)
    model.head = nn.Linear(16, 50, bias=False)
    model.head.weight = model.embed.weight
    return model


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (_gpt, ["attention.in_proj_weight", "attention.out_proj.weight", "mlp.fc1.weight",
                "mlp.fc2.weight"]),
        (lambda: nn.Sequential(kat.GatedGRKANMlp(16, 32), nn.Linear(16, 4)),
         ["0.fc1_g.weight", "0.fc1_x.weight", "0.fc2.weight"]),
        (lambda: timm.create_model("kat_micro_patch2_8", depth=1),
         ["blocks.0.attn.qkv.weight", "blocks.0.attn.proj.weight", "blocks.0.mlp.fc1.weight",
          "blocks.0.mlp.fc2.weight"]),
    ],
)  # fmt: skip
def test_parameters_are_split_into_matrices_coefficients_and_the_rest(make, expected):
    model = make()
    split = kat.split_parameters(model)
    names = {p: name for name, p in model.named_parameters()}
    assert [names[p] for p in split.matrices] == expected
    assert {names[p] for p in split.coefficients} == set(filter(_is_coefficient, names.values()))
    assert sorted(names[p] for part in split for p in part) == sorted(names.values())


def test_coefficients_are_not_for_muon(model):
    """timm's Muon would orthogonalize their gradients; marked, they take AdamW's steps."""
    coefficients = [p for name, p in model.named_parameters() if _is_coefficient(name)]
    start = [p.detach().clone() for p in coefficients]
    optimizer = create_optimizer_v2(kat.param_groups(model, 1e-3), opt="muon", lr=1e-3)
    _give_gradients(model)
    optimizer.step()
    for before, parameter in zip(start, coefficients, strict=True):
        step = (parameter - before).abs()
        torch.testing.assert_close(step, torch.full_like(step, 1e-3), rtol=1e-2, atol=0)
