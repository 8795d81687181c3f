"""Records of models that were edited by hand: refused with the name of the field, exit code 2."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest
import torch

from kat.models import save_model
from kat.models.checkpoints.checksum import write_checksum
from tests.cli.commands import refused
from tests.images import picture
from tests.models.small import make_model

EDITS = [
    ("crop_pct", 0),
    ("crop_pct", 3),
    ("crop_pct", "all"),
    ("std", [math.inf]),
    ("std", [-0.5]),
    ("std", [0.0]),
    ("std", None),
    ("mean", "0.5"),
    ("mean", [math.nan]),
    ("mean", [0.5, 0.5, 0.5]),
    ("interpolation", "zzz"),
    ("interpolation", None),
    ("input_size", [1, 10**9, 10**9]),
    ("input_size", [1, 8]),
    ("input_size", [0, 8, 8]),
    ("input_size", 8),
    ("classes", "abc"),
    ("classes", [1, 2, 3]),
    ("architecture", None),
    ("args", "depth=2"),
    ("depth", 1000),
    ("category_ids", "1, 2, 3"),
    ("calibration", {"temperature": "1"}),
]
NAMES = {"classes": "label_names", "args": "model_args"}
"""Fields with another name in config.json."""
OF_FILES = [("image_size_step", 2), ("task", "regression"), ("run", None)]
"""Entries that only the record of an exported file has."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model as a folder, its record and its weights; beside a picture."""
    folder = tmp_path_factory.mktemp("saved")
    model, record = make_model(depth=1)
    save_model(model, record, folder / "model")
    (folder / "picture.png").write_bytes(picture())
    return folder, model, record


def _edited(config, name, value):
    """The content of config.json with another value of a field."""
    edited = json.loads(json.dumps(config))
    entry = NAMES.get(name, name)
    places = [edited["pretrained_cfg"], edited["model_args"], edited]
    place = next((place for place in places if entry in place), edited)
    place[entry] = value
    return edited


@pytest.mark.parametrize(("name", "value"), EDITS)
def test_an_edited_checkpoint_is_refused(saved, tmp_path, capsys, name, value):
    folder, model, record = saved
    fields = asdict(record)
    (fields["args"] if name == "depth" else fields)[name] = value
    path = tmp_path / "best.ckpt"
    torch.save({"record": fields, "state_dict": model.state_dict()}, path)
    for given in (
        ["predict", folder / "picture.png", "--checkpoint"],
        ["eval", "--data", "digits"],
    ):
        message = refused(capsys, *given, path)
        assert str(path) in message
        assert name in message
    assert len(message) < 500


@pytest.mark.parametrize(("name", "value"), [*EDITS, ("pretrained_cfg", None)])
def test_an_edited_config_is_refused(saved, tmp_path, capsys, name, value):
    folder, model, record = saved
    save_model(model, record, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(_edited(json.loads(path.read_text()), name, value)))
    message = refused(capsys, "predict", folder / "picture.png", "--checkpoint", tmp_path)
    assert str(tmp_path) in message
    assert name in message


def test_a_number_of_classes_that_no_memory_holds_is_refused(saved, tmp_path, capsys):
    folder, model, record = saved
    save_model(model, record, tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"label_names": None, "num_classes": 10**12}))
    message = refused(capsys, "predict", folder / "picture.png", "--checkpoint", tmp_path)
    assert f"{path}: num_classes must be" in message


@pytest.mark.parametrize("name", [*asdict(make_model(depth=1)[1])][:7])
def test_a_missing_field_is_named(saved, tmp_path, capsys, name):
    folder, model, record = saved
    fields = asdict(record)
    del fields[name]
    path = tmp_path / "best.ckpt"
    torch.save({"record": fields, "state_dict": model.state_dict()}, path)
    message = refused(capsys, "predict", folder / "picture.png", "--checkpoint", path)
    assert f"{path}: {name} must be" in message


@pytest.fixture(scope="module")
def exported(saved):
    """The content of an .onnx file."""
    onnx = pytest.importorskip("onnx")
    from kat.deploy import export_model

    folder, model, record = saved
    export_model(model, record, folder / "model.onnx")
    return onnx.load(folder / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"), [*(edit for edit in EDITS if edit[0] != "depth"), *OF_FILES]
)
def test_an_edited_exported_file_is_refused(saved, exported, tmp_path, capsys, name, value):
    import onnx

    folder, _, _ = saved
    path, proto = tmp_path / "model.onnx", onnx.ModelProto()
    proto.CopyFrom(exported)
    (entry,) = (entry for entry in proto.metadata_props if entry.key == "kat")
    entry.value = json.dumps(_edited(json.loads(entry.value), name, value))
    onnx.save(proto, path)
    write_checksum(path)
    message = refused(capsys, "predict", folder / "picture.png", "--checkpoint", path)
    assert f"{path}: " in message
    assert name in message
