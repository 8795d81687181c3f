"""The optimizer: learning rates by hand, clipped coefficients, what a resumed run may change."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2, list_optimizers

from kat.errors import InputError
from kat.models import rational_parameter_names
from kat.training import OptimConfig, TrainConfig
from kat.training.engine.loop import fit
from kat.training.optim.freeze import freeze
from kat.training.optim.optimizer import Schedule, make_optimizer
from tests.training.small import batches, make_run

DEPTH = 4


@pytest.fixture
def model():
    torch.manual_seed(0)
    return timm.create_model("kat_micro_patch2_8", in_chans=1)


def _by_name(model, optimizer, key):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group[key] for group in optimizer.param_groups for p in group["params"]}


def _layer(name):
    """0 for the embeddings, n for block n counted from 1, the last norm with the last block."""
    parts = name.split(".")
    if parts[0] == "blocks":
        return int(parts[1]) + 1
    return {"norm": DEPTH, "head": DEPTH + 1}.get(parts[0], 0)


def _rate(name, step, steps, optim, epochs):
    """The equation at the head of kat/training/optim/optimizer.py, written anew."""
    warm = steps * optim.warmup_epochs / epochs
    if step < warm:
        rate = optim.warmup_lr + (optim.lr - optim.warmup_lr) * step / warm
    elif optim.schedule == "step":
        rate = optim.lr * optim.step_factor ** sum(step >= share * steps for share in optim.step_at)
    else:
        left = (1 + math.cos(math.pi * step / steps)) / 2
        if optim.schedule == "poly":
            left = (1 - step / steps) ** optim.poly_power
        rate = optim.min_lr + (optim.lr - optim.min_lr) * left
    rate *= optim.layer_decay ** (DEPTH + 1 - _layer(name))
    if name.endswith(("numerator", "denominator")):
        ramp = steps * optim.rational_warmup_epochs / epochs
        rate *= optim.rational_lr_scale * (min(1, step / ramp) if ramp else 1)
    return rate


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layer_decay": 0.7},
        {"rational_lr_scale": 0.1, "warmup_epochs": 2},
        {"layer_decay": 0.5, "rational_lr_scale": 3, "rational_warmup_epochs": 4},
        {"name": "sgd", "rational_lr_scale": 3},
        {"name": "sgd", "layer_decay": 0.7},
        {"schedule": "poly", "warmup_epochs": 2, "layer_decay": 0.7},
        {"schedule": "poly", "poly_power": 0.9, "rational_lr_scale": 0.1},
        {"schedule": "step", "step_at": [0.66, 0.4], "warmup_epochs": 1, "layer_decay": 0.7},
    ],
)
def test_learning_rate_of_every_parameter_at_every_step(model, options):
    optim, epochs, steps = OptimConfig(lr=2e-3, min_lr=1e-5, **options), 10, 50
    optimizer = make_optimizer(model, optim)
    schedule = Schedule(optimizer, optim, epochs, steps)
    for step in (0, 1, 7, 10, 19, 20, 33, 49):
        if step:  # the first step has what the schedule is made with
            schedule.set(step)
        rates = _by_name(model, optimizer, "lr")
        assert set(rates) == {name for name, _ in model.named_parameters()}
        for name, rate in rates.items():
            assert rate == pytest.approx(_rate(name, step, steps, optim, epochs)), (name, step)
        assert schedule.learning_rate == pytest.approx(rates["head.weight"])


@pytest.mark.parametrize("layer_decay", [1.0, 0.7])
def test_rationals_have_a_weight_decay_of_their_own(model, layer_decay):
    optim = OptimConfig(weight_decay=0.0, rational_weight_decay=0.2, layer_decay=layer_decay)
    decay = _by_name(model, make_optimizer(model, optim), "weight_decay")
    coefficients = rational_parameter_names(model)
    assert {decay[name] for name in coefficients} == {0.2}
    assert {value for name, value in decay.items() if name not in coefficients} == {0.0}


@pytest.mark.release
@pytest.mark.parametrize("name", list_optimizers(exclude_filters=["kron*", "adahessian"]))
def test_every_optimizer_of_timm_trains_or_asks_for_a_gpu(model, name):
    """kron does, too, but compiles itself for a minute first."""
    config = TrainConfig(epochs=1, optim=OptimConfig(name=name))
    try:
        make_optimizer(model, config.optim)
    except (AssertionError, ImportError, RuntimeError, ValueError) as error:
        assert "CUDA" in str(error)  # noqa: PT017
        return
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run = make_run(batches(2), model=model, epochs=1, optim=config.optim)
    fit(run)
    assert all(not torch.equal(p, before[name]) for name, p in run.model.named_parameters())


def test_groups_are_timms_with_the_rationals_apart(model):
    """The same decay and layer scale as timm's own, parameter by parameter."""
    for options in ({"layer_decay": 0.7}, {}):
        optimizer = make_optimizer(model, OptimConfig(weight_decay=0.1, **options))
        timms = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.1, **options)
        for key in ("weight_decay", "lr_scale") if options else ("weight_decay",):
            assert _by_name(model, optimizer, key) == _by_name(model, timms, key)
        decay = _by_name(model, optimizer, "weight_decay")
        assert {decay[name] for name in rational_parameter_names(model)} == {0.0}
        rational = _by_name(model, optimizer, "rational")
        assert {n for n in rational if rational[n]} == rational_parameter_names(model)


def _late_step(name, size):
    """How far a matrix goes from step 8 to 12; RAdam begins like SGD."""
    parameter = torch.nn.Parameter(torch.ones(4, 4))
    groups = [{"params": [parameter], "weight_decay": 0.0}]
    optimizer = create_optimizer_v2(groups, opt=name, lr=0.001)
    places = []
    for _ in range(12):
        parameter.grad = size * torch.arange(1.0, 17).view(4, 4)
        optimizer.step()
        places.append(parameter.detach().clone())
    return (places[11] - places[7]).norm().item()


@pytest.mark.slow
def test_steps_in_proportion_to_the_gradient_are_known_by_dampening():
    """All of timm's that run here; kron compiles itself for a minute."""
    for name in list_optimizers(exclude_filters=["kron*", "bnb*", "fused*", "adahessian"]):
        groups = [{"params": [torch.nn.Parameter(torch.ones(4, 4))]}]
        scaled = "dampening" in create_optimizer_v2(groups, opt=name, lr=0.1).param_groups[0]
        proportional = _late_step(name, 2.0) == pytest.approx(2 * _late_step(name, 1.0), rel=0.01)
        assert proportional == scaled, name


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb"])
def test_coefficients_stay_in_their_box(model, name):
    """And are those of the unclipped step where that stays inside; other weights are untouched."""
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    limit = max(start[n].abs().max().item() for n in rational_parameter_names(model))
    stepped = []
    for clip in (0.0, limit):
        model.load_state_dict(start, strict=False)
        optim = OptimConfig(name=name, lr=0.3, clip_coefficients=clip, weight_decay=0)
        optimizer = make_optimizer(model, optim)
        for parameter in model.parameters():
            parameter.grad = -torch.ones_like(parameter)
        optimizer.step()
        stepped.append({n: p.detach().clone() for n, p in model.named_parameters()})
    free, boxed = stepped
    beyond = 0
    for n, value in free.items():
        rational = n in rational_parameter_names(model)
        expected = value.clamp(-limit, limit) if rational else value
        beyond += int((value.abs() > limit).sum()) if rational else 0
        torch.testing.assert_close(boxed[n], expected, rtol=0, atol=0)
    assert beyond > 0


def test_a_box_that_would_change_the_start_is_refused(model):
    with pytest.raises(InputError, match=r"clip_coefficients=0\.5 .* is 1 "):
        make_optimizer(model, OptimConfig(clip_coefficients=0.5))
    freeze(model, "rationals")
    make_optimizer(model, OptimConfig(clip_coefficients=0.5))


def test_a_loaded_state_does_not_bring_its_settings(model):
    before = make_optimizer(model, OptimConfig(weight_decay=0.1, layer_decay=0.9))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before.step()
    optim = OptimConfig(weight_decay=0.2, layer_decay=0.5, rational_lr_scale=2, betas=(0.8, 0.9))
    after, fresh = make_optimizer(model, optim), make_optimizer(model, optim)
    after.load_state_dict(before.state_dict())
    for key in ("weight_decay", "lr_scale", "betas"):
        assert _by_name(model, after, key) == _by_name(model, fresh, key)
    assert len(after.state) == len(list(model.parameters()))
