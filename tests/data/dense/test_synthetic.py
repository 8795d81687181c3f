"""The data set that is made: pycocotools reads it, and its masks fit its pictures."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image

from kat.data import DataConfig
from kat.data.dataset import ImageSet
from kat.data.dense import open_coco, open_semantic, scenes, synthetic
from kat.data.dense.check import check_split
from kat.data.dense.scenes import compose, noise
from kat.data.dense.synthetic import class_mask, make_items
from kat.data.sources.small import GreySource
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


def test_both_formats_say_the_same(made):
    """Painted with their categories, the masks of a picture are its mask of classes."""
    for split, name in (("train", "training"), ("val", "validation")):
        official = official_coco(made / "annotations" / f"instances_{name}.json")
        detection = open_coco(made, split)
        segmentation = open_semantic("ade20k", made, split)
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
                assert not expected[seen].any()  # of one pixel one thing is seen
                expected[seen] = row["category_id"]
                ys, xs = np.nonzero(seen)
                assert row["bbox"] == [
                    xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1
                ]  # fmt: skip
                assert row["area"] == seen.sum()
            np.testing.assert_array_equal(mask, expected)
            assert len(target["labels"]) == len(rows)


def test_nothing_is_wrong_with_it(made):
    for kind in ("coco", "ade20k"):
        for split in ("train", "val"):
            assert check_split(DataConfig(name=f"{kind}:{made}"), split).problems == []


def _blocks():
    """Full squares, a class each by their brightness."""
    pixels = np.stack([np.full((9, 9), value, np.uint8) for value in (90, 170, 250)])
    return ImageSet(GreySource(pixels, np.arange(3)), ["a", "b", "c"], channels=1)


def test_a_scene_is_canvas_where_nothing_is_and_items_elsewhere(monkeypatch):
    """On a black canvas the picture itself says where items are; half of each is seen."""
    monkeypatch.setattr(scenes, "canvas", lambda p, size, rng: np.zeros((size, size, 3), np.uint8))
    monkeypatch.setattr(scenes, "ANGLE", 0.0)  # then the sides of a square are its side
    monkeypatch.setattr(scenes, "SCALE", (0.4, 0.4))
    counts, areas = set(), []
    for seed in range(40):
        scene = compose(_blocks(), [], 50, np.random.default_rng(seed))
        np.testing.assert_array_equal(scene.owners > 0, scene.pixels.any(-1))
        values = class_mask(scene)
        for mask, label in zip(scene.masks(), scene.labels, strict=True):
            assert set(values[mask]) == {label + 2}
            assert len(np.unique(scene.pixels[mask], axis=0)) == 1  # one thing, one colour
            areas.append(int(mask.sum()))
        assert set(values[scene.owners == 0]) <= {1}
        counts.add(len(scene.labels))
    assert max(counts) >= 3
    assert max(areas) == 400
    assert 200 <= min(areas) < 300


def test_holes_are_filled_and_a_faint_fringe_is_not_drawn(monkeypatch):
    monkeypatch.setattr(scenes, "canvas", lambda p, size, rng: np.zeros((size, size, 3), np.uint8))
    monkeypatch.setattr(scenes, "ANGLE", 0.0)
    ring = np.full((28, 28), 20, np.uint8)
    ring[8:20, 8:20] = 200
    ring[12:16, 12:16] = 0
    items = ImageSet(GreySource(ring[None], np.zeros(1)), ["ring"], channels=1)
    monkeypatch.setattr(scenes, "SCALE", (0.28, 0.28))
    monkeypatch.setattr(scenes, "ITEMS", (1, 1))
    areas = [
        int(compose(items, [], 100, np.random.default_rng(seed)).masks().sum())
        for seed in range(10)
    ]
    assert max(areas) == 12 * 12


def test_noise_has_the_spectrum_of_natural_images():
    """Its amplitude falls with the frequency: each octave has less than the one below."""
    for seed in range(5):
        texture = noise(128, np.random.default_rng(seed))
        assert texture.shape == (128, 128, 3)
        spectrum = np.abs(np.fft.rfft2(texture.astype(float).mean(-1)))
        lengths = 128 * np.hypot(np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(128))
        octaves = [
            spectrum[(lengths >= low) & (lengths < 2 * low)].mean() for low in (2, 4, 8, 16, 32)
        ]
        slopes = -np.diff(np.log2(octaves))
        assert 0.6 < slopes.mean() < 1.8


def test_the_splits_show_different_parts_of_the_photographs(tmp_path, monkeypatch):
    from sklearn.datasets import load_sample_images

    seen = []

    def look(items, photographs, size, rng):
        seen.append(photographs)
        return compose(items, photographs, size, rng)

    monkeypatch.setattr(synthetic, "compose", look)
    make_items(tmp_path / "items", **{**SMALL, "images": 1, "val_images": 1})
    for whole, train, val in zip(load_sample_images().images, *seen, strict=True):
        assert train.shape[:2] == (427, 480)
        assert val.shape[:2] == (427, 160)
        np.testing.assert_array_equal(np.concatenate([train, val], axis=1), whole)


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
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
    folder = tmp_path / "colours" / "train" / "n"
    folder.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(folder / "a.png")
    with pytest.raises(InputError, match="grey images, bright on black"):
        make_items(tmp_path / "items", **{**SMALL, "source": f"folder:{tmp_path / 'colours'}"})
    assert not (tmp_path / "items").exists()
