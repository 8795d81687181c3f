"""Nothing that is not finite is kept at the start, after an epoch, or after a validation."""

from __future__ import annotations

import pytest
import timm
import torch

from kat.errors import TrainingDiverged
from kat.training.record.run import Callback
from tests.training.callbacks.faults import STEPS, Fault, make_batches, step_of, stopped, train

pytestmark = pytest.mark.slow


def test_the_last_epoch_is_kept_even_if_it_is_not_the_best(tmp_path):
    train(tmp_path, make_batches(), epochs=3, lr=1e-30, min_lr=0.0)
    assert step_of(tmp_path / "best.ckpt") < step_of(tmp_path / "last.ckpt") == 3 * STEPS


class AfterEpochs(Callback):
    """Breaks something after the last update of an epoch."""

    def __init__(self, epochs, action):
        self.epochs, self.action = epochs, action

    def on_batch_end(self, run, index, batch, stepped):
        if run.state.step == self.epochs * STEPS:
            with torch.no_grad():
                self.action(run)


def _break_weight(run):
    run.model.head.bias[0] = torch.nan


def _break_buffer(run):
    run.model.statistic[1] = torch.inf


def _break_moment(run):
    weight = run.model.blocks[0].mlp.fc1.weight
    run.optimizer.state[weight]["exp_avg_sq"][0, 0] = torch.inf


def _break_ema(run):
    run.ema.values["head.bias"][2] = torch.nan


@pytest.mark.parametrize(
    ("epochs", "action", "name"),
    [
        (1, _break_weight, "head.bias"),
        (2, _break_buffer, "statistic"),
        (2, _break_moment, "the optimizer's exp_avg_sq of blocks.0.mlp.fc1.weight"),
        (1, _break_ema, "the EMA of head.bias"),
    ],
)
def test_nothing_of_an_epoch_that_is_not_finite_is_kept(
    tmp_path, monkeypatch, epochs, action, name
):
    """A statistic that breaks in between, as that of a batch norm may."""
    create = timm.create_model

    def with_buffers(*args, **options):
        model = create(*args, **options)
        model.register_buffer("limit", torch.tensor([torch.inf]))  # is meant to be infinite
        model.register_buffer("statistic", torch.zeros(3))
        return model

    monkeypatch.setattr(timm, "create_model", with_buffers)
    after = AfterEpochs(epochs, action)
    with pytest.raises(TrainingDiverged) as caught:
        train(tmp_path, make_batches(), after, ema=0.9)
    message = str(caught.value)
    step = epochs * STEPS
    assert f"step {step} (epoch {epochs}" in message
    assert f"first in {name}." in message
    newest = tmp_path / "last.ckpt"
    assert f"in {newest}." in message
    assert step_of(newest) == step - STEPS
    for path in tmp_path.glob("*.ckpt"):
        kept = torch.load(path, weights_only=True)
        kept["state_dict"].pop("limit")
        kept["raw_state_dict"].pop("limit")
        moments = kept["optimizer_state"]["state"].values()
        for part in (kept["state_dict"], kept["raw_state_dict"], *moments):
            assert all(tensor.isfinite().all() for tensor in part.values())


def test_a_start_that_is_not_finite_is_refused_and_no_checkpoint_is_named(tmp_path):
    class Broken(Callback):
        def on_fit_start(self, run):
            with torch.no_grad():
                run.model.blocks[1].norm2.weight[7] = torch.nan

    with pytest.raises(TrainingDiverged) as caught:
        train(tmp_path, make_batches(), Broken())
    message = str(caught.value)
    assert message.startswith("the state of training is not finite at step 0 (epoch 1), first in")
    assert "blocks.1.norm2.weight" in message
    assert "No finite state" in message
    assert "ckpt" not in message
    assert {path.name for path in tmp_path.iterdir()} == {"divergence.json"}


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_validation_loss_that_is_not_finite(tmp_path, ema):
    """The state of the epoch is kept, and the loss not logged."""
    validation = make_batches(3)
    validation[1].images[4] = torch.inf
    fault = Fault(STEPS - 1)
    message, _ = stopped(tmp_path, make_batches(), fault, ema=ema, validation=validation)
    assert message.startswith(f"the validation loss is not finite at step {STEPS} (epoch 1). ")
    assert step_of(tmp_path / "last_good.ckpt") == STEPS
    assert not (tmp_path / "best.ckpt").exists()
