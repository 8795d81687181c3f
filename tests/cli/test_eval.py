"""kat eval as a user calls it: several checkpoints, reports, other preprocessing, bad metrics."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import yaml
from PIL import Image
from timm.data import ImageNetInfo

from kat.cli.eval import find_checkpoints
from kat.models import load_model, save_model
from tests.cli.commands import refused, run
from tests.images import write_folder
from tests.records import RECORD

pytestmark = pytest.mark.slow

QUIET = ["--no-progress", "--device", "cpu"]
DIGITS = ["--data.name", "digits", *QUIET]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a short run on digits."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    code = run(
        "train", "--config", "digits", "--out", out, "--epochs", 3, "--optim.warmup_epochs", 1,
        "--no-progress",
    )  # fmt: skip
    assert code == 0
    return out


@pytest.fixture
def models(trained, tmp_path):
    """A folder of checkpoints: a run's, a model's folder, a file, a damaged file, and others."""
    folder = tmp_path / "models"
    model, record = load_model(trained)
    save_model(model, record, folder / "model10")
    shutil.copytree(trained, folder / "run9")
    shutil.copy(trained / "best.ckpt", folder / "alone.ckpt")
    (folder / "damaged.pth").write_bytes(b"torn")
    (folder / "notes.txt").write_text("")
    (folder / "empty").mkdir()
    return folder


def _altered(trained, folder, change, **replaced):
    """A copy of the trained model whose weights and record are changed."""
    model, record = load_model(trained)
    with torch.no_grad():
        change(model)
    for name, value in replaced.items():
        setattr(record, name, value)
    save_model(model, record, folder)
    return folder


def _row(path):
    return json.loads(path.read_text())


def test_a_folder_of_checkpoints_is_a_table(models, trained, tmp_path, capsys):
    names = ["alone.ckpt", "damaged.pth", "model10", "run9"]
    assert find_checkpoints([models]) == [models / name for name in names]
    out = [tmp_path / "rows.csv", tmp_path / "rows.json", tmp_path / "report"]
    common = ["eval", *DIGITS, "--csv", out[0], "--json", out[1], "--out", out[2]]
    assert run(*common, models) == 2
    captured = capsys.readouterr()
    assert f"1 of 4 checkpoints cannot be evaluated, first {models / 'damaged.pth'}" in captured.err
    assert "images/s" in captured.out
    assert f"{models / 'damaged.pth'}: {models / 'damaged.pth'} is not a complete" in captured.out
    assert captured.out.count(" 360 ") == 3
    rows = list(csv.DictReader(out[0].open()))
    assert [row["checkpoint"] for row in rows] == [str(models / name) for name in names]
    assert "is not a complete file of torch.save" in rows[1]["error"]
    top1 = json.loads((trained / "summary.json").read_text())["top1"]
    for row in (rows[0], *rows[2:]):
        assert float(row["top1"]) == pytest.approx(top1, abs=1e-4)
        assert float(row["images_per_second"]) > 0
        assert 0 < float(row["ece"]) < 1
    assert [row.get("top1") for row in _row(out[1])] == [
        float(row["top1"]) if row["top1"] else None for row in rows
    ]
    assert {path.name for path in out[2].iterdir()} == {"alone.ckpt", "model10", "run9"}
    assert all((out[2] / name / "confusion.png").is_file() for name in ("run9", "model10"))


def test_several_checkpoints_are_each_on_their_runs_data(trained, capsys):
    files = [trained / "best.ckpt", trained / "last.ckpt"]
    assert run("eval", *files, *QUIET, "--limit", 60) == 0
    printed = capsys.readouterr().out
    assert printed.count("digits") >= 2
    assert printed.count(" 60 ") == 2


def test_what_checkpoint_paths_stand_for(models, trained, tmp_path):
    run_folder = models / "run9"
    assert find_checkpoints([run_folder]) == [run_folder]  # its best weights
    assert find_checkpoints([run_folder, run_folder]) == [run_folder]
    assert find_checkpoints([models / "empty"]) == [models / "empty"]
    for name in ("epoch=10.ckpt", "epoch=9.ckpt", ".hidden.ckpt"):
        (models / "empty" / name).touch()
    names = [path.name for path in find_checkpoints([models / "empty"])]
    assert names == ["epoch=9.ckpt", "epoch=10.ckpt"]


def test_the_report_of_one_checkpoint(trained, tmp_path, capsys):
    report = tmp_path / "report"
    assert run("eval", trained, "--out", report, *QUIET) == 0
    printed = capsys.readouterr().out
    metrics = _row(report / "metrics.json")
    assert f"top-1 {metrics['top1']:.2f} %" in printed
    assert f"ECE {metrics['ece']:.4f}" in printed
    assert "worst classes: " in printed
    rows = list(csv.DictReader((report / "predictions.csv").open()))
    assert len(rows) == metrics["images"] == 360
    right = sum(row["label"] == row["class1"] for row in rows)
    assert 100 * right / 360 == pytest.approx(metrics["top1"])
    per_class = list(csv.DictReader((report / "per_class.csv").open()))
    worst = min(per_class, key=lambda row: float(row["accuracy"]))
    assert f"worst classes: {worst['class']} {float(worst['accuracy']):.1f} %" in printed
    matrix = np.loadtxt(report / "confusion.csv", delimiter=",", skiprows=1, dtype=int)[:, 1:]
    assert np.trace(matrix) == right
    confidence = np.array([float(row["p1"]) for row in rows])
    assert metrics["mean_confidence"] == pytest.approx(confidence.mean(), rel=1e-4)
    assert metrics["warning"] is None
    assert run("eval", trained, "--out", report, *QUIET) == 0  # replaces them


def test_other_preprocessing_is_used_and_said(trained, tmp_path, capsys):
    out = tmp_path / "metrics.json"
    common = ["eval", trained, "--json", out, *QUIET]
    assert run(*common, "--crop-pct", 1.0, "--mean", "[0.3054]") == 0  # what is stored
    assert _row(out)["notes"] == []
    plain = _row(out)["top1"]
    assert run(*common, "--mean", "[0.9]", "--crop-pct", 0.5, "--interpolation", "nearest") == 0
    printed = capsys.readouterr().out
    assert "note: mean is (0.9,), but the checkpoint's record has (0.3054,)" in printed
    assert "note: crop_pct is 0.5, but the checkpoint's record has 1.0" in printed
    assert _row(out)["top1"] < plain - 10
    assert run(*common, "--image-size", 16) == 0
    assert "input_size is (1, 16, 16), but the checkpoint's record" in capsys.readouterr().out
    line = refused(capsys, *common, "--mean", "[1, 2]")
    assert "must have one number for each of the 1 channels" in line


def test_a_permuted_head_is_warned_of(trained, tmp_path, capsys):
    def rotate(model):
        for parameter in (model.head.weight, model.head.bias):
            parameter.copy_(parameter.roll(3, 0).clone())

    folder = _altered(trained, tmp_path / "permuted", rotate)
    assert run("eval", folder, *DIGITS) == 0
    printed = capsys.readouterr().out
    assert "warning: top-1 " in printed
    assert "cannot be told from chance, which is 10.00 % with 10 classes: the class" in printed


def test_missing_keys_and_layers_that_are_not_finite_are_named(trained, tmp_path, capsys):
    folder = _altered(trained, tmp_path / "lacking", lambda model: None)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    del weights["blocks.1.mlp.fc1.weight"]
    safetensors.torch.save_file(weights, folder / "lacking.safetensors")
    line = refused(capsys, "eval", folder / "lacking.safetensors", *DIGITS)
    assert "1 missing (blocks.1.mlp.fc1.weight)" in line

    def poison(model):
        model.blocks[2].attn.proj.weight[0, 0] = torch.inf

    folder = _altered(trained, tmp_path / "poisoned", poison)
    line = refused(capsys, "eval", folder, *DIGITS)
    assert f"the logits of {folder} are not finite" in line
    assert "blocks.2.attn.proj.weight[0, 0] is inf" in line


def test_a_model_without_class_names_is_said_to_be_matched_by_position(trained, tmp_path, capsys):
    """A model without class names, on folders whose alphabetical order is not its own."""
    model = timm.create_model("resnet18", num_classes=4)
    config = {
        "architecture": "resnet18", "num_classes": 4,
        "pretrained_cfg": {
            "input_size": [3, 32, 32], "interpolation": "bicubic", "crop_pct": 0.875,
            "mean": [0.5] * 3, "std": [0.5] * 3,
        },
    }  # fmt: skip
    folder = tmp_path / "model"
    folder.mkdir()
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(0)
    for name in ("ant", "bee", "cat", "dog"):
        (tmp_path / "data" / "val" / name).mkdir(parents=True)
        for index in range(10):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / "val" / name / f"{index}.png")
    data = ["--data.name", f"folder:{tmp_path / 'data'}", *QUIET]
    assert run("eval", folder, *data) == 0
    printed = capsys.readouterr().out
    assert "note: one side has numbers instead of class names, so the names were" in printed


def test_real_labels_are_scored_beside_the_others(tmp_path, capsys):
    write_folder(tmp_path / "data", classes=2, train=0, val=2)
    synsets = ImageNetInfo().label_names()
    number = 0
    for label in range(2):
        old = tmp_path / "data" / "val" / f"n{label:02}"
        for path in sorted(old.iterdir()):
            number += 1
            path.rename(old / f"ILSVRC2012_val_{number:08d}.JPEG")
        old.rename(old.with_name(synsets[label]))
    real = tmp_path / "real.json"
    real.write_text(json.dumps([[0, 1], [], [0, 1], [0, 1], *([[]] * 49_996)]))
    model = timm.create_model("vit_micro_patch4_28", in_chans=3, num_classes=2)
    three = {"input_size": (3, 28, 28), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    record = replace(RECORD, architecture="vit_micro_patch4_28", classes=synsets[:2], **three)
    save_model(model, record, tmp_path / "model")
    common = ["eval", tmp_path / "model", *QUIET]
    data = ["--data.name", f"folder:{tmp_path / 'data'}"]
    assert run(*common, *data, "--real-labels", real) == 0
    assert "real labels: top-1 100.00 %, top-5 100.00 % on 3 images" in capsys.readouterr().out
    line = refused(capsys, *common, "--data.name", "digits", "--real-labels", "timm")
    assert "real labels exist for ImageNet-1k only" in line
    line = refused(capsys, *common, *data, "--real-labels", tmp_path / "absent.json")
    assert "absent.json does not exist" in line


def test_a_damaged_run_yaml_is_named(trained, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    (copy / "run.yaml").write_text(yaml.safe_dump({"data": 3}))
    assert "does not hold the settings of a run" in refused(capsys, "eval", copy)


def test_options_of_other_tasks_are_refused(trained, tmp_path, capsys):
    for option, *value in (("--window", 32), ("--flip",), ("--stride", 8)):
        line = refused(capsys, "eval", trained, option, *value)
        assert f"{option} has no effect on a model for classification" in line
    line = refused(capsys, "predict", "x.png", "--checkpoint", trained, "--threshold", 0.4)
    assert "--threshold has no effect on a model for classification" in line
