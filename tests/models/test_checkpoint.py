"""Models on disk."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import timm
import torch

import kat
from kat.errors import InputError
from kat.models import ModelRecord, build_model, init_from_vit, load_model, save_model

RECORD = ModelRecord(
    architecture="kat_micro",
    args={"num_groups": 4, "patch_size": 2},
    classes=["cat", "dog", "eel"],
    input_size=(1, 8, 8),
    mean=(0.3,),
    std=(0.4,),
    interpolation="bicubic",
    crop_pct=1.0,
)


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
    record = ModelRecord(**{**RECORD.__dict__, "args": args})
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
    other = build_model(ModelRecord(**{**RECORD.__dict__, "args": {"patch_size": 2}}))
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


def test_a_pickle_with_code_is_refused(tmp_path):
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "hook": print}, path)
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load_model(path)
    torch.save([1, 2], path)
    with pytest.raises(InputError, match="holds a list, not a checkpoint"):
        load_model(path)
    torch.save({"weights": 1}, path)
    with pytest.raises(InputError, match="not a checkpoint that 'kat train' has written"):
        load_model(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_init_from_a_vit_carries_everything_but_the_rationals(tmp_path, suffix):
    vit = timm.create_model("vit_micro", act_layer="silu")
    path = tmp_path / f"vit{suffix}"
    if suffix == ".pth":
        torch.save({"model": {f"module.{k}": v for k, v in vit.state_dict().items()}}, path)
    else:
        safetensors.torch.save_file(vit.state_dict(), path)
    model = timm.create_model("kat_micro", act_init="silu").eval()
    fresh = init_from_vit(model, str(path))
    assert set(fresh) == kat.models.rational_parameter_names(model)
    x = torch.randn(4, 3, 32, 32)
    expected = vit.eval()(x)
    assert (model(x) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_init_from_a_vit_of_another_image_size_and_class_count(tmp_path):
    vit = timm.create_model("vit_micro", num_classes=21)
    path = tmp_path / "vit.safetensors"
    safetensors.torch.save_file(vit.state_dict(), path)
    model = timm.create_model("kat_micro", img_size=48)
    before = model.head.weight.detach().clone()
    fresh = init_from_vit(model, str(path))
    assert {"head.weight", "head.bias"} <= set(fresh)
    assert torch.equal(model.head.weight, before)
    assert torch.equal(model.cls_token, vit.cls_token)


def test_init_from_a_vit_of_another_width_leaves_the_model_untouched(tmp_path):
    path = tmp_path / "vit.safetensors"
    safetensors.torch.save_file(timm.create_model("vit_micro", embed_dim=32).state_dict(), path)
    model = timm.create_model("kat_micro")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match="holds the weights of another model"):
        init_from_vit(model, str(path))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_init_from_nothing_known(tmp_path):
    model = timm.create_model("kat_micro")
    with pytest.raises(InputError, match=r"nor is there a file of this name.*'vit_micr'"):
        init_from_vit(model, "vit_micr")
    resnet = tmp_path / "resnet.safetensors"
    safetensors.torch.save_file({"conv1.weight": torch.zeros(2)}, resnet)
    with pytest.raises(InputError, match="does not hold a ViT"):
        init_from_vit(model, str(resnet))


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
