"""Models on disk."""

from __future__ import annotations

import dataclasses
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import safetensors.torch
import timm
import torch
from safetensors import safe_open

import kat
from kat.errors import InputError
from kat.models import build_model, load_model, read_training_checkpoint, save_model
from kat.models.checkpoints.model_record import constructor_arguments
from tests.damage import with_a_flipped_bit
from tests.models.published import official_state
from tests.models.small import make_record

RECORD = make_record()


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


def test_a_safetensors_file_beside_a_config_is_loaded_itself(saved):
    model, folder = saved
    with pytest.raises(InputError, match=r"other\.safetensors does not exist"):
        load_model(folder / "other.safetensors")
    with torch.no_grad():
        model.head.bias.add_(1)
    safetensors.torch.save_file(model.state_dict(), folder / "other.safetensors")
    loaded, record = load_model(folder / "other.safetensors")
    assert torch.equal(loaded.head.bias, model.head.bias)
    assert record.classes == RECORD.classes


def test_weights_and_config_have_the_same_permissions(saved):
    _, folder = saved
    weights, config = ((folder / name).stat() for name in ("model.safetensors", "config.json"))
    assert weights.st_mode == config.st_mode


def test_timm_loads_the_folder_as_local_dir(saved):
    model, folder = saved
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded(x), model(x))
    assert loaded.pretrained_cfg["label_names"] == RECORD.classes


def test_a_model_does_not_depend_on_the_file_of_its_coefficients(tmp_path):
    file = tmp_path / "fitted.json"
    file.write_text(json.dumps(kat.nn.preset("mish").to_dict()))
    args = {"act_init": str(file)}
    record = replace(RECORD, args=args)
    model = build_model(record).eval()
    assert model.blocks[0].mlp.act2.initial_coefficients() == kat.nn.preset("mish")
    file.unlink()
    save_model(model, record, tmp_path / "model")
    loaded, again = load_model(tmp_path / "model")
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded(x), model(x))
    assert again.args["act_init"] == kat.nn.preset("mish").to_dict()
    assert args == {"act_init": str(file)}
    loaded = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    assert torch.equal(loaded(x), model(x))


def test_weights_of_another_model_are_listed(saved):
    _, folder = saved
    other = build_model(make_record(num_groups=8))
    safetensors.torch.save_file(other.state_dict(), folder / "model.safetensors")
    with pytest.raises(InputError, match=r"4 of another shape .*\(8, 4\) for \(4, 4\)"):
        load_model(folder)


def test_no_changed_bit_of_the_weights_is_overlooked(saved):
    model, folder = saved
    path = folder / "model.safetensors"
    content = path.read_bytes()
    with safe_open(path, "pt") as file:
        assert set(file.metadata()) == {"format", "sha256"}
    for changed in with_a_flipped_bit(content, 80, start=1):
        path.write_bytes(changed)
        with pytest.raises(InputError, match=r"model\.safetensors"):
            load_model(folder)
    safetensors.torch.save_file(model.state_dict(), path)  # by another program
    load_model(folder)


def _set_crop_pct_to_0(folder):
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"crop_pct": 0.9', '"crop_pct": 0'))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "holds no model"),
        (lambda f: (f / "model.safetensors").write_bytes(b"12345678"), "not a complete safetens"),
        (lambda f: (f / "config.json").unlink(), r"config\.json does not exist"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "config.json").write_text("{}"), "no valid entry 'pretrained_cfg'"),
        (_set_crop_pct_to_0, r"config\.json: crop_pct must be a number from 0.01 to 100"),
    ],
)
def test_damaged_folders_are_named(saved, damage, message):
    _, folder = saved
    damage(folder)
    with pytest.raises(InputError, match=message):
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


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.ckpt"
    torch.save({"weights": 1}, path)
    with pytest.raises(InputError, match=r"neither a checkpoint .* nor an official KAT's"):
        load_model(path)
    with pytest.raises(InputError, match="not a checkpoint that 'kat train' has written"):
        read_training_checkpoint(path)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server on this machine: its address, and the paths that were asked of it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/w.pth", asked
        running.shutdown()


def test_a_stored_model_makes_nothing_be_fetched_or_read(saved, server):
    _, folder = saved
    url, asked = server
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for given, message in (
        ({"pretrained": True, "pretrained_cfg_overlay": {"url": url}}, "argument .* 'pretrained"),
        ({"pretrained": True, "pretrained_cfg": {"url": url}}, "argument .* 'pretrained"),
        ({"checkpoint_path": "/etc/passwd"}, "argument of kat_micro 'checkpoint_path'"),
        ({"act_init": "/etc/passwd.json"}, "act_init must be a preset or coefficients"),
        ({"first_init": "/etc/passwd.json"}, "first_init must be a preset or coefficients"),
        ({"num_group": 4}, "'num_group'; did you mean 'num_groups'"),
        ({"depth": 10**9}, "depth must be at most 1024 in a stored model, got 1000000000"),
    ):
        path.write_text(json.dumps({**config, "model_args": {**config["model_args"], **given}}))
        with pytest.raises(InputError, match=message):
            load_model(folder)
    for name in ("hf-hub:owner/name", f"local-dir:{folder}"):
        path.write_text(json.dumps({**config, "architecture": name}))
        with pytest.raises(InputError, match="architecture must be a name in timm's registry"):
            load_model(folder)
    assert asked == []


def test_a_checkpoint_makes_nothing_be_fetched(tmp_path, server):
    url, asked = server
    fields = dataclasses.asdict(RECORD)
    fields["args"] |= {"pretrained": True, "pretrained_cfg_overlay": {"url": url}}
    torch.save({"record": fields, "state_dict": {}}, tmp_path / "best.ckpt")
    with pytest.raises(InputError, match="unknown argument of kat_micro 'pretrained"):
        load_model(tmp_path)
    assert asked == []


@pytest.mark.parametrize(
    "name", ["kat_det_micro", "kat_upernet_micro", "vit_kan_micro", "resnet18"]
)
def test_the_arguments_of_a_record_are_those_of_its_model(name):
    known = constructor_arguments(name)
    expected = {
        "kat_det_micro": {"rcnn", "window", "num_groups", "act_init", "qkv_bias"},
        "kat_upernet_micro": {"auxiliary", "num_groups", "dynamic_img_size"},
        "vit_kan_micro": {"grid", "kan_init", "depth"},
        "resnet18": {"block", "layers", "drop_rate"},
    }
    assert expected[name] <= known
    assert not [one for one in known if one.startswith(("pretrained_cfg", "checkpoint", "cache"))]
    assert not {"pretrained", "scriptable", "features_only"} & known


def test_tied_coefficients_are_stored_under_both_names(tmp_path):
    record = make_record()
    model = build_model(record)
    mlp = model.blocks[0].mlp
    mlp.act2.weight_denominator = mlp.act1.weight_denominator
    save_model(model, record, tmp_path)
    again, _ = load_model(tmp_path)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
