"""Runs into which faults are put, and what they leave when the guard stops them."""

from __future__ import annotations

import dataclasses
import json

import pytest
import timm
import torch

from kat.data import AugmentConfig
from kat.errors import TrainingDiverged
from kat.models import load_model
from kat.training import OptimConfig
from kat.training.callbacks.checkpoints import Checkpoints
from kat.training.callbacks.divergence import DivergenceGuard
from kat.training.engine.loop import fit
from kat.training.record.run import Callback
from tests.training import small

RECORD = dataclasses.replace(small.RECORD, args={"depth": 2})


STEPS = 4
"""Of an epoch."""


def make_batches(count=STEPS, size=8):
    return small.batches(count, size)


class Fault(Callback):
    """Breaks the model at the start of a step, and remembers the weights that it had then."""

    def __init__(self, step, action=lambda model: None):
        self.step, self.action = step, action

    def on_batch_start(self, run, index):
        if run.state.step <= self.step:
            self.before = {n: t.clone() for n, t in run.model.state_dict().items()}
        if run.state.step == self.step:
            with torch.no_grad():
                self.action(run.model)


def train(
    out,
    batches,
    *callbacks,
    epochs=3,
    ema=0.0,
    drop_path=0.2,
    validation=None,
    resume=False,
    augment=None,
    precision="32-true",
    **optim,
):
    torch.manual_seed(0)
    model = timm.create_model("kat_micro_patch2_8", in_chans=1, depth=2, drop_path_rate=drop_path)
    run = small.make_run(
        batches,
        validation or make_batches(1),
        *callbacks,
        DivergenceGuard(),
        Checkpoints(),
        model=model,
        record=RECORD,
        out=out,
        epochs=epochs,
        optim=OptimConfig(**{"lr": 1e-3, "ema_decay": ema, **optim}),
        augment=augment or AugmentConfig(),
        precision=precision,
    )
    if resume:
        small.restore(run)
    fit(run)


def stopped(out, batches, *callbacks, **settings):
    """Trains until the guard stops it; returns the message and divergence.json."""
    with pytest.raises(TrainingDiverged) as caught:
        train(out, batches, *callbacks, **settings)
    found = json.loads((out / "divergence.json").read_text())
    assert found["message"] == str(caught.value)
    assert "\n" not in found["message"]
    assert_checkpoints_are_intact(out)
    return str(caught.value), found


def assert_checkpoints_are_intact(out):
    paths = list(out.glob("*.ckpt"))
    assert {path.name for path in paths} & {"last_good.ckpt", "last.ckpt"}
    for path in paths:
        model, _ = load_model(path)
        assert all(tensor.isfinite().all() for tensor in model.state_dict().values()), path
        moments = torch.load(path, weights_only=True)["optimizer_state"]["state"].values()
        assert all(value.isfinite().all() for state in moments for value in state.values()), path
    assert not [path for path in out.iterdir() if path.name.startswith(".partial")]


def weights_of(path, key="state_dict"):
    return torch.load(path, weights_only=True)[key]


def step_of(path):
    return torch.load(path, weights_only=True)["state"]["step"]


def set_value(name, index, value):
    def action(model):
        model.get_parameter(name)[index] = value

    return action


class GradientTimes(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None
