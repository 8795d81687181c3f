"""``kat export`` of detectors and segmentation models."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image

from tests.cli.commands import refused, run
from tests.cli.dense.small_dense import pictures, said_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("ending", ["pt2", "onnx"])
@pytest.mark.release
def test_an_exported_segmentation_model_sees_windows_of_its_size(ending, items, runs, tmp_path):
    checkpoint, exported = runs / "segmentation", tmp_path / f"exported.{ending}"
    assert run("export", checkpoint, "--out", exported) == 0
    figures = []
    for path, options in ((exported, ()), (checkpoint, ("--window", 64))):
        out = tmp_path / "metrics.json"
        assert run("eval", path, "--data.name", f"ade20k:{items}", "--json", out, "--trust",
                   *options) == 0  # fmt: skip
        metrics = json.loads(out.read_text())
        figures.append([metrics[name] for name in ("miou", "pixel_accuracy", "loss")])
    assert figures[0] == pytest.approx(figures[1], rel=1e-4)
    wide = tmp_path / "wide.png"
    Image.open(pictures(items, 1)[0]).resize((150, 80)).save(wide)
    _, mask = said_of(wide, exported, tmp_path)
    _, own = said_of(wide, checkpoint, tmp_path, "--window", 64)
    assert (mask == own).mean() > 0.999
    _, mask = said_of(wide, exported, tmp_path, "--scales", "[0.5]")  # smaller than a window
    assert mask.shape == (80, 150)


def _missing(objects, others):
    """The objects that are not among the others."""
    for one in objects:
        of_image = [other for other in others if other["image_id"] == one["image_id"]]
        if not any(
            other["category_id"] == one["category_id"]
            and other["bbox"] == pytest.approx(one["bbox"], abs=1e-2)
            and other["score"] == pytest.approx(one["score"], abs=1e-4)
            for other in of_image
        ):
            yield one


def test_an_exported_detector_finds_the_same(items, runs, tmp_path, capfd):
    checkpoint, exported = runs / "detection", tmp_path / "exported.onnx"
    assert run("export", checkpoint, "--out", exported) == 0
    captured = capfd.readouterr()
    assert "detections within" in captured.out
    assert captured.err == ""
    found = []
    for path in (exported, checkpoint):
        report = tmp_path / "report"
        assert run("eval", path, "--data.name", f"coco:{items}", "--out", report) == 0
        found.append(json.loads((report / "results_bbox.json").read_text()))
        shutil.rmtree(report)
    assert len(found[0]) == len(found[1]) > 0
    for objects, others in (found, reversed(found)):
        # Of two proposals whose scores or overlaps differ by rounding, either may be kept.
        assert len(list(_missing(objects, others))) <= 0.01 * len(objects)


def test_a_segmentation_model_is_exported_for_one_size(runs, tmp_path, capsys):
    command = ("export", runs / "segmentation", "--out", tmp_path / "s.pt2", "--dynamic-size")
    assert "one image size" in refused(capsys, *command)
    assert not list(tmp_path.iterdir())
