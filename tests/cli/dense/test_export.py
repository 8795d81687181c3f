"""``kat export`` of detectors and segmentation models."""

from __future__ import annotations

import json
import shutil

import onnx
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torchvision.ops import box_iou

from tests.cli.commands import refused, run
from tests.cli.dense.small_dense import instances_of, pictures, said_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("ending", ["pt2", "onnx"])
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


def _is_same(one, other):
    return one["bbox"] == pytest.approx(other["bbox"], abs=1e-2) and one["score"] == pytest.approx(
        other["score"], abs=1e-4
    )


def _overlap(one, other):
    """IoU of two boxes (x, y, width, height)."""
    boxes = torch.tensor([one["bbox"], other["bbox"]])
    boxes[:, 2:] += boxes[:, :2]
    return float(box_iou(boxes[:1], boxes[1:]))


def _matches(objects, others):
    """For each object whether there is the same one, and the largest overlap with its class."""
    for one in objects:
        of_class = [
            other
            for other in others
            if all(one[key] == other[key] for key in ("image_id", "category_id"))
        ]
        same = any(_is_same(one, other) for other in of_class)
        yield same, max((_overlap(one, other) for other in of_class), default=0.0)


def test_an_exported_detector_finds_the_same(items, runs, tmp_path, capfd):
    checkpoint, exported = runs / "detection", tmp_path / "exported.onnx"
    assert run("export", checkpoint, "--out", exported) == 0
    captured = capfd.readouterr()
    assert "one image of any size; detections within" in captured.out
    assert captured.err == ""
    found = []
    for path in (exported, checkpoint):
        report = tmp_path / "report"
        assert run("eval", path, "--data.name", f"coco:{items}", "--out", report
                   ) == 0  # fmt: skip
        found.append(json.loads((report / "results_bbox.json").read_text()))
        shutil.rmtree(report)
    assert len(found[0]) == len(found[1]) > 0
    for objects, others in (found, reversed(found)):
        same, overlaps = zip(*_matches(objects, others), strict=True)
        # Of two proposals whose scores or overlaps differ by rounding, either may be kept.
        assert sum(same) >= 0.99 * len(same)
        assert min(overlaps) > 0.7
    large = tmp_path / "large.png"
    Image.open(pictures(items, 1)[0]).resize((100, 100)).save(large)
    wide = tmp_path / "wide.png"
    Image.open(large).resize((150, 80)).save(wide)
    threshold = found[0][len(found[0]) // 2]["score"]
    for path, size in ((large, (100, 100)), (wide, (80, 150))):
        answer, _ = said_of(path, exported, tmp_path, "--threshold", threshold)
        expected, _ = said_of(path, checkpoint, tmp_path, "--threshold", threshold)
        assert len(answer["objects"]) == len(expected["objects"])
        for got, want in zip(answer["objects"], expected["objects"], strict=True):
            assert got["score"] == pytest.approx(want["score"], abs=1e-4)
            masks = [coco_mask.decode(one["segmentation"]) for one in (got, want)]
            assert masks[0].shape == size
            assert (masks[0] != masks[1]).mean() < 0.01
    (record,) = (entry.value for entry in onnx.load(exported).metadata_props if entry.key == "kat")
    ids = [row["id"] for row in instances_of(items)["categories"]]
    assert json.loads(record)["category_ids"] == ids
    line = refused(capfd, "eval", exported, "--data.name", f"coco:{items}",
                   "--image-size", 96)  # fmt: skip
    assert "scales images to 64 pixels itself, not to 96" in line


@pytest.mark.parametrize(("task", "ending"), [("detection", "pt2"), ("segmentation", "onnx")])
def test_an_exported_backbone_answers_nothing(task, ending, items, runs, tmp_path, capsys):
    exported = tmp_path / f"backbone.{ending}"
    assert run("export", runs / task, "--out", exported, "--backbone") == 0
    assert "any batch size; features within" in capsys.readouterr().out
    predict = ("predict", *pictures(items, 1), "--checkpoint", exported)
    for command in (("eval", exported, "--data", f"coco:{items}"), predict):
        line = refused(capsys, *command, "--trust")
        assert "is a backbone without heads" in line


def test_what_cannot_be_exported_is_refused(runs, tmp_path, capsys):
    detector = runs / "detection"
    for file, option in (("d.pt2", ()), ("d.onnx", ("--int8",))):
        line = refused(capsys, "export", detector, "--out", tmp_path / file, *option)
        assert "can be exported to .onnx only, without int8" in line
    line = refused(capsys, "export", detector, "--out", tmp_path / "d.onnx", "--dynamic-size")
    assert "can be exported for one image size only" in line
    line = refused(capsys, "export", detector, "--out", tmp_path / "d", "--backbone")
    assert "--backbone has no effect on a folder" in line
    line = refused(
        capsys, "export", runs / "segmentation", "--out", tmp_path / "model.pt2", "--dynamic-size"
    )
    assert "can be exported for one image size only" in line
    assert not list(tmp_path.iterdir())
