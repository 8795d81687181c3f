"""Faults put into a run: each is noticed before it does harm, and at the right layer."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from kat.data import AugmentConfig
from kat.training.callbacks import divergence
from kat.training.nonfinite import Finding
from tests.training.callbacks.faults import (
    STEPS,
    Fault,
    assert_same,
    make_batches,
    set_value,
    step_of,
    stopped,
    train,
    weights_of,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("step", [2, STEPS + 1])
def test_a_weight_that_is_infinite(tmp_path, step):
    fault = Fault(step, set_value("blocks.1.mlp.fc1.weight", (5, 3), torch.inf))
    message, found = stopped(tmp_path, make_batches(), fault)
    assert message.startswith(f"the loss is nan at step {step} (epoch {1 + step // STEPS}, batch")
    assert (found["step"], found["layer"], found["cause"]) == (step, "blocks.1.mlp.fc1", "weight")
    assert "blocks.1.mlp.fc1.weight[5, 3] is" in message
    good = tmp_path / "last.ckpt"
    assert f"The newest finite state is in {good}." in message
    assert step_of(good) == step // STEPS * STEPS
    assert not (tmp_path / "last_good.ckpt").exists()


@pytest.mark.parametrize(
    ("name", "index", "value"),
    [
        ("blocks.0.mlp.act1.weight_numerator", (0, 1), torch.nan),
        ("blocks.1.mlp.act2.weight_denominator", (2, 3), torch.inf),  # the layer gives finite zeros
        ("pos_embed", (0, 3, 2), torch.nan),
    ],
)
def test_a_parameter_that_is_not_finite(tmp_path, name, index, value):
    fault = Fault(1, set_value(name, index, value))
    message, found = stopped(tmp_path, make_batches(), fault)
    layer = name.rpartition(".")[0]
    assert (found["step"], found["layer"], found["cause"]) == (1, layer, "weight")
    assert f"{name}{list(index)} is {value}" in message


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_an_image_of_nans(tmp_path, ema):
    """The state before the bad step is kept, to the bit."""
    batches = make_batches()
    batches[2].images[5] = torch.nan
    fault = Fault(2)
    message, found = stopped(tmp_path, batches, fault, ema=ema)
    assert (found["step"], found["layer"], found["cause"]) == (2, "images", "input")
    assert "number 5 in batch 2 (" in message
    assert f"The state before it is in {tmp_path / 'last_good.ckpt'}." in message
    key = "raw_state_dict" if ema else "state_dict"
    assert_same(weights_of(tmp_path / "last_good.ckpt", key), fault.before)
    if ema:
        average = weights_of(tmp_path / "last_good.ckpt")
        assert not torch.equal(average["head.weight"], fault.before["head.weight"])


def test_an_image_of_nans_among_accumulated_and_mixed_batches(tmp_path):
    """The first of two batches of a step: stopped before the second is added."""
    batches = make_batches()
    batches[2].images[0] = torch.nan
    fault = Fault(1)
    augment = AugmentConfig(mixup=0.8)
    message, found = stopped(tmp_path, batches, fault, accumulate_grad_batches=2, augment=augment)
    assert (found["step"], found["cause"]) == (1, "input")
    assert "number 0, 7 in" in message  # mixed with its opposite
    assert_same(weights_of(tmp_path / "last_good.ckpt"), fault.before)


def _first_by_hand(weights, batch):
    """The first module, in the order they finish, with finite input and another output; else the
    module of the parameter nearest to the output whose gradient, squared, is not finite."""
    model = timm.create_model("kat_micro_patch2_8", in_chans=1, depth=2)
    model.load_state_dict(weights)
    seen = []
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda module, args, y, name=name: seen.append(
                (name, bool(args[0].isfinite().all()), bool(y.isfinite().all()))
            )
        )
    nn.functional.cross_entropy(model(batch.images), batch.labels).backward()
    forward = [name for name, given, made in seen if given and not made]
    squares = {name: p.grad.square().sum() for name, p in model.named_parameters()}
    backward = [name for name, square in squares.items() if not square.isfinite()]
    return ("overflow", forward[0]) if forward else ("gradient", backward[-1].rpartition(".")[0])


def test_a_learning_rate_of_a_thousand(tmp_path):
    """Where it overflows depends on the backend."""
    batches = make_batches(60)
    fault = Fault(100)
    message, found = stopped(tmp_path, batches, fault, drop_path=0.0, lr=1e3)
    assert "lower optim.lr" in message
    assert (found["cause"], found["layer"]) == _first_by_hand(fault.before, batches[found["step"]])
    assert_same(weights_of(tmp_path / "last_good.ckpt"), fault.before)


def test_a_gradient_whose_square_overflows_stops_before_it_reaches_the_moments(tmp_path):
    def action(model):
        model.head.register_forward_hook(lambda module, args, y: 1e25 * y)

    fault = Fault(1, action)
    message, found = stopped(tmp_path, make_batches(), fault)
    assert message.startswith("the norm of the gradient is inf at step 1 (")
    assert (found["layer"], found["cause"]) == ("head", "gradient")
    assert "at its bias" in message
    assert_same(weights_of(tmp_path / "last_good.ckpt"), fault.before)


def test_a_loss_whose_square_overflows_is_finite(tmp_path):
    def action(model):
        model.head.register_forward_hook(lambda module, args, y: y + 1e25 * torch.eye(10)[:8])

    train(tmp_path, make_batches(), Fault(1, action), epochs=1)
    assert not (tmp_path / "divergence.json").exists()


def test_ranks_agree_on_the_trouble_nearest_to_the_source(tmp_path, monkeypatch):
    def gather(own):
        others = [Finding("a", cause, "why") for cause in ("input", "unknown")]
        return [own, None, *(own._replace(finding=finding) for finding in others)]

    monkeypatch.setattr(divergence, "gather", gather)
    fault = Fault(1, set_value("blocks.1.mlp.fc1.weight", (5, 3), torch.inf))
    message, found = stopped(tmp_path, make_batches(), fault)
    assert "why (in rank 2)." in message
    assert (found["layer"], found["cause"]) == ("a", "input")
