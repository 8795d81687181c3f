"""Faults put into a run: each is noticed before it does harm, and at the right layer."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

from kat.data import AugmentConfig, Batch
from kat.errors import TrainingDiverged
from kat.models import ModelRecord, load_model
from kat.training import Classifier, OptimConfig, TrainConfig
from kat.training.callbacks import EmaWeights, checkpoints
from kat.training.divergence import DivergenceGuard, first_not_finite

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*LeafSpec.*"
)

RECORD = ModelRecord(
    architecture="kat_micro_patch2_8",
    args={"depth": 2},
    classes=[str(i) for i in range(10)],
    input_size=(1, 8, 8),
    mean=(0.5,),
    std=(0.5,),
    interpolation="bicubic",
    crop_pct=1.0,
)
STEPS = 4
"""Of an epoch."""


def _batches(count=STEPS, size=8):
    generator = torch.Generator().manual_seed(0)
    return [
        Batch(
            torch.randn(size, 1, 8, 8, generator=generator),
            torch.randint(0, 10, (size,), generator=generator),
            [],
        )
        for _ in range(count)
    ]


class Fault(Callback):
    """Breaks the model at the start of a step, and remembers the weights that it had then."""

    def __init__(self, step, action=lambda model: None):
        self.step, self.action = step, action

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step <= self.step:
            self.before = {n: t.clone() for n, t in pl_module.model.state_dict().items()}
        if trainer.global_step == self.step:
            with torch.no_grad():
                self.action(pl_module.model)


def _train(out, batches, *callbacks, epochs=3, ema=0.0, augment=None, drop_path=0.2, **optim):
    torch.manual_seed(0)
    model = timm.create_model("kat_micro_patch2_8", in_chans=1, depth=2, drop_path_rate=drop_path)
    settings = OptimConfig(**{"lr": 1e-3, **optim})
    config = TrainConfig(epochs=epochs, optim=settings, augment=augment or AugmentConfig())
    average = [EmaWeights(ema)] if ema else []
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        accumulate_grad_batches=settings.accumulate,
        callbacks=[*checkpoints(out), *callbacks, *average, DivergenceGuard(out)],
    )
    train, val = (
        torch.utils.data.DataLoader(data, batch_size=None) for data in (batches, _batches(1))
    )
    trainer.fit(Classifier(model, RECORD, config), train, val)


def _stopped(out, batches, *callbacks, **settings):
    """Trains until the guard stops it; returns the message and divergence.json."""
    with pytest.raises(TrainingDiverged) as caught:
        _train(out, batches, *callbacks, **settings)
    found = json.loads((out / "divergence.json").read_text())
    assert found["message"] == str(caught.value)
    assert "\n" not in found["message"]
    _assert_checkpoints_are_intact(out)
    return str(caught.value), found


def _assert_checkpoints_are_intact(out):
    paths = list(out.glob("*.ckpt"))
    assert out / "last_good.ckpt" in paths
    for path in paths:
        model, _ = load_model(path)
        assert all(tensor.isfinite().all() for tensor in model.state_dict().values()), path
        moments = torch.load(path, weights_only=True)["optimizer_states"][0]["state"].values()
        assert all(value.isfinite().all() for state in moments for value in state.values()), path
    assert not [path for path in out.iterdir() if path.name.startswith(".partial")]


def _weights(path, key="state_dict"):
    state = torch.load(path, weights_only=True)[key]
    return {name.removeprefix("model."): tensor for name, tensor in state.items()}


def _assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in actual)


def _set(name, index, value):
    def action(model):
        model.get_parameter(name)[index] = value

    return action


@pytest.mark.parametrize("step", [2, STEPS + 1])
def test_a_weight_that_is_infinite(tmp_path, step):
    fault = Fault(step, _set("blocks.1.mlp.fc1.weight", (5, 3), torch.inf))
    message, found = _stopped(tmp_path, _batches(), fault)
    assert message.startswith(f"the loss is nan at step {step} (epoch {1 + step // STEPS}, batch")
    assert (found["step"], found["layer"], found["cause"]) == (step, "blocks.1.mlp.fc1", "weight")
    assert "weight[5, 3] is inf (1 of 16384" in message
    assert "The newest finite state is in" in message
    good = torch.load(tmp_path / "last_good.ckpt", weights_only=True)
    assert good["global_step"] == step // STEPS * STEPS  # the start of the epoch
    assert (tmp_path / "last.ckpt").exists() == (step > STEPS)


@pytest.mark.parametrize(
    ("name", "index"), [("act1.weight_numerator", (0, 1)), ("act2.weight_denominator", (3, 1))]
)
def test_a_coefficient_that_is_nan(tmp_path, name, index):
    fault = Fault(1, _set(f"blocks.0.mlp.{name}", index, torch.nan))
    message, found = _stopped(tmp_path, _batches(), fault)
    layer, _, key = f"blocks.0.mlp.{name}".rpartition(".")
    assert (found["step"], found["layer"], found["cause"]) == (1, layer, "coefficient")
    assert f"coefficient {key}{list(index)} is nan" in message


def test_a_denominator_that_is_infinite_is_found_although_the_layer_gives_finite_zeros(tmp_path):
    fault = Fault(1, _set("blocks.1.mlp.act2.weight_denominator", (2, 3), torch.inf))
    _, found = _stopped(tmp_path, _batches(), fault)
    assert (found["layer"], found["cause"]) == ("blocks.1.mlp.act2", "coefficient")


def test_a_parameter_of_the_model_itself(tmp_path):
    fault = Fault(1, _set("pos_embed", (0, 3, 2), torch.nan))
    message, found = _stopped(tmp_path, _batches(), fault)
    assert (found["layer"], found["cause"]) == ("", "weight")
    assert "the model is the first layer that is not finite, for its weight pos_embed" in message


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_an_image_of_nans(tmp_path, ema):
    """The state before the bad step is kept, to the bit, and goes on from there."""
    batches = _batches()
    batches[2].images[5] = torch.nan
    fault = Fault(2)
    message, found = _stopped(tmp_path, batches, fault, ema=ema)
    assert (found["step"], found["layer"], found["cause"]) == (2, "images", "input")
    assert "number 5 of the 8 in batch 2 (counted from 0)" in message
    assert "The state before it is in" in message
    key = "current_model_state" if ema else "state_dict"
    _assert_same(_weights(tmp_path / "last_good.ckpt", key), fault.before)
    if ema:
        average = _weights(tmp_path / "last_good.ckpt")
        assert not torch.equal(average["head.weight"], fault.before["head.weight"])


def test_an_image_of_nans_among_accumulated_and_mixed_batches(tmp_path):
    """The first of two batches of a step: stopped before the second is added."""
    batches = _batches()
    batches[2].images[0] = torch.nan
    fault = Fault(1)
    augment = AugmentConfig(mixup=0.8)
    message, found = _stopped(tmp_path, batches, fault, accumulate=2, augment=augment)
    assert (found["step"], found["cause"]) == (1, "input")
    assert "number 0, 7 of the 8 in batch 2" in message  # mixed with its opposite
    _assert_same(_weights(tmp_path / "last_good.ckpt"), fault.before)


def _first_by_hand(weights, batch):
    """The first module, in the order they finish, with finite input and another output; else the
    module of the parameter nearest to the output whose gradient is not finite."""
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
    backward = [name for name, p in model.named_parameters() if not p.grad.isfinite().all()]
    return ("overflow", forward[0]) if forward else ("gradient", backward[-1].rpartition(".")[0])


def test_a_learning_rate_of_a_thousand(tmp_path):
    """Where it overflows depends on the backend; the moments of AdamW may do so before that."""
    batches = _batches(60)
    fault = Fault(100)
    message, found = _stopped(tmp_path, batches, fault, drop_path=0.0, lr=1e3)
    assert "lower optim.lr" in message
    assert (found["cause"], found["layer"]) == _first_by_hand(fault.before, batches[found["step"]])
    good = torch.load(tmp_path / "last_good.ckpt", weights_only=True)
    if "The state before it" in message:
        _assert_same(_weights(tmp_path / "last_good.ckpt"), fault.before)
    else:
        assert good["global_step"] == 0


def test_a_gradient_whose_square_overflows_is_finite(tmp_path):
    def action(model):
        model.head.register_forward_hook(lambda module, args, y: 1e25 * y)

    _train(tmp_path, _batches(), Fault(1, action), epochs=1)
    assert not (tmp_path / "divergence.json").exists()


def test_a_gradient_that_is_not_finite_although_the_loss_is(tmp_path):
    class Overflow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * torch.inf

    def action(model):
        model.blocks[1].mlp.fc1.register_forward_hook(lambda module, args, y: Overflow.apply(y))

    fault = Fault(3, action)
    message, found = _stopped(tmp_path, _batches(), fault)
    assert message.startswith("the gradient is not finite at step 3")
    assert (found["layer"], found["cause"]) == ("blocks.1.mlp.fc1", "gradient")
    _assert_same(_weights(tmp_path / "last_good.ckpt"), fault.before)


def test_the_last_epoch_is_kept_even_if_it_is_not_the_best(tmp_path):
    _train(tmp_path, _batches(), epochs=3, lr=1e-12)
    best, last = (torch.load(tmp_path / f"{n}.ckpt", weights_only=True) for n in ("best", "last"))
    assert best["global_step"] < last["global_step"] == 3 * STEPS


def test_weights_that_break_in_the_last_update_of_an_epoch_are_not_kept(tmp_path):
    class After(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            if trainer.global_step == 2 * STEPS:
                with torch.no_grad():
                    pl_module.model.head.bias[0] = torch.nan

    message, found = _stopped(tmp_path, _batches(), After(), ema=0.9)
    assert message.startswith(f"the weights are not finite at step {2 * STEPS}")
    assert (found["layer"], found["cause"]) == ("head", "weight")
    assert torch.load(tmp_path / "last_good.ckpt", weights_only=True)["global_step"] == STEPS


def test_a_sum_between_modules_counts_as_the_module_around_it():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.last = nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1)

        def forward(self, x):
            return self.last(self.left(x) + self.right(x))

    model = nn.Sequential(Sum(), Sum())
    assert first_not_finite(model, lambda: model(torch.zeros(1, 1))) is None
    with torch.no_grad():
        for part in (model[1].left, model[1].right):
            part.bias.fill_(3e38)
    finding = first_not_finite(model, lambda: model(torch.zeros(1, 1)))
    assert (finding.layer, finding.cause) == ("1", "overflow")
    assert not model[0]._forward_hooks
    assert not model[0]._forward_pre_hooks


def test_a_run_that_ends_well_leaves_nothing_behind(tmp_path):
    _train(tmp_path, _batches(), epochs=1)
    assert {path.name for path in tmp_path.iterdir()} == {"best.ckpt", "last.ckpt"}
