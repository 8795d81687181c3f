"""Models on disk, and their records."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from contextlib import suppress
from dataclasses import replace

import pytest
import safetensors.torch
import timm
import torch
from safetensors import safe_open

import kat
from kat.errors import InputError
from kat.models import (
    ModelRecord,
    build_model,
    load_model,
    read_state_dict,
    read_training_checkpoint,
    read_vit,
    save_model,
)
from kat.models.checkpoints.checksum import write_checksum
from tests.damage import with_a_flipped_bit
from tests.equality import assert_equal
from tests.models.small import ARGS, make_record, record_of

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
    with pytest.raises(InputError, match="does not exist"):
        load_model(folder / "other.safetensors")
    with torch.no_grad():
        model.head.bias.add_(1)
    safetensors.torch.save_file(model.state_dict(), folder / "other.safetensors")
    loaded, record = load_model(folder / "other.safetensors")
    assert torch.equal(loaded.head.bias, model.head.bias)
    assert record.classes == RECORD.classes


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


def test_no_changed_bit_of_the_weights_is_overlooked(saved):
    _, folder = saved
    path = folder / "model.safetensors"
    content = path.read_bytes()
    with safe_open(path, "pt") as file:
        assert set(file.metadata()) == {"format", "sha256"}
    for changed in with_a_flipped_bit(content, 80, start=1):
        path.write_bytes(changed)
        with pytest.raises(InputError, match=r"model\.safetensors"):
            load_model(folder)


def _flipped(content, start, stop):
    """Copies of a file, each with one bit flipped between two places."""
    for bit in range(8 * start, 8 * stop):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        yield changed


def test_a_flipped_bit_in_the_name_of_the_checksum_does_not_switch_it_off(saved):
    """Beside a damaged weight, which would predict."""
    _, folder = saved
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40
    start = content.index(b'"sha256"')
    for changed in _flipped(content, start, start + len(b'"sha256":"')):
        path.write_bytes(changed)
        for read, source in ((load_model, folder), (read_state_dict, path), (read_vit, path)):
            with pytest.raises(InputError, match=r"model\.safetensors"):
                read(source)


def test_a_flipped_bit_in_the_checksum_of_the_record_hides_no_damage(saved):
    model, folder = saved
    weights, config = folder / "model.safetensors", folder / "config.json"
    intact, record = weights.read_bytes(), config.read_bytes()
    damaged = intact[:-1] + bytes([intact[-1] ^ 0x40])
    start = record.index(b'"sha256"')
    for changed in _flipped(record, start, start + 14):
        config.write_bytes(changed)
        weights.write_bytes(damaged)
        with pytest.raises(InputError):
            load_model(folder)
        weights.write_bytes(intact)
        with suppress(InputError):
            assert torch.equal(load_model(folder)[0].head.bias, model.head.bias)


def test_weights_that_another_program_put_beside_the_record_are_refused(saved, capsys):
    model, folder = saved
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    with pytest.raises(InputError, match="another program"):
        load_model(folder)
    record = json.loads((folder / "config.json").read_text())
    del record["sha256"]
    (folder / "config.json").write_text(json.dumps(record))
    load_model(folder)
    assert capsys.readouterr().err.count("\n") == 1


def test_files_without_a_checksum_load_with_a_warning(saved, capsys):
    model, folder = saved
    load_model(folder)
    load_model(folder / "model.safetensors")
    assert capsys.readouterr().err == ""
    shutil.copy(folder / "model.safetensors", folder / "ours.safetensors")
    read_state_dict(folder / "ours.safetensors")
    assert capsys.readouterr().err == ""
    bare = folder / "bare.safetensors"
    safetensors.torch.save_file(model.state_dict(), bare)
    for read in (load_model, read_state_dict):
        read(bare)
        line = f"warning: {bare} has no checksum, so damage to its weights would not be noticed\n"
        assert capsys.readouterr().err == line


class Killed(BaseException):
    """In the place of SIGKILL: nothing catches it."""


def _save_until(monkeypatch, renaming, *arguments):
    """Saves a model in a process that ends before a file takes its place the n-th time."""
    replace, left = os.replace, iter(range(renaming - 1))

    def counted(source, target):
        if next(left, None) is None:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", counted)
        with pytest.raises(Killed):
            save_model(*arguments)


def _two_models():
    """Of the same shapes, but with other names for the classes."""
    for seed, classes in enumerate((["ant", "bee", "cat"], ["cat", "ant", "bee"])):
        torch.manual_seed(seed)
        record = replace(RECORD, classes=classes)
        yield build_model(record).eval(), record


def test_a_folder_whose_writer_is_killed_holds_one_of_the_models(tmp_path, monkeypatch):
    (first, of_first), (second, of_second) = _two_models()
    known = {}
    for model, record in ((first, of_first), (second, of_second)):
        known[model.head.weight[0, 0].item()] = record.classes
    for renaming in (1, 2, 3):
        folder = tmp_path / str(renaming)
        save_model(first, of_first, folder)
        for again in (renaming, 2):  # the second time in what the first has left
            _save_until(monkeypatch, again, second, of_second, folder)
            model, record = load_model(folder)
            assert known[model.head.weight[0, 0].item()] == record.classes
        save_model(second, of_second, folder)
        model, record = load_model(folder)
        assert torch.equal(model.head.weight, second.head.weight)
        assert record.classes == of_second.classes
        assert "previous" not in json.loads((folder / "config.json").read_text())


def test_a_run_whose_end_is_killed_between_the_files_still_has_its_checkpoint(
    saved, tmp_path, monkeypatch
):
    model, _ = saved
    out = tmp_path / "run"
    out.mkdir()
    content = {"record": dataclasses.asdict(RECORD), "state_dict": model.state_dict()}
    torch.save(content, out / "best.ckpt")
    _save_until(monkeypatch, 2, model, RECORD, out)
    assert (out / "config.json").is_file()
    assert torch.equal(load_model(out)[0].head.bias, model.head.bias)


def test_a_checkpoint_that_has_lost_its_checksum_is_refused(saved):
    model, folder = saved
    path = folder / "best.ckpt"
    content = {"record": dataclasses.asdict(RECORD), "state_dict": model.state_dict()}
    torch.save({**content, "run_id": "1"}, path)
    write_checksum(path)
    load_model(path)
    read_training_checkpoint(path)
    intact = path.read_bytes()
    for changed in _flipped(intact, len(intact) - 71, len(intact) - 64):
        path.write_bytes(changed)
        for read in (load_model, read_training_checkpoint):
            with pytest.raises(InputError, match=r"best\.ckpt is "):
                read(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "holds no model"),
        (lambda f: (f / "config.json").unlink(), r"config\.json does not exist"),
        (lambda f: (f / "config.json").write_text("{}"), "has no entry pretrained_cfg"),
    ],
)
def test_damaged_folders_are_named(saved, damage, message):
    _, folder = saved
    damage(folder)
    with pytest.raises(InputError, match=message):
        load_model(folder)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.ckpt"
    torch.save({f"rational.{i}": torch.ones(6) for i in range(4)}, path)
    message = r"neither a checkpoint .* nor an official KAT's.* rational\.2 and 1 more"
    with pytest.raises(InputError, match=message):
        load_model(path)
    with pytest.raises(InputError, match="not a checkpoint"):
        read_training_checkpoint(path)


def test_a_stored_model_makes_nothing_be_fetched_or_read(saved):
    _, folder = saved
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for given, message in (
        ({"pretrained": True}, "pretrained is an argument of timm"),
        ({"pretrained_cfg": {"url": "http"}}, "pretrained_cfg is an argument of timm"),
        ({"checkpoint_path": "/etc/passwd"}, "checkpoint_path is an argument of timm"),
        ({"act_init": "/etc/passwd.json"}, "act_init must not be the path of a file"),
        ({"first_init": "/etc/passwd.json"}, "first_init must not be the path of a file"),
        ({"depth": 10**9}, "says depth=1000000000"),
    ):
        path.write_text(json.dumps({**config, "model_args": {**config["model_args"], **given}}))
        with pytest.raises(InputError, match=message):
            load_model(folder)
    for name in ("hf-hub:owner/name", f"local-dir:{folder}"):
        path.write_text(json.dumps({**config, "architecture": name}))
        with pytest.raises(InputError, match="unknown model '"):
            load_model(folder)


def test_a_record_that_asks_for_more_than_its_weights_is_refused_before_memory_is_taken(saved):
    _, folder = saved
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["model_args"]["embed_dim"] = 1 << 20  # 13 TB in each block
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match="another model"):
        load_model(folder)


def test_tied_coefficients_are_stored_under_both_names(tmp_path):
    model = build_model(RECORD)
    mlp = model.blocks[0].mlp
    mlp.act2.weight_denominator = mlp.act1.weight_denominator
    save_model(model, RECORD, tmp_path)
    again, _ = load_model(tmp_path)
    assert_equal(again.state_dict(), model.state_dict())


def test_config_json_is_what_timm_expects():
    config = json.loads(json.dumps(RECORD.to_timm()))
    assert config["architecture"] == "kat_micro"
    assert config["model_args"] == {"in_chans": 1, "img_size": [8, 8], **ARGS}
    assert config["pretrained_cfg"]["input_size"] == [1, 8, 8]
    assert ModelRecord.from_timm(config) == RECORD


@pytest.mark.parametrize("name", ["kat_micro", "kat_det_micro"])
def test_a_misspelt_argument_is_named_with_the_nearest(name):
    with pytest.raises(InputError, match="'num_groups'"):
        record_of(name, (3, 8, 8), {"num_group": 4})
