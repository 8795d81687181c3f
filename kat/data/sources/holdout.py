"""A validation split for data that has none: the same images of each class in every run."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence


def held_out(names: Sequence[str], labels: Sequence[int], share: float) -> list[bool]:
    """Which images are kept back from training, to validate on.

    Of the n images of a class, max(1, round(share n)) are, but never the last one: those whose
    names have the smallest SHA-256. So the choice depends on nothing but the names, and an image
    that is added moves one other at most.

    Args:
        names: of the images, e.g. paths relative to the data's folder.
        labels: their class indices.
        share: of each class, in (0, 1).
    """
    members = defaultdict(list)
    for index, label in enumerate(labels):
        members[label].append(index)
    kept_back = [False] * len(names)
    for indices in members.values():
        count = min(max(1, round(share * len(indices))), len(indices) - 1)
        for index in sorted(indices, key=lambda i: _digest(names[i]))[:count]:
            kept_back[index] = True
    return kept_back


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
