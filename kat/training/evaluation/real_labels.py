"""ImageNet's reassessed labels (Beyer et al. 2020, arXiv 2006.07159): ReaL accuracy.

The file ``real.json`` of github.com/google-research/reassessed-imagenet lists the correct classes
of each of the 50,000 validation images, in order. Images without a correct class are not evaluated.
timm ships the same file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from kat.data import ImageDataset, ImageStream
from kat.documents import read_json
from kat.errors import InputError
from kat.training.evaluation.class_match import imagenet_indices
from kat.training.evaluation.prediction import ClassPredictions

SHIPPED = "timm"
"""The name of the file that timm ships."""

_FILE_NAME = re.compile(r"^ILSVRC2012_val_(\d{8})\.\w+$")


def read_real_labels(source: str) -> list[frozenset[int]]:
    """Reads the correct classes of each validation image, in the order of the file names.

    Args:
        source: path of a ``real.json``, or ``"timm"``.

    Raises:
        InputError: the file is missing, or not a list of lists of class indices.
    """
    shipped = files("timm.data") / "_info" / "imagenet_real_labels.json"
    content = read_json(Path(str(shipped) if source == SHIPPED else source))
    try:
        return [frozenset(map(int, labels)) for labels in content]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{source} does not list the correct classes of each image, as real.json does: {error}"
        ) from None


def check_real_labels(
    images: ImageDataset | ImageStream, real_labels: Sequence[frozenset[int]]
) -> None:
    """Checks that images are ImageNet's validation set, by the classes and the first file name.

    Raises:
        InputError: the classes or the first file name are not ImageNet's.
    """
    _indices(images.classes)
    name = images.name(0) if isinstance(images, ImageDataset) else "a stream without file names"
    _right(name, real_labels)


def real_accuracy(
    predictions: ClassPredictions, classes: Sequence[str], real_labels: Sequence[frozenset[int]]
) -> dict[str, float]:
    """Top-1 and top-5 in percent by the reassessed labels, over the images that have any.

    Raises:
        InputError: the classes are not ImageNet's, or a file is not in its validation set.
    """
    indices = _indices(classes)
    hits = [
        [indices[guess] in right for guess in top]
        for name, top in zip(predictions.names, predictions.top, strict=True)
        if (right := _right(name, real_labels))
    ]
    if not hits:
        return {"real_top1": math.nan, "real_top5": math.nan, "real_images": 0}
    return {
        "real_top1": 100 * sum(row[0] for row in hits) / len(hits),
        "real_top5": 100 * sum(map(any, hits)) / len(hits),
        "real_images": len(hits),
    }


def _indices(classes: Sequence[str]) -> list[int]:
    indices = imagenet_indices(classes)
    if indices is None:
        raise InputError(
            "real labels exist for ImageNet-1k only: the classes of the data must be its synsets or"
            f" class indices, got {classes[0]!r}"
        )
    return indices


def _right(name: str, real_labels: Sequence[frozenset[int]]) -> frozenset[int]:
    match = _FILE_NAME.match(Path(name).name)
    number = int(match[1]) if match else 0
    if not 1 <= number <= len(real_labels):
        raise InputError(
            f"real labels need file names ILSVRC2012_val_00000001.JPEG to {len(real_labels):08d},"
            f" got {Path(name).name}"
        )
    return real_labels[number - 1]
