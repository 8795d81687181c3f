"""A small dataset in COCO's format, with every kind of annotation."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

TRIANGLE = [10.4, 5.2, 40.7, 8.1, 22.3, 30.9]
TWO_PARTS = [[1, 1, 12.5, 1, 12.5, 9, 1, 9], [20, 20, 31, 20, 31, 27.5, 20, 27.5]]


def instances() -> dict[str, Any]:
    """Three images: 60x50 with three objects, 40x30 with none, 64x48 with one and a crowd.

    The ids have gaps and are in no order. The objects are a polygon, two polygons, compressed run
    lengths, polygons again; the crowd has uncompressed ones.
    """
    crowd = {"size": [48, 64], "counts": [0, 48 * 10, 48 * 54]}  # the ten left columns
    square = np.zeros((50, 60), np.uint8, order="F")
    square[12:30, 25:45] = 1
    fields = ("id", "image_id", "category_id", "bbox", "segmentation", "iscrowd")
    objects = [
        (900, 4, 17, [11.0, 4.0, 30.0, 27.0], [TRIANGLE], 0),
        (12, 4, 3, [1.0, 1.0, 30.0, 26.5], TWO_PARTS, 0),
        (77, 4, 90, [25.0, 12.0, 20.0, 18.0], _compressed(square), 0),
        (5, 1000, 3, [10.0, 10.0, 20.0, 20.0], [[10, 10, 30, 10, 30, 30, 10, 30]], 0),
        (6, 1000, 17, [0.0, 0.0, 10.0, 48.0], crowd, 1),
    ]
    return {
        "images": [
            {"id": 1000, "file_name": "c.jpg", "height": 48, "width": 64},
            {"id": 4, "file_name": "a.png", "height": 50, "width": 60},
            {"id": 31, "file_name": "b.png", "height": 30, "width": 40},
        ],
        "annotations": [
            dict(zip(fields, row, strict=True), area=100.0 + row[0], keypoints=[1, 2, 2])
            for row in objects
        ],
        "categories": [
            {"id": 17, "name": "cat", "supercategory": "animal"},
            {"id": 90, "name": "brush"},
            {"id": 3, "name": "car"},
        ],
    }


def official_coco(path: str | Path) -> COCO:
    """pycocotools' own reading of a file, without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def evaluated(truth, results, kind):
    """COCO's evaluator, done."""
    evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), kind)
    for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
        step()
    return evaluation


def official(truth, results, kind):
    """The twelve figures of COCO's evaluator."""
    return evaluated(truth, results, kind).stats


def write_coco(
    root: Path,
    content: dict[str, Any] | None = None,
    *,
    annotations: str = "annotations/instances_{split}2017.json",
    images: str = "{split}2017",
) -> None:
    """Writes both splits, with the same images and annotations, in one of the layouts."""
    content = content or instances()
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        file = root / annotations.format(split=split)
        folder = root / images.format(split=split)
        file.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
        for name, size in (("a.png", (50, 60)), ("b.png", (30, 40)), ("c.jpg", (48, 64))):
            pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name)


def _compressed(mask: np.ndarray) -> dict[str, Any]:
    from pycocotools import mask as official

    runs = official.encode(mask)
    return {"size": runs["size"], "counts": runs["counts"].decode()}
