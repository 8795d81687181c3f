"""Faults put into a run: each is noticed before it does harm, and named."""

from __future__ import annotations

import pytest
import torch

from kat.data import AugmentConfig
from tests.equality import assert_equal
from tests.training.callbacks.faults import (
    STEPS,
    Fault,
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
    epoch = 1 + step // STEPS
    assert message.startswith(f"the loss is not finite at step {step} (epoch {epoch}), first in")
    assert "first in blocks.1.mlp.fc1.weight." in message
    assert (found["step"], found["epoch"]) == (step, epoch)
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
    assert found["step"] == 1
    assert f"first in {name}." in message


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_an_image_of_nans(tmp_path, ema):
    """The state before the bad step is kept, to the bit."""
    batches = make_batches()
    batches[2].images[5] = torch.nan
    fault = Fault(2)
    message, found = stopped(tmp_path, batches, fault, ema=ema)
    assert message.startswith("the loss is not finite at step 2 (epoch 1). ")
    assert found["step"] == 2
    assert f"The state before it is in {tmp_path / 'last_good.ckpt'}." in message
    key = "raw_state_dict" if ema else "state_dict"
    assert_equal(weights_of(tmp_path / "last_good.ckpt", key), fault.before)
    if ema:
        average = weights_of(tmp_path / "last_good.ckpt")
        assert not torch.equal(average["head.weight"], fault.before["head.weight"])


def test_an_image_of_nans_among_accumulated_and_mixed_batches(tmp_path):
    """The first of two batches of a step: stopped before the second is added."""
    batches = make_batches()
    batches[2].images[0] = torch.nan
    fault = Fault(1)
    augment = AugmentConfig(mixup=0.8)
    message, _ = stopped(tmp_path, batches, fault, accumulate_grad_batches=2, augment=augment)
    assert message.startswith("the loss is not finite at step 1 (")
    assert_equal(weights_of(tmp_path / "last_good.ckpt"), fault.before)


def test_a_gradient_whose_square_overflows_stops_before_it_reaches_the_moments(tmp_path):
    def action(model):
        model.head.register_forward_hook(lambda module, args, y: 1e25 * y)

    fault = Fault(1, action)
    message, _ = stopped(tmp_path, make_batches(), fault)
    assert message.startswith("the norm of the gradient is not finite at step 1 (")
    assert "first in the gradient of head.bias." in message
    assert_equal(weights_of(tmp_path / "last_good.ckpt"), fault.before)


def test_a_loss_whose_square_overflows_is_finite(tmp_path):
    def action(model):
        model.head.register_forward_hook(lambda module, args, y: y + 1e25 * torch.eye(10)[:8])

    train(tmp_path, make_batches(), Fault(1, action), epochs=1)
    assert not (tmp_path / "divergence.json").exists()
