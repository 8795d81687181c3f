"""Writes a synthetic dataset in the formats of COCO and ADE20K."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kat.data.config import DataConfig
from kat.data.dataset import ImageDataset
from kat.data.seeds import SCENE, derived_seed
from kat.data.sources.registry import open_split
from kat.data.synthetic.scenes import Scene, compose, load_photographs
from kat.errors import InputError
from kat.files import new_folder

SPLITS = {"training": "train", "validation": "val"}
"""The splits by their names in ADE20K's layout, each with the split of the source for its items."""


def make_items(
    out: Path,
    *,
    source: str = "fashion_mnist",
    images: int = 6000,
    val_images: int = 500,
    size: int = 128,
    seed: int = 0,
    tell: Callable[[int], None] = lambda done: None,
) -> None:
    """Writes a folder OUT that is both ``coco:OUT`` and ``ade20k:OUT``.

    - OUT/images/training/*.png, OUT/images/validation/*.png;
    - OUT/annotations/instances_training.json, instances_validation.json: COCO's format, with run
      lengths;
    - OUT/annotations/training/*.png, validation/*.png: 1 for the background, 2, 3, ... for the
      classes of the source; OUT/objectInfo150.txt names them.

    A split shows items of the same split of the source, and its canvases are cut from its own part
    of two photographs. Each image is a function of (seed, split, its number).

    Args:
        out: the folder, which must not exist.
        source: name of a dataset of grayscale images, bright on black.
        images: number of training images.
        val_images: number of validation images.
        size: side of the images in pixels.
        seed: seed of all random draws.
        tell: called with the number of finished images after each.

    Raises:
        InputError: ``out`` exists, a number is too small, or the source has no grayscale images.

    Examples:
        >>> from pathlib import Path
        >>> from kat.data.dense import open_coco
        >>> from kat.data.synthetic import make_items
        >>> make_items(Path("few_items"), source="digits", images=2, val_images=1, size=64)
        >>> len(open_coco(Path("few_items"), "train"))
        2
    """
    counts = {"training": images, "validation": val_images}
    limits = {"images": (images, 1), "val_images": (val_images, 1), "size": (size, 16)}
    for name, (value, least) in limits.items():
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")
    with new_folder(out) as folder:
        for number, (split, source_split) in enumerate(SPLITS.items()):
            items = _grayscale(source, source_split)
            writer = SceneWriter(folder, split, items.classes)
            photographs = load_photographs(split)
            for index in range(counts[split]):
                rng = np.random.default_rng(derived_seed(SCENE, seed, number, index))
                writer.add(compose(items, photographs, size, rng))
                tell(number * images + index + 1)
            writer.write_annotations(source)
        _write_class_names(folder, items.classes)


class SceneWriter:
    """Writes the images, masks and annotations of one split.

    Args:
        folder: folder of the dataset.
        split: ``"training"`` or ``"validation"``.
        classes: names of the classes.
    """

    def __init__(self, folder: Path, split: str, classes: list[str]) -> None:
        self.images = folder / "images" / split
        self.masks = folder / "annotations" / split
        self.annotations_file = folder / "annotations" / f"instances_{split}.json"
        for made in (self.images, self.masks):
            made.mkdir(parents=True)
        self.classes = classes
        self.image_rows: list[dict[str, Any]] = []
        self.annotation_rows: list[dict[str, Any]] = []

    def add(self, scene: Scene) -> None:
        """Writes a scene as the next image."""
        number = len(self.image_rows) + 1
        name = f"{number:06}.png"
        Image.fromarray(scene.pixels).save(self.images / name)
        Image.fromarray(class_mask(scene)).save(self.masks / name)
        height, width = scene.owners.shape
        self.image_rows.append({"id": number, "file_name": name, "height": height, "width": width})
        for label, row in zip(scene.labels, outlines(scene), strict=True):
            row |= {"image_id": number, "category_id": label + 1, "iscrowd": 0}
            self.annotation_rows.append({"id": len(self.annotation_rows) + 1, **row})

    def write_annotations(self, source: str) -> None:
        """Writes the annotations of all images that were added."""
        categories = [{"id": i, "name": name} for i, name in enumerate(self.classes, 1)]
        content = {
            "info": {"description": f"items of {source} on textured canvases"},
            "images": self.image_rows,
            "annotations": self.annotation_rows,
            "categories": categories,
        }
        self.annotations_file.write_text(json.dumps(content) + "\n", encoding="utf-8")


def class_mask(scene: Scene) -> np.ndarray:
    """(H, W) uint8: 1 for the canvas and 2, 3, ... for the classes, as ADE20K numbers them."""
    values = np.array([1, *(label + 2 for label in scene.labels)], np.uint8)
    return values[scene.owners]


def outlines(scene: Scene) -> list[dict[str, Any]]:
    """Run lengths, area and box of the visible part of each item, in COCO's format."""
    from faster_coco_eval.core import mask

    rows = []
    for visible in scene.masks():
        runs = mask.encode(np.asfortranarray(visible, np.uint8))
        ys, xs = (np.flatnonzero(visible.any(axis)) for axis in (1, 0))
        box = [xs[0], ys[0], xs[-1] - xs[0] + 1, ys[-1] - ys[0] + 1]
        rows.append(
            {
                "segmentation": {"size": list(visible.shape), "counts": runs["counts"].decode()},
                "area": int(visible.sum()),
                "bbox": [int(number) for number in box],
            }
        )
    return rows


def _write_class_names(folder: Path, classes: list[str]) -> None:
    """Writes the class names in the format of ADE20K's table of 150."""
    rows = [f"{number}\t\t\t\t{name}" for number, name in enumerate(["background", *classes], 1)]
    text = "\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]) + "\n"
    (folder / "objectInfo150.txt").write_text(text, encoding="utf-8")


def _grayscale(source: str, split: str) -> ImageDataset:
    data = open_split(DataConfig(name=source), split)
    if not isinstance(data, ImageDataset) or data.channels != 1 or data.task != "classification":
        raise InputError(
            "items are made of grayscale images, bright on black, such as those of fashion_mnist"
            f" or digits; {source!r} has none"
        )
    return data
