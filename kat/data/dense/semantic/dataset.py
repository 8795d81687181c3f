"""Images with a class for each pixel."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kat.data.dataset import Transform
from kat.data.decoding import UnreadableImage
from kat.data.dense.dataset import DenseSet, untransformed
from kat.data.dense.problems import Problem, found, refuse
from kat.data.dense.semantic.layout import LAYOUTS, SemanticPlace
from kat.errors import InputError

IGNORE = 255
"""The value, in a mask, of pixels that have no class: neither trained on nor evaluated."""


def open_semantic(
    layout: str, root: Path, split: str, bad_annotations: str = "fail"
) -> SemanticSet:
    """The pairs of image and mask of a split, in the order of their names or of the list of them.

    Args:
        layout: ``"ade20k"``, ``"voc"`` or ``"masks"``; see :mod:`kat.data.dense.semantic.layout`.
        root: the folder.
        split: ``"train"`` or ``"val"``.
        bad_annotations: ``"fail"`` refuses images without a mask and values that are no class;
            with ``"skip"`` such images are left out, and such pixels have no class.

    Raises:
        InputError: a folder or file is missing, or there is no pair.
    """
    place = LAYOUTS[layout](root, split)
    skip = bad_annotations == "skip"
    refuse(unpaired_problems(place), place.images, skip)
    return SemanticSet(MaskSource(place), place, skip)


def unpaired_problems(place: SemanticPlace) -> list[Problem]:
    """Images without a mask, and masks without an image."""
    examples = [f"{name!r}: {lack}" for name, lack in place.unpaired.items()]
    return found("files without the other of their pair", examples, "they are left out")


class MaskSource:
    """Files of images and of their masks.

    Args:
        place: where they are.
    """

    def __init__(self, place: SemanticPlace) -> None:
        self.images, self.masks = str(place.images), str(place.masks)
        self.image_names, self.mask_names = place.image_names, place.mask_names

    def __len__(self) -> int:
        return len(self.image_names)

    def name(self, index: int) -> str:
        """The path of the image."""
        return os.path.join(self.images, self.image_names[index])

    def read(self, index: int) -> tuple[bytes, tuple[str, bytes]]:
        """The bytes of the image; the path of the mask and its bytes."""
        with open(self.name(index), "rb") as image:
            return image.read(), self.mask(index)

    def mask(self, index: int) -> tuple[str, bytes]:
        """The path of the mask of an image, and its bytes."""
        path = os.path.join(self.masks, self.mask_names[index])
        with open(path, "rb") as mask:
            return path, mask.read()


class SemanticSet(DenseSet):
    """Images with masks: item i is transform(image, mask), the mask (H, W) uint8.

    A pixel of the mask is the index of a class, or :data:`IGNORE`.

    Args:
        source: the files.
        place: the classes, and how masks spell them.
        skip: whether a value that is no class stands for none, rather than be an error.
    """

    task = "segmentation"

    def __init__(self, source: MaskSource, place: SemanticPlace, skip: bool) -> None:
        note = (
            f"{place.masks}: values that are no class count as {IGNORE};"
            " 'kat data check' lists them"
            if skip
            else ""
        )
        super().__init__(source, place.classes, ignored=place.unpaired, note=note)
        self.zero_is_unlabelled = place.zero_is_unlabelled
        self.skip = skip
        self.transform: Transform = untransformed

    @staticmethod
    def stack(images: Sequence[Any], labels: Sequence[Any]) -> tuple[Any, Any]:
        """Tensors (B, C, H, W) and (B, H, W) where all have one size, lists otherwise."""
        sizes = {tensor.shape[-2:] for tensor in (*images, *labels)}
        if len(sizes) == 1:
            return torch.stack([*images]), torch.stack([*labels])
        return list(images), list(labels)

    def target(self, image: Image.Image, annotation: tuple[str, bytes], index: int) -> Tensor:
        """The mask of an image.

        Raises:
            UnreadableImage: it cannot be read, or is of another size than the image.
            InputError: it holds a value that is no class, unless that is to be skipped.
        """
        path, content = annotation
        values = decode_mask(content, path)
        if values.shape != (image.height, image.width):
            raise UnreadableImage(
                path,
                f"it has {values.shape[1]}x{values.shape[0]} pixels, but its image"
                f" {image.width}x{image.height}",
            )
        wrong = wrong_values(present_values(values), self.zero_is_unlabelled, len(self.classes))
        if len(wrong) and not self.skip:
            raise InputError(
                f"{path} holds the value {wrong[0]}, which is none of the {len(self.classes)}"
                " classes; data.bad_annotations=skip makes it no class"
                " ('kat data check' lists all such values)"
            )
        return torch.from_numpy(as_classes(values, self.zero_is_unlabelled, len(self.classes)))


def decode_mask(content: bytes, path: str) -> np.ndarray:
    """The values of a mask, (H, W) whole numbers: grey levels, or the indices of a palette.

    Raises:
        UnreadableImage: it is damaged, not an image, one of colours or of fractions.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            values = np.asarray(image)
    except Exception as error:  # of damaged files Pillow raises nearly every kind
        raise UnreadableImage(path, str(error) or type(error).__name__) from error
    if values.ndim != 2 or values.dtype.kind == "f":
        raise UnreadableImage(
            path, f"a mask has one whole number a pixel, but this one is {image.mode}"
        )
    return values.astype(np.uint8) if values.dtype == bool else values


def present_values(values: np.ndarray) -> np.ndarray:
    """The values that occur in a mask, ascending."""
    if values.dtype == np.uint8:
        return np.flatnonzero(np.bincount(values.ravel()))  # which need not sort them
    return np.unique(values)


def wrong_values(present: np.ndarray, zero_is_unlabelled: bool, classes: int) -> np.ndarray:
    """Of the values of a mask those that stand for no class and not for none either."""
    largest = classes if zero_is_unlabelled else classes - 1
    return present[(present < 0) | ((present > largest) & (present != IGNORE))]


def as_classes(values: np.ndarray, zero_is_unlabelled: bool, classes: int) -> np.ndarray:
    """The indices of classes, (H, W) uint8, with :data:`IGNORE` for all else."""
    indices = values.astype(np.int32) - (1 if zero_is_unlabelled else 0)
    return np.where((indices >= 0) & (indices < classes), indices, IGNORE).astype(np.uint8)
