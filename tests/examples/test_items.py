"""The made dataset: the same options give the same bytes, and its two formats agree."""

from __future__ import annotations

import numpy as np

from examples.items import make_items
from kat.data.dense import open_coco, open_segmentation
from tests.data.dense.coco_files import official_coco


def _bytes(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_an_image_is_a_function_of_the_seed_and_its_number(items, tmp_path):
    make_items(tmp_path / "again", "digits", 8, 6, 64)
    assert _bytes(tmp_path / "again") == _bytes(items)
    make_items(tmp_path / "fewer", "digits", 7, 6, 64)
    for name, content in _bytes(tmp_path / "fewer").items():
        assert name.endswith("training.json") or content == _bytes(items)[name]


def test_both_formats_agree(items):
    """The instance masks of an image, filled with their categories, are its class mask."""
    for split, name in (("train", "training"), ("val", "validation")):
        official = official_coco(items / "annotations" / f"instances_{name}.json")
        detection, segmentation = open_coco(items, split), open_segmentation("ade20k", items, split)
        assert segmentation.classes == ["background", *detection.classes]
        assert len(detection) == len(segmentation) == len(official.imgs) > 0
        for index in range(len(detection)):
            (picture, target), (same, mask) = detection[index], segmentation[index]
            assert picture.tobytes() == same.tobytes()
            expected = np.zeros(mask.shape, np.uint8)
            rows = official.imgToAnns[index + 1]
            for row in rows:
                seen = official.annToMask(row).astype(bool)
                assert not expected[seen].any()  # a pixel shows one item
                expected[seen] = row["category_id"]
                ys, xs = np.nonzero(seen)
                sides = xs.max() - xs.min() + 1, ys.max() - ys.min() + 1
                assert row["bbox"] == [xs.min(), ys.min(), *sides]
                assert row["area"] == seen.sum()
            np.testing.assert_array_equal(mask, expected)
            assert len(target["labels"]) == len(rows)
