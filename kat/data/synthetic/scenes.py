"""Scenes composed of small grayscale images on textured canvases, with exact masks."""

from __future__ import annotations

import colorsys
import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image

from kat.data.dataset import ImageDataset

ITEMS = (1, 5)
"""Least and largest number of items that are tried for a scene."""
SCALE = (0.22, 0.55)
"""Range of an item's side before rotation, as a share of the scene's side."""
ANGLE = 45.0
"""Largest rotation of an item in degrees, in either direction."""
VISIBLE = 0.5
"""Share of an item that must stay visible, inside the border and in front of other items."""
PHOTOGRAPHS = 0.5
"""Share of the canvases that are cut from photographs; the others are noise."""

DARK = 24
"""The largest gray value of an item's background: some items have a faint fringe."""

_SHADE = 0.25


@dataclass(frozen=True)
class Scene:
    """A composed image.

    Args:
        pixels: (H, W, 3) uint8.
        owners: (H, W) uint8, 0 for the canvas and n for the n-th item.
        labels: class indices of the items.
    """

    pixels: np.ndarray
    owners: np.ndarray
    labels: list[int]

    def masks(self) -> np.ndarray:
        """(items, H, W) bool, the visible part of each item."""
        numbers = np.arange(1, len(self.labels) + 1)
        return self.owners == numbers[:, None, None]


def compose(
    items: ImageDataset,
    photographs: list[np.ndarray],
    size: int,
    rng: np.random.Generator,
) -> Scene:
    """Places random items on a canvas, each in front of those before it.

    An item is resized, rotated, shaded and colored. It covers the pixels with a gray value above
    :data:`DARK` and the holes of that shape, without transparency. It is left out if less than
    :data:`VISIBLE` of it, or of an item behind it, would be visible.

    Args:
        items: grayscale images, bright on black.
        photographs: (H, W, 3) uint8 each, to cut canvases from.
        size: side of the scene in pixels.
        rng: generator of all random draws.
    """
    pixels = canvas(photographs, size, rng)
    owners = np.zeros((size, size), np.uint8)
    shown: list[int] = []
    areas: list[int] = []
    for _ in range(rng.integers(ITEMS[0], ITEMS[1] + 1)):
        gray, label = items[int(rng.integers(len(items)))]
        colors, shape = _item(np.asarray(gray), size, rng)
        top, left = (int(rng.integers(-(side // 4), size - 3 * side // 4)) for side in shape.shape)
        inside = _inside(shape.shape, top, left, size)
        where = np.zeros((size, size), bool)
        where[inside.canvas] = shape[inside.item]
        trial = np.where(where, np.uint8(len(shown) + 1), owners)
        seen = np.bincount(trial.ravel(), minlength=len(shown) + 2)[1:]
        if (seen < VISIBLE * np.array([*areas, shape.sum()])).any():
            continue
        owners = trial
        pixels[where] = colors[inside.item][shape[inside.item]]
        shown.append(label)
        areas.append(int(shape.sum()))
    return Scene(pixels, owners, shown)


@dataclass(frozen=True)
class _Overlap:
    canvas: tuple[slice, slice]
    item: tuple[slice, slice]


def _inside(shape: tuple[int, ...], top: int, left: int, size: int) -> _Overlap:
    """The part of an item that lies on the canvas, in the coordinates of both."""
    ends = [
        (max(start, 0), min(start + side, size), start)
        for start, side in zip((top, left), shape, strict=True)
    ]
    rows, columns = (slice(low, high) for low, high, _ in ends)
    item_rows, item_columns = (slice(low - start, high - start) for low, high, start in ends)
    return _Overlap((rows, columns), (item_rows, item_columns))


def _item(gray: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The colors, (h, w, 3) uint8, and the shape, (h, w) bool, of a drawn item."""
    from scipy.ndimage import binary_fill_holes

    side = round(size * np.exp(rng.uniform(*np.log(SCALE))))
    angle = rng.uniform(-ANGLE, ANGLE)
    filled = binary_fill_holes(gray > DARK)
    shade, mask = (
        np.asarray(
            Image.fromarray(layer)
            .resize((side, side), Image.Resampling.BICUBIC)
            .rotate(angle, Image.Resampling.BICUBIC, expand=True)
        )
        for layer in (gray, np.uint8(255) * filled)
    )
    light = _SHADE + (1 - _SHADE) * rng.uniform(0.6, 1.0) * shade / 255.0
    colors = np.clip(255 * light[..., None] * _color(rng), 0, 255).astype(np.uint8)
    return colors, mask >= 128


def _color(rng: np.random.Generator) -> np.ndarray:
    """A bright color of any hue, (3,) in [0, 1]."""
    return np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0, 0.7), rng.uniform(0.7, 1.0)))


def canvas(photographs: list[np.ndarray], size: int, rng: np.random.Generator) -> np.ndarray:
    """A texture, (size, size, 3) uint8: a crop of a photograph, or noise."""
    if photographs and rng.uniform() < PHOTOGRAPHS:
        return _crop(photographs[int(rng.integers(len(photographs)))], size, rng)
    return noise(size, rng)


def _crop(photograph: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    height, width, _ = photograph.shape
    side = int(rng.integers(min(height, width) // 3, min(height, width) + 1))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    cut = photograph[top : top + side, left : left + side]
    cut = cut[:, ::-1] if rng.uniform() < 0.5 else cut
    resized = Image.fromarray(cut).resize((size, size), Image.Resampling.BILINEAR)
    return (np.asarray(resized) * rng.uniform(0.5, 1.0)).astype(np.uint8)


def noise(size: int, rng: np.random.Generator) -> np.ndarray:
    """Noise with the amplitude spectrum of natural images: 1 / f^b, with b from 0.8 to 1.6."""
    exponent = rng.uniform(0.8, 1.6)
    white = np.fft.rfft2(rng.standard_normal((3, size, size)))
    filtered = np.fft.irfft2(white / _frequencies(size) ** exponent, s=(size, size))
    filtered /= filtered.std()
    mixed = np.tensordot(rng.uniform(-1, 1, (3, 3)), filtered, axes=1)
    middle, contrast = rng.uniform(60, 180, (3, 1, 1)), rng.uniform(10, 40)
    return np.clip(middle + contrast * mixed, 0, 255).astype(np.uint8).transpose(1, 2, 0).copy()


def load_photographs(split: str) -> list[np.ndarray]:
    """The left three quarters of scikit-learn's two photographs; the rest for validation.

    Args:
        split: ``"training"`` or ``"validation"``.
    """
    from sklearn.datasets import load_sample_images

    whole = [image[:, : image.shape[1] // 4 * 4] for image in load_sample_images().images]
    chosen = {"training": slice(0, 3), "validation": slice(3, 4)}[split]
    quarters = [np.split(image, 4, axis=1) for image in whole]
    return [np.concatenate(parts[chosen], axis=1) for parts in quarters]


@functools.cache
def _frequencies(size: int) -> np.ndarray:
    """(size, size // 2 + 1): the length of each wave vector; 1 for that of the mean."""
    rows, columns = np.fft.fftfreq(size), np.fft.rfftfreq(size)
    lengths = size * np.hypot(rows[:, None], columns)
    lengths[0, 0] = 1
    return lengths
