"""Models on disk."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import safetensors.torch
import timm
import torch

import kat
from kat.errors import InputError
from kat.models import (
    build_model,
    load_model,
    read_training_checkpoint,
    save_model,
)
from tests import records
from tests.models.published import official_state

ARGS = {"num_groups": 4, "patch_size": 2}
RECORD = replace(
    records.RECORD, architecture="kat_micro", args=ARGS, classes=["cat", "dog", "eel"],
    mean=(0.3,), std=(0.4,),
)  # fmt: skip


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = build_model(RECORD).eval()
    save_model(model, RECORD, tmp_path)
    return model, tmp_path


def test_round_trip(saved):
    model, folder = saved
    loaded, record = load_model(folder)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded(x), model(x))
    assert record.classes == RECORD.classes
    assert (record.input_size, record.mean, record.std) == ((1, 8, 8), (0.3,), (0.4,))
    assert not loaded.training
    assert not list(folder.glob("*.partial"))


def test_a_safetensors_file_with_a_record_beside_it_is_read_itself(saved):
    model, folder = saved
    with pytest.raises(InputError, match=r"other\.safetensors does not exist"):
        load_model(folder / "other.safetensors")
    with torch.no_grad():
        model.head.bias.add_(1)
    safetensors.torch.save_file(model.state_dict(), folder / "other.safetensors")
    loaded, record = load_model(folder / "other.safetensors")
    assert torch.equal(loaded.head.bias, model.head.bias)
    assert record.classes == RECORD.classes


def test_the_weights_can_be_read_by_whom_the_config_can(saved):
    _, folder = saved
    weights, config = ((folder / name).stat() for name in ("model.safetensors", "config.json"))
    assert weights.st_mode == config.st_mode


def test_timm_loads_the_folder_as_local_dir(saved):
    model, folder = saved
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded(x), model(x))
    assert loaded.pretrained_cfg["label_names"] == RECORD.classes


def test_a_model_outlives_the_file_of_its_coefficients(tmp_path):
    file = tmp_path / "fitted.json"
    file.write_text(json.dumps(kat.nn.preset("mish").to_dict()))
    args = {**RECORD.args, "act_init": str(file)}
    record = replace(RECORD, args=args)
    model = build_model(record).eval()
    assert model.blocks[0].mlp.act2.initial_coefficients() == kat.nn.preset("mish")
    file.unlink()
    save_model(model, record, tmp_path / "model")
    loaded, again = load_model(tmp_path / "model")
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded(x), model(x))
    assert again.args["act_init"] == kat.nn.preset("mish").to_dict()
    assert args["act_init"] == str(file)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    assert torch.equal(loaded(x), model(x))


def test_weights_of_another_model_are_listed(saved):
    _, folder = saved
    other = build_model(replace(RECORD, args={"patch_size": 2}))
    safetensors.torch.save_file(other.state_dict(), folder / "model.safetensors")
    with pytest.raises(InputError, match=r"8 of another shape .*\(8, 4\) for \(4, 4\)"):
        load_model(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "holds no model"),
        (lambda f: (f / "model.safetensors").write_bytes(b"12345678"), "not a complete safetens"),
        (lambda f: (f / "config.json").unlink(), r"config\.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "config.json").write_text("{}"), "no valid entry 'pretrained_cfg'"),
    ],
)
def test_damaged_folders_are_named(saved, damage, message):
    _, folder = saved
    damage(folder)
    with pytest.raises(InputError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("crop_pct", "x", "crop_pct must be a number above 0, got 'x'"),
        ("crop_pct", 0, "crop_pct must be a number above 0, got 0"),
        ("interpolation", "foo", "interpolation must be of .*got 'foo'"),
        ("interpolation", [], "interpolation must be of"),
        ("mean", [0.5, 0.5, 0.5], "mean must have one number for each of the 1 channels"),
        ("mean", 0.5, "not a model's config.json"),
        ("std", [0.0], r"std must .*above 0, got \(0\.0,\)"),
        ("std", [float("nan")], "std must have one number"),
        ("input_size", [1, "x", 8], r"input_size must be \(channels, height, width\)"),
        ("input_size", [1, 8], "not a model's config.json"),
        ("input_size", [1, 0, 8], r"input_size must be \(channels"),
        (None, [1, 2], "not a model's config.json"),
    ],
)
def test_entries_of_the_wrong_kind_are_named(saved, entry, value, message):
    _, folder = saved
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if entry is None:
        config["pretrained_cfg"] = value
    else:
        config["pretrained_cfg"][entry] = value
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"config\.json: {message}"):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("norm.weight", ()), ("pos_embed", (5,)), ("pos_embed", (1, 0, 192)), ("head.weight", ())],
)
def test_an_official_file_of_other_dimensions_is_refused(tmp_path, name, shape):
    state = official_state("tiny", classes=10, grid=2)
    torch.save({**state, name: torch.zeros(shape)}, tmp_path / "kat.pth")
    with pytest.raises(InputError, match="nor an official KAT's"):
        load_model(tmp_path / "kat.pth")


def test_a_file_of_something_else_is_no_model(tmp_path):
    path = tmp_path / "other.ckpt"
    torch.save({"weights": 1}, path)
    with pytest.raises(InputError, match=r"neither a checkpoint .* nor an official KAT's"):
        load_model(path)
    with pytest.raises(InputError, match="not a checkpoint that 'kat train' has written"):
        read_training_checkpoint(path)


def test_config_json_is_what_timm_expects(saved):
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "kat_micro"
    assert config["model_args"] == {
        "in_chans": 1,
        "img_size": [8, 8],
        "num_groups": 4,
        "patch_size": 2,
    }
    assert config["pretrained_cfg"]["input_size"] == [1, 8, 8]
