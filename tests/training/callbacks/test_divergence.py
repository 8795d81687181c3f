"""Faults put into a run: each is noticed before it does harm, and at the right layer."""

from __future__ import annotations

import dataclasses
import json

import pytest
import timm
import torch
from torch import nn

from kat.data import AugmentConfig
from kat.errors import TrainingDiverged
from kat.models import load_model
from kat.training import OptimConfig
from kat.training.callbacks import divergence
from kat.training.callbacks.callback import Callback
from kat.training.callbacks.checkpoints import Checkpoints
from kat.training.callbacks.divergence import MOST_SKIPPED, DivergenceGuard
from kat.training.callbacks.nonfinite import Finding
from kat.training.checkpoint import load_checkpoint
from kat.training.config import CheckpointConfig
from kat.training.loop import fit
from tests.training import small

pytestmark = pytest.mark.slow

RECORD = dataclasses.replace(small.RECORD, args={"depth": 2})
STEPS = 4
"""Of an epoch."""


def _batches(count=STEPS, size=8):
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


def _train(
    out,
    batches,
    *callbacks,
    epochs=3,
    ema=0.0,
    drop_path=0.2,
    validation=None,
    resume=None,
    augment=None,
    precision="32-true",
    **optim,
):
    torch.manual_seed(0)
    model = timm.create_model("kat_micro_patch2_8", in_chans=1, depth=2, drop_path_rate=drop_path)
    guard = DivergenceGuard()
    run = small.make_run(
        batches,
        validation or _batches(1),
        *callbacks,
        guard,
        Checkpoints(CheckpointConfig(), guard),
        model=model,
        record=RECORD,
        out=out,
        epochs=epochs,
        optim=OptimConfig(**{"lr": 1e-3, "ema_decay": ema, **optim}),
        augment=augment or AugmentConfig(),
        precision=precision,
    )
    if resume is not None:
        load_checkpoint(run, resume)
    fit(run)


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
    assert {path.name for path in paths} & {"last_good.ckpt", "last.ckpt"}
    for path in paths:
        model, _ = load_model(path)
        assert all(tensor.isfinite().all() for tensor in model.state_dict().values()), path
        moments = torch.load(path, weights_only=True)["optimizer_state"]["state"].values()
        assert all(value.isfinite().all() for state in moments for value in state.values()), path
    assert not [path for path in out.iterdir() if path.name.startswith(".partial")]


def _weights(path, key="state_dict"):
    return torch.load(path, weights_only=True)[key]


def _step(path):
    return torch.load(path, weights_only=True)["state"]["step"]


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
    good = tmp_path / "last.ckpt"
    assert f"The newest finite state is in {good}." in message
    assert _step(good) == step // STEPS * STEPS
    assert not (tmp_path / "last_good.ckpt").exists()


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
    assert "the model is the first layer that is not finite: its weight pos_embed" in message


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_an_image_of_nans(tmp_path, ema):
    """The state before the bad step is kept, to the bit."""
    batches = _batches()
    batches[2].images[5] = torch.nan
    fault = Fault(2)
    message, found = _stopped(tmp_path, batches, fault, ema=ema)
    assert (found["step"], found["layer"], found["cause"]) == (2, "images", "input")
    assert "number 5 of the 8 in batch 2 (counted from 0)" in message
    assert "The state before it is in" in message
    key = "raw_state_dict" if ema else "state_dict"
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
    message, found = _stopped(tmp_path, batches, fault, accumulate_grad_batches=2, augment=augment)
    assert (found["step"], found["cause"]) == (1, "input")
    assert "number 0, 7 of the 8 in batch 2" in message  # mixed with its opposite
    _assert_same(_weights(tmp_path / "last_good.ckpt"), fault.before)


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
    batches = _batches(60)
    fault = Fault(100)
    message, found = _stopped(tmp_path, batches, fault, drop_path=0.0, lr=1e3)
    assert "lower optim.lr" in message
    assert (found["cause"], found["layer"]) == _first_by_hand(fault.before, batches[found["step"]])
    assert "The state before it is in" in message
    _assert_same(_weights(tmp_path / "last_good.ckpt"), fault.before)


def test_a_gradient_whose_square_overflows_stops_before_it_reaches_the_moments(tmp_path):
    def action(model):
        model.head.register_forward_hook(lambda module, args, y: 1e25 * y)

    fault = Fault(1, action)
    message, found = _stopped(tmp_path, _batches(), fault)
    assert message.startswith("the norm of the gradient is inf at step 1 (epoch 1, batch 1): the")
    assert (found["layer"], found["cause"]) == ("head", "gradient")
    assert "the squares of the backward pass are not, first in head, at the gradient" in message
    assert "of its bias, up to " in message
    _assert_same(_weights(tmp_path / "last_good.ckpt"), fault.before)


def test_a_loss_whose_square_overflows_is_finite(tmp_path):
    def action(model):
        model.head.register_forward_hook(lambda module, args, y: y + 1e25 * torch.eye(10)[:8])

    _train(tmp_path, _batches(), Fault(1, action), epochs=1)
    assert not (tmp_path / "divergence.json").exists()


class GradientTimes(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None


def test_a_gradient_that_is_not_finite_although_the_loss_is(tmp_path):
    def action(model):
        fc1 = model.blocks[1].mlp.fc1
        fc1.register_forward_hook(lambda module, args, y: GradientTimes.apply(y, torch.inf))

    fault = Fault(3, action)
    message, found = _stopped(tmp_path, _batches(), fault)
    assert message.startswith("the norm of the gradient is nan at step 3")
    assert (found["layer"], found["cause"]) == ("blocks.1.mlp.fc1", "gradient")
    _assert_same(_weights(tmp_path / "last_good.ckpt"), fault.before)


def test_the_last_epoch_is_kept_even_if_it_is_not_the_best(tmp_path):
    _train(tmp_path, _batches(), epochs=3, lr=1e-30, min_lr=0.0)
    assert _step(tmp_path / "best.ckpt") < _step(tmp_path / "last.ckpt") == 3 * STEPS


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


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize(
    ("action", "layer", "cause", "detail"),
    [
        (_break_weight, "head", "weight", "its weight bias[0] is nan"),
        (_break_buffer, "", "state", "statistic is inf (1 of 3 are not finite)"),
        (
            _break_moment,
            "blocks.0.mlp.fc1",
            "state",
            "exp_avg_sq of blocks.0.mlp.fc1.weight is inf",
        ),
        (_break_ema, "head", "state", "the EMA of head.bias is nan"),
    ],
)
def test_nothing_of_an_epoch_that_is_not_finite_is_kept(
    tmp_path, monkeypatch, epochs, action, layer, cause, detail
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
        _train(tmp_path, _batches(), after, ema=0.9)
    found = json.loads((tmp_path / "divergence.json").read_text())
    message = str(caught.value)
    step = epochs * STEPS
    assert message.startswith(f"the state of training is not finite at step {step} (epoch {epochs}")
    assert (found["layer"], found["cause"]) == (layer, cause)
    assert detail in message
    newest = tmp_path / "last.ckpt"
    assert f"The newest finite state is in {newest}." in message
    assert _step(newest) == step - STEPS
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
        _train(tmp_path, _batches(), Broken())
    message = str(caught.value)
    assert message.startswith("the state of training is not finite at step 0 (epoch 1, batch 0)")
    assert "blocks.1.norm2 is the first layer that is not finite" in message
    assert "No finite state of this run is known" in message
    assert "ckpt" not in message
    assert {path.name for path in tmp_path.iterdir()} == {"divergence.json"}


def test_a_resumed_run_whose_moments_are_not_finite_is_refused(tmp_path):
    """A checkpoint that another program has written, or an older version of this one."""
    _train(tmp_path, _batches(), epochs=1)
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    last["optimizer_state"]["state"][0]["exp_avg"].fill_(torch.nan)
    torch.save(last, tmp_path / "last.ckpt")
    with pytest.raises(
        TrainingDiverged, match=r"exp_avg of .* is nan .* No finite state"
    ) as caught:
        _train(tmp_path, _batches(), resume=tmp_path / "last.ckpt")
    assert "last.ckpt" not in str(caught.value)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_validation_loss_that_is_not_finite(tmp_path, ema):
    """The images of the second batch; the state of the epoch is kept, and the loss not logged."""
    validation = _batches(3)
    validation[1].images[4] = torch.inf
    fault = Fault(STEPS - 1)
    message, found = _stopped(tmp_path, _batches(), fault, ema=ema, validation=validation)
    assert message.startswith(
        f"the validation loss is nan at step {STEPS} (epoch 1, validation batch 1): the images"
    )
    assert "number 4 of the 8 in validation batch 1" in message
    assert (found["layer"], found["cause"]) == ("images", "input")
    assert "The state before it is in" in message
    assert _step(tmp_path / "last_good.ckpt") == STEPS
    assert not (tmp_path / "best.ckpt").exists()


def test_a_validation_that_overflows_in_a_layer(tmp_path):
    """The EMA of the weights is what is validated, and so what is looked through."""

    def action(run):
        run.ema.values["blocks.1.mlp.fc2.weight"].fill_(3e38)

    message, found = _stopped(tmp_path, _batches(), AfterEpochs(2, action), ema=0.9)
    assert message.startswith("the validation loss is nan at step 8 (epoch 2, validation batch 0)")
    assert (found["layer"], found["cause"]) == ("blocks.1.mlp.fc2", "overflow")
    assert _step(tmp_path / "last.ckpt") == STEPS


@pytest.fixture
def most_skipped(monkeypatch):
    """A smaller limit: the steps take long in 16 bits on a CPU."""
    assert MOST_SKIPPED == 50
    monkeypatch.setattr(divergence, "MOST_SKIPPED", 10)
    return 10


class Scale(Callback):
    """Sets the loss scale at the start of these steps, and keeps what it was at the start of each.

    One that is skipped counts as a step.
    """

    def __init__(self, given=None):
        self.given, self.seen = given or {}, []

    def on_batch_start(self, run, index):
        if run.state.step in self.given:
            run.precision.scaler = torch.amp.GradScaler("cpu", self.given[run.state.step])
        self.seen.append(run.precision.loss_scale)


def test_a_gradient_that_the_loss_scaler_skips_for_ever(tmp_path, most_skipped):
    def action(model):
        model.blocks[1].mlp.fc1.register_forward_hook(
            lambda module, args, y: GradientTimes.apply(y, torch.nan)
        )

    batches = _batches(most_skipped + STEPS, size=2)
    fault, scale = Fault(3, action), Scale()
    message, found = _stopped(tmp_path, batches, fault, scale, precision="16-mixed")
    assert message.startswith(
        f"the norm of the gradient is nan, in {most_skipped} steps in a row that the loss scaler"
        f" skipped, last at step {2 + most_skipped} (epoch 1"
    )
    assert (found["layer"], found["cause"]) == ("blocks.1.mlp.fc1", "gradient")
    _assert_same(_weights(tmp_path / "last_good.ckpt"), fault.before)
    good = torch.load(tmp_path / "last_good.ckpt", weights_only=True)
    assert good["scaler"]["scale"] == scale.seen[3]  # as before the first of them
    assert scale.seen[-1] == scale.seen[3] / 2 ** (most_skipped - 1)


def test_a_loss_scale_that_is_too_large_is_found(tmp_path, most_skipped):
    """Twice: in the first steps, and later on again, which do not add up to the limit."""
    scale = Scale({0: 2.0**22, 15: 2.0**22})
    _train(tmp_path, _batches(30, size=2), scale, precision="16-mixed", epochs=1)
    for start, end in ((0, 15), (15, 30)):
        assert scale.seen[start] == 2.0**22
        assert 2.0**10 < scale.seen[end - 1] <= 2.0**16  # six skipped steps or more


def test_an_infinite_loss_under_a_loss_scaler_stops_at_once(tmp_path):
    batches = _batches()
    batches[1].images[0] = torch.nan
    message, _ = _stopped(tmp_path, batches, precision="16-mixed")
    assert message.startswith("the loss is nan at step 1 (")


def test_ranks_agree_on_the_trouble_nearest_to_the_source(tmp_path, monkeypatch):
    def gather(own):
        others = [Finding("a", cause, "why") for cause in ("input", "unknown")]
        return [own, None, *(own._replace(finding=finding) for finding in others)]

    monkeypatch.setattr(divergence, "gather", gather)
    fault = Fault(1, _set("blocks.1.mlp.fc1.weight", (5, 3), torch.inf))
    message, found = _stopped(tmp_path, _batches(), fault)
    assert message.startswith("the loss is nan at step 1 (epoch 1, batch 1): why (in rank 2). ")
    assert (found["layer"], found["cause"]) == ("a", "input")


def test_a_run_that_ends_well_leaves_nothing_behind(tmp_path):
    _train(tmp_path, _batches(), epochs=1)
    names = {path.name for path in tmp_path.iterdir()}
    checkpoints = {"best.ckpt", "last.ckpt", "previous.ckpt"}
    assert names == checkpoints | {"history.csv", "skipped.csv"}
