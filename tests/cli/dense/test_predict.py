"""``kat predict`` of detectors and segmentation models."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from kat.models import load_model
from kat.models.dense import SlidingWindowConfig
from kat.tables import open_table
from kat.training.tasks.detection.task import find_objects
from kat.training.tasks.evaluation import Subject
from kat.training.tasks.segmentation.task import find_classes
from tests.cli.commands import run
from tests.cli.dense.small_dense import pictures, said_of

pytestmark = pytest.mark.slow


def test_objects_are_drawn_and_written(items, runs, tmp_path, capsys):
    paths = [*pictures(items), pictures(items)[0]]  # one is given twice
    assert run(
        "predict", *paths, "--checkpoint", runs / "detection", "--threshold", 0.0,
        "--out", tmp_path / "pictures", "--json", tmp_path / "answers.json",
        "--csv", tmp_path / "answers.csv",
    ) == 0  # fmt: skip
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {p.name for p in paths}
    answers = json.loads((tmp_path / "answers.json").read_text())
    count = sum(len(answer["objects"]) for answer in answers)
    assert count > 10
    assert len(capsys.readouterr().out.splitlines()) >= count  # all are printed
    with open_table(tmp_path / "answers.csv", "predictions") as rows:
        first = next(rows)
    box = [float(first[side]) for side in ("x1", "y1", "x2", "y2")]
    assert box == answers[0]["objects"][0]["box"]
    for path, answer in zip(paths, answers, strict=True):
        drawn = np.asarray(Image.open(tmp_path / "pictures" / path.name))
        plain = np.asarray(Image.open(path)).repeat(7, axis=0).repeat(7, axis=1)
        assert drawn.shape == plain.shape
        assert (drawn != plain).any()
        found = answer["objects"]
        assert [one["score"] for one in found] == sorted((o["score"] for o in found), reverse=True)
        assert coco_mask.decode(found[0]["segmentation"]).shape == (64, 64)


def test_classes_of_pixels_are_drawn_and_written(items, runs, tmp_path):
    (path,) = pictures(items, 1)
    wide = tmp_path / "wide.png"
    Image.open(path).resize((100, 64)).save(wide)
    assert run(
        "predict", wide, "--checkpoint", runs / "segmentation", "--out", tmp_path / "pictures",
        "--json", tmp_path / "answers.json",
    ) == 0  # fmt: skip
    mask = np.asarray(Image.open(tmp_path / "pictures" / "wide_mask.png"))
    assert mask.shape == (64, 100)
    (answer,) = json.loads((tmp_path / "answers.json").read_text())
    shares = [entry["share"] for entry in answer["classes"]]
    assert sum(shares) == pytest.approx(1)
    assert shares[0] == pytest.approx(np.bincount(mask.ravel()).max() / mask.size)


def test_a_segmentation_model_sees_images_of_another_size(items, runs, tmp_path):
    path, checkpoint = pictures(items, 1)[0], runs / "segmentation"
    model, record = load_model(checkpoint)
    larger = replace(record, input_size=(3, 96, 96))
    _, mask = said_of(path, checkpoint, tmp_path, "--image-size", 96)
    expected = find_classes(Subject(model, larger), Image.open(path), SlidingWindowConfig())
    assert np.array_equal(mask, expected.numpy())


def test_a_detector_sees_images_of_another_size(items, runs, tmp_path):
    path, checkpoint = pictures(items, 1)[0], runs / "detection"
    model, record = load_model(checkpoint)
    model.transform.min_size, model.transform.max_size = (96,), 96
    answer, _ = said_of(path, checkpoint, tmp_path, "--image-size", 96, "--threshold", 0)
    expected = find_objects(Subject(model, record), Image.open(path), 0.0)
    assert [one["box"] for one in answer["objects"]] == expected["boxes"].tolist()
