"""Holds out a validation split: the same images of each class in every run."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence


def held_out(names: Sequence[str], labels: Sequence[int], share: float) -> list[bool]:
    """Chooses the images that are held out of training for validation.

    Of the n images of a class, max(1, round(share n)) are held out, but at most n - 1: those whose
    names have the smallest SHA-256. The choice depends on the names alone, and adding an image
    changes at most one other.

    Args:
        names: names of the images, e.g. paths relative to the folder of the data.
        labels: class indices.
        share: share of each class, in (0, 1).

    Returns:
        Whether each image is held out.
    """
    by_class = defaultdict(list)
    for index, label in enumerate(labels):
        by_class[label].append(index)
    result = [False] * len(names)
    for indices in by_class.values():
        count = min(max(1, round(share * len(indices))), len(indices) - 1)
        for index in sorted(indices, key=lambda i: _digest(names[i]))[:count]:
            result[index] = True
    return result


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
