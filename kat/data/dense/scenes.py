"""Images composed of small grey ones on textured canvases, with exact masks."""

from __future__ import annotations

import colorsys
import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image

from kat.data.dataset import ImageSet

ITEMS = (1, 5)
"""Least and most items that are tried for an image."""
SCALE = (0.22, 0.55)
"""Range of an item's side before it is turned, as a share of the image's."""
ANGLE = 45.0
"""Most degrees that an item is turned by, either way."""
VISIBLE = 0.5
"""Share of an item that must be seen, of what others and the border leave of it."""
PHOTOGRAPHS = 0.5
"""Share of the canvases that are pieces of photographs; the others are noise."""

DARK = 24
"""The grey value up to which an item's image shows its background: some have a faint fringe."""

_SHADE = 0.25


@dataclass(frozen=True)
class Scene:
    """A composed image.

    Args:
        pixels: (H, W, 3) uint8.
        owners: (H, W) uint8, 0 where the canvas is seen, n where the n-th item is.
        labels: the class indices of the items.
    """

    pixels: np.ndarray
    owners: np.ndarray
    labels: list[int]

    def masks(self) -> np.ndarray:
        """(items, H, W) bool, what is seen of each item."""
        numbers = np.arange(1, len(self.labels) + 1)
        return self.owners == numbers[:, None, None]


def compose(
    items: ImageSet,
    photographs: list[np.ndarray],
    size: int,
    rng: np.random.Generator,
) -> Scene:
    """Places items, drawn at random, on a canvas, each over those before it.

    Each is resized, turned, shaded and coloured. It is drawn where its grey value is above
    :data:`DARK`, and in the holes of that shape, without transparency. One is left out if less
    than :data:`VISIBLE` of it, or of one below it, would be seen.

    Args:
        items: grey images, bright on black.
        photographs: (H, W, 3) uint8 each, what canvases are cut from.
        size: side of the image.
        rng: what all is drawn from.
    """
    pixels = canvas(photographs, size, rng)
    owners = np.zeros((size, size), np.uint8)
    shown: list[int] = []
    areas: list[int] = []
    for _ in range(rng.integers(ITEMS[0], ITEMS[1] + 1)):
        grey, label = items[int(rng.integers(len(items)))]
        colours, shape = _item(np.asarray(grey), size, rng)
        top, left = (int(rng.integers(-(side // 4), size - 3 * side // 4)) for side in shape.shape)
        inside = _inside(shape.shape, top, left, size)
        where = np.zeros((size, size), bool)
        where[inside.canvas] = shape[inside.item]
        trial = np.where(where, np.uint8(len(shown) + 1), owners)
        seen = np.bincount(trial.ravel(), minlength=len(shown) + 2)[1:]
        if (seen < VISIBLE * np.array([*areas, shape.sum()])).any():
            continue
        owners = trial
        pixels[where] = colours[inside.item][shape[inside.item]]
        shown.append(label)
        areas.append(int(shape.sum()))
    return Scene(pixels, owners, shown)


@dataclass(frozen=True)
class _Overlap:
    canvas: tuple[slice, slice]
    item: tuple[slice, slice]


def _inside(shape: tuple[int, ...], top: int, left: int, size: int) -> _Overlap:
    """The part of an item that lies on the canvas, in the pixels of both."""
    ends = [
        (max(start, 0), min(start + side, size), start)
        for start, side in zip((top, left), shape, strict=True)
    ]
    rows, columns = (slice(low, high) for low, high, _ in ends)
    item_rows, item_columns = (slice(low - start, high - start) for low, high, start in ends)
    return _Overlap((rows, columns), (item_rows, item_columns))


def _item(grey: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An item as it is drawn: colours, (h, w, 3) uint8, and shape, (h, w) bool."""
    from scipy.ndimage import binary_fill_holes

    side = round(size * np.exp(rng.uniform(*np.log(SCALE))))
    angle = rng.uniform(-ANGLE, ANGLE)
    filled = binary_fill_holes(grey > DARK)
    shade, mask = (
        np.asarray(
            Image.fromarray(layer)
            .resize((side, side), Image.Resampling.BICUBIC)
            .rotate(angle, Image.Resampling.BICUBIC, expand=True)
        )
        for layer in (grey, np.uint8(255) * filled)
    )
    light = _SHADE + (1 - _SHADE) * rng.uniform(0.6, 1.0) * shade / 255.0
    colours = np.clip(255 * light[..., None] * _colour(rng), 0, 255).astype(np.uint8)
    return colours, mask >= 128


def _colour(rng: np.random.Generator) -> np.ndarray:
    """(3,): a bright colour of any hue."""
    return np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0, 0.7), rng.uniform(0.7, 1.0)))


def canvas(photographs: list[np.ndarray], size: int, rng: np.random.Generator) -> np.ndarray:
    """A texture, (size, size, 3) uint8: a piece of a photograph, or noise."""
    if photographs and rng.uniform() < PHOTOGRAPHS:
        return _piece(photographs[int(rng.integers(len(photographs)))], size, rng)
    return noise(size, rng)


def _piece(photograph: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    height, width, _ = photograph.shape
    side = int(rng.integers(min(height, width) // 3, min(height, width) + 1))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    cut = photograph[top : top + side, left : left + side]
    cut = cut[:, ::-1] if rng.uniform() < 0.5 else cut
    resized = Image.fromarray(cut).resize((size, size), Image.Resampling.BILINEAR)
    return (np.asarray(resized) * rng.uniform(0.5, 1.0)).astype(np.uint8)


def noise(size: int, rng: np.random.Generator) -> np.ndarray:
    """Coloured noise with the amplitude spectrum 1 / f^b, b from 0.8 to 1.6, as natural images."""
    exponent = rng.uniform(0.8, 1.6)
    white = np.fft.rfft2(rng.standard_normal((3, size, size)))
    coloured = np.fft.irfft2(white / _frequencies(size) ** exponent, s=(size, size))
    coloured /= coloured.std()
    mixed = np.tensordot(rng.uniform(-1, 1, (3, 3)), coloured, axes=1)
    middle, contrast = rng.uniform(60, 180, (3, 1, 1)), rng.uniform(10, 40)
    return np.clip(middle + contrast * mixed, 0, 255).astype(np.uint8).transpose(1, 2, 0).copy()


@functools.cache
def _frequencies(size: int) -> np.ndarray:
    """(size, size // 2 + 1): the length of each wave vector; that of the mean counts as 1."""
    rows, columns = np.fft.fftfreq(size), np.fft.rfftfreq(size)
    lengths = size * np.hypot(rows[:, None], columns)
    lengths[0, 0] = 1
    return lengths
