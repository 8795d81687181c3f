"""Scenes: items and canvases, and their masks."""

from __future__ import annotations

import numpy as np

from kat.data import ImageDataset
from kat.data.sources.small import ArraySource
from kat.data.synthetic import scenes
from kat.data.synthetic.scenes import compose, load_photographs, noise
from kat.data.synthetic.writer import class_mask


def _blocks():
    """Full squares whose brightness is their class."""
    pixels = np.stack([np.full((9, 9), value, np.uint8) for value in (90, 170, 250)])
    return ImageDataset(ArraySource(pixels, np.arange(3)), ["a", "b", "c"], channels=1)


def test_a_scene_is_its_items_on_a_canvas(monkeypatch):
    """On a black canvas, items are where the image is not black; half of each is visible."""
    monkeypatch.setattr(scenes, "canvas", lambda p, size, rng: np.zeros((size, size, 3), np.uint8))
    monkeypatch.setattr(scenes, "ANGLE", 0.0)  # squares stay upright
    monkeypatch.setattr(scenes, "SCALE", (0.4, 0.4))
    counts, areas = set(), []
    for seed in range(40):
        scene = compose(_blocks(), [], 50, np.random.default_rng(seed))
        np.testing.assert_array_equal(scene.owners > 0, scene.pixels.any(-1))
        values = class_mask(scene)
        for mask, label in zip(scene.masks(), scene.labels, strict=True):
            assert set(values[mask]) == {label + 2}
            assert len(np.unique(scene.pixels[mask], axis=0)) == 1  # one item, one color
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
    items = ImageDataset(ArraySource(ring[None], np.zeros(1)), ["ring"], channels=1)
    monkeypatch.setattr(scenes, "SCALE", (0.28, 0.28))
    monkeypatch.setattr(scenes, "ITEMS", (1, 1))
    areas = [
        int(compose(items, [], 100, np.random.default_rng(seed)).masks().sum())
        for seed in range(10)
    ]
    assert max(areas) == 12 * 12


def test_noise_has_the_spectrum_of_natural_images():
    """Its amplitude falls with frequency, from each octave to the next."""
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


def test_the_splits_show_different_parts_of_the_photographs():
    splits = (load_photographs(split) for split in ("training", "validation"))
    for train, val in zip(*splits, strict=True):
        assert train.shape[:2] == (427, 480)
        assert val.shape[:2] == (427, 160)
