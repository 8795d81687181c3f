"""kat eval --calibrate: the classifier of a run, and what is exported from it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import timm

import kat
from kat.errors import InputError
from kat.models import ModelRecord
from kat.training.tasks.classification.temperature import divide_logits
from tests.cli.commands import refused, run


@pytest.fixture
def folder(digits_run, tmp_path):
    return shutil.copytree(digits_run, tmp_path / "run")


def test_a_calibrated_run_has_its_logits_divided_everywhere(folder, tmp_path, capsys):
    best = (folder / "best.ckpt").read_bytes()
    before = kat.evaluate(folder, device="cpu", keep_logits=True)
    assert run("eval", folder, "--calibrate", "--out", tmp_path / "table") == 0
    assert "calibrated with temperature" in capsys.readouterr().out
    after = kat.evaluate(folder, device="cpu", keep_logits=True)
    calibration = kat.load(folder).record.calibration
    divided = before.predictions.logits / calibration["temperature"]
    np.testing.assert_allclose(after.predictions.logits, divided, rtol=1e-4, atol=1e-5)
    assert calibration["ece_before"] == before.metrics["ece"]
    assert calibration["ece_after"] == pytest.approx(after.metrics["ece"], abs=0.03)
    assert after.metrics["loss"] < before.metrics["loss"]
    assert calibration["images"] == 360
    assert run("export", folder, "--out", tmp_path / "model.pt2") == 0
    assert kat.load(tmp_path / "model.pt2", trust=True).record.calibration == calibration
    assert (folder / "best.ckpt").read_bytes() == best
    assert run("report", folder) == 0
    assert "is calibrated with temperature" in (folder / "report.html").read_text()
    again = kat.calibrate(folder, device="cpu").details["calibrated"]
    assert again == pytest.approx(calibration, rel=1e-3)


def test_what_cannot_be_calibrated_is_left_as_it_was(folder, tmp_path, capsys):
    assert "a finished run" in refused(capsys, "eval", folder / "best.ckpt", "--calibrate")
    assert "takes one RUN" in refused(capsys, "eval", folder, folder, folder / "x", "--calibrate")
    for options in (["--limit", 9], ["--crop-pct", 0.5], ["--image-size", 16]):
        message = refused(capsys, "eval", folder, "--calibrate", *options)
        assert "has no effect beside --calibrate" in message
    assert kat.load(folder).record.calibration is None


def test_a_model_with_logits_of_two_layers_is_refused():
    model = timm.create_model("volo_d1_224", num_classes=4, img_size=64).eval()
    half = 0.5, 0.5, 0.5
    record = ModelRecord("volo_d1_224", list("abcd"), (3, 64, 64), half, half, "bicubic", 1.0)
    with pytest.raises(InputError, match="last layer is not linear"):
        divide_logits(model, record, 2.0)
