"""Resolving settings before a run is built, and refusing them; nothing is written."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from kat.data import DataConfig
from kat.errors import InputError
from kat.training import LossConfig, ModelConfig, OptimConfig, TrainConfig
from kat.training.settings.recipes import given_settings
from kat.training.settings.resolve import resolve
from tests.images import write_folder


def _config(tmp_path, **settings):
    settings = {"accelerator": "cpu", "data": DataConfig(name="digits"), **settings}
    return TrainConfig(out=str(tmp_path / "run"), **settings)


def test_a_resolved_run_is_settled_and_nothing_is_written(tmp_path):
    config = _config(
        tmp_path, epochs="auto", resume="auto", model=ModelConfig(name="kat_micro_patch2_8")
    )
    before = dataclasses.replace(config)
    resolved = resolve(config)
    assert config == before
    assert resolved.config.epochs == 36
    assert (resolved.config.resume, resolved.checkpoint) == (False, None)
    assert resolved.record.input_size == (1, 8, 8)
    assert resolved.task.declared.name == "classification"
    assert resolved.device == torch.device("cpu")
    assert any(note.startswith("chosen: epochs=36") for note in resolved.notes)
    assert not list(tmp_path.iterdir())
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolved.config = config


def test_a_mapping_is_resolved_as_the_settings_are(tmp_path):
    """A rate that is auto is checked, too, as soon as it has a value."""
    own = {"data.name": "digits", "accelerator": "cpu", "out": str(tmp_path / "run")}
    given = given_settings({**own, "optim.lr": "auto", "model": {"args": {"depth": 1}}})
    assert given["optim"]["lr"] == "auto"
    model, optim = ModelConfig(args={"depth": 1}), OptimConfig(lr="auto")
    resolved, other = resolve(given), resolve(_config(tmp_path, model=model, optim=optim))
    assert resolved.config == other.config
    assert resolved.config.optim.lr == pytest.approx(1e-3 * 2**0.5, abs=1e-7)
    given["optim"]["min_lr"] = 0.1
    with pytest.raises(InputError, match=r"optim\.min_lr=0\.1 is above optim\.lr=0\.0014142"):
        resolve(given)
    with pytest.raises(InputError, match=r"unknown setting .optim\.rate."):
        resolve({**given, "optim.rate": 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "fsdp", "precision": "16-mixed"}, "16-mixed does not work with strategy"),
        ({"strategy": "fsdp", "model": ModelConfig(channels_last=True)}, "channels_last does not"),
        ({"optim": OptimConfig(lr=5e-6)}, "optim.min_lr=1e-05 is above optim.lr=5e-06, so that"),
        ({"optim": OptimConfig(warmup_lr=1.0, warmup_epochs=1)}, "warmup_lr=1 is above optim.lr="),
        ({"optim": OptimConfig(name="sgd", betas=(0.5, 0.6))}, "sgd does not have two betas"),
        ({"model": ModelConfig(args={"global_pool": ""})}, "global_pool is '': leave it out"),
        ({"data": DataConfig("folder:x", validate_on="holdout", holdout=0)}, "give data.holdout"),
        ({"loss": LossConfig([1.0, 2.0])}, "has 2 weights for the 10 classes '0', '1', '2'"),
        ({"loss": LossConfig([-1.0] * 10)}, "loss.class_weights must be 'balanced' or above 0"),
        ({"data": DataConfig("digits", num_classes=7)}, "data.num_classes=7 has no effect"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        resolve(_config(tmp_path, **settings))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("holdout", [0.0, 0.3])
def test_balanced_weights_are_scikit_learns(tmp_path, holdout):
    """Also of what a holdout leaves, and of a run that is resumed."""
    write_folder(tmp_path / "photos", classes=3, train=6, val=6)
    for name, images in (("n00", 5), ("n01", 3)):
        for index in range(images):
            (tmp_path / "photos" / "train" / name / f"{index}.jpg").unlink()
    name = f"folder:{tmp_path / 'photos'}"
    if holdout:
        shutil.rmtree(tmp_path / "photos" / "val")
    data = DataConfig(name, image_size=16, holdout=holdout)
    resolved = resolve(_config(tmp_path, data=data, loss=LossConfig("balanced")))
    train = resolved.train_data
    labels = [train.read(index)[1] for index in range(len(train))]
    assert len(labels) == (7 if holdout else 10)
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=np.array(labels))
    assert resolved.config.loss.class_weights == pytest.approx(wanted.tolist())
    assert resolved.task.class_weights.tolist() == pytest.approx(wanted.tolist())
    assert f"class weights: n00 {wanted[0]:.4g}, n01 {wanted[1]:.4g}, " in "".join(resolved.notes)
    given = LossConfig(resolved.config.loss.class_weights)
    again = resolve(_config(tmp_path, data=data, loss=given))
    assert again.config.loss == resolved.config.loss
    line = "'n00' has 1 training image, the largest class 6: loss.class_weights=balanced"
    assert line not in "".join(again.notes)
    notes = "".join(resolve(_config(tmp_path, data=data)).notes)
    assert (line in notes) == (not holdout)  # which leaves 1 and 4 images


def _has(monkeypatch, kind):
    found = None if kind is None else torch.device(kind)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: found)


def test_the_device_is_that_of_the_machine(tmp_path, monkeypatch):
    _has(monkeypatch, None)
    assert resolve(_config(tmp_path, accelerator="auto")).device == torch.device("cpu")
    _has(monkeypatch, "mps")
    assert resolve(_config(tmp_path, accelerator="auto")).device == torch.device("mps")
    _has(monkeypatch, "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve(_config(tmp_path, accelerator="cuda")).device.type == "cuda"
    resolved = resolve(_config(tmp_path, accelerator="gpu"))
    assert (resolved.device, resolved.world.size) == (torch.device("cuda", 0), 2)
    with pytest.raises(InputError, match="2 GPUs"):
        resolve(_config(tmp_path, accelerator="gpu", devices=3))


def test_a_warm_up_that_is_shortened_is_said(tmp_path):
    notes = resolve(_config(tmp_path, epochs=2, optim=OptimConfig(warmup_epochs=4))).notes
    assert any("shortened to 0.1" in note for note in notes)
