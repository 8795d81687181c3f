"""``kat train`` of detectors and segmentation models, and options that have no effect on them."""

from __future__ import annotations

import pytest

from kat.cli.options.training_settings import TrainingParser, parse_training
from kat.data import open_split
from kat.training.settings.recipes import config_from
from tests.cli.commands import refused
from tests.cli.dense.small_dense import pictures
from tests.data.dense.coco_files import instances, write_coco

pytestmark = pytest.mark.slow


def test_options_without_effect_are_refused(items, runs, capsys):
    predict = ("predict", *pictures(items, 1), "--checkpoint")
    for command, task, option, *value in (
        (("eval",), "detection", "--flip"),
        (("eval",), "segmentation", "--crop-pct", 0.9),
        (predict, "segmentation", "--threshold", 0.3),
        (predict, "detection", "--top", 3),
    ):
        line = refused(capsys, *command, runs / task, option, *value)
        assert f"{option} has no" in line


def test_the_recipes_for_coco_do_without_its_boxes_of_no_height(tmp_path):
    content = instances()
    content["annotations"][1]["bbox"][3] = 0
    write_coco(tmp_path, content)
    for size in ("tiny", "small", "base"):
        given = ["--config", f"coco_kat_det_{size}", "--data.name", f"coco:{tmp_path}"]
        settings, _ = parse_training(TrainingParser(), given)
        data = open_split(config_from(settings).data, "train")
        assert "annotation 12" in data.note
        assert data[1][1]["labels"].tolist() == [1, 2]


def test_what_does_not_fit_is_refused(items, runs, tmp_path, capsys):
    path = pictures(items, 1)[0]
    detector, segmenter = runs / "detection", runs / "segmentation"
    line = refused(capsys, "eval", detector, "--data.name", f"ade20k:{items}")
    assert "data for segmentation" in line
    photo = tmp_path / f"{path.stem}.png"
    photo.write_bytes(path.read_bytes())
    line = refused(capsys, "predict", path, "--checkpoint", segmenter, "--out", tmp_path)
    assert f"{tmp_path} exists already" in line
    assert photo.read_bytes() == path.read_bytes()
