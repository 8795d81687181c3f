"""kat eval as a user calls it: several checkpoints, reports, other preprocessing, bad metrics."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest

from kat.models import load_model, save_model
from kat.training.evaluation.run_data import find_checkpoints
from tests.cli.commands import refused, run

pytestmark = pytest.mark.slow

QUIET = ["--no-progress", "--device", "cpu"]
DIGITS = ["--data.name", "digits", *QUIET]


@pytest.fixture
def models(digits_run, tmp_path):
    """A folder of checkpoints: a run's, a model's folder, a file, a damaged file, and others."""
    folder = tmp_path / "models"
    save_model(*load_model(digits_run), folder / "model10")
    shutil.copytree(digits_run, folder / "run9")
    shutil.copy(digits_run / "best.ckpt", folder / "alone.ckpt")
    (folder / "damaged.pth").write_bytes(b"torn")
    (folder / "notes.txt").write_text("")
    (folder / "empty").mkdir()
    return folder


def _row(path):
    return json.loads(path.read_text())


def test_a_folder_of_checkpoints_is_a_table(models, digits_run, tmp_path, capsys):
    names = ["alone.ckpt", "damaged.pth", "model10", "run9"]
    assert find_checkpoints([models]) == [models / name for name in names]
    out = [tmp_path / "rows.csv", tmp_path / "rows.json", tmp_path / "report"]
    common = ["eval", *DIGITS, "--csv", out[0], "--json", out[1], "--out", out[2]]
    assert run(*common, models) == 2
    captured = capsys.readouterr()
    assert "1 of 4" in captured.err
    assert str(models / "damaged.pth") in captured.out
    assert captured.out.count(" 360 ") == 3
    rows = list(csv.DictReader(out[0].open()))
    assert [row["checkpoint"] for row in rows] == [str(models / name) for name in names]
    assert "complete file" in rows[1]["error"]
    top1 = json.loads((digits_run / "summary.json").read_text())["top1"]
    for row in (rows[0], *rows[2:]):
        assert float(row["top1"]) == pytest.approx(top1, abs=1e-4)
    assert [str(row.get("top1", "")) for row in _row(out[1])] == [row["top1"] for row in rows]
    assert {path.name for path in out[2].iterdir()} == {"alone.ckpt", "model10", "run9"}
    assert all((out[2] / name / "confusion.png").is_file() for name in ("run9", "model10"))


def test_what_checkpoint_paths_stand_for(models, digits_run, capsys):
    run_folder = models / "run9"
    assert find_checkpoints([run_folder, run_folder]) == [run_folder]  # its best weights
    assert find_checkpoints([models / "empty"]) == [models / "empty"]
    for name in ("epoch=10.ckpt", "epoch=9.ckpt", ".hidden.ckpt"):
        (models / "empty" / name).touch()
    names = [path.name for path in find_checkpoints([models / "empty"])]
    assert names == ["epoch=9.ckpt", "epoch=10.ckpt"]
    files = [digits_run / "best.ckpt", digits_run / "last.ckpt"]  # each on its run's data
    assert run("eval", *files, *QUIET, "--limit", 60) == 0
    assert capsys.readouterr().out.count(" 60 ") == 2


def test_the_report_of_one_checkpoint(tmp_path, capsys):
    report = tmp_path / "report"
    assert run("eval", "digits", "--out", report, *QUIET) == 0
    printed = capsys.readouterr().out
    metrics = _row(report / "metrics.json")
    assert f"top-1 {metrics['top1']:.2f} %" in printed
    rows = list(csv.DictReader((report / "predictions.csv").open()))
    assert len(rows) == metrics["images"] == 360
    right = sum(row["label"] == row["class1"] for row in rows)
    assert 100 * right / 360 == pytest.approx(metrics["top1"])
    per_class = list(csv.DictReader((report / "per_class.csv").open()))
    f1 = [float(row["f1"]) for row in per_class]
    assert metrics["macro_f1"] == pytest.approx(np.mean(f1))
    confidence = [float(row["p1"]) for row in rows]
    assert metrics["mean_confidence"] == pytest.approx(np.mean(confidence), rel=1e-4)
    assert metrics["warning"] is None


def test_other_preprocessing_is_used_and_said(tmp_path, capsys):
    out = tmp_path / "metrics.json"
    common = ["eval", "digits", "--json", out, *QUIET]
    assert run(*common, "--crop-pct", 1.0, "--mean", "[0.3054]") == 0  # what is stored
    assert _row(out)["notes"] == []
    plain = _row(out)["top1"]
    assert run(*common, "--mean", "[0.9]", "--crop-pct", 0.5, "--interpolation", "nearest") == 0
    printed = capsys.readouterr().out
    assert "mean is (0.9,)" in printed
    assert "crop_pct is 0.5" in printed
    assert _row(out)["top1"] < plain - 10
    assert run(*common, "--image-size", 16) == 0
    assert "(1, 16, 16)" in capsys.readouterr().out
    assert "1 channels" in refused(capsys, *common, "--mean", "[1, 2]")


def test_bad_input_of_eval(digits_run, tmp_path, capsys):
    assert "ImageNet-1k" in refused(capsys, "eval", digits_run, "--real-labels", "timm")
    copy = tmp_path / "run"
    shutil.copytree(digits_run, copy)
    (copy / "run.yaml").write_text("data: 3")
    assert "run.yaml" in refused(capsys, "eval", copy)
