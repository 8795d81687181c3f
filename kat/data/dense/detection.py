"""Datasets for detection: images with boxes, classes and masks of objects."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kat.data.decoding import Size, UnreadableImage, read_image
from kat.data.dense.coco import BEYOND, CocoTable, find_coco, read_coco
from kat.data.dense.dataset import DenseDataset
from kat.errors import InputError, UnreadableFile
from kat.text import dimensions

Target = dict[str, Tensor]
"""The annotations of an image with N objects, in its pixels:

- ``boxes`` (N, 4) float32: x0, y0, x1, y1, from the file; they may extend beyond the image;
- ``labels`` (N,) int64: class indices, in the order of the category ids;
- ``masks`` (N, H, W) uint8: 0 or 1; left out if the file has none;
- ``area`` (N,) float32: from the file, or the area of the mask or box if the file has none;
- ``iscrowd`` (N,) int64: 1 for a region of many objects, which is not trained on;
- ``image_id`` () int64: from the file.
"""


def open_coco(
    root: Path, split: str, bad_annotations: str = "fail", boxes_only: bool = False
) -> DetectionDataset:
    """Open a split in the order of the file, with the images that have no object.

    Args:
        root: a folder in one of the layouts of :func:`kat.data.dense.coco.find_coco`.
        split: ``"train"`` or ``"val"``.
        bad_annotations: ``"fail"`` refuses a file with invalid annotations, ``"skip"`` leaves the
            annotations out.
        boxes_only: leave out the masks.

    Raises:
        InputError: a file is missing or damaged, has no category or image, or has invalid
            annotations.

    Examples:
        >>> from pathlib import Path
        >>> from kat.data.dense import open_coco
        >>> len(open_coco(Path("items"), "train"))
        4
    """
    path, images = find_coco(root, split)
    table = read_coco(path, boxes_only)
    found, notes = [], []
    for kind, cases in table.problems.items():
        found.append(f"{path}: {kind}: {len(cases)}, first {cases[0]}")
        notes.append(found[-1] if kind == BEYOND else f"{found[-1]}: left out")
    if found and bad_annotations == "fail":
        raise InputError(
            f"{found[0]}; data.bad_annotations=skip leaves them out ('kat data check' lists"
            " all problems)"
        )
    return DetectionDataset(CocoSource(root, images, table), "\n".join(notes))


class Annotation(NamedTuple):
    """The annotations of one image, with rows of the arrays of :class:`CocoTable`."""

    image_id: int
    size: Size
    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    masks: list[str]


class CocoSource:
    """Image files and their annotations.

    Args:
        root: folder of the dataset, which no image may lie outside of.
        images: folder of the images.
        table: content of the annotation file.
    """

    def __init__(self, root: Path, images: Path, table: CocoTable) -> None:
        self.inside = os.path.join(os.path.abspath(root), "")
        self.folder = str(images)
        self.table = table

    def __len__(self) -> int:
        return len(self.table.image_ids)

    def name(self, index: int) -> str:
        """Return the path of the file."""
        return os.path.join(self.folder, self.table.names[index])

    def read(self, index: int) -> tuple[bytes, Annotation]:
        """Read the bytes of the image, and its annotations."""
        path, table = self.name(index), self.table
        if not os.path.abspath(path).startswith(self.inside):
            raise UnreadableFile(path, f"it is outside the data folder {self.inside}")
        rows = slice(table.starts[index], table.starts[index + 1])
        height, width = table.sizes[index].tolist()
        return read_image(path), Annotation(
            int(table.image_ids[index]),
            (width, height),
            table.labels[rows],
            table.boxes[rows],
            table.areas[rows],
            table.crowd[rows],
            table.masks[rows],
        )

    def listing(self) -> list[np.ndarray]:
        """Return the names of the files; image, category and box of each annotation."""
        table = self.table
        image_of = np.repeat(table.image_ids, np.diff(table.starts))
        category_of = np.array([*table.categories])[table.labels]
        return [*table.names.arrays, table.image_ids, image_of, category_of, table.boxes]


class DetectionDataset(DenseDataset):
    """Images with boxes, labels and perhaps masks: item i is transform(image, :data:`Target`).

    Args:
        source: the image files and their annotations.
        note: lines that the user should read about the data.

    Examples:
        >>> from pathlib import Path
        >>> from kat.data.dense import open_coco
        >>> data = open_coco(Path("items"), "train")
        >>> image, target = data[0]
        >>> sorted(target)
        ['area', 'boxes', 'image_id', 'iscrowd', 'labels', 'masks']
    """

    task = "detection"
    labels_are = ""

    def __init__(self, source: CocoSource, note: str = "") -> None:
        table = source.table
        super().__init__(source, [*table.categories.values()], note=note)
        self.problems = table.problems
        self.category_ids = [*table.categories]
        self.has_masks = table.has_masks
        self.model_args = {} if table.has_masks else {"masks": False}
        """Arguments of the model that follow from the annotations."""

    def annotated_size(self, label: Annotation) -> Size:
        """Return the size of the image in the file."""
        return label.size

    def target(self, image: Image.Image, annotation: Annotation, index: int) -> Target:
        """Decode the boxes, labels and masks, if there are any, including crowds."""
        if image.size != annotation.size:
            raise UnreadableImage(
                self.name(index),
                f"it has {dimensions(image.size)} pixels, but the annotations are for"
                f" {dimensions(annotation.size)}",
            )
        boxes = annotation.boxes
        if self.has_masks:
            masks = _decoded(annotation)
            own_areas, more = masks.sum((1, 2)), {"masks": torch.from_numpy(masks)}
        else:
            own_areas, more = boxes[:, 2:].prod(1), {}
        areas = np.where(annotation.areas < 0, own_areas, annotation.areas)
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        return {
            **more,
            "boxes": torch.from_numpy(corners.astype(np.float32)),
            "labels": torch.from_numpy(annotation.labels.copy()),
            "area": torch.from_numpy(areas.astype(np.float32)),
            "iscrowd": torch.from_numpy(annotation.crowd.astype(np.int64)),
            "image_id": torch.tensor(annotation.image_id),
        }


def _decoded(annotation: Annotation) -> np.ndarray:
    """Return the masks of the objects in an image: (N, H, W) uint8."""
    from faster_coco_eval.core import mask

    width, height = annotation.size
    runs: list[Any] = []
    for text in annotation.masks:
        outline = json.loads(text)
        if isinstance(outline, str):
            runs.append({"size": [height, width], "counts": outline.encode()})
        else:
            runs.append(mask.merge(mask.frPyObjects(outline, height, width)))
    if not runs:
        return np.zeros((0, height, width), np.uint8)
    return np.ascontiguousarray(mask.decode(runs).transpose(2, 0, 1))
