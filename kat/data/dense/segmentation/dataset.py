"""Datasets for semantic segmentation: images with a class for each pixel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kat.data.dataset import Transform
from kat.data.decoding import (
    Size,
    UnreadableImage,
    decode_bytes,
    header,
    read_image,
    turned_size,
)
from kat.data.dense.dataset import DenseDataset, no_transform
from kat.data.dense.segmentation.layout import LAYOUTS, SegmentationFiles
from kat.data.dense.validation import Problem, check_problems, problems_of
from kat.errors import InputError

IGNORE = 255
"""The value of pixels without a class in a mask: neither trained on nor evaluated.

Examples:
    >>> from kat.data.dense import IGNORE
    >>> IGNORE
    255
"""


def open_segmentation(
    layout: str, root: Path, split: str, bad_annotations: str = "fail"
) -> SegmentationDataset:
    """Opens the pairs of image and mask of a split, in the order of their names or their list.

    Args:
        layout: ``"ade20k"``, ``"voc"`` or ``"masks"``; see :mod:`.layout`.
        root: the folder.
        split: ``"train"`` or ``"val"``.
        bad_annotations: ``"fail"`` refuses images without a mask and values that are not a class;
            ``"skip"`` leaves such images out, and takes such pixels for pixels without a class.

    Raises:
        InputError: a folder or file is missing, or there is no pair.

    Examples:
        >>> from pathlib import Path
        >>> from kat.data.dense import open_segmentation
        >>> len(open_segmentation("ade20k", Path("items"), "val"))
        2
    """
    files = LAYOUTS[layout](root, split)
    skip = bad_annotations == "skip"
    check_problems(unpaired_problems(files), files.images, skip)
    return SegmentationDataset(MaskSource(files), files, skip)


def unpaired_problems(files: SegmentationFiles) -> list[Problem]:
    """The problem of images without a mask and masks without an image."""
    cases = [f"{name!r}: {reason}" for name, reason in files.unpaired.items()]
    return problems_of("images or masks without their counterpart", cases, "they are left out")


class MaskSource:
    """Files of images and their masks.

    Args:
        files: the paths of the files.
    """

    def __init__(self, files: SegmentationFiles) -> None:
        self.images, self.masks = str(files.images), str(files.masks)
        self.image_names, self.mask_names = files.image_names, files.mask_names

    def __len__(self) -> int:
        return len(self.image_names)

    def name(self, index: int) -> str:
        """The path of the image."""
        return os.path.join(self.images, self.image_names[index])

    def read(self, index: int) -> tuple[bytes, tuple[str, bytes]]:
        """Reads the bytes of the image; the path of the mask and its bytes."""
        return read_image(self.name(index)), self.mask(index)

    def listing(self) -> list[np.ndarray]:
        """The names of the images and of the masks."""
        return [*self.image_names.arrays, *self.mask_names.arrays]

    def mask(self, index: int) -> tuple[str, bytes]:
        """Reads the mask of an image: its path and its bytes."""
        path = os.path.join(self.masks, self.mask_names[index])
        return path, read_image(path)


class SegmentationDataset(DenseDataset):
    """Images with masks: item i is transform(image, mask), the mask (H, W) uint8.

    A pixel of the mask is a class index or :data:`IGNORE`.

    Args:
        source: the images and masks.
        files: the classes and their values in masks.
        skip: whether to ignore values that are not a class, instead of raising an error.

    Examples:
        >>> from pathlib import Path
        >>> from kat.data.dense import open_segmentation
        >>> data = open_segmentation("ade20k", Path("items"), "train")
        >>> len(data), data.classes[0]
        (4, 'background')
    """

    task = "segmentation"

    def __init__(self, source: MaskSource, files: SegmentationFiles, skip: bool) -> None:
        note = (
            f"{files.masks}: values that are not a class count as {IGNORE};"
            " 'kat data check' lists them"
            if skip
            else ""
        )
        super().__init__(source, files.classes, ignored=files.unpaired, note=note)
        self.zero_is_unlabeled = files.zero_is_unlabeled
        self.skip = skip
        self.transform: Transform = no_transform

    @staticmethod
    def collate(images: Sequence[Any], labels: Sequence[Any]) -> tuple[Any, Any]:
        """Stacks to (B, C, H, W) and (B, H, W) if all have the same size; lists otherwise."""
        sizes = {tensor.shape[-2:] for tensor in (*images, *labels)}
        if len(sizes) == 1:
            return torch.stack([*images]), torch.stack([*labels])
        return list(images), list(labels)

    def annotated_size(self, label: tuple[str, bytes]) -> Size:
        """The size of the mask."""
        path, content = label
        return turned_size(*header(content, path))

    def target(self, image: Image.Image, annotation: tuple[str, bytes], index: int) -> Tensor:
        """Decodes the mask of an image.

        Raises:
            UnreadableImage: the mask cannot be read, or its size is not that of the image.
            InputError: the mask has a value that is not a class, and ``skip`` is False.
        """
        path, content = annotation
        values = decode_mask(content, path)
        if values.shape != (image.height, image.width):
            raise UnreadableImage(
                path,
                f"it has {values.shape[1]}x{values.shape[0]} pixels, but its image"
                f" {image.width}x{image.height}",
            )
        wrong = wrong_values(present_values(values), self.zero_is_unlabeled, len(self.classes))
        if len(wrong) and not self.skip:
            raise InputError(
                f"{path} has the value {wrong[0]}, which is none of the {len(self.classes)}"
                " classes; data.bad_annotations=skip ignores such pixels"
                " ('kat data check' lists all such values)"
            )
        return torch.from_numpy(as_classes(values, self.zero_is_unlabeled, len(self.classes)))


def decode_mask(content: bytes, path: str) -> np.ndarray:
    """Decodes a mask to (H, W) whole numbers: gray values, or indices of a palette.

    Raises:
        UnreadableImage: the mask is damaged, not an image, or has colors or fractions.
    """
    image = decode_bytes(content, path, rgb=False)
    values = np.asarray(image)
    if values.ndim != 2 or values.dtype.kind == "f":
        raise UnreadableImage(
            path, f"a mask has one whole number per pixel, but this one has mode {image.mode}"
        )
    scale = _scale(content)
    if scale > 1:
        return values // scale
    return values.astype(np.uint8) if values.dtype == bool else values


def _scale(content: bytes) -> int:
    """What Pillow multiplies values by: gray levels of a PNG of 2 or 4 bits, to white as 255."""
    is_gray = content.startswith(b"\x89PNG") and content[25] == 0
    return {2: 85, 4: 17}.get(content[24], 1) if is_gray else 1


def present_values(values: np.ndarray) -> np.ndarray:
    """The values in a mask, each once, ascending."""
    if values.dtype == np.uint8:
        return np.flatnonzero(np.bincount(values.ravel()))  # faster, as it does not sort
    return np.unique(values)


def wrong_values(present: np.ndarray, zero_is_unlabeled: bool, classes: int) -> np.ndarray:
    """The values of a mask that are neither a class nor :data:`IGNORE` nor unlabeled."""
    largest = classes if zero_is_unlabeled else classes - 1
    return present[(present < 0) | ((present > largest) & (present != IGNORE))]


def as_classes(values: np.ndarray, zero_is_unlabeled: bool, classes: int) -> np.ndarray:
    """The class indices, (H, W) uint8, with :data:`IGNORE` for all other values."""
    indices = values.astype(np.int32) - (1 if zero_is_unlabeled else 0)
    return np.where((indices >= 0) & (indices < classes), indices, IGNORE).astype(np.uint8)
