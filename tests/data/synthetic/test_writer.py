"""The dataset that is written: pycocotools reads it, and its masks fit its images."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image

from kat.data import DataConfig
from kat.data.check import check_split
from kat.data.dense import open_coco, open_segmentation
from kat.data.synthetic import make_items
from kat.errors import InputError
from tests.data.dense.coco_files import official_coco

SMALL = {"source": "digits", "images": 6, "val_images": 3, "size": 48}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "items"
    make_items(out, **SMALL)
    return out


def _bytes(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).digest() for path in files
    }


def test_the_same_options_give_the_same_bytes(made, tmp_path):
    make_items(tmp_path / "again", **SMALL)
    assert _bytes(tmp_path / "again") == _bytes(made)
    make_items(tmp_path / "other", **SMALL, seed=1)
    assert _bytes(tmp_path / "other") != _bytes(made)
    make_items(tmp_path / "more", **{**SMALL, "images": 7})
    more, whole = _bytes(tmp_path / "more"), _bytes(made)
    pictures = [name for name in whole if name.endswith(".png")]
    assert len(pictures) == 18
    assert all(more[name] == whole[name] for name in pictures)


def test_both_formats_agree(made):
    """The instance masks of an image, filled with their categories, are its class mask."""
    for split, name in (("train", "training"), ("val", "validation")):
        official = official_coco(made / "annotations" / f"instances_{name}.json")
        detection = open_coco(made, split)
        segmentation = open_segmentation("ade20k", made, split)
        assert segmentation.classes == ["background", *detection.classes]
        assert len(detection) == len(segmentation) == len(official.imgs) > 0
        for index in range(len(detection)):
            picture, target = detection[index]
            same, mask = segmentation[index]
            assert picture.tobytes() == same.tobytes()
            expected = np.zeros(mask.shape, np.uint8)
            rows = official.imgToAnns[index + 1]
            for row in rows:
                seen = official.annToMask(row).astype(bool)
                assert not expected[seen].any()  # a pixel shows one item
                expected[seen] = row["category_id"]
                ys, xs = np.nonzero(seen)
                assert row["bbox"] == [
                    xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1
                ]  # fmt: skip
                assert row["area"] == seen.sum()
            np.testing.assert_array_equal(mask, expected)
            assert len(target["labels"]) == len(rows)


def test_it_has_no_problems(made):
    for kind in ("coco", "ade20k"):
        for split in ("train", "val"):
            assert check_split(DataConfig(name=f"{kind}:{made}"), split).problems == []


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(done):
        raise InputError("stopped")

    with pytest.raises(InputError, match="stopped"):
        make_items(tmp_path / "items", **SMALL, tell=fail)
    assert list(tmp_path.iterdir()) == []


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="exists already"):
        make_items(tmp_path, **SMALL)
    with pytest.raises(InputError, match=r"the folder .*nowhere.* does not exist"):
        make_items(tmp_path / "nowhere" / "items", **SMALL)
    with pytest.raises(InputError, match="size must be at least 16, got 8"):
        make_items(tmp_path / "items", **{**SMALL, "size": 8})
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    folder = tmp_path / "colors" / "train" / "n"
    folder.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(folder / "a.png")
    with pytest.raises(InputError, match="grayscale images, bright on black"):
        make_items(tmp_path / "items", **{**SMALL, "source": f"folder:{tmp_path / 'colors'}"})
    assert not (tmp_path / "items").exists()
