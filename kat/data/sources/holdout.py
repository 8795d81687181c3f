"""Holds out a validation split: the same images of each class in every run."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from kat.data.config import DataConfig
from kat.data.dataset import ImageDataset, SourceSubset
from kat.text import numbered, quoted


def held_out(names: Sequence[str], labels: Sequence[int], share: float) -> list[bool]:
    """Choose the images that are held out of training for validation.

    Of the n images of a class, max(1, round(share n)) are held out, but at most n - 1: those whose
    names have the smallest SHA-256. The choice depends only on the names, and adding an image
    changes at most one other.

    Args:
        names: names of the images, e.g. paths relative to the folder of the data.
        labels: class indices.
        share: share of each class, in (0, 1).

    Returns:
        True for each image that is held out.
    """
    by_class = defaultdict(list)
    for index, label in enumerate(labels):
        by_class[label].append(index)
    result = [False] * len(names)
    for indices in by_class.values():
        count = min(max(1, round(share * len(indices))), len(indices) - 1)
        for index in sorted(indices, key=lambda index: _digest(names[index]))[:count]:
            result[index] = True
    return result


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()


def is_held_out(config: DataConfig, has_val: bool) -> bool:
    """Return True if a share of the training split takes the place of the validation split."""
    return config.holdout > 0 and (not has_val or config.validate_on == "holdout")


def part_of_training(
    data: ImageDataset, config: DataConfig, split: str, names: Sequence[str] = ()
) -> ImageDataset:
    """Return the images of a training split that are held out for validation, or the others.

    Args:
        data: the training split, which becomes this part of it.
        config: the settings of the data, with the share of each class that is held out.
        split: ``"val"`` for what is held out, ``"train"`` for the others.
        names: as for :func:`held_out`, of its images; empty: their numbers.
    """
    names = names or numbered(len(data))
    validation = np.array(held_out(names, data.class_indices().tolist(), config.holdout))
    data.source = SourceSubset(data.source, np.flatnonzero(validation == (split == "val")))
    whole = f"the training split of {config.name}"
    if config.validate_on == "split":
        whole = f"{config.name} has no validation split"
    classes = quoted(data.classes, "the class is", "the classes are")
    data.note = (
        f"{whole}: {validation.sum()} of its {len(names)} images, {config.holdout:g} of each class"
        f" (data.holdout), are held out for validation and not trained on; {classes}"
    )
    return data


def open_array_split(
    config: DataConfig, open_own: Callable[[str], ImageDataset], split: str
) -> ImageDataset:
    """Open a split of data in arrays, whose images are known by their numbers.

    Args:
        config: the settings of the data.
        open_own: opens ``"train"`` or ``"val"`` as the data have it.
        split: ``"train"`` or ``"val"``.
    """
    if config.validate_on == "split":
        return open_own(split)
    return part_of_training(open_own("train"), config, split)
