"""kat eval --calibrate: the classifier of a run, and what is exported from it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import kat
from kat.errors import InputError
from tests.cli.commands import run


def test_a_calibrated_run_has_its_logits_divided_everywhere(digits_run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(digits_run, folder)
    best = (folder / "best.ckpt").read_bytes()
    before = kat.evaluate(folder, device="cpu", keep_logits=True)
    assert run("eval", folder, "--calibrate", "--out", tmp_path / "table") == 0
    assert "calibrated with temperature" in capsys.readouterr().out
    after = kat.evaluate(folder, device="cpu", keep_logits=True)
    calibration = kat.load(folder).record.calibration
    divided = before.predictions.logits / calibration["temperature"]
    np.testing.assert_allclose(after.predictions.logits, divided, rtol=1e-4, atol=1e-5)
    assert calibration["ece_before"] == before.metrics["ece"] > after.metrics["ece"]
    assert calibration["ece_after"] == pytest.approx(after.metrics["ece"], abs=0.03)
    assert calibration["images"] == 360
    assert run("export", folder, "--out", tmp_path / "model.onnx") == 0
    exported = kat.load(tmp_path / "model.onnx")
    assert exported.record.calibration == calibration
    assert (folder / "best.ckpt").read_bytes() == best
    assert run("report", folder) == 0
    assert "is calibrated with temperature" in (folder / "report.html").read_text()
    again = kat.evaluate(folder, device="cpu", calibrate=True).details["calibrated"]
    assert again["temperature"] == pytest.approx(1, abs=1e-3)
    total = kat.load(folder).record.calibration["temperature"]
    assert total == pytest.approx(calibration["temperature"], rel=1e-3)


def test_only_the_folder_of_a_classifier_is_calibrated(digits_run, capsys):
    assert run("eval", digits_run / "best.ckpt", "--calibrate") == 2
    assert "give a run directory, or the folder of a model" in capsys.readouterr().err
    detector = kat.models.create_model("kat_det_micro")
    with pytest.raises(InputError, match="last layer is linear"):
        kat.evaluate(kat.api.TrainedModel(detector, None, digits_run), "digits", calibrate=True)
