"""``kat eval`` of detectors and segmentation models."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from kat.data import DataConfig
from kat.models import load_model
from kat.models.dense import SlidingWindowConfig
from kat.training import evaluate
from tests.cli.commands import run
from tests.cli.dense.small_dense import MODELS

pytestmark = pytest.mark.slow


def test_a_detector_is_evaluated_and_its_results_are_coco_s(items, runs, tmp_path, capsys):
    out = tmp_path / "report" / "detection"
    assert run("eval", runs / "detection", runs / "segmentation", "--out", out.parent) == 0
    printed = capsys.readouterr().out
    assert all(metric in printed for metric in ("box AP", "mask AP", "mIoU"))
    truth = COCO(str(items / "annotations" / "instances_validation.json"))
    for kind, field in (("bbox", "bbox"), ("segm", "segmentation")):
        results = json.loads((out / f"results_{kind}.json").read_text())
        assert set(results[0]) == {"image_id", "category_id", "score", field}
        loaded = truth.loadRes(results)  # COCO's own reader takes them
        assert set(loaded.getImgIds()) <= set(truth.getImgIds())
    with (out / "per_class.csv").open(newline="") as file:
        assert set(next(csv.DictReader(file))) == {"class", "box_ap", "mask_ap"}


@pytest.mark.parametrize("task", MODELS)
def test_classes_in_another_order_go_by_their_names(task, items, runs, tmp_path):
    """The set is the same, but the ids of its categories and the values of its masks are turned."""
    turned = shutil.copytree(items, tmp_path / "turned")
    file = turned / "annotations" / "instances_validation.json"
    content = json.loads(file.read_text())
    for row in content["categories"]:
        row["id"] = 11 - row["id"]
    for row in content["annotations"]:
        row["category_id"] = 11 - row["category_id"]
    file.write_text(json.dumps(content))
    table = turned / "objectInfo150.txt"
    head, *rows = table.read_text().splitlines()
    table.write_text("\n".join([head, *reversed(rows)]) + "\n")
    for path in (turned / "annotations" / "validation").iterdir():
        Image.fromarray(12 - np.asarray(Image.open(path))).save(path)
    kind = "coco" if task == "detection" else "ade20k"
    model, record = load_model(runs / task)
    plain, other = (
        evaluate(model, record, DataConfig(name=f"{kind}:{root}")) for root in (items, turned)
    )
    assert other.metrics == pytest.approx(plain.metrics, nan_ok=True)
    assert other.classes == plain.classes[::-1]
    theirs = {name: figures for name, *figures in other.per_class.rows}
    assert theirs.keys() == {name for name, *_ in plain.per_class.rows}
    for name, *figures in plain.per_class.rows:
        assert theirs[name] == pytest.approx(figures, nan_ok=True)
    assert "another order" in other.notes[0]
    if task == "detection":
        found = [one.documents["results_bbox"] for one in (plain, other)]
        ids = [[row["category_id"] for row in rows] for rows in found]
        assert ids[1] == [11 - number for number in ids[0]]


def test_a_segmentation_model_is_evaluated_as_asked(items, runs, tmp_path, capsys):
    out = tmp_path / "report"
    assert run(
        "eval", runs / "segmentation", "--out", out, "--window", 48,
        "--scales", "[0.75,1.0]", "--flip", "--csv", tmp_path / "all.csv",
    ) == 0  # fmt: skip
    assert "6 images: mIoU" in capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    assert (out / "confusion.csv").is_file()
    how = SlidingWindowConfig(window=48, scales=(0.75, 1.0), flip=True)
    data = DataConfig(name=f"ade20k:{items}")
    found = evaluate(*load_model(runs / "segmentation"), data, options=how)
    assert metrics["loss"] == pytest.approx(found.metrics["loss"], rel=1e-5)
    with (tmp_path / "all.csv").open(newline="") as file:
        assert float(next(csv.DictReader(file))["miou"]) == pytest.approx(metrics["miou"])
