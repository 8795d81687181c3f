"""Datasets in COCO's instance format: boxes, masks and categories of each image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kat.data.dataset import Transform
from kat.data.decoding import Size, UnreadableImage, read_image
from kat.data.dense.coco.layout import find_coco
from kat.data.dense.coco.table import CocoTable, read_table
from kat.data.dense.coco.validation import annotation_problems
from kat.data.dense.dataset import DenseDataset, no_transform
from kat.data.dense.validation import check_problems

Target = dict[str, Tensor]
"""The annotations of an image with N objects, in its pixels:

- ``boxes`` (N, 4) float32: x0, y0, x1, y1, from the file; they may extend beyond the image;
- ``labels`` (N,) int64: class indices, in the order of the category ids;
- ``masks`` (N, H, W) uint8: 0 or 1; left out if the file has none;
- ``area`` (N,) float32: from the file, or the area of the mask or box if the file has none;
- ``iscrowd`` (N,) int64: 1 for a region of many objects, which is not trained on;
- ``image_id`` () int64: from the file.

Examples:
    >>> from pathlib import Path
    >>> from kat.data.dense import open_coco
    >>> image, target = open_coco(Path("items"), "train")[0]
    >>> target["boxes"].shape[1], target["boxes"].dtype
    (4, torch.float32)
"""


def open_coco(
    root: Path, split: str, bad_annotations: str = "fail", boxes_only: bool = False
) -> DetectionDataset:
    """Opens a split in the order of the file, with the images that have no object.

    Args:
        root: a folder in one of the layouts of :func:`kat.data.dense.coco.layout.find_coco`.
        split: ``"train"`` or ``"val"``.
        bad_annotations: ``"fail"`` refuses a file with invalid annotations, ``"skip"`` leaves the
            annotations out.
        boxes_only: whether masks are left out.

    Raises:
        InputError: a file is missing or damaged, has no category or image, or has invalid
            annotations.

    Examples:
        >>> from pathlib import Path
        >>> from kat.data.dense import open_coco
        >>> len(open_coco(Path("items"), "train"))
        4
    """
    files = find_coco(root, split)
    table = read_table(files.annotations, boxes_only)
    problems, valid = annotation_problems(table, files)
    note = check_problems(problems, files.annotations, bad_annotations == "skip")
    source = CocoSource(str(files.images), table, valid)
    return DetectionDataset(source, table, note)


class Outline(NamedTuple):
    """The encoded mask of an object: run lengths of the whole image, or polygons."""

    runs: str
    polygons: list[np.ndarray]


class Annotation(NamedTuple):
    """The annotations of one image, with rows of the arrays of :class:`CocoTable`."""

    image_id: int
    size: tuple[int, int]
    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    outlines: list[Outline]


class CocoSource:
    """Image files and their annotations.

    Args:
        folder: folder of the images.
        table: content of the annotation file.
        valid: (annotations,) bool, the annotations to use.
    """

    def __init__(self, folder: str, table: CocoTable, valid: np.ndarray) -> None:
        self.folder = folder
        self.table = table
        chosen = np.flatnonzero(valid)
        by_id = np.argsort(table.image_ids)
        places = by_id[np.searchsorted(table.image_ids[by_id], table.image_of[chosen])]
        order = np.argsort(places, kind="stable")
        self.annotations = chosen[order]
        self.starts = np.searchsorted(places[order], np.arange(len(self) + 1))

    def __len__(self) -> int:
        return len(self.table.image_ids)

    def name(self, index: int) -> str:
        """The path of the file."""
        return os.path.join(self.folder, self.table.names[index])

    def read(self, index: int) -> tuple[bytes, Annotation]:
        """Reads the bytes of the image, and its annotations."""
        return read_image(self.name(index)), self.annotation(index)

    def listing(self) -> list[np.ndarray]:
        """The names of the files; image, category and box of each annotation."""
        table, rows = self.table, self.annotations
        objects = [table.image_of[rows], table.category_of[rows], table.boxes[rows]]
        return [*table.names.arrays, table.image_ids, *objects]

    def annotation(self, index: int) -> Annotation:
        """The annotations of an image."""
        table = self.table
        rows = self.annotations[self.starts[index] : self.starts[index + 1]]
        outlines = table.segmentations
        height, width = table.sizes[index].tolist()
        return Annotation(
            int(table.image_ids[index]),
            (height, width),
            np.searchsorted(table.category_ids, table.category_of[rows]),
            table.boxes[rows],
            table.areas[rows],
            table.crowd[rows],
            [Outline(outlines.runs[row], outlines.polygons(row)) for row in rows.tolist()],
        )


class DetectionDataset(DenseDataset):
    """Images with boxes, labels and perhaps masks: item i is transform(image, :data:`Target`).

    Args:
        source: the image files.
        table: content of the annotation file.
        note: a sentence that the user should read about the data.

    Examples:
        >>> from pathlib import Path
        >>> from kat.data.dense import open_coco
        >>> data = open_coco(Path("items"), "train")
        >>> image, target = data[0]
        >>> sorted(target)
        ['area', 'boxes', 'image_id', 'iscrowd', 'labels', 'masks']
    """

    task = "detection"

    def __init__(self, source: CocoSource, table: CocoTable, note: str = "") -> None:
        super().__init__(source, table.categories, note=note)
        self.annotations_file = table.path
        self.category_ids: list[int] = table.category_ids.tolist()
        self.has_masks = table.has_masks
        self.transform: Transform = no_transform

    def category_id(self, label: int) -> int:
        """The category id, in the file, of a class index."""
        return self.category_ids[label]

    def annotated_size(self, label: Annotation) -> Size:
        """The size of the image in the file."""
        height, width = label.size
        return width, height

    def target(self, image: Image.Image, annotation: Annotation, index: int) -> Target:
        """Decodes the boxes, labels and masks, if there are any, including crowds."""
        size = self.annotated_size(annotation)
        if image.size != size:
            raise UnreadableImage(self.name(index), other_size(image.size, size))
        if self.has_masks:
            masks = decode_masks(annotation)
            own_areas, more = masks.sum((1, 2)), {"masks": torch.from_numpy(masks)}
        else:
            own_areas, more = annotation.boxes[:, 2:].prod(1), {}
        areas = np.where(annotation.areas < 0, own_areas, annotation.areas)
        return {
            **more,
            "boxes": torch.from_numpy(_corners(annotation.boxes)),
            "labels": torch.from_numpy(annotation.labels.astype(np.int64)),
            "area": torch.from_numpy(areas.astype(np.float32)),
            "iscrowd": torch.from_numpy(annotation.crowd.astype(np.int64)),
            "image_id": torch.tensor(annotation.image_id),
        }


def other_size(found: tuple[int, int], annotated: tuple[int, int]) -> str:
    """Says how the size of an image differs from that in its annotations.

    Args:
        found, annotated: width and height in pixels.
    """
    sizes = ["{}x{}".format(*size) for size in (found, annotated)]
    return f"it has {sizes[0]} pixels, but the annotations are for {sizes[1]}"


def decode_masks(annotation: Annotation) -> np.ndarray:
    """Decodes the masks of the objects in an image: (N, H, W) uint8."""
    from faster_coco_eval.core import mask

    height, width = annotation.size
    if not annotation.outlines:
        return np.zeros((0, height, width), np.uint8)
    decoded = mask.decode([_encoded(outline, height, width) for outline in annotation.outlines])
    return np.ascontiguousarray(decoded.transpose(2, 0, 1))


def _encoded(outline: Outline, height: int, width: int) -> dict[str, Any]:
    """The run lengths of an outline, in the format of COCO's tools."""
    from faster_coco_eval.core import mask

    if outline.runs:
        return {"size": [height, width], "counts": outline.runs.encode()}
    parts = [polygon.tolist() for polygon in outline.polygons]
    merged: dict[str, Any] = mask.merge(mask.frPyObjects(parts, height, width))
    return merged


def _corners(boxes: np.ndarray) -> np.ndarray:
    """Converts x, y, width, height to corners: (N, 4) float32."""
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return corners.astype(np.float32)
