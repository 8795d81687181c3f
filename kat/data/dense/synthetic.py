"""A data set in COCO's and in ADE20K's format, made of real images of single things."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kat.data.config import DataConfig
from kat.data.dataset import ImageSet
from kat.data.dense.scenes import Scene, compose
from kat.data.seeds import SCENE, derived_seed
from kat.data.sources.registry import open_split
from kat.errors import InputError
from kat.files import new_folder

SPLITS = {"training": "train", "validation": "val"}
"""The names of the splits in ADE20K's layout, and of the source's splits that they are made of."""


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
    """Writes OUT, which is then both ``coco:OUT`` and ``ade20k:OUT``.

    - OUT/images/training/*.png, OUT/images/validation/*.png;
    - OUT/annotations/instances_training.json, instances_validation.json: COCO's instances, with
      run lengths;
    - OUT/annotations/training/*.png, validation/*.png: 1 for the background, 2, 3, ... for the
      classes of the source; OUT/objectInfo150.txt names them.

    The images of a split show items of that split of the source alone, and its canvases are cut
    from its own part of two photographs. Each image is a function of (seed, split, its number).

    Args:
        out: the folder, which must not be there.
        source: the name of a data set of grey images, bright on black.
        images: in the training split.
        val_images: in the validation split.
        size: side of the images in pixels.
        seed: of all that is random.
        tell: told the number of images that are done.

    Raises:
        InputError: ``out`` exists, a number is too small, or the source is not of grey images.
    """
    counts = {"training": images, "validation": val_images}
    limits = {"images": (images, 1), "val_images": (val_images, 1), "size": (size, 16)}
    for name, (value, least) in limits.items():
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")
    with new_folder(out) as folder:
        for number, (split, part) in enumerate(SPLITS.items()):
            data = _grey(source, part)
            writer = SceneWriter(folder, split, data.classes)
            photographs = _photographs(split)
            for index in range(counts[split]):
                rng = np.random.default_rng(derived_seed(SCENE, seed, number, index))
                writer.add(compose(data, photographs, size, rng))
                tell(number * images + index + 1)
            writer.close(source)
        _write_names(folder, data.classes)


class SceneWriter:
    """Writes the images, masks and annotations of one split.

    Args:
        folder: of the data set.
        split: ``"training"`` or ``"validation"``.
        classes: their names.
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

    def close(self, source: str) -> None:
        """Writes the file of annotations."""
        categories = [{"id": i, "name": name} for i, name in enumerate(self.classes, 1)]
        content = {
            "info": {"description": f"items of {source} on textured canvases"},
            "images": self.image_rows,
            "annotations": self.annotation_rows,
            "categories": categories,
        }
        self.annotations_file.write_text(json.dumps(content) + "\n", encoding="utf-8")


def class_mask(scene: Scene) -> np.ndarray:
    """(H, W) uint8: 1 for the canvas, 2, 3, ... for the classes, as ADE20K counts them."""
    values = np.array([1, *(label + 2 for label in scene.labels)], np.uint8)
    return values[scene.owners]


def outlines(scene: Scene) -> list[dict[str, Any]]:
    """Run lengths, area and box of what is seen of each item, as COCO spells them."""
    from faster_coco_eval.core import mask

    rows = []
    for seen in scene.masks():
        runs = mask.encode(np.asfortranarray(seen, np.uint8))
        ys, xs = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
        box = [xs[0], ys[0], xs[-1] - xs[0] + 1, ys[-1] - ys[0] + 1]
        rows.append(
            {
                "segmentation": {"size": list(seen.shape), "counts": runs["counts"].decode()},
                "area": int(seen.sum()),
                "bbox": [int(number) for number in box],
            }
        )
    return rows


def _write_names(folder: Path, classes: list[str]) -> None:
    """The names of the classes, laid out as ADE20K's table of 150."""
    rows = [f"{number}\t\t\t\t{name}" for number, name in enumerate(["background", *classes], 1)]
    text = "\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]) + "\n"
    (folder / "objectInfo150.txt").write_text(text, encoding="utf-8")


def _grey(source: str, split: str) -> ImageSet:
    data = open_split(DataConfig(name=source), split)
    if not isinstance(data, ImageSet) or data.channels != 1 or data.task != "classification":
        raise InputError(
            f"items are made of grey images, bright on black, as those of fashion_mnist or digits;"
            f" {source!r} is not of these"
        )
    return data


def _photographs(split: str) -> list[np.ndarray]:
    """The left three quarters of scikit-learn's two photographs, or for validation the rest."""
    from sklearn.datasets import load_sample_images

    whole = [image[:, : image.shape[1] // 4 * 4] for image in load_sample_images().images]
    cut = {"training": slice(0, 3), "validation": slice(3, 4)}[split]
    quarters = [np.split(image, 4, axis=1) for image in whole]
    return [np.concatenate(parts[cut], axis=1) for parts in quarters]
