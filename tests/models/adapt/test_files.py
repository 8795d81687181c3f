"""Folders of adapters: saving, loading, and refusing what does not fit."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

import kat
from kat.errors import InputError
from kat.models.adapt import load_adapters
from tests.models.adapt.models import X, each_kind, model_for, output, plain, trainable, trained


@each_kind
def test_saved_adapters_give_a_fresh_model_the_same_outputs(kind, tmp_path):
    model = model_for(kind)
    adapters = kat.adapt(model, kind, modules_to_save="0")
    trained(model)
    folder = tmp_path / "new" / "folder"
    adapters.save(folder)
    files = {path.name for path in folder.iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors"}
    fresh = model_for(kind)
    load_adapters(fresh, folder)
    assert torch.equal(output(fresh), output(model))
    assert trainable(fresh) == trainable(model)


def test_the_statistics_of_norms_are_saved_with_them(tmp_path):
    """Training moves them, though the norms are frozen."""
    model = nn.Sequential(kat.GRKANMlp(16, 32), nn.BatchNorm1d(16))
    fresh = copy.deepcopy(model)
    adapters = kat.adapt(model, "rational")
    model.train()(3 + X)
    adapters.save(tmp_path)
    load_adapters(fresh, tmp_path)
    assert torch.equal(output(fresh), output(model))


def _saved(folder, kind="low_rank"):
    kat.adapt(model_for(kind), kind).save(folder)
    return json.loads((folder / "adapter_config.json").read_text())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kat_adapter": 9}, "is not of kat.adapt, version 1"),
        ({"places": {"9": {}}}, "of another model, which has 9 of other shapes"),
        ({"modules_to_save": ["0"]}, "other names or shapes of 0.bias, 0.weight"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_and_the_model_unchanged(change, message, tmp_path):
    config = {**_saved(tmp_path), **change}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    _refused(model_for("low_rank"), tmp_path, message)


def _refused(model, folder, message):
    before = trainable(model)
    with pytest.raises(InputError, match=message):
        load_adapters(model, folder)
    assert trainable(model) == before


def test_a_model_of_another_shape_is_refused(tmp_path):
    for kind in ("low_rank", "parallel"):
        _saved(tmp_path / kind, kind)
    other = plain()
    kat.kanify(other, config=kat.KanifyConfig(groups=4))
    _refused(other, tmp_path / "low_rank", "which has 1 of other shapes")
    _refused(plain(), tmp_path / "low_rank", "kanified before loading, by kanify_like")
    wider = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 16))
    _refused(wider, tmp_path / "parallel", "which has 2 of other shapes")


def test_missing_files_are_named(tmp_path):
    _refused(plain(), tmp_path / "none", "adapter_config.json does not exist")
    _saved(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    _refused(model_for("low_rank"), tmp_path, "adapter_model.safetensors does not exist")
