"""COCO average precision against pycocotools."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from kat.data.dense import open_coco
from kat.training.tasks.detection.metrics import DetectionMetrics, coco_results
from tests.data.dense.coco_files import official

pytestmark = pytest.mark.slow


FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", None, None, "ar")
"""Our names of what COCO's evaluator puts out, in its order."""


def noisy(target, generator, classes):
    """Predictions that are right, nearly right and wrong by turns: figures between 0 and 100."""
    count = len(target["labels"])
    shift = torch.randint(-3, 4, (count, 2), generator=generator)
    masks = target["masks"].clone()
    for mask, offset in zip(masks, shift.tolist(), strict=True):
        mask.copy_(mask.roll(tuple(offset), (0, 1)))
    boxes = target["boxes"] + shift.flip(1).repeat(1, 2)
    wrong = torch.rand(count, generator=generator) < 0.2
    return {
        "boxes": torch.cat([boxes, boxes[:1] + 5.0]),
        "labels": torch.cat([(target["labels"] + wrong) % classes, target["labels"][:1]]),
        "scores": torch.rand(count + min(count, 1), generator=generator),
        "masks": torch.cat([masks, masks[:1]]).bool(),
    }


def strips(root):
    """Thin objects that lie across, some beyond the border, some of no area; crowds; no objects."""
    rng = np.random.default_rng(0)
    height, width = 120, 160
    images, annotations = [], []
    for number in range(1, 11):
        name = f"{number}.png"
        images.append({"id": 7 * number, "file_name": name, "height": height, "width": width})
        for place in range(number % 4):
            corner, across = np.maximum(rng.uniform(-30, 60, 2), -0.9), rng.uniform(8, 90, 2)
            left, top = corner
            right, bottom = np.minimum(corner + across, [width + 0.9, height + 0.9])
            thick = min(rng.uniform(3, 40), across[0] / 2)
            outline = [left, top, left + thick, top, right, bottom, right - thick, bottom]
            crowd = {"size": [height, width], "counts": [0, 30 * height, (width - 30) * height]}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 7 * number,
                    "category_id": int(rng.choice([3, 5])),
                    "bbox": [left, top, right - left, bottom - top],
                    "area": [0.0, 50.0, 1500.0, 20000.0][rng.integers(4)],
                    "iscrowd": int(place == 2),
                    "segmentation": crowd if place == 2 else [outline],
                }
            )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 5, "name": "pole"}, {"id": 3, "name": "wire"}],
    }
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "val.json").write_text(json.dumps(content))
    (root / "images").mkdir()
    for image in images:
        Image.new("RGB", (width, height)).save(root / "images" / image["file_name"])


@pytest.mark.parametrize("kind_of_data", ["items", "strips"])
def test_figures_are_those_of_pycocotools(kind_of_data, items, tmp_path, capsys):
    if kind_of_data == "strips":
        strips(tmp_path)
    data = open_coco(items if kind_of_data == "items" else tmp_path, "val")
    generator, metrics = torch.Generator().manual_seed(0), DetectionMetrics()
    results = {"bbox": [], "segm": []}
    for index in range(len(data)):
        _, target = data[index]
        found = noisy(target, generator, len(data.classes))
        if index % 4 == 3:
            found = {name: value[:0] for name, value in found.items()}
        metrics.update([found], [target])
        for kind, rows in coco_results(found, int(target["image_id"]), data).items():
            results[kind] += rows
    truth = COCO(data.source.table.path)
    given = metrics.compute()
    for kind, name in (("box", "bbox"), ("mask", "segm")):
        for figure, value in zip(FIGURES, official(truth, results[name], name), strict=False):
            if figure is None:
                continue
            ours = float(given[f"{kind}_{figure}"])
            if value < 0:
                assert math.isnan(ours)
            else:
                assert ours / 100 == pytest.approx(value, abs=1e-4), f"{kind} {figure}"
    assert 10 < float(given["box_ap"]) < 90


def test_a_perfect_prediction_has_100_by_class_too(items):
    data, metrics = open_coco(items, "val"), DetectionMetrics(by_class=True)
    classes = set()
    for index in range(len(data)):
        _, target = data[index]
        found = {**target, "scores": torch.ones(len(target["labels"]))}
        metrics.update([{**found, "masks": target["masks"].bool()}], [target])
        classes |= set(target["labels"].tolist())
    assert float(metrics.compute()["mask_ap"]) == pytest.approx(100)
    by_class = metrics.by_class()
    assert set(by_class) == classes
    assert all(row["box_ap"] == pytest.approx(100) for row in by_class.values())
