"""Checkpoints: what they hold, and that a run which is resumed ends as one that is not stopped."""

from __future__ import annotations

import math

import pytest
import timm
import torch

from kat.data import AugmentConfig
from kat.models import load_model
from kat.training import OptimConfig
from kat.training.callbacks.checkpoints import Checkpoints
from kat.training.config import CheckpointConfig
from kat.training.engine.loop import fit
from kat.training.record.checkpoint import bytes_by_part
from tests.equality import assert_equal
from tests.marks import most_at_night
from tests.training.killed_runs import differences, flatten
from tests.training.small import RECORD, Kill, Killed, batches, make_run, restore

pytestmark = pytest.mark.slow

STEPS = 4
"""Of an epoch."""


def _run(out, *callbacks, model=None, **settings):
    """Two epochs of four steps with dropped paths and mixed images; a checkpoint every 2 steps."""
    out.mkdir(exist_ok=True)
    if model is None:
        torch.manual_seed(0)
        model = timm.create_model("kat_micro_patch2_8", in_chans=1, drop_path_rate=0.2)
    saving = CheckpointConfig(every_n_steps=2)
    options = {"epochs": 2, "augment": AugmentConfig(mixup=0.8), "checkpoint": saving, **settings}
    return make_run(
        batches(STEPS), batches(1), *callbacks, Checkpoints(), model=model, out=out, **options
    )


def _content(out):
    content = torch.load(out / "last.ckpt", weights_only=True)
    del content["state"]["seconds"]
    return content


def _bits(content):
    found = {}
    flatten("", content, found)
    return found


@pytest.mark.parametrize(
    ("precision", "ema"),
    most_at_night(
        [("32-true", 0.9), ("64-true", 0.0), ("bf16-mixed", 0.0), ("16-mixed", 0.9)],
        [("32-true", 0.9), ("16-mixed", 0.9)],
    ),
)
def test_a_run_that_is_killed_and_resumed_ends_with_the_same_bits(tmp_path, precision, ema):
    settings = {"precision": precision, "optim": OptimConfig(ema_decay=ema, clip_grad=1.0)}
    fit(_run(tmp_path / "whole", **settings))
    with pytest.raises(Killed):
        fit(_run(tmp_path / "parts", Kill(7), **settings))
    path = tmp_path / "parts" / "last.ckpt"
    assert torch.load(path, weights_only=True)["state"]["step"] == 6
    resumed = _run(tmp_path / "parts", **settings)
    restore(resumed)
    assert resumed.resumed_from.path == path
    fit(resumed)
    parts, whole = (_bits(_content(tmp_path / name)) for name in ("parts", "whole"))
    assert differences(parts, whole) == []


def test_a_checkpoint_of_an_ema_holds_it_as_the_weights_and_the_raw_ones_beside(tmp_path):
    run = _run(tmp_path / "run", optim=OptimConfig(ema_decay=0.9))
    fit(run)
    content = _content(tmp_path / "run")
    assert _bits(content["raw_state_dict"]) == _bits(dict(run.model.state_dict()))
    assert content["state_dict"].keys() == content["raw_state_dict"].keys()
    assert_equal(run.ema.values, content["state_dict"])
    assert content["ema_steps"] == 2 * STEPS
    model, record = load_model(tmp_path / "run" / "last.ckpt")
    assert record == RECORD
    assert _bits(dict(model.state_dict())) == _bits(content["state_dict"])


@pytest.mark.parametrize("name", ["adamw", "sgd", "nadam", "lion", "adafactor", "muon"])
def test_the_size_of_the_state_is_known_before_the_first_step(tmp_path, name):
    run = _run(tmp_path, optim=OptimConfig(name=name), epochs=1)
    known = bytes_by_part(run)
    fit(run)
    assert bytes_by_part(run) == known
    assert known["optimizer"] > 0


def test_an_ema_may_be_switched_on_for_the_rest_of_a_run(tmp_path):
    """It starts from the weights of the checkpoint."""
    fit(_run(tmp_path / "run", epochs=1))
    weights = _content(tmp_path / "run")["state_dict"]
    resumed = _run(tmp_path / "run", optim=OptimConfig(ema_decay=0.9))
    restore(resumed)
    assert resumed.ema.steps == 0
    assert_equal(resumed.ema.values, weights)


def test_the_last_epoch_of_two_is_resumed_by_its_own_schedule(tmp_path):
    """More epochs than before have the longer schedule from where the run is."""
    fit(_run(tmp_path / "run", epochs=1))
    resumed = _run(tmp_path / "run", epochs=3)
    restore(resumed)
    optim = resumed.config.optim
    cosine = (1 + math.cos(math.pi / 3)) / 2
    expected = optim.min_lr + (optim.lr - optim.min_lr) * cosine
    assert resumed.schedule.learning_rate == pytest.approx(expected)
