"""Makes a small dataset for detection and segmentation: real images of items on textured canvases.

    python examples/items.py items
    kat train --config examples/items_detection.yaml

The items are Fashion-MNIST's (Debian's package dataset-fashion-mnist), or scikit-learn's digits:
resized, rotated, colored, some in front of others. Boxes and masks are exact. The folder is both a
dataset for detection, coco:FOLDER, and one for segmentation, ade20k:FOLDER. A split shows items of
the same split of the source, on noise or on its own part of two photographs. Each image is a
function of (seed, split, its number).
"""

from __future__ import annotations

import argparse
import colorsys
import json
from pathlib import Path

import numpy as np
from faster_coco_eval.core import mask as coco
from PIL import Image
from scipy.ndimage import binary_fill_holes
from sklearn.datasets import load_sample_images

from kat.data import DataConfig, ImageDataset, derived_seed, open_split

ITEMS = (1, 5)
"""Least and largest number of items that are tried for an image."""
SCALE = (0.22, 0.55)
"""Range of an item's side before rotation, as a share of the image's side."""
ANGLE = 45.0
"""Largest rotation of an item in degrees, in either direction."""
VISIBLE = 0.5
"""Share of an item that must stay visible, inside the border and in front of other items."""
DARK = 24
"""The largest gray value of an item's background: some items have a faint fringe."""
SCENE = 4
"""The purpose of the seeds; see :func:`kat.data.derived_seed`."""


def make_items(
    out: Path,
    source: str,
    images: int = 6000,
    val_images: int = 500,
    size: int = 128,
    seed: int = 0,
) -> None:
    """Writes images, COCO's annotations and ADE20K's masks of both splits to a new folder."""
    photographs = [image[:, :640] for image in load_sample_images().images]
    splits = (
        ("training", "train", images, slice(480)),
        ("validation", "val", val_images, slice(480, 640)),
    )
    for number, (name, split, count, columns) in enumerate(splits):
        items = open_split(DataConfig(source), split)
        canvases = [photograph[:, columns] for photograph in photographs]
        for folder in ("images", "annotations"):
            (out / folder / name).mkdir(parents=True)
        rows, objects = [], []
        for index in range(count):
            rng = np.random.default_rng(derived_seed(SCENE, seed, number, index))
            pixels, owners, labels = compose(items, canvases, size, rng)
            file = f"{index + 1:06}.png"
            Image.fromarray(pixels).save(out / "images" / name / file)
            classes = np.array([1, *(label + 2 for label in labels)], np.uint8)  # 1: background
            Image.fromarray(classes[owners]).save(out / "annotations" / name / file)
            rows.append({"id": index + 1, "file_name": file, "height": size, "width": size})
            for item, label in enumerate(labels, 1):
                ids = {"id": len(objects) + 1, "image_id": index + 1, "category_id": label + 1}
                objects.append({**ids, "iscrowd": 0, **outline(owners == item)})
        categories = [{"id": i, "name": title} for i, title in enumerate(items.classes, 1)]
        content = {"images": rows, "annotations": objects, "categories": categories}
        (out / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
    titles = enumerate(["background", *items.classes], 1)
    table = "".join(f"{number}\t\t\t\t{title}\n" for number, title in titles)
    (out / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n" + table)


def compose(
    items: ImageDataset, photographs: list[np.ndarray], size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Places random items on a canvas, each in front of those before it.

    An item covers the pixels with a gray value above :data:`DARK` and the holes of that shape. It
    is left out if less than :data:`VISIBLE` of it, or of an item behind it, would be visible.

    Returns:
        The pixels, (size, size, 3) uint8; the number of the item at each, from 1 on, or 0 for the
        canvas; the classes of the items.
    """
    pixels = canvas(photographs, size, rng)
    owners = np.zeros((size, size), np.uint8)
    labels: list[int] = []
    areas: list[int] = []
    for _ in range(rng.integers(ITEMS[0], ITEMS[1] + 1)):
        gray, label = items[int(rng.integers(len(items)))]
        colors, shape = drawn(np.asarray(gray), size, rng)
        top, left = (int(rng.integers(-(side // 4), size - 3 * side // 4)) for side in shape.shape)
        rows, columns = np.nonzero(shape)
        inside = (
            (rows + top >= 0)
            & (rows + top < size)
            & (columns + left >= 0)
            & (columns + left < size)
        )
        rows, columns = rows[inside], columns[inside]
        place = rows + top, columns + left
        trial = owners.copy()
        trial[place] = len(labels) + 1
        seen = np.bincount(trial.ravel(), minlength=len(labels) + 2)[1:]
        if (seen >= VISIBLE * np.array([*areas, shape.sum()])).all():
            owners = trial
            pixels[place] = colors[rows, columns]
            labels.append(label)
            areas.append(int(shape.sum()))
    return pixels, owners, labels


def drawn(gray: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The colors, (h, w, 3) uint8, and the shape, (h, w) bool, of an item."""
    side = round(size * np.exp(rng.uniform(*np.log(SCALE))))
    angle = rng.uniform(-ANGLE, ANGLE)
    shade, mask = (
        np.asarray(
            Image.fromarray(layer)
            .resize((side, side), Image.Resampling.BICUBIC)
            .rotate(angle, Image.Resampling.BICUBIC, expand=True)
        )
        for layer in (gray, np.uint8(255) * binary_fill_holes(gray > DARK))
    )
    light = 0.25 + 0.75 * rng.uniform(0.6, 1.0) * shade / 255.0
    color = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0, 0.7), rng.uniform(0.7, 1.0))
    return np.clip(255 * light[..., None] * color, 0, 255).astype(np.uint8), mask >= 128


def canvas(photographs: list[np.ndarray], size: int, rng: np.random.Generator) -> np.ndarray:
    """A texture, (size, size, 3) uint8: part of a photograph, or noise.

    The noise has the amplitude spectrum of natural images: 1 / f^b, with b from 0.8 to 1.6.
    """
    if rng.uniform() < 0.5:
        photograph = photographs[int(rng.integers(len(photographs)))]
        height, width, _ = photograph.shape
        side = int(rng.integers(min(height, width) // 3, min(height, width) + 1))
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        cut = photograph[top : top + side, left : left + side]
        cut = cut[:, ::-1] if rng.uniform() < 0.5 else cut
        resized = Image.fromarray(cut).resize((size, size), Image.Resampling.BILINEAR)
        return (np.asarray(resized) * rng.uniform(0.5, 1.0)).astype(np.uint8)
    exponent = rng.uniform(0.8, 1.6)
    lengths = size * np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    lengths[0, 0] = 1
    white = np.fft.rfft2(rng.standard_normal((3, size, size)))
    filtered = np.fft.irfft2(white / lengths**exponent, s=(size, size))
    filtered /= filtered.std()
    mixed = np.tensordot(rng.uniform(-1, 1, (3, 3)), filtered, axes=1)
    middle, contrast = rng.uniform(60, 180, (3, 1, 1)), rng.uniform(10, 40)
    return np.clip(middle + contrast * mixed, 0, 255).astype(np.uint8).transpose(1, 2, 0).copy()


def outline(visible: np.ndarray) -> dict[str, object]:
    """Run lengths, area and box of a mask, (H, W) bool, in COCO's format."""
    runs = coco.encode(np.asfortranarray(visible, np.uint8))["counts"].decode()
    ys, xs = (np.flatnonzero(visible.any(axis)).tolist() for axis in (1, 0))
    return {
        "segmentation": {"size": list(visible.shape), "counts": runs},
        "area": int(visible.sum()),
        "bbox": [xs[0], ys[0], xs[-1] - xs[0] + 1, ys[-1] - ys[0] + 1],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--source", default="fashion_mnist", help="gray images, bright on black")
    parser.add_argument("--images", type=int, default=6000, help="images to train on")
    parser.add_argument("--val-images", type=int, default=500, help="images to validate on")
    parser.add_argument("--size", type=int, default=128, help="side of an image in pixels")
    parser.add_argument("--seed", type=int, default=0)
    make_items(**vars(parser.parse_args()))
